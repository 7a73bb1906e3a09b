"""For whom a recommender works: recall@10 by how often people came, and by income."""

from __future__ import annotations

import numpy as np
import pandas as pd

import shared
from ecomkd import metrics, people, recommend
from ecomkd.data.baskets import Baskets

QUARTERS = ("fewest", "fewer", "more", "most")
"""Of the users that are asked, by how many baskets or purchases they had before the test days; who
had as many as others may fall into either of two quarters."""
VISITS, LINES, INCOME = "baskets before", "purchases before", "income"
INCOMES = ("under 35K", "35K to 74K", "75K+")
"""Dollars a year, in the classes of chapter 11."""


def before(baskets: Baskets) -> pd.DataFrame:
    """How many baskets and purchases each user had before the test days."""
    events = baskets.between(0, baskets.test_start).groupby("user")
    return pd.DataFrame({"baskets": events["basket"].nunique(), "purchases": events.size()})


def groups(baskets: Baskets) -> dict[str, dict[str, str]]:
    """By kind of group the group of each user that is asked on the test days and has one; the keys
    are the numbers of users, as text."""
    known, wanted = before(baskets), recommend.targets(baskets, baskets.test_start)
    asked = [user for user in wanted if user in known.index]
    found = {}
    for kind, counted in ((VISITS, "baskets"), (LINES, "purchases")):
        # Users with equal counts stay in the order of their numbers.
        place = known.loc[asked, counted].rank(method="first").sub(1) * len(QUARTERS) // len(asked)
        found[kind] = {str(user): QUARTERS[int(quarter)] for user, quarter in place.items()}
    if INCOME in baskets.users:
        told = people.demographics(baskets.users)[INCOME]
        found[INCOME] = {str(user): told[user] for user in asked if user in told.index}
    return found


def habits(
    baskets: Baskets, of: dict[str, dict[str, str]]
) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of group and group, as `groups` has them: the least and the most baskets before the
    test days, the means of baskets and purchases before them, and of different items bought on
    them."""
    wanted = recommend.targets(baskets, baskets.test_start)
    counts = {user: len(items) for user, items in wanted.items()}
    known = before(baskets).assign(**{"items wanted": pd.Series(counts)})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, own in of.items():
        told = pd.Series(own).rename(index=int)
        for name, users in told.groupby(told).groups.items():
            theirs = known.loc[users]
            found.setdefault(kind, {})[name] = {
                "least": int(theirs["baskets"].min()),
                "most": int(theirs["baskets"].max()),
                **theirs.mean().to_dict(),
            }
    return found


def by_group(
    values: dict[str, np.ndarray],
    users: list[int],
    of: dict[str, dict[str, str]],
    pair: tuple[str, str],
) -> dict[str, dict]:
    """Recall@10 (S, U) of several rows in each group, with intervals over seeds and users of two
    differences: of the `pair` within each group, and of each row between the last group and the
    first one; of incomes also among users who came as often, and who bought as much."""
    found = {}
    group = {kind: np.array([told.get(str(user), "") for user in users])
             for kind, told in of.items()}  # fmt: skip
    for kind, names in ((VISITS, QUARTERS), (INCOME, INCOMES)):
        if kind not in of:
            continue
        own = group[kind]
        rows = {
            name: {
                "users": int((own == name).sum()),
                "recall": {row: float(table[:, own == name].mean())
                           for row, table in values.items()},
                "difference": shared.over_both(
                    (values[pair[0]] - values[pair[1]])[:, own == name]
                ),
            }
            for name in names
        }  # fmt: skip
        first, last = own == names[0], own == names[-1]
        strata = {"gap": np.ones((1, len(users)), bool)}
        if kind == INCOME:
            for alike, what in ((VISITS, "baskets"), (LINES, "purchases")):
                inside = np.array([group[alike] == name for name in QUARTERS])
                strata[f"gap, as many {what}"] = inside
        found[kind] = {"groups": rows} | {
            name: {row: gap_of(table, last, first, inside) for row, table in values.items()}
            for name, inside in strata.items()
        }
    return found


def gap_of(
    table: np.ndarray, one: np.ndarray, other: np.ndarray, strata: np.ndarray
) -> dict[str, float]:
    """The mean of the users (U,) in `one` minus that of those in the `other`, with an interval over
    seeds and users; within each of the `strata` (K, U), weighed by how many of both it has. A
    stratum in which one side has nobody says nothing."""
    cells = []
    for stratum in strata:
        for inside in (one & stratum, other & stratum):
            cells += [np.where(inside, table, 0), np.broadcast_to(inside, table.shape)]

    def minus(means: np.ndarray) -> np.ndarray:
        a, in_a, b, in_b = means.reshape(len(means), -1, 4).transpose(2, 0, 1)
        weights = (in_a + in_b) * (in_a > 0) * (in_b > 0)
        gaps = a / np.maximum(in_a, 1e-12) - b / np.maximum(in_b, 1e-12)
        return (weights * gaps).sum(axis=1) / weights.sum(axis=1)

    return metrics.two_way_bootstrap(np.stack(cells, axis=-1), minus, 2_000)
