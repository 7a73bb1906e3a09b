"""The book's own engine from a thousand products to a million: start, memory, answers, recall.

    python benchmarks/measure_engine_scale.py --products 1000 10000 100000 1000000
    python benchmarks/measure_engine_scale.py --candidates
    python benchmarks/measure_engine_scale.py --merge

Products and queries are those of the simulated shop (`catalogues.py`); the static student and the
student that re-ranks are the book's. Each size is written once by `search.write` and asked in a
process of its own, on one thread. A start is cold where the files of the folder were dropped from
the system's memory before, and warm where they were not. Recall is the share of the first ten that
a comparison with every product finds, too. `--candidates` asks the largest folder how many of them
stand among the first products by vector and the first by words, where both are exact: more no
engine can find that asks another one for so many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

import catalogues
import shared
from ask_folder import CLOSE
from ecomkd import bench, export, load, report, search
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import stages
from ecomkd.search.retrieve import weighted

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES = 400
"""Queries that are asked."""
ASKER = Path(__file__).with_name("ask_folder.py")
FIELDS = ("product_type", "price", "stock")
TOP = 10
"""Products of an answer."""
CANDIDATES = (100, 200, 300, 500)
"""Products by vector, and as many by words."""
START, WAIT, RECALL = 5.0, 25.0, 0.95
"""What is wanted of a million products: seconds, milliseconds of p95, recall."""


def models(profile: Profile) -> tuple[Path, Path]:
    """The folders of the book's static student and of its exported student."""
    data = load("shop", profile)
    teacher = stages.teacher(data, profile)
    lesson = {"teacher_folder": teacher, "unlabelled": profile.live_pairs}
    student = stages.student(data, profile, "kd_unlabelled", **lesson)
    catalogue = sources.catalogue("shop", profile)
    wide = search.bi_encoder(data, catalogue, profile, **lesson)
    return search.static_encoder(data, catalogue, profile, wide), export.exports(student, profile)


def written(folder: Path, products: int) -> dict:
    """Write the folder of an engine of so many products; seconds and bytes."""
    profile = Profile.named()
    static, exported = models(profile)
    catalogue = catalogues.texts(products)
    # Judgments of another shop: they choose no weights, and the default ones hold at every size.
    judged = load("shop", profile)["validation"].map(
        lambda row: {"product_id": f"elsewhere {row['product_id']}"}
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No validation query")
        _, seconds = shared.timed(
            search.write, folder, catalogue, static, exported, profile, judged, fields=FIELDS
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"write_s": seconds, "disk_mb": size / 1e6}


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's memory, so that the next start reads the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, products: int) -> dict:
    """Of so many products; a folder that was written before is asked once more."""
    place, told = folder / f"engine{products}", folder / f"engine{products}.json"
    if not told.is_file():
        write_text(told, json.dumps(written(place, products)))
    queries = folder / "queries.json"
    write_text(queries, json.dumps(catalogues.queries(QUERIES)))
    found = {"products": products, "hardware": bench.hardware(), **json.loads(told.read_text())}
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    for start in ("cold", "warm"):
        if start == "cold":
            forget(place)
        done = subprocess.run(
            [sys.executable, str(ASKER), str(place), str(queries)],
            stdout=subprocess.PIPE,
            text=True,
            env=alone,
            check=True,
        )
        seen = json.loads(done.stdout.splitlines()[-1])
        found[f"{start}_start_s"] = seen.pop("start_s")
    return {**found, **seen}


def held(folder: Path, products: int) -> dict:
    """The share of the ten best sums that the exact candidates hold, by their number."""
    engine = search.load(folder / f"engine{products}")
    queries = json.loads((folder / "queries.json").read_text("utf-8"))
    found = np.zeros((len(queries), len(CANDIDATES)))
    for row, query in enumerate(queries):
        signals, weight = engine.compare([query]), engine.weights.words
        least = weighted(*signals, weight, TOP)[0][0, -1] - CLOSE
        orders = [np.argsort(-own[0], kind="stable") for own in signals]
        for column, number in enumerate(CANDIDATES):
            first = np.union1d(*(order[:number] for order in orders))
            sums, _ = weighted(*(own[:, first] for own in signals), weight, TOP)
            found[row, column] = (sums[0] >= least).mean()
    shares = found.mean(axis=0).tolist()
    return {"products": products, "queries": len(queries)} | {
        "shares": dict(zip(map(str, CANDIDATES), shares, strict=True))
    }


def merge(folder: Path, out: Path) -> None:
    parts = [json.loads((folder / f"{size}.json").read_text("utf-8")) for size in SIZES]
    largest = parts[-1]
    answers = largest["words and vectors"]
    goals = [
        shared.exact(
            "a million products: seconds until the engine answers, files in memory",
            largest["warm_start_s"],
            f"at most {START:g}",
            largest["warm_start_s"] <= START,
        ),
        shared.exact(
            "a million products: seconds until the engine answers, files on the disk",
            largest["cold_start_s"],
            f"at most {START:g}",
            largest["cold_start_s"] <= START,
        ),
        shared.exact(
            "a million products: p95 of an answer by words and vectors, ms",
            answers["p95_ms"],
            f"at most {WAIT:g}",
            answers["p95_ms"] <= WAIT,
        ),
        shared.exact(
            "a million products: share of the exact first ten that is found",
            largest["recall"],
            f"at least {RECALL:g}",
            largest["recall"] >= RECALL,
        ),
    ]
    sizes = " ".join(map(str, SIZES))
    report.write_recorded(
        out,
        command="python benchmarks/measure_engine_scale.py "
        f"--products {sizes}, --candidates, --merge",
        seeds=[catalogues.SEED],
        hardware=largest["hardware"],
        generator=catalogues.shop.generator_hash(),
        data={
            "sizes": [{k: v for k, v in one.items() if k != "hardware"} for one in parts],
            "queries": QUERIES,
            "candidates": json.loads((folder / "candidates.json").read_text("utf-8")),
        },
        goals=goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The book's own engine by size.")
    parser.add_argument("--products", type=int, nargs="*", default=[], help="sizes to measure")
    parser.add_argument("--folder", type=Path, help="of the engines and of the single files")
    parser.add_argument("--candidates", action="store_true", help="ask what candidates hold")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--out", type=Path, default=shared.RECORDED / "engine_scale.json")
    options = parser.parse_args()
    folder = options.folder or Profile.named().artifacts / "engine_scale"
    for products in options.products:
        found = measure(folder, products)
        print(json.dumps(found), flush=True)
        write_text(folder / f"{products}.json", json.dumps(found))
    if options.candidates:
        write_text(folder / "candidates.json", json.dumps(held(folder, max(SIZES))))
    if options.merge:
        merge(folder, options.out)


if __name__ == "__main__":
    main()
