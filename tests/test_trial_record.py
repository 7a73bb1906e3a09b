"""benchmarks/measure_trial.py: trials with households, lists with two aims; and its record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_baskets

import measure_trial as script
from ecomkd import recommend, report
from ecomkd.data import journey
from ecomkd.data.baskets import HORIZON


@pytest.fixture(scope="module")
def shop():
    made = tiny_baskets.shop()
    items = made.items.assign(brand=np.where(np.arange(len(made.items)) % 3, "National", "Private"))
    prices = 1.0 + made.events["item"] % 5
    return replace(made, items=items, events=made.events.assign(price=prices))


def test_what_the_past_foretells_is_taken_away_and_the_mean_stays():
    rng = np.random.default_rng(0)
    before = rng.gamma(2.0, 50.0, 5_000)
    spent = 0.7 * before + rng.normal(20, 30, 5_000)
    weight = script.weight_of(spent, before)
    assert weight == pytest.approx(0.7, abs=0.02)
    left = script.adjusted(spent, before, weight)
    assert left.mean() == pytest.approx(spent.mean())
    rho = np.corrcoef(spent, before)[0, 1]
    assert left.var() / spent.var() == pytest.approx(1 - rho**2)
    assert script.adjusted(spent, before, 1.2 * weight).var() > left.var()


def test_weights_come_from_the_period_before_the_trial(shop):
    start = shop.test_start
    later = shop.events["day"] >= start
    more = replace(shop, events=shop.events.assign(price=shop.events["price"] * (1 + 4 * later)))
    plain, dear = script.ways(shop, start), script.ways(more, start)
    for name in plain:
        raised = dear["spending"] - plain["spending"]
        assert dear[name] - plain[name] == pytest.approx(raised), name


def test_trials_find_what_is_there_and_a_mistake_does_not(shop, monkeypatch):
    monkeypatch.setattr(script, "SPLITS", 400)
    found = script.trials(shop, shop.test_start)
    for name in script.ways(shop, shop.test_start):
        assert found["no effect"][name]["difference"] == pytest.approx(0, abs=0.02)
        assert found["effect"][name]["difference"] == pytest.approx(script.EFFECT, abs=0.02)
    wrong = found["effect"]["adjusted by baskets of the trial"]["difference"]
    assert wrong < script.EFFECT - 0.02


def test_so_many_households_sound_the_alarm_four_times_out_of_five():
    households = script.households_for_alarm()
    rng = np.random.default_rng(0)
    halves = rng.binomial(households, 0.5, 2_000)
    lost = rng.binomial(halves, script.LOST / 2)
    alarms = [
        script.binomtest(int(one - gone), int(households - gone)).pvalue < script.ALARM
        for one, gone in zip(halves, lost, strict=True)
    ]
    assert np.mean(alarms) == pytest.approx(0.8, abs=0.04)


def test_places_are_kept_for_the_best_of_the_own_brands():
    scores = np.array([[9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.4, 0.3]], np.float32)
    own = np.zeros(12, bool)
    own[[1, 10, 11]] = True
    assert script.kept_places(scores, own, 0)[0].tolist() == list(range(10))
    two = script.kept_places(scores, own, 2)[0]
    assert set(two) == {*range(9), 10}
    three = script.kept_places(scores, own, 3)[0]
    assert set(three) == {*range(8), 10, 11}


def test_a_list_is_judged_by_hits_brands_and_dollars(shop):
    day = shop.test_start
    wanted = recommend.targets(shop, day)
    user = next(iter(wanted))
    top = np.arange(recommend.DEPTH)
    ((recall, own, dollars),) = script.judged(shop, day, np.array([user]), top[None])
    hits = np.isin(top, wanted[user]).sum()
    assert recall == hits / min(recommend.DEPTH, len(wanted[user]))
    assert own == 0.4
    events = shop.between(day, day + HORIZON)
    bought = events[(events["user"] == user) & events["item"].isin(top)]
    assert dollars == pytest.approx((bought["price"] * bought["quantity"]).sum())


def test_ways_are_compared_at_an_equal_share_of_own_brands():
    def points(recall, own):
        return np.tile([recall, own, 1.0], (50, 1))

    places = {k: points(0.4 - 0.01 * k, 0.3 + 0.05 * k) for k in script.PLACES}
    on_the_line, above = points(0.385, 0.375), points(0.395, 0.375)
    for weight, gap in ((on_the_line, 0), (above, 0.01)):
        found = script.at_equal_share({"places": places, "weight": {0.3: weight}}, 0.3)
        assert found["difference"] == pytest.approx(gap)
    with pytest.raises(ValueError, match="share of own brands"):
        script.at_equal_share({"places": places, "weight": {0.3: points(0.3, 0.9)}}, 0.3)


def test_a_record_is_written(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(journey, "load", lambda: shop)
    monkeypatch.setattr(script, "SPLITS", 20)
    monkeypatch.setattr(script, "PERIODS", 2)
    monkeypatch.setattr(script, "LEAST", 0.5)
    settings = {"neighbours": 5, "scale": 56, "window": 56, "share": 1.0, "old": True}
    told = {"data": {"journey": {"settings": {"user-kNN": {"recall": settings}}}}}
    monkeypatch.setattr(script.report, "recorded", lambda name: told)
    monkeypatch.setattr(script, "at_equal_share", lambda test, far: dict(
        difference=0.1, low=0.0, high=0.2
    ))  # fmt: skip
    out = tmp_path / "trial.json"
    tiny_baskets.call(monkeypatch, script, f"--out {out}")
    record = json.loads(out.read_text(encoding="utf-8"))
    aims = record["data"]["aims"]
    assert aims["own brands"] == pytest.approx(1 / 3)
    for way, front in aims["fronts"].items():
        assert front[0]["at"] == 0, way
        assert front[0] == aims["fronts"]["weight"][0]
    shares = [point["own"] for point in aims["fronts"]["places"]]
    assert shares == sorted(shares) and shares[-1] == 1
    assert not record["goals"][1]["met"], "an interval that touches 0 tells nothing"


DATA = report.recorded("trial")["data"]
TRIALS, AIMS = DATA["trials"], DATA["aims"]


def test_the_past_takes_most_of_the_noise_away():
    periods = list(DATA["variance"].values())
    assert len(periods) == 7
    last = {name: round(100 * found["value"]) for name, found in periods[-1].items()}
    assert last == {
        "spending": 100, "spending − spending before": 44, "CUPED, 28 days": 42,
        "CUPED, 112 days": 34,
    }  # fmt: skip
    for found in periods:
        values = [found[name]["value"] for name in last]
        assert values == sorted(values, reverse=True)
    assert round(DATA["mean"]) == 139 and round(DATA["deviation"]) == 180
    assert DATA["users"] == 2_467 and DATA["first day"] < 7
    effect = TRIALS["effect"]
    assert round(100 * effect["spending"]["told"]) == 44
    assert round(100 * effect["CUPED, 112 days"]["told"]) == 88
    assert round(DATA["needed"]["0.02"]["CUPED, 112 days"], -3) == 46_000
    assert round(DATA["needed"]["0.01"]["CUPED, 112 days"], -3) == 182_000
    earlier = {name: [round(100 * found[name]["value"]) for found in periods[:-1]]
               for name in ("spending − spending before", "CUPED, 28 days")}  # fmt: skip
    ends = {name: (min(own), max(own)) for name, own in earlier.items()}
    assert list(ends.values()) == [(45, 51), (40, 42)]


def test_households_are_as_many_as_a_trial_needs():
    rng = np.random.default_rng(0)
    past = rng.gamma(1.0, 100.0, 20_000)
    found = {"spending": past}
    wanted = script.needed(found, 0.1)["spending"]
    told = []
    for _ in range(600):
        own = rng.choice(past, wanted)
        arm = script.arms(wanted, rng)
        told.append(script.told(own * (1 + 0.1 * arm), np.ones(wanted, bool), arm)[1])
    assert np.mean(told) == pytest.approx(0.8, abs=0.05)


def test_what_is_wrong_with_a_trial_is_as_the_page_says():
    for row in TRIALS["no effect"].values():
        assert 0.045 < row["told"] < 0.055
    wrong = TRIALS["effect"]["adjusted by baskets of the trial"]
    assert round(wrong["difference"], 3) == 0.024 and wrong["told"] < 0.1
    lost = {name: round(100 * row["difference"], 1) for name, row in TRIALS["lost"].items()}
    assert list(lost.values()) == [7.5, -0.6, 1.2, 0.1]
    assert round(100 * wrong["told"]) == 9
    assert round(100 * TRIALS["sizes"]["alarms"]) == 22
    assert round(TRIALS["sizes"]["households"], -2) == 6_500


def test_a_weight_on_own_brands_costs_little_recall_and_some_dollars():
    kept = {way: {name: found["value"] for name, found in own.items()}
            for way, own in AIMS["of plain"].items()}  # fmt: skip
    (chosen,) = (p for p in AIMS["fronts"]["weight"] if p["at"] == AIMS["chosen"]["weight"])
    plain = AIMS["fronts"]["weight"][0]
    assert AIMS["chosen"] == {"weight": 0.3, "places": 4, "price": 0.1}
    assert round(100 * chosen["own"]) == 52 and round(100 * plain["own"]) == 38
    assert round(100 * AIMS["own brands"]) == 15 and AIMS["users"] == 1_988
    assert AIMS["median price"] == {"own": 1.5, "other": 2.0}
    assert (
        round(kept["weight"]["recall"], 3) == 0.99 and round(kept["places"]["recall"], 3) == 0.979
    )
    assert round(100 * kept["weight"]["dollars"]) == 97
    assert round(100 * kept["price"]["dollars"]) == 102 and kept["price"]["own"] < 1
    assert (
        AIMS["of plain"]["price"]["dollars"]["low"]
        > 1
        > AIMS["of plain"]["weight"]["dollars"]["high"]
    )
    spans = {way: [round(100 * own["recall"][end], 1) for end in ("low", "high")]
             for way, own in AIMS["of plain"].items()}  # fmt: skip
    assert spans["weight"] == [98.2, 99.8] and spans["places"] == [97.3, 98.5]
    promised = {
        way: next(p["recall"] for p in AIMS["validation"][way] if p["at"] == AIMS["chosen"][way])
        / AIMS["validation"][way][0]["recall"]
        for way in ("weight", "places")
    }
    assert {way: round(one, 3) for way, one in promised.items()} == {
        "weight": 0.992,
        "places": 0.99,
    }
    gap = {name: round(value, 3) for name, value in AIMS["weight − places"].items()}
    assert gap == {"difference": 0.009, "low": 0.006, "high": 0.012}


def test_the_weight_is_nowhere_below_kept_places():
    own, recall = (
        {way: [point[name] for point in AIMS["fronts"][way]] for way in ("weight", "places")}
        for name in ("own", "recall")
    )
    drawn = np.interp(own["places"], own["weight"], recall["weight"])
    gaps = drawn - recall["places"]
    assert gaps.min() > -0.001
    assert all(gap > 0 for gap, at in zip(gaps, own["places"], strict=True) if 0.4 < at < 0.95)
