"""Profiles of made-up households whose habits are known, and of a small simulated shop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import ndcg_score

from ecomkd import people
from ecomkd.data import journey
from ecomkd.data import shop as simulated
from ecomkd.data.baskets import from_lines
from ecomkd.data.schema import GAINS

DAY = 300
TYPES = ("TEA", *(f"GOODS {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWX"))
LOYAL, THRIFTY, WEEKLY, GONE, LATER = range(5)  # rows of users; all others buy at random


def items() -> pd.DataFrame:
    """Of each type two sizes and three makers; the first is the shop's own, and the cheapest."""
    rows = [
        (
            f"{kind}{size}{maker}",
            kind,
            kind,
            maker,
            size,
            ("Private", "National", "National")[maker],
        )
        for kind in (*TYPES, "ADULT ANALGESICS")
        for size in ("1 LB", "2 LB")
        for maker in range(3)
    ]
    table = pd.DataFrame(rows, columns=["item_id", "type", "category", "maker", "size", "brand"])
    return table.assign(text=table["type"].str.lower() + " . " + table["brand"])


def lines() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        if user == GONE:
            continue
        for day in range(0, DAY + 30, 7 if user == WEEKLY else 5):
            if user == LATER and day < DAY:
                continue
            for _ in range(3):
                kind = TYPES[rng.integers(len(TYPES))]
                maker = int(rng.integers(3))
                if user == LOYAL:
                    maker = TYPES.index(kind) % 3
                if user == THRIFTY:
                    maker = 0
                if user == WEEKLY and rng.random() < 0.5:
                    kind = "TEA"
                rows.append((user, day, kind, ("1 LB", "2 LB")[rng.integers(2)], maker))
            if user == WEEKLY:
                rows.append((user, day, "ADULT ANALGESICS", "1 LB", 1))
    frame = pd.DataFrame(rows, columns=["user_id", "day", "kind", "size", "maker"])
    price = 1.0 + frame["maker"] + 0.1 * rng.random(len(frame))
    return pd.DataFrame(
        {
            "user_id": frame["user_id"],
            "item_id": frame["kind"] + frame["size"] + frame["maker"].astype(str),
            "basket_id": frame["user_id"] * 1000 + frame["day"],
            "time": pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D"),
            "quantity": 1,
            "value": price,
        }
    )


@pytest.fixture(scope="module")
def baskets():
    users = pd.DataFrame({"user_id": range(40)})
    return from_lines(lines(), items(), users, {})


@pytest.fixture(scope="module")
def groups(baskets):
    return pd.factorize(baskets.items["type"])[0]


@pytest.fixture(scope="module")
def cards(baskets, groups):
    return people.Cards(baskets, DAY, groups, "2024-01-01")


def row_of(baskets, user: int) -> int:
    return int(np.flatnonzero(baskets.users["user_id"] == user)[0])


def test_group_counts_are_purchases_before_the_day(baskets, groups):
    counts = people.group_counts(baskets, DAY, groups)
    past = baskets.events[baskets.events["day"] < DAY]
    assert counts.sum() == len(past)
    assert counts[row_of(baskets, LATER)].sum() == 0


def test_lift_of_a_user_without_purchases_is_one(baskets, groups):
    counts = people.group_counts(baskets, DAY, groups)
    lift = people.lift(counts)
    sold = counts.toarray().sum(axis=0) > 0
    assert np.allclose(lift[row_of(baskets, LATER)][sold], 1)
    exact = people.lift(counts, prior=0.001)[row_of(baskets, WEEKLY)]
    own = counts[[row_of(baskets, WEEKLY)]].toarray()[0]
    share = counts.toarray().sum(axis=0) / counts.sum()
    assert np.allclose(exact[sold], (own / own.sum() / share)[sold], atol=1e-3)


def test_a_season_is_no_trend():
    from scipy.sparse import csr_matrix

    before = csr_matrix(np.tile([90.0, 10.0], (200, 1)))
    recent = csr_matrix(np.tile([20.0, 20.0], (200, 1)))  # everybody buys more of the second
    assert np.abs(people.trend(before, recent)).max() < 0.1
    alone = recent.toarray()
    alone[:] = [36, 4]
    alone[0] = [20, 20]  # one does
    moved = people.trend(before, csr_matrix(alone))
    assert moved[0, 1] > people.CERTAIN and moved[0, 0] < 0
    assert np.abs(moved[1:]).max() < 1


def test_price_places_by_hand(baskets):
    seen = people.price_places(baskets, DAY)
    # All prices of a type and a size are known, so all places together are in the middle.
    assert seen["got"].mean() == pytest.approx(0.5)
    level = people.against(seen, len(baskets.users))
    assert level["value"].idxmin() == row_of(baskets, THRIFTY)
    assert level.loc[row_of(baskets, THRIFTY), "value"] < 0.25
    assert np.isnan(level.loc[row_of(baskets, LATER), "value"])


def test_habits_are_seen_where_they_are_and_only_there(baskets):
    users = len(baskets.users)
    brands = people.against(people.own_brands(baskets, DAY), users)
    assert brands.loc[row_of(baskets, THRIFTY), "value"] == 1
    assert brands.loc[row_of(baskets, THRIFTY), "z"] > people.CERTAIN
    back = people.against(people.repeats(baskets, DAY), users)
    assert back.loc[row_of(baskets, LOYAL), "value"] == 1
    assert back.loc[row_of(baskets, LOYAL), "z"] > people.CERTAIN
    others = [row_of(baskets, user) for user in range(5, 40)]
    for table in (brands, back):
        assert (table.loc[others, "clusters"] >= people.LEAST).all()
        assert (table.loc[others, "z"].abs() > people.CERTAIN).sum() <= 1


def test_repeats_expect_what_all_do_together(baskets):
    seen = people.repeats(baskets, DAY)
    assert seen["got"].mean() == pytest.approx(seen["expected"].mean())
    assert (seen["chance"] < 1).all()


def test_errors_are_those_of_clusters():
    same = pd.DataFrame({"user": 0, "cluster": [0] * 50 + [1] * 50, "got": [1.0] * 50 + [0.0] * 50})
    table = people.against(same.assign(expected=0.1), 2)
    # Two clusters of one value each are two observations, not a hundred.
    assert table.loc[0, "z"] == pytest.approx(0.4 / (np.sqrt(2500 + 0.25) / 100))
    assert table.loc[0, "n"] == 100 and np.isnan(table.loc[1, "n"])


def test_rhythm(baskets):
    table = people.rhythm(baskets, DAY, "2024-01-01")
    row = table.loc[row_of(baskets, WEEKLY)]
    assert (row["gap"], row["weekday"], row["share"]) == (7, "Monday", 1)
    assert row["a_week"] == pytest.approx(7 * 43 / DAY)
    # Once a week, each week but for the first, which is not whole; all others come more often.
    assert row["pace"] < -people.CERTAIN
    others = table.drop(index=row_of(baskets, WEEKLY))["pace"].dropna()
    assert (others.abs() < people.CERTAIN).all()
    assert np.isnan(table.loc[row_of(baskets, LATER), "visits"])


def test_a_card_says_what_is_so_and_names_its_purchases(baskets, groups, cards):
    user = row_of(baskets, WEEKLY)
    card = cards(user)
    tea = next(one for one in card if one.topic == "interest")
    assert tea.text.startswith("Buys tea ") and tea.value > tea.usual == 1
    events = baskets.events.loc[tea.events]
    assert (events["user"] == user).all() and (events["day"] < DAY).all()
    assert set(baskets.items["type"].iloc[events["item"]]) == {"TEA"}
    assert f"{len(events)} of " in tea.text
    assert "Monday" in next(one.text for one in card if one.topic == "weekday")
    thrifty = {one.topic: one for one in cards(row_of(baskets, THRIFTY))}
    assert "less than usual" in thrifty["price level"].text
    assert "more than usual" in thrifty["own brands"].text
    assert "loyalty" in {one.topic for one in cards(row_of(baskets, LOYAL))}


def test_a_card_is_empty_without_evidence(baskets, groups, cards):
    assert cards(row_of(baskets, LATER)) == []
    early = people.Cards(baskets, 10, groups, "2024-01-01")
    assert not any(early(user) for user in range(len(baskets.users)))


def test_a_card_reads_nothing_sensitive(baskets, cards):
    hidden = people.sensitive(baskets.items) == "health"
    assert set(baskets.items["type"][hidden]) == {"ADULT ANALGESICS"}
    for user in range(len(baskets.users)):
        for one in cards(user):
            assert not hidden.to_numpy()[baskets.events.loc[one.events, "item"]].any()
            assert "analgesics" not in one.text


def test_an_interest_is_called_by_what_is_on_its_receipt(baskets):
    one_group = np.zeros(len(baskets.items), int)
    one_group[(baskets.items["type"] > "GOODS L").to_numpy()] = 1  # what is bought most of is tea
    cards = people.Cards(baskets, DAY, one_group, "2024-01-01")
    user = row_of(baskets, WEEKLY)
    receipt = cards.past.iloc[cards.rows[user]]
    named = cards.named(receipt, len(receipt))
    assert cards.kinds[named].tolist() == ["tea"]
    half = receipt[cards.kind[receipt["item"]] != named[0]].iloc[:10]
    kinds = cards.named(half, len(receipt))
    bought = pd.Series(cards.kind[half["item"]]).value_counts()
    assert set(kinds) <= set(bought.index) and len(kinds) in (1, 2)
    goods, part = cards.said(half, len(receipt))
    assert goods.endswith(" and the like")
    assert part.startswith(f", {bought[kinds].sum()} of them ")
    alone = receipt[cards.kind[receipt["item"]] == named[0]]
    assert cards.said(alone, len(receipt)) == ("tea", "")


def test_what_is_no_goods_is_not_read():
    told = {
        "COUPON/MISC ITEMS/GASOLINE-REG UNLEADED": True,
        "COUPON/NEWSPAPER": True,
        "DELI SUPPLIES/MISC SALES TRANS": True,
        "CANDY - PACKAGED/SEASONAL MISCELLANEOUS": False,
        "CHEESE/SHREDDED CHEESE": False,
    }
    category, kind = zip(*(name.rsplit("/", 1) for name in told), strict=True)
    found = people.no_goods(pd.DataFrame({"category": category, "type": kind}))
    assert found.tolist() == list(told.values())


def test_names_are_written_out_by_type_and_category():
    asked = {
        ("PREMIUM", "BACON"): "premium bacon",
        ("PREMIUM", "ICE CREAM/MILK/SHERBTS"): "premium ice cream",
        ("CATSUP", "CONDIMENTS/SAUCES"): "ketchup",
        ("SHOESTRING", "FRZN  POTATOES"): "shoestring (frzn potatoes)",
        ("LOOSE", ""): "loose",
    }
    frame = pd.DataFrame(list(asked), columns=["type", "category"])
    assert people.called(frame).tolist() == list(asked.values())
    assert people.written_out(frame).tolist() == [True, True, True, False, False]


def test_the_list_of_names_knows_each_kind_once_and_most_of_what_is_bought():
    table = pd.read_csv(Path(people.__file__).parent / "goods.csv", keep_default_na=False)
    assert not table.duplicated(["type", "category"]).any()
    assert (table["name"].str.len() > 2).all() and (table["type"] != "").all()
    # A comma stands between two names, and an abbreviation or a till's slash is not written out.
    assert not table["name"].str.contains(r"[,/&$]").any()
    shop = journey.load()
    known = shop.items[["type", "category"]].drop_duplicates()
    assert set(table["type"]) <= set(known["type"])
    pairs = set(known.itertuples(index=False, name=None))
    written = table[table["category"] != ""][["type", "category"]].itertuples(index=False)
    assert {tuple(row) for row in written} <= pairs
    read = ~people.no_goods(shop.items) & (people.sensitive(shop.items) == "")
    bought = shop.events["item"][read.to_numpy()[shop.events["item"]]]
    assert people.written_out(shop.items).to_numpy()[bought].mean() > 0.995


def test_without_keeps_rows_and_labels(baskets):
    hidden = (baskets.items["type"] == "TEA").to_numpy()
    rest = people.without(baskets, hidden)
    assert rest.items is baskets.items and rest.users is baskets.users
    assert not hidden[rest.events["item"]].any()
    pd.testing.assert_frame_equal(rest.events, baskets.events.loc[rest.events.index])
    with pytest.raises(ValueError, match="No purchase is left"):
        people.without(baskets, np.ones(len(baskets.items), bool))


def test_what_is_sensitive_in_the_journey():
    asked = {
        "COLD AND FLU/COUGH SYRP": "health",
        "TEAS/TEA BAGS (SUPPLEMENT)": "health",
        "BABY FOODS/BABY FOOD - BEGINNER": "pregnancy and infants",
        "FAMILY PLANNING/PROPHYLACTICS": "intimacy",
        "BEERS/ALES/BEERALEMALT LIQUORS": "alcohol",
        "CIGARETTES/CIGARETTES": "tobacco",
        "HISPANIC/BURRITOS": "origin and belief",
        "NEWSPAPER/NEWSPAPER": "reading",
        "PORK/BABY BACK RIBS": "",
        "CONDIMENTS/SAUCES/VINEGAR WINE/RICE": "",
        "SOFT DRINKS/SFT DRNK 2 LITER": "",
    }
    category, kind = zip(*(name.rsplit("/", 1) for name in asked), strict=True)
    found = people.sensitive(pd.DataFrame({"category": category, "type": kind}))
    assert found.tolist() == list(asked.values())


def test_weights_of_purchases_sum_to_one_and_fall_with_buyers():
    rows = [(0, "a"), (0, "b"), (1, "a"), (2, "a"), (3, "a"), (4, "c")]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame = frame.assign(basket_id=range(6), time=pd.Timestamp("2024-01-01"), quantity=1, value=1.0)
    named = pd.DataFrame({"item_id": list("abc"), "text": list("abc")})
    small = from_lines(frame, named, pd.DataFrame({"user_id": range(5)}), {})
    weights = people.purchase_weights(small, 1).toarray()
    assert weights[4, 2] == pytest.approx(1)
    assert weights[0, 1] > weights[0, 0] >= 0
    vectors = people.user_vectors(people.purchase_weights(small, 1), np.eye(3))
    assert np.allclose(vectors, weights)


@pytest.fixture(scope="module")
def guess():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5))
    y = (X[:, 0] + rng.standard_normal(300) > 0.5).astype(int)
    return X, y


def test_held_out_probabilities_beat_the_shares_and_know_no_row_of_their_own(guess):
    X, y = guess
    p = people.held_out(X, y, 3, 0)
    assert np.allclose(p.sum(axis=1), 1)
    loss = -np.log(p[np.arange(300), y]).mean()
    shares = people.shares_held_out(y, 3, 0)
    assert loss < -np.log(shares[np.arange(300), y]).mean() - 0.1
    noise = np.random.default_rng(1).permutation(y)  # nothing to learn: no better than the shares
    p = people.held_out(X, noise, 3, 0)
    assert -np.log(p[np.arange(300), noise]).mean() > 0.63
    with pytest.raises(ValueError, match="The smallest class has 1 households: 9 are needed"):
        people.held_out(X, np.eye(300, dtype=int)[0], 3, 0)


def test_reliability_and_its_error_by_hand():
    table = people.reliability(np.array([0.05, 0.05, 1.0, 0.95]), np.array([0, 1, 1, 1]))
    assert table.index.tolist() == [0, 9]
    assert table["n"].tolist() == [2, 2]
    assert table["happened"].tolist() == [0.5, 1]
    assert people.calibration_error(table) == pytest.approx((0.45 + 0.025) / 2)


def test_contributions_add_up_to_the_log_odds(guess):
    import scipy.sparse as sp

    X, y = guess
    model = people.classifier(0).fit(X, y)
    vectors = np.random.default_rng(2).standard_normal((7, 5))
    weights = sp.csr_matrix(np.arange(7)[None] / 21)
    parts = people.contributions(model, weights, vectors)
    wanted = model.decision_function(weights @ vectors)[0]
    assert parts.sum() + model.best_estimator_[-1].intercept_[0] == pytest.approx(wanted)


def test_a_guess_is_made_only_when_it_is_sure():
    own = pd.DataFrame({"item": [0, 1, 2, 0]}, index=[7, 8, 9, 11])
    parts = np.array([0.5, -0.2, 0.1])
    sure, right = (0.2, 0.7), (0.84, 0.91)
    assert people.likely("Children", 0.6, sure, right, parts, own) == []
    assert people.likely("Children", 0.8, (0.2, np.inf), right, parts, own) == []
    (yes,) = people.likely("Children", 0.8, sure, right, parts, own)
    assert yes.events.tolist() == [7, 9, 11] and yes.value == 0.8
    assert "Children: likely" in yes.text and "right about 91." in yes.text
    (no,) = people.likely("Children", 0.1, sure, right, parts, own)
    assert no.events.tolist() == [8]
    assert "Children: unlikely" in no.text and "right about 84." in no.text


def test_a_guess_is_not_made_where_nobody_knows_how_often_it_is_right():
    own = pd.DataFrame({"item": [0, 1]})
    sure, right, parts = (0.2, 0.7), (0.84, np.nan), np.array([0.5, -0.2])
    assert people.likely("Children", 0.8, sure, right, parts, own) == []
    assert len(people.likely("Children", 0.1, sure, right, parts, own)) == 1


def test_thresholds_are_right_often_enough_and_rest_on_enough():
    p = np.array([0.1, 0.1, 0.2, 0.3, 0.6, 0.7, 0.7, 0.9])
    kids = np.array([0, 0, 1, 0, 1, 0, 1, 1])
    # No: up to 0.3 three of four are right. Yes: from 0.7 two of three, from 0.6 three of four.
    assert people.thresholds(p, kids, right=0.75, least=3) == (0.3, 0.6)
    assert people.thresholds(p, kids, right=1.0, least=2) == (0.1, np.inf)
    # Equal probabilities stay on one side: from 0.7 on there are three, not two.
    assert people.thresholds(p, kids, right=0.7, least=3)[1] == 0.6
    assert people.thresholds(p, kids, right=0.8, least=5) == (-np.inf, np.inf)
    # Nobody is called likely below one half, however often it would be right.
    assert people.thresholds(p, np.ones(8), right=0.8, least=1) == (-np.inf, 0.6)


def test_demographics_of_the_journey():
    users = journey.load().users
    table = people.demographics(users)
    assert len(table) == users["age"].notna().sum()
    assert not table.isna().any().any()
    counts = users["composition"].value_counts()
    assert table["kids"].value_counts()["yes"] == counts["2 Adults Kids"] + counts["1 Adult Kids"]
    assert table["people"].value_counts()["1"] == (users["people"] == "1").sum()
    assert table["income"].value_counts().min() > 100


# The simulated shop -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop():
    return simulated.generate(900, 300, 60, 6, 0)


@pytest.fixture(scope="module")
def taste(shop):
    return people.tastes(shop)


@pytest.fixture(scope="module")
def asked(shop):
    rows = shop.judgments
    return people.searches(shop, rows.assign(score=rows["esci_label"].map(GAINS)))


def test_worth_is_that_of_the_shop(shop, taste, asked):
    query = shop.judgments["query_id"].iloc[0]
    shopper = shop.shoppers["shopper_id"].iloc[3]
    told = shop.personal_relevance(shopper, query).set_index("product_id")["relevance"]
    ids = shop.products["product_id"].to_numpy()[asked.products[0]]
    own = people.personal(asked, taste)[3, 0]
    assert np.allclose(own, told.loc[ids])


def test_queries_of_fewer_candidates_are_filled_up(shop):
    rows = shop.judgments[shop.judgments["esci_label"] == "E"].assign(score=1.0)
    short, counts = people.searches(shop, rows), rows.groupby("query_id", sort=False).size()
    assert counts.nunique() > 1 and short.gains.shape == (len(counts), counts.max())
    for part in (short.scores == 1, short.gains == GAINS["E"]):
        assert part.sum(axis=1).tolist() == counts.tolist()
    assert (short.scores[short.gains == 0] == -np.inf).all()


def test_a_new_shopper_has_the_order_of_the_shop_exactly(shop, taste, asked):
    nothing = people.draw(asked, taste, 0, seed=0)
    assert nothing.shape == (len(taste), 0)
    fit = people.match(shop.products, nothing, prior=1.0)
    assert (fit == 0).all()


def test_purchases_show_what_is_liked(shop, taste, asked):
    few = people.draw(asked, taste, 200, seed=0)
    clear = people.draw(asked, taste, 200, seed=0, clarity=16.0)
    mean = [np.take_along_axis(taste, own, axis=1).mean() for own in (few, clear)]
    assert mean[1] > mean[0] > taste.mean()
    assert np.isin(few, asked.products[asked.gains > 0]).all()


def test_a_match_prefers_brand_department_and_price():
    products = pd.DataFrame(
        {
            "department": ["a"] * 4 + ["b"] * 4,
            "product_brand": ["x", "x", "y", "y", "v", "v", "w", "w"],
            "product_type": ["t"] * 4 + ["u"] * 4,
            "price_cents": [100, 200, 100, 200] * 2,
        }
    )
    (fit,) = people.match(products, np.array([[0, 0, 0, 0]]), prior=1.0)
    assert fit[0] == fit.max()
    assert fit[0] > fit[1]  # the price alone differs
    assert fit[0] > fit[2]  # the brand alone
    assert fit[2] > fit[4]  # another department


def test_a_profile_lifts_its_owner_and_not_a_stranger(shop, taste, asked):
    bought = people.draw(asked, taste, 200, seed=0, clarity=16.0)
    fit = people.match(shop.products, bought, prior=1.0)
    base = people.per_shopper(asked, taste, fit, 0.0)
    own = people.per_shopper(asked, taste, fit, 0.1)
    stranger = people.per_shopper(asked, taste, np.roll(fit, 1, axis=0), 0.1)
    assert own.mean() > base.mean() > stranger.mean()


def test_the_ndcg_of_a_shopper_is_that_of_scikit_learn(shop, taste, asked):
    scores = np.random.default_rng(0).random(asked.gains.shape)
    drawn = people.Searches(asked.products, asked.gains, scores)
    found = people.per_shopper(drawn, taste, np.zeros_like(taste), 0.0)
    worth = people.personal(drawn, taste)
    for shopper in (0, 3):
        each = [
            ndcg_score(w[None], s[None], k=10) for w, s in zip(worth[shopper], scores, strict=True)
        ]
        assert found[shopper] == pytest.approx(np.mean(each))


def test_a_rising_card_counts_the_goods_that_it_names_beside_what_it_counts_them_of(baskets):
    late = DAY - people.RECENT
    user = row_of(baskets, 9)
    rng, events = np.random.default_rng(0), baskets.events
    kinds = ["TEA", "GOODS A", "GOODS B", "GOODS C"]
    one_group = baskets.items["type"].isin(kinds).to_numpy(int)
    own = ((events["user"] == user) & events["day"].between(late, DAY - 1)).to_numpy()
    chosen = np.flatnonzero(one_group)
    moved = np.where(own, rng.choice(chosen, len(events)), events["item"])
    old = ((events["user"] == user) & (events["day"] < late)).to_numpy()
    other = np.flatnonzero(one_group == 0)
    moved = np.where(old & np.isin(moved, chosen), rng.choice(other, len(events)), moved)
    shop = replace(baskets, events=events.assign(item=moved.astype(np.int32)))
    card = people.Cards(shop, DAY, one_group, "2024-01-01")(user)
    text = next(one.text for one in card if one.topic == "rising")
    assert " of them " in text.split(f"in {people.RECENT} days")[1].split(" before")[0]


def test_what_has_no_category_is_sensitive_all_the_same():
    frame = pd.DataFrame({"category": [None, "TOBACCO", None], "type": ["CIGARETTES", None, "TEA"]})
    assert people.sensitive(frame).tolist() == ["tobacco", "tobacco", ""]
    coupon = pd.DataFrame({"category": ["COUPON"], "type": [None]})
    assert people.no_goods(coupon).tolist() == [True]
    assert people.called(frame[2:]).notna().all()


@pytest.mark.parametrize("column", ["query_id", "esci_label"])
def test_a_pair_without_a_query_or_a_known_label_is_refused(shop, column):
    rows = shop.judgments.assign(score=1.0)
    odd = rows.assign(**{column: rows[column].where(rows.index != rows.index[3], None)})
    with pytest.raises(ValueError, match=f"1 of {len(rows)} pairs have no query or another label"):
        people.searches(shop, odd)
    with pytest.raises(ValueError, match="0 of 0 pairs"):
        people.searches(shop, rows[:0])


def test_no_guess_is_made_of_what_no_model_has_seen():
    own, parts = pd.DataFrame({"item": [0, 1]}), np.array([0.5, -0.2])
    assert people.likely("Children", np.nan, (0.2, 0.7), (0.84, 0.91), parts, own) == []


def test_what_nobody_bought_before_is_a_season_too():
    from scipy.sparse import csr_matrix

    before = csr_matrix(np.tile([90.0, 10.0, 0.0], (50, 1)))
    recent = csr_matrix(np.tile([20.0, 5.0, 15.0], (50, 1)))
    assert np.abs(people.trend(before, recent)).max() < 0.5
    assert (people.trend(before, csr_matrix(before.shape)) == 0).all()


def test_what_a_household_did_not_tell_is_not_guessed():
    told = {"age": "25-34", "composition": "1 Adult Kids", "people": "4", "income": "250K+"}
    users = pd.DataFrame([told, told | {"composition": None, "people": None, "income": "Unknown"},
                          told | {"age": "Unknown"}])  # fmt: skip
    table = people.demographics(users)
    assert table.iloc[0].tolist() == ["yes", "3+", "under 35", "75K+"]
    assert table.iloc[1].isna().tolist() == [True, True, False, True]
    assert table.iloc[2].isna().tolist() == [False, False, True, False]


def test_what_is_usual_is_counted_once_for_all_cards(baskets, cards, monkeypatch):
    rhythm = cards.rhythm
    wanted = rhythm.loc[rhythm["visits"] >= people.LEAST, "a_week"].median()
    told = next(one for one in cards(row_of(baskets, WEEKLY)) if one.topic == "rhythm")
    assert told.usual == wanted
    monkeypatch.setattr(cards, "rhythm", rhythm.loc[[row_of(baskets, WEEKLY)]])  # nobody else
    again = next(one for one in cards(row_of(baskets, WEEKLY)) if one.topic == "rhythm")
    assert again.usual == wanted


@pytest.mark.parametrize("user", [-1, 40])
def test_nobody_has_no_card(cards, user):
    with pytest.raises(ValueError, match=rf"no user {user}; give a row of `users`, 0 to 38"):
        cards(user)
