"""What chapter 15 says in words, and the script that measures it."""

import json
from pathlib import Path

import numpy as np
import pytest

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
    assert of("colour", "both", "text", "not stated")["low"] > 0
    assert abs(of(PLAIN, "both", "picture")["difference"]) < 0.02
    assert of(PLAIN, "both", "text")["low"] > 0.2


def test_late_fusion_is_nowhere_behind_and_the_gate_is():
    assert all(of(task, "both, late", "both, early")["high"] > 0 for task in script.TASKS)
    assert of("colour", "both, late", "both, early")["low"] > 0
    assert of("type", "both, gated", "both, early")["high"] < 0


def test_numbers_side_by_side_drown_the_text():
    for task in ("type", "colour"):
        assert of(task, "both, early, network not reduced", "text")["high"] < 0
        assert of(task, "both, early", "text")["low"] > -0.005
    assert of("colour", "both, early, network not reduced", "text", "not stated")["low"] > 0


def test_both_find_more_than_either():
    similar, unseen = TOLD["similar"]["comparisons"], TOLD["unseen"]["comparisons"]
    for other in ("text", "picture"):
        assert difference(similar, "both", other)["low"] > 0
        assert difference(unseen, "both", other)["difference"] > 0.03
    rows = TOLD["unseen"]["rows"]
    assert abs(rows["text"]["value"] - rows["picture"]["value"]) < 0.06
    assert rows["colour counts"]["low"] > rows["random"]["high"]


def test_ridge_is_as_good_until_there_are_thousands():
    rows = {row["pairs"]: row["minus"] for row in TOLD["by_text"]["rows"] if "minus" in row}
    assert all(abs(rows[pairs]["difference"]) < 0.03 for pairs in (50, 200, 1000))
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
    plain = TOLD["tasks"][PLAIN]["distilled"]
    room = [plain[f"text: {row}"]["accuracy"]["value"] for row in ("labels alone", "all labels")]
    assert 0 < room[1] - room[0] < 0.06
    assert of(PLAIN, "text: distilled", "text: labels alone")["low"] > 0


def test_missing_pictures_cost_nothing_but_for_zeros():
    shares = {}
    for row in TOLD["tasks"]["colour"]["missing"]:
        shares.setdefault(row["row"], {})[row["share"]] = row["mean"]
    alone = shares.pop("text alone")[0.9]
    zeros = shares.pop("zeros for the picture")
    assert zeros[0.9] < alone - 0.03 and zeros[0.9] < zeros[0.0]
    assert all(abs(one[0.9] - alone) < 0.02 for one in shares.values())


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


def test_a_seed_out_of_range_of_what_is_there_is_not_merged(tmp_path):
    with pytest.raises(SystemExit, match=r"no file of a seed; run this script with --seeds"):
        script.merge(tmp_path, tmp_path / "out.json")
    Path(tmp_path / "seed1.json").write_text(json.dumps({"profile": {}}), "utf-8")
    with pytest.raises(SystemExit, match=r"once.json: not found; run this script with --once"):
        script.merge(tmp_path, tmp_path / "out.json")


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
