"""ONNX files answer as the model they came from, or are not written."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
import torch
from onnxruntime.quantization import quantize_dynamic

from ecomkd import distill, export, models

TOKENIZER = tiny_models.tokenizer()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny random classifier and the folder of its exports."""
    model = tiny_models.bert()
    folder = tmp_path_factory.mktemp("onnx") / "new"
    path = export.to_onnx(model, TOKENIZER, folder / "model.onnx")
    export.quantize(path)
    return model, folder


def tokens(rows, pad_to=None) -> dict:
    pairs = tiny_models.pairs(24, seed=7).select(rows)
    encoded = distill.encode(pairs, TOKENIZER, 40).select_columns(["input_ids", "token_type_ids"])
    padding = "max_length" if pad_to else True
    return dict(TOKENIZER.pad(encoded[:], padding, max_length=pad_to, return_tensors="pt"))


def softmax(logits):
    return torch.tensor(np.asarray(logits)).softmax(-1).numpy()


def test_the_path_that_was_written_is_returned(tmp_path):
    path = tmp_path / "new" / "model.onnx"
    assert export.to_onnx(tiny_models.bert(layers=1), TOKENIZER, path) == path
    small = export.quantize(path)
    assert small == path.with_name("model.int8.onnx")
    assert small.stat().st_size < path.stat().st_size
    kept = models.load_tokenizer(str(path.parent))
    assert kept("red shoe", "mug")["input_ids"] == TOKENIZER("red shoe", "mug")["input_ids"]
    assert {file.name for file in path.parent.glob("*.onnx")} == {"model.onnx", "model.int8.onnx"}


@pytest.mark.parametrize("rows", [[0], range(5), range(24)], ids=["one", "five", "all"])
def test_logits_are_pytorchs_for_every_number_of_pairs_and_tokens(exported, rows):
    model, folder = exported
    batch = tokens(rows)
    with torch.inference_mode():
        expected = model(**batch).logits.numpy()
    found = export.OnnxClassifier(folder / "model.onnx")(**batch)
    assert found.shape == (len(rows), 4)
    assert np.abs(found - expected).max() < 1e-4
    small = export.OnnxClassifier(folder / "model.int8.onnx")(**batch)
    assert np.abs(softmax(small) - softmax(expected)).max() < 0.1


def test_logits_do_not_depend_on_what_else_is_in_the_batch(exported):
    _, folder = exported
    model = export.OnnxClassifier(folder / "model.onnx", threads=1)
    together = model(**tokens(range(24)))
    alone = np.concatenate([model(**tokens([row])) for row in range(24)])
    backwards = model(**tokens(range(23, -1, -1), pad_to=40))[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - backwards).max() < 1e-5


def test_int8_weights_are_int8(exported):
    """Every matrix of the encoder is stored in one byte a weight, with a scale per channel."""
    graph = onnx.load(exported[1] / "model.int8.onnx").graph
    kinds = {weight.name: (weight.data_type, weight.dims) for weight in graph.initializer}
    quantised = [dims for kind, dims in kinds.values() if kind == onnx.TensorProto.INT8]
    assert len([dims for dims in quantised if list(dims) == [32, 32]]) == 2 * 4 + 1
    assert not [dims for kind, dims in kinds.values() if kind == 1 and list(dims) == [32, 32]]


def test_an_export_that_answers_otherwise_raises_and_leaves_no_file(tmp_path, monkeypatch):
    class Shifted(torch.nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.inner = positional(*parts)

        def forward(self, *inputs):
            return self.inner(*inputs) + 0.01

    positional = export._positional
    monkeypatch.setattr(export, "_positional", Shifted)
    path = tmp_path / "model.onnx"
    with pytest.raises(RuntimeError, match=r"differs from its origin by 0\.01, more than 0\.001"):
        export.to_onnx(tiny_models.bert(layers=1), TOKENIZER, path)
    assert not list(tmp_path.iterdir())


def test_a_quantisation_that_answers_otherwise_raises_and_leaves_the_fp32_file(
    exported, tmp_path, monkeypatch
):
    path = tmp_path / "model.onnx"
    shutil.copytree(exported[1], tmp_path, dirs_exist_ok=True)
    other = export.to_onnx(tiny_models.bert(seed=5), TOKENIZER, tmp_path / "other" / "model.onnx")
    (tmp_path / "model.int8.onnx").unlink()
    monkeypatch.setattr(
        onnxruntime.quantization,
        "quantize_dynamic",
        lambda _, target, **options: quantize_dynamic(other, target, **options),
    )
    with pytest.raises(RuntimeError, match=r"model\.int8\.onnx: the export differs"):
        export.quantize(path)
    assert [file.name for file in tmp_path.glob("*.onnx")] == ["model.onnx"]


def test_training_mode_is_not_exported(tmp_path):
    """Dropout would make the exported model answer by chance."""
    model = tiny_models.bert(dropout=0.5).train()
    path = export.to_onnx(model, TOKENIZER, tmp_path / "model.onnx")
    assert "Dropout" not in {node.op_type for node in onnx.load(path).graph.node}
    assert not model.training


def test_threads_are_those_asked_for(exported):
    model = export.OnnxClassifier(exported[1] / "model.onnx", threads=1)
    assert model.session.get_session_options().intra_op_num_threads == 1
    assert model.session.get_providers() == ["CPUExecutionProvider"]


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf, match="model"):
        export.OnnxClassifier(tmp_path / "model.onnx")
