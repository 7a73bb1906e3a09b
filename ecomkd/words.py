"""BM25 over texts: the words that a query and a product share. Chapters 1 and 8."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

# It reports each index that it builds, once a program has set up logging.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def bm25(texts: Sequence[str]) -> bm25s.BM25:
    """A BM25 index over texts: English stop words, Snowball stemming, k1 = 1.5, b = 0.75.

    These are the defaults of `bm25s` (Robertson & Zaragoza 2009). Texts that hold stop words alone
    give an index that knows no word, under which every score is 0.
    """
    index = bm25s.BM25()
    tokens = _tokens(list(texts))
    if tokens.vocab:
        index.index(tokens, show_progress=False)
    else:
        index.vocab_dict, index.scores = {}, {"num_docs": len(texts)}
    return index


def bm25_of(index: bm25s.BM25, query: str) -> np.ndarray:
    """BM25 of a query with each text of the index, (N,); 0 where they share no word."""
    words = [word for word in _tokens([query], ids=False)[0] if word in index.vocab_dict]
    return index.get_scores(words) if words else np.zeros(index.scores["num_docs"], np.float32)


def any_word(texts: Sequence[str]) -> bool:
    """Whether one of the texts at least has a word that BM25 counts."""
    return any(_tokens([text], ids=False)[0] for text in texts)


def _tokens(texts: list[str], ids: bool = True):
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(
        texts, stopwords="en", stemmer=stemmer, return_ids=ids, show_progress=False
    )
