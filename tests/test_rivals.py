"""Sums and trees over all signals, beside the models of a run."""

import json

import numpy as np
import pytest
import tiny_models
from datasets import ClassLabel
from test_run import judgments, shop

from ecomkd import features
from ecomkd.data import sources
from ecomkd.relevance import baselines, judge, rivals
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lexical import lexical_signals
from ecomkd.relevance.tables import BEST_WORDS, LAMBDAMART, SYSTEMS, TEACHER_SUM, UNTRAINED_SUM

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*judged products have more than one title"),
    pytest.mark.filterwarnings("ignore:.*too few to conclude"),
]


@pytest.fixture
def shoes(tmp_path, monkeypatch):
    """A shop whose teacher and bi-encoder are functions of the label, the teacher the better; its
    data, its catalogue, and what the rivals make of it."""
    profile = tiny_models.profile(tmp_path / "artifacts")
    folder = shop(tmp_path / "shoes", judgments())
    data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)

    def noisy(pairs, share):
        noise = np.random.default_rng(len(pairs)).random(len(pairs))
        return (1 - share) * judge.worth(pairs) + share * noise

    def chances(folder, pairs, profile):
        gain = noisy(pairs, 0.3)
        return np.column_stack([gain, 0 * gain, 0 * gain, 1 - gain])

    monkeypatch.setattr(features, "bi_encoder_scores", lambda pairs, _: noisy(pairs, 0.6))
    monkeypatch.setattr(judge, "predict", chances)
    seen = rivals.signals(data, catalogue, profile, {"teacher": tmp_path / "teacher"})
    return data, catalogue, list(rivals.rivals(data, seen))


def test_a_sum_is_what_validation_chooses_of_its_signals(shoes):
    data, catalogue, answers = shoes
    found = {name: (chances, scores, told) for name, chances, scores, told in answers}
    assert set(found) == {BEST_WORDS, UNTRAINED_SUM, TEACHER_SUM, LAMBDAMART} < set(SYSTEMS)
    words = lexical_signals(catalogue)
    fused = choose_fusion("z", words(data["validation"]), data["validation"])
    chances, scores, told = found[BEST_WORDS]
    np.testing.assert_array_equal(
        scores, fused.scores(words(data["test"]), data["test"]["query_id"])
    )
    assert list(told.values()) == list(fused.weights)
    on_validation = fused.scores(words(data["validation"]), data["validation"]["query_id"])
    np.testing.assert_array_equal(
        chances,
        baselines.scores_to_probabilities(on_validation, data["validation"]["label"], scores, 4),
    )
    assert found[TEACHER_SUM][2]["expected gain of the teacher"] == 1  # the best alone
    assert "expected gain of the teacher" not in found[UNTRAINED_SUM][2]
    assert json.loads(json.dumps(found[LAMBDAMART][2]))["rounds"] >= 1


def test_the_sum_with_the_teacher_ranks_as_well_as_its_best_signal(shoes):
    data, _, answers = shoes
    found = {name: scores for name, _, scores, _ in answers}
    quality = {
        name: judge.evaluate(data["test"], np.eye(4)[data["test"]["label"]], scores)["ranking"]
        for name, scores in found.items()
    }
    assert quality[TEACHER_SUM]["ndcg@10"] > quality[UNTRAINED_SUM]["ndcg@10"]


@pytest.mark.parametrize("names", [["bad", "good"], ["0", "1"]])
def test_pairs_of_two_classes_have_an_order_too(names):
    pairs = tiny_models.pairs(8)
    labels = [0, 1, 0, 0, 1, 0, 0, 0]
    pairs = pairs.remove_columns("label").add_column("label", labels)
    pairs = pairs.cast_column("label", ClassLabel(names=names))
    found = judge.evaluate(pairs, np.eye(2)[labels])
    assert found["ranking"]["ndcg@10"] == found["ranking"]["mrr"] == 1.0
