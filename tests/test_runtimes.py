"""One classifier in several runtimes: the same answers, a table like for like, and the choice."""

import sys

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from datasets import Dataset

from ecomkd import distill, export, score
from ecomkd.relevance import judge, runtimes
from ecomkd.relevance.runtimes import VARIANTS, like_for_like, winner

TOKENIZER = tiny_models.tokenizer()
LENGTH = 24

needs_openvino = pytest.mark.skipif(
    "openvino" not in {variant.runtime for variant in runtimes.available()},
    reason="OpenVINO is not installed",
)


pytestmark = pytest.mark.usefixtures("hurried")


def export_of(model, folder):
    export.quantize(export.to_onnx(model, TOKENIZER, folder / "model.onnx"))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_of(tiny_models.bert(), tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    """40 pairs of ten queries."""
    return tiny_models.pairs(40, seed=7)


@pytest.fixture(scope="module")
def table(exported, pairs, tmp_path_factory):
    """A teacher, and a student of one layer, measured together."""
    student = export_of(tiny_models.bert(layers=1), tmp_path_factory.mktemp("student"))
    return like_for_like({"teacher": exported, "student": student}, pairs, LENGTH)


def tokens(pairs: Dataset) -> dict:
    encoded = distill.encode(pairs, TOKENIZER, LENGTH)
    columns = encoded.select_columns(["input_ids", "token_type_ids"])
    return dict(TOKENIZER.pad(columns[:], return_tensors="np"))


# OpenVINO


@needs_openvino
@pytest.mark.parametrize("count", [1, 5, 40])
def test_openvino_gives_the_logits_of_onnx_runtime(exported, pairs, count):
    batch = tokens(pairs.select(range(count)))
    expected = export.OnnxClassifier(exported / "model.onnx", threads=1)(**batch)
    found = export.OpenVinoClassifier(exported / "model.onnx", threads=1)(**batch)
    assert found.shape == (count, 4)
    assert np.abs(found - expected).max() < 1e-4


@needs_openvino
def test_threads_and_precision_are_those_asked_for(exported):
    one = export.OpenVinoClassifier(exported / "model.onnx", threads=1).session.model
    assert one.get_property("INFERENCE_NUM_THREADS") == 1
    assert one.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    free = export.OpenVinoClassifier(exported / "model.onnx").session.model
    assert free.get_property("INFERENCE_NUM_THREADS") >= 1


@needs_openvino
def test_bf16_is_near_and_not_the_same(exported, pairs):
    if VARIANTS[3] not in runtimes.available():
        pytest.skip("this processor has no bf16")
    batch = tokens(pairs)
    exact = export.OpenVinoClassifier(exported / "model.onnx", threads=1)(**batch)
    rounded = export.OpenVinoClassifier(exported / "model.onnx", threads=1, bf16=True)(**batch)
    assert 1e-5 < np.abs(rounded - exact).max() < 0.1


def test_what_openvino_reports_to_its_makers_is_not_loaded():
    if "openvino" not in sys.modules:
        pytest.skip("OpenVINO is not installed")
    score.openvino_core()
    assert sys.modules["openvino_telemetry"] is None


def test_without_openvino_one_sentence_says_which_extra_brings_it(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    sentence = 'openvino is missing, which OpenVinoClassifier needs: pip install "ecomkd[openvino]"'
    with pytest.raises(ModuleNotFoundError) as raised:
        export.OpenVinoClassifier(exported / "model.onnx")
    assert str(raised.value) == sentence
    assert {variant.runtime for variant in runtimes.available()} == {"onnxruntime"}


# Weights in int8


def test_weights_in_int8_are_one_byte_each_and_near(exported, pairs, tmp_path):
    import onnx

    path = export.quantize_weights(exported / "model.onnx", tmp_path / "small.onnx")
    graph = onnx.load(path).graph
    kinds = [(weight.data_type, list(weight.dims)) for weight in graph.initializer]
    assert kinds.count((onnx.TensorProto.INT8, [32, 32])) == 2 * 4 + 1
    assert not [dims for kind, dims in kinds if kind == onnx.TensorProto.FLOAT and len(dims) == 2]
    assert path.stat().st_size < 0.7 * (exported / "model.onnx").stat().st_size
    batch = tokens(pairs)
    exact, rounded = (
        export.OnnxClassifier(file, threads=1)(**batch) for file in (exported / "model.onnx", path)
    )
    assert 0 < np.abs(rounded - exact).max() < 0.1


def test_a_scale_for_each_channel_is_as_large_as_its_largest_weight(tmp_path):
    import onnx
    from onnx import numpy_helper

    model = tiny_models.bert(layers=1)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[3] *= 50  # one channel of many
    path = export.to_onnx(model, TOKENIZER, tmp_path / "model.onnx")
    graph = onnx.load(export.quantize_weights(path, tmp_path / "small.onnx")).graph
    found = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    (name,) = (
        name
        for name, values in found.items()
        if name.endswith("_int8") and values.shape == (64, 32)
    )
    scale = found[name.replace("_int8", "_scale")]
    expected = model.bert.encoder.layer[0].output.dense.weight.detach().abs().max(dim=1).values
    assert scale == pytest.approx(expected.numpy() / 127, rel=1e-5)
    assert np.abs(found[name]).max(axis=0).tolist() == [127] * 32


def test_weights_that_answer_otherwise_raise_and_leave_no_file(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "rint", np.zeros_like)
    with pytest.raises(RuntimeError, match=r"small\.onnx: the export differs from its origin"):
        export.quantize_weights(exported / "model.onnx", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


# The table


def test_each_model_has_a_row_for_each_way_to_run_it(table):
    expected = {
        (model, variant.runtime, variant.precision, batch)
        for model in ("teacher", "student")
        for variant in runtimes.available()
        for batch in (1, 32)
    }
    assert set(table.index) == expected and table.index.is_unique
    assert (table["p50_ms"] > 0).all()
    batch = table.index.get_level_values("batch")
    assert np.allclose(table["pairs_per_second"], 1000 * batch / table["p50_ms"])


def test_quality_is_what_the_evaluation_of_served_pairs_finds(table, exported, pairs, tmp_path):
    profile = tiny_models.profile(tmp_path, max_length=LENGTH)
    for precision, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx")):
        chances = export.predict_onnx(exported / file, pairs, profile)
        found = judge.evaluate(pairs, chances)
        row = table.loc[("teacher", "onnxruntime", precision, 1)]
        assert row["macro_f1"] == pytest.approx(found["classification"]["macro_f1"])
        assert row["ndcg@10"] == pytest.approx(found["ranking"]["ndcg@10"])


def test_losses_are_points_against_the_same_models_own_fp32(table):
    for model in ("teacher", "student"):
        own = table.loc[model]
        origin = own.loc[("onnxruntime", "fp32", 1)]
        assert (origin["macro_f1_loss"], origin["ndcg@10_loss"]) == (0, 0)
        for name in ("macro_f1", "ndcg@10"):
            assert np.allclose(own[f"{name}_loss"], 100 * (origin[name] - own[name]))
    floats = table.xs("fp32", level="precision")
    assert np.allclose(floats[["macro_f1_loss", "ndcg@10_loss"]], 0)
    teacher, student = (table.xs(model)["macro_f1"].iloc[0] for model in ("teacher", "student"))
    assert teacher != student


def test_where_no_order_can_be_judged_there_is_no_ndcg(exported, pairs):
    alone = pairs.remove_columns("query_id").add_column("query_id", [f"q{i}" for i in range(40)])
    found = like_for_like({"model": exported}, alone, LENGTH)
    assert "macro_f1_loss" in found
    assert not [name for name in found if "ndcg" in name]


def test_a_file_that_is_not_there_has_no_row(exported, pairs, tmp_path):
    folder = tmp_path / "float alone"
    TOKENIZER.save_pretrained(folder)
    (folder / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    found = like_for_like({"model": folder}, pairs, LENGTH)
    keys = {key[1:3] for key in found.index}
    expected = {variant[:2] for variant in runtimes.available()} - {("onnxruntime", "int8")}
    assert keys == expected
    assert {path.name for path in folder.glob("*.onnx")} == {"model.onnx"}


# The choice


def measured(**rows) -> pd.DataFrame:
    """A table of one model at batch 1: for runtime_precision, its time and its two losses.

    At batch 32 all that was lost is found again, and the order of times is reversed.
    """
    found = {}
    for name, (time, ndcg, f1) in rows.items():
        for batch in (1, 32):
            values = (time, ndcg, f1) if batch == 1 else (1 / time, 0.0, 0.0)
            found["model", *name.split("_"), batch] = dict(
                zip(("p50_ms", "ndcg@10_loss", "macro_f1_loss"), values, strict=True)
            )
    table = pd.DataFrame(list(found.values()))
    table.index = pd.MultiIndex.from_tuples(found, names=["model", "runtime", "precision", "batch"])
    return table


FP32 = {"onnxruntime_fp32": (9.0, 0.0, 0.0), "openvino_fp32": (2.0, 0.0, 0.0)}
CHOICES = {
    "the quickest": ((3.0, 0.1, 0.2), (4.0, 0.0, 0.0), "onnxruntime"),
    "the quickest that stays below in classes": ((3.0, 0.1, 0.6), (4.0, 0.0, 0.0), "openvino"),
    "the quickest that stays below in order": ((3.0, 0.6, 0.1), (4.0, 0.0, 0.0), "openvino"),
    "as quick, and nearer": ((3.0, 0.4, 0.4), (3.1, 0.1, 0.2), "openvino"),
    "as quick, and less near": ((3.1, 0.1, 0.1), (3.0, 0.1, 0.2), "onnxruntime"),
    "nearer, and slower by more than noise": ((3.0, 0.4, 0.4), (3.2, 0.1, 0.2), "onnxruntime"),
    "just what is allowed": ((3.0, 0.5, 0.5), (4.0, 0.0, 0.0), "onnxruntime"),
    "a gain is no loss": ((3.0, -2.0, 0.1), (4.0, 0.0, 0.0), "onnxruntime"),
    "neither": ((3.0, 0.6, 0.0), (4.0, 0.0, 0.6), None),
}


@pytest.mark.parametrize(("ort", "openvino", "expected"), CHOICES.values(), ids=CHOICES)
def test_what_is_chosen(ort, openvino, expected):
    table = measured(**FP32, onnxruntime_int8=ort, openvino_int8=openvino)
    found = winner(table, max_loss=0.5)
    assert (found and found.runtime) == expected
    assert found is None or found.precision == "int8"


def test_classes_alone_decide_where_no_order_can_be_judged():
    table = measured(**FP32, onnxruntime_int8=(3.0, 9.0, 0.1)).drop(columns="ndcg@10_loss")
    assert winner(table, max_loss=0.5) == VARIANTS[1]


def test_without_the_float_file_no_loss_is_told(exported, pairs, tmp_path):
    folder = tmp_path / "int8 alone"
    TOKENIZER.save_pretrained(folder)
    (folder / "model.int8.onnx").write_bytes((exported / "model.int8.onnx").read_bytes())
    found = like_for_like({"model": folder}, pairs, LENGTH)
    assert {key[1:3] for key in found.index} == {("onnxruntime", "int8")}
    assert found[["macro_f1_loss", "ndcg@10_loss"]].isna().all(axis=None)
    assert winner(found, 100.0) is None
