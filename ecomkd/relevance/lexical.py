"""Search by words at its best: BM25 with spelling, and character n-grams, on judged pairs.

Chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from ecomkd import words
from ecomkd.data.sources import product_text

LEXICAL = ("BM25", "character n-grams", "BM25 of titles")
"""The signals of `lexical_signals`, in order."""
_Product = tuple[str, str, str]
"""Id, whole text and title."""
_PAIRS = 10_000
"""Pairs whose rows are multiplied at a time."""


def lexical_signals(catalogue: Dataset) -> Callable[[Dataset], np.ndarray]:
    """A function from pairs to what their words say (N, 3), for products of a catalogue.

    The signals (LEXICAL) are BM25 of the product's whole text, the cosine between query and title
    under TF-IDF over character 3- to 5-grams within words, and BM25 of the title. BM25 reads a
    query whose unknown words were mended (`words.mended`); n-grams read it as it was typed.
    Statistics are those of the catalogue. Where pairs have products, or texts, that it lacks, these
    are indexed as well, and each pair is scored by its own.
    """
    products = dict.fromkeys(_products(catalogue))
    known = _Index(products)

    def signals(pairs: Dataset) -> np.ndarray:
        own = _products(pairs)
        those = products | dict.fromkeys(own)
        index = known if len(those) == len(products) else _Index(those)
        return index.signals(pairs["query"], own)

    return signals


def ngrams() -> TfidfVectorizer:
    """TF-IDF over character 3- to 5-grams within words, not yet fitted."""
    return TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5))


class _Index:
    """What the words of products weigh: a sparse row for each product and kind of signal."""

    def __init__(self, products: Iterable[_Product]):
        self.row = {product: row for row, product in enumerate(products)}
        _, texts, titles = map(list, zip(*self.row, strict=True))
        self.spelling = words.spelling(texts)
        self.text, self.title = _Words(texts), _Words(titles)
        self.ngrams = ngrams()
        self.ngram_rows = self.ngrams.fit_transform(titles)

    def signals(self, queries: Sequence[str], own: Sequence[_Product]) -> np.ndarray:
        products = np.array([self.row[product] for product in own])
        asked, queries = pd.factorize(np.asarray(queries, object))
        mended = [words.mended(self.spelling, query) for query in queries]
        sides = (
            (self.text.counts(mended), self.text.rows),
            (self.ngrams.transform(list(queries)), self.ngram_rows),
            (self.title.counts(mended), self.title.rows),
        )
        return np.column_stack([_dot(a, asked, b, products) for a, b in sides])


class _Words:
    """BM25 of texts as rows (N, W) of what each word adds, to be met by rows of a query's words."""

    def __init__(self, texts: Sequence[str]):
        index = words.bm25(texts)
        self.numbers = index.numbers
        shape = index.texts, len(index.numbers)
        self.rows = sparse.csc_matrix((index.data, index.indices, index.indptr), shape).tocsr()

    def counts(self, queries: Sequence[str]) -> sparse.csr_matrix:
        """How often each query has each word of the index, (Q, W)."""
        found = [
            (row, self.numbers[word])
            for row, query in enumerate(queries)
            for word in words.words_of(query)
            if word in self.numbers
        ]
        rows, columns = np.array(found, int).reshape(-1, 2).T
        shape = len(queries), len(self.numbers)
        return sparse.csr_matrix((np.ones(len(found)), (rows, columns)), shape)


def _dot(
    a: sparse.csr_matrix, rows: np.ndarray, b: sparse.csr_matrix, others: np.ndarray
) -> np.ndarray:
    """Inner products (N,) of the rows (N,) of one matrix with the other's, some at a time."""
    found = np.zeros(len(rows))
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        found[part] = np.asarray(a[rows[part]].multiply(b[others[part]]).sum(axis=1)).ravel()
    return found


def _products(rows: Dataset) -> list[_Product]:
    return list(zip(rows["product_id"], product_text(rows[:]), rows["product_title"], strict=True))
