"""Connections to Milvus, or to a file of its lite version, and what it refuses. Chapter 19."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from ecomkd.extras import needed
from ecomkd.search import stores

with needed("ecomkd.search.milvus_server", "milvus"):
    import grpc
    from pymilvus import MilvusClient, MilvusException
    from pymilvus.exceptions import ConnectionConfigException

WAIT = 5
"""Seconds until a server that does not answer counts as out of reach."""
FAULTS = (MilvusException, grpc.RpcError)
"""What the client raises."""
_PORTS = {"milvus": 19530, "milvus+tls": 443}
_UNREACHED, _NO_DATABASE = 2, 800
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, _UNREACHED)
_NOT_LET = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, 1400, 1401, 1800)
_OPEN: Counter[str] = Counter()
"""How many stores of this process have a file open, whose server runs in this process."""
_TURN = threading.Lock()
_AGAIN = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 1_000}
"""How soon a server that was gone is tried again; without, it takes up to two minutes."""

# What is refused is told in a sentence; the client would write each refusal as an error, too.
for _name in ("pymilvus", "milvus_lite"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class _Address:
    place: str
    """As messages and files tell it."""
    uri: str
    """As the client takes it."""
    database: str
    file: Path | None
    token: str = field(repr=False)


class Server:
    """The Milvus at a URI, for a catalogue. Threads share one connection.

    Raises ValueError for a URI that names no Milvus.
    """

    def __init__(self, uri: str, table: str):
        self._address = _read(uri)
        self.place, self._table = self._address.place, table
        self._opening = threading.Lock()
        self._client: MilvusClient | None = None

    def client(self, new: bool = False) -> MilvusClient:
        """The client, connected. A file that is not there is only made where it is `new`."""
        if self._client is not None:
            return self._client
        file = self._address.file
        if file is not None and not file.exists():
            if not new:
                raise stores.missing(self.place, self._table)
            file.parent.mkdir(parents=True, exist_ok=True)
        client = _connected(self._address)
        with self._opening:
            if self._client is None:
                self._client = client
                return client
        _let_go(client, self._address)  # another thread was first
        return self.client()

    def close(self) -> None:
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            _let_go(client, self._address)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell what the server refuses in one sentence, which holds no token."""
        try:
            yield
        except FAULTS as error:
            raise self._sentence(error) from error

    def _sentence(self, error: MilvusException | grpc.RpcError) -> OSError:
        status, said = _status(error), " ".join(str(getattr(error, "message", error)).split())
        if status in _NOT_LET:
            return PermissionError(
                f"{self.place}: Milvus does not accept who asks, or does not let them do this: set "
                "MILVUS_TOKEN to USER:PASSWORD or to an API key, or have the right granted."
            )
        if status == _NO_DATABASE:
            return FileNotFoundError(f"{self.place}: there is no such database: create it first.")
        if lost(error):
            return ConnectionError(
                f"{self.place}: Milvus does not answer: start it, or mend host and port."
            )
        if "o space left" in said or "disk quota" in said.lower():
            return OSError(
                errno.ENOSPC,
                f"{self.place}: no space left; the old catalogue stays: free some, and write it "
                "again",
            )
        return OSError(f"{self.place}: Milvus refuses: {said[:300]}")


def lost(error: BaseException) -> bool:
    """Whether an error is about the connection."""
    return _status(error) in _LOST


def _status(error: BaseException) -> Any:
    """The status of a call that failed: of gRPC where it knows one, else Milvus's own number."""
    cause, seen = error, list[BaseException]()
    while cause is not None and cause not in seen:  # the client gives errors as their own causes
        if isinstance(cause, grpc.RpcError):
            return cause.code()
        seen.append(cause)
        cause = cause.__cause__
    return getattr(error, "code", None)


def without_secrets(uri: str) -> str:
    """The URI of the same database without a user and a password, and a file by its whole path.

    Raises ValueError for a URI that names no Milvus.
    """
    return _read(uri).place


def _read(uri: str) -> _Address:
    wrong = ValueError(
        "The URI of the store names no Milvus: write milvus://HOST:PORT/DATABASE, milvus+tls://… "
        "for a server with a certificate, or milvus:///FOLDER/NAME.db for a file of Milvus Lite."
    )
    try:
        told = urlsplit(uri)
        host, port = told.hostname, told.port
    except ValueError:  # whose words may hold the password
        raise wrong from None
    if told.query or told.fragment or told.scheme not in _PORTS:
        raise wrong
    if not told.netloc and told.scheme == "milvus" and told.path.endswith(".db"):
        file = Path(url2pathname(told.path)).resolve()
        return _Address("milvus" + file.as_uri().removeprefix("file"), str(file), "", file, "")
    database = told.path.strip("/")
    if not host or not re.fullmatch(r"\w*", database):
        raise wrong
    at = f"{told.netloc.rpartition('@')[2].removesuffix(f':{port}')}:{port or _PORTS[told.scheme]}"
    given = [unquote(one) for one in (told.username, told.password) if one]
    token = ":".join(given) or os.environ.get("MILVUS_TOKEN", "")
    client = f"{'https' if told.scheme == 'milvus+tls' else 'http'}://{at}"
    return _Address(f"{told.scheme}://{at}/{database}", client, database, None, token)


def _connected(address: _Address) -> MilvusClient:
    """A client with a connection of its own."""
    given = {"token": address.token, "db_name": address.database}
    given |= {"dedicated": True, "grpc_options": _AGAIN}
    if address.file is None:
        return MilvusClient(address.uri, timeout=WAIT, **given)
    with _TURN:
        try:
            client = MilvusClient(address.uri, timeout=WAIT, **given)
        except ConnectionConfigException as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise ModuleNotFoundError(
                    "milvus_lite is missing, which a catalogue in a file needs: pip install "
                    "milvus-lite"
                ) from error
            raise OSError(
                f"{address.place}: Milvus Lite cannot open the file: another process has it open, "
                "or it is none of its own; for several processes run a Milvus server."
            ) from error
        _OPEN[address.uri] += 1
    return client


def _let_go(client: MilvusClient, address: _Address) -> None:
    """Close a client, and the file that no other store of this process has open."""
    client.close()
    if address.file is None:
        return
    from milvus_lite.server_manager import server_manager_instance

    with _TURN:
        _OPEN[address.uri] -= 1
        if not _OPEN[address.uri]:
            server_manager_instance.release_server(address.uri)
