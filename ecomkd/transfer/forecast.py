"""How much data a level takes, and whether a transfer will help or harm. Chapter 13."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler

from ecomkd import metrics


def reached(counts: Sequence[int], curve: Sequence[float], level: float) -> float:
    """The number of baskets at which a learning curve first reaches a level.

    Between two counts the curve is a straight line over log(1 + count). It never falls, since a
    shop may keep an older model. For a level above the whole curve the last count is returned: it
    takes all baskets that there are, or more.

    Args:
        counts: numbers of baskets (n,), ascending.
        curve: the measure at each of them (n,).

    Raises ValueError where there is not one value for each count, at least one, or one is NaN.
    """
    best = np.maximum.accumulate(np.asarray(curve, float))
    if not len(best) or len(best) != len(counts) or np.isnan([*best, level]).any():
        raise ValueError(
            f"reached: {len(best)} values for {len(counts)} counts, and level {level}; give a "
            "number for each count, one at least, and for the level."
        )
    if level <= best[0]:
        return float(counts[0])
    if level > best[-1]:
        return float(counts[-1])
    at = int(np.searchsorted(best, level))
    share = (level - best[at - 1]) / (best[at] - best[at - 1])
    low, high = np.log1p([counts[at - 1], counts[at]])
    return float(np.expm1(low + share * (high - low)))


def foreseen(moved: pd.Series, without: pd.Series) -> dict:
    """A forecast, from a handful of labels, of whether a transfer helps.

    Returns:
        `difference`, `low` and `high` of the measure with what was moved, minus the measure without
        it (paired); `says`, which is "helps" for a difference above 0 and else "harms"; and `sure`,
        whether the interval excludes 0.
    """
    found = metrics.paired_bootstrap(moved, without)
    says = "helps" if found["difference"] > 0 else "harms"
    return {**found, "says": says, "sure": bool(found["low"] > 0 or found["high"] < 0)}


def distance(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """The proxy A-distance 2 · (1 - 2ε) of two shops' texts, from 0 (alike) to 2 (far apart).

    ε is the error, in five folds, of a logistic regression that tells from the vector of a text
    which shop it belongs to (Ben-David et al. 2007, section 5).

    Args:
        a, b: (N, E), vectors of the texts of each shop. As many are drawn from each as the smaller
            one has, and at most 1,000.
        seed: draws them.
    """
    rng, size = np.random.default_rng(seed), min(len(a), len(b), 1000)
    X = np.vstack([part[rng.permutation(len(part))[:size]] for part in (a, b)])
    X = StandardScaler().fit_transform(X)
    y = np.repeat([0, 1], size)
    error = 1 - cross_val_score(LogisticRegression(C=0.01, max_iter=500), X, y, cv=5).mean()
    return float(2 * (1 - 2 * min(error, 0.5)))
