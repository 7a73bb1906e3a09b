"""The script that measures recommendation, on a made-up shop, and the record that it writes."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_models

from ecomkd import recommend
from ecomkd.data.baskets import Baskets, from_lines

ROOT = Path(__file__).resolve().parent.parent
USERS, ITEMS, DAYS = 24, 60, 140
LATE = ITEMS - 4


@pytest.fixture(scope="module")
def script():
    folder = ROOT / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location(
            "recommendation", folder / "recommendation.py"
        )
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "recommendation", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def shop() -> Baskets:
    rng = np.random.default_rng(0)
    lines = []
    for user in range(USERS):
        own = rng.choice(LATE, 6, replace=False)
        for day in range(user % 5, DAYS, 4):
            lines += [(user, int(item), day) for item in rng.choice(own, 3, replace=False)]
            lines.append((user, int(rng.integers(LATE)), day))
        lines.append((user, LATE + user % 4, DAYS - 5))
    frame = pd.DataFrame(lines, columns=["user_id", "item_id", "day"]).drop_duplicates()
    frame["time"] = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D")
    frame["basket_id"] = frame["user_id"] * 1000 + frame["day"]
    words = tiny_models.WORDS
    items = pd.DataFrame({"item_id": range(ITEMS)})
    items["text"] = [f"{words[i % 16]} {words[i // 4 % 16]}" for i in range(ITEMS)]
    users = pd.DataFrame({"user_id": range(USERS)})
    return from_lines(frame.assign(quantity=1, value=1.0), items, users, {})


def test_a_grown_shop_is_copies_that_share_texts_alone(script, shop):
    double = script.grown(shop, 2)
    assert len(double.users) == 2 * USERS
    assert len(double.items) == 2 * ITEMS
    assert len(recommend.texts(double)[0]) == len(recommend.texts(shop)[0])
    assert double.events["day"].is_monotonic_increasing
    first = double.events["user"] < USERS
    assert (double.events.loc[first, "item"] < ITEMS).all()
    assert (double.events.loc[~first, "item"] >= ITEMS).all()
    assert len(script.grown(shop, 0.5).users) == USERS // 2


def test_settings_are_chosen_on_the_validation_days(script, shop):
    asked = []

    def make(baskets, day, scale):
        asked.append(day)
        ranker = recommend.popular if scale == 1 else recommend.buy_again
        return ranker(baskets, day) if scale == 1 else ranker(baskets, day, scale)

    assert script.best_of(make, {"scale": (1, 28)}, shop) == {"scale": 28}
    assert set(asked) == {shop.validation_start}


def test_seeds_are_measured_and_merged_into_a_record(script, shop, tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(seed=1), tmp_path / "start")
    own = tiny_models.profile(tmp_path / "artifacts", teacher=str(start), frozen_layers=None)
    named = staticmethod(lambda name=None, **changes: own)
    monkeypatch.setattr(script.Profile, "named", named)
    monkeypatch.setattr(script.journey, "load", lambda: shop)
    monkeypatch.setattr(script, "SCALES", (1, 2))
    monkeypatch.setattr(script, "TIMED", 2)
    monkeypatch.setattr(
        script, "GRIDS", {name: _first(grid) for name, grid in script.GRIDS.items()}
    )
    monkeypatch.setattr(recommend, "FIRST", 30)
    monkeypatch.setattr(recommend, "GROUP", 12)
    monkeypatch.setattr(recommend, "BUYERS", 2)
    items = recommend.Items
    monkeypatch.setattr(
        recommend, "Items", lambda shop, vectors, first, width, profile: items(
            shop, vectors, first, 4, profile
        )
    )  # fmt: skip
    folder, out = tmp_path / "parts", tmp_path / "recommendation.json"
    calls = ("journey --seeds 0 1", "--scale", f"--merge --out {out} --untimed 1")
    for arguments in map(str.split, calls):
        call = ["recommendation.py", *arguments, "--folder", str(folder)]
        monkeypatch.setattr(sys, "argv", call)
        script.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    data = record["data"]["journey"]
    assert record["seeds"] == [0, 1]
    rows = data["rows"]
    part = json.loads((folder / "journey" / "seed0.json").read_text(encoding="utf-8"))
    for name in ("popularity", "buy it again"):  # no seed in it
        alone = part["systems"][name]["recall"]
        assert rows[name]["recall"] == pytest.approx(alone)
        assert rows[name]["recall low"] <= alone <= rows[name]["recall high"]
    assert rows["buy it again"]["repeats"] == 1
    kept = next(goal for goal in record["goals"] if "share of the teacher's" in goal["name"])
    ratio = rows[script.DISTILLED]["recall"] / rows[script.TEACHER]["recall"]
    assert kept["value"] == pytest.approx(ratio)
    assert kept["met"] == (kept["value"] >= 0.97)
    assert data["timed_seeds"] == [0]
    assert rows[script.TEACHER]["p50_ms"] == part["systems"][script.TEACHER]["p50_ms"]
    chance = data["cold"][script.CHANCE]["value"]
    assert chance == pytest.approx(1, abs=0.01)  # four cold items, ten places
    assert len(record["data"]["scale"]) == 4
    assert record["data"]["scale"][-1]["users"] == 2 * USERS
    with pytest.raises(SystemExit, match="no file of a seed"):
        script.seeds_of.read(tmp_path, ("profile",))


def _first(grid: dict) -> dict:
    return {name: values[:1] for name, values in grid.items()}
