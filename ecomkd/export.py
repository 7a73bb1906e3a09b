"""From PyTorch to ONNX, in fp32 and int8, and back to logits: what a shop serves."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.special import softmax
from torch import nn

from ecomkd.models import load_tokenizer

_SAMPLE = (
    ("sofa", "Three-seat couch with loose cushions, grey fabric, 210 cm"),
    ("usb c charger", "Wall plug 30 W with one USB-C port, white"),
    ("running shoes women", "Trainers for road running, size 39, breathable mesh"),
    ("cot", "Baby bed with bars, solid beech, 120 x 60 cm, height of the base in three steps"),
)
"""Pairs on which an export is compared with its origin."""


def to_onnx(model: nn.Module, tokenizer, path: Path | str) -> Path:
    """Write a classifier as ONNX, with free batch and sequence axes, and its tokenizer beside it.

    Returns the path. On four sample pairs the logits agree with PyTorch's to 1e-3 absolute, or
    RuntimeError is raised and no file is left.
    """
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
            _Logits(model, tuple(inputs)).eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "pairs"}},
            opset_version=17,
            dynamo=False,
        )
    tokenizer.save_pretrained(path.parent)
    _check_parity(path, inputs, expected, tolerance=1e-3)
    return path


def quantize(path: Path | str) -> Path:
    """Quantise an ONNX classifier to int8 (weights per channel, activations on the fly).

    Writes `<name>.int8.onnx` beside it and returns that path. Over four sample pairs the largest
    change of a class probability is at most 0.35 in the mean, or RuntimeError is raised and no file
    is left. That finds a broken export, no more: one undecided pair may move by 0.4, and what int8
    costs in quality is measured on a test set.
    """
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
    inputs = _sample(load_tokenizer(str(path.parent)))
    expected = softmax(OnnxClassifier(path)(**inputs), axis=1)
    _check_parity(target, inputs, expected, tolerance=0.35, of_probabilities=True)
    return target


class OnnxClassifier:
    """An ONNX file as a function from token tensors to logits (N, C).

    Args:
        path: a file that `to_onnx` or `quantize` wrote.
        threads: processor threads; None lets ONNX Runtime choose.
    """

    def __init__(self, path: Path | str, threads: int | None = None):
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        # The fused kernel takes several times as long as the two operations that it replaces.
        self.session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        self.inputs = [node.name for node in self.session.get_inputs()]

    def __call__(self, **tokens) -> np.ndarray:
        feed = {name: np.asarray(tokens[name], dtype=np.int64) for name in self.inputs}
        return self.session.run(None, feed)[0]


class _Logits(nn.Module):
    """Positional inputs in, logits out: what the exporter traces."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values):
        return self.model(**dict(zip(self.names, values, strict=True))).logits


def _sample(tokenizer) -> dict[str, torch.Tensor]:
    queries, products = zip(*_SAMPLE, strict=True)
    return dict(tokenizer(list(queries), list(products), padding=True, return_tensors="pt"))


def _check_parity(
    path: Path,
    inputs: dict,
    expected: np.ndarray,
    tolerance: float,
    of_probabilities: bool = False,
) -> None:
    onnx.checker.check_model(str(path))
    found = OnnxClassifier(path)(**inputs)
    if of_probabilities:
        found = softmax(found, axis=1)
    moved = np.abs(found - expected).max(axis=1)
    off = float(moved.mean() if of_probabilities else moved.max())
    if not off <= tolerance:
        path.unlink()
        raise RuntimeError(
            f"{path}: the export differs from its origin by {off:.2g}, more than {tolerance:g}; "
            "the file was removed: serve the model in its former format."
        )
