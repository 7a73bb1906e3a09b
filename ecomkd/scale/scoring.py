"""All of `ecomkd score`: a model's scores of any number of pairs, part by part. Chapter 5.

The files of pairs are cut into parts of a few thousand rows. Each part is read, scored and written
by itself: memory does not grow with the number of pairs, a run that was stopped goes on, and it
does not matter which process scores which part, how often it begins, or in which order. `ecomkd run
--cluster` has a teacher's outputs computed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from scipy.special import logsumexp
from tqdm import tqdm

from ecomkd import outputs
from ecomkd.artifacts import digest, known_digest, locked
from ecomkd.config import Profile
from ecomkd.data.contract import (
    TEXT,
    DataError,
    gains_of,
    is_blank,
    product_text,
    quoted,
    shown,
)
from ecomkd.data.files import digits, each_once
from ecomkd.data.sources import without_bars
from ecomkd.keys import identity
from ecomkd.relevance.gate import stated_length
from ecomkd.scale import engines
from ecomkd.scale.engines import ENGINES, Part, is_made

KIND = "score"
ROWS = 4_096
"""Pairs of a part: what is lost at most when a worker is killed."""
_TAUGHT = 1_024
"""Pairs of a part where a student waits for them: some seconds of work for a core."""
IDS = ("query_id", "product_id")
_NEEDED = ("query", "product_title")
_FAULTS = 5
"""Faults that are told, of those that were found."""


@dataclass(frozen=True)
class Scored:
    """What `score` found: pairs and parts in all, and how many pairs this run scored."""

    pairs: int
    new: int
    parts: int


def score(
    data: Path,
    model: Path,
    out: Path,
    profile: Profile,
    engine: str = "local",
    address: str | None = None,
    rows: int = ROWS,
    max_length: int | None = None,
) -> Scored:
    """Write a model's scores of all pairs in `data` to the folder `out`, each pair once.

    `data` is a Parquet file, or a folder of them, in the order of their names, with the columns
    `query` and `product_title`; further texts of products are read as everywhere, and `query_id`
    and `product_id` are handed on. `model` is a folder with a checkpoint in safetensors, or with a
    student that `ecomkd run` or `ecomkd quantize` deployed. A pair is cut at `max_length` tokens,
    by default at what the folder's `labels.json` says.

    Each file in `out` has the rows of its part in their order: the ids, `log_probabilities` of the
    classes (a teacher's logits, but for a constant that no softmax sees) and `score`, the expected
    gain. Its name holds a key of the pairs, the model and the length, so that a run goes on where
    another one stopped, and scores anew what has changed. With the engine `ray`,
    workers of the cluster at `address`, or of this machine, take parts in turn; they see the same
    paths.

    Raises OSError before any work for an `out` that is not the program's own, and for files that
    are missing; ValueError with a sentence for each of the first faults in the pairs, once all
    other parts are there, and for files or models that do not fit; ConnectionError for a cluster
    that is not there.
    """
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    folder, data = outputs.claim(out, KIND), data.resolve()
    if not model.is_dir():
        raise FileNotFoundError(f"{model}: no such folder; check the path.")
    if folder.is_relative_to(data):
        raise ValueError(f"{out}: lies in {data}, whose files are pairs; give another folder.")
    length = stated_length(model) if max_length is None else max_length
    worker = Scorer(str(model.resolve()), length, profile)
    further = sorted([*model.glob("*.onnx"), *model.glob("labels.json")])
    key = [identity(model), [[one.name, known_digest(one)] for one in further], length]
    parts = list(planned(data, folder, key, rows))
    if not parts:
        raise DataError(f"{data}: there are no pairs in it; check the path.")
    names = {Path(part.out).name for part in parts}
    folder.mkdir(exist_ok=True)
    with locked(folder):  # another run would delete what this one has finished
        outputs.expect(folder, KIND, names)
        left = [part for part in parts if not is_made(part)]
        found = tqdm(ENGINES[engine](left, worker, address), "Parts", len(left), disable=not left)
        faults = sorted(filter(None, found)) if left else []
        if faults:
            raise DataError(*faults[:_FAULTS], *_more(len(faults) - _FAULTS))
        outputs.add(folder, KIND, names)
        outputs.prune(folder, KIND, names)
    count = sum(part.rows for part in parts)
    return Scored(count, sum(part.rows for part in left), len(parts))


def _more(faults: int) -> list[str]:
    return [f"{faults:,} more parts have a fault, too."] if faults > 0 else []


def scored(out: Path) -> Dataset:
    """The scores that `score` wrote to a folder, in the order of the pairs, all in memory.

    With `log_probabilities` renamed to `teacher_logits` they are the column that a student learns
    from. Raises ValueError where the folder is not whole.
    """
    files = outputs.check(out, KIND)["files"]
    return concatenate_datasets([_rows(Path(out) / name) for name in sorted(files)])


def teacher_outputs(
    address: str, pairs: Dataset, teacher: Path, profile: Profile, scratch: Path
) -> Dataset:
    """The column `teacher_logits` of pairs, with their ids, from the workers of a Ray cluster.

    They are the logits that `distill.teacher_outputs` gives, but for a constant for each pair, from
    which no softmax and no loss of distillation differs. Pairs and parts of the work lie in the
    folder `scratch`, which all machines see under the same path, as they see `teacher`; what is
    there already is not computed again. Raises as `score` does.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    source = scratch.resolve() / "pairs.parquet"
    with without_bars():
        pairs.select_columns([*IDS, "query", *TEXT]).to_parquet(source)
    out, length = scratch / "scores", profile.max_length
    score(source, teacher, out, profile, "ray", address, _TAUGHT, length)
    return scored(out).rename_column("log_probabilities", "teacher_logits")


def _rows(path: Path) -> Dataset:
    return Dataset(pq.read_table(path).replace_schema_metadata())


# Parts --------------------------------------------------------------------------------------------


def planned(data: Path, out: Path, key: list, rows: int) -> Iterator[Part]:
    """The parts of `rows` rows that the files in `data` are cut into. Raises as `score` does."""
    for number, file in enumerate(_files(data)):
        with engines.opened(file) as found:
            missing = [name for name in _NEEDED if name not in found.schema_arrow.names]
            if missing:
                raise DataError(f"{file}: no column {quoted(missing[0])}; add it.")
            each_once(file, found.schema_arrow.names, (*IDS, "query", *TEXT))
            sha, total = known_digest(file), found.metadata.num_rows
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            name = digest("scores", 3, sha, start, stop, *key)
            yield Part(str(file), start, stop, str(out / f"{number:06}-{start:012}-{name}.parquet"))


def _files(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    found = sorted(path for path in data.rglob("*.parquet") if path.is_file())
    if not found:
        raise FileNotFoundError(f"{data}: no Parquet file here; check the path.")
    return found


def read(part: Part) -> Dataset:
    """The pairs of a part, checked, with all columns that a model reads; missing texts are empty.

    Raises DataError that names the row of the first fault.
    """
    with engines.opened(Path(part.source)) as file:
        names = [name for name in (*IDS, "query", *TEXT) if name in file.schema_arrow.names]
        table = engines.rows_of(file, part, names)
    for name in (*IDS, "query", *TEXT):
        if name not in names:
            table = table.append_column(name, pa.array([""] * len(table)))
        else:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, _texts(table[name], part.source, name))
    for name in _NEEDED:
        for row, text in enumerate(table[name].to_pylist()):
            if is_blank(text):
                raise DataError(
                    f"{part.source}, row {part.start + row + 1:,}: {name} is empty; fill it, or "
                    "leave the row out."
                )
    return Dataset(table.append_column("label", pa.array([-1] * len(table))))


def _texts(column: pa.ChunkedArray, source: str, name: str) -> pa.ChunkedArray:
    """A column as texts; what is missing, or no number, is empty."""
    try:
        if pa.types.is_floating(column.type):
            column = digits(column)
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        raise DataError(
            f"{source}: the column {quoted(name)} holds {shown(str(column.type))} that is no text; "
            "write it as text."
        ) from error


class Scorer:
    """A model that scores parts, one after the other: `local` has one, and Ray one a process.

    Args:
        model: its folder.
        max_length: tokens of a pair.
        profile: sets device, precision and the size of batches.
    """

    def __init__(self, model: str, max_length: int, profile: Profile):
        self.folder, self.max_length, self.profile = Path(model), max_length, profile

    @cached_property
    def _classes(self) -> tuple[Callable[[Dataset], np.ndarray], np.ndarray]:
        """A function from pairs to log-probabilities (N, C), and the gain of each class (C,)."""
        if any(self.folder.glob("*.safetensors")):
            return _checkpoint(self.folder, self.max_length, self.profile)
        return _deployed(self.folder, self.max_length)

    def __call__(self, part: Part) -> str:
        """Score a part and write its file; return "", or a sentence about the first fault in it.

        A part whose file is there is left as it is.
        """
        if is_made(part):
            return ""
        classes, gains = self._classes
        try:
            pairs = read(part)
        except DataError as error:
            return str(error)
        found = classes(pairs)
        wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(wrong):
            return (
                f"{part.source}, row {part.start + int(wrong[0]) + 1:,}: the model gives no number "
                f"for it; check {self.folder}."
            )
        table = pairs.select_columns(list(IDS)).data.table
        table = table.append_column("log_probabilities", pa.array(list(found.astype(np.float32))))
        gain = (np.exp(found) @ gains).astype(np.float32)
        engines.write(table.append_column("score", pa.array(gain)), Path(part.out))
        return ""


def _checkpoint(folder: Path, max_length: int, profile: Profile):
    from ecomkd import distill, models

    model, tokenizer = models.load(folder), models.load_tokenizer(str(folder))
    try:
        gains = list(gains_of(list(model.config.id2label.values())).values())
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error

    def classes(pairs: Dataset) -> np.ndarray:
        with without_bars():  # there would be one for each part
            encoded = distill.encode(pairs, tokenizer, max_length)
        logits = distill.predict(model, encoded, tokenizer, profile).astype(np.float64)
        return logits - logsumexp(logits, axis=1, keepdims=True)

    return classes, np.array(gains)


def _deployed(folder: Path, max_length: int):
    from ecomkd import score as deployed

    scorer = deployed.load(folder)
    scorer.tokenizer.enable_truncation(max_length)

    def classes(pairs: Dataset) -> np.ndarray:
        texts = product_text(pairs[:])
        both = zip(pairs["query"], texts, strict=True)
        return np.log(np.stack([scorer.probabilities(query, text) for query, text in both]))

    return classes, scorer.gains
