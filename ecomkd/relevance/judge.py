"""Judging: what a model's outputs on labelled pairs are worth, in classes and in order.

Chapter 5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ecomkd.extras import needed

with needed("ecomkd.relevance.judge", "run"):
    import torch

from ecomkd import distill, metrics, models
from ecomkd.config import Profile
from ecomkd.data.contract import GAINS, gains_of


def gains(dataset: Dataset) -> dict:
    """The gain of each label of a data set, as `contract.gains_of` has it."""
    return gains_of(dataset.features["label"].names)


def worth(pairs: Dataset) -> np.ndarray:
    """The gain of each labelled pair, (N,)."""
    return np.asarray(list(gains(pairs).values()))[np.asarray(pairs["label"], dtype=int)]


def predict(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """Class probabilities (N, C) of a saved teacher or student on pairs as `load` gives them."""
    tokenizer = models.load_tokenizer(str(folder))
    model = models.load(folder, pairs.features["label"].num_classes)
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    return softmax(distill.predict(model, encoded, tokenizer, profile))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C), float64, of logits (N, C)."""
    return torch.from_numpy(logits).double().softmax(-1).numpy()


def frame(pairs: Dataset, scores: np.ndarray) -> pd.DataFrame:
    """What `metrics.ranking` reads: ids, label or grade, and the score of each pair."""
    known = list(gains(pairs))
    return pd.DataFrame(
        {
            "query_id": pairs["query_id"],
            "product_id": pairs["product_id"],
            "esci_label" if known == list(GAINS) else "grade": [known[x] for x in pairs["label"]],
            "score": scores,
        }
    )


def rankable(pairs: Dataset) -> bool:
    """Whether an order can be judged: the median query has two candidates or more.

    Where most queries have a single candidate, nDCG is 1 whatever the model says.
    """
    return bool(pd.Series(pairs["query_id"]).value_counts().median() >= 2)


def evaluate(pairs: Dataset, probabilities: np.ndarray, scores: np.ndarray | None = None) -> dict:
    """`classification` and, where an order matters, `ranking` on labelled pairs.

    The ranking goes by the expected gain of the probabilities (N, C), or by `scores` (N,). Where no
    query has a relevant product, there is none.
    """
    result = {"classification": metrics.classification(pairs["label"], probabilities)}
    if rankable(pairs):
        weights = gains(pairs)
        if scores is None:
            scores = metrics.expected_gain(probabilities, weights)
        ranking = metrics.ranking(frame(pairs, scores), weights)
        if len(ranking["per_query"]):
            result["ranking"] = ranking
    return result


def quality(pairs: Dataset, logits: np.ndarray) -> dict[str, float]:
    """What picks a checkpoint: the mean of macro-F1 and, where an order matters, nDCG@10."""
    result = evaluate(pairs, softmax(logits))
    found = {"macro_f1": result["classification"]["macro_f1"]}
    if "ranking" in result:
        found["ndcg@10"] = result["ranking"]["ndcg@10"]
    return found | {"quality": float(np.mean(list(found.values())))}
