"""Labels as weights of a sum, against labels that fine-tune an encoder first.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_sum_weights.py --seeds 1 2 3
    ECOMKD_PRECISION=bf16 python benchmarks/measure_sum_weights.py --merge

needs ECOMKD_REAL_DATA with `msrd`, and the packages of `mpnet`. On film queries a fine-tuned
encoder of queries and words together beat words and the same encoder as it came
(`measure_query_side`, `measure_frontier`). Both sums had their weights from 150 validation queries.
But the sum without fine-tuning could have had more: the labelled queries, which it left unused.
Here they choose its weights too. So that the fine-tuned side is at its best as well, its weights
come from the same queries: what it says of a labelled query comes from an encoder that was
fine-tuned on others (FOLDS of them). A seed has labelled and validation queries of its own; the
test queries are the same for all. All that is compared, and each goal, was named before anything
was measured. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

import measure_whole_lists
import msrd_part
import shared
from ecomkd import runtime
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import lexical
from ecomkd.relevance.fusion import choose_fusion
from measure_query_side import (
    RATES,
    Lists,
    Network,
    by_query,
    cosines,
    in_order,
    of_pairs,
    of_products,
    passes_over,
    tuned,
)
from measure_trees import queries_of
from measure_whole_lists import Found, ranked

SEEDS = (1, 2, 3)


class Encoder(NamedTuple):
    """What reads the queries, the rates that are tried, and how many labelled queries, the most
    first."""

    name: str
    rates: tuple[float, ...]
    sizes: tuple[int, ...]


ENCODERS = {
    "six layers": Encoder("minilm", RATES, (1_600, 400, 100)),
    # The rate is the one that `measure_frontier` chose of four.
    "base size": Encoder("mpnet", (1e-4,), (400,)),
}
MOST = max(size for encoder in ENCODERS.values() for size in encoder.sizes)
VALIDATION, TESTED = 150, 2_064
FOLDS = 3
FREE, TEACHER, TAUGHT = "words + untrained", "teacher", "words + teacher"
ALL = ", weights from all labels"


@dataclass(frozen=True)
class Part:
    """Judged pairs, query by query, and what is known of them without a label."""

    pairs: Dataset
    asked: Lists
    words: np.ndarray
    """(N, 3)."""

    def some(self, start: int, stop: int) -> Part:
        """Of the queries from `start` to `stop`, in the order in which they come."""
        rows = self.asked.mask.sum(1).cumsum(0).tolist()
        begin, end = (rows[place - 1] if place else 0 for place in (start, stop))
        return Part(
            queries_of(self.pairs, start, stop),
            self.asked.part(range(start, stop)),
            self.words[begin:end],
        )

    def columns(self, found: np.ndarray) -> np.ndarray:
        """(N, 4), words and these scores."""
        return np.column_stack([self.words, found])


def of(name: str, encoder: str, size: int) -> str:
    """The row of a system that had so many labelled queries."""
    return f"{name}, {encoder}, {size} queries"


def films(name: str, profile: Profile) -> tuple[dict[str, Part], torch.Tensor]:
    """All labelled, validation and test queries of all seeds, and the products' vectors."""
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        folder = Path(scratch) / "msrd"
        msrd_part.write(folder, len(SEEDS) * MOST, len(SEEDS) * VALIDATION, TESTED, 0)
        data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    place, vectors = of_products(catalogue, profile, name)
    words = lexical.lexical_signals(catalogue)
    parts = {}
    for split in ("train", "validation", "test"):
        pairs = by_query(data[split])
        parts[split] = Part(pairs, of_pairs(pairs, place), words(pairs))
    return parts, torch.from_numpy(vectors)


def summed(
    chosen: Sequence[tuple[Part, np.ndarray]], test: Part, found: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """The sum of words and scores on the test pairs, and its weights, which these parts choose."""
    pairs = concatenate_datasets([part.pairs for part, _ in chosen])
    columns = np.concatenate([part.columns(scores) for part, scores in chosen])
    fused = choose_fusion("z", columns, pairs)
    return fused.scores(test.columns(found), test.pairs["query_id"]), list(fused.weights)


def crossed(
    train: Part, fit: Callable[[Lists], tuple[Network, dict]], vectors: torch.Tensor
) -> np.ndarray:
    """What is said of each labelled pair by an encoder that learnt from the other folds alone."""
    said = torch.zeros(train.asked.rows.shape)
    places = np.arange(len(train.asked.queries))
    for fold in np.array_split(places, FOLDS):
        model, _ = fit(train.asked.part(np.setdiff1d(places, fold)))
        said[fold] = cosines(model, train.asked.part(fold), vectors)
    return in_order(said, train.asked)


def of_size(
    encoder: str, train: Part, validation: Part, test: Part, vectors: torch.Tensor, seed: int
) -> tuple[Found, dict]:
    """nDCG@10 of all systems of a size by test query, and what validation chose."""
    name, rates, _ = ENCODERS[encoder]
    found: Found = {}
    weights: dict[str, list[float]] = {}
    size = len(train.asked.queries)

    def said(model: Network, part: Part) -> np.ndarray:
        return in_order(cosines(model, part.asked, vectors), part.asked)

    def sums(name: str, model: Network, of_train: np.ndarray) -> None:
        few, answers = [(validation, said(model, validation))], said(model, test)
        for row, chosen in ((name, few), (name + ALL, [*few, (train, of_train)])):
            scores, weights[row] = summed(chosen, test, answers)
            ranked(found, test.pairs, of(row, encoder, size), scores)

    def fit(asked: Lists, rates: Sequence[float]) -> tuple[Network, dict]:
        asked, make = asked.labelled(), partial(Network, None, name)
        passes = passes_over(asked)
        return tuned(make, rates, asked, vectors, validation.asked, passes=passes, seed=seed)

    untrained = Network(None, name)
    sums(FREE, untrained, said(untrained, train))
    teacher, chosen = fit(train.asked, rates)
    ranked(found, test.pairs, of(TEACHER, encoder, size), said(teacher, test))
    others = partial(fit, rates=(chosen["rate"],))
    sums(TAUGHT, teacher, crossed(train, others, vectors))
    return found, chosen | {"weights": weights}


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries."""
    profile, place = Profile.named("book", seed=seed), SEEDS.index(seed)
    systems: Found = {}
    choices = {}
    for encoder, (name, _, sizes) in ENCODERS.items():
        parts, vectors = films(name, profile)
        validation = parts["validation"].some(place * VALIDATION, (place + 1) * VALIDATION)
        for size in sizes:
            train = parts["train"].some(place * MOST, place * MOST + size)
            found, chosen = of_size(encoder, train, validation, parts["test"], vectors, seed)
            systems |= found
            choices[f"{encoder}, {size} queries"] = chosen
            print(f"seed {seed}, {encoder}, {size} queries: {chosen}", flush=True)
    return {
        "precision": runtime.precision(profile),
        "generator": None,
        "systems": systems,
        "choices": choices,
    }


ASKED = (
    (TAUGHT + ALL, FREE + ALL),
    (TAUGHT, FREE + ALL),
    (TAUGHT, FREE),
    (FREE + ALL, FREE),
    (TAUGHT + ALL, TAUGHT),
    (TEACHER, FREE + ALL),
)
"""The pairs of systems whose difference is asked, of those that have the same labels."""
CASES = [(encoder, size) for encoder, (*_, sizes) in ENCODERS.items() for size in sizes]
COMPARED = tuple((of(one, *case), of(other, *case)) for case in CASES for one, other in ASKED)


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    goals = {}
    for encoder, size in CASES:
        free = of(FREE + ALL, encoder, size)
        for chosen, taught in (("all labels", TAUGHT + ALL), ("validation", TAUGHT)):
            what = f"{encoder}, {size} labelled queries: words and the fine-tuned encoder, weights"
            what += f" from {chosen}, minus the free sum, weights from all labels"
            goals[what] = (of(taught, encoder, size), free)
    measure_whole_lists.merged("sum_weights", COMPARED, goals, folder, out)


if __name__ == "__main__":
    shared.main("sum_weights", "Labels as weights of a sum, or to fine-tune.", measured, merge)
