"""What book/own_catalogue.md says of runtimes and precisions, held against the record."""

import pandas as pd
import pytest

import measure_runtimes as script
from book import runtimes as page
from ecomkd import report
from ecomkd.config import Profile
from ecomkd.relevance.runtimes import BATCHES, VARIANTS


@pytest.fixture(scope="module")
def record() -> dict:
    return report.recorded("runtimes")


@pytest.fixture(scope="module")
def rows(record) -> pd.DataFrame:
    columns = ["model", "runtime", "precision", "batch"]
    return pd.DataFrame(record["data"]["rows"]).set_index(columns)


def test_each_model_ran_in_each_variant_and_size_of_batch(record, rows):
    every = [
        (model, *variant[:2], size)
        for model in page.MODELS
        for variant in VARIANTS
        for size in BATCHES
    ]
    assert list(rows.index) == every
    assert record["data"]["openvino"] and record["hardware"]["threads"] == 1


def test_the_quickest_is_int8_of_onnx_runtime_and_in_fp32_openvino(rows):
    for model in page.MODELS:
        for size in BATCHES:
            times = rows["p50_ms"].xs((model, size), level=("model", "batch"))
            assert times.idxmin() == ("onnxruntime", "int8")
            assert 0.8 < times["openvino", "fp32"] / times["onnxruntime", "fp32"] < 1


def test_no_variant_loses_more_than_a_fifth_of_a_point(rows):
    assert rows[["ndcg@10_loss", "macro_f1_loss"]].max(axis=None) < 0.2


def test_what_distillation_takes_off_within_a_variant(rows):
    shares = rows["p50_ms"].loc["student"] / rows["p50_ms"].loc["teacher"]
    assert (round(shares.min(), 2), round(shares.max(), 2)) == (0.39, 0.52)
    for size in BATCHES:
        teacher = rows["p50_ms"]["teacher", "onnxruntime", "int8", size]
        assert teacher < rows["p50_ms"]["student", "onnxruntime", "fp32", size]


def test_the_page_shows_both_models_with_both_sizes(record):
    text = page.page_part(record)
    for model in page.MODELS:
        assert f"| {model} | file |" in text
    assert text.count("ONNX Runtime int8") == 2 and "−0.11" in text


def test_the_script_measures_the_recorded_models_alone(monkeypatch, tmp_path):
    profile = Profile.named("smoke", artifacts=tmp_path)
    asked = {}
    monkeypatch.setattr(script.stages, "teacher", lambda data, profile: "its teacher")
    monkeypatch.setattr(
        script.stages, "student", lambda data, profile, **given: asked.update(given) or "a student"
    )
    monkeypatch.setattr(script.export, "exports", lambda folder, profile: folder)

    def measure(exported, pairs, length):
        asked.update(exported=exported, pairs=len(pairs), length=length)
        return pd.DataFrame({"p50_ms": [1.0]}, index=pd.Index(["teacher"], name="model"))

    monkeypatch.setattr(script, "like_for_like", measure)
    assert script.measured(profile) == [{"model": "teacher", "p50_ms": 1.0}]
    assert asked["exported"] == {"teacher": "its teacher", "student": "a student"}
    assert (asked["teacher_folder"], asked["unlabelled"]) == ("its teacher", profile.live_pairs)
    assert asked["length"] == profile.max_length
