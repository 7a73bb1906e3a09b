"""Teacher and student in every runtime, precision and size of batch: what each costs and loses.

    python benchmarks/measure_runtimes.py

On the simulated shop, with the recorded teacher and the recorded distilled student of chapter 4, on
one thread; all variants take turns, in rounds. Where OpenVINO or bf16 cannot run, their rows are
left out.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import shared
from ecomkd import bench, export, load, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import stages
from ecomkd.relevance.runtimes import like_for_like


def measured(profile: Profile) -> list[dict]:
    """A row for each model, runtime, precision and batch, as `like_for_like` has them."""
    data = load("shop", profile)
    teacher = stages.teacher(data, profile)
    live = profile.live_pairs
    student = stages.student(data, profile, teacher_folder=teacher, unlabelled=live)
    exported = {
        name: export.exports(folder, profile)
        for name, folder in (("teacher", teacher), ("student", student))
    }
    table = like_for_like(exported, data["test"], profile.max_length)
    return json.loads(table.reset_index().to_json(orient="records"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Runtimes and precisions of teacher and student.")
    out = shared.RECORDED / "runtimes.json"
    parser.add_argument("--out", type=Path, default=out, help="where the record goes")
    arguments = parser.parse_args()
    profile = Profile.named()
    report.write_recorded(
        arguments.out,
        command="python benchmarks/measure_runtimes.py",
        seeds=[profile.seed],
        hardware=bench.hardware() | {"threads": 1},
        generator=shop.generator_hash(),
        data={
            "rows": measured(profile),
            "openvino": version("openvino") if find_spec("openvino") else None,
        },
        goals=[],
    )
    print(f"Wrote {arguments.out}.")


if __name__ == "__main__":
    main()
