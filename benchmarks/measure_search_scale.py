"""Time and memory of searching, against the number of products.

    python benchmarks/measure_search_scale.py [--sizes 1000 10000 100000 1000000] [--out FILE]

Simulated catalogues of rising size, each made once. Each index is built and asked by a process of
its own, so that its peak memory is its own: BM25; the static student's vectors, compared one by one
and by an HNSW graph, as wide as it takes to find 95 of 100 neighbours; the bi-encoder's, up to
`--most` products. Queries take one thread and start from text. Encoders are those of the profile's
shop (ECOMKD_PROFILE).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from datasets import Dataset

from ecomkd import bench, load, report, search, words
from ecomkd.config import Profile
from ecomkd.data import shop, sources

RECORDED = Path(report.__file__).parent / "recorded" / "search_scale.json"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
INDEXES = ("BM25", "static, exact", "static, HNSW", "bi-encoder, exact")
SEED = 900
QUERIES = 200
DEPTH = 100
WIDTHS, ENOUGH = (100, 200, 400, 800, 1600, 3200), 0.95
SIZE_UNIT = 2**20


def measure(folder: Path, kind: str) -> dict:
    """Build one index over the catalogue in `folder`, and ask it, in this process."""
    catalogue = Dataset.from_parquet(str(folder / "products.parquet"), cache_dir=str(folder))
    texts = sources.product_text(catalogue[:])
    queries = list(dict.fromkeys(Dataset.from_parquet(str(folder / "judgments.parquet"))["query"]))
    libraries = _peak()
    started = time.perf_counter()
    if kind == "BM25":
        index = words.bm25(texts)
        size = index.data.nbytes + index.indices.nbytes + index.indptr.nbytes

        def ask(query):
            return search.lexical(index, [query], DEPTH)
    else:
        encoder = search.encoder(_encoder(kind), Profile.named())
        vectors = encoder.encode(texts, batch_size=256, show_progress_bar=False)
        encoded = time.perf_counter()
        index = search.approximate(vectors) if kind.endswith("HNSW") else one_by_one(vectors)
        size = len(faiss.serialize_index(index))

        def ask(query):
            return index.search(encoder.encode([query], show_progress_bar=False), DEPTH)

    seconds = time.perf_counter() - started
    faiss.omp_set_num_threads(1)
    found = widen(index, encoder, vectors, queries) if kind.endswith("HNSW") else {}
    clock = bench.latency(ask, queries[:QUERIES], repeats=1, threads=1)
    row = {
        "index": kind,
        "products": len(texts),
        "build_s": seconds,
        "index_mb": size / SIZE_UNIT,
        "peak_mb": _peak() / SIZE_UNIT,
        "texts_mb": libraries / SIZE_UNIT,
        "p50_ms": clock["p50_ms"],
        "p95_ms": clock["p95_ms"],
    }
    if kind != "BM25":
        row["encode_s"] = encoded - started
    return row | found


def one_by_one(vectors: np.ndarray) -> faiss.Index:
    """What `search.exact` does, by the library that also makes the graph: like for like."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def widen(index, encoder, vectors: np.ndarray, queries: list[str]) -> dict:
    """Set the smallest of `WIDTHS` that finds `ENOUGH` of the true neighbours, or the largest."""
    asked = encoder.encode(queries, show_progress_bar=False)
    true = search.exact(vectors).search(asked, DEPTH)[1]
    for width in WIDTHS:
        index.hnsw.efSearch = width
        near = index.search(asked, DEPTH)[1]
        share = np.mean([len(set(a) & set(b)) / DEPTH for a, b in zip(near, true, strict=True)])
        if share >= ENOUGH:
            break
    return {"ef_search": width, "neighbours_found": float(share)}


def _encoder(kind: str) -> Path:
    profile = Profile.named()
    data, catalogue = load("shop", profile), sources.catalogue("shop", profile)
    folder = search.bi_encoder(data, catalogue, profile, unlabelled=profile.live_pairs)
    if kind.startswith("static"):
        folder = search.static_encoder(data, catalogue, profile, folder)
    return folder


def _peak() -> int:
    """Peak resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Searching, against the number of products.")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of products")
    parser.add_argument("--most", type=int, default=100_000, help="products for the bi-encoder")
    parser.add_argument("--out", type=Path, default=RECORDED, help="where the result is written")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one[0]), arguments.one[1])))
        return
    for kind in INDEXES[1:]:
        _encoder(kind)  # made before anything is timed
    rows = []
    for products in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            shop.write(folder, products, SEED, queries=QUERIES, unlabelled_pairs=QUERIES)
            for kind in INDEXES:
                if kind.startswith("bi-encoder") and products > arguments.most:
                    continue
                command = [sys.executable, __file__, "--one", folder, kind]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
    report.write_recorded(
        arguments.out,
        command="python benchmarks/measure_search_scale.py --sizes "
        + " ".join(map(str, arguments.sizes)),
        seeds=[SEED],
        hardware=bench.hardware() | {"threads": torch.get_num_threads()},
        generator=shop.generator_hash(),
        data={"profile": Profile.named().name, "depth": DEPTH, "rows": rows},
        goals=[],
    )


if __name__ == "__main__":
    main()
