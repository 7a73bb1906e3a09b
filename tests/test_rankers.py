"""Rankers that need no network, each against its formula on a shop of a few purchases."""

import sys

import numpy as np
import pandas as pd
import pytest
import tiny_baskets

from ecomkd import recommend
from ecomkd.data.baskets import Baskets, from_lines
from ecomkd.recommend import tuning

DAY = 40


def shop(bought: list[tuple]) -> Baskets:
    """A shop of six items, whose lines are a user, an item and a day: one basket a user and day."""
    frame = pd.DataFrame(bought, columns=["user_id", "item_id", "day"])
    frame["time"] = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D")
    frame["basket_id"] = frame["user_id"] * 1000 + frame["day"]
    items = pd.DataFrame({"item_id": list("abcdef"), "text": list("abcdef")})
    users = pd.DataFrame({"user_id": sorted({user for user, _, _ in bought})})
    return from_lines(frame.assign(quantity=1, value=1.0), items, users, {})


@pytest.fixture(scope="module")
def two_groups() -> Baskets:
    """Users 0 to 2 like a, b, c; users 3 to 5 like d, e, f. User 0 lacks c, and user 3 lacks f."""
    rows = [(user, item, user) for user in (0, 1, 2) for item in "ab"]
    rows += [(user, item, user) for user in (3, 4, 5) for item in "de"]
    rows += [(user, "c", 30 + user) for user in (1, 2)]
    rows += [(user, "f", 30 + user) for user in (4, 5)]
    return shop(rows)


def test_the_window_of_what_is_popular_may_be_longer(two_groups):
    late = recommend.popular(two_groups, DAY)(np.array([0]), False)[0]
    assert set(late[:2]) == {2, 5}
    long = recommend.popular(two_groups, DAY, window=DAY)(np.array([0]), False)[0]
    assert set(long[:4]) == {0, 1, 3, 4}


def test_without_a_scale_all_baskets_count_alike():
    baskets = shop([(0, "a", 0), (0, "a", 1), (0, "b", 39), (1, "c", 39)])
    assert recommend.buy_again(baskets, DAY)(np.array([0]), False)[0, :2].tolist() == [0, 1]
    assert recommend.buy_again(baskets, DAY, 5)(np.array([0]), False)[0, :2].tolist() == [1, 0]


def test_neighbours_are_those_who_bought_the_same_and_count_by_how_alike_they_are():
    baskets = shop(
        [*[(0, item, 0) for item in "ab"], *[(1, item, 0) for item in "ab"], (2, "a", 0),
         (3, "d", 0), (1, "c", 35), (2, "e", 35), (3, "f", 35)]
    )  # fmt: skip
    share = recommend.neighbours_share(baskets, DAY, 2, 100.0)(np.array([0]))[0]
    assert share[2] + share[4] == pytest.approx(1)  # all of both neighbours, who bought c and e
    assert share[2] > share[4] > 0 == share[5]
    assert share[0] == 0, "nobody bought a of late"
    long = recommend.neighbours_share(baskets, DAY, 2, 100.0, window=DAY)(np.array([0]))[0]
    assert long[0] == pytest.approx(1), "both neighbours had bought a, and the user does not count"
    one = recommend.neighbours_share(baskets, DAY, 1, 100.0)(np.array([0]))[0]
    assert one[2] == pytest.approx(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda baskets: recommend.user_knn(baskets, DAY, 2, 100.0),
        lambda baskets: recommend.tifu_knn(baskets, DAY, 2, 0.5),
        lambda baskets: recommend.ease(baskets, DAY, 1.0, least=1),
        lambda baskets: recommend.item_knn(baskets, DAY, 3, scale=100.0),
        lambda baskets: recommend.factors(baskets, DAY, 2, 1.0, 0, scale=100.0),
        lambda baskets: recommend.bpr(baskets, DAY, 8, 0.1, 0.001, 0, passes=300),
    ],
)
def test_what_is_missing_of_ones_own_group_comes_first(make, two_groups):
    shown = make(two_groups)(np.array([0, 3]), True)
    assert shown[:, 0].tolist() == [2, 5]


def test_of_new_items_the_neighbours_decide_and_of_old_ones_the_user(two_groups):
    def first(share, new):
        rank = recommend.user_knn(two_groups, DAY, 2, 100.0, share=share)
        return rank(np.array([0]), new)[0]

    assert set(first(0.01, False)[:2]) == {0, 1}
    assert first(100.0, False)[0] == 2
    assert (first(0.01, True) == first(100.0, True)).all()


def test_frequencies_fade_within_a_group_and_across_groups():
    baskets = shop([(0, "a", 0), (0, "b", 1), (0, "c", 2), (1, "a", 3)])
    fading = recommend.rankers._fading(baskets, DAY, 0.9, 0.5, 1).toarray()
    assert fading[0, :3] == pytest.approx(np.array([0.81, 0.9, 1]) / 3)
    assert fading[1, 0] == 1
    # Two groups of two and one, the latest full: (b, c), then a.
    fading = recommend.rankers._fading(baskets, DAY, 0.9, 0.5, 2).toarray()
    assert fading[0, :3] == pytest.approx([0.5 / 2, 0.9 / 2 / 2, 1 / 2 / 2])
    # No more groups than baskets.
    many = recommend.rankers._fading(baskets, DAY, 0.9, 0.5, 99).toarray()
    assert many[0, :3] == pytest.approx(np.array([0.25, 0.5, 1]) / 3)


def test_the_frequency_of_what_is_in_every_basket_is_one():
    baskets = shop([(0, "a", day) for day in range(8)] + [(1, "a", day) for day in range(31)])
    for groups in (1, 3, 7, 30):
        fading = recommend.rankers._fading(baskets, 40, 1.0, 1.0, groups).toarray()
        assert fading[:, 0] == pytest.approx([1, 1]), groups


def test_who_has_bought_nothing_yet_is_no_neighbour():
    early = [(0, "a", 0), (1, "e", 1), (1, "f", 1)]
    baskets = shop([*early, *((user, "d", 90) for user in range(2, 40))])
    found = recommend.tifu_knn(baskets, 50, neighbours=5, share=0.0)(np.array([0]), True)
    assert set(found[0, :2]) == {2, 3}, "e and f, not what sells"


def test_of_equally_near_users_the_first_ones_are_neighbours():
    far = [(user, "abcdef"[user % 3 + 1], 0) for user in range(1, 400)]
    baskets = shop([(0, "a", 0), *far])
    found = recommend.tifu_knn(baskets, 50, neighbours=1, share=0.0)(np.array([0]), True)
    assert found[0, 0] == 2, "what user 1 has bought"


def test_the_own_frequency_and_the_neighbours_add_up(two_groups):
    own = recommend.tifu_knn(two_groups, DAY, 2, share=1.0)(np.array([0]), False)[0]
    assert set(own[:2]) == {0, 1}
    others = recommend.tifu_knn(two_groups, DAY, 2, share=0.0, within=1.0, across=1.0, groups=1)
    assert set(others(np.array([0]), False)[0, :3]) == {0, 1, 2}, "the others bought all three"


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(two_groups):
    had = (recommend.history(two_groups, DAY) > 0).toarray().astype(float)
    expected = np.zeros((6, 6))
    for item in range(6):
        others = np.delete(np.arange(6), item)
        gram = had[:, others].T @ had[:, others] + 2.0 * np.eye(5)
        expected[others, item] = np.linalg.solve(gram, had[:, others].T @ had[:, item])
    scores = had @ expected
    shown = recommend.ease(two_groups, DAY, 2.0, least=1)(np.arange(6), False)
    for row, own in zip(shown, scores, strict=True):
        assert own[row] == pytest.approx(np.sort(own)[::-1], abs=1e-5)


def test_what_few_have_bought_follows_in_the_order_of_sales():
    rows = [(user, item, 0) for user in range(4) for item in "ab"] + [(0, "c", 30), (1, "d", 30)]
    rank = recommend.ease(shop([*rows, (2, "d", 30)]), DAY, 1.0, least=4)
    assert rank(np.array([3]), True)[0, :2].tolist() == [3, 2]


def test_only_those_who_are_asked_count(two_groups):
    rows = [(0, "c", 45), (3, "a", 45), (1, "a", 67)]
    whole = two_groups.events.assign(user_id=lambda one: one["user"])
    again = shop(
        [(int(u), "abcdef"[i], int(d)) for u, i, d in whole[["user", "item", "day"]].to_numpy()]
        + rows
    )
    rank = recommend.user_knn(again, DAY, 2, 100.0)
    found = recommend.evaluate(rank, again, DAY, depth=1, asked=np.array([0, 0, 2]))
    assert found["per_user"].index.tolist() == [0]
    assert found["new_recall"] == 1


def test_without_the_library_the_extra_is_named(two_groups, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.bpr", None)
    with pytest.raises(ModuleNotFoundError, match="bpr needs: pip install"):
        recommend.bpr(two_groups, DAY, 2, 0.1, 0.1, 0)


# Settings -----------------------------------------------------------------------------------------


def test_each_goal_has_settings_of_its_own_one_moved_after_the_other(monkeypatch):
    shop, asked = tiny_baskets.shop(), []

    def evaluate(rank, baskets, start, asked=None):
        assert start == shop.validation_start and len(asked) <= tuning.ASKED
        a, b = rank
        return {"recall": -abs(a - 3) - abs(b - 1), "new_recall": a + b}

    def make(baskets, day, a, b):
        asked.append((a, b))
        return a, b

    monkeypatch.setattr(tuning, "evaluate", evaluate)
    grid = {"a": (1, 2, 3, 4), "b": (1, 2)}
    chosen, tried = recommend.tuned(make, grid, shop)
    assert chosen == {"recall": {"a": 3, "b": 1}, "new_recall": {"a": 4, "b": 2}}
    assert tried == len(asked) == len(set(asked)), "no setting is tried twice"


def test_old_items_can_be_left_out_of_every_list():
    shop = tiny_baskets.shop()
    day, users = shop.test_start, np.arange(3)
    both = recommend.old_or_not(recommend.buy_again, shop, day, scale=None)
    fresh = recommend.old_or_not(recommend.buy_again, shop, day, old=False, scale=None)
    assert (fresh(users, False) == both(users, True)).all()
    assert (both(users, False) != both(users, True)).any()
