"""Rankers that need no network: what sells, what a household bought before, and two classics.

Item-kNN and matrix factorisation come from the package implicit. Chapter 10.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from ecomkd.data.baskets import Baskets
from ecomkd.extras import needed
from ecomkd.recommend.evaluation import DEPTH, Ranker, rank_by
from ecomkd.recommend.purchases import history, popularity


def popular(baskets: Baskets, day: int) -> Ranker:
    """A ranker that shows everyone what most users bought in the last `HORIZON` days."""
    counts = popularity(baskets, day)
    return rank_by(lambda users: np.tile(counts, (len(users), 1)), history(baskets, day))


def buy_again(baskets: Baskets, day: int, scale: float) -> Ranker:
    """A ranker that shows what the user bought often and lately, then popular items.

    An item scores the sum of exp(-age / scale) over the baskets that held it, ages in days.
    """
    past, filler = history(baskets, day, scale), tie_break(popularity(baskets, day))
    return rank_by(lambda users: past[users].toarray() + filler, past)


def tie_break(counts: np.ndarray) -> np.ndarray:
    """Scores (I,) of how often items sold, between 0 and 1e-6: all 0 where nothing was sold.

    They are so small that they order only items that a user's own purchases leave equal.
    """
    return 1e-6 * counts / max(counts.max(), 1)


def item_knn(baskets: Baskets, day: int, neighbours: int, known: Baskets | None = None) -> Ranker:
    """A ranker of items that the same people bought as the user's own.

    Two items are alike by the cosine of their tf-idf weighted buyers; each item keeps its nearest
    `neighbours`. With `known`, whose users and items are those of `baskets`, it is fitted to these
    purchases alone. Raises ModuleNotFoundError where the package implicit is missing.
    """
    with needed("item_knn", "recommend"):
        from implicit.nearest_neighbours import TFIDFRecommender
    make = partial(TFIDFRecommender, neighbours, num_threads=1)
    return _implicit(make, history(known or baskets, day), history(baskets, day))


def factors(baskets: Baskets, day: int, width: int, weight: float, seed: int) -> Ranker:
    """A ranker by matrix factorisation with alternating least squares (Hu, Koren & Volinsky 2008).

    The factors have `width` numbers. `weight` is the paper's α: the confidence in a purchase that
    was made n times is 1 + weight · n. Raises ModuleNotFoundError where the package implicit is
    missing.
    """
    with needed("factors", "recommend"):
        from implicit.als import AlternatingLeastSquares
    options = {"alpha": weight, "random_state": seed, "num_threads": 1}
    make, past = partial(AlternatingLeastSquares, width, **options), history(baskets, day)
    return _implicit(make, past, past)


def _implicit(make: Callable, known: sp.csr_matrix, past: sp.csr_matrix) -> Ranker:
    from implicit.utils import ParameterWarning

    # The library warns of a copy in another format that it made itself.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ParameterWarning)
        model = make()
        model.fit(known, show_progress=False)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return model.recommend(users, past[users], DEPTH, filter_already_liked_items=new)[0]

    return rank
