"""What a saved classifier is worth, for the scripts that choose settings by it."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from ecomkd.config import Profile
from ecomkd.relevance import judge


def judged(folder: Path, pairs: Dataset, profile: Profile) -> dict[str, float]:
    """Of labelled pairs macro-F1, nDCG@10, its lift over a random order, and the `quality` that
    settings are chosen by, the mean of the first two."""
    found = judge.evaluate(pairs, judge.predict(folder, pairs, profile))
    f1, ranking = found["classification"]["macro_f1"], found["ranking"]
    return {
        "macro_f1": f1,
        "ndcg@10": ranking["ndcg@10"],
        "lift@10": ranking["lift@10"],
        "quality": (f1 + ranking["ndcg@10"]) / 2,
    }
