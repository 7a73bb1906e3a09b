"""From few logged pairs to many, in as many steps: what is trained and compared, and the record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_models

import measure_shop_pairs as script
from ecomkd import features, load
from ecomkd.config import Profile

FREE = (script.FREE, script.UNTRAINED_SUM)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile with a teacher of two random layers, and the smallest shop."""
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda _, seed, **other: replace(profile, **other))
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: np.arange(len(pairs)))
    return profile


def test_students_differ_in_pairs_and_not_in_steps(tiny, monkeypatch):
    learnt, student = [], script.stages.student

    def watched(data, profile, **given):
        learnt.append((given["unlabelled"], given["steps"]))
        return student(data, profile, **given)

    monkeypatch.setattr(script.stages, "student", watched)
    found = script.measured(900, amounts=(16, 8, 4))
    assert [pairs for pairs, _ in learnt] == [16, 8, 4]
    data = load("shop", replace(tiny, unlabelled_pairs=16))
    once = -(-(len(data["train"]) + 16) // tiny.batch_size)
    assert {steps for _, steps in learnt} == {found["steps"]} == {once}
    assert set(found["systems"]) == {script.TEACHER, *FREE, *map(script.student, (16, 8, 4))}
    (asked,) = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert set(asked) == set(data["test"]["query_id"]) <= set(found["kinds"])


def test_goals_are_told_over_the_queries_of_all_shops(tmp_path):
    above = {script.TEACHER: 0.01, script.MOST: 0.03, script.MIDDLE: 0.03}
    for place, seed in enumerate((24, 25)):
        systems = {}
        for name in {name for pair in script.COMPARED for name in pair}:
            more = (-1) ** place / 50 if name == script.MIDDLE else 0
            order = {f"q{n}": 0.8 + above.get(name, 0) + more + n / 100 for n in range(4)}
            f1 = {} if name in FREE else {"macro_f1": 0.5 + above.get(name, 0)}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": dict.fromkeys(order, 0.7), **f1}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all", "steps": 9}
        part |= {"precision": "bf16", "systems": systems, "kinds": dict.fromkeys(order, "plain")}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [goal["met"] for goal in record["goals"]] == [True, False, True]
    assert record["goals"][0]["value"] == pytest.approx(0.02)
    told = script.shared.by_pair(record["data"]["differences"])
    assert told[script.MOST, script.TEACHER]["seeds"] == {"mean": pytest.approx(0.02), "low": None,
                                                          "high": None}  # fmt: skip
    kept = record["data"]["by query"]
    assert kept["seed"] == [24] * 4 + [25] * 4 and kept["random order"] == [0.7] * 8
    assert kept[script.MIDDLE] == pytest.approx([0.85, 0.86, 0.87, 0.88, 0.81, 0.82, 0.83, 0.84])
