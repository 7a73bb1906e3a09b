"""How much should the teacher weigh, and how soft should it answer? Beyond the book's first grid.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_alpha.py --seeds 18 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_alpha.py --merge

In `student_ablations` the best α and the best temperature lay at the end of what was tried, with
two seeds. Here three shops go on from there, each with its own teacher: one value at a time moves
away from α = 4 and T = 1, and all else is as there: 6,000 unlabelled pairs, and for each student as
many steps as two passes over these and the labelled ones. An α of 256 leaves the labels next to
nothing to say. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
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
COMPARED = {
    (name_of(**BOOK | {field: value}), FIRST): f"{field} {value:g}, against the book's"
    for field, values in TRIED.items()
    for value in values
}


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


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    for name, row in rows.items():
        held = [part["validation"][name] for part in parts]
        row |= {
            f"validation {of} by_seed": [one[of] for one in held] for of in ("ndcg@10", "quality")
        }
    data = {"rows": rows, "differences": differences}
    report.write_recorded(out, **shared.origin("alpha", parts), data=data, goals=[])
    print(f"Wrote {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Weight and temperature beyond the first grid.")
    arguments = shared.arguments_of(parser, "alpha", scaled=False)
    shared.run(shared.resumed(arguments), measured, merge)


if __name__ == "__main__":
    main()
