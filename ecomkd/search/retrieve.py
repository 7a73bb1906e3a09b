"""Retrieve products by words and by vectors, add the scores up, and put them into a new order.

Nothing here trains, and nothing but NumPy and the index of words is loaded. Every function that
compares a query does so with the whole catalogue: its time and memory grow with the number of
products. Only `approximate` grows more slowly. Chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ecomkd import ranks, words
from ecomkd.extras import needed

_QUERIES = 256
"""Queries that are compared at a time, so that no table of all queries and products is made."""


def lexical(index: words.Words, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best products by BM25; those that share no word with the query are left out.

    Equal scores keep the order of the catalogue.
    """
    k = min(k, index.texts)
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1)
    for number, query in enumerate(queries):
        found = words.bm25_of(index, query)
        best = ranks.first(found[None], k)[0]
        best = best[found[best] > 0]
        scores[number, : len(best)], rows[number, : len(best)] = found[best], best
    return scores, rows


def word_scores(index: words.Words, queries: Sequence[str]) -> np.ndarray:
    """BM25 scores (Q, N) of queries with every product."""
    return np.stack([words.bm25_of(index, query) for query in queries])


def token_means(ids: Sequence[Sequence[int]], table: np.ndarray) -> np.ndarray:
    """Vectors (N, d) of length 1, float64: the mean of each text's token vectors in `table` (V, d).

    That is all that a static embedding does. A text without tokens has the zero vector.
    """
    means = np.zeros((len(ids), table.shape[1]))
    for row, tokens in enumerate(ids):
        if len(tokens):
            means[row] = table[list(tokens)].mean(axis=0, dtype=np.float64)
    return unit(means)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors (N, d) at length 1; a zero vector stays one."""
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    return vectors / np.where(lengths > 0, lengths, 1)[:, None]


class Exact:
    """Vectors (N, H) that a query is compared with one by one, by inner product."""

    def __init__(self, vectors: np.ndarray):
        self.vectors = np.ascontiguousarray(vectors, np.float32)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """A ranking of the k best vectors for queries (Q, H); equal scores keep their order."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1)
        found = min(k, len(self.vectors))
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            products = np.asarray(queries[part], np.float32) @ self.vectors.T
            best = ranks.first(products, found)
            scores[part, :found] = np.take_along_axis(products, best, 1)
            rows[part, :found] = best
        return scores, rows


def exact(vectors: np.ndarray) -> Exact:
    """An index over vectors (N, H) that compares a query with every one, by inner product."""
    return Exact(vectors)


def approximate(vectors: np.ndarray):
    """An HNSW graph over the vectors (Malkov & Yashunin 2020), by inner product: a `faiss.Index`.

    Each vector is linked with 32 neighbours; `index.hnsw.efSearch` trades recall for speed.
    Raises ModuleNotFoundError without the package `faiss-cpu`; `exact` needs none.
    """
    with needed("approximate", "search"):
        import faiss
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def fuse(rankings: Sequence[np.ndarray], k: int, constant: int = 60):
    """The k best products by reciprocal rank fusion: the sum of 1 / (constant + rank).

    `rankings` are rows (Q, k_i); a product that a ranking lacks gets nothing from it. Equal sums
    keep the order of the first ranking (Cormack et al. 2009).
    """
    queries = len(rankings[0])
    scores, rows = np.full((queries, k), -np.inf), np.full((queries, k), -1)
    for query in range(queries):
        sums: dict[int, float] = {}
        for ranking in rankings:
            for rank, row in enumerate(ranking[query], start=1):
                if row >= 0:
                    sums[int(row)] = sums.get(int(row), 0.0) + 1 / (constant + rank)
        best = sorted(sums, key=sums.get, reverse=True)[:k]
        rows[query, : len(best)] = best
        scores[query, : len(best)] = [sums[row] for row in best]
    return scores, rows


@dataclass(frozen=True)
class Weights:
    """A product's score is cosine + `words` · BM25 + `reranker` · a re-ranker's expected gain."""

    words: float = 0.0
    reranker: float = 0.0


def weighted(cosines: np.ndarray, words: np.ndarray, weight: float, k: int):
    """The k best products by cosine + weight · BM25; both are (Q, N), over the whole catalogue.

    Equal sums keep the order of the catalogue.
    """
    sums = cosines + weight * words
    rows = ranks.first(sums, min(k, sums.shape[1]))
    return np.take_along_axis(sums, rows, 1), rows


def rerank(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Retrieved rows (Q, k) in the order of new scores, one for each row that is not −1.

    The scores are in the order of the pairs that `candidates` gives. Equal scores keep the order of
    retrieval.
    """
    table = np.full(rows.shape, -np.inf)
    table[rows >= 0] = scores
    order = np.argsort(-table, axis=1, kind="stable")
    return np.take_along_axis(table, order, 1), np.take_along_axis(rows, order, 1)


def reread(
    sums: np.ndarray, rows: np.ndarray, depth: int, gains: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The ranking (k,) of one query, whose first `depth` rows a re-ranker has put into a new order.

    What comes after them keeps its place. No gain may be below 0: so nothing that was read falls
    behind what was not.

    Args:
        sums, rows: (1, k), as `weighted` gives them.
        gains: gives what the re-ranker adds to each of rows (1, depth).
    """
    first = rows[:, :depth]
    if first.size:
        read, first = rerank(first, sums[0, :depth] + gains(first))
        sums = np.concatenate([read, sums[:, depth:]], axis=1)
    return sums[0], np.concatenate([first, rows[:, depth:]], axis=1)[0]
