"""Students with five times the pairs: what is trained and compared, and the record."""

import json
from dataclasses import replace
from functools import partial

import chapter_text
import numpy as np
import pytest
import tiny_models

import measure_shop_log as script
from book import shop_log
from ecomkd import features, load, report
from ecomkd.config import Profile

FREE = (script.FREE, script.UNTRAINED_SUM)
span = partial(chapter_text.span, value="mean")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile with a teacher of two random layers, and the smallest shop."""
    profile = tiny_models.distilling(tmp_path)
    monkeypatch.setattr(Profile, "named", lambda _, seed, **other: replace(profile, **other))
    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: np.arange(len(pairs)))
    return profile


def test_steps_differ_between_two_students_and_pairs_between_two(tiny):
    profile = replace(tiny, student_epochs=2, batch_size=8)
    read = script.lengths(40, 400, 40, profile)
    assert read == {script.BOOK: (40, 20), script.LONGER: (40, 55), script.WHOLE: (400, 55)}


def test_all_systems_of_a_shop_are_judged_on_the_same_queries(tiny, monkeypatch):
    learnt, student = [], script.stages.student

    def watched(data, profile, **given):
        learnt.append((given["unlabelled"], given["steps"]))
        return student(data, profile, **given)

    monkeypatch.setattr(script.stages, "student", watched)
    found = script.measured(900, log=16, fewer=8)
    assert learnt == list(found["read"].values()) and {pairs for pairs, _ in learnt} == {8, 16}
    assert set(found["systems"]) == {name for pair in script.COMPARED for name in pair}
    (asked,) = {tuple(own["ndcg@10"]) for own in found["systems"].values()}
    assert set(asked) == set(load("shop", tiny)["test"]["query_id"]) <= set(found["kinds"])


def test_goals_are_told_over_shops(tmp_path):
    above = {script.TEACHER: 0.01, script.WHOLE: 0.03, script.LONGER: 0.03}
    for place, seed in enumerate((21, 22, 23)):
        systems = {}
        for name in {name for pair in script.COMPARED for name in pair}:
            more = (place - 1) / 100 if name == script.LONGER else 0
            order = {f"q{n}": 0.8 + above.get(name, 0) + more + n / 100 for n in range(4)}
            f1 = {} if name in FREE else {"macro_f1": 0.5 + above.get(name, 0)}
            systems[name] = {"ndcg@10": order, "random_ndcg@10": dict.fromkeys(order, 0.7), **f1}
        part = {"seed": seed, "profile": {}, "hardware": {}, "generator": "of all"}
        part |= {"precision": "bf16", "systems": systems, "read": {}}
        part["kinds"] = dict.fromkeys(order, "plain")
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(part), encoding="utf-8")
    script.merge(tmp_path, tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [goal["met"] for goal in record["goals"]] == [True, False]
    assert record["goals"][0]["value"] == pytest.approx(0.02)
    assert record["goals"][1]["value"] == pytest.approx(0.0)
    told = script.shared.by_pair(record["data"]["differences"])
    assert told[script.WHOLE, script.TEACHER]["macro_f1"]["mean"] == pytest.approx(0.02)
    assert not any("macro_f1" in told[pair] for pair in told if set(pair) & set(FREE))


# The record


def test_the_tables_have_each_system_difference_and_shop():
    record = report.recorded("shop_log")
    reached, apart, by_shop, _ = shop_log.page_part(record).split("\n\n")
    assert len(reached.splitlines()) == len(by_shop.splitlines()) == 2 + len(shop_log.SYSTEMS)
    assert f"| {shop_log.SYSTEMS[script.LONGER]} | 20,000 | 3,266 |" in reached
    assert f"| {shop_log.SYSTEMS[script.FREE]} |  |  |" in reached
    assert len(apart.splitlines()) == 2 + len(script.COMPARED)
    told = script.shared.by_pair(record["data"]["differences"])
    (row,) = [line for line in apart.splitlines() if "whole log − teacher |" in line]
    one = told[script.WHOLE, script.TEACHER]
    assert f"| {span(one['seeds'])} | {span(one['macro_f1'])} |" in row


def test_the_page_says_that_more_pairs_are_not_shown_to_help(pytestconfig):
    record = report.recorded("shop_log")
    told = script.shared.by_pair(record["data"]["differences"])
    page = " ".join((pytestconfig.rootpath / "book" / "more_pairs.md").read_text("utf-8").split())
    part = page.partition("(sec-shop-log)=")[2].partition("(sec-shop-pairs)=")[0]
    passed, pairs, steps = (
        told[pair]
        for pair in (
            (script.WHOLE, script.TEACHER),
            (script.WHOLE, script.LONGER),
            (script.LONGER, script.BOOK),
        )
    )
    assert [goal["met"] for goal in record["goals"]] == [False, False]
    assert all(one["seeds"]["low"] < 0 < one["seeds"]["high"] for one in (passed, pairs, steps))
    assert min(passed["by_seed"]) > 0 and min(steps["by_seed"]) > 0
    assert f"the whole log stands {span(passed['seeds'])} from its teacher, in the mean" in part
    assert f"the pairs it stands {span(pairs['seeds'])}. Both goals" in part
    assert f"bring over the same pairs, {span(steps['seeds'])}; this rises on each shop" in part
    over_queries = chapter_text.span(steps, value="difference")
    assert steps["low"] > 0 and f"of these three they do, by {over_queries}." in part
    free = told[script.WHOLE, script.UNTRAINED_SUM]["seeds"]
    assert f"the student of the whole log stands by {span(free)};" in part
    below = told[script.BOOK, script.TEACHER]["seeds"]
    turned = {"mean": -below["mean"], "low": -below["high"], "high": -below["low"]}
    assert below["high"] < 0 and f"is {span(turned)} *below* its teacher." in part
    assert len(record["seeds"]) == 3 and "over the three shops" in part
    (read,) = {json.dumps(own) for own in record["data"]["read"].values()}
    assert {pairs for pairs, _ in json.loads(read).values()} == {20_000, 100_000}
