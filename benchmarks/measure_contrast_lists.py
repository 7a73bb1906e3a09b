"""A bi-encoder that labels teach by contrast, on whole candidate lists of few judged queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_contrast_lists.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_contrast_lists.py --merge

needs ECOMKD_REAL_DATA with `esci_150`, whose queries are each tested once, in five folds. The
encoder is that of `bi_encoders.contrastive`, with the book's settings: lower layers still, six
looks at validation at each of two rates, of which the best is kept, and the pretrained encoder
where none is better. It learns from the first 96 tokens of a text, as the teachers of
`whole_lists` do, and is chosen by them; it is asked with 256, as the untrained encoder is. It
stands alone and added to words, with weights from validation, where it is asked with 256 as well.
A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset

import measure_untrained
import measure_whole_lists
import shared
from ecomkd import metrics
from ecomkd.config import Profile
from ecomkd.data.sources import product_text
from ecomkd.relevance import bi_encoders, judge, rivals
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_whole_lists import FREE

CONTRAST = "bi-encoder, labels by contrast"
ADDED = "words + " + CONTRAST
ASKED = 256
"""Tokens of a product that an encoder reads when it is asked."""
COMPARED = ((CONTRAST, FREE), (ADDED, UNTRAINED_SUM), (ADDED, FREE), (CONTRAST, UNTRAINED_SUM))


def cosines(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """Cosine between query and product, (N,), by a saved bi-encoder that reads ASKED tokens."""
    model = bi_encoders.encoder(folder, profile)
    model.max_seq_length = ASKED
    return bi_encoders._cosines(model, list(pairs["query"]), product_text(pairs[:]))


def fold(case: measure_untrained.Case, profile: Profile) -> tuple[dict[str, dict], dict]:
    """By system, nDCG@10 by test query with its chance, and what validation says."""
    data, _, seen = case
    test, found = data["test"], {}

    def ranked(name: str, scores: np.ndarray) -> None:
        ranking = metrics.ranking(judge.frame(test, scores), judge.gains(test))
        found[name] = shared.kept_by_query(ranking)

    ranked(FREE, seen["test"].cosine)
    ((_, _, scores, _),) = rivals.sums(data, seen, [UNTRAINED_SUM])
    ranked(UNTRAINED_SUM, scores)
    folder = bi_encoders.contrastive(data, profile)
    read = {
        split: replace(seen[split], cosine=cosines(folder, data[split], profile))
        for split in ("validation", "test")
    }
    ranked(CONTRAST, read["test"].cosine)
    ((_, _, scores, weights),) = rivals.sums(data, read, [UNTRAINED_SUM])
    ranked(ADDED, scores)
    looks = bi_encoders.contrastive_choices(folder).to_dict("records")
    return found, {"rows": len(bi_encoders.contrastive_rows(data["train"], profile.seed)),
                   "looks": looks, "weights": weights}  # fmt: skip


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, fold)


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    goals = {
        "labels by contrast, minus the untrained bi-encoder": (CONTRAST, FREE),
        "the same added to words, minus the sum that nobody trained": (ADDED, UNTRAINED_SUM),
    }
    measure_whole_lists.merged("contrast_lists", COMPARED, goals, folder, out)


if __name__ == "__main__":
    shared.main("contrast_lists", "Labels by contrast on whole lists.", measured, merge)
