"""Rows that need no network: what they give on small shops, and on shops of nothing to learn."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import tiny_models
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer

from ecomkd import words
from ecomkd.relevance import baselines

PAIRS = tiny_models.pairs(40, seed=3)


def of_one_class(pairs: Dataset, label: int = 2) -> Dataset:
    return pairs.remove_columns("label").add_column("label", [label] * len(pairs)).cast_column(
        "label", tiny_models.CLASSES
    )  # fmt: skip


def titled(*titles: str) -> Dataset:
    rows = tiny_models.pairs(len(titles), seed=1)
    return rows.map(lambda row, place: {"product_title": titles[place]}, with_indices=True)


def test_bm25_by_hand():
    """One of three texts of one length has "lamp", once: ln(1 + 2.5 / 1.5) · 1 / (1 + k1)."""
    index = words.bm25(["red shoe", "blue lamp", "red mug"])
    found = words.bm25_of(index, "The lamps!")
    assert found == pytest.approx([0, np.log(1 + 2.5 / 1.5) / (1 + 1.5), 0], rel=1e-3)
    assert not words.bm25_of(index, "nothing here").any()


def test_texts_of_stop_words_alone_score_0():
    index = words.bm25(["the", "of a", "to be"])
    assert words.bm25_of(index, "the lamp").tolist() == [0, 0, 0]
    assert not words.any_word(["the", "of a"])
    assert words.any_word(["the", "of a lamp"])
    pairs = titled("the", "of a", "to be", "and")
    assert not baselines.bm25_scores(pairs, pairs).any()


def test_each_pair_is_scored_by_its_own_text():
    """A product may have had another title when another pair was judged."""
    pairs = titled("red shoe", "blue lamp").select([0, 1, 0])
    for name, own in (("query", ["lamp"] * 3), ("product_id", ["a", "b", "a"]),
                      ("product_title", ["red shoe", "blue lamp", "green lamp"])):  # fmt: skip
        pairs = pairs.remove_columns(name).add_column(name, own)
    found = baselines.bm25_scores(pairs, pairs.select([0, 1]))
    assert found[0] == 0 and found[1] == found[2] > 0


@pytest.mark.parametrize("options", [{}, {"analyzer": "char_wb", "ngram_range": (3, 5)}])
def test_a_cosine_of_words_is_that_of_a_fit_on_all_texts_at_once(options):
    texts = list(tiny_models.pairs(60, seed=3)["product_title"])
    queries, whole = texts[::-1], TfidfVectorizer(sublinear_tf=True, **options).fit(texts)
    wanted = whole.transform(queries).multiply(whole.transform(texts)).sum(axis=1)
    found = baselines._cosine_of_words(texts, **options)(queries, texts)
    np.testing.assert_allclose(found, np.asarray(wanted).ravel(), rtol=1e-12)


def test_bm25_reports_nothing_to_a_programs_log(caplog):
    with caplog.at_level(logging.DEBUG):
        words.bm25(["red shoe", "blue lamp"])
    assert not [record for record in caplog.records if record.name == "bm25s"]


def test_words_load_nothing_of_the_training_stack():
    heavy = ("torch", "transformers", "datasets", "pandas", "lightgbm", "sklearn")
    code = f"import sys, ecomkd.words; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scores_become_probabilities_that_rise_with_the_score():
    scores = np.linspace(-1, 1, 40)
    labels = (scores > 0).astype(int) * 3
    found = baselines.scores_to_probabilities(scores, labels, scores, classes=4)
    assert np.allclose(found.sum(axis=1), 1)
    assert (np.diff(found[:, 3]) > 0).all()
    assert not found[:, 1:3].any()


def test_one_class_in_training_is_the_answer_to_everything():
    found = baselines.scores_to_probabilities(np.arange(5.0), [2] * 5, np.arange(3.0), classes=4)
    assert found.tolist() == [[0, 0, 1, 0]] * 3
    trees = baselines.lexical_boosting(of_one_class(PAIRS), PAIRS, PAIRS, seed=0)
    assert trees.tolist() == [[0, 0, 1, 0]] * len(PAIRS)


def test_boosted_trees_learn_what_words_tell():
    """Pairs are relevant where the title holds the query's word."""
    titles = ["red shoe", "blue lamp", "tea pot", "wool mat"] * 30
    asked = ["red", "lamp", "tea", "mat", "blue", "red", "pot", "desk"] * 15
    labels = [int(query in title) for query, title in zip(asked, titles, strict=True)]
    rows = titled(*titles).remove_columns(["query", "label"]).add_column("query", asked)
    rows = rows.add_column("label", labels).cast_column("label", tiny_models.CLASSES)
    found = baselines.lexical_boosting(rows, rows, rows, seed=0)
    assert np.allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("title", ["the", "a", "!"], ids=["stop word", "letter", "mark"])
def test_boosted_trees_on_titles_without_a_word(title):
    pairs = titled(*[title] * 8)
    found = baselines.lexical_boosting(pairs, pairs, pairs, seed=0)
    assert np.allclose(found.sum(axis=1), 1)


def test_a_missing_lightgbm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match=r'lightgbm is missing.*"ecomkd\[run\]"'):
        baselines.lexical_boosting(PAIRS, PAIRS, PAIRS, seed=0)


def test_random_scores_follow_the_seed():
    first, again, other = (baselines.random_scores(PAIRS, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
