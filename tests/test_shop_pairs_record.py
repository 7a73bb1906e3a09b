"""From few logged pairs to many, in as many steps: what is trained and compared, and the record."""

import json
from dataclasses import replace
from functools import partial

import chapter_text
import numpy as np
import pandas as pd
import pytest
import tiny_models

import measure_shop_pairs as script
from book import goals, shop_log
from ecomkd import features, load, metrics, report
from ecomkd.config import Profile

FREE = (script.FREE, script.UNTRAINED_SUM)
span = partial(chapter_text.span, value="difference")


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
    assert set(found["systems"]) == {
        *(script.TEACHER, script.FREED, *FREE),
        *map(script.student, (16, 8, 4)),
    }
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


# The record


@pytest.fixture(scope="module")
def recorded():
    return report.recorded("shop_pairs")


@pytest.fixture(scope="module")
def told(recorded):
    return script.shared.by_pair(recorded["data"]["differences"])


def test_the_tables_have_each_system_difference_and_shop(recorded, told):
    reached, apart, by_shop, _ = shop_log.pairs_part(recorded).split("\n\n")
    rows = recorded["data"]["rows"]
    assert set(shop_log.PAIRS) == set(rows)
    assert len(reached.splitlines()) == len(by_shop.splitlines()) == 2 + len(rows)
    for amount in script.AMOUNTS:
        name = script.student(amount)
        found = [report.number(rows[name][of]) for of in ("ndcg@10", "macro_f1")]
        assert f"| {name} | {amount:,} | 6,391 | {' | '.join(found)} |" in reached
    assert len(apart.splitlines()) == 2 + len(script.COMPARED)
    one = told[script.MOST, script.TEACHER]
    f1 = report.number(one["macro_f1"]["mean"])
    assert f"| {script.MOST} − teacher | {span(one)} | {f1} |" in apart


@pytest.fixture(scope="module")
def part(pytestconfig):
    """The section of the page, on one line."""
    page = (pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8")
    section = page.partition("(sec-shop-pairs)=")[2]
    return " ".join(section.split())


def least_of_a_shop(recorded) -> float:
    """The lowest end of an interval for the lead on the teacher, over the queries of one shop."""
    kept = pd.DataFrame(recorded["data"]["by query"])
    lead = kept[script.MOST] - kept[script.TEACHER]
    shops = [one for _, one in lead.groupby(kept["seed"])]
    return min(metrics.paired_bootstrap(one, 0 * one)["low"] for one in shops)


def test_many_steps_also_led_over_queries_with_five_times_the_pairs(told, part, pytestconfig):
    """Of the section before: over queries its students of many steps pass their teacher, too."""
    log = script.shared.by_pair(report.recorded("shop_log")["data"]["differences"])
    many = ("the whole log", "as many steps as the whole log")
    for name in many:
        assert log[name, "teacher"]["low"] > 0 > log[name, "teacher"]["seeds"]["low"]
    whole = chapter_text.span(log["the whole log", "teacher"], value="difference")
    assert f"too, stands above its teacher, by {whole}." in part
    leads = [log[name, "teacher"]["difference"] for name in many]
    leads += [told[name, script.TEACHER]["difference"] for name in (script.MOST, script.MIDDLE)]
    page = " ".join((pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8").split())
    assert f"above their teacher, by {min(leads):.3f} to {max(leads):.3f}." in page


def test_the_page_says_that_a_student_passes_its_teacher_and_not_by_its_pairs(recorded, told, part):
    assert [goal["met"] for goal in recorded["goals"]] == [True, False, False]
    passed = told[script.MOST, script.TEACHER]
    assert passed["low"] > 0 and f"beats its teacher, by {span(passed)}; of" in part
    tenth, hundredth = (told[script.MOST, fewer] for fewer in (script.MIDDLE, script.FEWEST))
    assert tenth["difference"] < 0 < tenth["high"]
    assert f"stands {span(tenth)} from that of 20,000, in the mean below, and" in part
    assert hundredth["low"] < 0 < hundredth["high"]
    assert f"and {span(hundredth)} from that of 2,000." in part
    lost = report.number(hundredth["high"])
    assert f"a loss of up to {lost} is not ruled out" in part
    middle, fewest = (told[fewer, script.TEACHER] for fewer in (script.MIDDLE, script.FEWEST))
    assert middle["low"] > 0 and f"20,000 pairs is {span(middle)} above the teacher" in part
    assert fewest["low"] < 0 < fewest["high"]
    assert least_of_a_shop(recorded) < 0
    assert f"the {len(recorded['data']['by query']['seed'])} test queries of both shops" in part
    assert recorded["seeds"] == [24, 25]


def test_the_page_says_that_a_teacher_without_frozen_weights_stands_above(recorded, told, part):
    better = told[script.FREED, script.TEACHER]
    assert better["low"] > 0 and f"It is {span(better)} above the first" in part
    below = told[script.MOST, script.FREED]
    turned = {"value": -below["difference"], "low": -below["high"], "high": -below["low"]}
    mean, ends = goals.span(turned).split(" ", 1)
    assert 0 < turned["low"] < 0.0001
    assert f"and that of 200,000 pairs {mean}. The interval of the latter, {ends}, ends so" in part
    kept = pd.DataFrame(recorded["data"]["by query"])
    fewest = metrics.paired_bootstrap(kept[script.FREED], kept[script.FEWEST])
    fewest = chapter_text.span(fewest, value="difference")
    assert f"the student of 2,000 pairs is {fewest} below it" in part
    assert min(map(abs, below["by_seed"])) < 0.0001
    middle = told[script.MIDDLE, script.FREED]
    assert middle["low"] < 0 < middle["high"] and f"stands {span(middle)} from it" in part


def test_in_the_mean_and_in_each_shop_classes_fall_as_pairs_grow(recorded, part):
    rows = recorded["data"]["rows"]
    names = [*map(script.student, sorted(script.AMOUNTS)), script.TEACHER]
    by_shop = np.array([rows[name]["macro_f1 by_seed"] for name in names])
    assert (np.diff(by_shop, axis=0) < 0).all()
    told = [report.number(rows[name]["macro_f1"]) for name in names]
    free = report.number(rows[script.FREED]["macro_f1"])
    sentence = "macro-F1 is {} with 2,000 pairs, {} with 20,000 and {} with 200,000."
    assert sentence.format(*told[:3]) in part
    assert f"above the teacher's {told[3]} and below the {free} of the teacher without" in part
    assert max(rows[name]["macro_f1"] for name in names) < rows[script.FREED]["macro_f1"]
    assert np.diff(by_shop[:2], axis=0).max() > -0.001
