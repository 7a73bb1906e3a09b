"""What makes a good student: row, loss, layers, width, start, and the unlabelled pairs.

    python benchmarks/measure_student_ablations.py --seeds 1      one seed, into its own file
    python benchmarks/measure_student_ablations.py --seeds 2 3    further seeds, in turn
    python benchmarks/measure_student_ablations.py --merge        all files into the recorded result

The profile comes from ECOMKD_PROFILE. All students of a seed learn from the same teacher, see the
same labelled pairs and take the same number of steps: that of `--pairs` unlabelled pairs, by
default the profile's `live_pairs`. One setting at a time moves away from the profile's. What is
best is chosen on the validation queries; the test queries are for the report. A run that is started
again goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
from datasets import DatasetDict

import classifiers
import shared
from ecomkd import keys, load, models, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.sources import catalogue
from ecomkd.relevance import mining, stages

VARIED = {
    "alpha": (0.25, 1.0, 4.0),
    "temperature": (1.0, 2.0, 4.0),
    "student_layers": ((0, 5), (0, 1, 2), (1, 3, 5), (3, 4, 5)),
    "student_width": (None, 128),
    "student_start": ("checkpoint", "warmed", "teacher"),
}
"""Values of profile fields; the profile's own joins them. Width and start also without KD."""
SHARES = (0, 0.25, 1, 10 / 3)
"""Amounts of unlabelled pairs, as multiples of `--pairs`."""
SOURCES = {"log": None, "mined": 0.25, "mined at random": 1.0}
"""Where unlabelled pairs come from: the shop's log, or its catalogue with this share at random."""


def plan(data: DatasetDict, profile: Profile, depth: int, unlabelled: int) -> list[dict]:
    """All runs: group, value, row, and what differs from the profile."""
    runs = [{"group": "row", "value": row, "row": row} for row in stages.ROWS]
    for field, values in VARIED.items():
        for value in dict.fromkeys((*values, getattr(profile, field))):
            if field == "student_layers" and max(value) >= depth:
                continue
            changes = {field: value}
            if field == "student_width" and value is not None:
                changes["student_layers"] = (0, 1)  # no layer is copied: two new ones
            rows = ["kd_unlabelled"]
            rows += ["none"] if field in ("student_width", "student_start") else []
            runs += [
                {"group": field, "value": value, "row": row, "profile": changes} for row in rows
            ]
    amounts = sorted({min(round(share * unlabelled), len(data["unlabelled"])) for share in SHARES})
    runs += [
        {
            "group": "unlabelled",
            "value": amount,
            "row": "kd_unlabelled" if amount else "kd",
            "unlabelled": amount,
        }
        for amount in amounts
    ]
    runs += [
        {"group": "source", "value": name, "row": "kd_unlabelled", "random_share": share}
        for name, share in SOURCES.items()
    ]
    return runs


def measure(seed: int, groups: list[str], unlabelled: int) -> list[dict]:
    profile = Profile.named(seed=seed)
    data = load("shop", profile)
    teacher = stages.teacher(data, profile)
    depth = models.load(teacher).config.num_hidden_layers
    pairs = len(data["train"]) + min(unlabelled, len(data["unlabelled"]))
    steps = profile.student_epochs * keys.batches(pairs, profile)

    @cache  # the profile's own student stands in every group
    def both(folder: Path) -> dict:
        splits = ("validation", "test")
        return {split: classifiers.judged(folder, data[split], profile) for split in splits}

    def entry(run: dict, folder: Path) -> dict:
        shape = models.load(folder)
        return {
            "seed": seed,
            "group": run["group"],
            "value": _text(run["value"]),
            "row": run["row"],
            "steps": steps,
            "parameters": sum(weight.numel() for weight in shape.parameters()),
            **both(folder),
        }

    entries = []
    for run in plan(data, profile, depth, unlabelled):
        if run["group"] not in groups:
            continue
        settings = replace(profile, **run.get("profile", {}))
        lesson = run.get("unlabelled", unlabelled)
        if run.get("random_share") is not None:
            wanted = replace(profile, unlabelled_pairs=unlabelled)
            products = catalogue("shop", profile)
            lesson = mining.mined_pairs(data, products, wanted, run["random_share"])
        folder = stages.student(
            data,
            settings,
            run["row"],
            teacher_folder=teacher,
            unlabelled=lesson,
            steps=steps,
        )
        entries.append(entry(run, folder))
        print(f"seed {seed}, {len(entries)}: {run['group']} {run['value']}, {run['row']}")
    return [entry({"group": "teacher", "value": "", "row": "teacher"}, teacher), *entries]


def _text(value) -> str | float | int:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "as the teacher" if value is None else value


def summary(entries: pd.DataFrame) -> list[dict]:
    """Means over seeds, with an interval from three seeds on, and what validation chooses."""
    rows = []
    for (group, value, row), runs in entries.groupby(["group", "value", "row"], sort=False):
        found = {"group": group, "value": value, "row": row, "seeds": len(runs)}
        found |= {name: int(runs[name].iloc[0]) for name in ("steps", "parameters")}
        for split in ("validation", "test"):
            for name in ("macro_f1", "ndcg@10", "lift@10", "quality"):
                of_seeds = [quality[name] for quality in runs[split]]
                found[f"{split} {name}"] = shared.over_seeds(of_seeds)
        rows.append(found)
    best = {}
    for row in rows:
        if row["group"] == "row" or row["row"] in ("kd_unlabelled", "kd"):
            rival = best.get(row["group"])
            score = row["validation quality"]["mean"]
            if rival is None or score > rival["validation quality"]["mean"]:
                best[row["group"]] = row
    return [{**row, "chosen": best.get(row["group"]) is row} for row in rows]


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "pairs"))
    seeds = sorted(part["seed"] for part in parts)
    entries = [entry for part in parts for entry in part["entries"]]
    script = "python benchmarks/measure_student_ablations.py"
    report.write_recorded(
        out,
        command=f"{script} --pairs {parts[0]['pairs']} --seeds {' '.join(map(str, seeds))} --merge",
        seeds=seeds,
        hardware=parts[0]["hardware"],
        generator=parts[0]["generator"],
        data={
            "profile": parts[0]["profile"],
            "pairs": parts[0]["pairs"],
            "summary": summary(pd.DataFrame(entries)),
            "entries": entries,
        },
        goals=[],
    )
    print(f"{out}: seeds {', '.join(map(str, seeds))}")


def main() -> None:
    groups = ["row", *VARIED, "unlabelled", "source"]
    parser = argparse.ArgumentParser(description="What makes a good student.")
    parser.add_argument("--groups", nargs="*", default=groups, choices=groups, help="what to vary")
    parser.add_argument("--pairs", type=int, help="unlabelled pairs (the profile's live_pairs)")
    arguments = shared.arguments_of(parser, "student_ablations", scaled=False)
    unlabelled = arguments.pairs or Profile.named().live_pairs

    def measured(seed: int) -> dict:
        return {
            "pairs": unlabelled,
            "generator": shop.generator_hash(),
            "entries": measure(seed, arguments.groups, unlabelled),
        }

    shared.run(arguments, measured, merge)


if __name__ == "__main__":
    main()
