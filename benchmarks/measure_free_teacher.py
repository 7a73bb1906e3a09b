"""Does what nobody trained teach as well as a fine-tuned teacher? On real film queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_free_teacher.py --seeds 1 2 3
    ECOMKD_PRECISION=bf16 python benchmarks/measure_free_teacher.py --merge

needs ECOMKD_REAL_DATA and the packages of `mpnet`. In `measure_frontier`, on whose parts this
stands, students learn from a base-size encoder that was fine-tuned on 400 labelled queries. By
itself it ranks no better than the sum of words and of the same encoder as it came. So this sum,
whose weights validation queries choose, may be as good a teacher. Four teachers answer the queries
that nobody labelled: the encoder as it came and fine-tuned, each by itself and in its sum with
words. Two students, three layers and a table of token vectors, learn from each in the same way,
with the labels of the 400 queries beside the answers; validation chooses their rates. A sum's
scores are brought to the spread that the cosines in it have within a query's list, for a student
learns that spread. The fine-tuned encoder has the rate that was chosen for `measure_frontier`. So
that what validation chooses can be told from the rest, the sum that nobody trained is judged with
the weights that were chosen there, too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

import shared
from ecomkd import report, runtime
from ecomkd.config import Profile
from ecomkd.relevance import judge, lexical
from ecomkd.relevance.fusion import choose_fusion
from measure_frontier import CURVED, FREE, RATES, SHOWN, SIZES, TEACHER, answers_of, taught_by
from measure_query_side import (
    CURVE,
    LABELLED,
    PASSES,
    Ground,
    Judged,
    Lists,
    Network,
    Static,
    arguments_of,
    by_query,
    ground,
    in_order,
    joined,
    of_pairs,
    passes_over,
    summary,
    tuned,
)
from measure_untrained import parts_of

UNTRAINED, TUNED = "base size, untrained", "teacher"
FREE_SUM, TUNED_SUM = FREE[0], "words + teacher"
TEACHERS = (UNTRAINED, FREE_SUM, TUNED, TUNED_SUM)
EARLIER = f"{FREE_SUM}, weights of measure_frontier"


def taught(student: str, teacher: str) -> str:
    """The row of a student that learnt from this teacher."""
    return f"{student}, taught by {teacher}"


def signals_of(some: Lists, log: Lists, pairs: list[Dataset], catalogue: Dataset) -> torch.Tensor:
    """(Q, K, S), what words say of each candidate of the labelled queries, then of the others.

    `pairs` are those of either kind, of whose lists `some` and `log` are the first.
    """
    measure, parts = lexical.lexical_signals(catalogue), []
    for asked, own in zip((some, log), map(by_query, pairs), strict=True):
        ids = list(dict.fromkeys(own["query_id"]))
        kept = set(ids[: len(asked.queries)])
        seen = own.select([row for row, one in enumerate(own["query_id"]) if one in kept])
        known = torch.from_numpy(np.asarray(measure(seen), np.float32))
        parts.append(torch.zeros(*asked.mask.shape, known.shape[1]))
        parts[-1][asked.mask] = known
    most = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(one, (0, 0, 0, most - one.shape[1])) for one in parts])


def spread(scores: torch.Tensor, mask: torch.Tensor) -> float:
    """How far scores (Q, K) lie from the mean of their list, as a root mean square."""
    held = scores.masked_fill(~mask, 0)
    centred = held - held.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return float(centred[mask].square().mean().sqrt())


def summed(
    seen: Judged, model: nn.Module, answers: torch.Tensor, words: torch.Tensor, asked: Lists
) -> torch.Tensor:
    """(Q, K): the sum of words and a model that validation chooses, in the spread of its cosines.

    `answers` are the model's cosines for `asked`, and `words` the signals of the same candidates.
    """
    held = seen.columns(seen.scores(model))["validation"]
    fused = choose_fusion("z", held, seen.pairs["validation"])
    told = np.column_stack([words[asked.mask].numpy(), in_order(answers, asked)])
    sums = torch.zeros_like(answers)
    sums[asked.mask] = torch.from_numpy(fused.scores(told, [""] * len(told))).to(sums.dtype)
    return sums * (spread(answers, asked.mask) / spread(sums, asked.mask))


def weighed(seen: Judged, model: nn.Module, weights: Sequence[float]) -> dict[str, float]:
    """nDCG@10 of each test query by the sum of words and a model with given weights (S,)."""
    columns = seen.columns(seen.scores(model))
    scaled = choose_fusion("z", columns["validation"], seen.pairs["validation"])
    fused = replace(scaled, weights=tuple(weights))
    return seen.ranked(fused.scores(columns["test"], seen.pairs["test"]["query_id"]))


def measured(base: Ground, own: Ground, profile: Profile, seed: int) -> dict:
    """All teachers, and their students of one seed: nDCG@10 of each test query, alone and in the
    sum with words. `own` are MiniLM's product vectors."""
    data = base.parts[0]
    train, validation, test = (
        of_pairs(data[split], base.place) for split in ("train", "validation", "test")
    )
    labelled = data["train"].select(np.flatnonzero(_has_relevant(data["train"])))
    some, log = train.labelled().first(LABELLED), base.log
    seen, at_home = (Judged(one, data, validation, test) for one in (base, own))
    values: dict[str, dict[str, float]] = {}
    values["random"] = seen.ranked(np.zeros(len(seen.pairs["test"])))
    seen.add(values, "words", None)
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        _, catalogue = parts_of("msrd", profile, Path(scratch), max(CURVE), SHOWN)
    words = signals_of(some, log, [labelled, data["unlabelled"]], catalogue)
    asked = joined(some, log)
    before = report.recorded("frontier")["data"]["choices"][0]
    values[EARLIER] = weighed(seen, Network(None, TEACHER), before["weights"][FREE_SUM])
    rate = before["teacher"]["rate"]
    tuned_model, chosen = taught_by(base, some, validation, profile, (rate,))
    choices: dict[str, dict] = {TUNED: chosen}
    answers = {}
    for name, model in ((UNTRAINED, Network(None, TEACHER)), (TUNED, tuned_model)):
        seen.add(values, name, model)
        answers[name] = answers_of(model, {"of": name, **chosen}, asked, base, profile)
        answers[f"words + {name}"] = summed(seen, model, answers[name], words, asked)

    def maker(student: str, texts: Lists) -> Callable[[], nn.Module]:
        if student in SIZES:
            return partial(Network, SIZES[student])
        return partial(Static, base.table, texts.queries, TEACHER)

    for student in CURVED:
        place = at_home if student in SIZES else seen
        given = {"vectors": place.vectors, "validation": validation, "seed": seed}
        model, found = tuned(
            maker(student, some), RATES[student], some, passes=passes_over(some), **given
        )
        place.add(values, f"{student}, labels", model)
        choices[f"{student}, labels"] = found
        for teacher in TEACHERS:
            options = {"passes": PASSES, "taught": answers[teacher], **given}
            model, found = tuned(maker(student, asked), RATES[student], asked, **options)
            place.add(values, taught(student, teacher), model)
            choices[taught(student, teacher)] = found
            print(f"seed {seed}, {taught(student, teacher)}: {max(found['looks'])}", flush=True)
    weights = {**seen.weights, **at_home.weights}
    return {
        "precision": runtime.precision(profile),
        "generator": None,
        "values": values,
        "choices": choices | {"weights": weights},
    }


def _has_relevant(pairs: Dataset) -> np.ndarray:
    """(N,), whether the query of each labelled pair has a relevant product."""
    ids = np.asarray(pairs["query_id"])
    return np.isin(ids, np.unique(ids[judge.worth(pairs) > 0]))


# The record ---------------------------------------------------------------------------------------


def compared() -> list[tuple[str, str]]:
    """The pairs of systems whose difference is asked."""
    pairs = [(TUNED, UNTRAINED), (TUNED, FREE_SUM), (TUNED_SUM, FREE_SUM), (FREE_SUM, EARLIER)]
    for student in CURVED:
        for one, other in (
            (TUNED, FREE_SUM),
            (TUNED, UNTRAINED),
            (TUNED_SUM, TUNED),
            (TUNED_SUM, FREE_SUM),
            (FREE_SUM, UNTRAINED),
        ):
            both = taught(student, one), taught(student, other)
            pairs += [both, (f"words + {both[0]}", f"words + {both[1]}")]
        for teacher in TEACHERS:
            name, plain = taught(student, teacher), f"{student}, labels"
            pairs += [(name, plain), (f"words + {name}", f"words + {plain}")]
            for free in (FREE_SUM, EARLIER):
                pairs += [(name, free), (f"words + {name}", free)]
    return pairs


def merge(folder: Path, out: Path = shared.RECORDED / "free_teacher.json") -> None:
    """Write the record from the files of all seeds."""
    seeds = shared.read(folder, ["profile", "precision"])
    found = summary(seeds, compared(), [])
    told = shared.by_pair(found["comparisons"])
    entries = []
    for student in CURVED:
        pair = taught(student, TUNED), taught(student, FREE_SUM)
        what = "taught by the fine-tuned teacher minus taught by the sum that nobody trained"
        entries.append(shared.above(f"film queries, nDCG@10: {student} {what}", told[pair]))
    data = found | {"choices": [one["choices"] for one in seeds]}
    origin = shared.origin("free_teacher", seeds)
    report.write_recorded(out, **origin, data=data, goals=entries)


def main() -> None:
    parser = argparse.ArgumentParser(description="Teachers that nobody trained, on film queries.")
    profile = Profile.named("book")
    arguments = arguments_of(parser, profile.artifacts / "free_teacher")
    seeds = [k for k in arguments.seeds if not (arguments.folder / f"seed{k}.json").exists()]
    if seeds:
        base, own = (ground("msrd", profile, SHOWN, name) for name in (TEACHER, "minilm"))
        for seed in seeds:
            shared.write(arguments.folder, seed, measured(base, own, profile, seed))
    if arguments.merge:
        merge(arguments.folder)


if __name__ == "__main__":
    main()
