"""The goals that this project sets itself for distillation, on what `ecomkd run` has found.

    export ECOMKD_PRECISION=bf16 ECOMKD_RECORDED=0
    ecomkd run shop --profile book --seeds 5 --first-seed 18 --out core_shop
    python benchmarks/measure_core.py core_shop

writes the recorded result `core_shop`: the report of the run, and its goals. A shop's own report
has none of them. Without recorded models (ECOMKD_RECORDED=0) all of a run is trained on one
machine.

The records `core_icecat` and `core_esci_sample` are of an earlier version of both commands:
without some of the rows that nobody trained, without sums, choices, notes and comparisons, and with
intervals over queries.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ecomkd import report
from ecomkd.artifacts import write_text
from ecomkd.relevance.tables import (
    DISTILLED,
    HARD,
    INT8,
    PLAIN,
    TEACHER,
    by_seed,
    f1_difference,
    interval,
    ranked,
)

RECORDED = Path(report.__file__).parent / "recorded"


def goals(results: Sequence[dict], clock: pd.DataFrame) -> list[dict]:
    """What distillation is to show, each with its interval, met or not.

    Intervals are as `tables.interval` gives them: of three seeds or more, over seeds and queries
    together where they share their test queries, and over the seeds where each has its own.
    """
    entries = []
    for other, label in ((PLAIN, "without distillation"), (HARD, "on hard pseudo-labels")):
        span = f1_difference(results, DISTILLED, other)
        entries.append(
            report.goal(
                f"macro-F1: distilled student minus the student {label}",
                span["difference"],
                span["low"],
                span["high"],
                "above 0, interval excluding 0",
                span["low"] > 0,
            )
        )
    span = f1_difference(results, INT8, DISTILLED)
    cost = report.goal(
        "macro-F1: what int8 costs the distilled student, in points",
        -100 * span["difference"],
        -100 * span["high"],
        -100 * span["low"],
        "at most 0.5",
        -100 * span["difference"] <= 0.5,
    )
    entries.append(cost)
    if ranked(results):
        entries += ranking_goals(results)
    fast = clock.loc["teacher, PyTorch fp32", "p50_ms"] / clock.loc["student, ONNX int8", "p50_ms"]
    slow, quick = clock.loc["teacher, PyTorch fp32"], clock.loc["student, ONNX int8"]
    entries.append(
        report.goal(
            "latency at batch 1: PyTorch fp32 teacher over int8 ONNX student (p50; low and high "
            "from p50 over p95 and p95 over p50)",
            float(fast),
            float(slow["p50_ms"] / quick["p95_ms"]),
            float(slow["p95_ms"] / quick["p50_ms"]),
            "at least 10",
            bool(fast >= 10),
        )
    )
    return entries


def ranking_goals(results: Sequence[dict]) -> list[dict]:
    """Those that go by the order of products.

    A share of a lift or of a gap is met only where the interval of that lift or gap lies above 0.
    """
    values = by_seed(results, [TEACHER, DISTILLED, PLAIN, HARD, INT8])
    values["random"] = by_seed(results, ["random"], "random_ndcg@10")["random"]

    def entry(name, statistic, wanted, met, of=None):
        span = interval(values, statistic)
        there = of is None or interval(values, of)["low"] > 0
        ends = span["value"], span["low"], span["high"]
        return report.goal(name, *ends, wanted, bool(there and met(span)))

    def lift(m):
        return m[TEACHER] - m["random"]

    def gap(m):
        return m[TEACHER] - m[PLAIN]

    above = "above 0, interval excluding 0"
    return [
        entry(
            "nDCG@10: distilled student minus the student without distillation",
            lambda m: m[DISTILLED] - m[PLAIN],
            above,
            lambda span: span["low"] > 0,
        ),
        entry(
            "nDCG@10: distilled student minus the student on hard pseudo-labels",
            lambda m: m[DISTILLED] - m[HARD],
            above,
            lambda span: span["low"] > 0,
        ),
        entry(
            "share of the teacher's nDCG@10 lift over random that the distilled student keeps",
            lambda m: (m[DISTILLED] - m["random"]) / lift(m),
            "at least 0.97, of a lift whose interval lies above 0",
            lambda span: span["value"] >= 0.97,
            of=lift,
        ),
        entry(
            "share of the gap in nDCG@10 between undistilled student and teacher that is closed",
            lambda m: (m[DISTILLED] - m[PLAIN]) / gap(m),
            "at least 0.5, of a gap whose interval lies above 0",
            lambda span: span["value"] >= 0.5,
            of=gap,
        ),
        entry(
            "nDCG@10: what int8 costs the distilled student, in points",
            lambda m: 100 * (m[DISTILLED] - m[INT8]),
            "at most 0.5",
            lambda span: span["value"] <= 0.5,
        ),
    ]


def record(folder: Path) -> dict:
    """The report in a folder that `ecomkd run` wrote, with its goals.

    Exits with one sentence where the folder holds no whole run.
    """
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        results = [
            json.loads((folder / f"seed-{seed}.json").read_text(encoding="utf-8"))
            for seed in found["seeds"]
        ]
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename}: not found; write it with `ecomkd run`.") from error
    clock = pd.DataFrame(found["data"]["speed"]).T
    variables = f"ECOMKD_PRECISION={found['hardware']['precision']} ECOMKD_RECORDED=0"
    command = f"{variables} {found['command']} && python benchmarks/measure_core.py {folder.name}"
    return found | {"command": command, "goals": goals(results, clock)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Goals of distillation, from a run's results.")
    parser.add_argument("folder", type=Path, help="which `ecomkd run` wrote")
    parser.add_argument("--out", type=Path, help="default: the recorded result of its name")
    arguments = parser.parse_args()
    out = arguments.out or RECORDED / f"{arguments.folder.resolve().name}.json"
    write_text(out, report.to_json(record(arguments.folder), indent=1) + "\n")
    print(f"Wrote {out}.")


if __name__ == "__main__":
    main()
