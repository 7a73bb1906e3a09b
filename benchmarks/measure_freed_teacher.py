"""Students of a teacher of which no weight stood still, on the simulated shop.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_freed_teacher.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_freed_teacher.py --seeds 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_freed_teacher.py --merge

The book's recorded teacher keeps its word vectors and its lower layers as they were pretrained. The
one of `pretraining` is better: no weight of it stands still, nor did one in its warm-up, which had
another learning rate, and its head is drawn from another seed. What does its student keep of its
lift? The shops are those of `labels_only`, and so are the settings: soft targets on the labelled
pairs have what validation chose there for labels alone, more pairs what it chose for more pairs,
though under the other teacher. All students start from the book's warm-up and keep its word
vectors. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from datasets import DatasetDict

import measure_labels_only
import measure_pretraining
import shared
from ecomkd import load, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import stages
from ecomkd.relevance.tables import over_seeds
from measure_labels_only import LABELS, MORE, ROWS, SETTINGS, SOFT, TEACHER

FREED = "teacher, no weight frozen"
SOFT_FREED, MORE_FREED = f"{SOFT}, of it", f"{MORE}, of it"
COMPARED = {
    (FREED, TEACHER): "no weight frozen, another head and warm-up",
    (MORE_FREED, LABELS): "what distillation from it adds",
    (SOFT_FREED, LABELS): "its soft targets on the labelled pairs, in the settings of labels alone",
    (MORE_FREED, SOFT_FREED): "then more pairs, in settings of their own",
    (SOFT_FREED, SOFT): "soft targets of it, against those of the recorded teacher",
    (MORE_FREED, MORE): "the same, with more pairs",
    (MORE_FREED, FREED): "distilled, against its teacher",
    (MORE, FREED): "the recorded teacher's student, against the freed teacher",
}
KEPT = (MORE_FREED, MORE)
"""Students of which is told what share of the freed teacher's lift they keep."""


def chosen(seed: int) -> dict[str, dict[str, float]]:
    """What validation chose on a shop of `labels_only`, for labels alone and for more pairs."""
    tried = report.recorded("labels_only")["data"]["tried"][str(seed)]
    best = {name: measure_labels_only.best_of(runs) for name, runs in tried.items()}
    return {name: {of: run[of] for of in SETTINGS} for name, run in best.items()}


def freed(data: DatasetDict, profile: Profile) -> Path:
    """The folder of the teacher that `pretraining` calls pretrained and warmed up."""
    name = measure_pretraining.WARMED
    rates = report.recorded("pretraining")["data"]["rates"][name]
    with TemporaryDirectory(prefix="ecomkd-") as place:
        own = measure_pretraining.settled(profile, name, rates, Path(place))
        start = measure_pretraining.STARTS[name]
        return measure_pretraining.fine_tuned(data, own, start, Path(place))


def measured(seed: int) -> dict:
    """All systems of a seed on its test queries: per query, and in classes."""
    profile = Profile.named(seed=seed)
    data, settings = load("shop", profile), chosen(seed)
    recorded, free = stages.teacher(data, profile), freed(data, profile)
    test, systems = data["test"], {}

    def judged(name: str, folder: Path) -> None:
        systems[name] = measure_labels_only.judged(folder, test, profile)

    def student(row: str, teacher: Path, of: str) -> Path:
        return measure_labels_only.trained(data, profile, teacher, ROWS[row], settings[of])

    judged(TEACHER, recorded)
    judged(FREED, free)
    judged(LABELS, student(LABELS, recorded, LABELS))
    judged(SOFT, student(SOFT, recorded, LABELS))
    judged(MORE, student(MORE, recorded, MORE))
    judged(SOFT_FREED, student(SOFT, free, LABELS))
    judged(MORE_FREED, student(MORE, free, MORE))
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "kinds": dict(zip(test["query_id"], test["query_kind"], strict=True)),
        "systems": systems,
        "settings": settings,
    }


GOALS = {
    (MORE_FREED, LABELS): "distilled from a teacher without frozen weights, minus labels alone",
    (MORE_FREED, MORE): "distilled from a teacher without frozen weights, minus from the recorded "
    "one",
}


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, lifts by kind of query, the
    settings of each shop, and of each of KEPT its share of the freed teacher's lift."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    counts = shared.add_lift_by_kind(rows, parts)
    lifts = pd.DataFrame({name: row["lift@10 by_seed"] for name, row in rows.items()})
    return {
        "rows": rows,
        "differences": differences,
        "queries by kind": counts,
        "kept": {
            name: over_seeds(lifts, lambda mean, name=name: mean[name] / mean[FREED])
            for name in KEPT
        },
        "settings": {part["seed"]: part["settings"] for part in parts},
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    share = found["kept"][MORE_FREED]
    goals = shared.goals_over_seeds(found["differences"], GOALS)
    goals.append(
        shared.at_least(
            "share that its student keeps of the lift of a teacher without frozen weights "
            "(interval over seeds)",
            share,
            0.97,
        )
    )
    report.write_recorded(out, **shared.origin("freed_teacher", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("freed_teacher", "Students of a teacher without frozen weights.", measured, merge)
