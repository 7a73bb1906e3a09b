"""Students of a sum that nobody trained, on whole candidate lists of few judged queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_sum_students.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_sum_students.py --merge

needs ECOMKD_REAL_DATA with `esci_150`, whose queries are each tested once, in five folds. The
book's teacher has no order there to pass on (`core_esci_150`). So the teacher is what nobody
trained: words and bi-encoder, added up, with weights from validation. Networks of three layers read
query and product together and learn from the labels alone; from these and the sum's answers for the
same pairs; or from its answers for mined pairs too, whose queries nobody judged. All start from the
checkpoint as it came, without the book's warm-up, under a new head. The two that hear the sum have
the book's settings; labels alone have those of TRIED that validation takes. All but one of these
take as many steps as the student with mined pairs. Within each run, the order of the validation
queries chooses the checkpoint. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

import measure_untrained
import measure_whole_lists
import shared
from ecomkd import distill, features, keys, metrics, models, report
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.relevance import judge, rivals, stages
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lexical import lexical_signals
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_whole_lists import FREE

MINED = 4_000
"""So many of the book's 20,000 mined pairs a student learns from, as in `core_esci_150`."""
LABELS, SOFT, MORE = "labels only", "the sum's answers too", "the sum's answers, more pairs"
BOOK = {"rate": 1.0, "steps": 1.0, "dropout": 0.0}
"""Shares of the book's rate and of the steps of the student with mined pairs, and the dropout."""
TRIED = (
    BOOK,
    BOOK | {"rate": 1 / 3},
    BOOK | {"rate": 1 / 9},
    BOOK | {"rate": 1 / 3, "steps": 0.25},
    BOOK | {"rate": 1 / 3, "dropout": 0.1},
)
"""For labels alone."""


def answers(
    data: DatasetDict, catalogue: Dataset, seen: dict[str, rivals.Signals], profile: Profile
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The sum's logits, (N, C), for the pairs of `train` and `unlabelled`, and what they hang on.

    Class c has 2 g_c z, with its gain g_c and the pair's score z in standard deviations from the
    mean over the mined pairs: between the best class and a worthless one, the odds of the warm-up.
    """
    mined = data["unlabelled"]
    cosine = features.bi_encoder_scores(mined, profile)
    signals = {split: np.column_stack([own.words, own.cosine]) for split, own in seen.items()}
    signals["unlabelled"] = np.column_stack([lexical_signals(catalogue)(mined), cosine])
    fused = choose_fusion("z", signals["validation"], data["validation"])
    scores = {split: fused.scores(signals[split], data[split]["query_id"])
              for split in ("train", "unlabelled")}  # fmt: skip
    mean, deviation = scores["unlabelled"].mean(), scores["unlabelled"].std()
    gains = np.asarray(list(judge.gains(data["test"]).values()))
    told = {split: 2 * np.outer((own - mean) / deviation, gains) for split, own in scores.items()}
    return told, [*fused.weights, *fused.means, *fused.deviations, mean, deviation]


def student(
    data: DatasetDict,
    told: dict[str, np.ndarray],
    weighed: list[float],
    profile: Profile,
    row: str,
    settings: dict[str, float],
) -> Path:
    """The folder of a network that learns as `row` says."""
    pairs = len(data["train"]) + len(told["unlabelled"])
    passes = profile.student_epochs * keys.batches(pairs, profile)
    steps = max(1, round(settings["steps"] * passes))
    rate = settings["rate"] * profile.student_learning_rate
    splits = {LABELS: (), SOFT: ("train",), MORE: ("train", "unlabelled")}[row]

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(profile.teacher)

        def encoded(split: str) -> Dataset:
            return distill.encode(data[split], tokenizer, profile.max_length)

        taught = [
            encoded(split).add_column("teacher_logits", told[split].tolist()) for split in splits
        ]
        labels = data["train"].features["label"].names
        whole = models.build_teacher(profile.teacher, labels, profile.seed)
        learner = models.build_student(whole, profile.student_layers)
        models.freeze(learner, 0)
        models.set_dropout(learner, settings["dropout"])
        distill.fit(
            learner,
            concatenate_datasets(taught) if taught else encoded("train"),
            encoded("validation"),
            tokenizer,
            profile,
            folder,
            steps=steps,
            learning_rate=rate,
            quality=lambda logits: {"quality": ndcg(data["validation"], judge.softmax(logits))},
            alpha=profile.alpha if taught else 0.0,
        )

    parts = [
        row,
        settings | {"rate": rate, "steps": steps},
        keys.digests(data["train"], data["validation"], *(data[split] for split in splits)),
        # Not the logits: their last digits depend on the number of threads.
        [f"{value:.4g}" for value in weighed] if splits else None,
        keys.settings_of(profile, "teacher", "student_layers", "alpha"),
    ]
    return stage("sum_student", parts, make, profile.artifacts, recipe=1)


def ndcg(pairs: Dataset, probabilities: np.ndarray) -> float:
    """nDCG@10."""
    return float(judge.evaluate(pairs, probabilities)["ranking"]["ndcg@10"])


def fold(case: measure_untrained.Case, profile: Profile) -> tuple[dict[str, dict], list[dict]]:
    """By system, nDCG@10 by test query with its chance, and what validation says of each run."""
    data, catalogue, seen = case
    test, found, tried = data["test"], {}, []

    def ranked(name: str, scores: np.ndarray) -> None:
        ranking = metrics.ranking(judge.frame(test, scores), judge.gains(test))
        found[name] = shared.kept_by_query(ranking)

    ranked(FREE, seen["test"].cosine)
    ((_, _, added, _),) = rivals.sums(data, seen, [UNTRAINED_SUM])
    ranked(UNTRAINED_SUM, added)
    few = stages.first_pairs(data["unlabelled"], MINED)
    part = DatasetDict({**data, "unlabelled": few})
    told, weighed = answers(part, catalogue, seen, profile)
    for row in (LABELS, SOFT, MORE):
        runs = []
        for settings in TRIED if row == LABELS else (BOOK,):
            folder = student(part, told, weighed, profile, row, settings)
            held = ndcg(data["validation"], judge.predict(folder, data["validation"], profile))
            runs.append({"system": row, **settings, "ndcg@10": held, "in": folder})
        best = max(runs, key=lambda run: run["ndcg@10"])
        said = judge.predict(best["in"], test, profile)
        ranked(row, metrics.expected_gain(said, judge.gains(test)))
        tried += [{of: value for of, value in run.items() if of != "in"} for run in runs]
    return found, tried


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, fold)


COMPARED = (
    (MORE, LABELS),
    (SOFT, LABELS),
    (MORE, SOFT),
    (MORE, FREE),
    (MORE, UNTRAINED_SUM),
    (LABELS, FREE),
)


def summary(parts: Sequence[dict]) -> dict:
    """Rows, differences and choices as `measure_whole_lists.summary` has them, and the lift."""
    found = measure_whole_lists.summary(parts, COMPARED)
    values, chance = (shared.by_query(parts, name) for name in ("ndcg@10", "random_ndcg@10"))
    for name, row in found["rows"].items():
        row["lift@10"] = float((values[name] - chance[name]).mean())
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "precision"))
    found = summary(parts)
    told = shared.by_pair(found["comparisons"])
    name = "nDCG@10: a student of the sum, with mined pairs, minus labels only"
    goals = [shared.above(name, told[MORE, LABELS])]
    report.write_recorded(out, **shared.origin("sum_students", parts), data=found, goals=goals)
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("sum_students", "Students of a sum that nobody trained.", measured, merge)
