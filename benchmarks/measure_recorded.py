"""Are the recorded models of chapters 2 to 5 typical? Their stages once more, with other seeds.

    python benchmarks/measure_recorded.py --seeds 101           one seed, into its own file
    python benchmarks/measure_recorded.py --seeds 102 103       further seeds, in turn
    python benchmarks/measure_recorded.py --merge               all files into the recorded result

The data are those of the recorded models, the shop of the profile's own seed; the seed here is that
of heads, order and dropout. Quality is that of the validation queries, which chose the checkpoint
of each. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

import shared
from classifiers import judged
from ecomkd import bench, load, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import stages

NAMES = {
    "warm_up": "warm-up, agreement with the bi-encoder",
    "teacher": "teacher",
    "none": "student, labels only",
    "kd_unlabelled": "student, soft targets on more pairs",
}


def qualities(profile: Profile) -> dict[str, float]:
    """The validation quality of each model that the profile's seed gives, by name in `NAMES`."""
    own = Profile.named()
    data, live = load("shop", own), own.live_pairs
    warm_up, teacher = stages.warm_up(data, profile), stages.teacher(data, profile)
    found = {
        "teacher": judged(teacher, data["validation"], profile)["quality"],
        "warm_up": float(stages.training_log(warm_up)["eval_quality"].max()),
    }
    for row in ("none", "kd_unlabelled"):
        folder = stages.student(data, profile, row, teacher_folder=teacher, unlabelled=live)
        found[row] = judged(folder, data["validation"], profile)["quality"]
    return {name: found[name] for name in NAMES}


def measure(seed: int) -> dict:
    os.environ["ECOMKD_RECORDED"] = "0"
    return {"quality": qualities(replace(Profile.named(), seed=seed, precision="fp32"))}


def merge(folder: Path, out: Path) -> None:
    parts = shared.read(folder, ("profile", "hardware"))
    recorded = qualities(replace(Profile.named(), precision="fp32"))
    rows, goals = [], []
    for name, title in NAMES.items():
        again = [part["quality"][name] for part in parts]
        low, high = float(np.min(again)), float(np.max(again))
        rows.append({"name": title, "recorded": recorded[name], "again": again})
        inside = min(recorded[name] - low, high - recorded[name])
        goals.append(
            shared.exact(
                f"{title}: how far the recorded quality lies inside the range of other seeds",
                inside, f"at least 0, inside the range of {len(again)} seeds", inside >= 0,
            )
        )  # fmt: skip
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_recorded.py --seeds "
        f"{' '.join(str(part['seed']) for part in parts)} --merge",
        seeds=[part["seed"] for part in parts],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={"rows": rows},
        goals=goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Are the recorded models typical?")
    arguments = shared.arguments_of(parser, "recorded_models", scaled=False)
    shared.run(arguments, measure, merge)


if __name__ == "__main__":
    main()
