"""The highest scores of each row, without sorting all of them. NumPy alone is loaded."""

from __future__ import annotations

import numpy as np


def first(scores: np.ndarray, k: int) -> np.ndarray:
    """The places (Q, k) of the k highest of each row of scores (Q, N), best first.

    What a stable sort of all N would give, at the cost of a partition: equal scores keep their
    order, on every processor, and NaN comes last.

    Example:
        >>> first(np.array([[1.0, 3.0, 3.0, np.nan]]), 3).tolist()
        [[1, 2, 0]]
    """
    rows = np.empty((len(scores), k), int)
    if k == 0:
        return rows
    for row, given in enumerate(scores):
        own = -given  # row by row, for the whole table may fill the memory
        # A partition's own order of equals hangs on the processor, so only its threshold is used.
        last = np.partition(own, k - 1)[k - 1]
        if np.isnan(last):
            rows[row] = np.argsort(own, kind="stable")[:k]
            continue
        above, level = np.flatnonzero(own < last), np.flatnonzero(own == last)
        above = above[np.argsort(own[above], kind="stable")]
        rows[row] = np.concatenate([above, level[: k - len(above)]])
    return rows
