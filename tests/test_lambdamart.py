"""LambdaMART: an order that it has to learn, its groups, and data that teach nothing."""

import sys

import numpy as np
import pytest
import tiny_models
from datasets import Dataset

from ecomkd import metrics
from ecomkd.relevance import judge, lambdamart

GRID = {"LEAVES": (4, 8), "LEAST_PAIRS": (5,), "LEARNING_RATES": (0.1,), "_ROUNDS": 60}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in GRID.items():
        monkeypatch.setattr(lambdamart, name, value)


def synthetic(queries: int, seed: int) -> tuple[np.ndarray, Dataset]:
    """Signals and pairs, in a random order of rows.

    A query has a level of its own, which the second signal repeats, so that the first one orders
    its products and says nothing of those of other queries. The third is noise.
    """
    rng = np.random.default_rng(seed)
    query = rng.permutation(np.repeat(np.arange(queries), 12))
    merit = rng.normal(size=len(query))
    level = rng.normal(0, 20, queries)[query]
    labels = np.digitize(-merit + rng.normal(0, 0.3, len(query)), [-1.2, 0, 1])
    rows = {
        "query_id": [f"q{number}" for number in query],
        "product_id": [f"p{row}" for row in range(len(query))],
        "label": labels.tolist(),
    }
    pairs = Dataset.from_dict(rows).cast_column("label", tiny_models.CLASSES)
    return np.column_stack([merit + level, level, rng.normal(size=len(query))]), pairs


def quality(pairs: Dataset, scores: np.ndarray) -> float:
    return metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs))["ndcg@10"]


TRAIN, VALIDATION, TEST = (synthetic(count, seed) for seed, count in enumerate((60, 20, 40)))


def test_it_learns_an_order_and_keeps_what_it_tried():
    model = lambdamart.lambdamart(*TRAIN, *VALIDATION)
    signals, pairs = TEST
    scores = model.scores(signals)
    noise = quality(pairs, signals[:, 2])
    assert quality(pairs, scores) > noise + 0.15
    curve = model.curve
    assert curve["num_leaves"].tolist() == [4, 8]
    best = curve.loc[curve["ndcg@10"].idxmax()]
    assert best[list(model.settings)].to_dict() == model.settings
    # The choice is by the metric of the contract, on the pairs as they are given.
    assert quality(VALIDATION[1], model.scores(VALIDATION[0])) == pytest.approx(best["ndcg@10"])


def test_the_order_of_queries_changes_nothing():
    signals, pairs = TRAIN
    turned = np.argsort(np.asarray(pairs["query_id"]), kind="stable")
    sorted_pairs = pairs.select(turned)
    one = lambdamart._Groups(signals, pairs)
    other = lambdamart._Groups(signals[turned], sorted_pairs)
    assert one.sizes.tolist() == other.sizes.tolist() == [12] * 60
    assert (np.diff(one.queries) >= 0).all()
    learnt = [
        lambdamart.lambdamart(*given, *VALIDATION).scores(TEST[0])
        for given in (TRAIN, TRAIN, (signals[turned], sorted_pairs))
    ]
    np.testing.assert_array_equal(learnt[1], learnt[0])
    np.testing.assert_allclose(learnt[2], learnt[0], atol=1e-6)


def test_the_best_label_has_the_highest_number_and_its_own_gain():
    pairs = tiny_models.pairs(12, seed=5)
    groups = lambdamart._Groups(np.zeros((12, 1)), pairs)
    assert groups.table == [0.0, 0.01, 0.1, 1.0]
    assert groups.labels.tolist() == [3 - label for label in pairs["label"]]
    assert np.take(groups.table, groups.labels).tolist() == groups.gains.tolist()
    graded = pairs.cast_column("label", tiny_models.ClassLabel(names=["0", "1", "2", "3"]))
    groups = lambdamart._Groups(np.zeros((12, 1)), graded)
    assert groups.labels.tolist() == graded["label"]
    assert groups.table == [0.0, 1 / 7, 3 / 7, 1.0]


def of_one_label(pairs: Dataset) -> Dataset:
    same = pairs.remove_columns("label").add_column("label", [3] * len(pairs))
    return same.cast_column("label", tiny_models.CLASSES)


def test_labels_that_teach_no_order_give_one_score():
    train = TRAIN[0], of_one_label(TRAIN[1])
    scores = lambdamart.lambdamart(*train, *VALIDATION).scores(TEST[0])
    assert len(set(scores.tolist())) == 1


def test_validation_without_a_relevant_product_is_told_of():
    validation = VALIDATION[0], of_one_label(VALIDATION[1])
    with pytest.warns(UserWarning, match="the number of LambdaMART's trees cannot be chosen"):
        model = lambdamart.lambdamart(*TRAIN, *validation)
    assert model.settings["rounds"] == 1


def test_signals_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"signals are \(720,\); give \(720, signals\)"):
        lambdamart.lambdamart(TRAIN[0][:, 0], TRAIN[1], *VALIDATION)


def test_a_missing_lightgbm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match=r'lightgbm is missing.*"ecomkd\[run\]"'):
        lambdamart.lambdamart(*TRAIN, *VALIDATION)
