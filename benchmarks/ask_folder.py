"""Load the folder of an engine and ask it, in a process that loads nothing else; prints JSON.

    python benchmarks/ask_folder.py FOLDER QUERIES.json

`measure_engine_scale.py` runs this. It imports what `ecomkd serve` would, and no more, so that the
memory is that of a process that serves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clock import clocked
from ecomkd import search
from ecomkd.search.retrieve import weighted

COMPARED = 200
"""Queries whose answers are held against exact."""
CLOSE = 1e-5
"""Sums that differ by less are equal: they were added up in another order."""
READ = 20
"""Products that the student reads where it reads."""


def memory() -> dict:
    """Megabytes of this process: its own, and those of files that it has mapped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(status[name].split()[0]) for name in ("RssAnon", "RssFile")}
    named = {"own_mb": "RssAnon", "mapped_mb": "RssFile"}
    return {name: kilobytes[of] * 1024 / 1e6 for name, of in named.items()}


def exact(engine, query: str) -> np.ndarray:
    """The ten highest sums, where every product is compared."""
    cosines, words = engine.compare([query])
    return weighted(cosines, words, engine.weights.words, 10)[0][0]


def recall(engine, queries: Sequence[str]) -> float:
    """The share of the ten highest sums that the engine finds without the student: of products with
    equal sums one is as good as the other."""
    found = []
    for query in queries:
        wanted, hits = exact(engine, query), engine.search(query, 10)
        found.append(np.mean([hit.score >= wanted[-1] - CLOSE for hit in hits]))
    return float(np.mean(found))


def asked(folder: Path, queries: Sequence[str]) -> dict:
    """What the process finds that loads the folder and asks."""
    before, begin = memory(), time.perf_counter()
    engine = search.load(folder)
    found = {"start_s": time.perf_counter() - begin, "before": before, "started": memory()}
    engine.depth = 0
    first = partial(engine.search, k=10)
    found["words and vectors"] = clocked(first, queries)
    found["asked"] = memory()
    found["recall"] = recall(engine, queries[:COMPARED])
    found["compared with all"] = clocked(partial(exact, engine), queries[:COMPARED])
    engine.depth = READ
    found["student reads 20"] = clocked(first, queries)
    return found


if __name__ == "__main__":
    print(json.dumps(asked(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8")))))
