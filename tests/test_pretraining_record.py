"""What pretraining is worth: how rates are chosen, and what is measured, on tiny data."""

import json

import numpy as np
import pytest
import tiny_models

import measure_pretraining as script
from ecomkd import features, load, models
from ecomkd.config import Profile


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile with a teacher of two random layers, and the smallest shop."""
    start = tiny_models.save(tiny_models.bert(), tmp_path / "pretrained")
    profile = Profile.named(
        "smoke", teacher=str(start), warm_up_pairs=16, device="cpu", precision="fp32",
        frozen_layers=1, artifacts=tmp_path / "artifacts", queries=24,
    )  # fmt: skip
    monkeypatch.setattr(Profile, "named", lambda seed=0: profile)
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: np.arange(len(pairs)))
    monkeypatch.setattr(script, "RATES", (1e-4, 2e-4))
    return profile


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (2e-4, [1e-4, 2e-4, 4e-4]),
        (4e-4, [1e-4, 2e-4, 4e-4, 8e-4]),
        (1e-5, [2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4]),
    ],
)
def test_the_rate_goes_on_while_the_best_lies_at_an_end(peak, tried):
    best, log = script.best_rate(lambda rate: -abs(rate - peak))
    assert [one["rate"] for one in log] == pytest.approx(tried)
    assert best == max(log, key=lambda one: one["quality"])["rate"]
    assert [one["quality"] for one in log] == [-abs(one["rate"] - peak) for one in log]


def test_no_weight_is_frozen_and_random_weights_have_the_shape_of_the_pretrained(tiny, tmp_path):
    pretrained, random = (
        script.first(tiny, script.STARTS[name], tmp_path) for name in (script.PLAIN, script.RANDOM)
    )
    assert pretrained.frozen_layers is None and random.frozen_layers is None
    assert pretrained.teacher == tiny.teacher
    one, other = (models.load(profile.teacher) for profile in (pretrained, random))
    assert models.weights_digest(one.base_model) != models.weights_digest(other.base_model)
    shapes = [
        {name: w.shape for name, w in of.base_model.named_parameters()} for of in (one, other)
    ]
    assert shapes[0] == shapes[1]


def test_each_start_is_taught_at_its_own_rates_and_judged_on_the_same_queries(
    tiny, tmp_path, monkeypatch
):
    found = {name: script.tuned(name) for name in script.STARTS}
    assert {name for name, own in found.items() if "warm-up" in own} == set(script.UNTAUGHT)
    found[script.RANDOM]["rate"], found[script.WARMED]["warm-up"] = 0.125, 0.25
    (tmp_path / "once.json").write_text(json.dumps(found))
    taught, warmed = [], []
    teacher, warm_up = script.stages.teacher, script.stages.warm_up

    def seen(data, profile, checkpoint):
        taught.append((profile.teacher_learning_rate, bool(profile.warm_up_pairs)))
        return teacher(data, profile, checkpoint=checkpoint)

    def warmed_up(data, profile):
        warmed.append(profile.student_learning_rate)
        return warm_up(data, profile)

    monkeypatch.setattr(script.stages, "teacher", seen)
    monkeypatch.setattr(script.stages, "warm_up", warmed_up)
    part = script.measured(900, tmp_path)
    assert taught == [(found[name]["rate"], start.warmed) for name, start in script.STARTS.items()]
    assert set(warmed) == {found[name]["warm-up"] for name in script.UNTAUGHT}
    assert set(part["systems"]) == {name for pair in script.COMPARED for name in pair}
    asked = {tuple(own["ndcg@10"]) for own in part["systems"].values()}
    assert len(asked) == 1 and set(*asked) <= set(load("shop", tiny)["test"]["query_id"])
    whole = script.summary([part | {"seed": seed} for seed in (1, 2, 3)])
    told = {(one["system"], one["against"]) for one in whole["differences"] if "macro_f1" in one}
    assert told == {pair for pair in script.COMPARED if set(pair) <= set(script.STARTS)}
    assert len(whole["rows"][script.PLAIN]["f1"]) == 4
    assert set(script.WANTED) <= set(script.COMPARED)
