"""A base-size teacher on whole candidate lists of few judged queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_base_lists.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_base_lists.py --merge

needs ECOMKD_REAL_DATA with `esci_150`, whose queries are each tested once, in five folds, and the
packages of `mpnet`. In `measure_whole_lists` no teacher from MiniLM is shown to beat what nobody
trained. Is the network too small? Here the recipe that did best there, all layers at 5e-5 for three
passes under a spread head, trains `mpnet`, of twelve layers and 768 wide. Pairs, tokens, passes and
folds are as there, and so is the warm-up, which imitates the cosines of MiniLM on the same mined
pairs with word vectors and three layers still, here three of twelve; only its learning rate is 1e-4
and not 3e-4, which is much for a network of this size. The
teacher stands alone, and added to words and a cosine, MiniLM's or that of `mpnet`, with weights
from validation. Beside it stand the network before any label, and the bi-encoder `mpnet` as it
came, alone and added to words: it costs no label. It reads 96 tokens of a product, while MiniLM's
reads 256; that 96 cost MiniLM anything is not shown (`measure_untrained`). A run that is started
again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

import measure_untrained
import measure_whole_lists
import shared
from ecomkd import checkpoints, features, metrics, models, runtime
from ecomkd.config import Profile
from ecomkd.data.sources import product_text
from ecomkd.relevance import bi_encoders, judge, rivals, stages
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_whole_lists import FREE, GENTLE, Found, looks, ranked, warm_start, with_teacher

CHECKPOINT, WARM_UP_RATE = "mpnet", 1e-4
BASE, BASE_SUM = "base-size bi-encoder, untrained", "words and base-size bi-encoder, added up"
START, TAUGHT = "the warm start of base size, no label", "base-size teacher"
ADDED = f"{TAUGHT}, with words and bi-encoder"
ADDED_BASE = f"{TAUGHT}, with words and base-size bi-encoder"
COMPARED = (
    (TAUGHT, FREE),
    (TAUGHT, BASE),
    (TAUGHT, START),
    (TAUGHT, "random"),
    (START, FREE),
    (BASE, FREE),
    (BASE_SUM, UNTRAINED_SUM),
    (ADDED, FREE),
    (ADDED, UNTRAINED_SUM),
    (ADDED_BASE, BASE),
    (ADDED_BASE, BASE_SUM),
)


def cosines(pairs: Dataset, profile: Profile, known: dict[str, np.ndarray]) -> np.ndarray:
    """Cosine between query and product, (N,), by CHECKPOINT as it came.

    Vectors of texts that are not `known` are added there. They are computed in the precision of the
    profile, as the networks are.
    """
    queries, texts = list(pairs["query"]), product_text(pairs[:])
    fresh = list(dict.fromkeys(text for text in (*queries, *texts) if text not in known))
    if fresh:
        encoder = bi_encoders.encoder(models.checkpoint(CHECKPOINT), profile)
        encoder.max_seq_length = measure_whole_lists.TOKENS
        with runtime.autocast(profile):
            vectors = features.encode(encoder, fresh, normalize_embeddings=True)
        known.update(zip(fresh, vectors, strict=True))
    return np.array(
        [known[query] @ known[text] for query, text in zip(queries, texts, strict=True)]
    )


def recipe(profile: Profile) -> tuple[Profile, Profile]:
    """How the network is warmed up, and how it then learns from labels.

    The checkpoint is given as a folder: so its warm-up has MiniLM's cosines (`stages.warm_up`).
    """
    folder = str(checkpoints.put_together(CHECKPOINT))
    warmed = replace(profile, teacher=folder, student_learning_rate=WARM_UP_RATE)
    return warmed, replace(warmed, **GENTLE, spread_head=True)


def fold(
    case: measure_untrained.Case, profile: Profile, known: dict[str, np.ndarray]
) -> tuple[Found, dict]:
    """By system, nDCG@10 by test query with its chance, and what validation says, with the
    teacher's macro-F1 on the test pairs."""
    data, _, seen = case
    found: Found = {}
    test, weights, keep = data["test"], {}, partial(ranked, found, data["test"])

    def summed(name: str, signals: dict[str, rivals.Signals]) -> None:
        ((_, _, scores, weights[name]),) = rivals.sums(data, signals, [UNTRAINED_SUM])
        keep(name, scores)

    keep(FREE, seen["test"].cosine)
    summed(UNTRAINED_SUM, seen)
    own = {split: replace(seen[split], cosine=cosines(data[split], profile, known))
           for split in ("validation", "test")}  # fmt: skip
    keep(BASE, own["test"].cosine)
    summed(BASE_SUM, own)
    warmed, taught = recipe(profile)
    keep(START, warm_start(data, warmed))
    folder = stages.teacher(data, taught, checkpoint=stages.origin(data, warmed))
    said = {split: judge.predict(folder, data[split], profile) for split in own}
    keep(TAUGHT, metrics.expected_gain(said["test"], judge.gains(test)))
    for name, signals in ((ADDED, seen), (ADDED_BASE, own)):
        scores, weights[name] = with_teacher(data, signals, said)
        keep(name, scores)
    asked = judge.evaluate(test, said["test"])["classification"]["macro_f1"]
    return found, {"macro_f1": asked, "looks": looks(folder), "weights": weights}


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, partial(fold, known={}))


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    taught = "the base-size teacher, added to words and"
    goals = {
        f"{taught} bi-encoder, minus the bi-encoder": (ADDED, FREE),
        f"{taught} bi-encoder, minus the sum without it": (ADDED, UNTRAINED_SUM),
        f"{taught} base-size bi-encoder, minus this bi-encoder": (ADDED_BASE, BASE),
        f"{taught} base-size bi-encoder, minus the sum without it": (ADDED_BASE, BASE_SUM),
    }
    measure_whole_lists.merged("base_lists", COMPARED, goals, folder, out)


if __name__ == "__main__":
    shared.main("base_lists", "A base-size teacher on whole lists.", measured, merge)
