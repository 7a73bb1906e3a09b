"""Quality against the number of labels: a pretrained teacher and the same one from scratch.

    python benchmarks/measure_learning_curve.py --seeds 1      one seed, into its own file
    python benchmarks/measure_learning_curve.py --seeds 2 3    further seeds, in turn
    python benchmarks/measure_learning_curve.py --merge        all files into the recorded result

The profile comes from ECOMKD_PROFILE. Every model is judged on the test queries of its seed. Small
training sets take more passes, so that no model stops before `--min-steps` optimiser steps. Two
further runs guard the comparison. `longer` gives the model from scratch twice the steps.
`all layers` is the pretrained model with nothing frozen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import Dataset, DatasetDict

import shared
from ecomkd import keys, load, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import judge, stages

SIZES = (250, 500, 1000, 2000)
LONGER = 2  # times the teacher's epochs
UNSEEN = "unseen_synonym"


def judged(folder: Path, pairs: Dataset, profile: Profile) -> dict:
    """Quality of a saved model on labelled pairs, over all queries and over each kind of them."""
    found = judge.evaluate(pairs, judge.predict(folder, pairs, profile))
    per_query = found["ranking"]["per_query"]
    kinds = dict(zip(pairs["query_id"], pairs["query_kind"], strict=True))
    lifts = per_query["lift@10"].groupby(per_query.index.map(kinds)).mean()
    return {
        "macro_f1": found["classification"]["macro_f1"],
        "f1": found["classification"]["per_class"]["f1"].tolist(),
        "ndcg@10": found["ranking"]["ndcg@10"],
        "lift@10": found["ranking"]["lift@10"],
        "lift@10 by kind": lifts.to_dict(),
    }


def measure(seed: int, min_steps: int) -> dict:
    """All models of one seed: the curve, the longer run from scratch, and nothing frozen."""
    profile = Profile.named(seed=seed)
    data = load("shop", profile)
    labels = len(data["train"])

    def run(pairs: int, start: str, settings: Profile) -> dict:
        some = DatasetDict({**data, "train": stages.first_pairs(data["train"], pairs)})
        folder = stages.teacher(some, settings, pretrained=start == "pretrained")
        return {
            "seed": seed,
            "start": start,
            "pairs": pairs,
            "epochs": settings.teacher_epochs,
            "learning_rate": settings.teacher_learning_rate,
            **judged(folder, data["test"], profile),
        }

    curve = [
        run(pairs, start, long_enough(profile, pairs, min_steps))
        for start in ("pretrained", "scratch")
        for pairs in (*[n for n in SIZES if n < labels], labels)
    ]
    longer = replace(profile, teacher_epochs=LONGER * profile.teacher_epochs)
    return {
        "curve": curve,
        "longer": [run(labels, "scratch", longer)],
        "all layers": [run(labels, "pretrained", replace(profile, frozen_layers=None))],
    }


def long_enough(profile: Profile, pairs: int, min_steps: int) -> Profile:
    """The profile with as many epochs as `min_steps` steps need, and no fewer than it had."""
    batches = keys.batches(pairs, profile)
    return replace(profile, teacher_epochs=max(profile.teacher_epochs, -(-min_steps // batches)))


def goals(curve: pd.DataFrame, longer: pd.DataFrame) -> list[dict]:
    """The guard of the simulated shop: its grammar cannot simply be learnt from the labels."""
    full = curve[curve.pairs == curve.groupby("seed").pairs.transform("max")]
    teacher, scratch, further = (
        rows.set_index("seed")["lift@10 by kind"].map(lambda lifts: lifts[UNSEEN])
        for rows in (full[full.start == "pretrained"], full[full.start == "scratch"], longer)
    )
    found = []
    for name, other in (("From scratch", scratch), ("From scratch, longer run", further)):
        lost = shared.over_seeds((teacher - other) / teacher)
        found.append(
            report.goal(
                f"{name}: share of the teacher's lift on unseen synonyms that is lost",
                *lost.values(),
                wanted="≥ 1/3",
                met=lost["mean"] >= 1 / 3,
            )
        )
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "min_steps"))
    data = {
        name: [row for part in parts for row in part["data"][name]]
        for name in ("curve", "longer", "all layers")
    }
    seeds = sorted(part["seed"] for part in parts)
    report.write_recorded(
        out,
        command="python benchmarks/measure_learning_curve.py --seeds "
        f"{' '.join(map(str, seeds))} && python benchmarks/measure_learning_curve.py --merge",
        seeds=seeds,
        hardware=parts[0]["hardware"],
        generator=parts[0]["generator"],
        data={"profile": parts[0]["profile"]["name"], "min_steps": parts[0]["min_steps"], **data},
        goals=goals(pd.DataFrame(data["curve"]), pd.DataFrame(data["longer"])),
    )
    print(f"{out}: seeds {', '.join(map(str, seeds))}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality against the number of labels.")
    parser.add_argument("--min-steps", type=int, default=150, help="steps of each model at least")
    arguments = shared.arguments_of(parser, "learning_curve", scaled=False)

    def measured(seed: int) -> dict:
        return {
            "generator": shop.generator_hash(),
            "min_steps": arguments.min_steps,
            "data": measure(seed, arguments.min_steps),
        }

    shared.run(arguments, measured, merge)


if __name__ == "__main__":
    main()
