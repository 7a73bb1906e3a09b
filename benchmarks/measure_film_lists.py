"""Rankings trained as rankings where many queries test: on few labelled film queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_film_lists.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_film_lists.py --seeds 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_film_lists.py --merge

needs ECOMKD_REAL_DATA with `msrd`. On the ESCI lists the network that learnt rankings as rankings
stood highest of seven, with one seed, and more than the loss was changed (`measure_further_lists`).
Is that found again on queries that took no part in it? And is it the loss? A network learns from as
many labelled queries as there, and from four times as many; a third as many queries choose the look
and the weights of the sums. Beside it stands one that differs in the loss alone: it learns each
product by itself, from the same head, in the same steps, with the same look. A seed is a warm-up,
an order of the training and labelled and validation queries of its own; the test queries are the
same for all. All that is compared, and each goal, was named before anything was measured, but for
one rival that was added afterwards: the sum without a network whose weights the labelled queries
choose too. No rate was searched. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets

import measure_trees
import measure_untrained
import measure_whole_lists
import msrd_part
import shared
from ecomkd import runtime
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import mining, rivals, stages
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lexical import LEXICAL
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_further_lists import SPLITS, Loss, as_a_ranking, lists, looks, u_of
from measure_whole_lists import FREE, GENTLE, START, TOKENS, Found, added, ranked, warm_start

SEEDS = (18, 19, 20)
SIZES = (256, 64)
"""Labelled queries; a fold of the ESCI lists has 64."""
SHARE = 3
"""So many labelled queries to one of validation."""
TESTED = 1_032
RANKED, APART = "rankings as rankings", "each product by itself"
MORE_WEIGHED = f"{UNTRAINED_SUM}, weights from all labels"
"""The sum without a network, whose weights the labelled queries choose too."""


def by_itself(u: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """L = −1/D Σ_d (g_d log σ(u_d) + (1 − g_d) log(1 − σ(u_d)))."""
    return torch.nn.functional.binary_cross_entropy_with_logits(u, gains)


TAUGHT: dict[str, tuple[Loss, str]] = {
    RANKED: (as_a_ranking, "lists"),
    APART: (by_itself, "products_by_themselves"),
}
"""Loss and stage of each network."""
ASKED = (
    (RANKED, START),
    (RANKED, APART),
    (RANKED, FREE),
    (APART, START),
    (APART, FREE),
    (added(RANKED), UNTRAINED_SUM),
    (added(RANKED), FREE),
    (added(RANKED), added(APART)),
    (added(APART), UNTRAINED_SUM),
    (UNTRAINED_SUM, FREE),
    *((name, MORE_WEIGHED) for name in (*TAUGHT, *map(added, TAUGHT), UNTRAINED_SUM)),
)
"""The pairs of systems whose difference is asked, of those that have the same labels."""
GOALS = {
    "rankings as rankings minus the warm start": (RANKED, START),
    "rankings as rankings minus each product by itself": (RANKED, APART),
    "rankings as rankings minus the bi-encoder": (RANKED, FREE),
    "rankings as rankings, added to what is free, minus the sum without it": (
        added(RANKED),
        UNTRAINED_SUM,
    ),
}
"""The pairs of which the first is to lie above the second."""


def of(name: str, size: int) -> str:
    """The row of a system that has learnt from so many labelled queries."""
    return f"{name}, {size} queries"


def compared(size: int) -> list[tuple[str, str]]:
    """The pairs of systems whose difference is asked, of those that have so many labels."""
    return [(known(one, size), known(other, size)) for one, other in ASKED]


def known(name: str, size: int) -> str:
    """The row of a system, which is the same for all sizes where it has seen no label."""
    return name if name in (START, FREE) else of(name, size)


COMPARED = (
    (START, FREE),
    *(pair for size in SIZES for pair in compared(size)),
    *((of(name, SIZES[0]), of(name, SIZES[1])) for name in (RANKED, APART)),
)


def parts_of(seed: int, profile: Profile) -> tuple[list[DatasetDict], Dataset]:
    """The data of a seed, the larger part first, and the catalogue."""
    labelled = len(SEEDS) * SIZES[0]
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        folder = Path(scratch) / "msrd"
        msrd_part.write(folder, labelled, labelled // SHARE, TESTED, 0)
        data, catalogue = sources.load(folder, profile), sources.catalogue(folder, profile)
    data = mining.with_unlabelled(data, catalogue, profile)
    return [own_part(data, SEEDS.index(seed), size) for size in SIZES], catalogue


def own_part(data: DatasetDict, place: int, size: int) -> DatasetDict:
    """The data with so many labelled queries, and a third as many of validation, none of which
    another `place` has. A larger part holds a smaller one."""
    parts = {}
    for split, share in (("train", 1), ("validation", SHARE)):
        begin = place * SIZES[0] // share
        parts[split] = measure_trees.queries_of(data[split], begin, begin + size // share)
    return DatasetDict({**data, **parts})


def summed(
    data: DatasetDict,
    seen: Mapping[str, rivals.Signals],
    u: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """The scores of the test pairs by words and cosine, and `u` if it is given, in standard units,
    and the weights that validation chose."""
    names = (*LEXICAL, rivals.COSINE, *(["u"] if u else []))
    signals = {
        split: np.column_stack([seen[split].words, seen[split].cosine, *([u[split]] if u else [])])
        for split in SPLITS
    }
    chosen = choose_fusion("z", signals["validation"], data["validation"])
    scores = chosen.scores(signals["test"], data["test"]["query_id"])
    return scores, dict(zip(names, chosen.weights, strict=True))


def all_labels(
    data: DatasetDict, seen: Mapping[str, rivals.Signals]
) -> tuple[DatasetDict, dict[str, rivals.Signals]]:
    """The same with the labelled queries among those of validation. For a sum that no network
    joins: a network would be better on the queries that taught it."""
    splits = ("train", "validation")
    pairs = concatenate_datasets([data[split] for split in splits])
    joined = {
        of: np.concatenate([getattr(seen[split], of) for split in splits])
        for of in ("words", "features", "cosine")
    }
    known = rivals.Signals(**joined, answers={})
    return DatasetDict({**data, "validation": pairs}), {**seen, "validation": known}


def of_case(case: measure_untrained.Case, profile: Profile) -> tuple[Found, dict[str, Any]]:
    """nDCG@10 of the systems by test query, and what validation says of them."""
    data, _, seen = case
    found: Found = {}
    told, keep, start = {}, partial(ranked, found, data["test"]), stages.origin(data, profile)
    gentle = replace(profile, **GENTLE)
    keep(FREE, seen["test"].cosine)
    for name, own in ((UNTRAINED_SUM, (data, seen)), (MORE_WEIGHED, all_labels(data, seen))):
        scores, told[name] = summed(*own)
        keep(name, scores)
    for name, (loss, stage) in TAUGHT.items():
        folder = lists(data, gentle, start, loss, stage)
        u = u_of(folder, data, profile)
        keep(name, u["test"])
        scores, weights = summed(data, seen, u)
        keep(added(name), scores)
        told[name] = {"weights": weights, "looks": looks(folder)}
    return found, told


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries."""
    profile = Profile.named("book", seed=seed, max_length=TOKENS)
    parts, catalogue = parts_of(seed, profile)
    systems: Found = {}
    ranked(systems, parts[0]["test"], START, warm_start(parts[0], profile))
    choices = []
    for case in measure_untrained.folds(parts, catalogue, profile):
        found, told = of_case(case, profile)
        print(f"seed {seed}: {told}", flush=True)
        size = len(set(case[0]["train"]["query_id"]))
        chance = {"random": found.pop("random")}
        systems |= chance | {known(name, size): values for name, values in found.items()}
        choices.append(told)
    return {
        "precision": runtime.precision(profile),
        "generator": None,
        "systems": systems,
        "choices": dict(zip(SIZES, choices, strict=True)),
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    goals = {
        f"{size} labelled queries: {what}": (known(one, size), known(other, size))
        for size in SIZES
        for what, (one, other) in GOALS.items()
    }
    measure_whole_lists.merged("film_lists", COMPARED, goals, folder, out)


if __name__ == "__main__":
    shared.main("film_lists", "Rankings as rankings on film queries.", measured, merge)
