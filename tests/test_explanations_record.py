"""What chapter 17 says in words, and the script that measures it."""

import json
from pathlib import Path

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


def test_five_seeds():
    assert RECORD["seeds"] == [1, 2, 3, 4, 5]


def test_nothing_is_not_nothing():
    found = {name: row["value"] for name, row in WORDS["nothing"].items()}
    assert found["zeros"] > 0.5 and found["padding"] > 0.5
    assert found["mask"] < 0.25
    assert found["mask, the query too"] > found["whole"] > 0.7


def test_integrated_gradients_add_up_from_thirty_two_places_on():
    assert WORDS["errors"]["8"] > 0.2 > 0.01 > WORDS["errors"]["32"]
    assert WORDS["errors"]["128"] < 1e-4


def test_what_was_not_measured_is_not_merged(tmp_path):
    with pytest.raises(SystemExit, match=r"no file of a seed; run this script with --seeds"):
        script.merge(tmp_path, tmp_path / "out.json")
    Path(tmp_path / "seed1.json").write_text(json.dumps({"profile": {}}), "utf-8")
    with pytest.raises(SystemExit, match=r"once.json: not found; run this script with --once"):
        script.merge(tmp_path, tmp_path / "out.json")


def test_reasons_of_seeds_are_compared_seed_by_seed():
    ours, theirs = [[[3, 2, 1, 0]], [[0, 1, 2, 3]]], [[[3, 2, 1, 0]]] * 2
    found = script.compared(script.explain.rank_correlation, ours, theirs)
    assert np.allclose(found, [[1], [-1]])


def test_stable_reasons_are_counted_against_the_other_seeds():
    users = [[{"fixed": {"net": [[1, 2, 3]]}}], [{"fixed": {"net": [[1, 2, 9]]}}]]
    assert script.of_stable(users)["net"]["value"] == pytest.approx(2 / 3)


def test_goals_are_all_that_were_set():
    names = [goal["name"] for goal in RECORD["goals"]]
    assert len(names) == len(set(names)) == 16
