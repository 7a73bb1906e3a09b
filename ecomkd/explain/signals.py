"""Shapley values of boosted trees: exact, in the time of the trees, and by all coalitions.

Sizes: N pairs, F signals, B rows of a background. Chapter 17.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import factorial
from typing import Any

import numpy as np

from ecomkd.extras import needed

_MOST = 12


def tree_shap(booster: Any, signals: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shapley values (N, F) of a `lightgbm.Booster`'s scores, against a background (B, F).

    What a signal is worth is the mean score when it is known and the unknown ones come from the
    background (Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9, its interventional values).
    A row adds up to its score less the mean score of the background.

    Raises ValueError for signals that do not fit each other, ModuleNotFoundError without `shap`.
    """
    signals, background = np.asarray(signals, float), np.asarray(background, float)
    if signals.ndim != 2 or background.ndim != 2 or signals.shape[1] != background.shape[1]:
        raise ValueError(
            f"tree_shap: signals {signals.shape} and background {background.shape}; give the same "
            "number of columns to both."
        )
    with needed("tree_shap", "explain"):
        import shap
    # Of more than 100 rows it would draw 100.
    whole = shap.maskers.Independent(background, max_samples=len(background))
    explainer = shap.TreeExplainer(booster, data=whole, feature_perturbation="interventional")
    return np.asarray(explainer.shap_values(signals, check_additivity=False))


def coalitions(
    score: Callable[[np.ndarray], np.ndarray], row: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """The same values (F,) of one row (F,), from all 2^F coalitions of its signals.

    Lundberg & Lee 2017, equation 4 (arXiv:1705.07874). Raises ValueError for more than 12 signals,
    which would take too long, or for a background of another width.

    Example:
        >>> coalitions(lambda rows: rows @ [2.0, 1.0], np.ones(2), np.zeros((1, 2))).tolist()
        [2.0, 1.0]
    """
    row, background = np.asarray(row, float), np.asarray(background, float)
    count = len(row)
    if count > _MOST or background.ndim != 2 or background.shape[1] != count:
        raise ValueError(
            f"coalitions: {count} signals and a background of {background.shape}; give at most "
            f"{_MOST} signals, and (rows, {count})."
        )
    known = np.array(list(product((False, True), repeat=count)))
    worth = np.array([score(np.where(own, row, background)).mean() for own in known])
    place = known @ (1 << np.arange(count)[::-1])
    values = np.zeros(count)
    for signal in range(count):
        without = ~known[:, signal]
        size = known[without].sum(axis=1)
        weight = [factorial(n) * factorial(count - n - 1) / factorial(count) for n in size]
        joined = place[without] + (1 << (count - 1 - signal))
        values[signal] = np.dot(weight, worth[joined] - worth[place[without]])
    return values
