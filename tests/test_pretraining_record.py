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
    chosen = {"precision": "fp32", "generator": script.shop.generator_hash(), "rates": found}
    (tmp_path / "once.json").write_text(json.dumps(chosen))
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
    assert sum(whole["queries by kind"].values()) == 3 * len(*asked)
    (tmp_path / "once.json").write_text(json.dumps(chosen | {"precision": "bf16"}))
    with pytest.raises(SystemExit, match="of another precision or shop; remove it"):
        script.measured(900, tmp_path)


def test_goals_are_told_over_seeds_and_lifts_over_the_queries_of_all(tmp_path):
    gains = {script.PLAIN: [0.1, 0.2, 0.15], script.WARMED: [0.1, 0.3, 0.1]}
    names = {name for pair in script.COMPARED for name in pair}
    for place, seed in enumerate((18, 19, 20)):
        systems = {}
        for name in names:
            own = gains.get(name, [0] * 3)[place]
            order = {f"q{n}": 0.7 + own * n for n in range(place + 2)}
            f1 = {"macro_f1": 0.5, "f1": [0.5] * 4} if name in script.STARTS else {}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": dict.fromkeys(order, 0.7), **f1}
        kinds = {query: "plain" if query == "q0" else "typo" for query in order}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all", "rates": {}}
        part |= {"precision": "bf16", "systems": systems, "kinds": kinds}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [goal["met"] for goal in record["goals"]] == [False] * 4
    assert record["goals"][0]["value"] == pytest.approx((0.05 + 0.2 + 0.225) / 3)
    assert record["goals"][0]["low"] < 0 < record["goals"][0]["high"]
    assert "--once --seeds 18 19 20 --merge" in record["command"]
    kinds = record["data"]["rows"][script.PLAIN]["lift@10 by kind"]
    assert kinds["plain"] == 0
    assert kinds["typo"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.15 + 0.3 + 0.45) / 6)
    assert record["data"]["queries by kind"] == {"typo": 6, "plain": 3}
