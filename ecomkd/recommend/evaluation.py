"""How well a ranking of all items foresees what a household buys next.

A ranker is a function from rows of users (U,) and a flag to rows of items (U, K), the best first.
With the flag, items that a user has bought before are left out. A scorer is a function from rows of
users (U,) and of items (K,) to scores (U, K). Sizes: U users, I items, K shown or asked for.
Chapter 10.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ecomkd import metrics, ranks
from ecomkd.data.baskets import Baskets
from ecomkd.recommend.purchases import buyers_of, first_sold, history, targets

DEPTH = 10
"""How many items are shown to a user."""

Ranker = Callable[[np.ndarray, bool], np.ndarray]
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def evaluate(
    rank: Ranker,
    baskets: Baskets,
    start: int,
    depth: int = DEPTH,
    asked: np.ndarray | None = None,
) -> dict:
    """Measures of how well a ranker foresees the `HORIZON` days from `start` on.

    The ranker knows the days before `start`. All items compete, none is sampled. Users who bought
    nothing before `start` are left out: there is nothing to personalise. `recall` divides by
    min(depth, number of targets), so that a perfect ranking has 1; `ndcg` has gain 1 for each
    target and the best order of as many. Of the users (U,) that are `asked`, or of all, those with
    a target count.

    Returns:
        `per_user`, a frame indexed by user with `recall`, `ndcg`, `repeats` (the share of what is
        shown that the user has bought before) and, for items new to the user alone, ranked without
        the old ones, `new_recall` and `new_ndcg`, NaN for a user without such a target; the means
        of these five; `coverage`, the share of all items that are shown to anyone; `novelty`, the
        mean of -log2 of the share of users who have bought what is shown; `n_without_history`.

    A row of −1 is no item: it fills a list that is too short, and is not counted as shown.

    Raises ValueError where `depth` is above DEPTH and the ranker shows fewer items than that.
    """
    past = history(baskets, start)
    wanted = targets(baskets, start)
    known = np.diff(past.indptr) > 0
    if asked is not None:
        wanted = {user: wanted[user] for user in np.unique(asked) if user in wanted}
    users = np.array([user for user in wanted if known[user]], int)
    both = (
        rank.both(users) if isinstance(rank, ByScores) else (rank(users, False), rank(users, True))
    )
    if depth > DEPTH and both[0].shape[1] < min(depth, len(baskets.items)):
        raise ValueError(
            f"evaluate: depth is {depth}, and the ranker shows {both[0].shape[1]} items; take "
            "as many at most."
        )
    shown, fresh = (found[:, :depth] for found in both)
    buyers = buyers_of(past)
    rows = []
    for user, top, new_top in zip(users, shown, fresh, strict=True):
        old = past.indices[past.indptr[user] : past.indptr[user + 1]]
        new = np.setdiff1d(wanted[user], old)
        recall, ndcg = _hits(top, wanted[user])
        new_recall, new_ndcg = _hits(new_top, new) if len(new) else (np.nan, np.nan)
        again = np.isin(top[top >= 0], old).mean() if (top >= 0).any() else 0.0
        rows.append((recall, ndcg, again, new_recall, new_ndcg))
    shown = shown[shown >= 0]  # implicit fills a list that is too short with -1
    columns = ["recall", "ndcg", "repeats", "new_recall", "new_ndcg"]
    per_user = pd.DataFrame(rows, pd.Index(users, name="user"), columns)
    share = (buyers[shown] + 1) / (len(baskets.users) + 1)
    return {
        "per_user": per_user,
        **per_user.mean().to_dict(),
        "coverage": len(np.unique(shown)) / len(baskets.items),
        "novelty": float(-np.log2(share).mean()),
        "n_without_history": len(wanted) - len(users),
    }


def evaluate_cold(score: Scorer, baskets: Baskets, start: int, depth: int = DEPTH) -> pd.Series:
    """The recall of each user among the items first sold in the `HORIZON` days from `start` on.

    These items compete with each other alone, and only their text is known. Items with
    one score share their places, so a constant score gets what chance gives. Users without a
    purchase before `start`, or of such an item after it, are left out.
    """
    cold, known = first_sold(baskets, start), np.diff(history(baskets, start).indptr) > 0
    wanted = {user: np.isin(cold, own) for user, own in targets(baskets, start).items()}
    users = np.array([user for user, own in wanted.items() if known[user] and own.any()], int)
    depth, recall = min(depth, len(cold)), {}
    table = np.concatenate([score(part, cold) for part in _parts(users)])
    for user, scores in zip(users, table, strict=True):
        last = np.partition(scores, -depth)[-depth]
        above, level = scores > last, scores == last
        chance = (depth - above.sum()) / level.sum()
        hit = wanted[user][above].sum() + chance * wanted[user][level].sum()
        recall[int(user)] = hit / min(depth, wanted[user].sum())
    return pd.Series(recall, name="recall", dtype=float).rename_axis("user")


def _hits(top: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """The recall and the nDCG of what is shown to one user, against what the user wanted."""
    hit = np.isin(top, wanted)
    ndcg = metrics.ndcg_of_gains(hit, ideal=np.ones(len(wanted)), depth=len(top))
    return hit.sum() / min(len(top), len(wanted)), float(ndcg)


def best(
    scores: np.ndarray, without: sp.csr_matrix | None = None, depth: int = DEPTH
) -> np.ndarray:
    """The rows (U, depth) of the items with the highest scores (U, I) of each user, best first.

    Items where `without` (U, I) is not 0 are left out. Among equals the first item comes first.
    A smaller shop gives all that it has.
    """
    depth = min(depth, scores.shape[1])
    if without is not None:
        scores = np.array(scores, np.float32)
        scores[without.nonzero()] = -np.inf
    return ranks.first(scores, depth)


class ByScores:
    """A ranker of all items by scores, as `rank_by` makes it."""

    def __init__(
        self, scores: Callable[[np.ndarray], np.ndarray], past: sp.csr_matrix, size: int = 256
    ):
        self.scores, self.past, self.size = scores, past, size

    def __call__(self, users: np.ndarray, new: bool) -> np.ndarray:
        parts = _parts(users, self.size)
        shown = [best(self.scores(own), self.past[own] if new else None) for own in parts]
        return np.concatenate(shown)

    def both(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lists with old items, and without: scores, which take most of the time, are asked for
        once."""
        found = []
        for own in _parts(users, self.size):
            scores = self.scores(own)
            found.append((best(scores), best(scores, self.past[own])))
        shown, fresh = zip(*found, strict=True)
        return np.concatenate(shown), np.concatenate(fresh)


def rank_by(
    scores: Callable[[np.ndarray], np.ndarray], past: sp.csr_matrix, size: int = 256
) -> ByScores:
    """A ranker of all items by `scores`, which gives those of all items (U, I) to rows of users.

    `past` (U, I) is not 0 where a user has bought an item before. Users are asked for `size` at a
    time.
    """
    return ByScores(scores, past, size)


def _parts(users: np.ndarray, size: int = 256) -> list[np.ndarray]:
    """Scores of all items for all users at once would not fit into memory."""
    return np.split(users, range(size, len(users), size))
