"""A chain as stores that keep their own baskets, and each store's year as moments.

Sizes: N households, I kinds of product. Chapter 18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend import history, targets

SCALE = 182.0
"""The days in which a decayed count falls to 1/e."""
TRAINED = 4
"""Moments that a store learns from, `HORIZON` days apart; the last ends where validation begins."""


@dataclass(frozen=True)
class Moment:
    """What a store knew on a day, and what its households bought in the `HORIZON` days from it on.

    `users` (N,) are rows of the baskets' users, `past` (N, I) their decayed counts before the day,
    `wanted` (N, I) 1 where the household bought it then. `counts` (I,) is how many households
    bought each kind in the `HORIZON` days before the day.
    """

    day: int
    users: np.ndarray
    past: sp.csr_matrix
    wanted: sp.csr_matrix
    counts: np.ndarray


@dataclass(frozen=True)
class Silo:
    """A store with the baskets of its own households, which no other store may see."""

    name: str
    train: tuple[Moment, ...]
    validation: Moment
    test: Moment

    @property
    def size(self) -> int:
        """The rows that the store learns from: households, once for each moment of training."""
        return sum(len(moment.users) for moment in self.train)


def kinds(baskets: Baskets, least: int = 20) -> Baskets:
    """The Complete Journey with kinds of product as its items: type . category . department.

    The kinds are what all stores sell, whatever the package. A basket that held a kind in several
    packages holds it once. Kinds that fewer than `least` users bought before the validation days
    are left out.
    """
    columns = ["type", "category", "department"]
    names = baskets.items[columns].agg(" . ".join, axis=1).str.lower()
    codes, texts = pd.factorize(names, sort=True)
    events = baskets.events.assign(item=codes[baskets.events["item"]].astype(np.int32))
    events = events.drop_duplicates(["basket", "item"]).reset_index(drop=True)
    known = events[events["day"] < baskets.validation_start].drop_duplicates(["user", "item"])
    kept = np.flatnonzero(np.bincount(known["item"], minlength=len(texts)) >= least)
    events = events[events["item"].isin(kept)].reset_index(drop=True)
    events["item"] = np.searchsorted(kept, events["item"]).astype(np.int32)
    items = pd.DataFrame({"item_id": texts[kept], "text": texts[kept]})
    return Baskets(events, items, baskets.users, baskets.left_out)


def cut(
    baskets: Baskets,
    owner: Sequence,
    names: Sequence,
    trained: int = TRAINED,
    last: int | None = None,
) -> dict[str, Silo]:
    """The silos of these `names`, each with the users of whom it is the `owner`.

    Args:
        baskets: of the whole chain; nobody but this function sees them all.
        owner: (U,), the one silo that each user belongs to.
        names: of the silos wanted.
        trained: how many moments a silo learns from.
        last: the day of the test moment; without it, that of the baskets' test period.

    Returns silos by name. In each moment are the users who bought before its day and in the
    `HORIZON` days from it on.

    Raises ValueError where `owner` does not fit the users, a name owns nobody, `last` has no
    `HORIZON` days after it, too few days are there for so many moments, or a silo has no household
    in one of its last two moments.

    Example:
        >>> from ecomkd.data import baskets
        >>> day = pd.Timestamp("2017-01-01")
        >>> lines = pd.DataFrame({
        ...     "user_id": ["ann"] * 5, "item_id": ["milk"] * 5, "basket_id": range(5),
        ...     "time": [day + pd.Timedelta(days=28 * k) for k in range(5)],
        ...     "quantity": 1, "value": 1.0})
        >>> items = pd.DataFrame({"item_id": ["milk"], "text": ["milk"]})
        >>> shop = baskets.from_lines(lines, items, pd.DataFrame({"user_id": ["ann"]}), {})
        >>> silo = cut(shop, ["north"], ["north"], trained=2)["north"]
        >>> [moment.day for moment in silo.train], silo.test.day, silo.test.wanted.sum()
        ([1, 29], 85, np.float32(1.0))
    """
    owner = np.asarray(owner)
    if len(owner) != len(baskets.users):
        raise ValueError(
            f"cut: {len(owner)} owners for {len(baskets.users)} users; give one for each user."
        )
    last = baskets.test_start if last is None else last
    if last > baskets.test_start:
        raise ValueError(
            f"cut: day {last} has no {HORIZON} days after it; take one up to {baskets.test_start}."
        )
    days = [last - HORIZON * (back + 2) for back in range(trained)][::-1]
    if not days or days[0] < 1:
        raise ValueError(
            f"cut: {trained} moments of training before day {last} begin on day "
            f"{days[0] if days else last}; ask for at least 1, and for fewer."
        )
    everyone = {day: _everyone(baskets, day) for day in (*days, last - HORIZON, last)}
    found = {}
    for name in names:
        own = np.flatnonzero(owner == name)
        if not len(own):
            raise ValueError(f"cut: nobody belongs to {name!r}; give names that occur in owner.")
        moments = [_moment(day, own, *everyone[day]) for day in everyone]
        if not (len(moments[-1].users) and len(moments[-2].users)):
            raise ValueError(
                f"cut: {name!r} has no household to validate or to test on; leave it out."
            )
        *train, validation, test = moments
        train = tuple(moment for moment in train if len(moment.users))
        found[str(name)] = Silo(str(name), train, validation, test)
    return found


def pooled(silos: Mapping[str, Silo]) -> dict[str, Silo]:
    """The same silos, where `counts` of a moment are those of all silos of that day together.

    This is what a secure sum of one number for each kind gives everybody. A silo adds nothing on a
    day of training of which it has no moment, since it learns from no household there.
    """
    total: dict[int, np.ndarray] = {}
    for silo in silos.values():
        for moment in (*silo.train, silo.validation, silo.test):
            total[moment.day] = total.get(moment.day, 0) + moment.counts
    return {name: recounted(silo, total) for name, silo in silos.items()}


def recounted(silo: Silo, counts: Mapping[int, np.ndarray]) -> Silo:
    """The silo with other `counts` (I,), by the day of the moment."""

    def of(moment: Moment) -> Moment:
        return replace(moment, counts=counts[moment.day])

    train = tuple(of(moment) for moment in silo.train)
    return replace(silo, train=train, validation=of(silo.validation), test=of(silo.test))


def _everyone(baskets: Baskets, day: int) -> tuple[sp.csr_matrix, sp.csr_matrix, pd.DataFrame]:
    past = history(baskets, day, SCALE)
    bought = targets(baskets, day)
    rows = np.repeat(list(bought), [len(own) for own in bought.values()])
    items = np.concatenate(list(bought.values())) if bought else np.zeros(0, int)
    wanted = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, items)), past.shape)
    recent = baskets.between(max(day - HORIZON, 0), day).drop_duplicates(["user", "item"])
    return past, wanted, recent


def _moment(
    day: int, own: np.ndarray, past: sp.csr_matrix, wanted: sp.csr_matrix, recent: pd.DataFrame
) -> Moment:
    known, active = np.diff(past.indptr) > 0, np.diff(wanted.indptr) > 0
    users = own[known[own] & active[own]]
    sold = recent.loc[recent["user"].isin(own), "item"]
    counts = np.bincount(sold, minlength=past.shape[1])
    return Moment(day, users, past[users], wanted[users], counts)
