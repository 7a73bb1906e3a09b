"""How much should the teacher weigh, and how soft should it answer? Larger values than the book's.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_alpha.py --seeds 18 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_alpha.py --merge

In `student_ablations` validation chose, with two seeds, the largest α and the largest temperature
of those tried. Here three shops, each with its own teacher, have larger ones too, and T = 4 once
more: one value at a time moves away from α = 4 and T = 1. Pairs and steps are as there, 6,000 pairs
without a label, and for each student two passes over these and the labelled ones; the precision may
be another. An α of 256 leaves the labels next to nothing to say. It also lengthens the gradient,
which is cut to a length of 1. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import classifiers
import shared
from ecomkd import keys, load, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import stages
from measure_labels_only import judged

PAIRS = 6_000
BOOK = {"alpha": 4.0, "temperature": 1.0}
TRIED = {"alpha": (16.0, 64.0, 256.0), "temperature": (4.0, 16.0)}


def name_of(alpha: float, temperature: float) -> str:
    """The name of a student's row."""
    return f"α = {alpha:g}, T = {temperature:g}"


FIRST = name_of(**BOOK)
TAKEN = {field: f"{field} as validation takes it" for field in TRIED}
COMPARED = {
    (name_of(**BOOK | {field: value}), FIRST): f"{field} {value:g}, against the book's"
    for field, values in TRIED.items()
    for value in values
} | {(name, FIRST): f"{name}, against the book's" for name in TAKEN.values()}


def measured(seed: int) -> dict:
    """All students of a shop on its test queries, and what validation says of them."""
    profile = Profile.named(seed=seed)
    data = load("shop", profile)
    teacher = stages.teacher(data, profile)
    few = min(PAIRS, len(data["unlabelled"]))
    steps = profile.student_epochs * keys.batches(len(data["train"]) + few, profile)
    runs = [BOOK, *(BOOK | {field: value} for field, values in TRIED.items() for value in values)]
    systems, held = {}, {}
    for run in runs:
        folder = stages.student(
            data,
            replace(profile, **run),
            "kd_unlabelled",
            teacher_folder=teacher,
            unlabelled=few,
            steps=steps,
        )
        name = name_of(**run)
        systems[name] = judged(folder, data["test"], profile)
        held[name] = classifiers.judged(folder, data["validation"], profile)
        print(f"seed {seed}, {name}: {held[name]}", flush=True)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "systems": systems,
        "validation": held,
    }


def best(part: dict, field: str) -> str:
    """The row of the highest validation quality among the book's and those of a field; of equals
    the first."""
    rows = [FIRST, *(name_of(**BOOK | {field: value}) for value in TRIED[field])]
    return max(rows, key=lambda name: part["validation"][name]["quality"])


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    taken = [{field: best(part, field) for field in TRIED} for part in parts]
    for part, names in zip(parts, taken, strict=True):
        for field, name in names.items():
            part["systems"][TAKEN[field]] = part["systems"][name]
            part["validation"][TAKEN[field]] = part["validation"][name]
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    for name, row in rows.items():
        held = [part["validation"][name] for part in parts]
        row |= {
            f"validation {of} by_seed": [one[of] for one in held] for of in ("ndcg@10", "quality")
        }
    told = {one["system"]: one for one in differences}
    goals = [
        shared.above_over_seeds(
            f"nDCG@10: {name}, minus the book's (interval over seeds)", told[name]
        )
        for name in TAKEN.values()
    ]
    chosen = {part["seed"]: names for part, names in zip(parts, taken, strict=True)}
    data = {"rows": rows, "differences": differences, "chosen": chosen}
    report.write_recorded(out, **shared.origin("alpha", parts), data=data, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("alpha", "Larger weights and temperatures.", measured, merge)
