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

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

import measure_untrained
import measure_whole_lists
import shared
from ecomkd import checkpoints, features, metrics, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data.sources import product_text
from ecomkd.relevance import bi_encoders, judge, rivals, stages
from ecomkd.relevance.tables import TEACHER, TEACHER_SUM, UNTRAINED_SUM
from measure_whole_lists import FREE, GENTLE, looks, warm_start

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
) -> tuple[dict[str, dict], dict]:
    """By system, nDCG@10 by test query with its chance, and what validation says, with the
    teacher's macro-F1 on the test pairs."""
    data, _, seen = case
    test, found, weights = data["test"], {}, {}

    def ranked(name: str, scores: np.ndarray) -> None:
        per_query = metrics.ranking(judge.frame(test, scores), judge.gains(test))["per_query"]
        found[name] = {"ndcg@10": per_query["ndcg@10"].to_dict()}
        found["random"] = {"ndcg@10": per_query["random_ndcg@10"].to_dict()}

    def summed(name: str, of: str, signals: dict[str, rivals.Signals]) -> None:
        ((_, _, scores, weights[name]),) = rivals.sums(data, signals, [of])
        ranked(name, scores)

    ranked(FREE, seen["test"].cosine)
    summed(UNTRAINED_SUM, UNTRAINED_SUM, seen)
    own = {split: replace(seen[split], cosine=cosines(data[split], profile, known))
           for split in ("validation", "test")}  # fmt: skip
    ranked(BASE, own["test"].cosine)
    summed(BASE_SUM, UNTRAINED_SUM, own)
    warmed, taught = recipe(profile)
    ranked(START, warm_start(data, warmed))
    folder = stages.teacher(data, taught, checkpoint=stages.origin(data, warmed))
    said = {split: judge.predict(folder, data[split], profile) for split in own}
    ranked(TAUGHT, metrics.expected_gain(said["test"], judge.gains(test)))
    for name, signals in ((ADDED, seen), (ADDED_BASE, own)):
        read = {split: replace(signals[split], answers={TEACHER: answers})
                for split, answers in said.items()}  # fmt: skip
        summed(name, TEACHER_SUM, read)
    asked = judge.evaluate(test, said["test"])["classification"]["macro_f1"]
    return found, {"macro_f1": asked, "looks": looks(folder), "weights": weights}


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, partial(fold, known={}))


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "precision"))
    found = measure_whole_lists.summary(parts, COMPARED)
    told = shared.by_pair(found["comparisons"])
    goals = [
        shared.above(f"nDCG@10: the base-size teacher, added to words and {own}, minus {name}",
                     told[row, other])
        for row, own, other, name in (
            (ADDED, "bi-encoder", FREE, "the bi-encoder"),
            (ADDED, "bi-encoder", UNTRAINED_SUM, "the sum without it"),
            (ADDED_BASE, "base-size bi-encoder", BASE, "this bi-encoder"),
            (ADDED_BASE, "base-size bi-encoder", BASE_SUM, "the sum without it"),
        )
    ]  # fmt: skip
    report.write_recorded(out, **shared.origin("base_lists", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="A base-size teacher on whole lists.")
    asked = shared.arguments_of(parser, "base_lists", scaled=False)
    shared.run(shared.resumed(asked), measured, merge)


if __name__ == "__main__":
    main()
