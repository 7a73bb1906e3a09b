"""The script that replays simulated sessions, on a small shop, and the record that it writes."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny_baskets

import measure_sessions as script
from ecomkd import metrics, recommend, report
from ecomkd.data import shop
from ecomkd.data.baskets import Baskets

SMALL = {"PRODUCTS": 150, "SHOPPERS": 30, "DAYS": 80, "LASTING": ("0.5",), "WEIGHTS": (3.0, 30.0)}
SMALL |= {"SASREC_PASSES": (1, 2), "WIDTH": 8}


def test_seeds_are_replayed_and_merged_into_a_record(tmp_path, monkeypatch):
    tiny_baskets.shrink(monkeypatch, script, tiny_baskets.shop(), tmp_path)
    for name, value in SMALL.items():
        monkeypatch.setattr(script, name, value)
    folder, out = tmp_path / "parts", tmp_path / "sessions.json"
    lines = "0.5 --seeds 0 1 2", f"--merge --out {out}"
    tiny_baskets.call(monkeypatch, script, *(f"{line} --folder {folder}" for line in lines))
    record = json.loads(out.read_text(encoding="utf-8"))
    parts = [
        json.loads((folder / "0.5" / f"seed{seed}.json").read_text("utf-8")) for seed in (0, 1, 2)
    ]
    assert record["seeds"] == [0, 1, 2] and record["generator"] == shop.generator_hash()
    found = record["data"]["by_lasting"]["0.5"]
    within = [part["within"] for part in parts]
    asked = sum(sum(own["asked"]) for own in within)
    assert asked == sum(part["log"]["asked"] for part in parts) > 0
    for name in script.ROWS:
        shares = [sum(own["hits"][name]) / sum(own["asked"]) for own in within]
        assert found["rows"][name]["value"] == pytest.approx(np.mean(shares))
        apart = metrics.seed_interval(shares)
        ends = [found["rows"][name][end] for end in ("low", "high")]
        assert ends == pytest.approx([apart["low"], apart["high"]])
    rows = {name: row["value"] for name, row in found["rows"].items()}
    assert found["minus"]["live − nightly"]["value"] == pytest.approx(
        rows["live"] - rows["nightly"]
    )
    # Before the first click there is nothing that a live state alone could know.
    first = found["heads"]["0"]["rows"]
    assert first["live"] == first["nightly"]
    assert first["like the last click, by text"] == first["popular"]
    for part in parts:
        assert 0 <= part["chosen"]["SASRec"]["hits"] <= 1
    told = {goal["name"]: goal for goal in record["goals"]}
    assert len(told) == 4
    assert all(goal["met"] == (goal["low"] > 0) for goal in told.values())


def test_the_chances_are_those_that_the_chapter_tells():
    gains = np.tile([1.0, 0.5, 0.0] + 7 * [0.0], (50_000, 1))
    rates = script.click(gains, np.random.default_rng(0)).mean(axis=0)
    assert rates[:3] == pytest.approx([0.9, 0.5 / 2, 0.1 / 3], abs=0.01)
    assert rates[9] == pytest.approx(0.1 / 10, abs=0.003)


def test_what_is_like_the_clicks_is_shown_and_a_fade_forgets_the_earlier_ones():
    likeness = np.eye(30)
    likeness[0, 5] = likeness[1, 6] = 0.9
    base = np.zeros(30)
    last, all_alike = (
        script.Alike(lambda user, day: base, likeness, 1.0, fade) for fade in (0.0, 1.0)
    )
    assert last.recommend(0, 0, [0, 1])[0] == 6 and 5 not in last.recommend(0, 0, [0, 1])[:1]
    assert set(all_alike.recommend(0, 0, [0, 1])[:2]) == {5, 6}
    assert 1 not in last.recommend(0, 0, [0, 1]) and not base.any()


def test_sasrec_follows_each_click_of_a_shopper_or_of_a_session():
    rng = np.random.default_rng(0)
    # Whoever clicks an even item clicks the next odd one, and then anything.
    starts = 2 * rng.integers(0, 10, size=(40, 12))
    clicks = np.stack([starts, starts + 1], axis=-1).reshape(40, 12, 2)
    rows = [
        (user, item, 12 * user + number, 14 * number + 7 * place)
        for user, own in enumerate(clicks)
        for number, pair in enumerate(own)
        for place, item in enumerate(pair)
    ]
    events = pd.DataFrame(rows, columns=["user", "item", "basket", "day"])
    events = events.sort_values(["day", "user"], ignore_index=True)
    items, users = pd.DataFrame({"item_id": range(22)}), pd.DataFrame({"user_id": range(40)})
    log = Baskets(events, items, users, {})
    for whole, length in script.LENGTHS.items():
        networks = {whole: script.rivals.SASRec(0, length, passes=(40,))}
        system = script.following(log, log.test_start, networks, whole, 40)
        for user in (0, 1):
            system.learn(user, 4, log.test_start)
            assert system.recommend(user, log.test_start, [4])[0] == 5
        sold = script.popular(log, log.test_start)(2, 0)
        first = system.recommend(2, log.test_start, [])
        assert (first[0] == sold.argmax()) == (not whole)
        assert not set(first) & {20, 21}, "what nobody clicked comes last"
        # What comes later changes neither the network nor what is asked before it.
        later = log.events["day"] >= log.validation_start
        events = log.events.assign(item=log.events["item"].where(~later, 21 - log.events["item"]))
        other = script.replace(log, events=events)
        again = script.following(
            other, log.test_start, {whole: script.rivals.SASRec(0, length, passes=(40,))}, whole, 40
        )
        for one, two in zip(system.model.parameters(), again.model.parameters(), strict=True):
            assert (one == two).all()


class Counted:
    """A state that counts what it learnt."""

    def __init__(self):
        self.learnt = []

    def update(self, user, item, day):
        self.learnt.append((user, item, day))

    def recommend(self, user, day, without):
        return np.array([len(self.learnt)])


def test_a_session_is_learnt_when_the_next_one_begins():
    system = script.BySession(Counted())
    for step, item in enumerate((7, 8)):
        assert system.recommend(3, 10 + step, [7, 8][:step]) == [0]
        system.learn(3, item, 10 + step)
    assert system.recommend(4, 12, []) == [0]  # somebody else's session
    assert system.recommend(3, 40, []) == [2]
    assert system.live.learnt == [(3, 7, 10), (3, 8, 11)]


def test_what_chapter_14_says_of_sessions_is_in_the_record():
    record = report.recorded("sessions")
    data = record["data"]
    assert len(record["seeds"]) == 5
    assert (data["shop"]["shoppers"], data["chief"]) == (script.SHOPPERS, "0.5")
    assert recommend.DEPTH == 10
    drawn = {share: len(found["seeds"]) for share, found in data["by_lasting"].items()}
    assert drawn == dict.fromkeys(script.LASTING, 5)
    for share, found in data["by_lasting"].items():
        assert found["minus"]["live − nightly"]["low"] > 0, share
        assert found["minus"]["live − clicked together"]["high"] < 0, share
        assert found["minus"]["live − SASRec"]["high"] < 0, share
        beside = found["minus"]["SASRec − clicked together"]
        assert beside["high"] > 0 and (beside["low"] > 0) == (share == "0.8")
    chief = data["by_lasting"][data["chief"]]["minus"]
    assert chief["live − like the last click, by text"]["high"] < 0
    both = chief["live + clicked together − clicked together"]
    assert both["high"] < 0  # a small loss
