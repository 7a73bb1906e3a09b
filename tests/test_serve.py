"""The service, asked over a real socket: answers, refusals, and what goes on beside the answers."""

import asyncio
import http.client
import inspect
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import ecomkd
from ecomkd import cli, serve

ROOT = Path(__file__).resolve().parent.parent
TITLES = ("red shoe", "blue mug", "green lamp", "steel pot")
Hit = namedtuple("Hit", "product_id title score")
Answer = namedtuple("Answer", "status content headers")


def value(query: str, text: str) -> float:
    """A number in [0, 1) that depends on both texts."""
    return zlib.crc32(f"{query}\n{text}".encode()) / 2**32


class Stub:
    """An engine whose answers are known; `gate` holds its calls while it is shut."""

    def __init__(self):
        self.calls: list[list[tuple[str, str]]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def search(self, query, k):
        self.entered.release()
        self.gate.wait(30)
        hits = [Hit(f"p{i}", title, value(query, title)) for i, title in enumerate(TITLES)]
        return sorted(hits, key=lambda hit: -hit.score)[:k]

    def score(self, queries, texts):
        self.calls.append(list(zip(queries, texts, strict=True)))
        self.entered.release()
        self.gate.wait(30)
        return np.array([value(*pair) for pair in self.calls[-1]])


class Client:
    def __init__(self, port: int):
        self.port = port

    def ask(self, path, body=None, method=None, headers=None, **options) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json"}
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, headers or {}, **options)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.getheader("Content-Type") == "application/json":
            content = json.loads(content)
        return Answer(response.status, content, response.headers)

    def rerank(self, query="red", products=TITLES) -> Answer:
        return self.ask("/rerank", {"query": query, "products": list(products)})

    def metrics(self) -> dict:
        text = self.ask("/metrics").content.decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def service(engine=None, reference=None, clock=time.monotonic, **settings):
    settings = serve.Settings(**{"rate": 0, "workers": 2, "timeout": 20, **settings})
    app = serve.create_app(
        engine or Stub(), settings, name="stub", reference=reference, clock=clock
    )
    with serve.background(app) as port:
        yield Client(port)


@pytest.fixture(scope="module")
def client():
    with service() as one:
        yield one


def until(condition, seconds=20):
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


# Answers ------------------------------------------------------------------------------------------


def test_search_gives_the_engines_hits(client):
    status, content, _ = client.ask("/search?q=red+shoe&k=2")
    wanted = [
        {"product_id": hit.product_id, "title": hit.title, "score": hit.score}
        for hit in Stub().search("red shoe", 2)
    ]
    assert (status, content) == (200, {"query": "red shoe", "hits": wanted})
    assert len(client.ask("/search?q=red").content["hits"]) == len(TITLES)


def test_rerank_gives_scores_and_order(client):
    status, content, _ = client.rerank("mug")
    scores = [value("mug", title) for title in TITLES]
    assert status == 200
    assert content["scores"] == scores
    assert content["order"] == sorted(range(len(TITLES)), key=lambda i: -scores[i])


def test_equal_scores_keep_the_order_of_the_request():
    engine = Stub()
    engine.score = lambda queries, texts: np.zeros(len(texts))
    with service(engine) as one:
        assert one.rerank().content["order"] == [0, 1, 2, 3]


def test_health_says_what_is_loaded(client):
    status, content, _ = client.ask("/health")
    assert status == 200
    seconds = content.pop("seconds")
    assert seconds >= 0
    assert content == {
        "live": True,
        "ready": True,
        "loaded": "stub",
        "version": ecomkd.__version__,
        "waiting": 0,
        "shadow": False,
        "drift": "no reference",
        "drifting": [],
    }


def test_metrics_count_what_was_asked():
    with service() as one, service() as other:
        one.ask("/search?q=red")
        one.ask("/search?q=red&k=0")
        one.ask("/nowhere")
        one.ask("/elsewhere")
        one.rerank()
        found = one.metrics()
        assert found["ecomkd_requests_total", "/search", "200"] == 1
        assert found["ecomkd_requests_total", "/search", "422"] == 1
        assert found["ecomkd_requests_total", "other", "404"] == 2
        assert found["ecomkd_request_seconds_count", "/search"] == 2
        assert found["ecomkd_batch_pairs_sum",] == 1 + len(TITLES)  # with the warm-up
        assert found["ecomkd_waiting",] == 0
        assert ("ecomkd_requests_total", "/search", "200") not in other.metrics()


# Refusals -----------------------------------------------------------------------------------------

LIKE_SEARCH = "ask like this: GET /search?q=red+sofa&k=10"
LIKE_RERANK = (
    'ask like this: POST /rerank {"query": "red sofa", '
    '"products": ["Couch, crimson", "Floor lamp"]}'
)
REFUSED = {
    "no query": ("/search", None, 422, f"q is missing; {LIKE_SEARCH}"),
    "empty query": (
        "/search?q=%20",
        None,
        422,
        "The query is empty: give what a shopper would type.",
    ),
    "long query": (
        "/search?q=" + "a" * 1_257,
        None,
        422,
        "The query has 1,257 characters: give at most 256.",
    ),
    "k of words": (
        "/search?q=red&k=many",
        None,
        422,
        "k: input should be a valid integer, unable to parse string as an integer; " + LIKE_SEARCH,
    ),
    "k of nothing": ("/search?q=red&k=0", None, 422, "k is 0: give 1 to 100."),
    "k too large": ("/search?q=red&k=5000", None, 422, "k is 5,000: give 1 to 100."),
    "no JSON": (
        "/rerank",
        b'{"query": "red", ',
        400,
        f"The body is not valid JSON at character 17; {LIKE_RERANK}",
    ),
    "other bytes": (
        "/rerank",
        b'{"query": "J\xe4ger", "products": ["mug"]}',
        400,
        f"The body is not JSON in UTF-8; {LIKE_RERANK}",
    ),
    "no body": ("/rerank", b"", 422, f"the body is missing; {LIKE_RERANK}"),
    "no products": ("/rerank", {"query": "red"}, 422, f"products is missing; {LIKE_RERANK}"),
    "zero products": (
        "/rerank",
        {"query": "red", "products": []},
        422,
        "The request has 0 products: give 1 to 100.",
    ),
    "too many products": (
        "/rerank",
        {"query": "red", "products": ["mug"] * 101},
        422,
        "The request has 101 products: give 1 to 100.",
    ),
    "an empty product": (
        "/rerank",
        {"query": "red", "products": ["mug", " "]},
        422,
        "products[1] is empty: give its text.",
    ),
    "a number": (
        "/rerank",
        {"query": "red", "products": ["mug", 3]},
        422,
        f"products.1: input should be a valid string; {LIKE_RERANK}",
    ),
    "a stranger": (
        "/rerank",
        {"query": "red", "products": ["mug"], "k": 3},
        422,
        f"k: extra inputs are not permitted; {LIKE_RERANK}",
    ),
    "nothing there": (
        "/",
        None,
        404,
        "There is nothing at this path: ask /search, /rerank, /health, /metrics.",
    ),
    "large body": (
        "/rerank",
        {"query": "red", "products": ["mug" * 100_000]},
        413,
        "The body has more than 262,144 bytes: send fewer or shorter products.",
    ),
}


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_gets_one_sentence(client, path, body, status, sentence):
    headers = {"Content-Type": "application/json"}
    found = client.ask(path, body, headers=headers)
    assert (found.status, found.content) == (status, {"error": sentence})
    assert client.rerank().status == 200


def test_another_method_is_refused(client):
    found = client.ask("/rerank")
    assert found.status == 405
    assert found.content == {"error": "This path does not take GET: see /openapi.json."}
    assert client.ask("/openapi.json").status == 200


def test_a_lone_surrogate_is_refused(client):
    for query, product, name in (
        ("red \\ud800", "mug", "The query"),
        ("a", "mug \\udfff", "products[0]"),
    ):
        body = f'{{"query": "{query}", "products": ["{product}"]}}'.encode()
        found = client.ask("/rerank", body, headers={"Content-Type": "application/json"})
        assert found.status == 422
        assert found.content["error"] == (
            f"{name} has half a character at 4 (a lone surrogate): send it whole."
        )


def test_a_body_without_length_is_counted_as_it_comes(client):
    pieces = (b"x" * 10_000 for _ in range(40))
    found = client.ask("/rerank", pieces, encode_chunked=True, headers={
        "Transfer-Encoding": "chunked", "Content-Type": "application/json"
    })  # fmt: skip
    assert (found.status, found.content["error"][:13]) == (413, "The body has ")
    assert client.rerank().status == 200


def test_no_page_loads_anything_from_elsewhere(client):
    assert client.ask("/docs").status == client.ask("/redoc").status == 404


@pytest.mark.parametrize(
    "scores", [[np.nan] * 4, [np.inf] * 4, [1.0], [[1.0] * 4]], ids=["NaN", "inf", "few", "2-D"]
)
def test_scores_that_are_none_are_an_error_of_the_service(scores):
    wrong, right = Stub(), Stub()
    wrong.score = lambda queries, texts: (
        np.array(scores) if len(texts) > 1 else right.score(queries, texts)
    )
    with service(wrong, max_batch=4) as one:
        found = one.rerank()
        assert found.status == 500
        assert found.content == {"error": "The service failed on this request: its log says why."}
        assert one.rerank("red", ["mug"]).status == 200
        assert one.metrics()["ecomkd_requests_total", "/rerank", "500"] == 1


def test_an_engine_that_fails_once_answers_the_next():
    engine, faults = Stub(), [KeyError("lost")]

    def search(query, k):
        if faults:
            raise faults.pop()
        return Stub().search(query, k)

    engine.search = search
    with service(engine) as one:
        assert one.ask("/search?q=red").status == 500
        assert one.ask("/search?q=red").status == 200


def test_an_engine_that_cannot_score_is_not_served():
    engine = Stub()
    engine.score = lambda queries, texts: np.array([np.nan])
    with pytest.raises(RuntimeError, match="did not start"), service(engine):
        pass


# Time and room ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["search", "rerank"])
def test_a_late_answer_is_given_up(kind):
    engine = Stub()
    with service(engine, timeout=0.05) as one:
        engine.gate.clear()
        found = one.ask("/search?q=red") if kind == "search" else one.rerank()
        engine.gate.set()
        assert found.status == 504
        assert found.content == {
            "error": "No answer within 0.05 s: ask for fewer products, or again later."
        }
        until(lambda: one.ask("/health").content["waiting"] == 0)
        until(lambda: one.rerank().status == 200)


def test_pairs_of_a_request_that_was_given_up_are_not_scored():
    engine = Stub()
    with service(engine, timeout=0.1, workers=1, max_batch=2) as one:
        engine.gate.clear()
        assert one.rerank("red").status == 504
        engine.gate.set()
        until(lambda: one.rerank("blue").status == 200)
    asked = [pair for call in engine.calls for pair in call if pair[0] == "red"]
    assert len(asked) == 2  # the one call that had begun


def test_a_full_service_turns_requests_away():
    engine = Stub()
    with service(engine, workers=1, max_waiting=2) as one, ThreadPoolExecutor(2) as threads:
        engine.gate.clear()
        waiting = [threads.submit(one.rerank, query) for query in ("red", "blue")]
        until(lambda: one.ask("/health").content["waiting"] == 2)
        found = one.ask("/search?q=red")
        assert (found.status, found.headers["Retry-After"]) == (503, "1")
        assert found.content == {"error": "2 requests wait already: ask again in a second."}
        engine.gate.set()
        assert [answer.result().status for answer in waiting] == [200, 200]
        assert one.ask("/search?q=red").status == 200
        assert one.metrics()["ecomkd_requests_total", "/search", "503"] == 1


@pytest.mark.parametrize(
    ("waiting", "pace", "full"),
    [(0, 9, False), (1, 9, False), (2, 9, True), (4, 0.2, False), (5, 0.2, True), (9, 0, False),
     (10, 0, True)],
)  # fmt: skip
def test_room_is_for_those_who_can_be_answered_in_time(waiting, pace, full):
    settings = serve.Settings(workers=2, timeout=2, max_waiting=10)
    one = serve._Service(Stub(), settings, "stub", None)
    one.waiting, one.pace = waiting, pace
    assert one.full() is full


def test_no_answer_waits_for_its_first_half_to_be_confirmed():
    with (
        serve._listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_crowd_gets_answers_in_time_or_is_turned_away():
    engine = Stub()
    engine.score = lambda queries, texts: time.sleep(0.02 * len(texts)) or np.zeros(len(texts))

    def ask(one) -> list[int]:
        seen = []
        while time.monotonic() < end:
            seen.append(one.rerank("red", ["mug"]).status)
            time.sleep(0.02 * (seen[-1] == 503))
        return seen

    with service(engine, workers=1, max_waiting=100, timeout=0.4) as one:
        for _ in range(20):  # so that it knows its pace
            one.rerank("red", ["mug"])
        end = time.monotonic() + 2
        with ThreadPoolExecutor(40) as threads:
            seen = [status for each in threads.map(ask, [one] * 40) for status in each]
        assert seen.count(200) > 5 * seen.count(504)
        assert seen.count(503) > 0
        assert one.rerank("red", ["mug"]).status == 200


def test_a_client_that_asks_too_often_is_told_when_to_return():
    now = [100.0]
    with service(rate=2, clock=lambda: now[0]) as one:
        assert [one.ask("/search?q=red").status for _ in range(5)] == [200] * 4 + [429]
        found = one.rerank()
        assert (found.status, found.headers["Retry-After"]) == (429, "1")
        assert found.content == {
            "error": "More than 2 requests a second from one client: ask again in 1 s."
        }
        assert one.ask("/health").status == one.ask("/metrics").status == 200
        now[0] += 0.5
        assert [one.ask("/search?q=red").status for _ in range(2)] == [200, 429]


def test_each_client_has_a_rate_of_its_own_and_few_are_remembered():
    now = [0.0]
    limit = serve.RateLimit(0.5, lambda: now[0])
    assert limit.wait("a") == 0
    assert limit.wait("a") == 2
    assert limit.wait("b") == 0
    for number in range(20_000):
        limit.wait(str(number))
    assert len(limit._paid) == 10_000
    assert serve.RateLimit(0).wait("a") == serve.RateLimit(0).wait("a") == 0


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0]), st.data()
)
def test_no_stretch_of_time_has_more_than_rate_and_burst(pauses, rate, data):
    now, passed = [0.0], []
    limit = serve.RateLimit(rate, lambda: now[0])
    for pause in pauses:
        now[0] += pause
        if not limit.wait("a"):
            passed.append(now[0])
    begin = data.draw(st.integers(0, len(passed) - 1))
    end = data.draw(st.integers(begin, len(passed) - 1))
    assert end - begin + 1 <= max(1, 2 * rate) + rate * (passed[end] - passed[begin]) + 1e-6


def test_who_waits_as_told_may_ask():
    now = [0.0]
    limit = serve.RateLimit(3.0, lambda: now[0])
    while not (wait := limit.wait("a")):
        pass
    now[0] += wait
    assert limit.wait("a") == 0


# Batches ------------------------------------------------------------------------------------------


def test_pairs_of_several_requests_share_a_call_and_get_their_own_scores():
    engine = Stub()
    queries = [f"query {i}" for i in range(8)]
    with service(engine, workers=1, max_batch=5) as one, ThreadPoolExecutor(8) as threads:
        engine.gate.clear()
        answers = [threads.submit(one.rerank, query) for query in queries]
        until(lambda: one.ask("/health").content["waiting"] == len(queries))
        engine.gate.set()
        found = [answer.result().content["scores"] for answer in answers]
    assert found == [[value(query, title) for title in TITLES] for query in queries]
    assert max(len({query for query, _ in call}) for call in engine.calls) > 1
    assert max(len(call) for call in engine.calls) == 5
    pairs = [pair for call in engine.calls[1:] for pair in call]
    assert sorted(pairs) == sorted((query, title) for query in queries for title in TITLES)


def test_a_large_request_is_spread_over_the_workers():
    engine = Stub()
    with service(engine, workers=3, max_batch=2) as one, ThreadPoolExecutor(1) as threads:
        assert engine.entered.acquire(timeout=20)  # the warm-up
        engine.gate.clear()
        answer = threads.submit(one.rerank, "red", [f"mug {i}" for i in range(6)])
        for _ in range(3):
            assert engine.entered.acquire(timeout=20)
        engine.gate.set()
        assert answer.result().status == 200
    assert [len(call) for call in engine.calls] == [1, 2, 2, 2]


def sizes(wait: float, most: int, *requests: int) -> list[int]:
    """The sizes of the calls for requests of so many pairs that come at the same time."""
    noted: list[int] = []

    async def ask():
        with ThreadPoolExecutor(1) as pool:
            settings = serve.Settings(workers=1, max_batch=most, max_wait_ms=wait)
            batcher = serve.Batcher(Stub().score, pool, settings, noted.append)
            await asyncio.gather(*(batcher.score("red", ["mug"] * pairs) for pairs in requests))
            batcher.stop()

    asyncio.run(ask())
    return noted


def test_calls_are_as_large_as_told():
    assert sizes(0, 4, 3) == [3]
    assert sizes(0, 4, 9) == [4, 4, 1]
    assert sizes(0, 4, 2, 1, 1, 3) == [4, 3]
    assert sizes(1, 4, 3) == [3]


def test_a_call_waits_for_more_pairs_only_until_it_is_full():
    began = time.monotonic()
    assert sizes(60_000, 4, 1, 3) == [4]
    assert time.monotonic() - began < 30


# Shadow -------------------------------------------------------------------------------------------


def with_shadow(shadow) -> Stub:
    engine = Stub()
    engine.shadow = shadow
    return engine


def test_agreement_by_hand():
    assert serve.agreement([3, 2, 1], [30, 20, 10]) == (1.0, True)
    assert serve.agreement([3, 2, 1], [1, 2, 3]) == (-1.0, False)
    tau, same = serve.agreement([3, 2, 1], [9, 1, 2])  # one of three pairs is turned
    assert tau == pytest.approx(1 / 3) and same
    assert serve.agreement([1, 1, 1], [1, 2, 3]) == (0.0, False)


def test_the_teacher_judges_after_the_answer_was_given():
    gate = threading.Event()

    def shadow(queries, texts):
        gate.wait(30)
        return -Stub().score(queries, texts)

    with service(with_shadow(shadow), shadow_share=1) as one:
        assert one.ask("/health").content["shadow"] is True
        assert one.rerank().status == one.ask("/search?q=red").status == 200
        assert one.metrics()["ecomkd_shadow_compared_total",] == 0
        assert one.metrics()["ecomkd_shadow_waiting",] == 2
        gate.set()
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 2)
        found = one.metrics()
    assert found["ecomkd_shadow_tau",] == -1
    assert found["ecomkd_shadow_waiting",] == 0
    assert found["ecomkd_shadow_same_first_total",] == 0
    assert found["ecomkd_shadow_dropped_total",] == found["ecomkd_shadow_failed_total",] == 0


def test_a_lone_product_has_no_order_to_compare():
    with service(with_shadow(Stub().score), shadow_share=1) as one:
        one.rerank("red", ["mug"])
        one.rerank("red", ["mug", "pot"])
        until(lambda: one.metrics()["ecomkd_shadow_compared_total",] == 1)
        assert one.metrics()["ecomkd_shadow_same_first_total",] == 1


def test_samples_that_the_teacher_has_no_time_for_are_dropped_and_counted():
    gate, entered = threading.Event(), threading.Event()

    def shadow(queries, texts):
        entered.set()
        gate.wait(30)
        return Stub().score(queries, texts)

    with service(with_shadow(shadow), shadow_share=1) as one:
        one.rerank()
        assert entered.wait(20)
        assert {one.rerank().status for _ in range(40)} == {200}
        found = one.metrics()
        gate.set()
    assert found["ecomkd_shadow_dropped_total",] == 40 - 32
    assert found["ecomkd_shadow_compared_total",] == 0


def test_a_teacher_that_fails_harms_nobody():
    def shadow(queries, texts):
        raise RuntimeError("no teacher today")

    with service(with_shadow(shadow), shadow_share=1) as one:
        assert [one.rerank().status for _ in range(3)] == [200] * 3
        until(lambda: one.metrics()["ecomkd_shadow_failed_total",] == 3)
        assert one.metrics()["ecomkd_shadow_waiting",] == 0
        assert one.rerank().status == 200


def test_about_the_share_asked_for_is_sampled():
    async def sampled(share: float) -> int:
        engine = with_shadow(Stub().score)
        shadow = serve.Shadow(engine, share, serve.CollectorRegistry())
        for _ in range(2_000):
            shadow.offer("red", TITLES)
        shadow.stop()
        return 32 + int(shadow._counts["dropped"]._value.get()) if share else 0

    assert asyncio.run(sampled(0.1)) == pytest.approx(200, abs=50)
    assert asyncio.run(sampled(1.0)) == 2_000
    assert asyncio.run(sampled(0)) == 0


# Drift --------------------------------------------------------------------------------------------

WORDS = [f"word{i}" for i in range(300)]


def traffic(count: int, seed: int, words=WORDS, more=0, score=0.6):
    """Queries of one to four words, rare ones too, and the scores of their best answers."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    for _ in range(count):
        query = " ".join(draw.choices(words, weights, k=draw.randint(1, 4) + more))
        yield query, min(1.0, max(0.0, draw.gauss(score, 0.15)))


def watcher(window=200, level=0.001) -> serve.Drift:
    queries, scores = zip(*traffic(600, seed=1), strict=True)
    return serve.Drift(queries, scores[:300], window, level)


def windows(drift: serve.Drift, live) -> list[list[str]]:
    """What drifted in each window."""
    return [drift.drifting for query, score in live if drift.see(query, score)]


def test_no_alarm_while_nothing_changes():
    drift = watcher()
    found = windows(drift, traffic(200 * 40, seed=2))
    assert found == [[]] * 40
    assert drift.windows == 40
    assert set(drift.statistic) == set(drift.FEATURES)


def test_alarms_without_drift_are_as_rare_as_asked():
    found = windows(watcher(level=0.2), traffic(200 * 100, seed=3))
    assert sum(map(bool, found)) <= 30


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"more": 1}, "length"),
        ({"words": WORDS[:60] + [f"new{i}" for i in range(240)]}, "unknown"),
        ({"score": 0.45}, "score"),
    ],
    ids=["length", "unknown", "score"],
)
def test_the_alarm_names_what_has_changed(change, feature):
    drift = watcher()
    assert windows(drift, traffic(200, seed=4)) == [[]]
    found = windows(drift, traffic(600, seed=5, **change))
    assert all(feature in names for names in found)
    assert drift.statistic[feature] == max(drift.statistic.values())
    assert windows(drift, traffic(200, seed=6)) == [[]]


def test_queries_without_an_answer_are_lower_than_any_score():
    drift = watcher()
    live = ((query, -np.inf) for query, _ in traffic(200, seed=7))
    assert windows(drift, live) == [["score"]]
    assert drift.statistic["score"] == 1


def test_words_count_as_unknown_by_the_other_queries():
    queries = ["red mug"] * 99 + ["Blue mug"]
    drift = serve.Drift(queries, [0.5] * 100, window=100, level=0.001)
    assert drift._reference[-1].tolist() == [2, 0.5, 0.5]
    assert drift._reference[0].tolist() == [2, 0, 0.5]
    drift.see("BLUE pot", 0.5)
    assert drift._live == [(2, 0.5, 0.5)]


def test_too_few_reference_queries_are_refused():
    with pytest.raises(ValueError, match="at least 100 reference queries, and there are 99"):
        serve.Drift(["red"] * 99, [0.5] * 99, 200, 0.001)
    with pytest.raises(ValueError, match="got 99 scores for 100 reference queries"):
        serve.Drift(["red"] * 100, [0.5] * 99, 200, 0.001)
    with pytest.raises(ValueError, match="99 reference queries and a window of 500"):
        serve.create_app(Stub(), reference=["red"] * 99 + [" "])


def test_the_service_raises_the_alarm_and_calls_it_off():
    engine = Stub()
    engine.search = lambda query, k: [Hit("p", "mug", 0.5)]
    reference = [query for query, _ in traffic(400, seed=1)]
    with service(engine, reference=reference, drift_window=150) as one:
        until(lambda: one.ask("/health").content["ready"])
        assert one.ask("/health").content["drift"] == "collecting"
        assert one.metrics()["ecomkd_drift_alarm",] == 0

        def live(**change):
            for query, _ in traffic(150, seed=8, **change):
                one.ask("/search?q=" + query.replace(" ", "+"))
            health = one.ask("/health").content
            return health["drift"], health["drifting"], one.metrics()

        assert live()[:2] == ("none", [])
        state, features, found = live(more=2)
        assert (state, features) == ("alarm", ["length"])
        assert found["ecomkd_drift_alarm",] == 1
        assert found["ecomkd_drift", "length"] > 0.3
        assert found["ecomkd_drift", "score"] == 0
        state, _, found = live()
        assert (state, found["ecomkd_drift_alarm",]) == ("none", 0)


def test_the_service_answers_before_it_is_ready():
    engine = Stub()
    with service(engine, reference=["red mug"] * 100, drift_window=100) as one:
        assert one.rerank().status == 200
        until(lambda: one.ask("/health").status == 200)
    shut = Stub()

    def search(query, k):
        shut.gate.wait(30)
        return [Hit("p", "mug", 0.5)]

    shut.search = search
    shut.score = lambda queries, texts: np.zeros(len(texts))
    shut.gate.clear()
    with service(shut, reference=["red mug"] * 100, drift_window=100) as one:
        found = one.ask("/health")
        assert (found.status, found.content["live"], found.content["ready"]) == (503, True, False)
        assert found.content["drift"] == "reading the reference"
        assert one.rerank().status == 200
        shut.gate.set()
        until(lambda: one.ask("/health").status == 200)


# Settings, where it listens, the command line -----------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"workers": 0}, "workers is 0: give 1 or more."),
        ({"timeout": 0}, "timeout is 0: give 0.001 or more."),
        ({"rate": -1}, "rate is -1: give 0 or more."),
        ({"shadow_share": 1.5}, "shadow_share is 1.5: give 0 to 1."),
        ({"timeout": float("nan")}, "timeout is nan: give 0.001 or more."),
    ],
)
def test_settings_without_sense_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        serve.Settings(**setting)


def test_loopback_is_the_default():
    assert inspect.signature(serve.run).parameters["host"].default == "127.0.0.1"
    options = cli._parser().parse_args(["serve", "folder"])
    assert (options.host, options.port) == ("127.0.0.1", 8000)


def test_a_port_in_use_is_named():
    with (
        service() as one,
        pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1, port {one.port} "),
    ):
        serve.run(serve.create_app(Stub()), port=one.port)


def test_a_file_of_queries(tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text("red mug\n\n  \nJäger\n", "utf-8")
    assert serve.read_queries(file) == ["red mug", "Jäger"]
    file.write_bytes("Jäger".encode("latin-1"))
    with pytest.raises(ValueError, match=r"queries\.txt is not UTF-8 at byte 1: save it as UTF-8"):
        serve.read_queries(file)


def test_the_command_hands_over_folder_and_settings(tmp_path, monkeypatch, capsys):
    seen = SimpleNamespace()
    stub = ModuleType("ecomkd.search")
    engine = with_shadow(Stub().score)
    stub.load = lambda folder: seen.__setattr__("folder", folder) or engine
    monkeypatch.setitem(sys.modules, "ecomkd.search", stub)
    monkeypatch.setattr(ecomkd, "search", stub, raising=False)
    monkeypatch.setattr(serve, "create_app", lambda engine, settings, **rest: (settings, rest))
    monkeypatch.setattr(
        serve, "run", lambda app, host, port: seen.__setattr__("ran", (app, host, port))
    )
    file = tmp_path / "queries.txt"
    file.write_text("red mug\n", "utf-8")
    arguments = ["serve", str(tmp_path), "--port", "9000", "--workers", "3", "--timeout", "1.5"]
    arguments += ["--rate", "0", "--shadow", "0.2", "--reference", str(file)]
    assert cli.main(arguments) == 0
    (settings, rest), host, port = seen.ran
    assert seen.folder == tmp_path
    assert (host, port) == ("127.0.0.1", 9000)
    wanted = serve.Settings(workers=3, timeout=1.5, rate=0, shadow_share=0.2)
    assert settings == wanted
    assert rest == {"name": tmp_path.name, "reference": ["red mug"]}
    assert cli.main(["serve", str(tmp_path)]) == 0
    assert seen.ran[0] == (serve.Settings(), {"name": tmp_path.name, "reference": None})
    del engine.shadow
    assert cli.main(["serve", str(tmp_path), "--shadow", "0.2"]) == 1
    assert capsys.readouterr().err == (
        f"ecomkd: {tmp_path} holds no teacher to compare with: leave out --shadow.\n"
    )


def test_the_command_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from ecomkd.cli import main\n"
        "sys.exit(main(['serve', '.']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        'ecomkd: uvicorn is not installed, and a service needs it: pip install "ecomkd[serve]".\n'
    )


PROGRAM = """
import sys, time, types
sys.path[:0] = {path}
import ecomkd, test_serve
from ecomkd import cli

class Engine(test_serve.Stub):
    def score(self, queries, texts):
        time.sleep(0.3 if queries[0] == "slow" else 0.001)
        return super().score(queries, texts)

ecomkd.search = sys.modules["ecomkd.search"] = types.SimpleNamespace(load=lambda folder: Engine())
sys.exit(cli.main(["serve", ".", "--rate", "0", "--port", sys.argv[1]]))
"""


@contextmanager
def process(port: int = 0):
    """`ecomkd serve` in a process of its own; gives the process and the port."""
    code = PROGRAM.format(path=[str(ROOT), str(ROOT / "tests")])
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        line = run.stdout.readline()
        assert line.startswith("Listening on http://127.0.0.1:"), line
        yield run, int(line.split(":")[2].split()[0])
    finally:
        run.kill()
        run.wait()
        run.stdout.close()


def test_sigterm_ends_the_process_after_what_was_begun():
    with process() as (run, port), ThreadPoolExecutor(1) as threads:
        one = Client(port)
        until(lambda: one.ask("/health").status == 200)
        slow = threads.submit(one.rerank, "slow")
        until(lambda: one.ask("/health").content["waiting"] == 1)
        run.send_signal(signal.SIGTERM)
        answer = slow.result()
        assert answer.content["scores"] == [value("slow", title) for title in TITLES]
        assert run.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            one.ask("/health")


def test_killed_and_restarted_under_load_gives_no_wrong_answer():
    found = {"right": 0, "wrong": 0, "none": 0}
    lock, stop = threading.Lock(), threading.Event()

    def load(number: int, port: int) -> None:
        one, turn = Client(port), 0
        while not stop.is_set():
            turn += 1
            query = f"query {number} {turn}"
            try:
                answer = one.rerank(query)
            except (OSError, http.client.HTTPException):
                kind = "none"
                time.sleep(0.01)
            else:
                wanted = [value(query, title) for title in TITLES]
                right = answer.status == 200 and answer.content["scores"] == wanted
                kind = "right" if right else "wrong"
            with lock:
                found[kind] += 1

    with ThreadPoolExecutor(4) as threads:
        try:
            with process() as (run, port):
                for number in range(4):
                    threads.submit(load, number, port)
                until(lambda: found["right"] > 100)
                os.kill(run.pid, signal.SIGKILL)
                until(lambda: found["none"] > 0)
            before = found["right"]
            with process(port):
                until(lambda: found["right"] > before + 100)
                stop.set()
        finally:
            stop.set()
    assert found["wrong"] == 0
