"""All of `ecomkd quantize`: the quickest variant of a classifier that loses little, or none.

Chapter 5.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.relevance.gate", "run"):
    from ecomkd import bench, export, models, score

from ecomkd import outputs, report
from ecomkd.artifacts import known_digest
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.data.contract import named
from ecomkd.relevance import judge
from ecomkd.relevance.runtimes import (
    ALIKE,
    FP32,
    INT8,
    INT8_WEIGHTS,
    NAMES,
    VARIANTS,
    Variant,
    available,
    like_for_like,
    made,
    winner,
)

_SHARES = {"ndcg@10": "nDCG@10", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Gate:
    """What `gate` found: the table, sentences beside it, the variant taken, and what is to be said.

    `taken` is None where no variant stays below the loss that was allowed.
    """

    table: pd.DataFrame
    notes: list[str]
    taken: Variant | None
    sentence: str

    def shown(self) -> report.Table:
        """The table as it is printed."""
        frame = self.table.droplevel("model").reset_index()
        frame["runtime"] = frame["runtime"].map(NAMES)
        frame = frame.drop(columns=[name for name in _SHARES if name in frame])
        heads = {"p50_ms": "p50 (ms)", "pairs_per_second": "pairs a second", "megabytes": "MB"}
        heads |= {f"{name}_loss": f"{said} lost" for name, said in _SHARES.items()}
        return report.show(frame.rename(columns=heads), digits={"MB": 1}, index=False)


def gate(
    model: Path,
    source: str | Path,
    profile: Profile,
    max_loss: float,
    out: Path | None = None,
    max_length: int | None = None,
    split: str = "test",
    command: str = "",
) -> Gate:
    """All of `ecomkd quantize`: measure a classifier in its variants, and write the one to serve.

    `model` is a folder with a checkpoint in safetensors, with `model.onnx`, or with the student
    that `ecomkd run` deployed; of the last, the float32 model is looked for among the profile's
    artefacts. Losses are measured on the pairs of a `split` of `source`, which `load` reads. A pair
    is cut at `max_length` tokens, by default at what the folder's `labels.json` says. What `winner`
    takes is written to `out`, ready to serve, with the table in `quantize.json`; nothing is written
    where it takes none.

    Raises OSError before any work for an `out` that is not the program's own, FileNotFoundError
    where there is no model, ValueError for one that does not fit the data and for a split without
    pairs.
    """
    if out is not None:
        outputs.claim(out, "quantize")
    if not model.is_dir():
        raise FileNotFoundError(f"{model}: no such folder; check the path.")
    length = max_length or stated_length(model)
    data = sources.load(source, profile)
    if not len(data.get(split, ())):
        raise ValueError(f"{source}: there are no {split} pairs in it; give data that hold some.")
    pairs = data[split]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = pairs.features["label"].names
        _export(model, folder, len(names), length, profile.artifacts)
        _agree(model, names)
        notes = _quantise(folder)
        table = like_for_like({model.name: folder}, pairs, length)
        taken = winner(table, max_loss)
        notes += _cautions(table, taken) + _overlap(model, source)
        found = Gate(table, notes, taken, _said(table, taken, max_loss, split, len(pairs)))
        if out is not None and taken is not None:
            with outputs.replaced(out, "quantize") as working:
                export.deploy(
                    folder, working, judge.gains(pairs), length, taken.file, **taken.run_by
                )
                _record(working / "quantize.json", found, source, max_loss, command)
    return found


def stated_length(model: Path) -> int:
    """At how many tokens a pair is cut, as the folder of a deployed model says."""
    path = model / "labels.json"
    try:
        length = json.loads(path.read_text(encoding="utf-8"))["max_length"]
    except FileNotFoundError:
        if not any([*model.glob("*.safetensors"), *model.glob("*.onnx")]):
            raise FileNotFoundError(
                f"{model}: there is no classifier in it; give the folder of one, such as the "
                "student/ that `ecomkd run` wrote."
            ) from None
        raise ValueError(
            f"{model}: nothing in it says at how many tokens a pair is cut; give --max-length, the "
            "number that it was trained with."
        ) from None
    except (ValueError, TypeError, KeyError):
        length = None
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"{path}: damaged; deploy the model again, or give --max-length.")
    return length


def _export(model: Path, folder: Path, classes: int, length: int, artifacts: Path) -> None:
    """Write `model.onnx` and its tokenizer into `folder`, and try them on a pair of full length."""
    path = folder / FP32
    if any(model.glob("*.safetensors")):
        export.to_onnx(models.load(model, classes), models.load_tokenizer(str(model)), path)
    else:
        origin = _float_file(model, artifacts)
        models.load_tokenizer(str(model)).save_pretrained(folder)
        shutil.copyfile(origin, path)
        model = origin
    try:
        found = len(score.Scorer(path, length).probabilities("a", "a " * length))
    except Exception as error:  # the classes of ONNX Runtime's own are all over the place
        why = (str(error).splitlines() or [type(error).__name__])[0].replace(str(path), str(model))
        raise ValueError(
            f"{model}: is no classifier that reads {length} tokens of the tokenizer beside it "
            f"({why.rstrip('.')}); check --max-length, or export it again."
        ) from error
    if found != classes:
        raise ValueError(
            f"{model}: gives {found} classes, and the data have {classes}; fine-tune it on these "
            "data first."
        )


def _agree(model: Path, names: Sequence[str]) -> None:
    """Refuse a model that names its classes, and names others than the data, or in another order.

    Else its gains would be those of other classes. Older checkpoints number their classes alone.
    """
    try:
        if (model / "labels.json").is_file():
            found = json.loads((model / "labels.json").read_text(encoding="utf-8"))["labels"]
        else:
            known = json.loads((model / "config.json").read_text(encoding="utf-8"))["id2label"]
            found = [known[number] for number in sorted(known, key=int)]
        told = list(map(str, found))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # nothing names them
        return
    if all(re.fullmatch(r"LABEL_\d+", name) for name in told) or told == list(names):
        return
    raise ValueError(
        f"{model}: its classes are {', '.join(told)}, and those of the data {', '.join(names)}; "
        "give data with the labels that it learnt, or fine-tune it on these data first."
    )


def _float_file(model: Path, artifacts: Path) -> Path:
    """The ONNX file in float32 of a folder, or of the student that was deployed there."""
    if (model / FP32).is_file():
        return model / FP32
    small = model / INT8
    if not small.is_file():
        raise FileNotFoundError(
            f"{model}: neither model.safetensors, {FP32} nor {INT8} is in it; give the folder of "
            "a trained classifier."
        )
    for other in sorted(artifacts.glob(f"onnx-*/{INT8}")):
        if known_digest(other) == known_digest(small) and other.with_name(FP32).is_file():
            return other.with_name(FP32)
    raise FileNotFoundError(
        f"{model}: holds the int8 model alone, and what it was made of is not in {artifacts}; set "
        "ECOMKD_ARTIFACTS to the artefacts of the run that wrote it, or give its checkpoint."
    )


def _quantise(folder: Path) -> list[str]:
    """Write the int8 files of what can run here; a sentence for each thing that is left out."""
    variants = available()
    notes = []
    written = {INT8: made(export.quantize, folder / FP32)}
    if INT8_WEIGHTS in {variant.file for variant in variants}:
        written[INT8_WEIGHTS] = made(export.quantize_weights, folder / FP32, folder / INT8_WEIGHTS)
    else:
        notes.append(
            'OpenVINO is left out, for it is not installed: pip install "ecomkd[openvino]"'
        )
    for variant in variants:
        if not written.get(variant.file, True):
            notes.append(f"{variant} is left out: it answers otherwise even on sample pairs.")
    return notes


def _cautions(table: pd.DataFrame, taken: Variant | None) -> list[str]:
    notes = []
    if "ndcg@10" not in table:
        notes.append(
            "An order of products cannot be judged on these pairs, for most queries have a single "
            "one, or none is relevant: macro-F1 alone decides."
        )
    if taken is not None:
        times = table.droplevel("model").xs(1, level="batch")["p50_ms"]
        times = times.groupby(level=["runtime", "precision"]).first()
        floats = times[times.index.get_level_values("precision") == "fp32"]
        if ALIKE * floats.min() < times[taken[:2]]:
            quickest = next(one for one in VARIANTS if one[:2] == floats.idxmin())
            notes.append(f"{quickest} is quicker on this machine, and loses nothing.")
    return notes


def _overlap(model: Path, source: str | Path) -> list[str]:
    """A caution where the model is the student of a run on these data that drew folds."""
    try:
        told = json.loads((model.resolve().parent / "report.json").read_text(encoding="utf-8"))
        command, data = told["command"], told["data"]["source"]
    except (OSError, ValueError, KeyError, TypeError):  # not the report of a run
        return []
    same = data == named(source)
    if not same or not re.search(r"--folds \d", command):
        return []
    return [
        "The student learnt from folds that its run drew, and has met some of these pairs in "
        "training: what is lost on new pairs may be more."
    ]


def _said(
    table: pd.DataFrame, taken: Variant | None, max_loss: float, split: str, pairs: int
) -> str:
    """What the gate says: of the variant taken, or why there is none."""
    rows = table.droplevel("model").xs(1, level="batch")

    def lost(key: tuple[str, str]) -> str:
        parts = [
            f"{report.number(max(rows.loc[key, f'{name}_loss'], 0.0))} of {said}"
            for name, said in _SHARES.items()
            if name in rows
        ]
        return f"loses {' and '.join(parts)} on {pairs:,} {split} pairs"

    if taken is not None:
        gain = rows.loc[VARIANTS[0][:2], "p50_ms"] / rows.loc[taken[:2], "p50_ms"]
        return (
            f"{taken}: {report.number(gain)} times as quick as {VARIANTS[0]} on single pairs; it "
            f"{lost(taken[:2])}, and may lose {max_loss:g} points."
        )
    losses = rows.filter(like="_loss").max(axis=1)
    quantised = losses[losses.index.get_level_values("precision") != "fp32"]
    if quantised.empty:
        return "No quantised variant answers as fp32 does; serve the model in fp32."
    least = next(one for one in VARIANTS if one[:2] == quantised.idxmin())
    return (
        f"No quantised variant loses at most {max_loss:g} points: {least}, the nearest, "
        f"{lost(least[:2])}; serve the model in fp32, or allow more with --max-loss."
    )


def _record(path: Path, found: Gate, source: str | Path, max_loss: float, command: str) -> None:
    """The table and what was chosen, in the form that recorded results have."""
    key = (found.table.index[0][0], *found.taken[:2], 1)
    goals = [
        {
            "name": f"loss of {said} in points",
            "value": found.table.loc[key, f"{name}_loss"],
            "low": None,
            "high": None,
            "goal": max_loss,
            "met": True,
        }
        for name, said in _SHARES.items()
        if name in found.table
    ]
    report.write_recorded(
        path,
        command=command,
        seeds=[],
        hardware=bench.hardware() | {"threads": 1},
        generator=shop.generator_hash() if source == "shop" else None,
        data={
            "source": named(source),
            "rows": json.loads(found.table.reset_index().to_json(orient="records")),
            "chosen": found.taken._asdict(),
            "openvino": version("openvino") if find_spec("openvino") else None,
            "notes": found.notes,
            "sentence": found.sentence,
        },
        goals=goals,
    )
