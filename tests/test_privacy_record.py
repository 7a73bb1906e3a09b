"""What chapter 16 says in words, and the script that measures it."""

import measure_privacy as script
from ecomkd import report

RECORD = report.recorded("privacy")
TOLD = RECORD["data"]
ROWS = TOLD["attacks"]["rows"]
GIVEN, HIDDEN = TOLD["quality"]["given away"], TOLD["quality"]["hidden"]
WIDE, BLIND = "teacher's shape, taught on the agreed", "student, taught on the agreed"


def minus(row, against):
    own = TOLD["attacks"]["comparisons"]
    return next(one for one in own if (one["row"], one["against"]) == (row, against))


def test_five_seeds():
    assert RECORD["seeds"] == [1, 2, 3, 4, 5]


def test_a_handful_of_purchases_is_a_name():
    items, types, categories = (TOLD["singled_out"][n] for n in ("items", "types", "categories"))
    assert 0.88 < items["4"]["low"] < items["4"]["high"] < 0.95 < items["5"]["low"]
    assert types["4"]["high"] < 0.1 and categories["4"]["high"] < 0.01


def test_width_leaks_and_not_nearness():
    assert ROWS["teacher"]["auc"]["low"] > 0.9
    assert ROWS[WIDE]["auc"]["low"] > 0.85 and ROWS[WIDE]["caught"]["low"] > 0.3
    assert ROWS[BLIND]["auc"]["high"] < 0.6 and ROWS[BLIND]["caught"]["high"] < 0.04
    assert ROWS["EASE"]["auc"]["low"] > ROWS["teacher"]["auc"]["high"]


def test_distillation_does_not_protect_and_smallness_does():
    assert minus("student, distilled", "student, labels alone")["low"] > -0.01
    assert minus("student, distilled", "teacher")["high"] < -0.2
    for row in ("student, labels alone", "student, distilled", BLIND):
        assert GIVEN[row]["loss gain"]["value"] > GIVEN["teacher"]["loss gain"]["value"]


def test_the_loss_alone_shows_next_to_nothing():
    assert ROWS["teacher"]["auc without shadows"] < 0.6


def test_private_students_cannot_be_told_from_guessing():
    for epsilon in script.ATTACKED:
        assert ROWS[f"student, ε = {epsilon:g}"]["auc"]["high"] < 0.55


def test_the_private_student_beats_popularity_at_three_and_not_at_one():
    gain = {e: HIDDEN[f"student, ε = {e:g}"]["loss gain"] for e in script.EPSILONS}
    assert gain[8.0]["low"] > 0 and gain[3.0]["low"] > 0 and gain[1.0]["low"] <= 0
    for row in ("student, labels alone", "student, distilled", "teacher"):
        assert GIVEN[row]["recall gain"]["low"] < 0.002
    for epsilon in script.EPSILONS:
        assert HIDDEN[f"student, ε = {epsilon:g}"]["recall gain"]["low"] <= 0
    assert GIVEN["EASE"]["recall gain"]["low"] > 0
    said = [
        choice[f"hidden|EASE, ε = {epsilon:g}"][0]["share"] > 0
        for choice in TOLD["choices"]
        for epsilon in script.EPSILONS
    ]
    assert sum(said) <= 0.1 * len(said)


def test_those_who_agree_are_worth_more_than_noise():
    assert HIDDEN["student of the agreed"]["loss gain"]["low"] > 0
    assert TOLD["quality"]["student, ε = 8, minus student of the agreed"]["high"] < 0


def test_a_wide_network_pays_most_for_private_steps():
    of = {row["network"]: row for row in TOLD["costs"]}  # the last has the most households
    slower = {name: row["private_ms"] / row["plain_ms"] for name, row in of.items()}
    assert slower["student"] < 2 < 5 < slower["teacher"]
    assert 400 < of["teacher"]["weights"] / of["student"]["weights"] < 600


def test_votes_do_not_work_here():
    for row in ("no noise", "ε = 8", "ε = 3"):
        gain = HIDDEN[f"votes, {row}"]["loss gain"]
        assert gain["low"] < 0 < gain["high"] < 0.01
        assert all(choice[f"hidden|votes, {row}"][0]["steps"] == 3 for choice in TOLD["choices"])


def test_what_is_public_survives():
    gains = {
        name: HIDDEN[f"student, {name}"]["loss gain"]
        for name in ("none: random numbers", "text", "households who agreed")
    }
    assert gains["none: random numbers"]["low"] <= 0.005
    assert gains["text"]["low"] > 0 and gains["households who agreed"]["low"] > 0
    kept = [HIDDEN[f"student, {name}, ε = 3"]["loss gain"]["value"] for name in gains]
    assert kept == sorted(kept) and kept[0] < 0 < kept[2]


def test_numbers_bring_the_price_down():
    share = {
        (size, epsilon): TOLD["numbers"][f"{size}, ε = {epsilon}"]["gain"]["mean"]
        / TOLD["numbers"][f"{size}, no noise"]["gain"]["mean"]
        for size in script.SIZES
        for epsilon in (8, 1)
    }
    assert share[500, 1] < share[2000, 1] < share[8000, 1]
    assert TOLD["numbers"]["500, ε = 1"]["gain"]["high"] < 0
    assert share[8000, 1] > 0.5
    steps = [own[0] for row in TOLD["numbers"].values() for own in row["chosen"]]
    assert max(steps) == 1600 and 2 * sum(one == 1600 for one in steps) > len(steps)
    assert share[8000, 8] > share[8000, 1]


def test_neither_quick_way_forgets():
    found = TOLD["unlearnt"]
    assert found["learning on"]["low"] > 0.7
    assert abs(found["ascent"]["mean"] - 0.5) > 0.05
    assert found["ascent"]["loss"] > GIVEN["popularity"]["loss"]["value"]
