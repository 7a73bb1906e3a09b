"""Students of labels alone at their best: how settings are chosen, and what is recorded."""

import json

import numpy as np
import pytest
import tiny_models

import measure_labels_only as script
from ecomkd import features, load
from ecomkd.config import Profile


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile with a teacher of two random layers, and the smallest shop."""
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda seed: profile)
    return profile


class Told(script.Search):
    """A search that is told what validation would say of settings."""

    def __init__(self, quality):
        self.profile, self.tried, self.row = Profile.named("book"), [], "none"
        self.quality = lambda settings: {"quality": quality(**settings)}


def test_the_rate_goes_on_while_the_best_lies_at_an_end():
    search = Told(lambda rate, dropout, steps, warmed: dropout - warmed - abs(rate - 1e-5))
    search.run()
    best = search.best()
    assert best["rate"] == pytest.approx(1e-4 / 9)
    assert (best["dropout"], best["warmed"], best["steps"]) == (0.1, 0.0, 1.0)
    rates = [one["rate"] for one in search.tried if one["steps"] == 1]
    assert rates == pytest.approx([3e-4] * 3 + [1e-4, 1e-4 / 3, 1e-4 / 9, 1e-4 / 27])
    assert {one["steps"] for one in search.tried} == {0.5, 1.0, 2.0}


def test_steps_are_halved_and_doubled_at_the_best_rate():
    search = Told(lambda rate, dropout, steps, warmed: -abs(rate - 9e-4) - abs(steps - 2))
    search.run()
    best = search.best()
    assert best["rate"] == pytest.approx(9e-4) and best["steps"] == 2.0
    assert sorted({one["steps"] for one in search.tried}) == [0.5, 1.0, 2.0, 4.0]
    fewer = Told(lambda rate, dropout, steps, warmed: -steps)
    fewer.run()
    assert sorted({one["steps"] for one in fewer.tried}) == [0.25, 0.5, 1.0]


UNTRAINED = (script.FREE, script.SHORT[32], script.UNTRAINED_SUM)


def ranks(pairs, profile):
    return np.arange(len(pairs))


def test_what_validation_said_is_read_from_the_log_and_nothing_trained_again(tmp_path, monkeypatch):
    judged = iter([{"quality": 0.5}, {"quality": 0.7}])
    monkeypatch.setattr(script.Search, "folder", lambda self, settings: tmp_path)
    monkeypatch.setattr(script.classifiers, "judged", lambda *_: next(judged))
    data = {"train": range(64), "unlabelled": range(64), "validation": None}
    profile = Profile.named("smoke")

    def search():
        return script.Search(data, profile, tmp_path, "none", tmp_path / "tried900-none.json")

    first, again = search(), search()
    for one in (first, again):
        one.validate()
        one.validate(dropout=0.1)
    assert [one["quality"] for one in first.tried] == [0.5, 0.7]
    assert again.tried == first.tried and again.best()["dropout"] == 0.1
    with pytest.raises(StopIteration):
        search().validate(steps=2.0)


def test_all_systems_of_a_seed_are_judged_on_the_same_queries(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(script.Search, "run", lambda self: self.validate())
    monkeypatch.setattr(features, "bi_encoder_scores", ranks)
    found = script.measured(900, tmp_path)
    rows = {script.TEACHER, script.FREE} | {name for pair in script.COMPARED for name in pair}
    assert set(found["systems"]) == rows
    asked = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert len(asked) == 1
    assert set(*asked) <= set(load("shop", tiny)["test"]["query_id"])
    assert set(found["tried"]) == set(script.SEARCHED)
    assert all(len(tried) == 1 for tried in found["tried"].values())
    parts = [found | {"seed": seed} for seed in (1, 2, 3)]
    whole = script.summary(parts)
    assert set(whole["rows"]) == set(found["systems"])
    assert not any("macro_f1" in whole["rows"][name] for name in UNTRAINED)
    for one in whole["differences"]:
        assert one["difference"] == pytest.approx(one["seeds"]["mean"])
        assert ("macro_f1" in one) == (one["against"] not in UNTRAINED)
        assert one["by_seed"] == pytest.approx([one["difference"]] * 3)


def test_goals_are_told_over_seeds(tmp_path):
    names = {name for pair in script.COMPARED for name in pair}
    gains = {script.MORE: [0.03, 0.02, 0.04], script.MORE + script.CUT: [0.03, -0.03, 0.0]}
    for place, seed in enumerate((18, 19, 20)):
        systems = {}
        for name in names:
            order = {f"q{n}": 0.8 + gains.get(name, [0] * 3)[place] + n / 100 for n in range(4)}
            f1 = {} if name in UNTRAINED else {"macro_f1": 0.5}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": dict.fromkeys(order, 0.7), **f1}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        kinds = {"q0": script.UNSEEN, "q1": "plain", "q2": "plain", "q3": script.UNSEEN}
        part |= {"precision": "bf16", "systems": systems, "tried": {}, "kinds": kinds}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [goal["met"] for goal in record["goals"]] == [True, False]
    assert record["goals"][0]["value"] == pytest.approx(0.03)
    assert record["seeds"] == [18, 19, 20] and record["hardware"]["precision"] == "bf16"
    row = record["data"]["rows"][script.MORE]
    assert row["lift@10"] == pytest.approx(0.145)
    assert row["lift@10 by kind"] == pytest.approx({script.UNSEEN: 0.145, "plain": 0.145})
    assert record["data"]["queries by kind"] == {script.UNSEEN: 6, "plain": 6}
    added = record["data"]["added on"]
    assert [added[of]["difference"] for of in (script.UNSEEN, "other")] == pytest.approx([0.03] * 2)
