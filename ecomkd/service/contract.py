"""What a service asks of an engine, and the limits that an operator can set. Chapter 9."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Protocol

import numpy as np

_MOST_WORKERS = 256
_RANGES = {
    "timeout": (0.001, math.inf),
    "max_offset": (0, math.inf),
    "look": (0.001, math.inf),
    "read_timeout": (0.001, math.inf),
    "rate": (0, math.inf),
    "keep": (0, math.inf),
    "workers": (1, _MOST_WORKERS),
    "shadow_share": (0, 1),
    "drift_level": (0, 1),
}
"""The settings that may be below 1 or have an upper end."""


class Hit(Protocol):
    """A product that a search has found.

    It may have a further attribute `text`: what a model reads of the product. Without it the
    shadow reads the title.
    """

    product_id: str
    title: str
    score: float


class Engine(Protocol):
    """What a service is built around. Both methods are called from several threads at once.

    An engine may have further attributes. `shadow`, where it is not None, is a callable like
    `score` that gives the teacher's gains, 0 or more. `version`, where it is not None, is a text
    that names the index, and goes with every answer; under the same one the same search has to have
    the same answer, for answers may be kept. What a search returns may have a `version` of its own.
    `fields` names what each hit has in its mapping `fields`. `conditions` makes of texts such as
    price<20 what `search` takes as a third argument, or raises ValueError. `reach` is how many
    products of a search can be paged through. An engine that another one has replaced is told to
    `close`, once it is not asked any more.
    """

    def search(self, query: str, k: int) -> Sequence[Hit]:
        """Return the best `k` products, the best first; fewer only where there are no more.

        That holds for a `k` beyond what an engine reads with care, too: what it has not read comes
        after what it has, in the order of its first stage.
        """

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Return the student's scores (N,) of N pairs of a query and a product's text.

        A pair's score must not depend on the other pairs of the call. The service gives one pair
        a call, so that a small request does not wait until a large one is done.
        """


class Item(Protocol):
    """An item that is recommended."""

    item_id: str
    text: str
    score: float


class Recommender(Protocol):
    """What a service that recommends is built around. It is called from several threads at once.

    It may have the attribute `version` of an `Engine`.
    """

    def recommend(self, user: str, k: int, new: bool | None = None) -> tuple[bool, Sequence[Item]]:
        """Return whether the user is known, and the best `k` items, the best first.

        With `new`, items that the user has bought before are left out; with None the recommender
        decides.
        """


@dataclass(frozen=True)
class Settings:
    """Limits and sizes of a service. Raises ValueError for a value that makes no sense."""

    max_query: int = 256
    """Characters of a query, and of a user's id."""
    max_products: int = 100
    """Products of one request to /rerank, and the most that /search and /recommend give."""
    max_offset: int = 1_000
    """Products of a search that may be passed over, on the way to a later page."""
    max_text: int = 4_000
    """Characters of each product's text in a request to /rerank."""
    max_body: int = 262_144
    """Bytes of a request's body."""
    timeout: float = 2.0
    """Seconds after which a request is given up, counted from the end of its body."""
    read_timeout: float = 5.0
    """Seconds in which the head of a request has to arrive, and then its body. A connection that
    is silent for as long is closed."""
    max_waiting: int = 32
    """Requests that are in work or wait for it; the next one is turned away. A request is turned
    away before that, too, where by the pace of the last ones its answer would take more than half
    of `timeout`: otherwise a crowd would have all its answers computed just too late."""
    max_waiting_of_client: int = 16
    """Requests of one client among them."""
    max_connections: int = 512
    """Open connections. Where there is one more, the one that has waited longest for a request, or
    for the rest of it, is closed. The system's limit on open files can make it fewer."""
    max_connections_of_client: int = 64
    """Open connections of one client; the addresses of trusted proxies may have more."""
    rate: float = 50.0
    """Requests a second of one client, in bursts of up to twice as many. With 0 clients are not
    told apart: no limit on one client holds, only those on all of them."""
    workers: int = min(os.cpu_count() or 1, _MOST_WORKERS)
    """Threads that call the engine."""
    keep: int = 0
    """Answers to searches that are kept for whoever asks the same, in the same words, again: those
    that reach no further than `max_products`, of an engine that tells its `version`. None of a
    catalogue in a store is kept, for it changes under the engine."""
    look: float = 1.0
    """Seconds between two looks for a newer engine, where one may come."""
    shadow_share: float = 0.05
    """Share of the answers that the teacher judges too, where the engine has one."""
    drift_window: int = 500
    """Queries that are compared with the reference at a time."""
    drift_level: float = 0.001
    """Share of windows in which a number is found changed although nothing has changed."""
    drift_in_a_row: int = 2
    """Windows, one after the other, that the same number has to change in to raise the alarm."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or networks such as 10.0.0.0/8, whose header X-Forwarded-For is believed: a client
    is then the last address in it that is not among these. From others the header is ignored."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may ask for this service (the header Host, without a port), beside
    localhost, 127.0.0.1, [::1] and the address on which a connection arrives."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("trusted_proxies", "allowed_hosts"):
                if not isinstance(value, tuple):
                    raise ValueError(f"{field.name} is {value!r:.60}: give a tuple of texts.")
                continue
            low, high = _RANGES.get(field.name, (1, math.inf))
            if not low <= value <= high:
                wanted = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
                raise ValueError(f"{field.name} is {value}: give {wanted}.")
            if not isinstance(value, Integral) and (field.type == "int" or value == math.inf):
                kind = "whole" if field.type == "int" else "finite"
                raise ValueError(f"{field.name} is {value}: give a {kind} number.")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(
                    f"trusted_proxies: {error}; give an address such as 10.0.0.7, or a network "
                    "such as 10.0.0.0/8."
                ) from error
        for host in self.allowed_hosts:
            if host_name(host) != host.lower() or not host or set(host) & set("/ *"):
                raise ValueError(
                    f"allowed_hosts: {host!r} is no name of a host: give one such as "
                    "shop.example.com, without a port."
                )


def host_name(header: str) -> str:
    """Return the host of a Host header in lower case, without its port: `[::1]` of `[::1]:80`."""
    host = header.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
