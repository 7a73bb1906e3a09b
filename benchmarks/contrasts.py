"""Bi-encoders by contrast that no teacher taught, beside the one that the package distils.

Judged labels alone, or labels that an encoder gives itself, are learnt in as many steps and as many
stages as a teacher's: what differs then is who labelled the further pairs, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ecomkd import keys
from ecomkd.config import Profile
from ecomkd.relevance import bi_encoders, judge

PASSES = 2
"""Over the judged pairs and those that a teacher labels, before the judged ones alone."""


def in_as_many_steps(
    data: DatasetDict, profile: Profile, told: Dataset, further: Dataset | None
) -> tuple[Path, Path]:
    """The bi-encoders after the first stage, which learns from `further` pairs beside the judged
    ones in the steps that PASSES over `told` have, and after the second, of judged pairs alone."""

    def batches(more: Dataset | None) -> int:
        pairs = bi_encoders.beside(data["train"], more)
        return keys.batches(len(bi_encoders.contrastive_rows(pairs, profile.seed)), profile)

    rates = bi_encoders.RATES[-1:]
    passes = PASSES * batches(told) / batches(further)
    start = bi_encoders.contrastive(data, profile, further, passes, rates)
    return start, bi_encoders.contrastive(data, profile, rates=rates, start=start)


def labelled_by(first: Path, pairs: Dataset, train: Dataset, profile: Profile) -> Dataset:
    """The pairs with labels by the cosine of a bi-encoder: as many of each as `train` has."""
    order = np.argsort(-bi_encoders.cosine_scores(first, pairs, profile), kind="stable")
    gains = np.asarray(list(judge.gains(train).values()))
    best_first = np.argsort(-gains, kind="stable")
    judged = np.asarray(train["label"])
    shares = np.array([(judged == label).mean() for label in best_first])
    ends = np.round(shares.cumsum() * len(pairs)).astype(int)
    found = np.empty(len(pairs), dtype=int)
    for label, own in zip(best_first, np.split(order, ends[:-1]), strict=True):
        found[own] = label
    pairs = pairs.remove_columns("label").add_column("label", found.tolist())
    return pairs.cast_column("label", train.features["label"])
