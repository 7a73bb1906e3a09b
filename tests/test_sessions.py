"""Sessions of clicks: what the stated model of shoppers says, and their replay click by click."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ecomkd import recommend
from ecomkd.data import shop
from ecomkd.recommend import sessions


@pytest.fixture(scope="module")
def products():
    return shop.generate(5, 300, queries=30, unlabelled_pairs=10).products


def wanted_alone(gains, rng):
    """A shopper who looks at all places, and clicks whatever is of the wanted type."""
    return gains > 0


def simulated(products, lasting=0.5, seed=0, click=wanted_alone, shoppers=40, days=60):
    return sessions.simulate(products, click, shoppers, days, lasting, seed)


def kinds_of(log):
    """The product type of each click."""
    return log.items["product_type"].to_numpy()[log.events["item"]]


def test_a_session_wants_one_type_and_shows_each_product_once(products):
    log = simulated(products)
    own = log.events.assign(kind=kinds_of(log)).groupby("basket")
    assert (own["kind"].nunique() == 1).all()
    assert not log.events.duplicated(["basket", "item"]).any()
    assert (own["day"].nunique() == 1).all() and log.events["day"].is_monotonic_increasing
    assert (own["user"].nunique() == 1).all() and (own["bought"].sum() <= 1).all()


def test_the_share_of_sessions_that_want_a_favourite_is_the_one_asked_for(products):
    always, never = (simulated(products, lasting, days=140) for lasting in (1.0, 0.0))
    types = pd.Series(kinds_of(always)).groupby(always.events["user"].to_numpy()).nunique()
    assert types.max() <= sessions.FAVOURITES
    more = pd.Series(kinds_of(never)).groupby(never.events["user"].to_numpy()).nunique()
    assert more.mean() > 1.5 * types.mean()
    visits = never.events["basket"].nunique() / (40 * 140)
    assert visits == pytest.approx(sessions.VISITS, rel=0.1)


def test_one_seed_gives_the_same_clicks_and_another_seed_others(products):
    first, again, other = (simulated(products, seed=seed).events for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert len(first) != len(other) or not first.equals(other)


def test_a_page_is_of_the_department_and_half_of_it_of_the_wanted_type(products):
    pages = []

    def look(gains, rng):
        pages.append(gains)
        return gains > 0

    log = simulated(products, click=look)
    assert {len(page) for page in pages} == {sessions.PAGE}
    assert max((page > 0).sum() for page in pages) == sessions.WANTED
    assert set(np.concatenate(pages)) == {0.0, sessions.OTHER_BRAND, 1.0}
    everything = simulated(products, click=lambda gains, rng: np.full(len(gains), True))
    places = everything.items["department"].to_numpy()[everything.events["item"]]
    assert (pd.Series(places).groupby(everything.events["basket"]).nunique() == 1).all()
    # A good product stands on any place.
    good = np.mean([page > 0 for page in pages], axis=0)
    assert good.min() > 0.5 * good.max()
    assert len(log.items) == log.events["item"].nunique()


def test_a_share_outside_0_to_1_and_a_log_without_clicks_are_refused(products):
    with pytest.raises(ValueError, match=r"lasting=1\.5 is no share"):
        simulated(products, 1.5)
    with pytest.raises(ValueError, match="Nobody clicked anything"):
        simulated(products, click=lambda gains, rng: gains > 2)


class Noted:
    """Shows what it was told last, and notes the order of calls."""

    def __init__(self):
        self.calls, self.last = [], -1

    def recommend(self, user, day, without):
        self.calls.append(("asked", len(without)))
        return np.array([self.last])

    def learn(self, user, item, day):
        self.calls.append(("told", item))
        self.last = item


def test_each_click_is_asked_for_before_it_is_told_in_its_order(products):
    log = simulated(products)
    few = replace(log, events=log.events[log.events["basket"] < 3])
    system = Noted()
    found = recommend.next_items({"noted": system}, few, 0)
    assert found["item"].tolist() == few.events["item"].tolist()
    assert found["head"].tolist() == few.events.groupby("basket").cumcount().tolist()
    assert system.calls[::2] == [("asked", head) for head in found["head"]]
    assert system.calls[1::2] == [("told", item) for item in found["item"]]
    # No product is clicked twice in a session.
    assert found.loc[found["head"] > 0, "noted"].eq(0).all()


def test_a_clock_of_clicks_keeps_the_order_and_rests_between_sessions(products):
    log = simulated(products)
    retimed = recommend.on_clicks(log)
    assert retimed.events["day"].is_monotonic_increasing
    for user in range(0, 40, 9):
        own, before = (one.events[one.events["user"] == user] for one in (retimed, log))
        assert own["item"].tolist() == before["item"].tolist()[: len(own)]
        gaps = np.diff(own["day"])
        same = own["basket"].to_numpy()[1:] == own["basket"].to_numpy()[:-1]
        assert gaps.tolist() == np.where(same, sessions.STEP, sessions.REST).tolist()
        assert own["day"].iloc[0] == sessions.STEP * (user % 7)
    last = retimed.events.groupby("user")["day"].max()
    assert (last >= retimed.days - sessions.STEP - sessions.REST).mean() >= 0.7


def test_a_session_that_has_begun_is_not_asked_about(products):
    log = recommend.on_clicks(simulated(products))
    start = log.test_start
    begun = set(log.between(0, start)["basket"])
    found = recommend.next_items({"noted": Noted()}, log, start)
    assert (
        not begun & set(found["basket"]) and (found.loc[found["head"] == 0, "day"] >= start).all()
    )
    assert begun & set(log.between(start, log.days)["basket"])
