"""The script that measures transfer between shops, on made-up ones, and the record it writes."""

from dataclasses import replace

import chapter_text
import numpy as np
import pytest
import test_recommend_networks as networks
import tiny_baskets

import measure_cross_platform as script
import other_shop
from ecomkd import recommend, report
from ecomkd.data import retail
from ecomkd.data.baskets import sample

SHARES = (0, 1)
SEEDS = (0, 1, 2)
GAIN = 0.1
"""By how much, in the made-up search results, what was moved is better."""


def searched(seed: int) -> dict:
    """What `search` returns, with known differences between rows."""
    rng = np.random.default_rng(seed)
    targets: dict = {}
    for target in (script.PLAIN, script.TERSE, script.ICECAT):
        base = rng.random(20) * 0.5
        rows = {"bi-encoder": base}
        for other in (script.PLAIN, script.TERSE, script.ICECAT):
            rows[f"{other}, zero-shot"] = base - GAIN
            rows[f"student of {other}"] = base
        rows |= {f"alone, {n}": base for n in script.QUERIES}
        for other in (script.PLAIN, script.ICECAT):
            if other != target:
                rows |= {f"from {other}, {n}": base + GAIN for n in script.QUERIES}
        rows["student of both"] = base - 0.02
        targets[target] = {
            name: {f"q{row}": float(value) for row, value in enumerate(own)}
            for name, own in rows.items()
        }
    worse = {"difference": -0.1, "low": -0.2, "high": -0.05, "says": "harms", "sure": True}
    better = {"difference": 0.1, "low": 0.05, "high": 0.2, "says": "helps", "sure": False}
    pairs = [
        {
            "source": source,
            "target": target,
            "queries": queries,
            "distance": 1.0 + queries / 100,
            "likeness": 0.5 - queries / 100,
            "foreseen": {"zero-shot": told, "tuned": better},
            "zero-shot": outcome,
            "tuned": better,
        }
        for source, target in ((script.PLAIN, script.ICECAT), (script.ICECAT, script.PLAIN))
        for queries, told, outcome in zip(
            script.QUERIES, (worse, better, worse), (worse, worse, worse), strict=True
        )
    ]
    return {"ndcg": targets, "random": dict.fromkeys(targets, 0.2), "pairs": pairs}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    baskets = tiny_baskets.shop()
    departments = np.where(np.arange(len(baskets.items)) % 2, "A", "B")
    baskets = replace(baskets, items=baskets.items.assign(department=departments))
    (folder / "online_retail").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        tiny_baskets.shrink(patch, script, baskets, folder)
        patch.setattr(retail, "load", lambda path: sample(baskets, 20, 1))
        patch.setenv("ECOMKD_REAL_DATA", str(folder))
        patch.setattr(script, "SHARES", SHARES)
        patch.setattr(script, "SHOPS", {"a": ("A",)})
        for name in ("SOURCE_USERS", "TARGET_USERS", "TOLD_USERS"):
            patch.setattr(script, name, 10)
        patch.setattr(other_shop, "STEPS", 2)
        patch.setattr(script, "KINDS", {**script.KINDS, "search": searched})
        return tiny_baskets.record_of(patch, script, folder, SEEDS)


def test_the_curve_is_the_mean_of_the_seeds(record):
    told, parts = record[0]["data"]["recommendation"], record[1]["recommendation"]
    assert [row["share"] for row in told["curve"]] == list(SHARES)
    assert [row["baskets"] for row in told["curve"]] == sorted(
        row["baskets"] for row in told["curve"]
    )
    for place, row in enumerate(told["curve"]):
        for name, own in row["rows"].items():
            seen = [np.mean(part["curve"][place]["rows"][name]["recall"]) for part in parts]
            assert own["value"] == pytest.approx(np.mean(seen))
            assert own["by seed"] == pytest.approx(seen)
            assert own["low"] <= own["value"] <= own["high"]


def test_with_no_basket_nothing_is_learnt_and_nothing_popular(record):
    first, second = record[0]["data"]["recommendation"]["curve"][:2]
    assert first["baskets"] == first["users"] == 0
    assert {"alone", "moved", script.POPULAR, script.KNN}.isdisjoint(first["rows"])
    assert {"alone", "moved", script.POPULAR, script.KNN} <= set(second["rows"])


def test_a_difference_is_that_of_the_two_rows(record):
    told = record[0]["data"]["recommendation"]
    for place, row in enumerate(told["curve"]):
        moved, alone = (row["rows"][script._at(name, place)] for name in ("moved", "alone"))
        found = told["moved − alone"]["recall"][place]["difference"]
        assert found == pytest.approx(moved["value"] - alone["value"])
        worth = told["worth"]["recall"][place]["value"]
        assert worth <= told["curve"][-1]["baskets"] - row["baskets"] + 1e-9


def test_search_rows_and_goals_have_the_differences_that_were_put_in(record):
    data = record[0]["data"]["search"]
    assert data[script.ICECAT]["queries"] == 20  # the same queries in each seed
    assert data[script.PLAIN]["queries"] == 60  # each seed's own
    minus = data[script.ICECAT]["minus"]
    assert minus[f"from {script.PLAIN} − alone, 10"]["difference"] == pytest.approx(GAIN)
    assert minus[f"{script.PLAIN}, zero-shot − bi-encoder"]["high"] == pytest.approx(-GAIN)
    goals = {goal["name"]: goal for goal in record[0]["goals"]}
    both = goals["icecat: nDCG@10, student of both teachers minus student of its own"]
    assert both["value"] == pytest.approx(-0.02)
    assert not both["met"]
    for target, other in ((script.PLAIN, script.ICECAT), (script.ICECAT, script.PLAIN)):
        own = data[target]["minus, over seeds"][f"from {other}, 10 − {script.FREE}"]
        assert (own["low"], own["value"], own["high"]) == pytest.approx((GAIN, GAIN, GAIN))
        name = f"{target}: nDCG@10 after 10 queries, from {other} minus {script.FREE}"
        goal = next(own for own in goals.values() if own["name"].startswith(name))
        assert goal["met"] and goal["value"] == pytest.approx(GAIN)


def test_forecasts_are_counted_right(record):
    found = record[0]["data"]["forecasts"]
    zero, tuned = (found["summary"][f"search, {outcome}"] for outcome in ("zero-shot", "tuned"))
    assert zero["right"]["share"] == pytest.approx(2 / 3)
    assert zero["right where it was sure"]["share"] == 1
    assert zero["helped"]["share"] == 0
    assert (tuned["right"]["cases"], tuned["right"]["share"]) == (18, 1)
    assert tuned["right where it was sure"]["cases"] == 0
    own = [row for row in found["cases"] if row["kind"] == "recommendation"]
    assert {(row["source"], row["target"]) for row in own} == {("a", "gifts"), ("gifts", "a")}
    assert len(own) == 2 * len(SEEDS)
    goal = next(g for g in record[0]["goals"] if g["name"].startswith("search, zero-shot: share"))
    assert goal["value"] == pytest.approx(-1 / 3)  # always to say "harms" is right every time
    assert not goal["met"]


def test_forecasts_are_counted_beside_whoever_always_says_the_same():
    rows = [
        {"seed": seed, "source": "a", "target": target} for seed in range(3) for target in "bcd"
    ]
    helped = [True, True, False] * 3
    found = script.beside_constant(rows, [True] * 9, helped)
    assert found["value"] == pytest.approx(1 / 3)
    assert found["low"] == 0 < found["value"] < found["high"] <= 1
    assert script.beside_constant(rows, [True] * 9, [True] * 9)["high"] == 0
    wrong = script.beside_constant(rows, [False] * 9, [False] * 9)
    assert (wrong["low"], wrong["high"]) == (-1, -1)
    # A pair of shops with more cases than another one counts for all of them.
    uneven = [*rows, {"seed": 0, "source": "a", "target": "b"}]
    assert script.beside_constant(uneven, [False] * 10, [True] * 10)["value"] == -1
    found = script.beside_constant(uneven, [True] * 9 + [False], [*helped, True])
    assert found["value"] == pytest.approx((3 - 1) / 10)


def test_sizes_are_recorded_and_what_is_missing_is_named(record, monkeypatch, tmp_path):
    sizes = record[0]["data"]["scale"]
    assert sizes[1]["users"] == 2 * sizes[0]["users"]
    assert all(row["step_s"] > 0 for row in sizes)
    monkeypatch.setenv("ECOMKD_REAL_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="icecat: not found; set ECOMKD_REAL_DATA"):
        script.real_folder("icecat")


def test_buy_again_agrees_with_the_library_where_everything_is_known():
    baskets = tiny_baskets.shop()
    day, users = baskets.test_start, np.arange(tiny_baskets.USERS)
    own = script.own_first(baskets, recommend.popularity(baskets, day), day, 56.0)
    expected = recommend.buy_again(baskets, day, 56.0)
    for new in (False, True):
        assert (own(users, new) == expected(users, new)).all()


def test_a_smaller_share_of_customers_is_part_of_a_larger_one():
    baskets = networks.shop(networks.lines())
    none, few, all_of_them = script.subsets(baskets, (0, 0.25, 1), networks.START, seed=3)
    assert len(none) == 0
    assert len(few) == networks.USERS // 4
    assert set(few) < set(all_of_them) == set(range(networks.USERS))
    other = script.subsets(baskets, (0.25,), networks.START, seed=4)[0]
    assert set(other) != set(few)


def test_baskets_are_counted_up_to_the_day():
    baskets = networks.shop(networks.lines())
    users = np.array([0, 3])
    own = baskets.events[baskets.events["user"].isin(users)]
    assert script.basket_count(baskets, users, networks.DAYS) == own["basket"].nunique()
    assert script.basket_count(baskets, users, 1) == 2
    assert script.basket_count(baskets, users[:0], networks.DAYS) == 0


def test_share_right_has_the_exact_interval():
    found = script.share_right([True] * 9 + [False])
    assert found["share"] == 0.9
    assert (found["low"], found["high"]) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert script.share_right([])["cases"] == 0


def test_likeness_is_that_of_the_nearest_text():
    source = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert script.likeness(source, 3 * source) == pytest.approx(1)
    assert script.likeness(source, np.array([[1.0, 1.0]] * 30)) == pytest.approx(0.5**0.5)
    assert script.likeness(source, np.array([[-1.0, -1.0]] * 30)) == pytest.approx(-(0.5**0.5))


def test_the_goals_of_the_record_follow_from_its_data():
    record = report.recorded("cross_platform")
    goals = script.goals_of(record["data"])
    assert [goal["name"] for goal in record["goals"]] == [goal["name"] for goal in goals]
    for kept, goal in zip(record["goals"], goals, strict=True):
        assert (kept["goal"], kept["met"]) == (goal["goal"], goal["met"])
        for name in ("value", "low", "high"):
            assert kept[name] == pytest.approx(goal[name])
    summary = script._forecasts(record["data"]["forecasts"]["cases"])["summary"]
    for name, row in record["data"]["forecasts"]["summary"].items():
        assert row == {kind: pytest.approx(own) for kind, own in summary[name].items()}
    for own in record["data"]["search"].values():
        found = script.minus_free(own["rows"])
        assert own["minus, over seeds"] == {
            name: pytest.approx(span) for name, span in found.items()
        }


def test_what_chapter_13_says_in_words_is_in_the_record():
    told = report.recorded("cross_platform")["data"]
    curve = told["recommendation"]["curve"]
    rows = [{name: row["value"] for name, row in point["rows"].items()} for point in curve]
    assert all(row["zero-shot"] > row["buy it again"] for row in rows)
    ahead = [row["moved"] > row["zero-shot"] + 1e-9 for row in rows[1:]]
    assert ahead == [False] * 4 + [True]  # only with all baskets
    few, head = rows[1], rows[3]
    assert few["alone"] < few["moved"] < min(few["buy it again"], rows[0]["drawn"])
    assert head["alone"] == head["drawn"]
    assert max(head["alone"], head["moved"]) < head["buy it again"]
    learnt = np.array(
        [
            np.subtract(point["rows"]["moved"]["by seed"], point["rows"]["zero-shot"]["by seed"])
            for point in curve[1:4]
        ]
    )
    assert (np.sort(learnt[0]) == [learnt[0].min(), 0, 0]).all()  # the start, kept by two seeds
    assert learnt.max() == 0 and (learnt < 0).sum() == 5
    fresh = told["recommendation"]["moved − alone"]["new_recall"]
    assert fresh[0]["low"] > 0 and all(gap["high"] < 0 for gap in fresh[1:])
    for shop, there in told["search"].items():
        values = {name: row["value"] for name, row in there["rows"].items()}
        teachers = {name: value for name, value in values.items() if name.endswith("zero-shot")}
        own = teachers.pop(f"{shop}, zero-shot")
        assert max(teachers.values()) < values["bi-encoder"]
        assert (own < values["bi-encoder"]) == (shop != "terse shop")
        free = there["rows"]["bi-encoder"]["by seed"]
        for name in teachers:
            assert (np.array(there["rows"][name]["by seed"]) < free).all()
        assert values["student of both"] < values["bi-encoder"]
    for shop, source in ((script.PLAIN, script.ICECAT), (script.ICECAT, script.PLAIN)):
        there = told["search"][shop]
        few, free = (there["rows"][name]["by seed"] for name in (f"from {source}, 10", script.FREE))
        assert len(few) == 3 and (np.array(few) < free).all()
        assert there["minus"]["student of both − student of its own teacher"]["low"] < -0.01
        students = [f"student of {name}" for name in (script.PLAIN, script.ICECAT)]
        assert max(there["rows"][name]["value"] for name in students) < np.mean(free)
    assert told["forecasts"]["summary"]["search, zero-shot"]["helped"]["share"] == 0
    cases = [row for row in told["forecasts"]["cases"] if row["kind"] == "search"]
    assert {row["foreseen"]["tuned"]["says"] for row in cases if "tuned" in row} == {"helps"}


def test_the_summary_of_chapter_13_names_the_missed_goals():
    text = chapter_text.of("13_cross_platform")
    assert (
        "**Missed** are 12 of 17 goals of the main record: with no basket, the gain in recall and "
        "its worth; with 126, gain and worth, for new items too; with ten queries, to beat the "
        "bi-encoder in either shop; four forecasts, to beat a constant."
    ) in text
    goals = report.recorded("cross_platform")["goals"]
    missed = [goal["name"] for goal in goals if not goal["met"]]
    parts = [
        "recall@10 at 0 target baskets, with transfer minus without",
        "recall@10 at 0 target baskets, with transfer, worth",
        "recall@10 at 126 target baskets, with transfer minus without",
        "recall@10 at 126 target baskets, with transfer, worth",
        "recall@10 of new items at 126 target baskets, with transfer minus without",
        "recall@10 of new items at 126 target baskets, with transfer, worth",
        "shop: nDCG@10 after 10 queries, from icecat minus bi-encoder",
        "icecat: nDCG@10 after 10 queries, from shop minus bi-encoder",
        *(f"{kind}, {outcome}: share" for kind in script.KINDS for outcome in script.OUTCOMES),
    ]
    assert len(missed) == len(parts)
    assert all(name.startswith(part) for name, part in zip(missed, parts, strict=True))
    later = [name for name in missed if script.AFTER in name]
    assert len(later) == sum(script.AFTER in goal["name"] for goal in goals) == 6
