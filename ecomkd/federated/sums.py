"""Sums that nobody can take apart: each store adds masks that cancel in the sum.

Bonawitz et al. 2017, without their shares of secrets, which repair a sum when a store drops out.
Numbers become whole ones modulo 2^64, so the masks cancel to the last bit. Chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEP = 2.0**-24
"""What a number is rounded to."""
_MOST = 2.0**30  # a sum of 511 stores fits


def encoded(values: np.ndarray) -> np.ndarray:
    """Numbers as whole ones, multiples of `STEP` modulo 2^64.

    A sum of up to 511 stores' numbers can be decoded, and of more as long as it lies within ±2^39.
    Raises ValueError for a number that is not finite, or beyond ±2^30.

    Example:
        >>> encoded(np.array([1.0, -1.0])).tolist()
        [16777216, 18446744073692774400]
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > _MOST:
        raise ValueError("encoded: a number is not finite or beyond ±2^30; scale the numbers.")
    return np.rint(values / STEP).astype(np.int64).astype(np.uint64)


def decoded(whole: np.ndarray) -> np.ndarray:
    """The numbers that whole ones modulo 2^64 stand for.

    Example:
        >>> decoded(encoded(np.array([0.5])) + encoded(np.array([-2.0]))).tolist()
        [-1.5]
    """
    return np.asarray(whole, np.uint64).astype(np.int64) * STEP


def masked(
    values: np.ndarray, store: int, stores: Sequence[int], secrets: dict[tuple[int, int], int]
) -> np.ndarray:
    """What `store` sends: its whole numbers and a mask for each other store, which cancel in pairs.

    Of two stores the one with the lower number adds the mask that both draw from their common
    secret, the other takes it away.

    Args:
        values: (I,), `encoded`.
        stores: all who take part.
        secrets: for each pair (lower, higher) a whole number that these two know and nobody else,
            for one sum: two messages under the same secrets differ by the counts alone.

    Raises ValueError where the values are not `encoded`, the store is not among the stores, a store
    stands twice or a secret is missing.

    Example:
        >>> sent = [masked(encoded(np.array([n])), n, [1, 2], {(1, 2): 9}) for n in (1, 2)]
        >>> decoded(sent[0] + sent[1]).tolist()
        [3.0]
    """
    if np.asarray(values).dtype != np.uint64:
        raise ValueError(f"masked: values are {np.asarray(values).dtype}; give them `encoded`.")
    if store not in stores:
        raise ValueError(f"masked: store {store} is not among the stores; add it.")
    if len(set(stores)) < len(stores):
        raise ValueError("masked: a store stands twice; name each once.")
    found = np.array(values, np.uint64)
    for other in stores:
        if other == store:
            continue
        pair = (min(store, other), max(store, other))
        if pair not in secrets:
            raise ValueError(f"masked: stores {pair} have no secret; let them agree on one first.")
        drawn = np.random.default_rng(secrets[pair]).integers(
            0, 2**64, found.shape, dtype=np.uint64
        )
        found = found + drawn if store < other else found - drawn
    return found
