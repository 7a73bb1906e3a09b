"""What a distilled student has to beat: random order, BM25, boosted trees on words.

The untrained bi-encoder is in `features.bi_encoder_scores`. Chapters 1, 5 and 6.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ecomkd.data.sources import product_text
from ecomkd.extras import needed
from ecomkd.words import bm25, bm25_of


def random_scores(pairs: Dataset, seed: int = 0) -> np.ndarray:
    """One uniform number per pair, (N,)."""
    return np.random.default_rng(seed).random(len(pairs))


def bm25_scores(pairs: Dataset, catalogue: Dataset) -> np.ndarray:
    """BM25 of each pair, (N,), with word statistics from the whole catalogue.

    English stop words and Snowball stemming, k1 = 1.5, b = 0.75 (the defaults of `bm25s`;
    Robertson & Zaragoza 2009). Products that the catalogue lacks are indexed as well, and so are
    texts other than the catalogue's, for each pair is scored by its own.
    """
    own = list(zip(pairs["product_id"], _texts(pairs), strict=True))
    known = zip(catalogue["product_id"], _texts(catalogue), strict=True)
    column = {product: index for index, product in enumerate(dict.fromkeys([*known, *own]))}
    index = bm25([text for _, text in column])
    scores = np.zeros(len(pairs))
    products = np.asarray([column[product] for product in own])
    by_query = pd.Series(products).groupby(np.asarray(pairs["query"], object)).indices
    for query, rows in by_query.items():
        scores[rows] = bm25_of(index, query)[products[rows]]
    return scores


def lexical_boosting(train: Dataset, test: Dataset, catalogue: Dataset, seed: int) -> np.ndarray:
    """Class probabilities (N, C) on `test` of gradient-boosted trees on word features of `train`.

    See `word_features` and `boosted_trees`.
    """
    features = word_features(catalogue)
    classes = train.features["label"].num_classes
    return boosted_trees(features(train), train["label"], features(test), classes, seed)


def boosted_trees(
    shown: np.ndarray, labels: Sequence[int], asked: np.ndarray, classes: int, seed: int
) -> np.ndarray:
    """Class probabilities (N, C) of rows `asked` (N, F) under boosted trees.

    They are fitted on the rows `shown` (M, F). Where the labels (M,) of these show a single class,
    that class has probability 1. Raises ModuleNotFoundError where LightGBM is not installed.
    """
    with needed("boosted_trees", "run"):
        import lightgbm
    model = lightgbm.LGBMClassifier(
        n_estimators=300,
        learning_rate=0.05,
        num_leaves=15,
        min_child_samples=20,
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
    )
    with warnings.catch_warnings():
        # scikit-learn misses the column names that LightGBM invents for an array.
        warnings.simplefilter("ignore", UserWarning)
        return _probabilities(model, shown, labels, asked, classes)


def word_features(catalogue: Dataset) -> Callable[[Dataset], np.ndarray]:
    """A function from pairs to features (N, F) of their words, for products of a catalogue.

    The features are BM25, cosines of TF-IDF over words and over character 3- to 5-grams, shares of
    query words found in the title, the whole text, brand and colour, and the two lengths: all that
    can be known of a pair without knowing what a word means.
    """
    texts = _texts(catalogue)
    cosines = [
        _cosine_of_words(texts),
        _cosine_of_words(texts, analyzer="char_wb", ngram_range=(3, 5)),
    ]

    def features(pairs: Dataset) -> np.ndarray:
        columns = [bm25_scores(pairs, catalogue)]
        for cosine in cosines:
            for texts in (list(pairs["product_title"]), _texts(pairs)):
                columns.append(cosine(list(pairs["query"]), texts))
        asked = [set(query.lower().split()) for query in pairs["query"]]
        title, brand, colour = (pairs[f"product_{name}"] for name in ("title", "brand", "color"))
        for texts in (title, _texts(pairs), brand, colour):
            columns.append(_share_found(asked, texts))
        columns.append(np.asarray([len(words) for words in asked]))
        columns.append(np.asarray([len(title.split()) for title in pairs["product_title"]]))
        return np.column_stack(columns)

    return features


def _cosine_of_words(texts: list[str], **options) -> Callable[[list[str], list[str]], np.ndarray]:
    """A function from queries and texts to cosines (N,) under TF-IDF fitted on `texts`."""
    analyse = TfidfVectorizer(**options).build_analyzer()
    # Text by text, for `fit` holds all that all texts have: 60 kB for each described product.
    having: Counter[str] = Counter()
    for text in texts:
        having.update(set(analyse(text)))
    if not having:
        return lambda queries, products: np.zeros(len(queries))
    names = sorted(having)
    vectoriser = TfidfVectorizer(sublinear_tf=True, vocabulary=names, **options)
    counts = np.array([having[name] for name in names], float)
    vectoriser.idf_ = np.log((len(texts) + 1) / (counts + 1)) + 1

    def cosine(queries: list[str], products: list[str]) -> np.ndarray:
        a, b = _each_once(vectoriser.transform, queries), _each_once(vectoriser.transform, products)
        return np.asarray(a.multiply(b).sum(axis=1)).ravel()

    return cosine


def scores_to_probabilities(
    train_scores: np.ndarray, train_labels: Sequence[int], scores: np.ndarray, classes: int
) -> np.ndarray:
    """Class probabilities (N, C) for a method that only scores: a logistic regression on the score.

    Fitted on the training pairs' scores (M,) and labels (M,); so a ranker without a classifier of
    its own still has a row in the table of accuracy and F1. Where the labels show a single class,
    that class has probability 1.
    """
    scale = np.std(train_scores) or 1.0
    shown, asked = (np.reshape(values, (-1, 1)) / scale for values in (train_scores, scores))
    return _probabilities(LogisticRegression(max_iter=1000), shown, train_labels, asked, classes)


def _probabilities(
    model: Any, shown: np.ndarray, labels: Sequence[int], asked: np.ndarray, classes: int
) -> np.ndarray:
    """Class probabilities (N, C) of rows `asked` (N, F) under a model fitted on others."""
    probabilities = np.zeros((len(asked), classes))
    if len(np.unique(labels)) == 1:
        probabilities[:, labels[0]] = 1.0
    else:
        model.fit(shown, labels)
        probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def _texts(pairs: Dataset) -> list[str]:
    return product_text(pairs[:])


def _each_once(transform: Callable, texts: Sequence[str]) -> Any:
    """A row for each text; a text that stands often, as in many pairs, is transformed once."""
    rows, distinct = pd.factorize(np.asarray(texts, dtype=object))
    return transform(list(distinct))[rows]


def _share_found(asked: list[set[str]], texts: Sequence[str]) -> np.ndarray:
    words_of = {text: set(text.lower().split()) for text in set(texts)}
    found = [
        len(words & words_of[text]) / max(1, len(words))
        for words, text in zip(asked, texts, strict=True)
    ]
    return np.asarray(found)
