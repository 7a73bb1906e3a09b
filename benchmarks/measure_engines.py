"""A shop's own engine as the place of a catalogue: LanceDB and PostgreSQL, against its size.

    python benchmarks/measure_engines.py [--engines lance postgres] [--sizes 10000 100000 1000000]
    python benchmarks/measure_engines.py --engines milvus --sizes 10000
    python benchmarks/measure_engines.py --merge

Each engine and size leaves a file of its own in `--folder`; what is there is not measured again, so
that a run that was stopped goes on. Products and queries are the simulated shop's, vectors those of
`catalogues.static`. One process writes the catalogue, and another, which loads only what serves,
asks it (`ask_engine.py`). PostgreSQL runs here with the settings in `SERVER`, beside its clients.
`milvus` is its lite version, in a file and in the process of who asks: it says nothing of a server.
Rows of the record that are of another width (a hundred candidates at a million) were measured by an
earlier version. --merge keeps them as long as the shop's generator stays, and nothing remakes them.

What is searched is the first stage: candidates by vector and as many by words, so many as an index
takes for the size, and the ten best by cosine + 0.1 · BM25. Recall is the share of the ten best of
the whole catalogue that it finds, by sums: equal ones are worth the same. The whole catalogue is
compared part by part while it is encoded for writing, and that time is not the engine's. Conditions
let through a third, a tenth and about one in a hundred of the products, or as near to it as the
shop's prices, departments and brands come; recall is told under each. OMP_NUM_THREADS=1 holds the
libraries of who asks; LanceDB's own threads and PostgreSQL may use all cores for a query.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import psutil
from scipy import sparse

import ask_engine
import catalogues
import local_postgres
from ecomkd import bench, report, words
from ecomkd.artifacts import write_text
from ecomkd.config import artifact_folder
from ecomkd.data import shop
from ecomkd.data.sources import product_text
from ecomkd.search import hosted, stores
from ecomkd.search.retrieve import token_means
from shared import RECORDED, exact

ENGINES = ("lance", "postgres", "milvus")
MEASURED = ENGINES[:2]
"""Those that are measured unless others are named."""
SIZES = (10_000, 100_000, 1_000_000)
QUERIES = 200
PART = 5_000
"""Products that are encoded, compared and written at a time."""
FIELDS = ("price", "product_brand", "department")
SERVER = {
    "fsync": "on",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "2GB",
    "max_wal_size": "4GB",
}
MIB = 2**20


def measure(engine: str, products: int, work: Path) -> dict:
    """Write a catalogue and ask it, each in a process of its own. `work` is deleted afterwards."""
    work.mkdir(parents=True)
    try:
        with place(engine, work) as (uri, server):
            written = child(__file__, "--write", str(products), str(work), uri)
            size = (
                server.sql(f"SELECT pg_total_relation_size('{ask_engine.TABLE}')") if server else 0
            )
            size = int(size) or sum(f.stat().st_size for f in (work / "engine").rglob("*"))
            with watched(server) as memory:
                asked = child(Path(__file__).with_name("ask_engine.py"), str(work), uri)
    finally:
        shutil.rmtree(work)
    return {
        "engine": engine,
        "products": products,
        **written,
        "disk_mib": size / MIB,
        **asked,
        "server_mib": max(memory, default=0.0),
    }


@contextmanager
def place(engine: str, work: Path) -> Iterator[tuple[str, local_postgres.Server | None]]:
    if engine != "postgres":
        folder = work.resolve() / "engine"
        yield str(folder) if engine == "lance" else f"milvus://{folder}/shop.db", None
        return
    os.environ["PGPASSWORD"] = local_postgres.PASSWORD
    with local_postgres.running(**SERVER) as server:
        yield server.uri, server


def child(script: Path | str, *given: str) -> dict:
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=one_thread)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def watched(server: local_postgres.Server | None) -> Iterator[list[float]]:
    """Memory of the server's processes, MiB, once a second: pages that they share count once."""
    seen: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        main = psutil.Process(server.process.pid)
        while not stop.wait(1):
            try:
                own = [one.memory_full_info().pss for one in [main, *main.children()]]
            except psutil.NoSuchProcess:  # one of them has ended meanwhile
                continue
            seen.append(sum(own) / MIB)

    thread = threading.Thread(target=watch)
    if server is not None:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        if server is not None:
            thread.join()


# The process that writes --------------------------------------------------------------------------


def write(products: int, work: Path, uri: str) -> dict:
    """Encode a catalogue, write it into the store, and leave what the asker needs."""
    catalogue, queries = catalogues.texts(products), catalogues.queries(QUERIES)
    pieces, table = catalogues.static()
    started = time.perf_counter()
    known = words.statistics(text for part in parts(catalogue) for text in product_text(part))
    counted = time.perf_counter() - started

    def embed(texts: list[str]) -> np.ndarray:
        found = pieces.encode_batch(texts, add_special_tokens=False)
        return token_means([one.ids for one in found], table).astype(np.float32)

    conditions = chosen(catalogue)
    best = Best(embed(queries), queries, known, conditions)
    encoding = [0.0]

    def batches() -> Iterator[stores.Batch]:
        for part in parts(catalogue):
            began = time.perf_counter()
            fields = {name: part[name] for name in FIELDS} | {"price": np.array(part["price"])}
            batch = stores.encoded(
                embed, known, part["product_id"], part["product_title"], product_text(part), fields
            )
            best.see(batch)
            encoding[0] += time.perf_counter() - began
            yield batch

    store = stores.opened(uri, ask_engine.TABLE, ask_engine.BUILD)
    with bench.peak_memory() as memory:
        started = time.perf_counter()
        store.write(batches())
        seconds = time.perf_counter() - started - encoding[0]
    store.close()
    some = catalogue.select(range(min(products, 2 * ask_engine.CHANGES * ask_engine.CHANGED)))[:]
    rows = zip(
        some["product_id"], some["product_title"], product_text(some),
        *(some[name] for name in FIELDS), strict=True,
    )  # fmt: skip
    told = {
        "queries": queries,
        "changes": list(rows),
        "conditions": {
            name: {
                "where": where,
                "kept": best.kept[name] / products,
                "tenth": best.tenth(name),
            }
            for name, where in conditions.items()
        },
    }
    write_text(work / "asked.json", json.dumps(told))
    write_text(work / "words.json", json.dumps(known.numbers))
    for name, array in (("idf", known.idf), ("length", known.length), ("table", table)):
        np.save(work / f"{name}.npy", array)
    pieces.save(str(work / "tokenizer.json"))
    return {"count_words_s": counted, "write_s": seconds, "writer_peak_mib": memory["peak_mib"]}


def parts(catalogue) -> Iterator[dict]:
    for start in range(0, len(catalogue), PART):
        yield catalogue[start : start + PART]


def chosen(catalogue) -> dict[str, list[str]]:
    """Conditions that keep all, a third, a tenth and a hundredth, or as near as they come."""
    some = catalogue.select_columns(list(FIELDS))[:PART]
    price = float(np.quantile(some["price"], 1 / 3))

    def near(name: str, share: float) -> str:
        names, counts = np.unique(some[name], return_counts=True)
        return names[np.abs(counts / len(some[name]) - share).argmin()]

    return {
        "all": [],
        "a third": [f"price<{price}"],
        "a tenth": [f"department={near('department', 0.1)}"],
        "a hundredth": [f"product_brand={near('product_brand', 0.01)}"],
    }


class Best:
    """The ten best sums of each query over all products, under each of several conditions."""

    def __init__(self, vectors: np.ndarray, queries: list[str], known: words.Statistics, wheres):
        self._vectors = vectors
        self._wheres = {name: list(map(stores.condition, where)) for name, where in wheres.items()}
        self.kept = dict.fromkeys(wheres, 0)
        asked = [words.asked(known, query) for query in queries]
        columns, often, ends = flat(asked)
        shape = len(queries), len(known.numbers)
        self._asked = sparse.csr_array((often, columns, ends), shape=shape).T.tocsr()
        self._sums = {name: np.full((len(queries), ask_engine.TOP), -np.inf) for name in wheres}

    def see(self, batch: stores.Batch) -> None:
        numbers, adds, ends = flat(batch.words)
        shape = len(batch.ids), self._asked.shape[0]
        bm25 = (sparse.csr_array((adds, numbers, ends), shape=shape) @ self._asked).toarray()
        sums = self._vectors @ batch.vectors.T + ask_engine.WEIGHT * bm25.T
        for name, where in self._wheres.items():
            keep = np.ones(len(batch.ids), bool)
            for one in stores.fitted(where, batch.kinds()):
                own = np.asarray(batch.fields[one.field])
                keep &= own < one.value if one.operator == "<" else own == one.value
            self.kept[name] += int(keep.sum())
            both = np.concatenate([self._sums[name], sums[:, keep]], axis=1)
            self._sums[name] = np.sort(np.partition(both, -ask_engine.TOP)[:, -ask_engine.TOP :])

    def tenth(self, name: str) -> list[tuple[int, float]]:
        """Of each query how many sums there are, ten at most, and the last of them."""
        counts = np.isfinite(self._sums[name]).sum(axis=1)
        return [
            (int(count), float(own[-count]) if count else 0.0)
            for own, count in zip(self._sums[name], counts, strict=True)
        ]


def flat(entries: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and values of sparse rows, one after the other, and where each begins."""
    columns, values = (np.concatenate([one[n] for one in entries]) for n in (0, 1))
    return columns, values, np.cumsum([0, *(len(own) for own, _ in entries)])


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result of all files that are there.

    Other rows of the record stay, each with the day on which it was measured, unless the simulated
    shop has changed since.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SystemExit(f"{folder}: nothing was measured; run this script without --merge first.")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    same = record.get("generator") == shop.generator_hash()
    old = record["data"]["rows"] if same else []
    names = ("engine", "products", "candidates")
    of = {tuple(map(row.get, names)): row for row in [*old, *(one["row"] for one in found)]}
    rows = [of[one] for one in sorted(of)]
    goals = []
    for row in rows:
        if row["candidates"] != hosted.enough(row["products"]):  # of another width, to compare with
            continue
        at = f"{row['engine']}, {row['products']:,} products"
        value = row["all"]["recall"]
        goals.append(exact(f"recall@10 of the first stage, {at}", value, "≥ 0.95", value >= 0.95))
        least = min(row[name]["recall"] for name in ("a third", "a tenth", "a hundredth"))
        goals.append(exact(f"recall@10 under a condition, {at}", least, "≥ 0.95", least >= 0.95))
        slow = row["all"]["p95_ms"]
        goals.append(exact(f"p95 of a search, ms, {at}", slow, "≤ 100", slow <= 100))
    sizes = sorted({row["products"] for row in rows})
    engines = sorted({row["engine"] for row in rows})
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_engines.py --engines {' '.join(engines)} --sizes "
        f"{' '.join(map(str, sizes))}, --merge",
        seeds=[catalogues.SEED],
        hardware=found[-1]["hardware"],
        generator=shop.generator_hash(),
        data={"rows": rows, "server": SERVER},
        goals=goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Engines that hold a catalogue, against its size.")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=MEASURED)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of products")
    parser.add_argument("--folder", type=Path, default=artifact_folder() / "engines")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--out", type=Path, default=RECORDED / "engines.json")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        products, work, uri = arguments.write
        print(json.dumps(write(int(products), Path(work), uri)))
        return
    if arguments.merge:
        merge(arguments.folder, arguments.out)
        return
    for products in arguments.sizes:
        for engine in arguments.engines:
            file = arguments.folder / f"{engine}_{products}.json"
            if not file.exists():
                row = measure(engine, products, arguments.folder / f"{file.stem}.{os.getpid()}")
                row["created"] = f"{date.today()}"
                write_text(file, json.dumps({"row": row, "hardware": bench.hardware()}))
            print(file.read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
