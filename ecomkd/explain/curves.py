"""Tests of reasons: what becomes of a score without them, and how far two models' reasons agree.

Sizes: N reasons of one score. Chapter 17.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

SHARES = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0])
"""The shares of the reasons that are taken away, or put back, one after another."""


def steps_of(shares: np.ndarray) -> np.ndarray:
    """Which of N reasons come first at each of `SHARES`, the largest first: boolean (7, N).

    Among equals the first goes first. Raises ValueError for a share that is not finite, or none.

    Example:
        >>> steps_of(np.array([0.1, 0.7]))[[0, 4, 6]].astype(int).tolist()
        [[0, 0], [0, 1], [1, 1]]
    """
    shares = np.asarray(shares, float)
    if shares.ndim != 1 or not len(shares) or not np.isfinite(shares).all():
        raise ValueError(f"steps_of: the shares are {shares}; give one finite number a reason.")
    rank = np.argsort(np.argsort(-shares, kind="stable"), kind="stable")
    return rank < np.ceil(SHARES * len(shares))[:, None]


def deletion(score: Callable[[np.ndarray], np.ndarray], shares: np.ndarray) -> np.ndarray:
    """The score while reasons are taken away, the largest share first: (7,), one for each SHARES.

    The lower the curve, the better the reasons (Samek et al. 2017, arXiv:1509.06321; Petsiuk et al.
    2018, arXiv:1806.07421).

    Args:
        score: from boolean (M, N), true where a reason is kept, to values (M,).
        shares: (N,).
    """
    return score(~steps_of(shares))


def insertion(score: Callable[[np.ndarray], np.ndarray], shares: np.ndarray) -> np.ndarray:
    """The score while reasons are put back into nothing, the largest share first: (7,).

    The higher the curve, the better the reasons.
    """
    return score(steps_of(shares))


def area(curve: np.ndarray) -> float:
    """The area under a curve over `SHARES`, by trapezia: its mean height.

    Example:
        >>> round(area(1 - SHARES), 3)
        0.5
    """
    return float(np.trapezoid(curve, SHARES))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two models' shares (N,); 0 where one of them never changes.

    Raises ValueError unless both have a finite share for each of the same two or more reasons.

    Example:
        >>> round(rank_correlation([1, 2, 3], [1, 3, 2]), 3)
        0.5
    """
    a, b = _both("rank_correlation", a, b)
    ranks = np.stack([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1).prod())
    return float(ranks.prod(axis=0).sum() / length) if length else 0.0


def overlap(a: np.ndarray, b: np.ndarray, top: int = 3) -> float:
    """Which part of the `top` largest shares of `a` is among the `top` largest of `b`.

    Two random orders of N reasons share top/N of them. Raises ValueError as `rank_correlation`
    does, and where there are fewer reasons than `top`.

    Example:
        >>> overlap([3, 2, 1, 0], [0, 2, 1, 3], top=2)
        0.5
    """
    a, b = _both("overlap", a, b)
    if not 1 <= top <= len(a):
        raise ValueError(f"overlap: top={top} of {len(a)} reasons; give 1 to {len(a)}.")
    first = [set(np.argsort(-one, kind="stable")[:top].tolist()) for one in (a, b)]
    return len(first[0] & first[1]) / top


def _both(name: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(
            f"{name}: shares of shapes {a.shape} and {b.shape}; give one a reason, of the same two "
            "or more reasons."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{name}: a share is not finite; give one finite number a reason.")
    return a, b
