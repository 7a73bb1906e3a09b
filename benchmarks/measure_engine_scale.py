"""The book's own engine from a thousand products to a million: start, memory, answers, recall.

    python benchmarks/measure_engine_scale.py --products 1000 10000 100000 1000000
    python benchmarks/measure_engine_scale.py --merge

Products and queries are those of the simulated shop (`catalogues.py`); the static student and the
student that re-ranks are the book's. Each size is written once by `search.write` and asked in a
process of its own, on one thread. A start is cold where the files of the folder were dropped from
the system's memory before, and warm where they were not. Recall is the share of the first ten that
a comparison with every product finds, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import catalogues
import shared
from ecomkd import bench, export, load, report, search
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import stages
from ecomkd.search.retrieve import weighted

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES, WARM, COMPARED = 400, 20, 200
"""Queries that are timed, those asked before, and those whose answers are compared with exact."""
READ = 20
"""Products that the student reads where it reads."""
FIELDS = ("product_type", "price", "stock")
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


def memory() -> dict:
    """Megabytes of this process: its own, and those of files that it has mapped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(status[name].split()[0]) for name in ("RssAnon", "RssFile")}
    return {"own_mb": kilobytes["RssAnon"] / 1e3, "mapped_mb": kilobytes["RssFile"] / 1e3}


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's memory, so that the next start reads the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def waits(engine, queries: Sequence[str]) -> dict:
    """Milliseconds of an answer of ten products, one after the other."""
    for query in queries[:WARM]:
        engine.search(query, 10)
    times = [1e3 * shared.timed(engine.search, query, 10)[1] for query in queries]
    return {f"p{share}_ms": float(np.percentile(times, share)) for share in (50, 95)}


def exact(engine, query: str) -> np.ndarray:
    """The first ten, where every product is compared."""
    cosines, words = engine.compare([query])
    return weighted(cosines, words, engine.weights.words, 10)[1][0]


def recall(engine, queries: Sequence[str]) -> float:
    """The share of the exact first ten that are the engine's first ten, without the student."""
    ids, found = engine.ids, []
    for query in queries:
        there = {ids[row] for row in exact(engine, query)}
        found.append(len(there & {hit.product_id for hit in engine.search(query, 10)}) / len(there))
    return float(np.mean(found))


def asked(folder: Path) -> dict:
    """What a process finds that loads the folder and asks; it loads nothing that trains."""
    before, (engine, seconds) = memory(), shared.timed(search.load, folder)
    queries, engine.depth = catalogues.queries(QUERIES), 0
    started = memory()
    found = {"start_s": seconds, "before": before, "started": started}
    found["words and vectors"] = waits(engine, queries)
    found["asked"] = memory()
    found["recall"] = recall(engine, queries[:COMPARED])
    times = [1e3 * shared.timed(exact, engine, query)[1] for query in queries[:COMPARED]]
    found["compared with all"] = {
        f"p{share}_ms": float(np.percentile(times, share)) for share in (50, 95)
    }
    engine.depth = READ
    found["student reads 20"] = waits(engine, queries)
    return found


def measure(folder: Path, products: int) -> dict:
    place = folder / f"engine{products}"
    found = {"products": products, "hardware": bench.hardware(), **written(place, products)}
    command = [sys.executable, __file__, "--ask", str(place)]
    for start in ("cold", "warm"):
        if start == "cold":
            forget(place)
            time.sleep(1)
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=alone, check=True)
        seen = json.loads(done.stdout.splitlines()[-1])
        found[f"{start}_start_s"] = seen.pop("start_s")
    return {**found, **seen}


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
        command=f"python benchmarks/measure_engine_scale.py --products {sizes}, --merge",
        seeds=[catalogues.SEED],
        hardware=largest["hardware"],
        generator=catalogues.shop.generator_hash(),
        data={
            "sizes": [{k: v for k, v in one.items() if k != "hardware"} for one in parts],
            "queries": QUERIES,
            "compared": COMPARED,
        },
        goals=goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The book's own engine by size.")
    parser.add_argument("--products", type=int, nargs="*", default=[], help="sizes to measure")
    parser.add_argument("--folder", type=Path, help="of the engines and of the single files")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--out", type=Path, default=shared.RECORDED / "engine_scale.json")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask is not None:
        print(json.dumps(asked(options.ask)))
        return
    folder = options.folder or Profile.named().artifacts / "engine_scale"
    for products in options.products:
        found = measure(folder, products)
        print(json.dumps(found), flush=True)
        write_text(folder / f"{products}.json", json.dumps(found))
    if options.merge:
        merge(folder, options.out)


if __name__ == "__main__":
    main()
