"""What chapter 17 says in words, and the script that measures it."""

import numpy as np
import pytest

import measure_explanations as script
from ecomkd import report

RECORD = report.recorded("explanations")
WORDS, BASKETS, TREES = (RECORD["data"][name] for name in ("words", "baskets", "trees"))
ASKING = ("integrated gradients", "leave one out")
"""Methods that ask the score, and are measured for both models."""
LOOKING = ("attention, last layer", "attention rollout", "gradient × input")


def no_difference(row):
    return row["low"] <= 0 <= row["high"]


def test_seeds_are_the_first_ones():
    assert len(RECORD["seeds"]) >= 3
    assert RECORD["seeds"] == list(range(1, len(RECORD["seeds"]) + 1))


def test_nothing_is_not_nothing():
    found = {name: row["value"] for name, row in WORDS["nothing"].items()}
    assert found["zeros"] > 0.5 and found["padding"] > 0.5
    assert found["mask"] < 0.25
    assert found["mask, the query too"] > found["whole"] > 0.7


def test_integrated_gradients_add_up_from_thirty_two_places_on():
    assert WORDS["errors"]["8"] > 0.2 > 0.01 > WORDS["errors"]["32"]
    assert WORDS["errors"]["128"] < 1e-4


def test_methods_that_ask_the_score_empty_it():
    for who in ("teacher", "distilled"):
        for name in ASKING:
            row = WORDS["curves"][who][name]
            assert row["deletion"]["minus"]["high"] < 0 < row["insertion"]["minus"]["low"]
            assert row["deletion"]["beyond"]["high"] < 0
    sampled = WORDS["curves"]["teacher"]["Shapley, sampled"]
    others = [row for row in WORDS["curves"]["teacher"].values() if row is not sampled]
    assert all(sampled["deletion"]["value"] < row["deletion"]["value"] for row in others)
    assert all(sampled["insertion"]["value"] > row["insertion"]["value"] for row in others)


def test_the_last_layers_attention_is_no_better_than_random():
    for who in ("teacher", "distilled"):
        row = WORDS["curves"][who]["attention, last layer"]["deletion"]
        assert no_difference(row["minus"])


def test_rollout_helps_on_one_model_of_two_and_the_slope_on_none():
    teacher, student = (
        {name: row["deletion"]["minus"] for name, row in WORDS["curves"][who].items()}
        for who in ("teacher", "distilled")
    )
    assert student["attention rollout"]["high"] < 0 and no_difference(teacher["attention rollout"])
    assert student["gradient × input"]["low"] > 0 and no_difference(teacher["gradient × input"])
    for name in ASKING:
        first, tenth = WORDS["curves"]["distilled"][name]["deletion"]["curve"][:2]
        assert tenth < 0.55 * first


def test_the_right_word_is_found_and_the_wrong_one_is_not():
    rows, chance = WORDS["planted"]["rows"], WORDS["planted"]["chance"]
    for name in ASKING:
        found = rows[name]["for, three"]["noticed"]
        assert found["low"] > 0.5 > 1.5 * chance["three"]["value"]
    wrong = rows["leave one out"]["against, three"]["noticed"]
    assert wrong["low"] < chance["three"]["value"] < wrong["high"]
    for name in LOOKING:
        for side in ("for", "against"):
            assert no_difference(rows[name][f"{side}, three"]["minus"])


def test_attention_hardly_asks_what_was_learnt():
    sane = {name: row["value"] for name, row in WORDS["sane"].items()}
    order = sorted(sane, key=sane.get, reverse=True)
    assert order[:3] == ["words in common", "attention rollout", "attention, last layer"]
    assert all(sane[name] < 0.1 for name in (*ASKING, "gradient × input"))


def test_a_student_keeps_quality_and_few_reasons():
    kept, quality = WORDS["kept"]["leave one out"]["top"], WORDS["quality"]
    assert quality["recorded, distilled"]["share"]["low"] > 0.8
    whole = kept["recorded, distilled"]
    assert kept["random"]["high"] < whole["low"]
    assert whole["high"] < kept["words in common"]["value"]
    assert whole["minus"]["low"] > 0


def test_ranks_come_before_reasons():
    kept, quality = WORDS["kept"]["leave one out"]["top"], WORDS["quality"]
    further = quality["distilled"]["share"]["value"]
    assert further > quality["recorded, alone"]["share"]["value"] + 0.05
    assert quality["distilled"]["minus"]["difference"] > 0
    assert kept["distilled"]["minus"]["high"] < 0.03
    assert kept["distilled, other seeds"]["low"] > kept["distilled"]["high"]
    by_gradients = WORDS["kept"]["integrated gradients"]["top"]
    assert by_gradients["distilled"]["value"] > kept["distilled"]["value"]
    assert by_gradients["distilled"]["low"] < by_gradients["words in common"]["high"]


def test_students_of_purchases_share_reasons_with_each_other():
    top, rank = BASKETS["kept"]["top"], BASKETS["kept"]["rank"]
    for name in ("distilled", "alone"):
        assert BASKETS["quality"][name]["recall"]["share"]["low"] > 0.95
    assert no_difference(top["distilled"]["minus"]) and no_difference(rank["distilled"]["minus"])
    assert 0.1 < top["distilled"]["value"] < 0.25 and BASKETS["chance"]["top"] < 0.03
    assert top["distilled and alone"]["low"] > 1.5 * top["distilled"]["high"]
    assert BASKETS["stable"]["distilled"]["low"] > top["distilled"]["high"]
    assert top["attention"]["minus"]["low"] > 0
    assert top["attention"]["low"] > top["distilled"]["value"]
    assert rank["attention"]["high"] < 0.1 < rank["distilled"]["low"]


def test_plausible_is_not_true():
    plausible = BASKETS["plausible"]
    similar, chance = plausible["most similar text"], plausible["random"]
    assert similar["speaks against"]["low"] > 0.25
    assert similar["speaks against"]["value"] < chance["speaks against"]["value"]
    assert 0.45 < chance["speaks against"]["value"] < 0.55
    assert plausible["bought most often"]["speaks against"]["low"] > 0.5
    for name in ("most similar text", "bought most often", "bought last", "random"):
        assert plausible[name]["still shown"]["low"] > 0.9
    assert 0.8 < plausible["leave one out"]["still shown"]["value"] < 0.95


def test_true_sentences_are_true_and_longer_for_what_stands_higher():
    rows = list(BASKETS["true"].values())
    assert list(BASKETS["true"]) == ["1", "4", "7", "10"]
    assert all(row["true"] == 1 for row in rows)
    sizes = [row["median size"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[-1]["found"]["value"] > 0.95 > 0.25 > rows[0]["found"]["value"]


def test_noise_is_split_upon_and_worth_little():
    shares = {kind: row["noise"] for kind, row in TREES["shares"].items()}
    assert shares["splits"]["low"] > shares["Shapley"]["high"] * 1.5
    assert max(TREES["additive"], TREES["brute"]) < 1e-6


def test_the_sum_is_quicker_by_tens():
    for row in BASKETS["costs"]:
        assert row["student"] < row["student, anew"] / 10 < row["teacher"] / 10


def test_reasons_of_seeds_are_compared_seed_by_seed():
    ours, theirs = [[[3, 2, 1, 0]], [[0, 1, 2, 3]]], [[[3, 2, 1, 0]]] * 2
    found = script.compared(script.explain.rank_correlation, ours, theirs)
    assert np.allclose(found, [[1], [-1]])


def test_stable_reasons_are_counted_against_the_other_seeds():
    users = [[{"fixed": {"net": [[1, 2, 3]]}}], [{"fixed": {"net": [[1, 2, 9]]}}]]
    assert script.of_stable(users)["net"]["value"] == pytest.approx(2 / 3)


def test_goals_are_all_that_were_set():
    names = [goal["name"] for goal in RECORD["goals"]]
    assert len(names) == len(set(names)) == 14


def test_without_what_attention_names_the_item_leaves_but_its_score_hardly_falls():
    found = BASKETS["deletion"]["teacher"]
    assert no_difference(found["falls"]["attention"]["minus"])
    gone = found["gone"]
    assert gone["attention"]["minus"]["low"] > 0
    bought = gone["bought most often"]
    assert bought["low"] < gone["attention"]["value"] < bought["high"]
