"""Connections on which little or nothing is sent must not keep others out."""

import asyncio
import errno
import logging
import resource
import socket
import subprocess
import sys
import time

import psutil
import pytest
from serving import ROOT, Client, Stub, everything, open_connections, service, until

from ecomkd.service.contract import Settings
from ecomkd.service.limits import Connections
from ecomkd.service.server import _most_connections, _quietly

HALF_HEAD = b"GET /search?q=red HTTP/1.1\r\nHost: loc"
WHOLE = b"GET /search?q=red HTTP/1.1\r\nHost: localhost\r\n\r\n"


def still_open(connections: list[socket.socket]) -> int:
    """How many of these the service has not closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            count += connection.recv(1) != b""
        except BlockingIOError:
            count += 1
        except ConnectionResetError:
            pass
    return count


class Fake:
    """A connection that waits for its client, or not."""

    def __init__(self, waiting=True):
        self.waiting, self.dropped = waiting, False

    def waits(self):
        return self.waiting

    def drop(self):
        self.dropped = True


def test_the_one_that_has_waited_longest_makes_room():
    found = Connections(most=3, of_client=9)
    first, busy, third, fourth = Fake(), Fake(waiting=False), Fake(), Fake()
    for connection in (busy, first, third):
        found.enter(connection, "a")
    found.answered(first)
    found.enter(fourth, "b")
    assert [one.dropped for one in (busy, first, third, fourth)] == [False, False, True, False]
    found.leave(busy)
    found.leave(busy)
    assert len(found) == 2


def test_where_nobody_waits_the_new_one_goes():
    found = Connections(most=1, of_client=9)
    busy, new = Fake(waiting=False), Fake()
    found.enter(busy, "a")
    found.enter(new, "b")
    assert (busy.dropped, new.dropped, len(found)) == (False, True, 1)


def test_a_client_makes_room_for_itself_alone():
    found = Connections(most=9, of_client=2)
    other, *own = (Fake() for _ in range(5))
    found.enter(other, "a")
    for connection in own:
        found.enter(connection, "b")
    assert [one.dropped for one in (other, *own)] == [False, True, True, False, False]
    many = [Fake() for _ in range(5)]
    for connection in many:
        found.enter(connection, None)  # a proxy stands for many
    assert not any(one.dropped for one in many)


@pytest.mark.parametrize("begun", [b"", HALF_HEAD], ids=["idle", "half a head"])
def test_idle_connections_make_room_for_others(begun):
    settings = {"max_connections": 40, "read_timeout": 60}
    with service(**settings) as one, open_connections(one.port, 60, begun) as idle:
        assert [one.ask("/search?q=red").status for _ in range(5)] == [200] * 5
        until(lambda: still_open(idle) < 40)
        assert still_open(idle) > 30


def test_one_client_has_a_share_of_the_connections():
    settings = {"rate": 1_000, "max_connections_of_client": 10, "read_timeout": 60}
    with service(**settings) as one, open_connections(one.port, 20) as idle:
        assert one.ask("/search?q=red").status == 200
        until(lambda: still_open(idle) <= 10)
        assert still_open(idle) >= 9  # one made room for the request


@pytest.mark.parametrize(
    "begun", [b"", HALF_HEAD, WHOLE], ids=["idle", "half a head", "after an answer"]
)
def test_a_silent_connection_is_closed(begun):
    with service(read_timeout=0.3) as one, open_connections(one.port, 3, begun) as silent:
        for connection in silent:
            assert everything(connection).startswith(b"HTTP/1.1 200") == (begun == WHOLE)


def test_drops_of_a_head_do_not_keep_a_connection():
    with (
        service(read_timeout=0.5) as one,
        open_connections(one.port, 1) as (connection,),
        pytest.raises(OSError),
    ):
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(0.1)


def test_drops_of_a_body_do_not_keep_a_connection():
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    settings = {"read_timeout": 0.3, "timeout": 0.3}
    with (
        service(**settings) as one,
        open_connections(one.port, 1, head) as (connection,),
        pytest.raises(OSError),
    ):
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.1)


def test_a_client_that_does_not_take_its_answers_is_let_go():
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    settings = {"read_timeout": 0.3, "timeout": 0.3}
    with service(**settings) as one, open_connections(one.port, 1, ask * 2_000) as (connection,):
        client, here = connection.getsockname(), psutil.Process()

        def served() -> bool:
            return any(other.raddr == client for other in here.net_connections("tcp"))

        until(served)
        until(lambda: not served())
        assert one.ask("/health").status == 200
        assert everything(connection).count(b"HTTP/1.1 200 ") < 2_000


def test_a_connection_serves_many_requests():
    with service(read_timeout=0.5) as one, open_connections(one.port, 1) as (connection,):
        connection.settimeout(20)
        for _ in range(8):
            connection.sendall(WHOLE[:20])
            time.sleep(0.1)
            connection.sendall(WHOLE[20:])
            answer = b""
            while b'"hits"' not in answer or not answer.endswith(b"]}"):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_slow_answer_is_not_cut():
    engine = Stub()
    engine.search = lambda query, k: time.sleep(1) or []
    with (
        service(engine, read_timeout=0.2, timeout=5) as one,
        open_connections(one.port, 1, 2 * WHOLE) as (connection,),
    ):
        assert everything(connection).count(b"HTTP/1.1 200 ") == 2


def test_missing_descriptors_are_told_once(caplog):
    async def fail():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_quietly())
        for _ in range(1_000):
            error = OSError(errno.EMFILE, "Too many open files")
            loop.call_exception_handler({"message": "accept", "exception": error})
        loop.call_exception_handler({"message": "something else"})

    with caplog.at_level(logging.ERROR):
        asyncio.run(fail())
    assert [record.getMessage() for record in caplog.records] == [
        "No new connection can be accepted (Too many open files): allow the process more open "
        "files (ulimit -n), or fewer connections.",
        "something else",
    ]


def test_connections_leave_files_for_the_rest(monkeypatch):
    settings = Settings()
    for files, most in ((200, 100), (400, 200), (1_024, 512), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert _most_connections(settings) == most


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
sys.path[:0] = {path}
import serving
from ecomkd.service import Settings, create_app
from ecomkd.service.server import run
run(create_app(serving.Stub(), Settings(read_timeout=60, rate=0)), port=0)
"""


def test_a_process_with_few_descriptors_goes_on_answering():
    code = PROGRAM.format(path=[str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        port = int(child.stdout.readline().split(":")[2].split()[0])
        with open_connections(port, 230):
            seen = [Client(port).ask("/search?q=red").status for _ in range(10)]
        child.terminate()
        _, told = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert seen == [200] * 10
    assert len(told.splitlines()) <= 1
