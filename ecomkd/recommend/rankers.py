"""Rankers that need no network: what sells, what a user or the users alike bought, and classics.

Item-kNN, matrix factorisation and BPR come from the package implicit. Old purchases may count less:
with a `scale` in days, one of age a counts exp(-a / scale). Sizes: U users, I items. Chapter 10.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from ecomkd import ranks
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.extras import needed
from ecomkd.recommend.evaluation import DEPTH, Ranker, rank_by
from ecomkd.recommend.purchases import buyers_of, history, popularity

Scores = Callable[[np.ndarray], np.ndarray]
"""From rows of users (U,) to scores of all items (U, I)."""


def popular(baskets: Baskets, day: int, window: int = HORIZON) -> Ranker:
    """A ranker that shows everyone what most users bought in the last `window` days."""
    counts = popularity(baskets, day, window)
    return rank_by(lambda users: np.tile(counts, (len(users), 1)), history(baskets, day))


def buy_again(
    baskets: Baskets, day: int, scale: float | None = None, window: int = HORIZON
) -> Ranker:
    """A ranker that shows what the user bought often and lately, then popular items.

    An item scores the sum of exp(-age / scale) over the baskets that held it, ages in days. Without
    a scale it scores their number: the user's top frequency (Li et al. 2023). Items that the user
    never bought follow in the order of `popular`.
    """
    past, filler = history(baskets, day, scale), tie_break(popularity(baskets, day, window))
    return rank_by(lambda users: past[users].toarray() + filler, past)


def tie_break(counts: np.ndarray) -> np.ndarray:
    """Scores (I,) of how often items sold, between 0 and 1e-6: all 0 where nothing was sold.

    They are so small that they order only items that a user's own purchases leave equal, or that
    were last bought 14 scales ago or more.
    """
    return 1e-6 * counts / max(counts.max(), 1)


def neighbours_share(
    baskets: Baskets, day: int, neighbours: int, scale: float, window: int = HORIZON
) -> Scores:
    """The share of a user's nearest users who bought each item in the last `window` days.

    Users are alike by the cosine of the logarithms of their decayed counts, weighted by tf-idf;
    each of the nearest `neighbours` counts by how alike it is, the user itself not at all.
    """
    alike, late = neighbour_tables(baskets, day, scale, window)
    return partial(share_of_near, alike, late, neighbours)


def neighbour_tables(
    baskets: Baskets, day: int, scale: float, window: int
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """What `neighbours_share` is made of: unit rows (U, I) by which users are alike, and a 1 (U, I)
    for what each bought in the last `window` days."""
    past = history(baskets, day, scale)
    past.data = np.log1p(past.data)
    alike = normalize(TfidfTransformer(norm=None).fit_transform(past)).tocsr()
    recent = baskets.between(max(day - window, 0), day).drop_duplicates(["user", "item"])
    late = sp.csr_matrix(
        (np.ones(len(recent), np.float32), (recent["user"], recent["item"])), past.shape
    )
    return alike, late


def share_of_near(
    alike: sp.csr_matrix, late: sp.csr_matrix, neighbours: int, users: np.ndarray
) -> np.ndarray:
    """The shares (B, I) of `neighbours_share` for rows of users (B,), from its two tables."""
    kept = min(neighbours, alike.shape[0] - 1)
    near = (alike[users] @ alike.T).toarray()
    near[np.arange(len(users)), users] = -1
    least = np.partition(near, -kept, axis=1)[:, -kept, None]
    near[(near < least) | (near < 0)] = 0
    total = near.sum(axis=1, keepdims=True)
    return (sp.csr_matrix(near / np.maximum(total, 1e-9)) @ late).toarray()


def user_knn(
    baskets: Baskets,
    day: int,
    neighbours: int,
    scale: float,
    window: int = HORIZON,
    share: float = 1.0,
) -> Ranker:
    """A ranker of what users like this one bought lately, and of what this one bought before.

    An item scores its decayed count, as `buy_again`, plus `share` times `neighbours_share`: the
    form of UP-CF (Faggioli, Polato & Aiolli 2020). Of new items the second part alone decides.
    """
    past, filler = history(baskets, day, scale), tie_break(popularity(baskets, day, window))
    others = neighbours_share(baskets, day, neighbours, scale, window)

    def scores(users: np.ndarray) -> np.ndarray:
        return past[users].toarray() + share * others(users) + filler

    return rank_by(scores, past)


def tifu_knn(
    baskets: Baskets,
    day: int,
    neighbours: int,
    share: float,
    within: float = 0.9,
    across: float = 0.7,
    groups: int = 7,
) -> Ranker:
    """TIFU-kNN (Hu et al. 2020): frequencies that fade basket by basket, of a user and of others.

    A user's baskets are cut into so many `groups`; in a group each older basket counts `within`
    times the next, and each older group `across` times the next. An item scores `share` times the
    user's own frequency and 1 - `share` times the mean of the nearest `neighbours`, by the
    Euclidean distance of these frequencies.
    """
    past, own = history(baskets, day), _fading(baskets, day, within, across, groups)
    length = np.asarray(own.multiply(own).sum(axis=1)).ravel()
    there = length > 0  # who has bought nothing yet is nobody's neighbour
    filler, kept = tie_break(popularity(baskets, day)), max(min(neighbours, there.sum() - 1), 1)

    def scores(users: np.ndarray) -> np.ndarray:
        far = np.where(there, length - 2 * (own[users] @ own.T).toarray(), np.inf)
        far[np.arange(len(users)), users] = np.inf
        near = ranks.first(-far, kept)
        rows = np.repeat(np.arange(len(users)), kept)
        mean = sp.csr_matrix(
            (np.full(near.size, 1 / kept, np.float32), (rows, near.ravel())), far.shape
        )
        return share * own[users].toarray() + (1 - share) * (mean @ own).toarray() + filler

    return rank_by(scores, past)


def _fading(baskets: Baskets, day: int, within: float, across: float, groups: int) -> sp.csr_matrix:
    """The frequencies (U, I) of `tifu_knn`; older groups may have a basket less, as the authors'
    code cuts them."""
    past = baskets.between(0, day)
    visits = past[["user", "basket"]].drop_duplicates()
    back = visits.groupby("user").cumcount(ascending=False)
    number = visits.groupby("user")["basket"].transform("size")
    parts = np.minimum(groups, number)
    least, larger = number // parts, number % parts
    late = back < larger * (least + 1)  # in one of the groups that have a basket more
    size = least + late
    first = np.where(late, 0, larger * (least + 1))
    group = (back - first) // size + np.where(late, 0, larger)
    weight = within ** ((back - first) % size) / size
    weight = weight * across**group / parts
    of_basket = dict(zip(visits["basket"], weight, strict=True))
    values = past["basket"].map(of_basket).to_numpy(np.float32)
    shape = len(baskets.users), len(baskets.items)
    return sp.csr_matrix((values, (past["user"], past["item"])), shape)


def item_knn(
    baskets: Baskets,
    day: int,
    neighbours: int,
    scale: float | None = None,
    known: Baskets | None = None,
) -> Ranker:
    """A ranker of items that the same people bought as the user's own.

    Two items are alike by the cosine of their tf-idf weighted buyers; each item keeps its nearest
    `neighbours`. With a `scale` old purchases count less. With `known`, whose users and items are
    those of `baskets`, it is fitted to these purchases alone. Raises ModuleNotFoundError where the
    package implicit is missing.
    """
    with needed("item_knn", "recommend"):
        from implicit.nearest_neighbours import TFIDFRecommender
    make = partial(TFIDFRecommender, neighbours, num_threads=1)
    return _implicit(make, history(known or baskets, day, scale), history(baskets, day, scale))


def ease(
    baskets: Baskets,
    day: int,
    penalty: float,
    least: int = 20,
    scale: float | None = None,
) -> Ranker:
    """EASE (Steck 2019): linear weights from each item to each other one, in closed form.

    They are fitted to which of the items with `least` buyers or more each user has had, with a
    `scale` to the decayed counts' square roots; the other items score as little as what sells.
    """
    past = history(baskets, day, scale)
    kept = np.flatnonzero(buyers_of(past) >= least)
    had = past[:, kept].astype(np.float32)
    had.data = np.ones_like(had.data) if scale is None else np.sqrt(had.data)
    with threadpool_limits(1, "blas"):
        inverse = np.linalg.inv((had.T @ had).toarray() + penalty * np.eye(len(kept), dtype="f"))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    filler = tie_break(popularity(baskets, day))

    def scores(users: np.ndarray) -> np.ndarray:
        found = np.tile(filler, (len(users), 1))
        found[:, kept] += had[users] @ weights
        return found

    return rank_by(scores, past)


def factors(
    baskets: Baskets, day: int, width: int, weight: float, seed: int, scale: float | None = None
) -> Ranker:
    """A ranker by matrix factorisation with alternating least squares (Hu, Koren & Volinsky 2008).

    The factors have `width` numbers. The confidence in a purchase that was made n times is
    `weight` · n, as the package implicit has it, where the paper has 1 + α · n; what was not bought
    has 1. With a `scale` the n is a decayed count. Raises ModuleNotFoundError where the package
    implicit is missing.
    """
    with needed("factors", "recommend"):
        from implicit.als import AlternatingLeastSquares
    options = {"alpha": weight, "random_state": seed, "num_threads": 1}
    make, past = partial(AlternatingLeastSquares, width, **options), history(baskets, day, scale)
    return _implicit(make, past, past)


def bpr(
    baskets: Baskets,
    day: int,
    width: int,
    learning_rate: float,
    penalty: float,
    seed: int,
    passes: int = 100,
) -> Ranker:
    """A ranker by factors that put what was bought before what was not (BPR, Rendle et al. 2009).

    Raises ModuleNotFoundError where the package implicit is missing.
    """
    with needed("bpr", "recommend"):
        from implicit.bpr import BayesianPersonalizedRanking
    options = {"regularization": penalty, "iterations": passes, "random_state": seed}
    make = partial(BayesianPersonalizedRanking, width, learning_rate, num_threads=1, **options)
    past = history(baskets, day)
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
