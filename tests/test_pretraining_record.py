"""What pretraining is worth: how rates are chosen, and what is measured, on tiny data."""

import json
from pathlib import Path

import chapter_text
import nbformat
import numpy as np
import pytest
import tiny_models

import measure_pretraining as script
from book import values
from ecomkd import features, load, metrics, models, report
from ecomkd.config import Profile

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    profile = tiny_models.warming_up(tmp_path)
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


# The record ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("pretraining")["data"]


def ahead(recorded, one, other):
    (found,) = (d for d in recorded["differences"] if (d["system"], d["against"]) == (one, other))
    return found


def test_pretraining_is_nearly_all_and_one_pass_of_warm_up_does_not_stand_in_for_it(recorded):
    """Chapter 2, and its exercise on claims."""
    rows = recorded["rows"]
    shops = len(rows[script.PLAIN]["by_seed"])
    assert shops == len(report.recorded("pretraining")["seeds"]) >= 5
    alone, warmed = (ahead(recorded, *pair)["seeds"] for pair in script.WANTED[:2])
    warm_up, of_random = (ahead(recorded, *pair)["seeds"] for pair in script.WANTED[2:])
    assert min(alone["low"], warmed["low"]) > 0.1 > warm_up["high"] > warm_up["low"] > 0
    assert of_random["low"] < 0 < of_random["high"]
    lifts = [np.array(rows[name]["lift@10 by_seed"]) for name in (script.PLAIN, script.WARMED)]
    assert max(lifts[0]) > min(lifts[1])  # their rows overlap, and the difference is told
    no_label = script.UNTAUGHT[script.RANDOM_WARMED]
    assert abs(rows[no_label]["lift@10"]) < 0.02
    assert max(rows[script.RANDOM]["lift@10"], rows[script.RANDOM_WARMED]["lift@10"]) < 0.03
    assert max(rows[script.RANDOM]["lift@10 by kind"].values()) < 0.05
    tried = {name: recorded["rates"][name]["tried warm-up"] for name in script.UNTAUGHT}
    agreed = {name: max(one["agreement"] for one in own) for name, own in tried.items()}
    assert agreed[script.RANDOM_WARMED] < 0.4 < 0.85 < agreed[script.WARMED]


def test_labels_bring_the_pretrained_network_above_what_is_free_without_a_warm_up(recorded):
    """Chapters 2 and 7: in twice the passes, at a rate that was chosen with all labels."""
    assert ahead(recorded, script.PLAIN, script.FREE)["seeds"]["low"] > 0
    chosen = recorded["rates"][script.PLAIN]["rate"]
    before = report.recorded("methods_rates")["data"]
    assert before["chosen"]["full"] == 2 * chosen and before["labels"] <= 1000
    methods = report.recorded("methods")["data"]["summary"]
    (full,) = (m for m in methods if (m["method"], m["labels"]) == ("full", 4500))
    assert recorded["rows"][script.PLAIN]["macro_f1"] > full["macro_f1"]["high"] + 0.05


def test_freezing_cost_order_in_the_same_shops_and_no_class_that_shows(recorded):
    """Chapter 2, "One doubt": the book's recipe keeps three layers and the embeddings still."""
    heads = report.recorded("new_head")
    assert heads["seeds"] == report.recorded("pretraining")["seeds"]
    frozen, freed = heads["data"]["rows"]["drawn, 4500 labels"], recorded["rows"][script.WARMED]
    gains = {
        of: metrics.seed_interval(np.subtract(freed[f"{of} by_seed"], frozen[f"{of} by_seed"]))
        for of in ("lift@10", "macro_f1")
    }
    assert gains["lift@10"]["low"] > 0
    assert gains["macro_f1"]["low"] < 0 < gains["macro_f1"]["high"]


def test_all_rates_lie_inside_those_that_were_tried(recorded):
    for own in recorded["rates"].values():
        for rate, tried in (("rate", "tried"), ("warm-up", "tried warm-up")):
            if rate in own:
                assert min(t["rate"] for t in own[tried]) < own[rate]
                assert own[rate] < max(t["rate"] for t in own[tried])


def test_the_kinds_on_which_the_cosine_is_ahead_are_those_that_the_chapter_names(recorded):
    chapter = nbformat.read(ROOT / "notebooks" / "02_teacher.ipynb", as_version=4)
    taught, free = (
        recorded["rows"][name]["lift@10 by kind"] for name in (script.WARMED, script.FREE)
    )
    easy = [kind.replace("_", " ") for kind in free if free[kind] > taught[kind]]
    assert values.values(chapter)["free_kinds"] == ", ".join(sorted(easy))


def test_chapter_2_tells_the_goal_that_is_missed():
    missed = [goal for goal in report.recorded("pretraining")["goals"] if not goal["met"]]
    assert [goal["name"].partition(" (")[0] for goal in missed] == [
        "nDCG@10: the warm-up, of random weights"
    ]
    assert "to random weights 0.006 (−0.005 to 0.017), which misses our goal" in chapter_text.of(
        "02_teacher"
    )
