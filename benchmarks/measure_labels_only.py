"""Students of labels alone at their best, beside distilled ones at theirs, on the simulated shop.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_labels_only.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_labels_only.py --seeds 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_labels_only.py --merge

Each seed is a shop of its own, with its own teacher; that of seed 18 and its warm-up are the
package's recorded ones. Validation queries of that shop choose, for labels alone and for the
student with more pairs, one setting after the other: its dropout; that of the warm-up from which it
starts; the rate, in steps of three, and the number of steps, up to four times the book's and down
to a quarter, for as long as the best one lies at an end of those tried. Soft targets on the
labelled pairs have the settings that were chosen for labels alone; students from the teacher's
layers, and its head, those that were chosen for the other start. Beside the untrained bi-encoder
stands the same one on no more tokens of a pair than the students read. The test queries are for the
report. A run that is started again goes on where it stopped: what validation said of each setting
stands in the folder too, so that it need not be trained once more where its student is gone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

import classifiers
import shared
from ecomkd import features, keys, load, metrics, report, runtime
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import judge, rivals, stages
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_untrained import SHORT, cut

FREE, TEACHER = "bi-encoder, untrained", "teacher"
READ = 32
"""Tokens of a pair that teacher and students read."""
LABELS, SOFT, MORE = "labels only", "soft targets", "soft targets, more pairs"
CUT = ", from the teacher's layers"
ROWS = {LABELS: "none", SOFT: "kd", MORE: "kd_unlabelled"}
"""Kinds of students, as chapter 4 calls them, and the package's names."""
BOOK = ", the book's settings"
SEARCHED = (LABELS, MORE)
SETTINGS = ("rate", "dropout", "steps", "warmed")
"""`steps` are a share of the book's, which are two passes over labelled and unlabelled pairs;
`warmed` is the dropout of the warm-up that a student starts from."""
DROPOUTS = (0.0, 0.1)
WIDER = (("rate", 1 / 3, 4), ("rate", 3, 4), ("steps", 1 / 2, 2), ("steps", 2, 2))
"""Settings that are multiplied by a factor, so many times at most."""


def trained(
    data: DatasetDict,
    profile: Profile,
    teacher: Path,
    row: str,
    settings: dict[str, float],
    cut: bool = False,
) -> Path:
    """A student with these SETTINGS, from the warm-up's layers or, if `cut`, the teacher's."""
    # Else each rate would have a warm-up of its own to start from.
    start = stages.origin(data, replace(profile, student_dropout=settings["warmed"]))
    own = replace(
        profile,
        student_learning_rate=settings["rate"],
        student_dropout=settings["dropout"],
        student_start="teacher" if cut else "checkpoint",
        teacher=profile.teacher if cut else str(start),
    )
    pairs = len(data["train"]) + len(data["unlabelled"])
    steps = round(settings["steps"] * profile.student_epochs * keys.batches(pairs, profile))
    return stages.student(data, own, row, teacher_folder=teacher, steps=steps)


def best_of(tried: Sequence[dict]) -> dict:
    """What validation takes; of equals the one that was tried first."""
    return max(tried, key=lambda one: one["quality"])


class Search:
    """One kind of student on one shop: what was tried, and what validation chose."""

    def __init__(self, data: DatasetDict, profile: Profile, teacher: Path, row: str, log: Path):
        self.data, self.profile, self.teacher, self.row = data, profile, teacher, row
        self.tried: list[dict] = []
        self.log = log

    def folder(self, settings: dict[str, float], cut: bool = False) -> Path:
        """The student that `trained` makes with these settings."""
        return trained(self.data, self.profile, self.teacher, self.row, settings, cut)

    def validate(self, **changed: float) -> None:
        """What validation says of the best settings with some `changed`, or of the book's where
        nothing was tried yet; trains the student unless it was."""
        profile = self.profile
        book = profile.student_learning_rate, profile.student_dropout, 1.0, profile.student_dropout
        best = self.best() if self.tried else dict(zip(SETTINGS, book, strict=True))
        settings = {name: best[name] for name in SETTINGS} | changed
        if not any(settings.items() <= one.items() for one in self.tried):
            self.tried.append(settings | self.quality(settings))
            print(f"seed {profile.seed}, {self.row}: {self.tried[-1]}", flush=True)

    def quality(self, settings: dict[str, float]) -> dict[str, float]:
        """What validation says of a student, from the log where it stands there."""
        name = ", ".join(f"{of} {settings[of]:.6g}" for of in SETTINGS)
        found = json.loads(self.log.read_text(encoding="utf-8")) if self.log.exists() else {}
        if name not in found:
            folder = self.folder(settings)
            found[name] = classifiers.judged(folder, self.data["validation"], self.profile)
            write_text(self.log, json.dumps(found, indent=1) + "\n")
        return found[name]

    def best(self) -> dict:
        return best_of(self.tried)

    def run(self) -> None:
        """Try one setting after the other, from the book's on."""
        self.validate()
        for name in ("dropout", "warmed"):
            for dropout in DROPOUTS:
                self.validate(**{name: dropout})
        for name, factor, times in WIDER:
            if self.best()[name] == self.tried[0][name]:
                self.widen(name, factor, times)

    def widen(self, name: str, factor: float, times: int) -> None:
        """Multiply a setting by a factor for as long as that makes it better, `times` at most."""
        at = self.best()[name]
        for _ in range(times):
            if self.best()[name] == at:
                at *= factor
                self.validate(**{name: at})


def students(
    data: DatasetDict, profile: Profile, teacher: Path, logs: Path
) -> Iterator[tuple[str, Path, list[dict]]]:
    """Names, folders and what was tried of all students of a shop."""
    # What was tried in another precision or another shop's version is not this run's.
    made = f"{runtime.precision(profile)}-{shop.generator_hash()[:8]}"
    found = {
        name: Search(data, profile, teacher, row, logs / f"tried{profile.seed}-{row}-{made}.json")
        for name, row in ROWS.items()
    }
    for name in SEARCHED:
        search = found[name]
        search.run()
        best, book = search.best(), search.tried[0]
        yield name, search.folder(best), search.tried
        yield name + BOOK, search.folder(book), []
        yield name + CUT, search.folder(best, cut=True), []
    yield SOFT, found[SOFT].folder(found[LABELS].best()), []


def judged(folder: Path, pairs: Dataset, profile: Profile) -> dict:
    """What a part keeps of a classifier on labelled pairs: by query, and its macro-F1."""
    found = judge.evaluate(pairs, judge.predict(folder, pairs, profile))
    kept = shared.kept_by_query(found["ranking"])
    return {"macro_f1": found["classification"]["macro_f1"], **kept}


def ranked(pairs: Dataset, scores: np.ndarray) -> dict:
    """What a part keeps of (n,) scores of labelled pairs: by query."""
    return shared.kept_by_query(metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs)))


def free(data: DatasetDict, profile: Profile) -> dict[str, dict]:
    """What a part keeps of the untrained bi-encoder and of its sum with words, on the test."""
    seen = rivals.signals(data, sources.catalogue("shop", profile), profile, {})
    ((_, _, added, _),) = rivals.sums(data, seen, [UNTRAINED_SUM])
    scores = {FREE: seen["test"].cosine, UNTRAINED_SUM: added}
    return {name: ranked(data["test"], own) for name, own in scores.items()}


def measured(seed: int, logs: Path) -> dict:
    """All systems of a seed on its test queries: per query, and in classes."""
    profile = Profile.named(seed=seed)
    data = load("shop", profile)
    teacher = stages.teacher(data, profile)
    test, systems, tried = data["test"], {}, {}
    systems[TEACHER] = judged(teacher, test, profile)
    systems |= free(data, profile)
    short = features.bi_encoder_scores(cut(test, READ), profile)
    systems[SHORT[READ]] = ranked(test, short)
    for name, folder, search in students(data, profile, teacher, logs):
        systems[name] = judged(folder, test, profile)
        if search:
            tried[name] = search
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "kinds": dict(zip(test["query_id"], test["query_kind"], strict=True)),
        "systems": systems,
        "tried": tried,
    }


COMPARED = {
    (MORE, LABELS): "what distillation adds",
    (SOFT, LABELS): "soft targets on the labelled pairs, in the settings of labels alone",
    (MORE, SOFT): "then more pairs, in settings of their own",
    (MORE + CUT, LABELS + CUT): "what distillation adds, from the teacher's layers",
    (MORE, LABELS + CUT): "distilled, against labels alone from the teacher's layers",
    (LABELS, LABELS + BOOK): "what settings of their own add to labels alone",
    (MORE, MORE + BOOK): "what settings of its own add to the distilled student",
    (LABELS, FREE): "labels alone, against the untrained bi-encoder",
    (MORE, FREE): "distilled, against the untrained bi-encoder",
    (LABELS, SHORT[READ]): "labels alone, against the untrained bi-encoder on 32 tokens of a pair",
    (MORE, SHORT[READ]): "distilled, against the untrained bi-encoder on 32 tokens of a pair",
    (LABELS, UNTRAINED_SUM): "labels alone, against words and bi-encoder, untrained",
    (MORE, UNTRAINED_SUM): "distilled, against words and bi-encoder, untrained",
    (MORE, TEACHER): "distilled, against its teacher",
    (MORE + BOOK, SOFT): "more pairs in the book's settings, against soft targets",
    (MORE + BOOK, LABELS + BOOK): "what distillation adds, in the book's settings",
    (MORE + CUT, MORE): "what the teacher's layers add to the distilled student",
}
GOALS = {
    (MORE, LABELS): "distilled minus labels alone, each with settings of its own",
    (MORE + CUT, LABELS + CUT): "with these settings, from layers and head of the teacher",
}


UNSEEN = "unseen_synonym"
"""Queries with a word that no labelled query has: a third of the test, and none of validation."""


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, lifts by kind of query, what
    distillation adds on UNSEEN queries and on the others (intervals over queries), and choices."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    counts = shared.add_lift_by_kind(rows, parts)
    order = shared.by_query(parts, "ndcg@10")
    unseen = (shared.kinds_of(parts, order) == UNSEEN).to_numpy()
    order = shared.one_level(order)
    return {
        "rows": rows,
        "differences": differences,
        "queries by kind": counts,
        "added on": {
            name: metrics.paired_bootstrap(order.loc[those, MORE], order.loc[those, LABELS])
            for name, those in ((UNSEEN, unseen), ("other", ~unseen))
        },
        "tried": {part["seed"]: part["tried"] for part in parts},
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    goals = shared.goals_over_seeds(found["differences"], GOALS)
    report.write_recorded(out, **shared.origin("labels_only", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Students of labels alone at their best.")
    arguments = shared.arguments_of(parser, "labels_only", scaled=False)
    measure = partial(measured, logs=arguments.folder)
    shared.run(shared.resumed(arguments), measure, merge)


if __name__ == "__main__":
    main()
