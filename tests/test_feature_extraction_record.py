"""What chapter 6 concludes, held against what its stored run computed."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from book import values
from ecomkd import report

CHAPTER = Path(__file__).resolve().parent.parent / "notebooks" / "06_feature_extraction.ipynb"


@pytest.fixture(scope="module")
def stored():
    """The numbers of the stored run: name, without the chapter's, to value; a share for a %."""

    def value(text: str) -> float:
        plain = text.replace(",", "").replace("−", "-").split()
        return float(plain[0]) / (100 if plain[1:] == ["%"] else 1)

    found = values.values(nbformat.read(CHAPTER, as_version=4))
    return {name.removeprefix("06-"): value(text) for name, text in found.items()}


def ahead(stored, name: str) -> bool:
    """Whether the interval of a difference lies above 0."""
    return stored[f"{name}-low"] > 0


def cannot_be_told(stored, name: str) -> bool:
    return stored[f"{name}-low"] <= 0 <= stored[f"{name}-high"]


def test_vectors_lead_with_few_labels_and_words_pass_them_with_all(stored):
    assert ahead(stored, "few-ahead")
    assert stored["all-ahead-high"] < 0
    assert stored["all-ahead"] > -0.05


def test_on_vectors_training_is_worth_no_more_than_the_nearest_products(stored):
    for name in ("few-trained", "all-trained"):
        assert not ahead(stored, name)


def test_trees_read_words_and_not_vectors(stored):
    for size in ("few", "all"):
        assert stored[f"{size}-trees"] < stored[f"{size}-frozen"] - 0.05
    assert stored["all-word-trees"] > stored["all-trees"] + 0.05


def test_the_default_price_on_weights_looks_like_a_wrong_method(stored):
    assert stored["chosen"] > stored["default"] + 0.1


def test_the_vote_of_the_nearest_products_beats_every_linear_model(stored):
    for rival in ("vote", "vote-query", "vote-both"):
        assert ahead(stored, rival)
    assert stored["own-nearest"] > stored["own-linear"]
    assert cannot_be_told(stored, "product-query")
    assert stored["names"] < min(stored["product-linear"], stored["query-linear"])


def test_between_two_sides_that_speak_differently_vectors_pay(stored):
    assert ahead(stored, "space")
    assert stored["product-frozen-unseen"] > stored["product-words-unseen"] + 0.1
    assert ahead(stored, "space-best")
    assert stored["words-best"] > stored["product-words"]
    assert stored["product-frozen-unseen"] > stored["words-best-unseen"] + 0.1


def test_the_shelf_hardly_helps_to_rank(stored):
    assert stored["shelf-high"] < 0.02
    assert stored["shelf"] > 0
    assert stored["shelf-same"] > 0.7


def test_random_classes_are_read_off_nearly_as_well_as_departments(stored):
    assert 0.7 * stored["department"] < stored["control"] < stored["department"]
    assert cannot_be_told(stored, "deep")
    assert ahead(stored, "brand")
    assert 0.1 < stored["alpha-least"] <= stored["alpha-most"] < 10_000


def test_reading_adds_to_word_vectors_at_the_last_layer_alone(stored):
    assert ahead(stored, "reading-vote")
    assert ahead(stored, "reading-probe")
    assert stored["middle-vote"] < stored["layer0-vote"] + 0.02


def test_the_mean_beats_max_and_cannot_be_told_from_cls(stored):
    assert ahead(stored, "pool")
    assert cannot_be_told(stored, "cls")


def test_at_equal_bytes_many_rough_numbers_beat_few_exact_ones(stored):
    assert stored["kept-few"] < stored["kept-byte"] < stored["kept-bit"]
    assert ahead(stored, "bit-few")
    assert ahead(stored, "bit-byte")
    assert cannot_be_told(stored, "piece-bit")
    assert stored["near-few"] < stored["near-byte"] < stored["near-bit"] < stored["near-piece"]


def test_one_byte_in_place_of_four_is_free(stored):
    assert cannot_be_told(stored, "byte-loss")
    assert stored["byte-loss-high"] < 0.005


def test_counting_finds_favourites_and_brands_tell_the_price(stored):
    assert ahead(stored, "counting")
    assert stored["shopper-counted"] > stored["shopper-count"] - 0.05
    assert stored["price-count-low"] < 0.02
    assert stored["price-frozen-low"] > 0
    assert stored["price-brand-low"] > stored["price-frozen-high"]
    assert stored["price-frozen"] < stored["price-words"] < stored["price-brand"]


def test_nothing_on_frozen_features_orders_better_than_the_cosine(stored):
    for name in ("frozen-cosine", "sum-cosine"):
        assert cannot_be_told(stored, name)
    assert stored["some-best-ndcg"] <= stored["pairs-cosine-ndcg"]


def test_labels_help_to_tell_labels_apart_and_few_numbers_cannot_be_told_from_hundreds(stored):
    assert ahead(stored, "f1-frozen")
    assert cannot_be_told(stored, "f1-sum")


def test_the_cross_encoder_ends_highest_here_and_ahead_of_pair_features_on_other_shops(stored):
    rest = ("frozen", "cosine", "words", "sum")
    for measure in ("f1", "ndcg"):
        best = max(stored[f"pairs-{name}-{measure}"] for name in rest)
        assert stored[f"pairs-tuned-{measure}"] > best
    assert stored["some-spread-ndcg"] > stored["some-tuned-ndcg"] + 0.05
    assert ahead(stored, "warmed-frozen")
    assert cannot_be_told(stored, "warmed-cosine")
    recorded = report.recorded("methods")
    assert len(recorded["seeds"]) == 3
    assert report.recorded("learning_curve")["seeds"] == [18]
    assert set(pd.DataFrame(recorded["data"]["summary"])["method"]) >= {"warmed", "frozen"}


def test_a_scaler_fitted_on_one_department_takes_the_department_away(stored):
    assert stored["scaled-alone"] < 0.5 < 0.9 < stored["scaled-train"]
