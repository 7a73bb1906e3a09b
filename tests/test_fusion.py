"""Signals that become one score: by hand, and weights that validation has to find."""

import doctest
import warnings

import numpy as np
import pytest
import tiny_models
from datasets import Dataset

from ecomkd import metrics
from ecomkd.relevance import fusion, judge

RNG = np.random.default_rng(0)
GAINS = np.array([1.0, 0.1, 0.01, 0.0])


def judged(labels: np.ndarray, per_query: int = 10) -> Dataset:
    rows = {
        "query_id": [f"q{row // per_query}" for row in range(len(labels))],
        "product_id": [f"p{row}" for row in range(len(labels))],
        "label": labels.tolist(),
    }
    return Dataset.from_dict(rows).cast_column("label", tiny_models.CLASSES)


PAIRS = judged(RNG.integers(0, 4, 600))
TRUTH = GAINS[PAIRS["label"]]


def quality(pairs: Dataset, scores: np.ndarray) -> float:
    return metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs))["ndcg@10"]


def made(kind: str, weights: tuple, **changes) -> fusion.Fusion:
    plain = {"means": (0.0,) * len(weights), "deviations": (1.0,) * len(weights)}
    return fusion.Fusion(kind, weights, **(plain | changes))


def test_the_example_of_ranks():
    assert doctest.testmod(fusion).failed == 0


def test_reciprocal_ranks_of_two_rankings_by_hand():
    signals = np.array([[0.9, 1.0], [0.5, 3.0], [0.5, 2.0], [7.0, 0.0]])
    found = made("rrf", (1.0, 2.0), constant=60.0).scores(signals, ["a", "a", "a", "b"])
    wanted = [1 / 61 + 2 / 63, 1 / 62.5 + 2 / 61, 1 / 62.5 + 2 / 62, 3 / 61]
    np.testing.assert_allclose(found, wanted)


def test_min_max_by_hand():
    signals = np.array([[2.0, 5.0], [4.0, 5.0], [3.0, 5.0], [9.0, 1.0]])
    found = made("min-max", (1.0, 0.5)).scores(signals, ["a", "a", "a", "b"])
    assert found.tolist() == [0, 1, 0.5, 0]
    moved = made("min-max", (1.0, 0.5)).scores(10 * signals - 3, ["a", "a", "a", "b"])
    np.testing.assert_allclose(moved, found)


def test_standard_units_by_hand():
    chosen = made("z", (1.0, 2.0), means=(1.0, 10.0), deviations=(2.0, 5.0))
    assert chosen.scores(np.array([[3.0, 15.0], [1.0, 0.0]]), ["a", "b"]).tolist() == [3.0, -4.0]


def test_standard_units_need_no_rivals():
    signals = RNG.normal(size=(600, 2))
    chosen = fusion.choose_fusion("z", signals, PAIRS)
    whole = chosen.scores(signals, PAIRS["query_id"])
    alone = [chosen.scores(signals[row : row + 1], ["q"])[0] for row in range(20)]
    assert alone == whole[:20].tolist()


def test_standard_units_are_those_of_validation():
    signals = RNG.normal(3, 7, size=(600, 2))
    signals[:, 1] = 5
    chosen = fusion.choose_fusion("z", signals, PAIRS)
    np.testing.assert_allclose(chosen.means, signals.mean(axis=0))
    np.testing.assert_allclose(chosen.deviations, [signals[:, 0].std(), 1])


@pytest.mark.parametrize("kind", fusion.FUSIONS)
@pytest.mark.parametrize("place", [0, 1])
def test_truth_beside_noise_is_the_truth_alone(kind, place):
    signals = RNG.normal(size=(600, 2))
    signals[:, place] = TRUTH
    chosen = fusion.choose_fusion(kind, signals, PAIRS)
    assert chosen.weights == tuple(np.eye(2)[place])
    assert quality(PAIRS, chosen.scores(signals, PAIRS["query_id"])) == 1.0


def test_the_weight_of_a_sum_is_found():
    """The truth is one signal and four times the other: neither orders the pairs alone."""
    parts = RNG.normal(size=(4000, 2))
    wanted = parts[:, 0] + 4 * parts[:, 1]
    pairs = judged((wanted < 4).astype(int) * 3)
    units = parts / parts.std(axis=0)
    chosen = fusion.choose_fusion("z", units * [100, 0.01] + [7, 7], pairs)
    assert chosen.weights == (0.25, 1.0)
    # What was tried is there, with its quality, and the choice is the best of it.
    curve = chosen.curve
    best = curve.loc[curve["ndcg@10"].idxmax()]
    assert best["weights"] == chosen.weights
    first = curve.iloc[:2]
    assert first["weights"].tolist() == [(1.0, 0.0), (0.0, 1.0)]
    assert {weights[0] for weights in curve["weights"]} >= {0.0, 0.125, 0.5, 8.0}
    assert best["ndcg@10"] == pytest.approx(
        quality(pairs, chosen.scores(units * [100, 0.01] + [7, 7], pairs["query_id"]))
    )
    assert best["ndcg@10"] > first["ndcg@10"].max() + 0.01


def test_signals_of_equal_worth_are_added_up():
    signals = TRUTH[:, None] + RNG.normal(0, 0.5, size=(600, 3))
    for kind in fusion.FUSIONS:
        chosen = fusion.choose_fusion(kind, signals, PAIRS)
        found = quality(PAIRS, chosen.scores(signals, PAIRS["query_id"]))
        assert found == pytest.approx(chosen.curve["ndcg@10"].max())
        assert found > chosen.curve["ndcg@10"].iloc[:3].max() + 0.01
        assert all(chosen.weights)


def test_the_constant_of_reciprocal_ranks_is_tried():
    signals = TRUTH[:, None] + RNG.normal(0, 0.5, size=(600, 2))
    chosen = fusion.choose_fusion("rrf", signals, PAIRS)
    tried = chosen.curve[chosen.curve["changed"] == "constant"]
    assert set(tried["constant"]) | {60.0} >= set(fusion._CONSTANTS)
    assert chosen.curve["constant"].iloc[0] == 60.0


@pytest.mark.parametrize(
    ("best", "found"),
    [(1.0, (1, False)), (16.0, (16, False)), (1 / 64, (1 / 64, False)), (1e9, (256, True))],
)
def test_a_grid_is_continued_where_the_best_lies_on_its_edge(best, found):
    def quality(value: float) -> float:
        return -abs(np.log2(value / best)) if value else -np.inf

    assert fusion._highest(quality, fusion._WEIGHTS) == found


def test_a_weight_of_0_is_no_edge():
    assert fusion._highest(lambda value: -value, fusion._WEIGHTS) == (0, False)


def test_of_equals_the_smaller_is_taken_and_no_plateau_is_an_edge():
    assert fusion._highest(lambda value: 1.0, fusion._WEIGHTS) == (0, False)
    assert fusion._highest(lambda value: float(value > 0), fusion._WEIGHTS) == (0.0625, False)


def test_an_edge_that_stays_is_told_of(monkeypatch):
    monkeypatch.setattr(fusion, "_WEIGHTS", (0.0, 0.1, 0.2))
    monkeypatch.setattr(fusion, "_WIDENINGS", 1)
    signals = TRUTH[:, None] + RNG.normal(0, 0.5, size=(600, 2))
    with pytest.warns(UserWarning, match=r"best value of the weight of signal \d still lies on"):
        fusion.choose_fusion("z", signals, PAIRS)


def test_without_a_relevant_product_all_weights_are_1():
    pairs = judged(np.full(20, 3))
    with pytest.warns(UserWarning, match="the weights of the sum cannot be chosen and all are 1"):
        chosen = fusion.choose_fusion("rrf", RNG.normal(size=(20, 2)), pairs)
    assert (chosen.weights, chosen.constant) == ((1.0, 1.0), 60.0)


def test_one_signal_is_taken_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fusion.choose_fusion("z", TRUTH[:, None], PAIRS).weights == (1.0,)


def test_what_is_refused():
    signals = np.zeros((600, 2))
    with pytest.raises(ValueError, match="Unknown fusion 'sum': choose one of z, min-max, rrf"):
        fusion.choose_fusion("sum", signals, PAIRS)
    with pytest.raises(ValueError, match=r"signals are \(5, 2\); give \(600, signals\)"):
        fusion.choose_fusion("z", signals[:5], PAIRS)
    signals[7, 1] = np.nan
    with pytest.raises(ValueError, match="signal 1 of pair 7 is nan; mend its scorer"):
        fusion.choose_fusion("z", signals, PAIRS)
    with pytest.raises(ValueError, match=r"signals are \(2, 3\); give \(2, 2\)"):
        made("z", (1.0, 1.0)).scores(np.zeros((2, 3)), ["a", "b"])
