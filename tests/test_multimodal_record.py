"""What chapter 15 says in words, and the script that measures it."""

import numpy as np

import measure_multimodal as script
from ecomkd import report

RECORD = report.recorded("multimodal")
TOLD = RECORD["data"]
PLAIN = "colour, not in the title"


def difference(comparisons, row, against, on=None):
    return next(
        one
        for one in comparisons
        if (one["row"], one["against"], one.get("on")) == (row, against, on)
    )


def of(task, row, against, on="all"):
    return difference(TOLD["tasks"][task]["comparisons"], row, against, on)


def test_five_seeds():
    assert RECORD["seeds"] == [1, 2, 3, 4, 5]


def test_a_picture_helps_where_the_title_is_silent():
    for task in ("type", "colour"):
        assert of(task, "both", "text")["low"] <= 0 <= of(task, "both", "text")["high"] < 0.02
    for task in ("type", "colour"):
        assert of(task, "both", "text", "not stated")["low"] > 0
    assert of("colour", "both", "picture", "not stated")["high"] < 0
    assert abs(of(PLAIN, "both", "picture")["difference"]) < 0.02
    assert of(PLAIN, "both", "text")["low"] > 0.2


def test_late_fusion_is_nowhere_behind_and_the_gate_is():
    assert all(of(task, "both, late", "both, early")["high"] > 0 for task in script.TASKS)
    assert of("colour", "both, late", "both, early")["low"] > 0
    assert of("colour", "both, late", "text")["low"] > 0
    fair = "both, early, pictures hidden in training"
    assert of("type", "both, gated", fair)["high"] < 0


def test_numbers_side_by_side_drown_the_text():
    for task in ("type", "colour"):
        assert of(task, "both, early, network not reduced", "text")["high"] < 0
        assert of(task, "both, early", "text")["low"] > -0.005
    assert of(PLAIN, "both, early, network not reduced", "both, early")["high"] > 0


def test_both_find_more_than_either():
    similar, unseen = TOLD["similar"]["comparisons"], TOLD["unseen"]["comparisons"]
    for other in ("text", "picture"):
        assert difference(similar, "both", other)["low"] > 0
        assert difference(unseen, "both", other)["difference"] > 0.03
    one = difference(unseen, "text", "picture")
    assert one["low"] <= 0 <= one["high"]
    assert difference(similar, "text", "picture")["low"] > 0
    rows = TOLD["unseen"]["rows"]
    assert rows["colour counts"]["low"] > rows["random"]["high"]


def test_ridge_is_as_good_until_there_are_thousands():
    rows = {row["pairs"]: row["minus"] for row in TOLD["by_text"]["rows"] if "minus" in row}
    assert all(abs(rows[pairs]["difference"]) < 0.015 for pairs in (50, 200))
    assert 0 < rows[1000]["difference"] < 0.05
    assert rows[5000]["row"] == "contrastive" and rows[5000]["low"] > 0.05
    least = min(row["recall@10"]["low"] for row in TOLD["by_text"]["rows"])
    assert least > 5 * TOLD["by_text"]["chance@10"]


def test_the_mode_that_says_it_teaches_the_one_that_sees_it():
    for task in ("type", "colour"):
        assert of(task, "picture: distilled", "picture: labels alone")["low"] > 0.03
    assert of("colour", "picture: distilled", "picture: taught by itself")["low"] > 0
    # The text alone teaches as well, and its hard classes do.
    for row in ("distilled from the other mode", "distilled"):
        hard = of("colour", f"picture: {row}", "picture: teacher's classes")
        assert -0.03 < hard["difference"] < 0.005
    for other in ("labels alone", "taught by itself"):
        assert of("type", "text: distilled", f"text: {other}", "not stated")["low"] > 0
    silent = of("colour", "text: distilled", "text: labels alone", "not stated")
    assert silent["low"] <= 0 <= silent["high"]
    sees = of("colour", "text: distilled from the other mode", "text: labels alone", "not stated")
    assert sees["low"] <= 0 <= sees["high"]
    assert of("colour", "text: distilled from the other mode", "text: labels alone")["high"] < 0
    assert of(PLAIN, "text: distilled", "text: labels alone")["low"] > 0
    for choice in TOLD["tasks"][PLAIN]["choices"]:
        assert choice["distilled"]["teacher"]["row"] == "both, late"
        assert choice["distilled"]["both, late"]["weight"] == 0


def test_about_two_thirds_of_what_all_labels_would_bring():
    for task in ("type", "colour"):
        rows = TOLD["tasks"][task]["distilled"]
        least, found, most = (
            rows[f"picture: {row}"]["accuracy"]["value"]
            for row in ("labels alone", "distilled", "all labels")
        )
        assert 0.55 < (found - least) / (most - least) < 0.78


def test_late_fusion_or_two_models_where_pictures_are_missing():
    def at(task, share):
        rows = TOLD["tasks"][task]["missing"]
        return {row["row"]: row["mean"] for row in rows if row["share"] == share}

    left = at("colour", 0.9)
    alone, zeros = left["text alone"], left["zeros for the picture"]
    assert zeros < alone - 0.02 and zeros < at("colour", 0.0)["zeros for the picture"]
    assert all(left[row] > alone - 0.005 for row in ("late", "two models"))
    assert alone - 0.02 < left["mean picture"] < alone
    plain = at(PLAIN, 0.9)
    assert plain["mean picture"] < plain["text alone"] < min(plain["late"], plain["two models"])


def test_views_are_worth_more_than_looks():
    photographs = TOLD["photographs"]
    views, looks = (
        {int(k): one["mean"] for k, one in photographs[name].items()}
        for name in ("photographs", "panned")
    )
    assert views[8] - views[1] > 0.2 > 3 * (looks[8] - looks[1]) / 2
    assert abs(photographs["sizes"]["160"]["mean"] - photographs["sizes"]["224"]["mean"]) < 0.03


def test_counted_colours_help_with_groceries_and_not_with_clothes():
    classes = TOLD["photographs"]["classes"]
    groceries, clothes = classes["grocery, 81 classes"], classes["clothing, 10 kinds"]
    assert difference(groceries["comparisons"], "picture", "network")["low"] > 0.02
    assert difference(clothes["comparisons"], "picture", "network")["low"] <= 0.0


def test_goals_are_the_comparisons():
    goals = {goal["name"]: goal for goal in RECORD["goals"]}
    assert len(goals) == 13
    own = goals["Fashion, colour: accuracy of both modes minus text alone"]
    found = of("colour", "both", "text")
    assert (own["value"], own["low"], own["met"]) == (
        found["difference"], found["low"], found["low"] > 0
    )  # fmt: skip


def test_precision_at_ten_counts_what_there_is_to_find():
    alike = np.zeros((2, 30), bool)
    alike[0, :20], alike[1, :2] = True, True
    best = alike.astype(float)
    assert script.ten(best, alike).tolist() == [1, 1]
    assert script.ten(-best, alike).tolist() == [0, 0]
    assert script.best_weight(-best, best, alike) >= 1


def test_colour_words_are_taken_out_of_titles():
    import pandas as pd

    frame = pd.DataFrame(
        {"title": ["Men Navy Blue Shirt", "Redtape Red Shoe"], "colour": ["Navy Blue", "Red"]}
    )
    assert script.without_colours(frame) == ["Men Shirt", "Redtape Shoe"]
