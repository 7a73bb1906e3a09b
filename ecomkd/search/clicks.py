"""Clicks on ranked lists: simulated, weighed as labels, and counted as judges of two rankers.

Ranks stand in columns, the first one in column 0. Sizes: N searches, K ranks. Chapter 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from statistics import NormalDist

import numpy as np

NOISE, MOST = 0.1, 0.9
"""How often a shopper clicks a product of gain 0, and one of gain 1, having looked at it."""


def examined(depth: int, eta: float = 1.0) -> np.ndarray:
    """The chance that a shopper looks at each of so many ranks, (K,): 1 / rank^eta.

    With eta 0 every rank is looked at. (Joachims, Swaminathan & Schnabel 2017, section 6.)

    Example:
        >>> examined(4).round(2).tolist()
        [1.0, 0.5, 0.33, 0.25]
    """
    return 1 / np.arange(1.0, depth + 1) ** eta


def attraction(gains, noise: float = NOISE, most: float = MOST) -> np.ndarray:
    """The chance of a click on a product that is looked at, of the shape of its `gains`, 0 to 1.

    Example:
        >>> attraction([1.0, 0.1, 0.0]).round(2).tolist()
        [0.9, 0.18, 0.1]
    """
    return noise + (most - noise) * np.asarray(gains, dtype=np.float64)


def click(attractions, rng: np.random.Generator, eta: float = 1.0) -> np.ndarray:
    """Which products of each shown list are clicked, (N, K), True or False.

    The position-based model: a shopper looks at a rank or not, whatever stands there, and clicks
    what was looked at by its own attraction; each rank by itself (Craswell et al. 2008;
    Richardson, Dominowska & Ragno 2007).

    Args:
        attractions: (N, K), of the products in the order in which they are shown.

    Example:
        >>> shown = np.tile(attraction([0.0, 1.0]), (100_000, 1))  # the good one is second
        >>> click(shown, np.random.default_rng(0)).mean(axis=0).round(2).tolist()
        [0.1, 0.45]
    """
    attractions = np.asarray(attractions, dtype=np.float64)
    return rng.random(attractions.shape) < attractions * examined(attractions.shape[-1], eta)


def swaps(searches: int, depth: int, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """The column that changes places with the first one in each search, (N,); 0 leaves a list be.

    A `share` of the searches is drawn, and they take the other ranks in turn, so that a short log
    has each of them. Which query a search asks plays no part.
    """
    changed = rng.random(searches) < share
    if depth < 2:  # there is no other rank
        return np.zeros(searches, int)
    return np.where(changed, 1 + np.cumsum(changed) % (depth - 1), 0)


def swap(lists: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Lists (N, K) in which column `swapped` (N,) and the first one have changed places.

    Example:
        >>> swap(np.array([[7, 8, 9], [7, 8, 9]]), np.array([2, 0])).tolist()
        [[9, 8, 7], [7, 8, 9]]
    """
    every = np.arange(len(lists))
    found = lists.copy()
    found[every, 0], found[every, swapped] = lists[every, swapped], lists[every, 0]
    return found


def propensities(clicks: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """How often each rank is looked at, as a share of the first, from lists with swaps, (K,).

    Of the lists that are left alone and of those in which rank k and the first have changed places,
    the same two products stand once on each of the two ranks. So the quotient of what rank k and
    what rank 1 earn is the quotient of the looks (Joachims, Swaminathan & Schnabel 2017, section
    5.3). Half a click is added to each count, so that no rank is never looked at; estimates that
    rise with the rank are put together to their mean.

    Args:
        clicks: (N, K), in the order in which the products were shown.
        swapped: (N,), as `swaps` gives them; the queries must not depend on it.

    Raises:
        ValueError: no list was left alone, or a rank was never swapped.
    """
    counts = np.bincount(swapped, minlength=clicks.shape[1])
    if not counts.all():
        raise ValueError(
            f"propensities: no search has column {int(counts.argmin())} in `swapped`: log more "
            "searches, or swap more of them."
        )

    def rate(own: np.ndarray) -> np.ndarray:
        return (own.sum(axis=0) + 0.5) / (len(own) + 1)

    alone = rate(clicks[swapped == 0])
    found = [1.0]
    for rank in range(1, clicks.shape[1]):
        changed = rate(clicks[swapped == rank])
        found.append((alone[rank] + changed[rank]) / (alone[0] + changed[0]))
    return np.minimum(falling(found), 1.0)


def falling(values: Sequence[float]) -> np.ndarray:
    """The nearest values that never rise, by least squares: neighbours that do are put together.

    (Ayer et al. 1955, pool adjacent violators.)

    Example:
        >>> falling([1.0, 0.3, 0.5, 0.2]).tolist()
        [1.0, 0.4, 0.4, 0.2]
    """
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) < np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])


def team_draft(a: Sequence[int], b: Sequence[int], rng: np.random.Generator, depth: int = 10):
    """One list out of two rankings, and the team of each place: 0 for `a`, 1 for `b`.

    In each round a coin says who picks first; each ranker picks its best product that is not there
    yet (Radlinski, Kurup & Joachims 2008).

    Args:
        a, b: the same products in two orders, the best first.

    Returns:
        the products and the teams, two arrays (depth,), shorter where there are fewer products.

    Example:
        >>> products, teams = team_draft([5, 6, 7, 8], [8, 6, 5, 7], np.random.default_rng(0))
        >>> products.tolist(), teams.tolist()
        ([8, 5, 6, 7], [1, 0, 1, 0])
    """
    queues, taken, teams = (iter(a), iter(b)), {}, []
    size = min(depth, len(a))
    while len(taken) < size:
        first = int(rng.integers(2))
        for team in (first, 1 - first)[: size - len(taken)]:
            taken[next(one for one in queues[team] if one not in taken)] = None
            teams.append(team)
    return np.array(list(taken)), np.array(teams)


def credit(clicks: np.ndarray, teams: np.ndarray) -> np.ndarray:
    """Who wins each search, (N,): 1 if `a` has more of its clicks, −1 if `b` has, 0 if equal.

    Args:
        clicks, teams: (N, K), of lists that `team_draft` has made.

    Example:
        >>> clicks = np.array([[True, False, True], [False, True, True]])
        >>> credit(clicks, teams=np.array([0, 1, 0])).tolist()
        [1, 0]
    """
    signs = np.where(np.asarray(teams) == 0, 1, -1)
    return np.sign((signs * clicks).sum(axis=-1))


def searches_needed(
    difference: float, deviation: float, confidence: float = 0.95, power: float = 0.8
) -> float:
    """How many searches it takes to tell a mean difference from 0, by a two-sided z-test.

    n = ((z(1 − α/2) + z(power)) · deviation / difference)², rounded up; infinite for no difference.

    Args:
        difference: of a search, in the mean.
        deviation: σ of what one search says. Interleaving: of the credit. Two halves of the
            searches, one for each ranker, with deviations s and t: √(2 (s² + t²)).

    Example:
        >>> searches_needed(0.05, 0.5), searches_needed(0.1, 0.5)
        (785, 197)
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2) + NormalDist().inv_cdf(power)
    return ceil((z * deviation / difference) ** 2) if difference else inf
