"""The service behind a socket: connections that wait too long or are too many, signals. Chapter 9.

A server has to give up what a client begins and does not end. uvicorn itself waits without a limit
for the rest of a request, so the connections here carry a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ecomkd.service.contract import Settings
from ecomkd.service.limits import Connections
from ecomkd.service.watch import LEAST_REFERENCE

_LOG = logging.getLogger(__name__)
_BACKLOG = 128
"""Connections that the system keeps until they are accepted, all at once if need be."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TOLD_EACH = 60.0
"""Seconds between two lines of the log on the same trouble."""


def read_queries(path: Path | str) -> list[str]:
    """Read the queries that `Drift` compares with from a UTF-8 text file, one a line.

    Raises ValueError that names the file for other bytes, or for fewer than 100 queries.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8.") from error
    found = [line for line in lines if line.strip()]
    if len(found) < LEAST_REFERENCE:
        raise ValueError(
            f"{path}: the file has {len(found)} queries, and a change of queries is told from at "
            f"least {LEAST_REFERENCE}: add more, or serve without it."
        )
    return found


def run(app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until the process is told to stop (Ctrl+C, SIGTERM, or a terminal that closes).

    Running requests are finished. Says on stdout where it listens. Raises ValueError for an empty
    host, OSError where it cannot listen, and RuntimeError where the engine fails at the start.
    """
    listener = _listen(host, port)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"Listening on http://{shown}:{port} (stop with Ctrl+C).", flush=True)
    if not ipaddress.ip_address(address).is_loopback:
        print(
            "Other machines can reach this service, without encryption and without a password: "
            "put a proxy with both before it, and name its address with --proxy.",
            flush=True,
        )
    server = _server(app)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, server.handle_exit)  # nohup's "ignore" stays
    try:
        _serve(server, listener)
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
        return
    if not server.started:
        raise RuntimeError("The service did not start: the lines above say why.")


@contextlib.contextmanager
def background(app: FastAPI) -> Iterator[int]:
    """Serve in a thread of this process while the block runs; gives the port on 127.0.0.1.

    The port is one that was free. Raises RuntimeError where the engine fails at the start.
    """
    listener, server = _listen("127.0.0.1", 0), _server(app)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=_serve, args=(server, listener), daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("The service did not start: the lines above say why.")
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    if not host.strip():
        raise ValueError(
            "--host is empty: give 127.0.0.1 for this machine alone, or 0.0.0.0 for all."
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # What it accepts inherits this. Head and body of an answer are sent apart; else the body
        # would wait for the client to confirm the head, which a client may delay by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot listen on {host}, port {port} ({getattr(error, 'strerror', None) or error}): "
            "choose another with --host or --port."
        ) from error


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Where the engine fails at the start, uvicorn logs that and leaves with SystemExit.
    with listener, contextlib.suppress(SystemExit):
        server.run(sockets=[listener])


class _Connection(H11Protocol):
    """A connection with a clock: it is closed where a head, a body, or the taking of an answer
    lasts too long, and where it is one too many."""

    def __init__(self, connections: Connections, settings: Settings, **rest):
        super().__init__(**rest)
        self._all, self._settings = connections, settings
        self._reading = False
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._allow(self._settings.read_timeout)
        self._all.enter(self, self._counted_as())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._reading:  # the first bytes of a request
            self._reading = True
            self._allow(self._settings.read_timeout)
        head = self.conn.their_state is h11.IDLE
        super().data_received(data)
        if head and self.conn.their_state is not h11.IDLE:
            self._allow_answer()

    def on_response_complete(self) -> None:
        self._all.answered(self)
        super().on_response_complete()
        # The client may have sent its next request already, which has then begun.
        self._reading = self.conn.their_state is not h11.IDLE
        if self._reading:
            self._allow_answer()
        else:
            self._allow(self._settings.read_timeout)

    def waits(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def drop(self) -> None:
        self.transport.abort()

    def _allow(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.drop)

    def _allow_answer(self) -> None:
        # The body has the same time as the head, and the answer as long again to be taken.
        self._allow(2 * self._settings.read_timeout + self._settings.timeout)

    def _counted_as(self) -> str | None:
        """The client's address; None where it stands for many, as that of a proxy does."""
        if not self._settings.rate or self.client is None:
            return None
        address = ipaddress.ip_address(self.client[0])
        networks = map(ipaddress.ip_network, self._settings.trusted_proxies)
        return None if any(address in network for network in networks) else self.client[0]


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_quietly())
        await super().startup(sockets)


def _quietly():
    """An exception handler for the loop that tells of missing file descriptors once a minute.

    The loop itself reports each connection that it could not accept with a traceback, thousands in
    a second.
    """
    told = -math.inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict) -> None:
        nonlocal told
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_FILES:
            loop.default_exception_handler(context)
        elif loop.time() >= told + _TOLD_EACH:
            told = loop.time()
            _LOG.error(
                "No new connection can be accepted (%s): allow the process more open files "
                "(ulimit -n), or fewer connections.",
                error.strerror,
            )

    return handle


def _most_connections(settings: Settings) -> int:
    """The setting, or fewer where the system allows the process fewer open files."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return settings.max_connections
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return settings.max_connections
    return min(settings.max_connections, max(files - 2 * _BACKLOG, files // 2))


def _server(app: FastAPI) -> uvicorn.Server:
    settings: Settings = app.state.settings
    connections = Connections(_most_connections(settings), settings.max_connections_of_client)
    # No access log: it would hold what shoppers type.
    config = uvicorn.Config(
        app,
        http=partial(_Connection, connections, settings),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=_BACKLOG,
        timeout_keep_alive=math.ceil(settings.read_timeout),
        timeout_graceful_shutdown=10,
    )
    return _Server(config)
