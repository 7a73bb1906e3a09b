"""The script that tries which parts of a recommender move, on made-up shops, and its record."""

import json

import chapter_text
import numpy as np
import pytest
import test_recommend_networks as networks
import tiny_baskets

import measure_cross_parts as script
from ecomkd import recommend, report
from ecomkd.data import retail


def test_parts_are_chosen_where_customers_are_known(tmp_path, monkeypatch):
    for name in ("SCALES", "TIMED"):
        monkeypatch.setattr(script, name, None, raising=False)
    tiny_baskets.shrink(monkeypatch, script, networks.shop(networks.lines()), tmp_path)
    monkeypatch.setattr(retail, "load", lambda folder: tiny_baskets.shop())
    monkeypatch.setattr(script.shared, "real_folder", lambda name: tmp_path)
    grid = {"neighbours": (3,), "scale": (56.0,), "window": (28,), "share": (1.0,)}
    pieces = {piece: script.PIECES[piece] for piece in ("text and taste", "habits", "sales")}
    for name, value in {"SHARES": (0, 0.5, 0.7, 1), "GRID": grid, "PIECES": pieces}.items():
        monkeypatch.setattr(script, name, value)
    folder, out = tmp_path / "parts", tmp_path / "record.json"
    for line in ("--seeds 0 1", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    record = json.loads(out.read_text(encoding="utf-8"))
    points = record["data"]["points"]
    assert [point["baskets"] for point in points] == sorted(point["baskets"] for point in points)
    assert points[0]["baskets"] == 0 and len(points) == 4
    whole = list(pieces)
    assert points[0]["chosen"] == {goal: [whole, whole] for goal in script.GOALS}
    for point in points:
        for goal in script.GOALS:
            told = f"parts chosen for {script.GOALS[goal]} − zero-shot"
            rows = point[goal]
            difference = rows[script.CHOSEN[goal]]["value"] - rows["zero-shot"]["value"]
            assert point[f"{goal}, minus"][told]["value"] == pytest.approx(difference)
    assert "user-kNN, for all items" not in points[0]["recall"]
    assert "user-kNN, for all items" in points[1]["recall"]
    assert len(record["goals"]) == 7


def test_neighbours_are_known_customers_alone():
    shop = tiny_baskets.shop()
    day, everyone = shop.test_start, np.arange(len(shop.users))
    chosen = {"neighbours": 4, "scale": 56.0, "window": 28, "share": 1.0}
    asked = recommend.users_before(shop, day)[:6]
    among = script.knn_among(shop, everyone, **chosen)(asked, False)
    own = recommend.user_knn(shop, day, **chosen)(asked, False)
    assert np.array_equal(np.asarray(among), np.asarray(own))
    few = script.knn_among(shop, everyone[:2], **chosen)(asked, True)
    sold = set(shop.between(0, day).query("user < 2")["item"])
    shares = recommend.neighbour_tables(shop, day, 56.0, 28)[1][:2].indices
    first = {int(items[0]) for items in np.asarray(few)}
    assert set(shares) <= sold and first & sold


def test_what_chapter_13_says_of_parts_is_in_the_record():
    points = report.recorded("cross_parts")["data"]["points"]
    last = points[-1]
    values = {name: row["value"] for name, row in last["recall"].items()}
    assert values["habits and sales alone"] > values["zero-shot"] > values["buy it again"]
    assert values["user-kNN, for all items"] > max(
        value for name, value in values.items() if "user-kNN" not in name
    )
    minus = last["recall, minus"]
    assert minus["habits and sales alone − habits alone"]["low"] > 0
    assert minus["parts chosen for all items − buy it again"]["low"] > 0
    assert minus["parts chosen for all items − user-kNN, for all items"]["high"] < 0
    for point in points:
        lead = point["recall, minus"]["zero-shot − buy it again"]
        assert lead["low"] <= 0 < lead["high"]
    for point in points[3:]:
        assert all("text and taste" not in own for own in point["chosen"]["recall"])
    for point in points[1:]:
        fresh = point["new_recall, minus"]
        assert fresh["parts chosen for new items − zero-shot"]["low"] > 0
        assert fresh["parts chosen for new items − user-kNN, for new items"]["high"] < 0


def test_the_summary_of_chapter_13_names_the_missed_goals_of_parts():
    text = chapter_text.of("13_cross_platform")
    told = "are missed on parts: to beat *buy it again* with no basket, user-kNN at three sizes."
    assert told in text
    goals = report.recorded("cross_parts")["goals"]
    missed = [goal["name"].partition(" minus ")[2] for goal in goals if not goal["met"]]
    assert missed == ["buy it again", *["user-kNN, for all items"] * 3]
