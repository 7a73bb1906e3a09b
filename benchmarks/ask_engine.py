"""Asks a store of `measure_engines.py`, in a process of its own that loads only what serves.

    python benchmarks/ask_engine.py FOLDER URI

Prints what it measured as one line of JSON. One thread asks, and each query starts from its text.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from tokenizers import Tokenizer

from clock import clocked
from ecomkd import words
from ecomkd.search import hosted, stores
from ecomkd.search.retrieve import Weights, weighted

TABLE, BUILD = "products", "measured"
WEIGHT = 0.1
"""Of BM25 beside the cosine."""
TOP = 10
CHANGED, CHANGES = 100, 10
"""Products that are put or removed at a time, and how many times."""
CLOSE = 1e-5
"""Sums that differ by less are equal: they were added up in another order."""
MIB = 2**20


def main() -> None:
    folder, uri = Path(sys.argv[1]), sys.argv[2]
    told = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    libraries = resident()
    engine = assembled(folder, uri)
    alone = resident()
    started = time.perf_counter()
    engine.store.version()
    first(engine, [], told["queries"][0])
    found = {"start_s": time.perf_counter() - started, "candidates": engine.candidates}
    for name, one in told["conditions"].items():
        where = [stores.condition(text) for text in one["where"]]
        ask = partial(first, engine, where)
        found[name] = clocked(ask, told["queries"]) | {"kept": one["kept"]}
        found[name]["recall"] = recall(engine, where, told["queries"], one["tenth"])
    found |= {"libraries_mib": libraries, "alone_mib": alone, "asked_mib": resident()}
    found |= changed(engine, told)
    found["after changes"] = clocked(partial(first, engine, []), told["queries"])
    found["changed_mib"] = resident()
    engine.store.close()
    print(json.dumps(found))


def assembled(folder: Path, uri: str) -> hosted.StoreEngine:
    """The engine without a student, from what the writer left in the folder."""
    pieces = Tokenizer.from_file(str(folder / "tokenizer.json"))
    table = np.load(folder / "table.npy")
    numbers = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    known = words.Statistics(
        numbers, np.load(folder / "idf.npy"), float(np.load(folder / "length.npy"))
    )
    store = stores.opened(uri, TABLE, BUILD)
    return hosted.StoreEngine(
        store, known, pieces, table, nobody, Weights(WEIGHT, 0.0), depth=0,
        candidates=hosted.enough(store.count()),
    )  # fmt: skip


def nobody(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """The student that is not there."""
    raise NotImplementedError


def first(engine: hosted.StoreEngine, where: list, query: str) -> list[str]:
    return [hit.product_id for hit in engine.search(query, TOP, where)]


def recall(engine: hosted.StoreEngine, where: list, queries: Sequence[str], tenth: list) -> float:
    """The share of the ten best sums over the whole catalogue that the candidates hold, over
    queries. `tenth` has of each query how many there are, and the last of their sums."""
    shares = []
    for query, (number, least) in zip(queries, tenth, strict=True):
        if not number:
            continue
        vector = engine.embed([query])[0]
        found = engine.store.candidates(
            vector, words.asked(engine.known, query), engine.candidates, where
        )
        sums, _ = weighted(found.cosines[None], found.words[None], WEIGHT, number)
        shares.append((sums[0] >= least - CLOSE).sum() / number)
    return float(np.mean(shares))


def changed(engine: hosted.StoreEngine, told: dict) -> dict:
    """Put and remove products: half of those that are put replace others, half are new."""
    rows, puts, removals = told["changes"], [], []
    for number in range(CHANGES):
        own = rows[number * CHANGED : (number + 1) * CHANGED]
        ids, titles, texts, prices, brands, departments = (
            list(part) for part in zip(*own, strict=True)
        )
        ids = [one if row % 2 else f"new {one}" for row, one in enumerate(ids)]
        fields = {"price": np.array(prices), "product_brand": brands, "department": departments}
        batch = stores.encoded(engine.embed, engine.known, ids, titles, texts, fields)
        started = time.perf_counter()
        engine.store.put(batch)
        puts.append(time.perf_counter() - started)
    for number in range(CHANGES):
        own = rows[(CHANGES + number) * CHANGED :][:CHANGED]
        started = time.perf_counter()
        engine.store.remove([row[0] for row in own])
        removals.append(time.perf_counter() - started)
    return {
        "put_s": {"median": float(np.median(puts)), "longest": max(puts)},
        "remove_s": {"median": float(np.median(removals)), "longest": max(removals)},
    }


def resident() -> float:
    """Resident memory of this process, MiB."""
    return psutil.Process().memory_info().rss / MIB


if __name__ == "__main__":
    main()
