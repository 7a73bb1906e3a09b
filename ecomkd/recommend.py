"""Personalised recommendation: what a household will buy next, from its baskets so far.

A ranker is a function from rows of users (U,) and a flag to rows of items (U, K), the best first.
With the flag, items that a user has bought before are left out. Sizes: U users, I items, K shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ecomkd.data.baskets import HORIZON, Baskets

DEPTH = 10

Ranker = Callable[[np.ndarray, bool], np.ndarray]


# What is bought, and how well a ranking foresaw it ------------------------------------------------


def history(baskets: Baskets, day: int, scale: float | None = None) -> sp.csr_matrix:
    """In how many baskets before `day` each user had each item, (U, I), float32.

    With a `scale` in days a basket of age a counts exp(-a / scale).
    """
    past = baskets.between(0, day)
    weight = np.ones(len(past)) if scale is None else np.exp((past["day"] - day) / scale)
    shape = len(baskets.users), len(baskets.items)
    return sp.csr_matrix((weight, (past["user"], past["item"])), shape, dtype=np.float32)


def targets(baskets: Baskets, start: int, days: int = HORIZON) -> dict[int, np.ndarray]:
    """The distinct items that each user buys from day `start` on, for as many days, in order."""
    bought = baskets.between(start, start + days).groupby("user")["item"]
    return {int(user): np.unique(items) for user, items in bought}


def first_sold(baskets: Baskets, start: int, days: int = HORIZON) -> np.ndarray:
    """The items whose first purchase by anyone falls into the period: nothing but text is known."""
    first = baskets.events.groupby("item")["day"].min()
    return first.index[first.between(start, start + days - 1)].to_numpy()


def evaluate(rank: Ranker, baskets: Baskets, start: int, depth: int = DEPTH) -> dict:
    """How well a ranker that knows the days before `start` foresees the `HORIZON` days after it.

    All items compete, none is sampled. Users who bought nothing before `start` are left out: there
    is nothing to personalise. `recall` divides by min(depth, number of targets), so that a perfect
    ranking has 1; `ndcg` has gain 1 for each target and the best order of as many.

    Returns:
        `per_user`, a frame indexed by user with `recall`, `ndcg`, `repeats` (the share of what is
        shown that the user has bought before) and, for items new to the user alone, ranked without
        the old ones, `new_recall` and `new_ndcg`, NaN for a user without such a target; the means
        of these five; `coverage`, the share of all items that are shown to anyone; `novelty`, the
        mean of -log2 of the share of users who have bought what is shown; `n_without_history`.
    """
    past = history(baskets, start)
    wanted = targets(baskets, start)
    known = np.diff(past.indptr) > 0
    users = np.array([user for user in wanted if known[user]])
    shown, fresh = rank(users, False)[:, :depth], rank(users, True)[:, :depth]
    buyers = np.bincount(past.indices, minlength=past.shape[1])
    rows = []
    for user, top, new_top in zip(users, shown, fresh, strict=True):
        old = past.indices[past.indptr[user] : past.indptr[user + 1]]
        new = np.setdiff1d(wanted[user], old)
        recall, ndcg = _hits(top, wanted[user])
        new_recall, new_ndcg = _hits(new_top, new) if len(new) else (np.nan, np.nan)
        rows.append((recall, ndcg, np.isin(top, old).mean(), new_recall, new_ndcg))
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


def _hits(top: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    hit = np.isin(top, wanted)
    best = min(len(top), len(wanted))
    discount = 1 / np.log2(np.arange(2, len(top) + 2))
    return hit.sum() / best, float(hit @ discount / discount[:best].sum())


def best(scores: np.ndarray, past: sp.csr_matrix, new: bool, depth: int = DEPTH) -> np.ndarray:
    """The `depth` items with the highest scores (U, I) of each user, best first.

    `past` (U, I) holds what these users have bought; with `new` it is left out. Among equals the
    first item comes first. A smaller shop gives all that it has.
    """
    scores = np.array(scores, np.float32)
    depth = min(depth, scores.shape[1])
    if new:
        users, items = past.nonzero()
        scores[users, items] = -np.inf
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    order = np.lexsort((top, -np.take_along_axis(scores, top, axis=1)))
    return np.take_along_axis(top, order, axis=1)


# Rankers without a network ------------------------------------------------------------------------


def popularity(baskets: Baskets, day: int, window: int = HORIZON) -> np.ndarray:
    """How many users bought each item in the `window` days before `day`, (I,)."""
    recent = baskets.between(max(day - window, 0), day).drop_duplicates(["user", "item"])
    return np.bincount(recent["item"], minlength=len(baskets.items))


def popular(baskets: Baskets, day: int) -> Ranker:
    """The same for all: what most users bought of late."""
    past, counts = history(baskets, day), popularity(baskets, day)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return best(np.tile(counts, (len(users), 1)), past[users], new)

    return _in_parts(rank)


def buy_again(baskets: Baskets, day: int, scale: float) -> Ranker:
    """What the user bought often and of late; popular items where that ends.

    An item scores the sum of exp(-age / scale) over the baskets that held it, ages in days.
    """
    past, counts = history(baskets, day, scale), popularity(baskets, day)
    filler = 1e-6 * counts / counts.max()

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return best(past[users].toarray() + filler, past[users], new)

    return _in_parts(rank)


def item_knn(baskets: Baskets, day: int, neighbours: int) -> Ranker:
    """Items that were bought by the same people as the user's own: cosine of tf-idf counts."""
    from implicit.nearest_neighbours import TFIDFRecommender

    return _implicit(TFIDFRecommender(neighbours, num_threads=1), history(baskets, day))


def factors(baskets: Baskets, day: int, width: int, weight: float, seed: int) -> Ranker:
    """Matrix factorisation by alternating least squares (Hu, Koren & Volinsky 2008).

    `weight` is theirs: the confidence in a purchase that is made n times is 1 + weight · n.
    """
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(width, alpha=weight, random_state=seed, num_threads=1)
    return _implicit(model, history(baskets, day))


def _implicit(model, past: sp.csr_matrix) -> Ranker:
    model.fit(past, show_progress=False)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return model.recommend(users, past[users], DEPTH, filter_already_liked_items=new)[0]

    return rank


def _in_parts(rank: Ranker, size: int = 256) -> Ranker:
    """`rank`, for few users at a time: scores of all items take memory."""

    def in_parts(users: np.ndarray, new: bool) -> np.ndarray:
        parts = np.split(users, range(size, len(users), size))
        return np.concatenate([rank(part, new) for part in parts])

    return in_parts
