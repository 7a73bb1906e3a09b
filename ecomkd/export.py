"""From PyTorch to ONNX, in fp32 and int8, and back to probabilities: what a shop serves.

What answers (`OnnxClassifier`, `OpenVinoClassifier`, `Scorer`, `predict_onnx`) needs no PyTorch;
what exports imports it when it is called. Chapter 5.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.export", "run"):
    from ecomkd import score
    from ecomkd.score import Scorer

from ecomkd.artifacts import MANIFEST, stage, write_text
from ecomkd.config import Profile

_SAMPLE = (
    ("sofa", "Three-seat couch with loose cushions, grey fabric, 210 cm"),
    ("usb c charger", "Wall plug 30 W with one USB-C port, white"),
    ("running shoes women", "Trainers for road running, size 39, breathable mesh"),
    ("cot", "Baby bed with bars, solid beech, 120 x 60 cm, height of the base in three steps"),
)
"""Pairs on which an export is compared with its origin."""

_INT8 = "model.int8.onnx"
"""The file that a deployed folder holds where nothing else is said."""


def to_onnx(model, tokenizer, path: Path | str) -> Path:
    """Write a classifier as ONNX, with free batch and sequence axes, and its tokenizer beside it.

    `model` is a `torch.nn.Module` whose output has `logits` (N, C). Returns the path. On four
    sample pairs the logits agree with PyTorch's to 1e-3 absolute, or RuntimeError is raised and no
    file is left. The model is moved to the CPU, and is in eval mode afterwards.

    Example:
        >>> import tempfile
        >>> from ecomkd import models
        >>> teacher = models.build_teacher("minilm", ["E", "S", "C", "I"])
        >>> student = models.build_student(teacher, layers=[0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.onnx"
        ...     to_onnx(student, models.load_tokenizer("minilm"), path).name
        'model.onnx'
    """
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = model.to("cpu").eval()
    inputs = _sample(tokenizer)
    axes = {name: {0: "pairs", 1: "tokens"} for name in inputs}
    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter reports on its own internals, nothing a caller can act on.
        warnings.simplefilter("ignore")
        expected = model(**inputs).logits.numpy()
        torch.onnx.export(
            _positional(model, tuple(inputs)).eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "pairs"}},
            opset_version=17,
            dynamo=False,
        )
    off = np.abs(OnnxClassifier(path)(**inputs) - expected).max()
    _check_parity(path, off, tolerance=1e-3)
    tokenizer.save_pretrained(path.parent)
    return path


def quantize(path: Path | str) -> Path:
    """Quantise an ONNX classifier to int8 (weights per channel, activations on the fly).

    Writes `<name>.int8.onnx` beside it and returns that path. Over four sample pairs the largest
    change of a class probability is at most 0.35 in the mean, or RuntimeError is raised and no file
    is left. That finds a broken export, no more: one undecided pair may move by 0.4, and what int8
    costs in quality is measured on a test set.

    Example:
        >>> import tempfile
        >>> from ecomkd import models
        >>> teacher = models.build_teacher("minilm", ["E", "S", "C", "I"])
        >>> student = models.build_student(teacher, layers=[0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "model.onnx"
        ...     small = quantize(to_onnx(student, models.load_tokenizer("minilm"), path))
        ...     small.stat().st_size < path.stat().st_size / 3
        True
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = Path(path)
    target = path.with_suffix(".int8.onnx")
    prepared = path.with_suffix(".prepared.onnx")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        # Seven of the eight bits: without VNNI, processors add pairs of products in 16 bits.
        quantize_dynamic(
            prepared, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    finally:
        root.setLevel(level)
        prepared.unlink(missing_ok=True)
    _check_quantised(path, target)
    return target


def quantize_weights(path: Path | str, target: Path | str) -> Path:
    """Store the matrices of an ONNX classifier in int8, a scale for each row of words or channel.

    Activations are left to the runtime, which computes with the weights as if they were float32 or,
    as OpenVINO does, rounds the activations in small groups. Read from the file that `quantize`
    writes, OpenVINO is as far from the float model as ONNX Runtime, and slower than in float32.

    Writes `target` and returns it, after the check that `quantize` makes, or raises RuntimeError
    and leaves no file. A matrix is an initial value of two axes that a `MatMul`, `Gemm` or `Gather`
    reads.
    """
    import onnx
    from onnx import helper, numpy_helper

    path, target = Path(path), Path(target)
    model = onnx.load(path)
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    added = []
    for name, axis in _matrices(graph).items():
        values = numpy_helper.to_array(weights[name])
        if values.ndim != 2 or values.dtype != np.float32:
            continue
        largest = np.abs(values).max(axis=1 - axis, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        rounded = np.rint(values / scale).astype(np.int8)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(rounded, f"{name}_int8"),
                numpy_helper.from_array(scale.squeeze(1 - axis), f"{name}_scale"),
            ]
        )
        parts = [f"{name}_int8", f"{name}_scale"]
        added.append(helper.make_node("DequantizeLinear", parts, [name], axis=axis))
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)
    _check_quantised(path, target)
    return target


class OnnxClassifier:
    """An ONNX file as a function from token tensors to logits (N, C).

    Args:
        path: a file that `to_onnx` or `quantize` wrote.
        threads: processor threads; None lets ONNX Runtime choose.
    """

    def __init__(self, path: Path | str, threads: int | None = None):
        self._take(score.session(path, threads))

    def _take(self, session) -> None:
        self.session = session
        self.inputs = [node.name for node in session.get_inputs()]

    def __call__(self, **tokens) -> np.ndarray:
        feed = {name: np.asarray(tokens[name], dtype=np.int64) for name in self.inputs}
        return self.session.run(None, feed)[0]


class OpenVinoClassifier(OnnxClassifier):
    """The same function, computed by OpenVINO: see `OpenVinoSession`.

    Args:
        path: a file that `to_onnx` or `quantize_weights` wrote.
        threads: processor threads; None lets OpenVINO choose.
        bf16: compute in bfloat16 what is not in int8.

    Raises ModuleNotFoundError without the package `openvino`.
    """

    def __init__(self, path: Path | str, threads: int | None = None, bf16: bool = False):
        with needed("OpenVinoClassifier", "openvino"):
            self._take(score.OpenVinoSession(path, threads, bf16))


def exports(folder: Path, profile: Profile) -> Path:
    """A folder with `model.onnx`, `model.int8.onnx` and the tokenizer of a saved model."""
    from ecomkd import keys, models

    def make(target: Path) -> None:
        tokenizer = models.load_tokenizer(str(folder))
        quantize(to_onnx(models.load(folder), tokenizer, target / "model.onnx"))

    return stage("onnx", [keys.identity(folder)], make, profile.artifacts, recipe=1)


def predict_onnx(path: Path, pairs, profile: Profile) -> np.ndarray:
    """Class probabilities (N, C) of an exported model, each pair by itself, as a shop serves it.

    `pairs` is a `datasets.Dataset` as `load` gives it. See `Scorer` for why not in batches.
    """
    from ecomkd.data.sources import product_text

    scorer = Scorer(path, profile.max_length)
    with ThreadPoolExecutor() as workers:
        rows = workers.map(scorer.probabilities, pairs["query"], product_text(pairs[:]))
        return np.stack(list(rows))


def deploy(
    folder: Path, out: Path, gains: Mapping, max_length: int, file: str = _INT8, **run_by
) -> list[str]:
    """Copy an exported student into `out`, with all that is needed to score; return the file names.

    Beside the model `file` and its tokenizer stand `labels.json`, which says what the classes are
    called, what each is worth and at how many tokens a pair is cut, and `score.py`. Nothing else
    that may be in `out` is touched. `run_by` are the `runtime` and `bf16` of a `Scorer`, where they
    are not its defaults: `labels.json` names them, and the file where it is not the int8 one.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = [
        path
        for path in folder.iterdir()
        if path.name != MANIFEST and (path.suffix != ".onnx" or path.name == file)
    ]
    for path in [*kept, Path(score.__file__)]:
        working = out / f".{path.name}.{os.getpid()}"
        shutil.copyfile(path, working)
        os.replace(working, out / path.name)
    labels, worth = list(map(str, gains)), list(gains.values())
    label_map = {"labels": labels, "gains": worth, "max_length": max_length, **run_by}
    if file != _INT8:
        label_map["file"] = file
    write_text(out / "labels.json", json.dumps(label_map, indent=1))
    return sorted([path.name for path in kept] + ["labels.json", "score.py"])


def _positional(model, names: tuple[str, ...]):
    """A module that takes the named inputs in order and gives logits: what the exporter traces."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *values):
            return self.model(**dict(zip(names, values, strict=True))).logits

    return Logits()


def _sample(tokenizer) -> dict:
    queries, products = zip(*_SAMPLE, strict=True)
    return dict(tokenizer(list(queries), list(products), padding=True, return_tensors="pt"))


def _matrices(graph) -> dict[str, int]:
    """The initial values that multiplications and look-ups read, each with the axis of its scale.

    That is the axis that stays in the result, so that a product can be scaled after it was summed.
    """
    given = {weight.name for weight in graph.initializer}
    found = {}
    for node in graph.node:
        flipped = any(entry.name == "transB" and entry.i for entry in node.attribute)
        place = {"Gather": 0, "MatMul": 1, "Gemm": 1}.get(node.op_type)
        if place is not None and node.input[place] in given:
            found[node.input[place]] = 0 if node.op_type == "Gather" or flipped else 1
    return found


def _check_quantised(path: Path, target: Path) -> None:
    """Compare class probabilities of a quantised file and of its origin, as `quantize` says."""
    from scipy.special import softmax

    from ecomkd.models import load_tokenizer

    inputs = _sample(load_tokenizer(str(path.parent)))
    before, after = (softmax(OnnxClassifier(file)(**inputs), axis=1) for file in (path, target))
    _check_parity(target, np.abs(after - before).max(axis=1).mean(), tolerance=0.35)


def _check_parity(path: Path, off: float, tolerance: float) -> None:
    import onnx

    onnx.checker.check_model(str(path))
    if not off <= tolerance:
        path.unlink()
        raise RuntimeError(
            f"{path}: the export differs from its origin by {off:.2g}, more than {tolerance:g}; "
            "the file was removed: serve the model in its former format."
        )
