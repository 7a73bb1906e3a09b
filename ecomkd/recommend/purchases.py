"""What was bought, how often, by whom and when first: the matrices and sets behind every ranking.

Sizes: U users, I items, T distinct texts. Chapters 10 and 14.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ecomkd.data.baskets import HORIZON, Baskets

BUYERS = 5
"""How many people must have bought an item before a network is trained on it."""
SCALES = (14.0, 56.0, 182.0)
"""The days in which a decayed count falls to 1/e: three speeds of forgetting."""
HABITS = 9
"""How many numbers tell a user's habit with an item."""
ONCE = 60.0
"""The days between two purchases that are assumed of an item that was bought once."""


def history(baskets: Baskets, day: int, scale: float | None = None) -> sp.csr_matrix:
    """The number of baskets before `day` in which each user had each item, (U, I), float32.

    With a `scale` in days, a basket of age a counts exp(-a / scale).
    """
    past = baskets.between(0, day)
    weight = np.ones(len(past)) if scale is None else np.exp((past["day"] - day) / scale)
    # Never 0 in float32: what was bought long ago was bought.
    weight = np.maximum(weight, np.finfo(np.float32).tiny)
    shape = len(baskets.users), len(baskets.items)
    return sp.csr_matrix((weight, (past["user"], past["item"])), shape, dtype=np.float32)


def buyers_of(past: sp.csr_matrix) -> np.ndarray:
    """The number of users who have bought each item, (I,), from a `history`."""
    return np.bincount(past.indices, minlength=past.shape[1])


def targets(baskets: Baskets, start: int) -> dict[int, np.ndarray]:
    """The distinct items, in order, that each user buys in the `HORIZON` days from `start` on."""
    bought = baskets.between(start, start + HORIZON).groupby("user")["item"]
    return {int(user): np.unique(items) for user, items in bought}


def first_sold(baskets: Baskets, start: int) -> np.ndarray:
    """The items that are sold in the `HORIZON` days from `start` on, and never were before."""
    first = baskets.events.groupby("item")["day"].min()
    return first.index[first.between(start, start + HORIZON - 1)].to_numpy()


def popularity(baskets: Baskets, day: int, window: int = HORIZON) -> np.ndarray:
    """The number of users who bought each item in the `window` days before `day`, (I,)."""
    recent = baskets.between(max(day - window, 0), day).drop_duplicates(["user", "item"])
    return np.bincount(recent["item"], minlength=len(baskets.items))


def texts(baskets: Baskets) -> tuple[list[str], np.ndarray]:
    """The distinct texts (T,), and for each item (I,) which of them is its own."""
    codes, distinct = pd.factorize(baskets.items["text"], sort=True)
    return distinct.tolist(), codes


def users_before(baskets: Baskets, day: int) -> np.ndarray:
    """The users, in order, who have bought something before `day`."""
    return np.unique(baskets.between(0, day)["user"])
