"""Students of a teacher without frozen weights: what is compared, on tiny data."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models

import measure_freed_teacher as script
from ecomkd import load, models, report
from ecomkd.config import Profile
from ecomkd.relevance import stages

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"rate": 3e-4, "dropout": 0.0, "steps": 1.0, "warmed": 0.0}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A teacher of two random layers, the lower one frozen, and the smallest shop."""
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda seed: profile)
    settings = {script.LABELS: SETTINGS, script.MORE: SETTINGS | {"steps": 2.0}}
    monkeypatch.setattr(script, "chosen", lambda _: settings)
    return profile


def test_the_settings_are_those_that_validation_chose():
    tried = report.recorded("labels_only")["data"]["tried"]
    for seed, of_shop in tried.items():
        found = script.chosen(int(seed))
        assert set(found) == {script.LABELS, script.MORE}
        for name, settings in found.items():
            (run,) = (one for one in of_shop[name] if settings.items() <= one.items())
            assert run["quality"] == max(one["quality"] for one in of_shop[name])


def test_no_weight_of_the_freed_teacher_stands_still(tiny, monkeypatch):
    data, frozen = load("shop", tiny), []
    begun = models.load(stages.origin(data, tiny)).state_dict()
    freeze = models.freeze
    monkeypatch.setattr(
        models, "freeze", lambda model, layers: frozen.append(layers) or freeze(model, layers)
    )
    for make, layers in ((stages.teacher, 1), (script.freed, None)):
        there = models.load(make(data, tiny)).state_dict()
        words = "bert.embeddings.word_embeddings.weight"
        layer = "bert.encoder.layer.0.attention.self.query.weight"
        for name in (words, layer):
            assert np.array_equal(there[name], begun[name]) == (layers is not None)
    # The recorded teacher's warm-up was there already; the other has one of its own.
    assert frozen == [1, None, None]


def test_all_systems_of_a_seed_are_judged_on_the_same_queries(tiny):
    learnt = []
    whole = stages.student

    def watched(data, own, row, *, teacher_folder, steps):
        learnt.append((row, teacher_folder, steps))
        return whole(data, own, row, teacher_folder=teacher_folder, steps=steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.stages, "student", watched)
        found = script.measured(900)
    assert set(found["systems"]) == {name for pair in script.COMPARED for name in pair}
    assert len({tuple(own["ndcg@10"]) for own in found["systems"].values()}) == 1
    rows = ["none", *["kd", "kd_unlabelled"] * 2]
    assert [row for row, *_ in learnt] == rows
    recorded, free = learnt[0][1], learnt[-1][1]
    assert [teacher for _, teacher, _ in learnt] == [recorded] * 3 + [free] * 2
    assert recorded != free
    few, many = learnt[0][2], learnt[-1][2]
    assert many == 2 * few and [steps for *_, steps in learnt] == [few, few, many, few, many]
    assert found["settings"][script.MORE]["steps"] == 2.0


def test_shares_and_goals_are_told_over_seeds(tmp_path):
    names = {name for pair in script.COMPARED for name in pair}
    gains = {
        script.FREED: [0.10, 0.10, 0.10],
        script.MORE_FREED: [0.10, 0.09, 0.11],
        script.MORE: [0.09, 0.05, 0.12],
    }
    for place, seed in enumerate((18, 19, 20)):
        systems = {}
        for name in names:
            gain = gains.get(name, [0.02] * 3)[place]
            order = {f"q{n}": 0.7 + gain + n / 100 for n in range(3)}
            chance = {query: 0.7 + n / 100 for n, query in enumerate(order)}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": chance, "macro_f1": 0.5}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        part |= {"precision": "bf16", "systems": systems, "settings": {}}
        part["kinds"] = dict.fromkeys(order, "plain")
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    added, freedom, share = record["goals"]
    assert added["value"] == pytest.approx(0.08) and added["met"]
    assert freedom["value"] == pytest.approx(0.04 / 3) and not freedom["met"]
    assert share["value"] == pytest.approx(1.0) and share["met"]
    assert record["data"]["kept"][script.MORE]["value"] == pytest.approx(0.26 / 0.30)
    assert record["seeds"] == [18, 19, 20]


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("freed_teacher")["data"]


def over_shops(recorded, system, against):
    (one,) = (
        one
        for one in recorded["differences"]
        if (one["system"], one["against"]) == (system, against)
    )
    return one


def test_a_better_teacher_is_better_and_its_gain_is_in_the_pairs_that_nobody_judged(recorded):
    """Chapter 4, and book/compared.md with the same numbers."""
    assert over_shops(recorded, script.FREED, script.TEACHER)["seeds"]["low"] > 0
    assert over_shops(recorded, script.MORE_FREED, script.LABELS)["seeds"]["low"] > 0
    soft = over_shops(recorded, script.SOFT_FREED, script.LABELS)["seeds"]
    more = over_shops(recorded, script.MORE_FREED, script.SOFT_FREED)["seeds"]
    assert soft["low"] < 0 < soft["high"] and more["low"] > 0
    apart = over_shops(recorded, script.SOFT_FREED, script.SOFT)["seeds"]
    assert apart["low"] < 0 < apart["high"]
    page = " ".join((ROOT / "book" / "compared.md").read_text(encoding="utf-8").split())
    spans = ["{mean:.3f} [{low:.3f}, {high:.3f}]".format(**one) for one in (soft, more)]
    assert " and ".join(spans).replace("-", "−") in page


def test_no_student_is_shown_to_pass_it_and_two_cannot_be_told_apart(recorded):
    """Chapters 4 and 5, and the FAQ."""
    for system in script.KEPT:
        behind = over_shops(recorded, system, script.FREED)["seeds"]
        assert behind["mean"] < 0 < behind["high"]
    apart = over_shops(recorded, script.MORE_FREED, script.MORE)["seeds"]
    assert apart["low"] < 0 < apart["high"]
    shares = [recorded["kept"][name]["value"] for name in script.KEPT]
    assert 0.97 < shares[0] < 1 and shares[1] < shares[0]
    for name, share in zip(script.KEPT, shares, strict=True):
        of = [recorded["rows"][system]["lift@10"] for system in (name, script.FREED)]
        assert share == pytest.approx(of[0] / of[1], abs=1e-3)


def test_rows_that_both_records_have_are_the_same(recorded):
    others = report.recorded("labels_only")["data"]["rows"]
    for name in (script.TEACHER, script.LABELS, script.SOFT, script.MORE):
        assert recorded["rows"][name]["by_seed"] == pytest.approx(others[name]["by_seed"], abs=1e-6)
    teacher = report.recorded("pretraining")["data"]["rows"]["pretrained, warmed up"]["by_seed"]
    assert recorded["rows"][script.FREED]["by_seed"] == pytest.approx(teacher[:3], abs=1e-6)
