"""From 2,000 logged pairs to 200,000, in as many steps: does a student pass its teacher?

    ECOMKD_PRECISION=bf16 python benchmarks/measure_shop_pairs.py --seeds 24
    ECOMKD_PRECISION=bf16 python benchmarks/measure_shop_pairs.py --seeds 25
    ECOMKD_PRECISION=bf16 python benchmarks/measure_shop_pairs.py --merge

Each seed is a simulated shop of its own, which logs 200,000 pairs without a label, with its own
teacher, by the book's recipe. Its students have the book's settings, but for pairs and steps: each
takes as many steps as one pass over the labelled and all logged pairs, so what differs between them
is over how many pairs these steps go. All that is compared, and each goal, was named before
anything was measured on these shops, but for one system: the teacher of `freed_teacher`, of which
no weight stood still, was added once the students were known to pass theirs. A run that is started
again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import shared
from ecomkd import keys, load, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import stages
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_freed_teacher import FREED, freed
from measure_labels_only import FREE, TEACHER, free, judged

AMOUNTS = (200_000, 20_000, 2_000)
"""Logged pairs that a student reads, the whole log first."""


def student(amount: int) -> str:
    """The name of the student that reads so many logged pairs."""
    return f"student of {amount:,} pairs"


def measured(seed: int, amounts: Sequence[int] = AMOUNTS) -> dict:
    """All systems of a shop on its test queries: per query, and in classes."""
    profile = Profile.named("book", seed=seed, unlabelled_pairs=amounts[0])
    data = load("shop", profile)
    teacher, test = stages.teacher(data, profile), data["test"]
    systems = {TEACHER: judged(teacher, test, profile), **free(data, profile)}
    steps = keys.batches(len(data["train"]) + len(data["unlabelled"]), profile)
    for amount in amounts:
        folder = stages.student(
            data, profile, teacher_folder=teacher, unlabelled=amount, steps=steps
        )
        systems[student(amount)] = judged(folder, test, profile)
        print(f"seed {seed}, {student(amount)}: {steps} steps", flush=True)
    systems[FREED] = judged(freed(data, profile), test, profile)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "kinds": dict(zip(test["query_id"], test["query_kind"], strict=True)),
        "systems": systems,
        "steps": steps,
    }


MOST, MIDDLE, FEWEST = map(student, AMOUNTS)
COMPARED = {
    (MOST, TEACHER): "200,000 pairs, against the teacher",
    (MIDDLE, TEACHER): "20,000 pairs, against the teacher",
    (FEWEST, TEACHER): "2,000 pairs, against the teacher",
    (MOST, MIDDLE): "what 200,000 pairs add to 20,000, in as many steps",
    (MIDDLE, FEWEST): "what 20,000 pairs add to 2,000, in as many steps",
    (MOST, FEWEST): "what 200,000 pairs add to 2,000, in as many steps",
    (TEACHER, UNTRAINED_SUM): "the teacher, against words and bi-encoder, untrained",
    (MOST, UNTRAINED_SUM): "200,000 pairs, against words and bi-encoder, untrained",
    (MOST, FREE): "200,000 pairs, against the untrained bi-encoder",
    (FREED, TEACHER): "no weight frozen, another head and warm-up",
    (MOST, FREED): "200,000 pairs, against a teacher without frozen weights",
    (MIDDLE, FREED): "20,000 pairs, against a teacher without frozen weights",
}
GOALS = {
    (MOST, TEACHER): "the student of 200,000 pairs minus its teacher",
    (MOST, MIDDLE): "200,000 pairs minus 20,000, in as many steps",
    (MOST, FEWEST): "200,000 pairs minus 2,000, in as many steps",
}


def by_query(parts: Sequence[dict]) -> dict[str, list]:
    """The nDCG@10 of each query, a column for each system and one for a random order, so that a
    further shop can be compared with these."""
    order = shared.by_query(parts, "ndcg@10")
    chance = shared.by_query(parts, "random_ndcg@10")[TEACHER]
    columns = {"kind": shared.kinds_of(parts, order), "random order": chance.round(6)}
    return order.round(6).assign(**columns).reset_index().to_dict("list")


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, lifts by kind of query, the steps
    of each shop's students, and what each query got."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    return {
        "rows": rows,
        "differences": differences,
        "queries by kind": shared.add_lift_by_kind(rows, parts),
        "steps": {part["seed"]: part["steps"] for part in parts},
        "by query": by_query(parts),
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds. The goals go by the interval over
    the queries of all shops: of two shops there is none over shops."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    told = shared.by_pair(found["differences"])
    goals = [
        shared.above(f"nDCG@10: {name} (interval over queries)", told[pair])
        for pair, name in GOALS.items()
    ]
    report.write_recorded(out, **shared.origin("shop_pairs", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("shop_pairs", "More pairs in as many steps, on simulated shops.", measured, merge)
