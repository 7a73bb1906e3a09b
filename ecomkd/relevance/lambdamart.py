"""LambdaMART: boosted trees that learn an order from all signals of a pair.

What most search engines re-rank with. Sizes: N pairs, F signals. Chapter 5.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ecomkd import metrics
from ecomkd.extras import needed
from ecomkd.relevance import judge

LEAVES = (4, 8, 16, 32)
"""Leaves of a tree that are tried."""
LEAST_PAIRS = (5, 20, 80)
"""The fewest pairs in a leaf that are tried."""
LEARNING_RATES = (0.03, 0.1)
"""Shares of each tree that are tried."""
_QUALITY = "ndcg@10"
_ROUNDS = 1_000
_PATIENCE = 50
_TRUNCATION = 20
"""Two pairs teach an order where one of them stands among so many first ones."""


@dataclass(frozen=True)
class LambdaMart:
    """Boosted trees that order pairs, as validation chose them; see `lambdamart`."""

    booster: Any
    """A `lightgbm.Booster`."""
    settings: dict[str, float]
    """`num_leaves`, `min_child_samples`, `learning_rate`, and `rounds`, the number of trees."""
    curve: pd.DataFrame = field(compare=False, repr=False)
    """All that was tried: the settings, and `ndcg@10` on validation."""

    def scores(self, signals: np.ndarray) -> np.ndarray:
        """One score for each pair, (N,), from its signals (N, F); higher is better."""
        return self.booster.predict(signals, num_iteration=int(self.settings["rounds"]))


def lambdamart(
    signals: np.ndarray, train: Dataset, validation_signals: np.ndarray, validation: Dataset
) -> LambdaMart:
    """Boosted trees that learn the order of training pairs, their settings chosen on validation.

    Each pair of products of a query counts by how much nDCG would change if they changed places
    (Burges 2010), with the gains of the contract. All of LEAVES, LEAST_PAIRS and LEARNING_RATES are
    tried with each other; trees are added until nDCG@10 on validation has not risen for 50 of them.
    The settings of the highest nDCG@10 are taken, the first of equals. Nothing is drawn at random:
    the same signals give the same trees, on however many threads.

    Args:
        signals: (N, F) of the training pairs: words, cosines, a model's expected gain.
        train: N labelled pairs as `load` gives them, their queries in any order. Equal scores are
            ranked by row, so another order within a query gives other trees.
        validation_signals: (M, F).
        validation: M labelled pairs.

    Raises:
        ModuleNotFoundError: LightGBM is not installed.
        ValueError: signals that do not fit the pairs.
    """
    with needed("lambdamart", "run"):
        import lightgbm
    shown = _Groups(signals, train)
    asked = _Groups(validation_signals, validation)
    if not asked.gains.any():
        warnings.warn(
            "No validation query has a relevant product, so that the number of LambdaMART's trees "
            "cannot be chosen, and the first one counts; judge some relevant products in "
            "validation.",
            stacklevel=2,
        )

    def quality(scores: np.ndarray, _: Any) -> tuple[str, float, bool]:
        found = metrics.mean_ndcg(asked.queries, scores, asked.gains)
        return _QUALITY, float(np.nan_to_num(found)), True

    best, rows = None, []
    for leaves, least, rate in itertools.product(LEAVES, LEAST_PAIRS, LEARNING_RATES):
        row = {"num_leaves": leaves, "min_child_samples": least, "learning_rate": rate}
        settings = {"objective": "lambdarank", "label_gain": shown.table, "metric": "None"}
        settings |= {"lambdarank_truncation_level": _TRUNCATION, "verbosity": -1, "seed": 0}
        settings |= {"deterministic": True, "force_row_wise": True}
        pairs = lightgbm.Dataset(shown.signals, shown.labels, group=shown.sizes)
        booster = lightgbm.train(
            settings | row,
            pairs,
            num_boost_round=_ROUNDS,
            valid_sets=[pairs.create_valid(asked.signals, asked.labels, group=asked.sizes)],
            valid_names=["validation"],
            feval=quality,
            callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        row |= {"rounds": booster.best_iteration}
        rows.append(row | {_QUALITY: booster.best_score["validation"][_QUALITY]})
        if best is None or rows[-1][_QUALITY] > best[0]:
            best = rows[-1][_QUALITY], booster, row
    return LambdaMart(best[1], best[2], pd.DataFrame(rows))


class _Groups:
    """Pairs in the order of their queries, as LightGBM reads them.

    `labels` number the classes from the least gain to the most, and `table` has the gain of each:
    LightGBM takes whole numbers as labels alone, and of two pairs the higher one for the better.
    """

    def __init__(self, signals: np.ndarray, pairs: Dataset):
        signals = np.asarray(signals, np.float64)
        if signals.ndim != 2 or len(signals) != len(pairs):
            raise ValueError(
                f"lambdamart: the signals are {signals.shape}; give ({len(pairs)}, signals)."
            )
        queries = pd.factorize(np.asarray(pairs["query_id"]))[0]
        order = np.argsort(queries, kind="stable")
        gains = np.asarray(list(judge.gains(pairs).values()))
        self.table = sorted(gains.tolist())
        self.signals, self.queries = signals[order], queries[order]
        self.sizes = np.bincount(queries)
        self.labels = np.argsort(np.argsort(gains))[np.asarray(pairs["label"])[order]]
        self.gains = judge.worth(pairs)[order]
