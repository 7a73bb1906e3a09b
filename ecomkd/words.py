"""BM25 over texts: the words that a query and a product share. Chapters 1 and 8.

`bm25s` makes an index, and is loaded for that alone: it brings SciPy, which would cost a service
more than all else that searches by words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import Stemmer

_WORD = re.compile(r"\b\w\w+\b")
_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
"""The English stop words of `bm25s`, which are Lucene's."""
_STOPPED = frozenset(_STOP.split())


@dataclass(frozen=True)
class Words:
    """A BM25 index of N texts: what each of W words adds to the score of each text that has it.

    It is a sparse matrix by columns: the entries of word w are `indptr[w]` to `indptr[w + 1]`.
    """

    numbers: dict[str, int]
    """The number of each word, 0 to W − 1."""
    data: np.ndarray
    """What an entry adds, float32."""
    indices: np.ndarray
    """The text of an entry."""
    indptr: np.ndarray
    """(W + 1,)"""
    texts: int
    """N."""


def bm25(texts: Sequence[str]) -> Words:
    """A BM25 index over texts: English stop words, Snowball stemming, k1 = 1.5, b = 0.75.

    These are the defaults of `bm25s` (Robertson & Zaragoza 2009). Texts that hold stop words alone
    give an index that knows no word, under which every score is 0.
    """
    import bm25s

    # It reports each index that it makes, once a program has set up logging.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    found = [words_of(text) for text in texts]
    numbers = {word: number for number, word in enumerate(sorted(set().union(*found)))}
    if not numbers:
        none = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
        return Words({}, *none, len(found))
    index = bm25s.BM25()
    ids = [[numbers[word] for word in text] for text in found]
    index.index((ids, dict(numbers)), show_progress=False)
    made = index.scores
    return Words(numbers, made["data"], made["indices"], made["indptr"], len(found))


def bm25_of(index: Words, query: str) -> np.ndarray:
    """BM25 of a query with each text of the index, (N,); 0 where they share no word."""
    scores = np.zeros(index.texts, np.float32)
    for word in words_of(query):
        if word in index.numbers:
            number = index.numbers[word]
            entries = slice(index.indptr[number], index.indptr[number + 1])
            scores[index.indices[entries]] += index.data[entries]
    return scores


def any_word(texts: Sequence[str]) -> bool:
    """Whether one of the texts at least has a word that BM25 counts."""
    return any(words_of(text) for text in texts)


def words_of(text: str) -> list[str]:
    """The stems of the words of a text that BM25 counts, in order, as `bm25s.tokenize` has them."""
    found = [word for word in _WORD.findall(text.lower()) if word not in _STOPPED]
    # A stemmer is made for each call, because two threads may not use one at once.
    return Stemmer.Stemmer("english").stemWords(found)
