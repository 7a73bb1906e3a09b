"""BM25 over texts: what search by words is, here and in everything that serves. Chapters 1, 8."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer


def bm25(texts: Sequence[str]) -> bm25s.BM25:
    """A BM25 index over texts: English stop words, Snowball stemming, k1 = 1.5, b = 0.75."""
    index = bm25s.BM25()
    index.index(_tokens(list(texts)), show_progress=False)
    return index


def bm25_of(index: bm25s.BM25, query: str) -> np.ndarray:
    """BM25 of a query with each text of the index, (N,); 0 where they share no word."""
    words = [word for word in _tokens([query], ids=False)[0] if word in index.vocab_dict]
    return index.get_scores(words) if words else np.zeros(index.scores["num_docs"], np.float32)


def _tokens(texts: list[str], ids: bool = True):
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(
        texts, stopwords="en", stemmer=stemmer, return_ids=ids, show_progress=False
    )
