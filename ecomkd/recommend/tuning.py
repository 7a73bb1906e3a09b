"""Settings of a ranker, chosen on the validation days: for all items, and for new ones.

Chapter 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ecomkd.data.baskets import Baskets
from ecomkd.recommend.evaluation import Ranker, evaluate

GOALS = ("recall", "new_recall")
"""Recall@10 of all items, and of those that are new to a user."""
ASKED = 600
"""Users of a large shop on whom settings are chosen."""


def some_users(baskets: Baskets) -> np.ndarray:
    """The rows (K,) of the users on whom settings are chosen, the same in each call."""
    return np.random.default_rng(0).permutation(len(baskets.users))[:ASKED]


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
    day, asked = baskets.validation_start, some_users(baskets)
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
