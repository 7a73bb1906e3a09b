"""What chapter 18 says in words."""

import pytest

from ecomkd import report

RECORD = report.recorded("federated")
TOLD = RECORD["data"]
OWN, SUMS, ALONE = "federated, own counts", "local, sums", "local, own counts"


def of(row, against, measure="new_recall", on="smallest", part="silos", table="comparisons"):
    return next(
        one
        for one in TOLD[part][table]
        if (one["row"], one["against"], one["on"], one["measure"]) == (row, against, on, measure)
    )


def test_five_seeds():
    assert RECORD["seeds"] == [1, 2, 3, 4, 5]


def test_what_sells_elsewhere_is_worth_more_than_weights():
    assert of(OWN, ALONE)["low"] > 0
    assert of(SUMS, ALONE)["low"] > 0
    assert of(SUMS, ALONE)["difference"] > of(OWN, ALONE)["difference"]
    assert of("federated, sums", SUMS)["low"] <= 0


def test_recall_is_a_matter_of_habit():
    assert abs(of(OWN, ALONE, "recall")["difference"]) < 0.01
    assert of(SUMS, ALONE, "recall")["high"] < 0
    level = of(SUMS, "buy it again, sums")
    assert level["low"] < 0 < level["high"]


def test_pooled_baskets_teach_no_more():
    assert of("central, own counts", OWN, on="all")["difference"] < 0.005


def test_distillation_comes_near_with_few_bytes():
    sent = TOLD["silos"]["bytes"]
    assert sent["distilled, drawn"] < 0.1 * sent[OWN]
    share = of("distilled, drawn", OWN, on="all", table="shares")
    assert 0.9 < share["value"] < 0.98
    assert of("distilled, drawn", OWN, "recall", "all", table="shares")["value"] > 0.98
    assert of("distilled, drawn", "distilled, panel", on="all")["high"] > 0
    assert of("distilled, drawn", "the panel's own purchases", on="all")["low"] > 0
    assert of("distilled, drawn", "one round of averaging, own counts", on="all")["low"] > 0
    assert of(SUMS, "distilled, drawn", on="all")["low"] > 0


def test_the_mean_alone_falls_to_nonsense():
    rows = {row: one["recall"]["mean"] for row, one in TOLD["trouble"]["rows"].items()}
    honest = rows["mean, all honest"]
    assert rows["mean, a tenth sends nonsense"] < 0.1 * honest
    for row in ("median", "trimmed mean", "clipped mean"):
        assert rows[f"{row}, a tenth sends nonsense"] > honest - 0.01
    assert rows["mean, 50% drop out"] > honest - 0.01


def test_text_does_not_say_what_sells_and_counts_do():
    minus = TOLD["join"]["minus"]
    assert minus["random"]["low"] <= 0 <= minus["random"]["high"]
    assert minus["what sells elsewhere"]["high"] < 0


def test_the_gate_holds_its_bound_and_has_a_price():
    assert set(TOLD["adaptive"]["chosen"]) == {"kinds move in"}
    for one in TOLD["adaptive"]["by_store"]:
        assert one["gate"]["both"]["difference"] >= -TOLD["adaptive"]["bound"]
    gained = of("gate", "target alone", on="all", part="adaptive")["difference"]
    assert (
        gained < 0.5 * of("kinds move in", "target alone", on="all", part="adaptive")["difference"]
    )


def test_other_silos_show_no_gain():
    for row in (OWN, SUMS):
        assert of(row, ALONE, on="all", part="countries")["low"] <= 0
    for name in ("office_products", "industrial_and_scientific"):
        assert TOLD["categories"][name]["minus"]["low"] <= 0


def test_the_gate_undoes_most_of_the_harm_of_the_supermarkets():
    assert sum(weight == 0 for weight in TOLD["moved"]["weights"]) >= 3
    harm = of("both", "alone", "recall", "all", "moved")
    behind = of("gate on both", "alone", "recall", "all", "moved")
    assert harm["high"] < 0 and abs(behind["difference"]) < 0.5 * abs(harm["difference"])


def test_no_alarm_in_the_year_and_all_in_the_injected_ones():
    drift = TOLD["drift"]
    assert drift["answers"]["never"]["alarms"] == [] and sum(drift["shuffled"]) == 0
    assert all(delay is not None for delay in drift["injected"])
    assert drift["answers"]["monthly"]["hits"] > drift["answers"]["never"]["hits"]


def test_flower_gives_the_same_weights():
    flower = TOLD["flower"]
    assert flower["away"] < 1e-6 < flower["moved"] and flower["codes"] == [0] * 5
    assert flower["counted"] < flower["bytes"]


def test_each_goal_says_whether_it_is_met():
    goals = {goal["name"]: goal for goal in RECORD["goals"]}
    assert len(goals) == 12
    weights = next(
        goal for name, goal in goals.items() if "new kinds: weights averaged, minus" in name
    )
    assert weights["met"] and weights["low"] > 0
    missed = [name for name, goal in goals.items() if not goal["met"]]
    assert any("distilled" in name for name in missed)
    gate = next(goal for name, goal in goals.items() if "Adaptive gate" in name)
    assert gate["met"] == (gate["value"] >= -TOLD["adaptive"]["bound"])


@pytest.mark.parametrize("row", ["gate", "kinds move in"])
def test_the_stores_are_the_smallest(row):
    assert len(TOLD["adaptive"]["by_store"]) == TOLD["stores"]["smallest"]
    assert row in TOLD["adaptive"]["rows"]
