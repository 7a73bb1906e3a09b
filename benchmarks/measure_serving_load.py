"""A service under load, and killed under load: answers a second, latency, errors, wrong answers.

    pip install locust
    python benchmarks/measure_serving_load.py DIR

DIR is a folder that `ecomkd serve` takes. The service runs in a process of its own, and Locust's
clients in another, so that they share the machine: the numbers are those of service and clients
together. A client asks again as soon as it has its answer, or, where it is turned away, when it is
told to; half of the time for a search, half of the time for an order of 20 products. Queries are
those of the shop's unlabelled pairs. Every answer is compared with that of the same engine called
in this process, before the service starts.

The last run kills the service (SIGKILL) while eight clients ask, and starts it again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote_plus

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CASES = 200
PRODUCTS = 20
RESTART_CLIENTS = 8
FLAT = 0.9
"""The load's bend is where this share of the most answers a second is first reached."""


def shoppers(plan: dict) -> dict:
    """What Locust's clients saw; runs in a process of its own, for Locust replaces its sockets."""
    from locust import FastHttpUser, constant, task
    from locust.env import Environment

    import gevent  # isort: skip  (after Locust, which patches the standard library)

    kinds = ("right", "wrong", "refused", "unanswered", "right_since_gap")
    draw, count = random.Random(0), dict.fromkeys(kinds, 0)
    times: list[float] = []

    class Shopper(FastHttpUser):
        host = plan["host"]
        wait_time = constant(0)

        @task
        def ask(self) -> None:
            case = draw.choice(plan["cases"])
            with self.client.request(
                case["method"], case["path"], json=case["body"], name="ask", catch_response=True
            ) as response:
                if response.status_code == 0:
                    kind = "unanswered"
                    gevent.sleep(0.05)
                elif response.status_code != 200:
                    kind = "refused"
                    gevent.sleep(float(response.headers.get("Retry-After", 0)))
                else:
                    kind = "right" if response.json() == case["answer"] else "wrong"
                    times.append(response.request_meta["response_time"])
                count[kind] += 1
                if kind == "unanswered":
                    count["right_since_gap"] = 0
                elif kind == "right":
                    count["right_since_gap"] += 1
                response.success()

    runner = Environment(user_classes=[Shopper]).create_local_runner()
    runner.start(plan["clients"], spawn_rate=plan["clients"])
    began = time.monotonic()
    print("asking", flush=True)
    while not Path(plan["stop"]).exists():
        gevent.sleep(0.05)
    runner.quit()
    return {"clients": plan["clients"], "seconds": time.monotonic() - began, **count, "ms": times}


@contextmanager
def service(folder: Path, port: int, workers: int | None):
    """`ecomkd serve` in a process of its own, ready; gives the process."""
    command = [sys.executable, "-m", "ecomkd.cli", "serve", str(folder)]
    command += ["--port", str(port), "--rate", "0"]
    command += ["--workers", str(workers)] if workers else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not _ready(port):
            if process.poll() is not None:
                raise SystemExit("The service did not start: the lines above say why.")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def load(plan: dict, clients: int):
    """Clients that ask while the block runs; after it, the mapping has what they saw."""
    seen: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        file, stop = Path(folder) / "plan.json", Path(folder) / "stop"
        file.write_text(json.dumps({**plan, "clients": clients, "stop": str(stop)}))
        command = [sys.executable, __file__, "--shoppers", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        try:
            yield seen
        finally:
            stop.touch()
            printed, _ = process.communicate()
        if process.returncode:
            raise SystemExit("Locust failed: the lines above say why.")
        seen |= json.loads(printed.splitlines()[-1])


def row(seen: dict) -> dict:
    """One level of load: rates, percentiles and counts."""
    import numpy as np

    times = seen.pop("ms")
    p50, p95, p99 = (float(x) for x in np.percentile(times, [50, 95, 99])) if times else [None] * 3
    rate = {"per_second": seen["right"] / seen["seconds"]}
    return {**seen, **rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def cases(engine, queries: list[str]) -> list[dict]:
    """Requests and the answers that the engine gives without a service."""
    found = []
    for query in queries:
        hits = engine.search(query, PRODUCTS)
        shown = [
            {"product_id": hit.product_id, "title": hit.title, "score": float(hit.score)}
            for hit in engine.search(query, 10)
        ]
        found.append(
            {
                "method": "GET",
                "path": f"/search?q={quote_plus(query)}&k=10",
                "body": None,
                "answer": {"query": query, "hits": shown},
            }
        )
        if not hits:
            continue
        titles = [hit.title for hit in hits]
        scores = engine.score([query] * len(titles), titles).tolist()
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        found.append(
            {
                "method": "POST",
                "path": "/rerank",
                "body": {"query": query, "products": titles},
                "answer": {"scores": scores, "order": order},
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `ecomkd serve` takes")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=20, help="of each level of load")
    parser.add_argument("--workers", type=int, help="threads of the service (default: cores)")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, help="JSON file to write (default: the recorded one)")
    options = parser.parse_args()

    from ecomkd import bench, report, search
    from ecomkd import load as load_data
    from ecomkd.config import Profile
    from ecomkd.data import shop

    profile = Profile.named()
    queries = sorted(set(load_data("shop", profile)["unlabelled"]["query"]))
    queries = random.Random(profile.seed).sample(queries, min(CASES, len(queries)))
    plan = {
        "host": f"http://127.0.0.1:{options.port}",
        "cases": cases(search.load(options.folder), queries),
    }
    serving = (options.folder, options.port, options.workers)
    with service(*serving):
        with load(plan, 2):
            time.sleep(3)  # warm-up
        levels = []
        for clients in options.clients:
            with load(plan, clients) as seen:
                time.sleep(options.seconds)
            levels.append(row(seen))
            print(json.dumps(levels[-1]), flush=True)
    with service(*serving) as first, ExitStack() as second, load(plan, RESTART_CLIENTS) as seen:
        time.sleep(options.seconds / 2)
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        first.wait()
        second.enter_context(service(*serving))
        away = time.monotonic() - killed
        time.sleep(options.seconds / 2)
    restart = {**row(seen), "seconds_away": away}
    print(json.dumps(restart), flush=True)

    most = max(level["per_second"] for level in levels)
    bend = next(level for level in levels if level["per_second"] >= FLAT * most)
    before = [level for level in levels if level["clients"] <= bend["clients"]]
    errors = sum(level["refused"] + level["unanswered"] for level in before)
    wrong = sum(level["wrong"] for level in [*levels, restart])
    asked = sum(level["right"] + level["wrong"] for level in [*levels, restart])
    last = levels[-1]["per_second"] / most
    report.write_recorded(
        options.out or Path(report.__file__).parent / "recorded" / "serving_load.json",
        command=f"python benchmarks/measure_serving_load.py {options.folder.name} "
        f"--seconds {options.seconds:g} --clients {' '.join(map(str, options.clients))}"
        + (f" --workers {options.workers}" if options.workers else ""),
        seeds=[profile.seed],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={
            "profile": profile.name,
            "requests": len(plan["cases"]),
            "products_of_a_rerank": PRODUCTS,
            "levels": levels,
            "bend": bend["clients"],
            "restart": restart,
        },
        goals=[
            report.goal(
                f"wrong answers among {asked:,}, with a kill and a restart under load",
                wrong,
                None,
                None,
                "0, and right ones after the restart",
                wrong == 0 and restart["unanswered"] > 0 and restart["right_since_gap"] > 0,
            ),
            report.goal(
                f"requests without an answer up to {bend['clients']} clients, where the load bends",
                errors,
                None,
                None,
                "0",
                errors == 0,
            ),
            report.goal(
                f"answers a second with {levels[-1]['clients']} clients over the most",
                last,
                None,
                None,
                "at least 0.8",
                last >= 0.8,
            ),
        ],
    )


if __name__ == "__main__":
    if "--shoppers" in sys.argv:
        print(json.dumps(shoppers(json.loads(Path(sys.argv[2]).read_text()))))
    else:
        main()
