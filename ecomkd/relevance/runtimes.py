"""One classifier in several runtimes and precisions: what each costs, what it loses, which to take.

Chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset

from ecomkd.extras import needed

with needed("ecomkd.relevance.runtimes", "run"):
    import onnx  # noqa: F401 (what exports asks for it late)

    from ecomkd import bench, distill, export, models, score

from ecomkd.relevance import judge

BATCHES = (1, 32)
"""Pairs of a call: one that is decided by itself, and a list that is put into order."""

ALIKE = 1.05
"""Times whose ratio is at most this are taken for equal."""

_TIMED = 64
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FP32, INT8, INT8_WEIGHTS = "model.onnx", "model.int8.onnx", "model.int8-weights.onnx"


class Variant(NamedTuple):
    """A way to run a classifier that was exported to ONNX."""

    runtime: str
    precision: str
    file: str

    def __str__(self) -> str:
        return f"{NAMES[self.runtime]} {self.precision}"

    @property
    def run_by(self) -> dict:
        """What a `Scorer` is told of it where that is not the default."""
        further = {"bf16": True} if self.precision == "bf16" else {}
        return {} if self.runtime == "onnxruntime" else {"runtime": self.runtime, **further}

    def classifier(self, path: Path, threads: int) -> export.OnnxClassifier:
        """The function from token tensors to logits (N, C) that it makes of the file."""
        if self.runtime == "onnxruntime":
            return export.OnnxClassifier(path, threads)
        return export.OpenVinoClassifier(path, threads, bf16=self.precision == "bf16")


VARIANTS = (
    Variant("onnxruntime", "fp32", FP32),
    Variant("onnxruntime", "int8", INT8),
    Variant("openvino", "fp32", FP32),
    Variant("openvino", "bf16", FP32),
    Variant("openvino", "int8", INT8_WEIGHTS),
)
"""The first is what all are held against. In int8, ONNX Runtime rounds the activations of a call
with one scale per tensor, OpenVINO those of 32 values of a token; all else is in fp32 there."""


def available() -> tuple[Variant, ...]:
    """The variants that can run here: OpenVINO is an extra, and bf16 is in some processors."""
    left_out = set()
    if find_spec("openvino") is None:
        left_out.add("openvino")
    elif "BF16" not in score.openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        left_out.add("bf16")
    return tuple(variant for variant in VARIANTS if not left_out & set(variant))


def like_for_like(
    exported: Mapping[str, Path], pairs: Dataset, max_length: int, threads: int = 1
) -> pd.DataFrame:
    """Classifiers in every runtime, precision and size of batch, on one number of threads.

    Args:
        exported: for each model's name a folder that `export.exports` gave.
        pairs: labelled pairs on which no model was trained or chosen. All of them are judged; the
            first 64 are timed, in rounds in which all rows take turns.
        max_length: tokens of a pair.
        threads: processor threads of a call.

    Returns:
        A frame indexed by `model`, `runtime`, `precision` and `batch`: `p50_ms` of a call,
        `pairs_per_second`, `megabytes` of the file, `macro_f1` and, where an order can be judged,
        `ndcg@10`, as shares; and as points, which are hundredths, what each of the two has lost
        against the same model in ONNX Runtime, fp32, batch 1: `macro_f1_loss`, `ndcg@10_loss`, NaN
        where its file is not there.
        What cannot run here, and a file that is not in the folder, has no row.
    """
    rows: dict[tuple, dict] = {}
    work: dict[tuple, list] = {}
    with TemporaryDirectory() as scratch:
        for number, (name, folder) in enumerate(exported.items()):
            tokenizer = models.load_tokenizer(str(folder))
            encoded = distill.encode(pairs, tokenizer, max_length)
            timed = encoded.select(np.arange(_TIMED) % len(encoded))
            own = Path(scratch) / str(number)
            own.mkdir()
            for variant, path in _files(folder, own):
                classifier = variant.classifier(path, threads)
                for size in BATCHES:
                    key = (name, variant.runtime, variant.precision, size)
                    batches = _batches(encoded, tokenizer, size)
                    logits = np.concatenate([classifier(**batch) for batch in batches])
                    found = judge.quality(pairs, logits)
                    del found["quality"]
                    first, unknown = (name, *VARIANTS[0][:2], 1), dict.fromkeys(found, np.nan)
                    origin = found if key == first else rows.get(first, unknown)
                    lost = {f"{of}_loss": 100 * (origin[of] - found[of]) for of in found}
                    megabytes = bench.model_size(path)["bytes"] / 1e6
                    rows[key] = {"megabytes": megabytes, **found, **lost}
                    calls = _batches(timed, tokenizer, size)
                    work[key] = [partial(classifier, **batch) for batch in calls]
        times = bench.interleaved(work)
    table = pd.DataFrame(list(rows.values()))
    table.index = pd.MultiIndex.from_tuples(rows, names=["model", "runtime", "precision", "batch"])
    table.insert(0, "p50_ms", list(times.values()))
    per_second = 1000 * table.index.get_level_values("batch") / table["p50_ms"]
    table.insert(1, "pairs_per_second", per_second)
    return table


def _files(folder: Path, scratch: Path) -> Iterator[tuple[Variant, Path]]:
    """The variants that can run, each with its file; OpenVINO's is made where it is not there."""
    for variant in available():
        path = folder / variant.file
        if variant.file == INT8_WEIGHTS and not path.is_file() and (folder / FP32).is_file():
            path = scratch / variant.file
            made(export.quantize_weights, folder / FP32, path)
        if path.is_file():
            yield variant, path


def made(make: Callable, *given) -> bool:
    """Whether a quantised file was made: not where it answers otherwise than its origin."""
    try:
        make(*given)
    except RuntimeError:
        return False
    return True


def _batches(encoded: Dataset, tokenizer, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Tokens of the pairs in their order, padded to the longest of a batch."""
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded.column_names]
    for rows in encoded.select_columns(names).iter(size):
        yield dict(tokenizer.pad(rows, return_tensors="np"))


def winner(table: pd.DataFrame, max_loss: float) -> Variant | None:
    """The quickest variant of one model whose losses at batch 1 are at most `max_loss`, in points.

    `table` is of `like_for_like`, with one model. Of those that are as quick as the quickest, to
    5 %, it is the one that loses least. None where nothing but fp32 stays below: that is what was
    to be quantised.
    """
    own = table.droplevel("model").xs(1, level="batch")
    losses = own.filter(like="_loss").max(axis=1)
    fit = own[(losses <= max_loss) & (own.index.get_level_values("precision") != "fp32")]
    if fit.empty:
        return None
    alike = fit[fit["p50_ms"] <= ALIKE * fit["p50_ms"].min()]
    chosen = losses[alike.index].idxmin()
    return next(variant for variant in VARIANTS if variant[:2] == chosen)
