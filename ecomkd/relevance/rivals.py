"""What a shop would serve before it distils: sums and trees over all signals. Chapter 5."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ecomkd.config import Profile
from ecomkd.extras import needed

with needed("ecomkd.relevance.rivals", "run"):
    from ecomkd import features

from ecomkd.relevance import baselines, judge
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lambdamart import lambdamart
from ecomkd.relevance.lexical import LEXICAL, lexical_signals
from ecomkd.relevance.tables import BEST_WORDS, LAMBDAMART, TEACHER_SUM, UNTRAINED_SUM

COSINE = "cosine of the untrained bi-encoder"
GAIN = "expected gain of the teacher"
SUMS = {
    BEST_WORDS: LEXICAL,
    UNTRAINED_SUM: (*LEXICAL, COSINE),
    TEACHER_SUM: (*LEXICAL, COSINE, GAIN),
}
"""The signals that each sum adds up."""


def rivals(
    data: DatasetDict, catalogue: Dataset, profile: Profile, teacher: Path
) -> Iterator[tuple[str, np.ndarray, np.ndarray, dict]]:
    """What is compared with a student beside single models, on the test pairs.

    For each of `SUMS`, and for LambdaMART over words and cosine: its name, class probabilities
    (N, C), scores (N,), and what validation chose. The weights of a sum are those of the highest
    nDCG@10 on validation, in standard units (`choose_fusion`). Classes come of the score, by a
    logistic regression on the validation pairs, which neither the teacher nor the trees learnt
    from.
    """
    validation, test = data["validation"], data["test"]
    classes = test.features["label"].num_classes
    by_words, of_words = lexical_signals(catalogue), baselines.word_features(catalogue)

    def chances(chosen_on: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return baselines.scores_to_probabilities(chosen_on, validation["label"], scores, classes)

    def signals(pairs: Dataset) -> np.ndarray:
        return np.column_stack([by_words(pairs), features.bi_encoder_scores(pairs, profile)])

    known = {"validation": signals(validation), "test": signals(test)}
    gains = np.asarray(list(judge.gains(test).values()))
    read = {
        name: np.column_stack([known[name], judge.predict(teacher, data[name], profile) @ gains])
        for name in known
    }
    for name, used in SUMS.items():
        columns = slice(len(used))  # the signals stand in the order in which the sums add them
        fused = choose_fusion("z", read["validation"][:, columns], validation)
        found = [
            fused.scores(read[split][:, columns], data[split]["query_id"])
            for split in ("validation", "test")
        ]
        weights = dict(zip(used, fused.weights, strict=True))
        yield name, chances(*found), found[1], weights

    def columns_of(pairs: Dataset, own: np.ndarray) -> np.ndarray:
        return np.column_stack([of_words(pairs), own])

    asked = columns_of(validation, known["validation"])
    shown = columns_of(data["train"], signals(data["train"]))
    trees = lambdamart(shown, data["train"], asked, validation)
    found = [trees.scores(asked), trees.scores(columns_of(test, known["test"]))]
    yield LAMBDAMART, chances(*found), found[1], trees.settings
