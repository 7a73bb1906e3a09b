"""The script that measures ways to a student that writes, with tiny models, and its record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_baskets
import torch

import measure_writers as script
from ecomkd import describe, report
from ecomkd.config import Profile
from ecomkd.describe import generation

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writers")
    named = Profile.named

    def tiny(name=None, seed=0):
        return named("smoke", seed=seed, artifacts=folder, device="cpu", precision="fp32")

    def some(profile, undescribed):
        task = describe.shop_task(profile)
        known = task.undescribed[:undescribed]
        return replace(task, test=task.test[:4], undescribed=known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Profile, "named", tiny)
        patch.setattr(script.demo_store, "task", some)
        patch.setattr(script.demo_store, "catalogue", lambda: range(30))
        patch.setattr(script, "FURTHER_RECORDS", 4)
        patch.setattr(script, "UNDESCRIBED", 8)
        patch.setattr(script, "LONG_STEPS", 3)
        patch.setattr(script, "ON_POLICY", 2)
        patch.setattr(script, "DRAWN", 2)
        out = folder / "record.json"
        for line in (f"--seeds {' '.join(map(str, SEEDS))}", f"--merge --out {out}"):
            tiny_baskets.call(patch, script, f"{line} --folder {folder / 'parts'}")
    parts = [json.loads((folder / "parts" / f"seed{seed}.json").read_text()) for seed in SEEDS]
    return json.loads(out.read_text(encoding="utf-8")), parts


def test_every_writer_has_a_row_and_those_without_a_model_are_clean(record):
    rows = record[0]["data"]["rows"]
    assert tuple(rows) == script.ROWS
    for name in (script.WRITTEN, script.PLAIN, script.TEMPLATE):
        assert rows[name]["clean"]["value"] == rows[name]["recall"]["value"] == 1
    assert {row["guarded"]["clean"]["value"] for row in rows.values()} == {1.0}


def test_rows_are_those_of_the_draws(record):
    data, parts = record[0]["data"], record[1]
    assert data["products"] == len({one for part in parts for one in part["product"]})
    assert data["catalogue"] == 30
    for name, own in data["rows"].items():
        invented = np.concatenate([part["rows"][name]["invented"] for part in parts])
        assert own["invented"]["value"] == pytest.approx(invented.mean())


def test_speeds_are_compared_within_a_round(record):
    data, parts = record[0]["data"], record[1]
    for together in (1, 32):
        rounds = [
            a / b
            for part in parts
            for a, b in zip(
                part["speed"][f"{script.LONG}/{together}"],
                part["speed"][f"{script.TEACHER}/{together}"],
                strict=True,
            )
        ]
        assert data["speed"][str(together)]["value"] == pytest.approx(np.median(rounds))


def test_the_teachers_texts_for_more_products_go_on_where_the_fewer_end(tmp_path, monkeypatch):
    profile = Profile.named("smoke", seed=0, artifacts=tmp_path)
    of = describe.shop_task(profile)
    run = object.__new__(script.Run)
    run.of, run.tutor = of, tmp_path
    monkeypatch.setattr(script, "FURTHER_RECORDS", 4)
    monkeypatch.setattr(
        script.Run, "write", lambda self, folder, asked: [one.product_id for one in asked]
    )
    for more in (0, 4, 8):
        products, texts = run.lesson(more)
        assert products == of.train + of.undescribed[:more]
        assert texts == [one.product_id for one in products]


def test_the_divergence_counts_the_tokens_of_the_texts_alone():
    """And is nothing between a model and itself."""
    texts = ["a red mug of steel", "a blue lamp", "the mug is red"] * 3
    made = [generation.tiny(texts, tokens=300, seed=seed) for seed in (0, 1)]
    models, tokenizer = [model.eval() for model, _ in made], made[0][1]
    rows = generation.encode(tokenizer, ["a red mug", "a"], ["the mug is red", "blue"])
    for model in models:
        assert script.forward_kl(model, model, rows, tokenizer).item() == pytest.approx(0, abs=1e-6)
    found = script.forward_kl(*models, rows, tokenizer).item()
    own = []
    for row in rows:
        with torch.inference_mode():
            logits = [model(torch.tensor([row["input_ids"]])).logits[0] for model in models]
        q, p = (one.log_softmax(-1) for one in logits)
        text = [place - 1 for place, label in enumerate(row["labels"]) if label >= 0]
        own += (p.exp() * (p - q)).sum(-1)[text].tolist()
    assert found == pytest.approx(np.mean(own), rel=1e-4)


RECORD = report.recorded("writers")["data"]


def gap(a: str, b: str, measure: str) -> dict:
    return RECORD["minus"][f"{a} − {b}"][measure]


def test_what_a_student_reads_decides_and_neither_its_start_nor_its_own_texts():
    assert gap(script.MORE, script.TUNED, "recall")["low"] > 0
    for a, b in ((script.MOST, script.LONG), (script.TUNED, script.FIRST),
                 (script.OWN, script.FURTHER)):  # fmt: skip
        for measure in ("recall", "clean"):
            found = gap(a, b, measure)
            assert found["low"] < 0 < found["high"]
    assert gap(script.OWN, script.FURTHER, "contradicted")["low"] > 0
    steps = {measure: gap(script.LONG, script.MORE, measure) for measure in ("recall", "clean")}
    assert steps["recall"]["low"] < 0 < steps["clean"]["low"]


def test_four_texts_of_the_student_take_longer_than_one_of_the_teacher_and_name_less():
    assert 4 / RECORD["speed"]["1"]["value"] > 1
    rows = RECORD["rows"]
    chosen = rows[script.CHOSEN[script.LONG]]["recall"]["value"]
    assert rows[script.LONG]["recall"]["value"] < chosen < rows[script.TEACHER]["recall"]["value"]
    assert gap(script.CHOSEN[script.LONG], script.LONG, "recall")["low"] > 0


def test_the_longest_curve_takes_most_of_what_the_store_can_give():
    scale, read = RECORD["scale"], 1_600
    left = RECORD["catalogue"] - scale["test"] - scale["validation"]
    assert read == scale["described"] + scale["undescribed"] < left < 20_000


def test_the_student_misses_its_share_of_clean_texts():
    assert RECORD["clean, student over teacher"]["value"] < 0.8
