"""A service under load, and killed under load: answers a second, latency, errors, wrong answers.

    pip install locust
    python benchmarks/measure_serving_load.py DIR

DIR is a folder that `ecomkd serve` takes; in the record it is the one that chapter 9 writes in
profile `book`, `engine` among its artefacts. The service runs in a process of its own, and the
clients in another, so that they share the machine: the numbers are those of service and clients
together. Queries are those of the shop's unlabelled pairs. Every answer is compared with that of
the same engine called in this process, before the service starts.

*Closed loop* (Locust): a client asks again as soon as it has its answer, or, where it is turned
away, when it is told to; half of the time for a search, half of the time for an order of 20
products. The bend of the load is found so. A second service, whose student reads nothing, is asked
for searches alone.

*Open loop*: shoppers do not wait for one another. Requests come at random, a Poisson process, at 50
and 80 % of the answers a second that the closed loop found at its bend. A request's time is
counted from the moment at which it was due, not from the one at which a client was free to send it:
otherwise the waits that a slow answer causes would be left out, which Gil Tene calls *coordinated
omission* ("How NOT to Measure Latency", QCon San Francisco 2015). Who is turned away does not ask
again.

Percentiles are told for each path by itself: searches in which the student reads, searches in which
it does not, and orders. The last run kills the service (SIGKILL) while eight clients ask, and
starts it again.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote_plus

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CASES = 200
PRODUCTS = 20
RESTART_CLIENTS = 8
FLAT = 0.9
"""The load's bend is where this share of the most answers a second is first reached."""
SHARES = (0.5, 0.8)
"""The rates of the open loop, as shares of the answers a second at the bend."""
SENDERS = 256
"""Requests of the open loop that may be on their way at a time; those beyond wait, and the wait
counts."""
KINDS = ("right", "wrong", "refused", "unanswered")


def shoppers(plan: dict) -> dict:
    """What Locust's clients saw; runs in a process of its own, for Locust replaces its sockets."""
    from locust import FastHttpUser, constant, task
    from locust.env import Environment

    import gevent  # isort: skip  (after Locust, which patches the standard library)

    draw, count = random.Random(0), dict.fromkeys((*KINDS, "right_since_gap"), 0)
    asked: list[tuple[str, str, float]] = []

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
                count[kind] += 1
                asked.append((case["name"], kind, response.request_meta["response_time"]))
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
    seconds = time.monotonic() - began
    return {"clients": plan["clients"], "seconds": seconds, **count, "asked": asked}


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds from the start: a Poisson process of `rate` a second."""
    draw, due, times = random.Random(seed), 0.0, []
    while (due := due + draw.expovariate(rate)) < seconds:
        times.append(due)
    return times


def open_loop(plan: dict, due: Sequence[float], senders: int = SENDERS) -> dict:
    """Send a request at each of these times, whether or not those before it were answered.

    The milliseconds of each are counted from the time at which it was due.
    """
    draw, port = random.Random(0), int(plan["host"].rpartition(":")[2])
    cases = [draw.choice(plan["cases"]) for _ in due]
    begin = time.monotonic()

    def send(case: dict, when: float) -> tuple[str, str, float]:
        kind = _ask(port, case)
        return case["name"], kind, 1000 * (time.monotonic() - begin - when)

    with ThreadPoolExecutor(senders) as pool:
        sent = []
        for case, when in zip(cases, due, strict=True):
            time.sleep(max(0.0, begin + when - time.monotonic()))
            sent.append(pool.submit(send, case, when))
        asked = [one.result() for one in sent]
    count = {kind: sum(found == kind for _, found, _ in asked) for kind in KINDS}
    return {"seconds": time.monotonic() - begin, **count, "asked": asked}


def _ask(port: int, case: dict) -> str:
    """Send one request; what became of it, one of `KINDS`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = None if case["body"] is None else json.dumps(case["body"])
        header = {"Content-Type": "application/json"} if body else {}
        connection.request(case["method"], case["path"], body, header)
        response = connection.getresponse()
        if response.status != 200:
            return "refused"
        return "right" if json.loads(response.read()) == case["answer"] else "wrong"
    except OSError:
        return "unanswered"
    finally:
        connection.close()


@contextmanager
def service(folder: Path, port: int, workers: int | None, depth: int | None = None):
    """`ecomkd serve` in a process of its own, ready; gives the process."""
    command = [sys.executable, "-m", "ecomkd.cli", "serve", str(folder)]
    command += ["--port", str(port), "--rate", "0"]
    command += ["--workers", str(workers)] if workers else []
    command += [] if depth is None else ["--depth", str(depth)]
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


def percentiles(times: Sequence[float]) -> dict:
    """p50, p95 and p99 of milliseconds; None where nothing was answered."""
    import numpy as np

    found = (float(x) for x in np.percentile(times, [50, 95, 99])) if times else [None] * 3
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), found, strict=True))


def row(seen: dict) -> dict:
    """One level of load: rates, percentiles and counts, of all requests and of each path."""
    asked = seen.pop("asked")

    def of(part: Sequence[tuple[str, str, float]]) -> dict:
        answered = [ms for _, kind, ms in part if kind in ("right", "wrong")]
        right = sum(kind == "right" for _, kind, _ in part)
        return {"per_second": right / seen["seconds"], **percentiles(answered)}

    paths = {}
    for name in sorted({name for name, _, _ in asked}):
        part = [one for one in asked if one[0] == name]
        count = {kind: sum(found == kind for _, found, _ in part) for kind in KINDS}
        paths[name] = {**count, **of(part)}
    return {**seen, **of(asked), "paths": paths}


def bend_of(levels: Sequence[dict]) -> dict:
    """The first level that reaches `FLAT` of the most answers a second."""
    most = max(level["per_second"] for level in levels)
    return next(level for level in levels if level["per_second"] >= FLAT * most)


def measured(plan: dict, clients: Sequence[int], seconds: float) -> tuple[list[dict], list[dict]]:
    """The levels of the closed loop, and then, at shares of its bend, those of the open one."""
    with load(plan, 2):
        time.sleep(3)  # warm-up
    levels = []
    for count in clients:
        with load(plan, count) as seen:
            time.sleep(seconds)
        levels.append(row(seen))
        print(json.dumps(levels[-1]), flush=True)
    bend, opened = bend_of(levels), []
    for seed, share in enumerate(SHARES):
        rate = share * bend["per_second"]
        seen = row(open_loop(plan, arrivals(rate, seconds, seed)))
        opened.append({"share": share, "rate": rate, **seen})
        print(json.dumps(opened[-1]), flush=True)
    return levels, opened


def searches(engine, queries: Sequence[str], name: str) -> Iterator[dict]:
    """Requests for searches, and the answers that the engine gives without a service."""
    for query in queries:
        shown = [
            {"product_id": hit.product_id, "title": hit.title, "score": float(hit.score)}
            for hit in engine.search(query, 10)
        ]
        yield {
            "name": name,
            "method": "GET",
            "path": f"/search?q={quote_plus(query)}&k=10",
            "body": None,
            "answer": {"query": query, "hits": shown},
        }


def orders(engine, queries: Sequence[str]) -> Iterator[dict]:
    """Requests to put titles into an order, and the engine's answers, where there are titles."""
    for query in queries:
        titles = [hit.title for hit in engine.search(query, PRODUCTS)]
        if titles:
            scores = engine.score([query] * len(titles), titles).tolist()
            yield {
                "name": "rerank",
                "method": "POST",
                "path": "/rerank",
                "body": {"query": query, "products": titles},
                "answer": {
                    "scores": scores,
                    "order": sorted(range(len(scores)), key=lambda place: -scores[place]),
                },
            }


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
    engine, host = search.load(options.folder), f"http://127.0.0.1:{options.port}"
    plan = {
        "host": host,
        "cases": [*searches(engine, queries, "search"), *orders(engine, queries)],
    }
    engine.depth = 0
    bare = {"host": host, "cases": list(searches(engine, queries, "search, nothing read"))}
    serving = (options.folder, options.port, options.workers)
    with service(*serving):
        levels, opened = measured(plan, options.clients, options.seconds)
    with service(*serving, depth=0):
        bare_levels, bare_opened = measured(bare, options.clients, options.seconds)
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

    bend, most = bend_of(levels), max(level["per_second"] for level in levels)
    before = [level for level in levels if level["clients"] <= bend["clients"]]
    errors = sum(level["refused"] + level["unanswered"] for level in before)
    every = [*levels, *opened, *bare_levels, *bare_opened, restart]
    wrong = sum(level["wrong"] for level in every)
    asked = sum(level["right"] + level["wrong"] for level in every)
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
            "open": opened,
            "nothing_read": {
                "levels": bare_levels,
                "bend": bend_of(bare_levels)["clients"],
                "open": bare_opened,
            },
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
