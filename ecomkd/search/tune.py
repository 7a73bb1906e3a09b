"""Judge a ranking of the catalogue, and choose the weights of a sum on validation queries.

What is compared here are tables of all queries and all products: memory grows with both.
Chapter 8.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, Value

from ecomkd import metrics
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import apart_from_the_data
from ecomkd.relevance import judge
from ecomkd.search.retrieve import Weights, rerank, weighted

WORDS = (0.0, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Weights of BM25 that are tried beside the cosine."""
RERANKER = (0.0, 0.03, 0.1, 0.2, 0.3, 1.0, 3.0)
"""Weights of a re-ranker's expected gain that are tried beside cosine and BM25."""
DEFAULT = Weights(words=0.1, reranker=1.0)
"""The weights where no validation query can choose them: about those that the simulated shop's
choose beside vectors that no label has taught."""
SPARSE_DEFAULT = Weights(words=0.003, reranker=0.3)
"""The same beside a sparse student, whose pieces hold most of what words know."""


def candidates(queries: Dataset, catalogue: Dataset, rows: np.ndarray) -> Dataset:
    """The pairs of retrieved products, query by query, as a model reads them (label −1).

    `queries` has `query_id` and `query`, one row each, in the order of `rows` (Q, k).
    """
    asked, products = np.nonzero(rows >= 0)[0], rows[rows >= 0]
    pairs = catalogue.select_columns(["product_id", *TEXT]).select(products)
    for name in ("query_id", "query"):
        values = np.asarray(queries[name], dtype=object)[asked].tolist()
        pairs = pairs.add_column(name, values, feature=Value("string"))
    return pairs.add_column("label", [-1] * len(pairs), feature=Value("int64"))


def ranked(query_ids: Sequence[str], product_ids: Sequence[str], rows: np.ndarray) -> pd.DataFrame:
    """A ranking as the frame that `metrics.retrieval` reads."""
    products = np.asarray(product_ids, dtype=object)
    found = rows >= 0
    return pd.DataFrame(
        {
            "query_id": np.asarray(query_ids, dtype=object)[np.nonzero(found)[0]],
            "product_id": products[rows[found]],
            # The rank, not the score: trec_eval would order equal scores by product_id.
            "score": -np.nonzero(found)[1].astype(float),
        }
    )


def quality_on(pairs: Dataset, product_ids: Sequence[str]):
    """The distinct queries of judged pairs, and a function from rows (Q, k) to their nDCG@10.

    What nobody judged counts as irrelevant.
    """
    asked = dict(zip(pairs["query_id"], pairs["query"], strict=True))
    judged = judge.frame(pairs, np.zeros(len(pairs))).drop(columns="score")
    gains = judge.gains(pairs)

    def quality(rows: np.ndarray) -> float:
        found = ranked(list(asked), product_ids, rows)
        return metrics.retrieval(found, judged, gains)["ndcg@10"]

    return list(asked.values()), quality


def choose_weights(
    cosines: np.ndarray,
    words: np.ndarray,
    quality: Callable[[np.ndarray], float],
    read: Callable[[np.ndarray], np.ndarray],
    depth: int,
) -> Weights:
    """The weights of the highest quality: one of `WORDS`, and then, beside it, one of `RERANKER`.

    Of weights of equal quality the smaller one is taken.

    Args:
        cosines, words: (Q, N) for validation queries.
        quality: of rows (Q, k), such as nDCG@10.
        read: the expected gains, one for each of rows (Q, depth), in their order.
    """
    by_words = {w: quality(weighted(cosines, words, w, depth)[1]) for w in WORDS}
    best = max(by_words, key=by_words.get)
    scores, rows = weighted(cosines, words, best, depth)
    gains = read(rows).reshape(rows.shape)
    by_reranker = {w: quality(rerank(rows, (scores + w * gains).ravel())[1]) for w in RERANKER}
    return Weights(best, max(by_reranker, key=by_reranker.get))


def answerable(pairs: Dataset, product_ids: Sequence[str]) -> bool:
    """Whether a catalogue has a relevant product for one of the queries of judged pairs."""
    gains = list(judge.gains(pairs).values())
    there = set(product_ids)
    judged = zip(pairs["product_id"], pairs["label"], strict=True)
    return any(gains[label] >= max(gains) / 2 and product in there for product, label in judged)


def weights_on(
    validation: Dataset,
    product_ids: Sequence[str],
    compare: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    read: Callable[[Sequence[str], np.ndarray], np.ndarray],
    depth: int,
    default: Weights = DEFAULT,
) -> Weights:
    """What `choose_weights` finds on the queries of validation pairs.

    Warns and returns `default` where the catalogue has no relevant product for any of them.

    Args:
        compare: gives cosines, or what is scaled as they are, and BM25 scores (Q, N) of queries
            with the catalogue.
        read: gives the expected gains (Q · k,) of queries (Q,) and rows (Q, k).
    """
    if not answerable(validation, product_ids):
        warnings.warn(
            "No validation query has a relevant product in the catalogue, so that the weights of "
            f"the sum cannot be chosen: BM25 counts {default.words:g} and the student "
            f"{default.reranker:g}, as on the simulated shop; judge some relevant products in "
            "validation to choose them.",
            stacklevel=2,
        )
        return default
    queries, quality = quality_on(validation, product_ids)
    return choose_weights(*compare(queries), quality, lambda rows: read(queries, rows), depth)


def model_scores(folder: Path, pairs: Dataset, labels, weights, profile: Profile) -> np.ndarray:
    """Expected gains (N,) of pairs under a saved cross-encoder with these labels."""
    with apart_from_the_data():
        pairs = pairs.cast_column("label", labels)
    return metrics.expected_gain(judge.predict(folder, pairs, profile), weights)
