"""Limits on what clients can take from each other: connections, requests, room, time. Chapter 9."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from fastapi.responses import JSONResponse

from ecomkd.service.contract import Settings, host_name

SEARCH = {
    "/search": "GET /search?q=red+sofa&k=10",
    "/rerank": 'POST /rerank {"query": "red sofa", "products": ["Couch, crimson", "Floor lamp"]}',
}
RECOMMEND = {"/recommend": "GET /recommend?user=1234&k=10"}
"""The paths that make an engine of either kind work, and so have limits, with examples."""
ALWAYS = ("/health", "/live", "/metrics")
"""The paths of every service."""
INDEX = "x-ecomkd-index"
"""The header that names the index of an answer."""
REQUEST = "x-request-id"
"""The header that names a request and its answer, and a request's entry in the scope."""
_NAME = re.compile(rb"[!-~]{1,128}")
_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_CLIENTS = 10_000


class RateLimit:
    """How often each client may ask: `rate` times a second, in bursts of up to twice as many.

    The generic cell rate algorithm (ITU-T I.371): one number a client, the time at which all that
    it has asked would be paid off. Of 10,000 clients the one that has been silent longest is
    forgotten.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self._each = 1 / rate if rate else 0.0
        self._burst = max(1.0, 2 * rate)
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()

    def wait(self, client: str) -> float:
        """0 where the client may ask, which is then counted; else the seconds until it may."""
        now = self._clock()
        paid = max(self._paid.get(client, now), now)
        early = paid - now - (self._burst - 1) * self._each
        if early > 1e-9:
            return early
        self._paid[client] = paid + self._each
        self._paid.move_to_end(client)
        if len(self._paid) > _CLIENTS:
            self._paid.popitem(last=False)
        return 0.0


class Connections:
    """The open connections, of which those that wait for their client make room for new ones.

    Where there are more than allowed, the one is closed that has waited longest for a request or
    for the rest of it: of the same client, or of all. Where nobody waits but the new one, that is
    it. So connections on which nothing is sent cannot keep others out. A connection says by
    `waits()` whether it waits for its client, and closes itself at once by `drop()`.

    Args:
        most: connections in all.
        of_client: connections of one client.
    """

    def __init__(self, most: int, of_client: int):
        self._most, self._of_client = most, of_client
        self._clients: OrderedDict[Any, str | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, connection, client: str | None) -> None:
        """Take a new connection in; with None as its client, only the limit on all counts."""
        self._clients[connection] = client
        crowd = [other for other, who in self._clients.items() if who == client]
        if client is None or len(crowd) <= self._of_client:
            if len(self) <= self._most:
                return
            crowd = list(self._clients)
        longest = next((other for other in crowd if other.waits()), connection)
        self.leave(longest)
        longest.drop()

    def answered(self, connection) -> None:
        """Note that a connection begins to wait for its next request."""
        if connection in self._clients:
            self._clients.move_to_end(connection)

    def leave(self, connection) -> None:
        """Forget a connection; one that is not known changes nothing."""
        self._clients.pop(connection, None)


class Room:
    """The requests that are in work or wait for it, of each client, and the pace of the work.

    The number of those in all is bounded, and of each client. By the pace of the last requests it
    is bounded before that: otherwise a crowd would have all its answers computed just too late.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._of_client: Counter[str] = Counter()
        self.pace = 0.0
        """Seconds of work for each request in the room, a moving mean."""

    @property
    def waiting(self) -> int:
        """Requests in the room."""
        return self._of_client.total()

    def refusal(self, client: str) -> JSONResponse | None:
        """What a further request of the client is told where there is no room for it."""
        own, later = self._of_client[client], {"Retry-After": "1"}
        if self._settings.rate and own >= self._settings.max_waiting_of_client:
            return failure(
                429,
                f"{own} requests of this client wait already: ask again when they are answered.",
                later,
            )
        if self.full():
            return failure(
                503, f"{self.waiting} requests wait already: ask again in a second.", later
            )
        return None

    def full(self) -> bool:
        """Whether a further request would have to wait too long."""
        soon = (self.waiting + 1) * self.pace <= self._settings.timeout / 2
        most = self._settings.max_waiting
        return self.waiting >= (most if soon else min(most, self._settings.workers))

    @contextlib.contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Count a request that found room, for as long as what is inside lasts."""
        self._of_client[client] += 1
        try:
            yield
        finally:
            self._of_client -= Counter([client])

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Time the engine's work for a request that has entered; it is done inside."""
        begin, ahead = time.perf_counter(), self.waiting
        try:
            yield
        finally:
            self.pace += 0.2 * ((time.perf_counter() - begin) / ahead - self.pace)


class Door:
    """What a request passes before anything is computed: host, rate, size, body, room, time.

    Args:
        app: what is behind it.
        working: the paths that make the engine work.
        note: is told path, status and seconds of each request.
        index: gives the version of the engine's index, which goes with every answer that does not
            name the one it comes from.
    """

    def __init__(
        self,
        app,
        working: Collection[str],
        settings: Settings,
        room: Room,
        note: Callable[[str, int, float], None],
        index: Callable[[], str | None],
        clock: Callable[[], float],
    ):
        self.app, self.working, self.settings = app, working, settings
        self.room, self.note = room, note
        self.limit = RateLimit(settings.rate, clock)
        self.hosts = {*_HOSTS, *map(host_name, settings.allowed_hosts)}
        self.index = index

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = scope[REQUEST] = request_id(scope["headers"])
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        path = scope["path"] if scope["path"] in (*self.working, *ALWAYS) else "other"
        begin, status = time.perf_counter(), 500

        async def noting(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {REQUEST: own}
                if INDEX.encode() not in dict(message["headers"]):
                    more |= index_header(self.index())
                named = [(name.encode(), value.encode()) for name, value in more.items()]
                message = {**message, "headers": [*message["headers"], *named]}
            await send(message)

        enter = self._admit if path in self.working else self.app
        try:
            await (self._misdirected(scope) or enter)(scope, receive, noting)
        finally:
            self.note(path, status, time.perf_counter() - begin)

    def _misdirected(self, scope) -> JSONResponse | None:
        """The refusal of a host that is not this service's: a page whose own name was made to
        lead here (DNS rebinding) could read the answers otherwise."""
        header = dict(scope["headers"]).get(b"host")
        host = None if header is None else host_name(header.decode("latin-1"))
        here = (scope.get("server") or ("",))[0]
        if host is None or host in self.hosts or host.strip("[]") == here:
            return None
        return failure(
            400,
            f"This service is not known as {host[:100]!r}: ask for localhost, or start it with "
            "--allowed-host and this name.",
        )

    async def _admit(self, scope, receive, send) -> None:
        settings, client = self.settings, (scope["client"] or ("",))[0]
        refusal, body = self._early(scope, client), b""
        if refusal is None and scope["method"] == "POST":
            try:
                async with asyncio.timeout(settings.read_timeout):
                    body = await _body(receive, settings.max_body)
            except TimeoutError:
                refusal = failure(
                    408,
                    f"The body did not arrive within {settings.read_timeout:g} s: send it at once.",
                    {"Connection": "close"},
                )
            if body is None:
                return  # the client has gone
            if len(body) > settings.max_body:
                refusal = _too_large(settings)
        # Only what is here in full takes up room: the slow must not keep others out.
        refusal = refusal or self.room.refusal(client)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        unread, started = [body], False

        async def replay():
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def starting(message) -> None:
            nonlocal started
            started = True
            await send(message)

        with self.room.enter(client):
            try:
                async with asyncio.timeout(settings.timeout) as deadline:
                    await self.app(scope, replay, starting)
            except TimeoutError:
                if started or not deadline.expired():
                    raise
                late = failure(
                    504,
                    f"No answer within {settings.timeout:g} s: ask for fewer products, or again "
                    "later.",
                )
                await late(scope, receive, send)

    def _early(self, scope, client: str) -> JSONResponse | None:
        """The refusal that needs no body, if any."""
        settings = self.settings
        if wait := self.limit.wait(client):
            return failure(
                429,
                f"More than {settings.rate:g} requests a second from one client: ask again in "
                f"{math.ceil(wait)} s.",
                {"Retry-After": str(math.ceil(wait))},
            )
        try:
            unquote_to_bytes(scope["query_string"]).decode()
        except UnicodeDecodeError as error:
            return failure(
                400,
                f"The address is not UTF-8 at byte {error.start} after the question mark: write "
                "it in UTF-8.",
            )
        if int(dict(scope["headers"]).get(b"content-length", 0)) > settings.max_body:
            return _too_large(settings)
        return None


async def _body(receive, most: int) -> bytes | None:
    """The whole body, or what has come once it is larger than `most`; None if the client goes."""
    body, more = bytearray(), True
    while more and len(body) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _too_large(settings: Settings) -> JSONResponse:
    return failure(
        413, f"The body has more than {settings.max_body:,} bytes: send fewer or shorter products."
    )


def index_header(version: str | None) -> dict[str, str]:
    """The header that names the index of an answer; none without a version."""
    if version is None:
        return {}
    # A header is ASCII, and a folder's name need not be.
    return {INDEX: quote(version, " /:;,=@()+")}


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """What names a request: the client's own `X-Request-Id`, where it is 1 to 128 visible ASCII
    characters, which a log can hold in one line; else a new one."""
    given = dict(headers).get(REQUEST.encode(), b"")
    return given.decode() if _NAME.fullmatch(given) else uuid.uuid4().hex


def failure(status: int, sentence: str, headers: dict | None = None) -> JSONResponse:
    """The one form of every error."""
    return JSONResponse({"error": sentence}, status, headers)
