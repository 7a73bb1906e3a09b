"""The script that measures hidden items, on a made-up shop, and the record that it writes."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import tiny_baskets
import tiny_models
from tiny_baskets import ITEMS

import measure_cold_items as script
from ecomkd import recommend, report
from ecomkd.config import Profile
from ecomkd.data.baskets import Baskets


@pytest.fixture(scope="module")
def shop() -> Baskets:
    return tiny_baskets.shop()


def test_each_item_is_asked_for_once_and_known_to_nobody_before(shop):
    asked = np.zeros(ITEMS, int)
    for seed in range(script.FIFTHS):
        chosen, test = script.stages(shop, seed)
        asked += test.asked
        assert not (chosen.asked & test.asked).any(), "no item chooses its own settings"
        assert (chosen.gone == (chosen.asked | test.asked)).all()
        for stage, day in ((chosen, shop.validation_start), (test, shop.test_start)):
            events = stage.known.events
            assert events["day"].max() < day == stage.day
            assert not stage.gone[events["item"]].any()
            assert stage.past[:, stage.gone].nnz == 0
            wanted = recommend.targets(shop, day)
            for user, items in stage.wanted.items():
                assert (items == [item for item in wanted[user] if stage.asked[item]]).all()
                assert stage.past[user].nnz
    assert (asked == 1).all()


def test_recall_within_all_items_and_among_hidden_ones(shop):
    _, stage = script.stages(shop, 0)
    user = next(iter(stage.wanted))
    users, wanted = np.array([user]), stage.wanted[user]
    right = np.zeros((1, ITEMS))
    right[0, wanted] = 1
    assert stage.evaluate(lambda _: right, users) == {"whole": [1.0], "cold": [1.0]}
    warm = np.where(stage.gone, right, 2.0)  # all others before them
    found = stage.evaluate(lambda _: warm, users)
    assert found == {"whole": [0.0], "cold": [1.0]}


class Known(script.Stage):
    """A stage of three users and four items of which the last one is hidden."""

    past = sp.csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0]], np.float32))

    def __init__(self):
        hidden = np.arange(4) == 3
        super().__init__(None, 0, hidden, hidden)

    def profiles(self, scale):
        return sp.csr_matrix(self.past / self.past.sum(axis=1))

    def factors(self, width, weight, seed):
        return np.eye(3, 2, dtype=np.float32), np.array(
            [[1, 0], [0, 1], [1, 1], [9, 9]], np.float32
        )


VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.8, 0.6, 0]], np.float32)
TEXTS = script.Texts("made up", VECTORS)


def test_the_nearest_text_by_the_mean_or_by_the_most_alike():
    stage, users = Known(), np.array([0, 2])
    mean = script.nearest(stage, TEXTS, None, None)(users)
    assert mean[:, 3] == pytest.approx([(0.8 + 0.6) / 2, 0.8 / 2])
    most = script.nearest(stage, TEXTS, None, 1)(users)
    assert most[:, 3] == pytest.approx([0.8, 0.8])


def test_ridge_makes_factors_that_are_linear_in_the_text():
    stage, users = Known(), np.arange(3)
    # The factors of the items that were bought are a linear map of their texts.
    wanted = VECTORS[3] @ np.array([[1, 0], [0, 1], [1, 1]])
    found = script.ridge(stage, TEXTS, 2, 1.0, 1e-9, True, 0)(users)
    assert found[:, 3] == pytest.approx(np.eye(3, 2) @ wanted, abs=1e-5)
    assert found[1, :3] == pytest.approx([0, 1, 1], abs=1e-6), "the others have their own"
    shrunk = script.ridge(stage, TEXTS, 2, 1.0, 1e6, False, 0)(users)
    assert np.abs(shrunk).max() < 1e-4, "without their own, all shrink"


def test_learnt_ways_bring_what_is_bought_together_near(monkeypatch):
    rng, items, people, warm = np.random.default_rng(0), 120, 60, 100
    groups, kinds = np.arange(items) % 2, np.arange(people) % 2
    past = np.zeros((people, items), np.float32)
    for user, kind in enumerate(kinds):
        past[user, rng.choice(np.flatnonzero(groups[:warm] == kind), 8, replace=False)] = 1
    # The texts tell the groups apart in one number among noise.
    vectors = rng.normal(size=(items, 8)).astype(np.float32)
    vectors[:, 0] = 0.7 * (2 * groups - 1)
    texts = script.Texts("groups", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    stage, users = Known(), np.arange(people)
    monkeypatch.setattr(Known, "past", sp.csr_matrix(past))
    object.__setattr__(stage, "gone", np.arange(items) >= warm)

    def right(scores: np.ndarray) -> float:
        """How often a hidden item of the user's own group stands before one of the other."""
        first, second = (scores[:, warm:][:, groups[warm:] == group] for group in (0, 1))
        found = (first[:, :, None] > second[:, None]).mean(axis=(1, 2))
        return float(np.where(kinds, 1 - found, found).mean())

    before = right(script.nearest(stage, texts, None, None)(users))
    assert before < 0.8
    assert right(script.contrast(stage, texts, 0.1, None, 200, (1, 200), 0)(users)) > 0.95
    factors = np.eye(2, dtype=np.float32)[kinds], np.eye(2, dtype=np.float32)[groups]
    monkeypatch.setattr(Known, "factors", lambda *_: factors)
    assert right(script.aligned(stage, texts, 2, 1.0, 1.0, 200, (1, 200), True, 0)(users)) > 0.95


def test_seeds_are_measured_and_merged_into_a_record(shop, tmp_path, monkeypatch):
    start = tiny_models.save(tiny_models.bert(seed=1), tmp_path / "start")
    own = tiny_models.profile(tmp_path / "artifacts", teacher=str(start), frozen_layers=None)
    monkeypatch.setattr(Profile, "named", staticmethod(lambda name=None, **changes: own))
    monkeypatch.setattr(script, "load", lambda source: shop)
    monkeypatch.setattr(script, "leaflet", lambda stage: np.arange(ITEMS) / ITEMS)
    fewer = {
        way: (make, {name: values[:1] for name, values in grid.items()} | (
            {"passes": (1, 2)} if "passes" in grid else {}
        ) | ({"width": (4,)} if "width" in grid else {}))
        for way, (make, grid) in script.WAYS.items()
    }  # fmt: skip
    monkeypatch.setattr(script, "WAYS", fewer)
    monkeypatch.setattr(script, "FEWER", {})
    folder, out = tmp_path / "parts", tmp_path / "cold_items.json"
    seeds = " ".join(map(str, range(script.FIFTHS)))
    folder.mkdir()
    with pytest.raises(SystemExit, match="no shop was measured"):
        script.merge(folder, out)
    for line in (f"journey --seeds {seeds}", f"office_products --seeds {seeds}"):
        tiny_baskets.call(monkeypatch, script, f"{line} --folder {folder}")
    tiny_baskets.call(monkeypatch, script, f"--merge --out {out} --folder {folder}")
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["seeds"] == list(range(script.FIFTHS))
    for source in ("journey", "office_products"):
        data = record["data"][source]
        assert sum(data["hidden"]) == ITEMS
        rows = data["rows"]
        assert rows[script.IDS]["whole"]["value"] < 0.1
        assert (script.LEAFLET in rows) == (source == "journey")
        for row in rows.values():
            for goal in script.GOALS:
                assert 0 <= row[goal]["low"] <= row[goal]["value"] <= row[goal]["high"] <= 1
        gap = rows[script.BEST]["whole"]["value"] - rows[script.WORDS]["whole"]["value"]
        minus = data["minus"][f"{script.BEST} − {script.WORDS}"]["whole"]["value"]
        assert minus == pytest.approx(gap)
        assert len(rows[script.BEST]["of"]) == script.FIFTHS
    assert [goal["name"].split(":")[0] for goal in record["goals"]] == ["office_products"] * 2
    parts = [
        json.loads((folder / "journey" / f"seed{seed}.json").read_text(encoding="utf-8"))
        for seed in range(script.FIFTHS)
    ]
    (folder / "journey").rename(tmp_path / "elsewhere")
    tiny_baskets.call(monkeypatch, script, f"--merge --out {out} --folder {folder}")
    again = json.loads(out.read_text(encoding="utf-8"))
    assert again["data"]["journey"] == record["data"]["journey"], "a shop without files is kept"
    (tmp_path / "elsewhere").rename(folder / "journey")
    (folder / "office_products").rename(tmp_path / "elsewhere")
    tiny_baskets.call(monkeypatch, script, f"--merge --out {out} --folder {folder}")
    again = json.loads(out.read_text(encoding="utf-8"))
    assert again["data"] == record["data"] and again["goals"] == record["goals"]
    pairs = sum(len(own) for own in recommend.targets(shop, shop.test_start).values())
    assert sum(part["purchases"] for part in parts) == pairs, "each purchase is asked for once"


RECORD = report.recorded("cold_items")["data"]


def test_a_text_finds_what_ids_cannot_and_the_encoders_no_more_than_words():
    assert set(RECORD) == {
        "office_products", "industrial_and_scientific", "online_retail", "journey",
    }  # fmt: skip
    for name, shop in RECORD.items():
        assert len(shop["seeds"]) == script.FIFTHS
        for goal in script.GOALS:
            assert shop["minus"][f"{script.BEST} − {script.IDS}"][goal]["low"] > 0
            alike = shop["minus"][f"{script.BEST} − {script.NONE}"][goal]
            assert (alike["low"] > 0) == (name != "journey")
            assert alike["high"] > 0
            between = shop["minus"][f"{script.BEST} − {script.WORDS}"][goal]
            assert between["low"] < 0
            assert (between["high"] > 0) == (name != "online_retail")


def test_among_groceries_a_text_finds_little_and_a_leaflet_cannot_be_told_from_it():
    shop = RECORD["journey"]
    assert 67_500 < shop["items"][0] < 68_500 and 13_500 < shop["hidden"][0] < 14_500
    for kind in (script.MINILM, script.TFIDF, script.ONE_HOT):
        best = shop["rows"][f"best of {kind}"]
        assert best["whole"]["high"] < 0.01 and best["cold"]["value"] < 0.02
    text = f"{script.NEAREST}, {script.MINILM}"
    both = f"{text} + {script.LEAFLET}"
    assert shop["minus"][f"{both} − {text}"]["cold"]["low"] < 0
    assert shop["minus"][f"{both} − {text}"]["whole"]["value"] < 0.002
    for pair in (f"{script.LEAFLET} − {script.WORDS}", f"{both} − {script.LEAFLET}"):
        for goal in script.GOALS:
            found = shop["minus"][pair][goal]
            assert found["low"] < 0 < found["high"]
    for goal in script.GOALS:
        text, added = shop["rows"][f"{script.NEAREST}, {script.MINILM}"][goal], shop["rows"][both]
        assert text["low"] < added[goal]["value"] < text["high"]
    spread = {
        row: shop["rows"][row]["whole"]["high"] - shop["rows"][row]["whole"]["low"]
        for row in (script.LEAFLET, script.BEST)
    }
    assert spread[script.LEAFLET] > 3 * spread[script.BEST]


@pytest.mark.parametrize("kind", [script.MINILM, script.TFIDF])
def test_among_gifts_factors_that_text_foretells_find_most_beside_old_items(kind):
    rows = {
        shop: {way: own["rows"][f"{way}, {kind}"] for way in script.WAYS}
        for shop, own in RECORD.items()
    }
    gifts = rows.pop("online_retail")
    aligned, nearest = gifts[script.ALIGNED], gifts[script.NEAREST]
    minus = {
        shop: RECORD[shop]["minus"][f"{script.ALIGNED}, {kind} − {script.NEAREST}, {kind}"]
        for shop in ("online_retail", "journey")
    }
    assert minus["online_retail"]["whole"]["low"] > 0 > minus["online_retail"]["cold"]["high"]
    assert max(minus["journey"][goal]["high"] for goal in script.GOALS) < 0
    ratio = aligned["whole"]["value"] / nearest["whole"]["value"]
    assert round(ratio, 1) == {script.MINILM: 1.4, script.TFIDF: 1.5}[kind]
    for own in rows.values():
        assert own[script.ALIGNED]["whole"]["value"] < own[script.NEAREST]["whole"]["value"] + 0.001
