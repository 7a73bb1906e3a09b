"""Does a student pass its teacher with five times the pairs? On shops that log 100,000 of them.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_shop_log.py --seeds 21 22 23
    ECOMKD_PRECISION=bf16 python benchmarks/measure_shop_log.py --merge

Each seed is a simulated shop of its own, with its own teacher, by the book's recipe. Its students
have the book's settings, but for pairs and steps. The book's student reads 20,000 logged pairs
twice. Five times the pairs also mean more steps, so another student takes as many steps over these
20,000 as the whole log takes in one pass: between the two the steps differ, and between it and the
student of the whole log the pairs. All that is compared, and both goals, was named before anything
was measured on these shops. A run that is started again goes on where it stopped.
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
from measure_labels_only import FREE, TEACHER, free, judged

LOG, FEWER = 100_000, 20_000
BOOK, LONGER, WHOLE = "the book's student", "as many steps as the whole log", "the whole log"


def lengths(labelled: int, log: int, fewer: int, profile: Profile) -> dict[str, tuple[int, int]]:
    """By student how many logged pairs it reads, and in how many steps."""
    once = keys.batches(labelled + log, profile)
    book = profile.student_epochs * keys.batches(labelled + fewer, profile)
    return {BOOK: (fewer, book), LONGER: (fewer, once), WHOLE: (log, once)}


def measured(seed: int, log: int = LOG, fewer: int = FEWER) -> dict:
    """All systems of a shop on its test queries: per query, and in classes."""
    profile = Profile.named("book", seed=seed, unlabelled_pairs=log)
    data = load("shop", profile)
    teacher, test = stages.teacher(data, profile), data["test"]
    systems = {TEACHER: judged(teacher, test, profile), **free(data, profile)}
    read = lengths(len(data["train"]), len(data["unlabelled"]), fewer, profile)
    for name, (pairs, steps) in read.items():
        student = stages.student(
            data, profile, teacher_folder=teacher, unlabelled=pairs, steps=steps
        )
        systems[name] = judged(student, test, profile)
        print(f"seed {seed}, {name}: {steps} steps", flush=True)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "kinds": dict(zip(test["query_id"], test["query_kind"], strict=True)),
        "systems": systems,
        "read": read,
    }


COMPARED = {
    (WHOLE, TEACHER): "five times the pairs, against the teacher",
    (WHOLE, LONGER): "what five times the pairs add, in as many steps",
    (LONGER, BOOK): "what more steps add, over the same pairs",
    (WHOLE, BOOK): "pairs and steps together",
    (BOOK, TEACHER): "the book's student, against the teacher",
    (LONGER, TEACHER): "more steps over the same pairs, against the teacher",
    (TEACHER, UNTRAINED_SUM): "the teacher, against words and bi-encoder, untrained",
    (WHOLE, UNTRAINED_SUM): "five times the pairs, against words and bi-encoder, untrained",
    (WHOLE, FREE): "five times the pairs, against the untrained bi-encoder",
}
GOALS = {
    (WHOLE, TEACHER): "the student of the whole log minus its teacher",
    (WHOLE, LONGER): "five times the pairs minus a fifth of them, in as many steps",
}


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, lifts by kind of query, and how
    many pairs and steps each student had."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    return {
        "rows": rows,
        "differences": differences,
        "queries by kind": shared.add_lift_by_kind(rows, parts),
        "read": {part["seed"]: part["read"] for part in parts},
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    goals = shared.goals_over_seeds(found["differences"], GOALS)
    report.write_recorded(out, **shared.origin("shop_log", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("shop_log", "Five times the pairs, on simulated shops.", measured, merge)
