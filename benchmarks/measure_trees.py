"""LambdaMART with a fine-tuned teacher's score among its signals, on real film queries.

    python benchmarks/measure_trees.py --seeds 1 2 3
    python benchmarks/measure_trees.py --merge

needs ECOMKD_REAL_DATA with `msrd`. Most search engines re-rank with boosted trees over all signals.
The teacher is the query encoder of `measure_query_side.py`, fine-tuned on 400 labelled queries. On
these its scores are better than on any others, so trees that learn from the same queries would
trust it too much. They are tried beside trees that learn from 400 further labelled queries, with
the teacher's score among their signals and without it. Trees without a teacher on all 800 queries,
and a teacher of all of them in a sum, have as many labels as the trees that read the teacher. Sums
have fewer signals, of words the three of LEXICAL, where trees read eleven more; validation chooses
their weights. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn

import measure_query_side as query_side
import shared
from ecomkd import metrics, report, runtime
from ecomkd.config import Profile
from ecomkd.relevance import baselines, judge, lexical
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lambdamart import lambdamart
from ecomkd.relevance.lexical import LEXICAL
from measure_query_side import LABELLED, Lists
from measure_untrained import parts_of

OWN, OTHER, BOTH = "own", "other", "both"
"""Labelled queries: those of the teacher, as many further ones, and all of them."""
FREE_SUM, SUM, SUM_OF_BOTH = "sum, no teacher", "sum", "sum, teacher of all labels"
FREE_TREES, TREES, TREES_ON_OWN = "trees, no teacher", "trees", "trees, the teacher's own queries"
FREE_TREES_OF_BOTH = "trees, no teacher, all labels"
SCORED = ("validation", "test")
COMPARED = (
    (TREES, FREE_TREES),
    (TREES, FREE_TREES_OF_BOTH),
    (TREES, SUM),
    (TREES, SUM_OF_BOTH),
    (TREES, TREES_ON_OWN),
    (TREES, FREE_SUM),
    (FREE_TREES, FREE_SUM),
    (SUM, FREE_SUM),
)


def first_labelled(pairs: Dataset, count: int) -> Dataset:
    """The pairs of the first queries that have a relevant product, query by query."""
    pairs = query_side.by_query(pairs)
    ids, worth = np.asarray(pairs["query_id"]), judge.worth(pairs)
    relevant = set(ids[worth > 0])
    return queries_of(
        pairs.select([row for row, query in enumerate(ids) if query in relevant]), 0, count
    )


def queries_of(pairs: Dataset, start: int, stop: int) -> Dataset:
    """The pairs of some queries, counted in the order in which they come."""
    order = list(dict.fromkeys(pairs["query_id"]))
    kept = set(order[start:stop])
    return pairs.select([row for row, one in enumerate(pairs["query_id"]) if one in kept])


@functools.cache
def films() -> tuple[DatasetDict, dict[str, Lists], dict[str, np.ndarray], torch.Tensor]:
    """Labelled queries, validation and test, their lists, what words say of their pairs (N, F), and
    the products' vectors. No seed changes them."""
    profile = Profile.named("book")
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        most = max(query_side.CURVE)  # of as many queries measure_query_side takes its first
        (data,), catalogue = parts_of("msrd", profile, Path(scratch), most, 0)
    train = first_labelled(data["train"], 2 * LABELLED)
    data = DatasetDict(
        {
            OWN: queries_of(train, 0, LABELLED),
            OTHER: queries_of(train, LABELLED, 2 * LABELLED),
            BOTH: train,
            **{split: query_side.by_query(data[split]) for split in SCORED},
        }
    )
    signals = lexical.lexical_signals(catalogue), baselines.word_features(catalogue)
    of_words = {
        split: np.column_stack([signal(pairs) for signal in signals])
        for split, pairs in data.items()
    }
    place, vectors = query_side.of_products(catalogue, profile)
    lists = {split: query_side.of_pairs(pairs, place) for split, pairs in data.items()}
    return data, lists, of_words, torch.from_numpy(vectors)


def said_by(
    model: nn.Module, lists: dict[str, Lists], vectors: torch.Tensor
) -> dict[str, np.ndarray]:
    """By split, the cosines of an encoder of queries, (N,)."""
    return {
        split: query_side.in_order(query_side.cosines(model, asked, vectors), asked)
        for split, asked in lists.items()
    }


def taught(
    lists: dict[str, Lists], vectors: torch.Tensor, on: str, seed: int
) -> tuple[dict[str, np.ndarray], dict]:
    """What a teacher says that is fine-tuned `on` some queries, and what validation chose."""
    model, chosen = query_side.tuned(
        query_side.Network,
        query_side.RATES,
        lists[on],
        vectors=vectors,
        validation=lists["validation"],
        passes=query_side.passes_over(lists[on]),
        seed=seed,
    )
    return said_by(model, lists, vectors), chosen


class Systems:
    """What is judged on the test queries, and what validation chose for it."""

    def __init__(self, data: DatasetDict, of_words: dict[str, np.ndarray]):
        self.data, self.of_words = data, of_words
        self.values: dict[str, dict[str, float]] = {}
        self.choices: dict[str, dict] = {}

    def ranked(self, name: str, scores: np.ndarray) -> None:
        """Keep nDCG@10 of each test query."""
        test = self.data["test"]
        found = metrics.ranking(judge.frame(test, scores), judge.gains(test))
        self.values[name] = found["per_query"]["ndcg@10"].to_dict()

    def summed(self, name: str, *cosines: dict[str, np.ndarray]) -> None:
        """The sum of the signals LEXICAL and these, with the weights that validation prefers."""
        held, asked = (
            np.column_stack(
                [self.of_words[split][:, : len(LEXICAL)], *(of[split] for of in cosines)]
            )
            for split in SCORED
        )
        fused = choose_fusion("z", held, self.data["validation"])
        self.ranked(name, fused.scores(asked, self.data["test"]["query_id"]))
        self.choices[name] = {"weights": list(fused.weights)}

    def grown(self, name: str, on: str, *cosines: dict[str, np.ndarray]) -> None:
        """LambdaMART over all that words say and these, which learns `on` some queries."""
        shown, held, asked = (
            np.column_stack([self.of_words[split], *(of[split] for of in cosines)])
            for split in (on, *SCORED)
        )
        trees = lambdamart(shown, self.data[on], held, self.data["validation"])
        self.ranked(name, trees.scores(asked))
        self.choices[name] = trees.settings


@functools.cache
def without_teacher() -> tuple[Systems, dict[str, np.ndarray]]:
    """What no seed changes, on `films`: systems, and what the encoder says as it came."""
    data, lists, of_words, vectors = films()
    untrained = said_by(query_side.Network(), lists, vectors)
    free = Systems(data, of_words)
    free.ranked("random", np.zeros(len(data["test"])))  # ties share their places
    free.ranked("untrained", untrained["test"])
    free.summed(FREE_SUM, untrained)
    free.grown(FREE_TREES, OTHER, untrained)
    free.grown(FREE_TREES_OF_BOTH, BOTH, untrained)
    return free, untrained


def measured(seed: int) -> dict:
    """All systems of a seed: nDCG@10 of each test query, and what validation chose."""
    data, lists, of_words, vectors = films()
    (free, untrained), own = without_teacher(), Systems(data, of_words)
    said, own.choices["teacher"] = taught(lists, vectors, OWN, seed)
    own.ranked("teacher", said["test"])
    own.summed(SUM, untrained, said)
    own.grown(TREES, OTHER, untrained, said)
    own.grown(TREES_ON_OWN, OWN, untrained, said)
    said, own.choices["teacher of all labels"] = taught(lists, vectors, BOTH, seed)
    own.summed(SUM_OF_BOTH, untrained, said)
    return {
        "precision": runtime.precision(Profile.named("book")),
        "generator": None,
        "values": free.values | own.values,
        "choices": free.choices | own.choices,
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "precision"))
    found = summary(parts)
    told = shared.by_pair(found["comparisons"])
    goals = [
        shared.above(
            "film queries, nDCG@10: trees that read the teacher, with 800 labelled queries in all, "
            f"minus {what}",
            told[pair],
        )
        for what, pair in {
            "trees that do not, with 400": (TREES, FREE_TREES),
            "the teacher in a sum, with 400": (TREES, SUM),
        }.items()
    ]
    report.write_recorded(out, **shared.origin("trees", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences as `measure_query_side.summary` has them, and the choices."""
    found = query_side.summary(parts, COMPARED, ())
    kept = {name: found[name] for name in ("queries", "seeds", "rows", "comparisons")}
    return kept | {"choices": [part["choices"] for part in parts]}


if __name__ == "__main__":
    shared.main("trees", "Trees that read what a teacher says.", measured, merge)
