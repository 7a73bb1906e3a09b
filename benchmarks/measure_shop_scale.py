"""Time and peak memory of writing the simulated shop, against the number of products.

    python benchmarks/measure_shop_scale.py [--out FILE] [--sizes 1000 10000 100000 1000000]

Each size is written by a process of its own, so that its peak memory is its own. Peak memory is
the resident set, libraries included; what must not grow is its rise from one size to the next.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ecomkd import bench, report
from ecomkd.data import shop

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SEED = 900
QUERIES = 200  # few, and as many at every size: the catalogue is what grows
MEGABYTE = 2**20


def measure(products: int) -> dict:
    """Write one shop in this process and say what it took."""
    before = _peak()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        shop.write(folder, products, SEED, queries=QUERIES, unlabelled_pairs=QUERIES)
        seconds = time.perf_counter() - started
        size = (Path(folder) / "products.parquet").stat().st_size
    return {
        "products": products,
        "seconds": round(seconds, 2),
        "peak_mb": round(_peak() / MEGABYTE, 1),
        "libraries_mb": round(before / MEGABYTE, 1),
        "file_mb": round(size / MEGABYTE, 1),
    }


def _peak() -> int:
    """Bytes; Linux counts ru_maxrss in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    growth = rows[-1]["peak_mb"] / rows[-2]["peak_mb"] if len(rows) > 1 else 1.0
    goal = report.goal(
        f"peak memory at {rows[-1]['products']:,} products over the size before it",
        growth,
        growth,
        growth,
        "at most 1.2",
        growth <= 1.2,
    )
    print(json.dumps(goal))
    if options.out:
        report.write_recorded(
            options.out,
            command="python benchmarks/measure_shop_scale.py --sizes "
            + " ".join(map(str, options.sizes))
            + f" --out ecomkd/recorded/{options.out.name}",
            seeds=[SEED],
            hardware=bench.hardware(),
            generator=shop.generator_hash(),
            data={"sizes": rows},
            goals=[goal],
        )


if __name__ == "__main__":
    main()
