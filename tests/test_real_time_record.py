"""The script that replays the test days, on a made-up shop, and the record that it writes."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny_baskets
from tiny_baskets import USERS

import measure_real_time as script
from ecomkd import recommend, report
from ecomkd.config import Profile


def test_seeds_are_replayed_and_merged_into_a_record(tmp_path, monkeypatch):
    shop = tiny_baskets.shop()
    tiny_baskets.shrink(monkeypatch, script, shop, tmp_path)
    monkeypatch.setattr(recommend.live, "RARE", 5)
    monkeypatch.setattr(script, "ADDED", 20)  # each waits for the disk
    monkeypatch.setattr(script, "reviews", lambda category: shop)
    few = {"PRIORS": (10.0,), "WEIGHTS": (1.0, 3.0), "CHOOSING": 2, "CANDIDATES": 20}
    for name, value in few.items():
        monkeypatch.setattr(script, name, value)
    folder, out = tmp_path / "parts", tmp_path / "real_time.json"
    for line in ("--seeds 0 1", "--scale", f"--merge --out {out}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    record = json.loads(out.read_text(encoding="utf-8"))
    data, days = record["data"], shop.between(shop.test_start, shop.days)
    assert record["seeds"] == [0, 1]
    assert data["households"] == days["user"].nunique()

    first = data["heads"]["0"]
    assert first["baskets"] == days["basket"].nunique()
    assert [head["baskets"] for head in data["heads"].values()] == sorted(
        (head["baskets"] for head in data["heads"].values()), reverse=True
    )
    parts = [json.loads((folder / f"seed{seed}.json").read_text("utf-8")) for seed in (0, 1)]
    live_recall = [value for part in parts for value in part["heads"]["0"]["recall"]["live"]]
    assert first["rows"]["live"]["value"] == pytest.approx(sum(live_recall) / len(live_recall))
    more = first["minus"]["live − nightly"]["difference"]
    values = {name: row["value"] for name, row in first["rows"].items()}
    assert more == pytest.approx(values["live"] - values["nightly"])
    # Nobody comes twice a day in this shop, so what waits for the night is never asked for earlier.
    assert more == 0

    assert data["leak"]["rows"]["before"]["value"] == pytest.approx(values["never"], abs=0.1)
    assert data["explore"][0]["minus"]["difference"] == 0
    assert data["explore"][0]["recall"] == pytest.approx(values["live"])
    assert {1} <= {row["visit"] for row in data["newcomers"]} <= {1, 2, 3, 4, 5}
    assert [(part["differ"], part["users"]) for part in data["kill"]] == [(0, 5)] * 2
    assert {row["prior"] for row in data["chosen"]} <= {0.0, 10.0}
    # Before the first item there is no basket, and what stood together says nothing.
    assert first["minus"]["live + bought together − live"]["difference"] == 0
    for shop_of in script.FRONTS:
        assert all(0 < row["same"] <= 1 for row in data[shop_of].values())
        assert all(0 <= row["new"] <= 1 for row in data[shop_of].values())
    for category in script.REVIEWS:
        steps = data["steps"][category]
        rows = {name: row["value"] for name, row in steps["rows"].items()}
        assert steps["live − nightly"]["value"] == pytest.approx(rows["live"] - rows["nightly"])
    assert [row["users"] for row in data["scale"]] == [USERS, 2 * USERS]
    goals = {goal["name"]: goal for goal in record["goals"]}
    waits = data["scale"][0]
    share = goals["p50 wait, of the live student against its teacher, one core"]
    assert share["value"] == waits["answer p50_ms"] / waits["teacher p50_ms"]
    assert share["met"] == (share["value"] <= 0.2)
    assert goals["users whose scores differ after a kill and a replay"]["met"]


def test_costs_that_were_not_measured_again_are_the_record_s_with_their_day(tmp_path):
    out, folder = tmp_path / "real_time.json", tmp_path / "parts"
    folder.mkdir()
    old = {"created": "2026-01-02", "data": {"scale": [{"times": 1}]}}
    out.write_text(json.dumps(old), encoding="utf-8")
    kept = {"scale": [{"times": 1}], "scale_created": "2026-01-02"}
    assert script.sizes(folder, out) == kept
    out.write_text(json.dumps({"created": "2026-03-04", "data": kept}), encoding="utf-8")
    assert script.sizes(folder, out) == kept
    file = folder / "scale.json"
    file.write_text('[{"times": 3}]', encoding="utf-8")
    os.utime(file, (1e9, 1e9))
    assert script.sizes(folder, out) == {"scale": [{"times": 3}], "scale_created": "2001-09-09"}


def test_a_larger_shop_has_copies_of_each_item_and_its_users_own_what_they_bought(monkeypatch):
    monkeypatch.setattr(script, "COPIES", 3)
    rng = np.random.default_rng(0)
    shop = tiny_baskets.shop()
    vectors = rng.normal(size=(len(recommend.texts(shop)[0]), 8)).astype(np.float32)
    items = recommend.Items(shop, vectors, 30, 4, Profile.named())
    model = recommend.DecayedMeans(items).eval()
    day = shop.test_start
    state = script.started(recommend.Shelf(model, recommend.BasketCollator(shop), day))
    plain, mixed = script.copied(state), script.copied(state, rng)
    assert plain.items == mixed.items == 3 * state.items
    own, other = state.scores(2, day).copy(), plain.scores(2, day).copy()
    assert np.array_equal(own, other[: state.items])
    new = np.setdiff1d(np.arange(state.items), state.bought(2))
    assert np.allclose(other.reshape(3, -1)[:, new], own[new], atol=1e-5)
    dealt = mixed.arrays()["demand"].reshape(3, -1)
    assert np.array_equal(dealt[0], state.arrays()["demand"])
    assert not np.array_equal(dealt[1], dealt[0])
    assert np.array_equal(np.sort(dealt[1:].ravel()), np.sort(np.tile(dealt[0], 2)))
    assert script.among_the_best(np.array([0, 2]), np.array([1, 0]), np.array([3, 2, 1])) == 0.5
    assert script.among_the_best(np.array([], int), np.array([1, 0]), np.array([3, 2])) == 0


def test_buy_again_counts_each_purchase_at_once(tmp_path):
    shop = tiny_baskets.shop()
    day, user = shop.test_start, int(shop.between(0, shop.test_start)["user"].iloc[0])
    again = script.BuyAgain(shop, 28)
    batch = recommend.buy_again(shop, day, 28)
    assert again.recommend(user, day, []).tolist() == batch([user], False)[0].tolist()
    item = int(shop.between(day, shop.days)["item"].iloc[-1])
    for _ in range(50):
        again.learn(user, item, day)
    assert again.recommend(user, day, [])[0] == item
    assert item not in again.recommend(user, day, [item])


def test_what_stood_together_by_hand():
    rows = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3)]
    shop = tiny_baskets.shop()
    events = pd.DataFrame(rows, columns=["basket", "item"]).assign(user=0, day=0)
    own = replace(shop, events=events, items=shop.items[:5])
    near = script.together(own, 1)
    # Item 0 is in two baskets and item 1 in three; two baskets have both.
    assert near[0, 1] == pytest.approx(2 / np.sqrt(2 * 3)) == near[1, 0]
    assert near[1, 2] == pytest.approx(1 / np.sqrt(3)) and near.diagonal().max() == 0
    assert script.likeness_of(near, [0, 2])[1] == pytest.approx(near[0, 1] + near[1, 2])
    assert not script.likeness_of(near, []).any()
    base = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    system = script.Together(lambda user, day: base, near, 1.0)
    assert system.recommend(0, 1, [0])[0] == 1 and system.recommend(0, 1, [])[0] == 4
    assert base.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_learner_learns_from_a_basket_and_a_frozen_one_does_not():
    base = np.linspace(0, 1, 12)
    asked = [
        script.Learner(lambda user, day: base, sp.csr_matrix((12, 12)), lambda user: [3],
                       (1.0, 0.0, 0.0, 0.0), rate)
        for rate in (0.0, 0.5)
    ]  # fmt: skip
    for day in range(60):
        for system in asked:
            system.recommend(0, day, [])
            system.learn(0, 3, day)  # always the item that the user had, which scores little
    frozen, learning = (system.recommend(0, 60, []).tolist() for system in asked)
    assert frozen == np.argsort(-base)[:10].tolist()
    assert learning[0] == 3
    assert asked[0].weights.tolist() == [1, 0, 0, 0] and asked[1].weights[2] > 0


def test_buy_again_shows_what_was_bought_after_weeks_without_a_sale():
    shop = tiny_baskets.shop()
    events = shop.events[shop.events["day"] < 60]
    again = script.BuyAgain(replace(shop, events=events), 28)
    user = int(events["user"].iloc[0])
    own = events.loc[events["user"] == user, "item"].unique()
    assert set(again.recommend(user, 120, [])[: len(own)]) <= set(own)


def test_what_chapter_14_says_in_words_is_in_the_record():
    told = report.recorded("real_time")["data"]
    minus = told["heads"]["0"]["minus"]
    assert minus["live − nightly"]["low"] <= 0 <= minus["live − nightly"]["high"]
    for other in ("never", "buy it again"):
        assert minus[f"live − {other}"]["low"] > 0
    first_day = minus["live − live, items of the first day"]
    assert first_day["low"] > 0
    assert first_day["difference"] > minus["live − nightly"]["difference"]
    arrived = {(row["visit"], row["head"]): row["minus"] for row in told["newcomers"]}
    assert arrived[1, 0]["low"] > 0 and arrived[1, 10]["low"] > 0 > arrived[1, 1]["high"]
    shrunk = {(row["visit"], row["head"]): row["shrunk"] for row in told["newcomers"]}
    assert shrunk[1, 1]["low"] > 0 and shrunk[1, 10]["low"] > 0 > shrunk[4, 0]["high"]
    assert all(shrunk[visit, 0]["difference"] < 0 for visit in (2, 3, 4))
    for head in ("3", "10"):
        assert told["heads"][head]["minus"]["live + bought together − live"]["low"] > 0
    steps = {name: row["live − nightly"] for name, row in told["steps"].items()}
    assert steps["industrial_and_scientific"]["low"] > 0
    assert steps["industrial_and_scientific"]["value"] > minus["live − nightly"]["difference"]
    assert steps["office_products"]["low"] <= 0 <= steps["office_products"]["high"]
    assert minus["re-ranked, learning − re-ranked, frozen"]["high"] < 0
    assert minus["re-ranked, frozen − live"]["high"] < 0
    goals = report.recorded("real_time")["goals"]
    assert sum(not goal["met"] for goal in goals) == 3
    for seed in told["by_seed"]:
        assert seed["live"] > max(seed["nightly"], seed["buy it again"])
    fronts = [told[shop]["0.1"] for shop in script.FRONTS]
    assert all(min(row["same"], row["new"]) > 0.99 for row in fronts)
    tried = [own["tried"]["prior"] for own in told["chosen"]]
    assert all(own["1.0"] > own["0.0"] for own in tried), "the reason of PRIOR"
    explored = told["explore"]
    assert all(row["rare_hits"] < explored[0]["rare_hits"] for row in explored[1:])
    assert all(row["rare_shown"] > explored[0]["rare_shown"] for row in explored[1:])
