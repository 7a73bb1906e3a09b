"""Settings of a ranker, chosen on the validation days: for all items, for new ones, for newcomers.

Chapters 10 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ecomkd.data.baskets import Baskets
from ecomkd.recommend.evaluation import Ranker, evaluate
from ecomkd.recommend.live import PRIOR, initial_state
from ecomkd.recommend.purchases import targets, users_before
from ecomkd.recommend.replay import Scheduled, prequential

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf

GOALS = ("recall", "new_recall")
"""Recall@10 of all items, and of those that are new to a user."""
ASKED, LEAST_ASKED = 600, 100
"""Users of a large shop on whom settings are chosen, and how many of them can be asked at least, if
so many of the shop's can: who buys both before and on the validation days."""
PRIORS = (PRIOR, 0.0, 3.0, 10.0, 30.0)
"""Values of `initial_state`'s prior that are tried; among equals the first is taken."""
_VISITS, _HEADS = 2, (0, 1, 3, 10)


def some_users(baskets: Baskets, day: int | None = None) -> np.ndarray:
    """The rows (K,) of the users on whom settings are chosen, the same in each call.

    With a `day`, so many that LEAST_ASKED of them buy before it and in the days from it on.
    """
    order = np.random.default_rng(0).permutation(len(baskets.users))
    if day is None:
        return order[:ASKED]
    can = np.isin(order, np.intersect1d(users_before(baskets, day), list(targets(baskets, day))))
    return order[: max(ASKED, int(np.searchsorted(can.cumsum(), LEAST_ASKED)) + 1)]


def old_or_not(
    make: Callable[..., Ranker], baskets: Baskets, day: int, old: bool = True, **chosen
) -> Ranker:
    """The ranker with these settings, as it is `shown`."""
    return shown(make(baskets, day, **chosen), old)


def shown(rank: Ranker, old: bool) -> Ranker:
    """The ranker; without `old`, one that never shows what a user has had."""
    return rank if old else lambda users, new: rank(users, True)


def tuned(
    make: Callable[..., Ranker],
    grid: Mapping[str, Sequence],
    baskets: Baskets,
    start: Mapping | None = None,
) -> tuple[dict[str, dict], int]:
    """For each of the `GOALS` the settings that are best on the validation days.

    One setting after the other goes to its best value, until none moves, from `start` or from the
    middle of the grid on. The second of the two results is how many settings were tried.

    Args:
        make: gives a ranker for the baskets, a day, and settings by name.
        grid: the values of each setting.
    """
    day = baskets.validation_start
    asked = some_users(baskets, day)
    known: dict[tuple, dict[str, float]] = {}

    def value(chosen: dict, goal: str) -> float:
        if (key := tuple(chosen.values())) not in known:
            found = evaluate(make(baskets, day, **chosen), baskets, day, asked=asked)
            known[key] = {name: found[name] for name in GOALS}
        return known[key][goal]

    best = {}
    for goal in GOALS:
        chosen = dict(start or {name: values[len(values) // 2] for name, values in grid.items()})
        before: dict = {}
        while chosen != before:
            before = dict(chosen)
            for name, values in grid.items():
                options = [{**chosen, name: one} for one in values]
                chosen = max(options, key=partial(value, goal=goal))
        best[goal] = chosen
    return best, len(known)


def tuned_prior(shelf: Shelf, least: int) -> tuple[float, dict[float, float]]:
    """The `prior` of `initial_state` that finds most for newcomers, and the recall@10 of each that
    was tried.

    `some_users` come as if for the first time in the four weeks from the shelf's day on, the first
    of the validation days. They are asked on their first two days there, before their baskets and
    after a few items of them. With fewer than `least` such users nothing is tried: it is `PRIOR`.
    """
    baskets = shelf.model.items.baskets
    events = baskets.events
    asked = some_users(baskets, shelf.day)
    events = events[(events["day"] >= shelf.day) & events["user"].isin(asked)]
    early = events[events.groupby("user")["day"].rank("dense") <= _VISITS]
    systems = {str(prior): Scheduled(initial_state(shelf, 0, prior), shelf.day) for prior in PRIORS}
    found = prequential(systems, replace(baskets, events=early), shelf.day, heads=_HEADS)
    if len(found) == 0 or found["user"].nunique() < least:
        return PRIOR, {}
    tried = {prior: float(found[str(prior)].mean()) for prior in PRIORS}
    return max(tried, key=tried.__getitem__), tried
