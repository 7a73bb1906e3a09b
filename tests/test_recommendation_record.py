"""The script that measures recommendation, on a made-up shop, and the record that it writes."""

import json

import pytest
import tiny_baskets
from tiny_baskets import ITEMS, USERS

import measure_recommendation as script
from ecomkd import recommend
from ecomkd.data.baskets import Baskets


@pytest.fixture(scope="module")
def shop() -> Baskets:
    return tiny_baskets.shop()


def test_a_grown_shop_is_copies_that_share_texts_alone(shop):
    double = script.grown(shop, 2)
    assert len(double.users) == 2 * USERS
    assert len(double.items) == 2 * ITEMS
    assert len(recommend.texts(double)[0]) == len(recommend.texts(shop)[0])
    assert double.events["day"].is_monotonic_increasing
    first = double.events["user"] < USERS
    assert (double.events.loc[first, "item"] < ITEMS).all()
    assert (double.events.loc[~first, "item"] >= ITEMS).all()
    assert len(script.grown(shop, 0.5).users) == USERS // 2


def test_settings_are_chosen_on_the_validation_days(shop):
    asked = []

    def make(baskets, day, scale):
        asked.append(day)
        ranker = recommend.popular if scale == 1 else recommend.buy_again
        return ranker(baskets, day) if scale == 1 else ranker(baskets, day, scale)

    assert script.best_of(make, {"scale": (1, 28)}, shop) == {"scale": 28}
    assert set(asked) == {shop.validation_start}


def test_seeds_are_measured_and_merged_into_a_record(shop, tmp_path, monkeypatch):
    tiny_baskets.shrink(monkeypatch, script, shop, tmp_path)
    folder, out = tmp_path / "parts", tmp_path / "recommendation.json"
    for line in ("journey --seeds 0 1", "--scale", f"--merge --out {out} --untimed 1"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
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
        script.shared.read(tmp_path, ("profile",))
