"""Several signals of a pair become one score: in standard units, by min–max, or by ranks.

Weights are chosen on validation queries, and every choice is kept. Sizes: N pairs, S signals.
Chapter 5.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from datasets import Dataset

from ecomkd import metrics
from ecomkd.relevance import judge

FUSIONS = ("z", "min-max", "rrf")
"""How signals are made comparable. `z`: in standard units, of which mean and deviation are those of
the validation pairs, so that a pair is scored without its rivals. `min-max`: from 0 to 1 among a
query's candidates, as OpenSearch's normalisation has it. `rrf`: 1 / (constant + rank among a
query's candidates)."""
_WEIGHTS = (0.0, *(2.0**power for power in range(-4, 4)))
_CONSTANTS = (0.0, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 240.0)
_CONSTANT = 60.0
"""The constant of reciprocal ranks that its authors took: where the search for another begins."""
_WIDENINGS = 5
"""How often a grid is continued, by a factor of two, where the best value is its last."""
_ROUNDS = 5


@dataclass(frozen=True)
class Fusion:
    """A weighted sum of S signals, as validation chose it; see `choose_fusion`."""

    kind: str
    """One of FUSIONS."""
    weights: tuple[float, ...]
    """One for each signal; the signal that is best alone has 1."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    """Of each signal on the validation pairs; only `z` reads them and the means."""
    constant: float = _CONSTANT
    """Of reciprocal ranks; only `rrf` reads it."""
    curve: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)
    """All that was tried, in order, with columns `changed` (the number of a signal, or `constant`),
    `weights`, `constant` and `ndcg@10` on validation."""

    def scores(self, signals: np.ndarray, query_ids: Sequence[str]) -> np.ndarray:
        """One score for each pair, (N,), from its signals (N, S); higher is better.

        Raises ValueError for signals of another shape, or that are not finite.
        """
        return self._sum(self._comparable(signals, query_ids))

    def _comparable(self, signals: np.ndarray, query_ids: Sequence[str]) -> np.ndarray:
        """The signals (N, S) on one scale, or their ranks, before the constant is added."""
        signals = np.asarray(signals, np.float64)
        _check(signals, len(query_ids), len(self.weights))
        if self.kind == "z":
            return (signals - self.means) / self.deviations
        return {"min-max": min_max, "rrf": mean_ranks}[self.kind](signals, query_ids)

    def _sum(self, comparable: np.ndarray) -> np.ndarray:
        if self.kind == "rrf":
            comparable = 1 / (self.constant + comparable)
        # Not a matrix product, which may round equal rows to unequal sums.
        return (comparable * self.weights).sum(axis=1)


def min_max(signals: np.ndarray, query_ids: Sequence[str]) -> np.ndarray:
    """Signals (N, S) from 0, the least among a query's pairs, to 1, the most; 0 where all agree."""
    groups = pd.DataFrame(signals).groupby(np.asarray(query_ids), sort=False)
    least, most = groups.transform("min").to_numpy(), groups.transform("max").to_numpy()
    return (signals - least) / np.where(most > least, most - least, 1)


def mean_ranks(signals: np.ndarray, query_ids: Sequence[str]) -> np.ndarray:
    """The rank from 1, the best, of each pair among its query's under each signal, (N, S).

    Equal signals share the mean of the ranks that they occupy.

    Example:
        >>> mean_ranks([[0.9], [0.5], [0.5], [0.1]], ["a", "a", "a", "b"]).ravel().tolist()
        [1.0, 2.5, 2.5, 1.0]
    """
    groups = pd.DataFrame(signals).groupby(np.asarray(query_ids), sort=False)
    return groups.rank(ascending=False).to_numpy()


def choose_fusion(kind: str, signals: np.ndarray, validation: Dataset) -> Fusion:
    """The fusion of a kind (see FUSIONS) with the highest nDCG@10 on validation pairs.

    The signal that is best alone has weight 1. The others begin at 0 and change one by one, and
    with reciprocal ranks the constant, until a round brings nothing. Of equal choices the smaller
    is taken. Where the best of a grid lies on its edge, the grid is continued; a warning says
    where it is there still. A weight of 0, or a constant of 0, is no edge.

    Reciprocal ranks are those of Cormack et al. (2009). Bruch et al. (2023) found that they depend
    on their constant, and that a sum of scores on one scale, with a weight from a few labelled
    queries, ranks better.

    Args:
        kind: one of FUSIONS.
        signals: (N, S) of the validation pairs, each higher for better pairs.
        validation: N labelled pairs as `load` gives them.

    Raises:
        ValueError: an unknown kind, signals that are not (N, S) or not finite.

    Where no validation query has a relevant product, a warning says that all weights are 1.
    """
    if kind not in FUSIONS:
        raise ValueError(f"Unknown fusion {kind!r}: choose one of {', '.join(FUSIONS)}.")
    signals = np.asarray(signals, np.float64)
    _check(signals, len(validation))
    deviations = signals.std(axis=0)
    start = Fusion(
        kind,
        (1.0,) * signals.shape[1],
        tuple(signals.mean(axis=0).tolist()),
        tuple(np.where(deviations > 0, deviations, 1).tolist()),
    )
    if not judge.worth(validation).any():
        warnings.warn(
            "No validation query has a relevant product, so that the weights of the sum cannot be "
            "chosen and all are 1; judge some relevant products in validation.",
            stacklevel=2,
        )
        return start
    return _Search(start, signals, validation).run()


class _Search:
    """The search for weights and constant: what was tried, and what came of it."""

    def __init__(self, start: Fusion, signals: np.ndarray, validation: Dataset):
        self.query_ids = np.asarray(validation["query_id"])
        self.gains = judge.worth(validation)
        self.comparable = start._comparable(signals, self.query_ids)
        self.best = start
        self.tried: dict[tuple, float] = {}
        self.rows: list[dict] = []

    def run(self) -> Fusion:
        signals = range(len(self.best.weights))
        alone = [self._quality(self._only(signal), signal) for signal in signals]
        order = sorted(signals, key=lambda signal: -alone[signal])
        self.best = self._only(order[0])
        steps: list[int | str] = [*order[1:], *(["constant"] if self.best.kind == "rrf" else [])]
        on_edge: dict[int | str, bool] = {}
        for _ in range(_ROUNDS):
            before = self.best
            for changed in steps:
                on_edge[changed] = self._improve(changed)
            if self.best == before:
                break
        _warn_of_edges([changed for changed, there in on_edge.items() if there])
        return replace(self.best, curve=pd.DataFrame(self.rows))

    def _only(self, signal: int) -> Fusion:
        return replace(self.best, weights=tuple(np.eye(len(self.best.weights))[signal].tolist()))

    def _quality(self, fusion: Fusion, changed: int | str) -> float:
        key = fusion.weights, fusion.constant
        if key not in self.tried:
            found = metrics.mean_ndcg(self.query_ids, fusion._sum(self.comparable), self.gains)
            self.tried[key] = found
            row = {"changed": changed, "weights": key[0], "constant": key[1], "ndcg@10": found}
            self.rows.append(row)
        return self.tried[key]

    def _improve(self, changed: int | str) -> bool:
        """Take the best value of a weight or of the constant; whether it lies on the edge."""

        def having(value: float) -> Fusion:
            if changed == "constant":
                return replace(self.best, constant=value)
            weights = list(self.best.weights)
            weights[changed] = value
            return replace(self.best, weights=tuple(weights))

        grid = _CONSTANTS if changed == "constant" else _WEIGHTS
        value, on_edge = _highest(lambda value: self._quality(having(value), changed), grid)
        self.best = having(value)
        return on_edge


def _highest(quality: Callable[[float], float], grid: Sequence[float]) -> tuple[float, bool]:
    """The value of the highest quality, the smaller of equals, and whether it lies on the edge.

    The grid holds 0 and rising values. It is continued where the best is its last on either side,
    until that brings nothing, and `_WIDENINGS` times at most.
    """
    tried = {value: quality(value) for value in grid}
    best = max(sorted(tried), key=tried.__getitem__)
    for _ in range(_WIDENINGS):
        positive = [value for value in tried if value > 0]
        if best == max(positive):
            beyond = best * 2
        elif best == min(positive):
            beyond = best / 2
        else:
            return best, False
        tried[beyond] = quality(beyond)
        if tried[beyond] <= tried[best]:
            return best, False
        best = beyond
    return best, True


def _warn_of_edges(changed: list[int | str]) -> None:
    if changed:
        named = " and ".join(
            "the constant" if one == "constant" else f"the weight of signal {one}"
            for one in changed
        )
        warnings.warn(
            f"The best value of {named} still lies on the edge of its grid, which was widened "
            f"{_WIDENINGS} times: look whether the signals are worth adding up.",
            stacklevel=4,
        )


def _check(signals: np.ndarray, pairs: int, count: int | None = None) -> None:
    wanted = f"({pairs}, {'signals' if count is None else count})"
    if signals.ndim != 2 or len(signals) != pairs or count not in (None, signals.shape[1]):
        raise ValueError(f"fusion: the signals are {signals.shape}; give {wanted}.")
    if not np.isfinite(signals).all():
        row, column = np.argwhere(~np.isfinite(signals))[0]
        raise ValueError(
            f"fusion: signal {column} of pair {row} is {signals[row, column]}; mend its scorer."
        )
