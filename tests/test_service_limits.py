"""Time and room: what a client may take from the others."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import (
    TITLES,
    Stub,
    everything,
    open_connections,
    service,
    until,
    value,
)

from ecomkd.service.contract import Settings
from ecomkd.service.limits import RateLimit, Room
from ecomkd.service.server import _listen


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
    with service(engine, timeout=0.1, workers=2) as one:
        engine.gate.clear()
        assert one.rerank("red").status == 504
        engine.gate.set()
        until(lambda: one.rerank("blue").status == 200)
    asked = [pair for call in engine.calls for pair in call if pair[0] == "red"]
    assert len(asked) == 2  # the two calls that had begun


def test_pairs_of_a_request_that_has_failed_are_not_scored():
    engine, asked = Stub(), []

    def score(queries, texts):
        asked.append(texts[0])
        time.sleep(0.02)
        if texts[0] == "mug 0":
            raise KeyError("lost")
        return np.zeros(1)

    engine.score = score
    with service(engine, workers=2) as one:
        assert one.rerank("red", [f"mug {i}" for i in range(50)]).status == 500
        assert one.rerank("red", ["pot"]).status == 200
    assert len(asked) < 10


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
    settings = Settings(workers=2, timeout=2, max_waiting=10)
    room = Room(settings)
    room._of_client["a"], room.pace = waiting, pace
    assert room.full() is full


def test_no_answer_waits_for_its_first_half_to_be_confirmed():
    with (
        _listen("127.0.0.1", 0) as listener,
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
    limit = RateLimit(0.5, lambda: now[0])
    assert limit.wait("a") == 0
    assert limit.wait("a") == 2
    assert limit.wait("b") == 0
    for number in range(20_000):
        limit.wait(str(number))
    assert len(limit._paid) == 10_000
    assert RateLimit(0).wait("a") == RateLimit(0).wait("a") == 0


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0]), st.data()
)
def test_no_stretch_of_time_has_more_than_rate_and_burst(pauses, rate, data):
    now, passed = [0.0], []
    limit = RateLimit(rate, lambda: now[0])
    for pause in pauses:
        now[0] += pause
        if not limit.wait("a"):
            passed.append(now[0])
    begin = data.draw(st.integers(0, len(passed) - 1))
    end = data.draw(st.integers(begin, len(passed) - 1))
    assert end - begin + 1 <= max(1, 2 * rate) + rate * (passed[end] - passed[begin]) + 1e-6


def test_who_waits_as_told_may_ask():
    now = [0.0]
    limit = RateLimit(3.0, lambda: now[0])
    while not (wait := limit.wait("a")):
        pass
    now[0] += wait
    assert limit.wait("a") == 0


def test_a_large_request_is_spread_over_the_workers():
    engine = Stub()
    with service(engine, workers=3) as one, ThreadPoolExecutor(1) as threads:
        assert engine.entered.acquire(timeout=20)  # the warm-up
        engine.gate.clear()
        answer = threads.submit(one.rerank, "red", [f"mug {i}" for i in range(6)])
        for _ in range(3):
            assert engine.entered.acquire(timeout=20)
        engine.gate.set()
        assert answer.result().status == 200
    assert [len(call) for call in engine.calls] == [1] * 7


def test_a_small_request_does_not_wait_until_a_large_one_is_done():
    engine = Stub()
    with service(engine, workers=2) as one, ThreadPoolExecutor(2) as threads:
        engine.gate.clear()
        large = threads.submit(one.rerank, "large", [f"mug {i}" for i in range(100)])
        until(lambda: len(engine.calls) == 3)  # with the warm-up
        small = threads.submit(one.rerank, "small", ["mug"])
        until(lambda: one.ask("/health").content["waiting"] == 2)
        time.sleep(0.1)  # until its pair is in the queue
        engine.gate.set()
        assert small.result().content["scores"] == [value("small", "mug")]
        wanted = [value("large", f"mug {i}") for i in range(100)]
        assert large.result().content["scores"] == wanted
    order = [pair[0] for (pair,) in engine.calls[1:]]
    assert order.index("small") < 8


def test_each_request_gets_its_own_scores():
    queries = [f"query {i}" for i in range(8)]
    with service(Stub(), workers=2) as one, ThreadPoolExecutor(8) as threads:
        found = [answer.content["scores"] for answer in threads.map(one.rerank, queries)]
    assert found == [[value(query, title) for title in TITLES] for query in queries]


# Hosts and proxies --------------------------------------------------------------------------------


def test_only_known_hosts_are_answered():
    with service(allowed_hosts=("Shop.example.com",)) as one:
        port = one.port
        for host in (f"127.0.0.1:{port}", "LOCALHOST", "[::1]:80", "shop.example.com:8443"):
            assert one.ask("/health", headers={"Host": host}).status == 200
        for path in (
            "/health", "/live", "/metrics", "/search?q=red", "/openapi.json", "/elsewhere"
        ):  # fmt: skip
            found = one.ask(path, headers={"Host": f"rebound.example:{port}"})
            assert (found.status, found.content) == (
                400,
                {
                    "error": "This service is not known as 'rebound.example': ask for localhost, "
                    "or start it with --allowed-host and this name."
                },
            )


def asked_through(one, *forwarded: str) -> int:
    return one.ask("/search?q=red", headers={"X-Forwarded-For": ", ".join(forwarded)}).status


def test_a_header_of_a_stranger_does_not_change_who_asks():
    with service(rate=1, clock=lambda: 0.0) as one:
        assert [asked_through(one, f"203.0.113.{number}") for number in range(3)] == [200, 200, 429]


def test_behind_a_proxy_that_it_is_told_of_each_shopper_is_a_client():
    proxies = ("127.0.0.1", "10.0.0.0/8")
    with service(rate=1, clock=lambda: 0.0, trusted_proxies=proxies) as one:
        assert [asked_through(one, f"203.0.113.{number}") for number in range(9)] == [200] * 9
        # What the shopper itself wrote stands to the left, and counts for nothing.
        seen = [asked_through(one, f"8.8.8.{n}", "203.0.113.99", "10.1.2.3") for n in range(3)]
        assert seen == [200, 200, 429]


# Slow and greedy clients --------------------------------------------------------------------------

HALF = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALF += b"Content-Length: 100\r\n%s\r\n{"


def test_a_body_that_is_not_here_takes_no_room():
    with (
        service(max_waiting=4, max_connections_of_client=5, read_timeout=30) as one,
        open_connections(one.port, 40, HALF % b""),
    ):
        until(lambda: one.metrics()["ecomkd_waiting",] == 0)
        assert [one.ask("/search?q=red").status for _ in range(10)] == [200] * 10


def test_a_body_has_to_arrive_in_time():
    with (
        service(read_timeout=0.3) as one,
        open_connections(one.port, 1, HALF % b"") as (connection,),
    ):
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"The body did not arrive within 0.3 s: send it at once."}')


def test_one_client_cannot_take_all_the_room():
    engine = Stub()
    room = {"workers": 1, "max_waiting": 8, "max_waiting_of_client": 2, "rate": 1_000}
    with (
        service(engine, trusted_proxies=("127.0.0.1",), **room) as one,
        ThreadPoolExecutor(3) as threads,
    ):
        engine.gate.clear()
        greedy = [threads.submit(asked_through, one, "203.0.113.1") for _ in range(2)]
        until(lambda: one.ask("/health").content["waiting"] == 2)
        found = one.ask("/search?q=red", headers={"X-Forwarded-For": "203.0.113.1"})
        assert (found.status, found.headers["Retry-After"]) == (429, "1")
        assert found.content == {
            "error": "2 requests of this client wait already: ask again when they are answered."
        }
        other = threads.submit(asked_through, one, "203.0.113.2")
        until(lambda: one.ask("/health").content["waiting"] == 3)
        engine.gate.set()
        assert [answer.result() for answer in (*greedy, other)] == [200] * 3
        assert asked_through(one, "203.0.113.1") == 200


def test_a_client_that_goes_before_its_body_is_here_harms_nobody(capfd):
    with service() as one:
        with open_connections(one.port, 5, HALF % b""):
            pass
        until(lambda: one.metrics().get(("ecomkd_request_seconds_count", "/rerank")) == 5)
        assert one.rerank().status == 200
    assert capfd.readouterr().err == ""


def test_more_workers_than_room_make_no_more_room():
    room = Room(Settings(workers=8, timeout=2, max_waiting=3))
    room._of_client["a"], room.pace = 3, 9
    assert room.full()
