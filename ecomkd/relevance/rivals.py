"""What a shop would serve before it distils: sums and trees over all signals. Chapter 5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from ecomkd.relevance.tables import BEST_WORDS, LAMBDAMART, SUM_OF, UNTRAINED_SUM

COSINE = "cosine of the untrained bi-encoder"


def gain_of(model: str) -> str:
    """The name of the signal that a model gives: the expected gain of its class probabilities."""
    return f"expected gain of the {model}"


SUMS = {
    BEST_WORDS: LEXICAL,
    UNTRAINED_SUM: (*LEXICAL, COSINE),
    **{added: (*LEXICAL, COSINE, gain_of(model)) for model, added in SUM_OF.items()},
}
"""The signals that each sum adds up."""


@dataclass(frozen=True)
class Signals:
    """What is known of the N pairs of a split, computed once for all rivals."""

    words: np.ndarray
    """The signals LEXICAL, (N, 3)."""
    features: np.ndarray
    """What the trees read of words, (N, F): `baselines.word_features`."""
    cosine: np.ndarray
    """Of the untrained bi-encoder, (N,)."""
    answers: Mapping[str, np.ndarray]
    """The class probabilities, (N, C), of each model; none for the pairs that they learnt from."""


def signals(
    data: DatasetDict, catalogue: Dataset, profile: Profile, models: Mapping[str, Path]
) -> dict[str, Signals]:
    """The signals of the judged splits, `train`, `validation` and `test`, that are there.

    `models` are the folders of fine-tuned models by the name of their row.
    """
    by_words, of_words = lexical_signals(catalogue), baselines.word_features(catalogue)
    return {
        name: Signals(
            by_words(data[name]),
            of_words(data[name]),
            features.bi_encoder_scores(data[name], profile),
            {
                row: judge.predict(folder, data[name], profile)
                for row, folder in models.items()
                if name != "train"
            },
        )
        for name in ("train", "validation", "test")
        if name in data
    }


Rival = tuple[str, np.ndarray, np.ndarray, dict]
"""Name, class probabilities (N, C) and scores (N,) of the test pairs, and what validation chose."""


def rivals(data: DatasetDict, seen: Mapping[str, Signals]) -> Iterator[Rival]:
    """What is compared with a student beside single models, on the test pairs.

    All `sums`, and LambdaMART over words and cosine. `seen` is what `signals` gave.
    """
    yield from sums(data, seen)

    def read(own: Signals) -> np.ndarray:
        return np.column_stack([own.features, own.words, own.cosine])

    shown, chosen_on, asked = (read(seen[name]) for name in ("train", "validation", "test"))
    trees = lambdamart(shown, data["train"], chosen_on, data["validation"])
    found = trees.scores(chosen_on), trees.scores(asked)
    yield LAMBDAMART, _chances(data, *found), found[1], trees.settings


def sums(
    data: DatasetDict, seen: Mapping[str, Signals], names: Iterable[str] = SUMS
) -> Iterator[Rival]:
    """Those of the named `SUMS` whose signals are there, on the test pairs.

    The weights of a sum are those of the highest nDCG@10 on validation, in standard units
    (`choose_fusion`).
    """
    gains = np.asarray(list(judge.gains(data["test"]).values()))

    def known(own: Signals) -> dict[str, np.ndarray]:
        of_models = {gain_of(name): answers @ gains for name, answers in own.answers.items()}
        return dict(zip(LEXICAL, own.words.T, strict=True)) | {COSINE: own.cosine} | of_models

    columns = {name: known(seen[name]) for name in ("validation", "test")}
    for name in names:
        used = SUMS[name]
        if not columns["test"].keys() >= set(used):
            continue
        added = {split: np.column_stack([of[one] for one in used]) for split, of in columns.items()}
        fused = choose_fusion("z", added["validation"], data["validation"])
        found = [fused.scores(added[split], data[split]["query_id"]) for split in columns]
        yield name, _chances(data, *found), found[1], dict(zip(used, fused.weights, strict=True))


def _chances(data: DatasetDict, chosen_on: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The classes (N, C) of a score, by a logistic regression on the validation pairs, from which
    neither the models nor the trees learnt."""
    labels, classes = data["validation"]["label"], data["test"].features["label"].num_classes
    return baselines.scores_to_probabilities(chosen_on, labels, scores, classes)
