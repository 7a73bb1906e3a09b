"""Predict, then learn: days of a shop replayed basket by basket, to measure what learns as it goes.

Chapter 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend.evaluation import DEPTH
from ecomkd.recommend.live import Live

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf


class System(Protocol):
    """Whatever can be replayed: it recommends, and is then told what was bought."""

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        """The items to show a user on a day, best first, `without` those in the basket."""

    def learn(self, user: int, item: int, day: int) -> None:
        """Take in one purchase, whether or not it was foreseen."""


@dataclass
class Scheduled:
    """A state that learns at once, or in the night after every so many days.

    Args:
        live: the state, at the start of a period.
        day: the first day of the period.
        every: days from one night to the next in which the purchases that were put aside are
            learnt. Between two such nights it answers as for the day after the last: with 1 it is
            a model remade every night. None learns each purchase at once.
        shelf: gives the shelf of a day. Where there is one, tables of items are taken from it in
            such a night, and every night with None.
    """

    live: Live
    day: int
    every: int | None = None
    shelf: Callable[[int], Shelf] | None = None
    _aside: list[tuple[int, int, int]] = field(default_factory=list)

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        self._wake(day)
        asked = day if self.every is None else self.day
        return self.live.recommend(user, asked, without)

    def learn(self, user: int, item: int, day: int) -> None:
        self._wake(day)
        if self.every is None:
            self.live.update(user, item, day)
        else:
            self._aside.append((user, item, day))

    def _wake(self, day: int) -> None:
        if day < self.day + (self.every or 1):
            return
        self.day = day - (day - self.day) % (self.every or 1)
        for event in self._aside:
            self.live.update(*event)
        self._aside.clear()
        if self.shelf is not None:
            self.live.refresh(self.shelf(self.day))


def prequential(
    systems: Mapping[str, System],
    baskets: Baskets,
    start: int,
    days: int = HORIZON,
    heads: Sequence[int] = (0,),
    seed: int = 0,
) -> pd.DataFrame:
    """The recall of each system for each basket from day `start` on, asked before it is told.

    Baskets come in the order of time (Gama, Sebastião & Rodrigues 2013). The systems learn a basket
    item by item, in an order drawn with `seed`, for a till's lines have none. After each number of
    items of `heads` they are asked for `DEPTH` more: what is in the basket is not shown, the rest
    of it is to be found. Recall divides by min(DEPTH, items of the rest).

    Returns:
        A row for each basket and each head that is smaller than it: `user`, `day`, `basket`,
        `head`, `items` (of the rest), and the recall of each system.
    """
    rng, rows = np.random.default_rng(seed), []
    for basket, own in baskets.between(start, start + days).groupby("basket", sort=False):
        user, day = int(own["user"].iloc[0]), int(own["day"].iloc[0])
        items = rng.permutation(own["item"].to_numpy())
        for head, item in enumerate(items):
            if head in heads:
                rest = items[head:]
                found = {
                    name: np.isin(system.recommend(user, day, items[:head]), rest).sum()
                    / min(DEPTH, len(rest))
                    for name, system in systems.items()
                }
                place = {"user": user, "day": day, "basket": basket, "head": head}
                rows.append({**place, "items": len(rest), **found})
            for system in systems.values():
                system.learn(user, int(item), day)
    return pd.DataFrame(rows)


def next_items(
    systems: Mapping[str, System], baskets: Baskets, start: int, days: int = HORIZON
) -> pd.DataFrame:
    """Whether each system shows the next item of a basket, asked before every one from `start` on.

    For baskets whose items have an order, such as the clicks of a session. The systems are told
    each item as soon as they have been asked for it. Baskets that began before `start` are left
    out.

    Returns:
        A row for each item: `user`, `day`, `basket`, `head` (the items of the basket before it),
        `item`, and for each system 1.0 where the item is among its `DEPTH`, else 0.0.
    """
    begun = baskets.between(0, start)["basket"].unique()
    asked = baskets.between(start, start + days)
    rows = []
    for basket, own in asked[~asked["basket"].isin(begun)].groupby("basket", sort=False):
        user, items = int(own["user"].iloc[0]), own["item"].to_numpy()
        for head, (item, day) in enumerate(zip(items.tolist(), own["day"].tolist(), strict=True)):
            found = {
                name: float(item in system.recommend(user, day, items[:head]))
                for name, system in systems.items()
            }
            place = {"user": user, "day": day, "basket": basket, "head": head, "item": item}
            rows.append(place | found)
            for system in systems.values():
                system.learn(user, item, day)
    return pd.DataFrame(rows)
