"""Rankings of all items for users, checked by hand on four users and six items."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from ecomkd import recommend
from ecomkd.data.baskets import HORIZON, Baskets, from_lines
from ecomkd.recommend import live

START = 40
ITEMS = pd.DataFrame({"item_id": list("abcdef"), "text": list("abcdef")})
BOUGHT = [  # user, item, day
    *[(0, "a", day) for day in (0, 10, 30)],
    (0, "b", 39),
    (1, "a", 38),
    (1, "c", 5),
    (2, "c", 36),
    (2, "d", 37),
    # the period that is foreseen
    (0, "a", 40),
    (0, "a", 41),
    (0, "d", 50),
    (1, "e", 67),
    (2, "d", 45),
    (3, "a", 44),
    # after it
    (0, "f", 68),
]


def shop(bought: list[tuple]) -> Baskets:
    frame = pd.DataFrame(bought, columns=["user_id", "item_id", "day"])
    frame["time"] = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D")
    frame = frame.assign(basket_id=range(len(frame)), quantity=1, value=1.0)
    users = pd.DataFrame({"user_id": range(4)})
    return from_lines(frame, ITEMS, users, {})


@pytest.fixture(scope="module")
def baskets():
    return shop(BOUGHT)


def test_history_counts_baskets_before_the_day(baskets):
    plain = recommend.history(baskets, START).toarray()
    assert plain[0].tolist() == [3, 1, 0, 0, 0, 0]
    assert plain[3].sum() == 0
    faded = recommend.history(baskets, START, scale=10).toarray()
    assert faded[0, 0] == pytest.approx(np.exp(-4) + np.exp(-3) + np.exp(-1))


def test_targets_are_distinct_and_end_with_the_horizon(baskets):
    found = recommend.targets(baskets, START)
    assert {user: items.tolist() for user, items in found.items()} == {
        0: [0, 3],
        1: [4],
        2: [3],
        3: [0],
    }
    assert 5 not in np.concatenate(list(found.values()))
    assert START + HORIZON == 68


def test_first_sold_in_the_period(baskets):
    assert recommend.first_sold(baskets, START).tolist() == [4]


def test_a_perfect_ranking_has_recall_and_ndcg_one(baskets):
    wanted = recommend.targets(baskets, START)

    def rank(users, new):
        scores = np.zeros((len(users), 6))
        for row, user in enumerate(users):
            scores[row, wanted[user]] = 1
        past = recommend.history(baskets, START)[users]
        return recommend.best(scores, past if new else None, depth=2)

    found = recommend.evaluate(rank, baskets, START, depth=2)
    assert found["recall"] == found["ndcg"] == found["new_recall"] == 1
    assert found["n_without_history"] == 1  # user 3
    per_user = found["per_user"]
    assert per_user.index.tolist() == [0, 1, 2]
    assert np.isnan(per_user.loc[2, "new_recall"])  # item d is not new to user 2


def test_of_many_equals_the_first_ones_are_the_best():
    assert recommend.best(np.zeros((1, 3000)))[0].tolist() == list(range(10))
    scores = np.random.default_rng(0).integers(0, 4, (200, 60))
    stable = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    assert np.array_equal(recommend.best(scores), stable)
    nothing = np.array([[np.nan, np.nan, 1.0, 2.0]])
    assert recommend.best(nothing, depth=3)[0].tolist() == [3, 2, 0], "no number comes last"


def test_recall_ndcg_and_repeats_by_hand(baskets):
    def rank(users, new):
        return np.array([[5, 4, 3]] * len(users)) if new else np.array([[0, 1, 2]] * len(users))

    found = recommend.evaluate(rank, baskets, START, depth=3)
    first = found["per_user"].loc[0]
    assert first["recall"] == 0.5  # a of a and d
    assert first["ndcg"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert first["repeats"] == pytest.approx(2 / 3)
    assert first["new_recall"] == 1
    assert first["new_ndcg"] == pytest.approx(1 / 2)
    assert found["coverage"] == 3 / 6
    shares = np.array([3, 2, 3]) / 5  # a and c have two buyers, b one; one more each, of 4 + 1
    assert found["novelty"] == pytest.approx(-np.log2(shares).mean())


def test_cold_items_compete_alone_and_equals_share_their_places():
    rows = [(0, "a", 0), (1, "a", 0), (0, "c", 42), (1, "b", 50), (1, "d", 60), (2, "e", 60)]
    baskets = shop([*rows, (0, "a", 67)])

    def recall(scores):
        def score(users, items):
            assert users.tolist() == [0, 1]  # user 2 has bought nothing before
            assert items.tolist() == [1, 2, 3, 4]  # b, c, d, e
            return np.array(scores, float)

        return recommend.evaluate_cold(score, baskets, START, depth=2).tolist()

    assert recall([[0, 0, 0, 0]] * 2) == [2 / 4, 1 / 2]
    assert recall([[0, 9, 0, 0], [9, 0, 8, 0]]) == [1, 1]
    assert recall([[9, 5, 5, 0], [0, 0, 1, 2]]) == [1 / 2, 1 / 2]


def test_best_puts_the_first_of_equals_first():
    past = sp.csr_matrix(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]))
    scores = np.array([[5, 1, 2, 2], [1, 1, 1, 9]])
    assert recommend.best(scores, depth=3).tolist() == [[0, 2, 3], [3, 0, 1]]
    assert recommend.best(scores, past, 3).tolist() == [[2, 3, 1], [0, 1, 2]]
    assert scores[0, 0] == 5


def test_popular_items_are_counted_by_users_of_late(baskets):
    assert recommend.popularity(baskets, START).tolist() == [2, 1, 1, 1, 0, 0]
    assert recommend.popularity(baskets, START, window=3).tolist() == [1, 1, 0, 1, 0, 0]


def test_buy_again_prefers_often_and_of_late(baskets):
    rank = recommend.buy_again(baskets, START, scale=10)
    assert rank(np.array([0, 2]), False)[:, :2].tolist() == [[1, 0], [3, 2]]
    long = recommend.buy_again(baskets, START, scale=1000)
    assert long(np.array([0]), False)[0, :2].tolist() == [0, 1]
    assert set(long(np.array([0]), True)[0, -2:].tolist()) == {0, 1}


def test_after_weeks_without_a_sale_a_users_own_items_still_come_first():
    closed = shop([(0, "d", 0), (1, "c", 1), (2, "a", 90)])
    assert not recommend.popularity(closed, 60).any()
    shown = recommend.buy_again(closed, 60, scale=10)(np.array([0, 1]), False)
    assert shown[:, 0].tolist() == [2, 1]  # d and c, by their rows
    assert recommend.tie_break(np.array([0, 4, 2])).tolist() == [0, 1e-6, 5e-7]


def test_few_users_at_a_time_give_the_same(baskets):
    asked = []

    def scores(users):
        asked.append(len(users))
        return np.random.default_rng(0).random((4, 6))[users]

    past, users = recommend.history(baskets, START), np.arange(7) % 4
    for new in (False, True):
        expected = recommend.best(scores(users), past[users] if new else None)
        for size in (3, 7):
            asked.clear()
            ranked = recommend.rank_by(scores, past, size)
            assert (ranked(users, new) == expected).all()
            assert asked == {3: [3, 3, 1], 7: [7]}[size]
            asked.clear()
            assert (ranked.both(users)[new] == expected).all()
            assert asked == {3: [3, 3, 1], 7: [7]}[size], "scores are asked for once"


def test_what_others_bought_may_come_from_some_of_them_alone(baskets):
    told = replace(baskets, events=baskets.events[baskets.events["user"] != 2])
    users = np.array([0, 1, 3])
    some = recommend.item_knn(baskets, START, 3, known=told)(users, False)
    assert (some == recommend.item_knn(told, START, 3)(users, False)).all()
    assert (some != recommend.item_knn(baskets, START, 3)(users, False)).any()


@pytest.mark.parametrize("ranker", ["item_knn", "factors"])
def test_without_the_library_the_extra_is_named(ranker, baskets, monkeypatch):
    for module in ("nearest_neighbours", "als"):
        monkeypatch.setitem(sys.modules, f"implicit.{module}", None)
    given = {"item_knn": (3,), "factors": (3, 1.0, 0)}[ranker]
    sentence = rf'implicit.* is missing, which {ranker} needs: pip install "ecomkd\[recommend\]"'
    with pytest.raises(ModuleNotFoundError, match=sentence):
        getattr(recommend, ranker)(baskets, START, *given)


ROOT = Path(__file__).resolve().parent.parent


def test_every_name_that_a_chapter_uses_is_there():
    used = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        if re.search(r"^from ecomkd import .*\brecommend\b", code, re.MULTILINE):
            used |= set(re.findall(r"(?<![.\w])recommend\.([A-Za-z_]+)", code))
    assert {"Reader", "train", "initial_state"} <= used
    assert not [name for name in used if not hasattr(recommend, name)]


def test_names_load_when_they_are_asked_for():
    assert recommend.Reader is recommend.BasketCollator
    assert recommend.live.Live is live.Live
    assert {"train", "Durable", "networks"} <= set(dir(recommend))


def test_a_live_state_is_kept_and_answers_without_pytorch():
    code = (
        "import sys; from ecomkd.recommend import evaluation, journal, rankers, replay; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_what_was_bought_years_ago_is_not_new():
    baskets = shop([(0, "a", 0), (1, "a", 1580), (1, "b", 1580), (0, "c", 1550)])
    past = recommend.history(baskets, 1585, scale=14.0)
    assert (past[0].toarray() > 0).tolist() == [[True, False, True]]
    new = recommend.buy_again(baskets, 1585, 14.0)(np.array([0]), True)
    assert new[0, 0] == 1


def test_a_list_that_is_filled_up_shows_no_further_item(baskets):
    def rank(users, new):
        return np.tile([0, -1, -1], (len(users), 1))

    found = recommend.evaluate(rank, baskets, START)
    assert found["coverage"] == 1 / len(baskets.items)
    assert set(found["per_user"]["repeats"]) <= {0.0, 1.0}
