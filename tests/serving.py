"""A stub engine, a service around it, and a client: what the tests of the service share."""

import http.client
import json
import socket
import threading
import time
import zlib
from collections import namedtuple
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from ecomkd.service.app import create_app
from ecomkd.service.contract import Settings
from ecomkd.service.server import background

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
        pairs = list(zip(queries, texts, strict=True))
        self.calls.append(pairs)
        self.entered.release()
        self.gate.wait(30)
        return np.array([value(*pair) for pair in pairs])


def with_shadow(shadow) -> Stub:
    engine = Stub()
    engine.shadow = shadow
    return engine


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
        if content and response.getheader("Content-Type") == "application/json":
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
    settings = Settings(**{"rate": 0, "workers": 2, "timeout": 20, **settings})
    app = create_app(engine or Stub(), settings, name="stub", reference=reference, clock=clock)
    with background(app) as port:
        yield Client(port)


def until(condition, seconds=20):
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def open_connections(port: int, count: int, begun: bytes = b""):
    """So many connections to a service, on each of which this much of a request was sent."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            with suppress(ConnectionError):  # it may be one too many already
                connection.sendall(begun)
            found.append(connection)
        yield found


def everything(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)
