"""What a model gives away of whose records it was made from: membership inference.

Sizes: M models, N households. Chapter 16.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

CHANCE = 0.01
"""The rate of false alarms at which an attack is judged."""


def unicity(bought: sp.spmatrix, known: int, draws: int = 1, seed: int = 0) -> np.ndarray:
    """Whether `known` purchases single out a user: (users, draws), boolean.

    For each user with so many distinct items, `known` of them are drawn, and they single the user
    out where nobody else has bought all of them (de Montjoye et al. 2015, "Unique in the shopping
    mall"). Users with fewer items have no row.

    Args:
        bought: (U, I), not 0 where a user has bought an item.

    Raises:
        ValueError: fewer than one known purchase, or nobody who has made so many.

    Example:
        >>> three = sp.csr_matrix([[1, 1, 0], [1, 0, 1], [1, 1, 0]])
        >>> unicity(three, 2)[:, 0].tolist()
        [False, True, False]
    """
    rows = sp.csr_matrix(bought, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    users = np.flatnonzero(np.diff(rows.indptr) >= known)
    if known < 1 or not len(users):
        raise ValueError(
            f"unicity: no user with {known} purchases to know of; ask for 1 or more, and no more "
            "than the longest history has."
        )
    columns = sp.csc_matrix(rows)
    buyers = np.split(columns.indices, columns.indptr[1:-1])
    rng = np.random.default_rng(seed)
    alone = np.zeros((len(users), draws), bool)
    for place, user in enumerate(users):
        own = rows.indices[rows.indptr[user] : rows.indptr[user + 1]]
        for draw in range(draws):
            items = rng.choice(own, known, replace=False)
            # The rarest first: most candidates are gone at once.
            left, *others = sorted((buyers[item] for item in items), key=len)
            for one in others:
                if len(left) == 1:
                    break
                left = np.intersect1d(left, one, assume_unique=True)
            alone[place, draw] = len(left) == 1
    return alone


def likelihood_ratio(seen: np.ndarray, members: np.ndarray) -> np.ndarray:
    """How much likelier a household was learnt from than not, by each model: logarithms (M, N).

    Each model in turn is attacked, and the others are its shadows: what a household's statistic is
    like where it was learnt from, and where it was not, is read from them as two normal
    distributions (LiRA, Carlini et al. 2022, section V, in its online form; their spreads are
    pooled over households, as it advises where shadows are few).

    Args:
        seen: (M, N), what an attacker sees of each household under each model, such as its loss.
        members: (M, N), boolean: whether the model learnt from the household.

    Raises:
        ValueError: the shapes differ, a statistic is not finite, or a household is in, or out of,
            fewer than three models.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> members = rng.random((8, 400)).argsort(axis=0) < 4
        >>> loss = rng.normal(size=400) + rng.normal(size=(8, 400)) - 3.0 * members
        >>> round(float(auc(likelihood_ratio(loss, members), members)), 2)
        0.97
    """
    if seen.shape != members.shape or seen.ndim != 2:
        raise ValueError(
            f"likelihood_ratio: statistics {seen.shape} and members {members.shape}; give both as "
            "(models, households)."
        )
    if not np.isfinite(seen).all():
        model, household = np.argwhere(~np.isfinite(seen))[0]
        raise ValueError(
            f"likelihood_ratio: the statistic of household {household} under model {model} is "
            f"{seen[model, household]}; leave the household out."
        )
    least = int(min(members.sum(axis=0).min(), (~members).sum(axis=0).min()))
    if least < 3:
        raise ValueError(
            f"likelihood_ratio: a household is in, or out of, {least} models; three of each are "
            "needed, for the attacked one is left out: add models."
        )
    scores = np.zeros(seen.shape)
    for model in range(len(seen)):
        others = (model + np.arange(1, len(seen))) % len(seen)
        for sign, inside in ((1, members[others]), (-1, ~members[others])):
            # As many shadows on either side: that one side is short would tell the answer.
            inside = inside & (inside.cumsum(axis=0) < least)
            mean = np.where(inside, seen[others], 0).sum(axis=0) / (least - 1)
            apart = np.where(inside, seen[others] - mean, 0)
            spread = (apart**2).sum() / (least - 2) / seen.shape[1]
            away = (seen[model] - mean) ** 2
            scores[model] -= sign * (np.log(spread) + away / spread) / 2
    return scores


def auc(scores: np.ndarray, members: np.ndarray) -> float:
    """The chance that a member scores higher than one who is none; ties count as half.

    0.5 is what guessing gets. Raises ValueError where all or none are members, or a score is NaN.
    """
    members = _checked("auc", scores, members)
    return float(roc_auc_score(members, np.ravel(scores)))


def caught(scores: np.ndarray, members: np.ndarray, alarms: float = CHANCE) -> float:
    """The share of members whom an attacker names with at most this rate of false `alarms`.

    Guessing gets `alarms`. Where scores are tied at the threshold, nobody of them is named. Raises
    ValueError where all or none are members, a score is NaN, or `alarms` is no share below 1.
    """
    members = _checked("caught", scores, members)
    if not 0 <= alarms < 1:
        raise ValueError(f"caught: a rate of {alarms} false alarms; give 0 to below 1.")
    flat = np.ravel(scores)
    outside = np.sort(flat[~members])[::-1]
    threshold = outside[int(np.floor(alarms * len(outside)))]
    return float((flat[members] > threshold).mean())


def _checked(name: str, scores: np.ndarray, members: np.ndarray) -> np.ndarray:
    flat = np.asarray(members, bool).ravel()
    if np.size(scores) != flat.size or flat.all() or not flat.any():
        raise ValueError(
            f"{name}: {np.size(scores)} scores, {int(flat.sum())} members of {flat.size}; give a "
            "score for each, with members and others among them."
        )
    if missing := int(np.isnan(np.asarray(scores, float)).sum()):
        raise ValueError(
            f"{name}: {missing} of {flat.size} scores are NaN; leave out who has none."
        )
    return flat


def traces(table: np.ndarray, own: sp.spmatrix, rate: np.ndarray, learnt: int) -> np.ndarray:
    """How much a table of counts looks as if a household were in it: (N,).

    For each entry that the household would have added to, how far the count lies above what is
    expected of so many households, over its variance (the test of Sankararaman et al. 2009 on
    independent entries).

    Args:
        table: (T,), or (T, T) of pairs, the counts of `learnt` households.
        own: (N, T), 1 where a household has bought the type.
        rate: like `table`, the shares of all households that add to an entry.

    Raises ValueError where the shapes do not fit.
    """
    if table.shape != rate.shape or table.shape[0] != own.shape[1] or table.ndim not in (1, 2):
        raise ValueError(
            f"traces: a table {table.shape}, rates {rate.shape} and {own.shape[1]} types do not "
            "fit; give counts and rates of the types, or of their pairs."
        )
    spread = rate * (1 - rate)
    sure = spread > 0
    excess = np.where(sure, (table - learnt * rate) / np.where(sure, spread, 1), 0)
    own = sp.csr_matrix(own, dtype=np.float64)
    if table.ndim == 1:
        return own @ excess
    np.fill_diagonal(excess, 0)
    return np.asarray(own.multiply(own @ excess).sum(axis=1)).ravel()
