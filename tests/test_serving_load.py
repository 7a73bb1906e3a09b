"""The load that a service is measured under: when requests come, and what of their time counts."""

import threading
import time

import numpy as np
import pytest
from serving import Stub, service

import measure_serving_load as load
from ecomkd import report


def plan(port: int, cases) -> dict:
    return {"host": f"http://127.0.0.1:{port}", "cases": list(cases)}


def test_requests_come_at_random_at_the_rate_that_was_asked_for():
    times = load.arrivals(rate=50, seconds=200, seed=3)
    assert times == load.arrivals(rate=50, seconds=200, seed=3) != load.arrivals(50, 200, 4)
    assert times == sorted(times) and times[0] > 0 and times[-1] < 200
    assert len(times) == pytest.approx(50 * 200, rel=0.05)
    gaps = np.diff(times)
    # Of exponential gaps the deviation is the mean, and one in e is longer than it.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)


class Slow(Stub):
    def search(self, query, k):
        time.sleep(0.05)
        return super().search(query, k)


def test_time_counts_from_when_a_request_was_due():
    """One sender only: the second request is sent when the first is answered, and has waited."""
    engine = Slow()
    with service(engine, workers=1) as one:
        asked = plan(one.port, load.searches(Stub(), ["red"], "search"))
        seen = load.open_loop(asked, due=[0.0] * 4, senders=1)
    times = [ms for _, _, ms in seen["asked"]]
    assert seen["right"] == 4
    assert all(late >= 50 * number for number, late in enumerate(times, start=1))
    assert load.row(seen)["p50_ms"] >= 100


def test_requests_are_sent_when_they_are_due_whatever_those_before_them_do():
    engine = Stub()
    opened = threading.Timer(0.5, engine.gate.set)
    with service(engine, workers=1, max_waiting=8) as one:
        engine.gate.clear()  # not before: the service begins with a search of its own
        asked = plan(one.port, load.searches(Stub(), ["red"], "search"))
        opened.start()
        seen = load.open_loop(asked, due=[0.0, 0.1, 0.2])
    opened.join()
    assert seen["right"] == 3
    first, second, third = (ms for _, _, ms in seen["asked"])
    # All three were answered once the gate was open: the later one was due, the shorter it waited.
    assert first > 400 and first > second > third


def test_who_is_turned_away_does_not_ask_again():
    engine = Stub()
    opened = threading.Timer(1, engine.gate.set)
    with service(engine, workers=1, max_waiting=1) as one:
        engine.gate.clear()
        asked = plan(one.port, load.searches(Stub(), ["red"], "search"))
        opened.start()
        seen = load.open_loop(asked, due=[0.0, 0.2, 0.3, 0.4])
        found = one.metrics()
    opened.join()
    assert (seen["right"], seen["refused"]) == (1, 3)
    assert found["ecomkd_requests_total", "/search", "503"] == 3
    level = load.row(seen)
    assert level["p95_ms"] > 900 and level["paths"]["search"]["refused"] == 3


def test_what_nobody_answers_is_counted():
    with service() as one:
        asked = plan(one.port, load.searches(Stub(), ["red"], "search"))
    seen = load.open_loop(asked, due=[0.0])
    assert seen["unanswered"] == 1
    assert load.row(seen)["p50_ms"] is None


def test_answers_are_compared_with_those_of_the_engine():
    with service() as one:
        cases = [*load.searches(Stub(), ["red", "blue"], "search"), *load.orders(Stub(), ["red"])]
        assert [case["name"] for case in cases] == ["search", "search", "rerank"]
        assert {load._ask(one.port, case) for case in cases} == {"right"}
        cases[2]["answer"]["order"].reverse()
        cases[0]["answer"]["hits"].pop()
        assert [load._ask(one.port, case) for case in cases] == ["wrong", "right", "wrong"]


def test_each_path_has_percentiles_of_its_own():
    asked = [("search", "right", 10.0)] * 19 + [("search", "refused", 1.0)]
    asked += [("rerank", "right", 600.0)] * 4 + [("rerank", "wrong", 800.0)]
    count = {"right": 23, "wrong": 1, "refused": 1, "unanswered": 0}
    level = load.row({"clients": 4, "seconds": 2.0, **count, "asked": asked})
    assert level["p50_ms"] == 10 and level["p95_ms"] == 600
    assert level["per_second"] == 23 / 2
    search, rerank = level["paths"]["search"], level["paths"]["rerank"]
    assert (search["p95_ms"], search["right"], search["refused"]) == (10, 19, 1)
    assert (rerank["p50_ms"], rerank["wrong"], rerank["per_second"]) == (600, 1, 2)
    assert "asked" not in level


def test_the_bend_is_the_first_level_near_the_most():
    levels = [{"clients": n, "per_second": rate} for n, rate in ((1, 26), (2, 58), (4, 61))]
    assert load.bend_of(levels)["clients"] == 2
    assert load.bend_of(levels[:1])["clients"] == 1


def test_what_the_chapter_says_of_the_recorded_load():
    """Waits of the open loop, of searches and orders apart, and of a service that reads nothing."""
    data = report.recorded("serving_load")["data"]
    levels = {level["clients"]: level for level in data["levels"]}
    half, most = data["open"]
    assert [half["share"], most["share"]] == list(load.SHARES)
    bend = levels[data["bend"]]
    for path in ("search", "rerank"):
        waits = [level["paths"][path]["p95_ms"] for level in (bend, half, most)]
        assert waits == sorted(waits), "requests that come at random wait longer"
    crowd = levels[16]["paths"]
    assert crowd["rerank"]["p50_ms"] > 2 * crowd["search"]["p50_ms"], "it is the orders that wait"
    bare = data["nothing_read"]
    assert load.bend_of(bare["levels"])["per_second"] > 10 * bend["per_second"]
    far = bare["open"][-1]
    assert far["share"] == most["share"] and far["refused"] > 0.1 * far["right"]
