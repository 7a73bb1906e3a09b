"""Interests and habits of people, from what they bought: counted, and held against what is usual.

All tables know the days before `day` alone. Sizes: U users, I items, G groups of items, T texts, E
the width of an encoder's vectors, N observations. Chapter 11.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from ecomkd.data.baskets import Baskets
from ecomkd.people.goods import called, shelves

SENSITIVE = {
    "health": "COLD AND FLU|ANALGESIC|FIRST AID|VITAMIN|ANTACID|SINUS|LAXATIVE|EYE AND EAR"
    "|VISION AIDS|FOOT CARE|PHARMACY|HEALTH|INCONTINENCE|MEDICAT|SUPPLEMENT|NUT SUPP"
    "|DIET CNTRL|DIET CONTROL|DIETARY|FITNESS&DIET|RESTRICTED DIET|SUGAR FREE",
    "pregnancy and infants": r"\bBABY (?!BACK)|BABYFOOD|INFANT|DIAPER|PREGNANCY",
    "intimacy": r"\bFEM|FAMILY PLANNING|PROPHYLACTIC",
    "alcohol": "BEERS/ALES|BEERALE|(?:DOMESTIC|IMPORTED|MISC) WINE|LIQUOR",
    "tobacco": "CIGAR|TOBACCO|SMOKING",
    "origin and belief": "ETHNIC|HISPANIC|MEXICAN|KOSHER",
    "reading": "MAGAZINE|NEWSPAPER|BOOKSTORE",
}
"""What a profile must not be fed with: for each reason, a pattern of the categories and types of
The Complete Journey. The list is a choice, and another shop needs its own."""
LEAST = 20
"""The number of unrelated observations that a statement about a person needs at least."""
CERTAIN = 3.0
"""The number of standard errors by which a statement has to differ from what is usual."""
RECENT = 84
"""The number of days that count as recent and are compared with all days before them."""
PRIOR = 20.0
"""The number of average purchases that are added to a user's own before shares are taken."""
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


# What is read -------------------------------------------------------------------------------------


def sensitive(items: pd.DataFrame) -> pd.Series:
    """The reason in `SENSITIVE` not to read each item, "" where there is none.

    Args:
        items: with `category` and `type`; where one is missing, the other alone is looked at.
    """
    names = shelves(items)
    reason = pd.Series("", items.index, name="reason")
    for name, pattern in SENSITIVE.items():
        reason[(reason == "") & names.str.contains(pattern)] = name
    return reason


def without(baskets: Baskets, hidden: np.ndarray) -> Baskets:
    """The baskets without the purchases of the items where `hidden` (I,) is true.

    Rows of users and items, and labels of events, stay what they were. Raises ValueError when
    nothing is left.
    """
    events = baskets.events[~np.asarray(hidden)[baskets.events["item"]]]
    if events.empty:
        raise ValueError("No purchase is left: hide fewer items.")
    return replace(baskets, events=events)


def group_counts(baskets: Baskets, day: int, groups: np.ndarray) -> sp.csr_matrix:
    """The number of purchases by each user from each group of items before `day`, (U, G).

    `groups` (I,) has for each item the number of its group.
    """
    past = baskets.between(0, day)
    shape = len(baskets.users), int(groups.max()) + 1
    return sp.csr_matrix((np.ones(len(past)), (past["user"], groups[past["item"]])), shape)


# Interests ----------------------------------------------------------------------------------------


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The number of each text's group, (T,), so that texts of one group mean something alike.

    The groups are those of k-means on the directions of the encoder's `vectors` (T, E), from which
    the mean of all texts is taken away first.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    return KMeans(clusters, n_init=1, random_state=seed).fit_predict(unit)


def names_of(baskets: Baskets, day: int, groups: np.ndarray) -> list[str]:
    """The name of each group of items: the two kinds of goods in it that are bought most."""
    kinds = called(baskets.items).to_numpy()
    bought = baskets.between(0, day)["item"]
    table = pd.DataFrame({"group": groups[bought], "kind": kinds[bought]}).value_counts()
    best = table.reset_index().groupby("group")["kind"].agg(lambda own: ", ".join(own[:2]))
    return best.reindex(range(groups.max() + 1), fill_value="nothing that is read").tolist()


def lift(counts: sp.csr_matrix, prior: float = PRIOR) -> np.ndarray:
    """The ratio of each user's share of each group to the whole shop's share of it, (U, G).

    Shares are shrunk: `prior` average purchases join the user's own, so that a user without
    purchases has 1 everywhere.
    """
    counts = counts.toarray()
    share = _share(counts)
    own = (counts + prior * share) / (counts.sum(axis=1, keepdims=True) + prior)
    return np.divide(own, share, out=np.ones_like(own), where=share > 0)


def surprise(counts: sp.csr_matrix) -> np.ndarray:
    """The standard errors between a user's purchases of each group and the expected number, (U, G).

    Expected is what the shop's shares give, and errors are those of Poisson counts.
    """
    counts = counts.toarray()
    expected = counts.sum(axis=1, keepdims=True) * _share(counts)
    return (counts - expected) / np.sqrt(np.maximum(expected, 1))


def trend(before: sp.csr_matrix, recent: sp.csr_matrix) -> np.ndarray:
    """The standard errors by which each user's interest in each group rose, (U, G).

    A number below 0 says that the interest fell. The expected share of the `recent` purchases is
    the user's share `before`, times the factor by which everybody's share has changed, so that a
    season does not count as an interest; of a group that nobody bought before, it is everybody's
    recent share. Users with fewer than `LEAST` purchases before have 0.
    """
    before, recent = before.toarray(), recent.toarray()
    old, new = _share(before), _share(recent)
    own = (before + PRIOR * old) / (before.sum(axis=1, keepdims=True) + PRIOR)
    own *= np.divide(new, old, out=np.ones_like(old), where=old > 0)
    own += np.where(old > 0, 0, new)
    known = before.sum(axis=1, keepdims=True) >= LEAST
    total = own.sum(axis=1, keepdims=True)
    own = np.divide(own, total, out=own, where=known & (total > 0))
    expected = recent.sum(axis=1, keepdims=True) * own
    # The share before is an estimate too: its own error comes on top.
    variance = expected * (1 + expected / (before + 1))
    return known * (recent - expected) / np.sqrt(np.maximum(variance, 1))


def _share(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=0) / max(counts.sum(), 1)


# Habits: what was observed against what chance would give -----------------------------------------


def price_places(baskets: Baskets, day: int) -> pd.DataFrame:
    """The place of each price among all that were paid for the same type and size, from 0 to 1.

    Items without a size are left out, since their pieces cannot be compared, and so are types and
    sizes that were bought fewer than `LEAST` times or have only one item. The table is one for
    `against`, with an item as the cluster.
    """
    past = _described(baskets, day, "type", "size")
    past = past[(baskets.items["size"] != "").to_numpy()[past["item"]]]
    by = past.groupby(["type", "size"])
    kept = (by["price"].transform("size") >= LEAST) & (by["item"].transform("nunique") > 1)
    past = past[kept]
    by = past.groupby(["type", "size"])["price"]
    place = (by.rank() - 0.5) / by.transform("size")
    return _observed(past, past["item"], place, 0.5)


def own_brands(baskets: Baskets, day: int) -> pd.DataFrame:
    """A table that says of each purchase whether it is of the shop's own brand, and what is usual.

    Types that have only one kind of brand are left out. The table is one for `against`, with a type
    as the cluster.
    """
    past = _described(baskets, day, "type")
    private = (baskets.items["brand"] == "Private").to_numpy(float)
    own = pd.Series(private[past["item"]], past.index)
    share = own.groupby(past["type"]).transform("mean")
    choice = share.between(0, 1, inclusive="neither")
    return _observed(past, past["type"], own, share)[choice]


def repeats(baskets: Baskets, day: int) -> pd.DataFrame:
    """A table that says of each purchase whether its maker is that of the time before.

    By chance a user would come back with the maker's share s of the type. Everybody comes back more
    often than that, so the usual share is s + κ · (1 - s), with κ such that all users together do
    as expected. Only the first purchase of a type in a basket counts, and types of a single maker
    are left out. The table is one for `against`, with a type as the cluster.
    """
    past = _described(baskets, day, "type", "maker").drop_duplicates(["user", "type", "basket"])
    before = past.groupby(["user", "type"])["maker"].shift()
    sold = past.groupby("type")["maker"].value_counts(normalize=True)
    place = pd.MultiIndex.from_arrays([past["type"], before])
    share = pd.Series(sold.reindex(place).to_numpy(), past.index)
    seen = _observed(past, past["type"], (past["maker"] == before).astype(float), share)
    seen = seen[share < 1]
    room = 1 - seen["expected"]
    kappa = (seen["got"] - seen["expected"]).sum() / room.sum()
    return seen.assign(chance=seen["expected"], expected=seen["expected"] + kappa * room)


def against(seen: pd.DataFrame, users: int) -> pd.DataFrame:
    """A table of what each user was observed to do and what was expected, one row for each user.

    Args:
        seen: `user`, `cluster`, `got` and `expected`, one row for each observation. Observations of
            one cluster are not independent, so errors are those of sums over clusters.
        users: U.

    Returns:
        `value` and `expected` (means), `n`, `clusters`, and `z`, their difference in standard
        errors; NaN where nothing was observed, and z where there are fewer than two clusters.
    """
    seen = seen.assign(excess=seen["got"] - seen["expected"])
    by = seen.groupby("user")
    table = by.agg(value=("got", "mean"), expected=("expected", "mean"), n=("got", "size"))
    table["clusters"] = by["cluster"].nunique()
    rest = seen["excess"] - by["excess"].transform("mean")
    squares = rest.groupby([seen["user"], seen["cluster"]]).sum() ** 2
    c = table["clusters"]
    variance = squares.groupby("user").sum() * c / (c - 1).where(c > 1)
    # As if one more observation had been off by a half: who never varies is not certain.
    table["z"] = (table["value"] - table["expected"]) / (np.sqrt(variance + 0.25) / table["n"])
    return table.reindex(range(users))


def rhythm(baskets: Baskets, day: int, first_day: str) -> pd.DataFrame:
    """A table of when each user comes, one row for each user.

    Its columns are `visits` (days with a purchase), `a_week`, `pace`, the standard errors between
    it and what is usual, the median of those who came `LEAST` times, `gap` (the median number of
    days between two visits), `weekday` (the most usual one), `share` and `expected` (the user's and
    everybody's share of visits on it), and `z`, the standard errors between these two. The error
    of `a_week` is that of a mean over the user's own weeks. Users without a purchase have NaN.
    `first_day` is the date of day 0.
    """
    seen = baskets.between(0, day)[["user", "day"]].drop_duplicates()
    seen = seen.assign(weekday=(seen["day"] + pd.Timestamp(first_day).weekday()) % 7)
    by = seen.groupby("user")["day"]
    table = by.agg(visits="size", first="min")
    first = table.pop("first")
    table["a_week"] = 7 * table["visits"] / (day - first)
    # Weeks are counted back from `day`, so that the last one is whole.
    weeks = np.ceil((day - first) / 7)
    week = (day - 1 - seen["day"]) // 7
    squares = (seen.groupby(["user", week]).size() ** 2).groupby("user").sum()
    spread = squares - table["visits"] ** 2 / weeks
    error = np.sqrt(spread / (weeks - 1).where(weeks > 1) / weeks + 0.25 / weeks**2)
    usual = table.loc[table["visits"] >= LEAST, "a_week"].median()
    table["pace"] = (table["a_week"] - usual) / error
    table["gap"] = by.diff().groupby(seen["user"]).median()
    counts = pd.crosstab(seen["user"], seen["weekday"]).reindex(columns=range(7), fill_value=0)
    usual = counts.to_numpy().argmax(axis=1)
    table["weekday"] = np.array(_DAYS)[usual]
    table["share"] = counts.max(axis=1) / table["visits"]
    table["expected"] = (counts.sum() / counts.to_numpy().sum()).to_numpy()[usual]
    error = np.sqrt(table["expected"] * (1 - table["expected"]) / table["visits"])
    table["z"] = (table["share"] - table["expected"]) / error
    return table.reindex(range(len(baskets.users)))


def _described(baskets: Baskets, day: int, *columns: str) -> pd.DataFrame:
    """Past events with `columns` of their items as numbers, which are grouped faster than words."""
    past = baskets.between(0, day)
    codes = {name: pd.factorize(baskets.items[name])[0] for name in columns}
    return past.assign(**{name: code[past["item"]] for name, code in codes.items()})


def _observed(
    past: pd.DataFrame, cluster: pd.Series, got: pd.Series, expected: pd.Series | float
) -> pd.DataFrame:
    return pd.DataFrame(
        {"user": past["user"], "cluster": cluster, "got": got, "expected": expected}
    )
