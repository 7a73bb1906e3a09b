"""Connections to PostgreSQL that several threads share, and what the server refuses. Chapter 19."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ecomkd.extras import needed
from ecomkd.search import stores

with needed("ecomkd.search.lines", "postgres"):
    import psycopg
    from pgvector.psycopg import register_vector
    from psycopg import conninfo, errors

_OLDEST = (0, 8)
"""The version of pgvector from which a filtered search goes on until it has found enough."""
_WAIT = 10
"""Seconds until a server that does not answer counts as out of reach."""
_SECRETS = ("password", "sslpassword")


@dataclass(eq=False)
class Line:
    """A connection, and the width of search that it is set to."""

    server: psycopg.Connection
    width: int = 0


class Server:
    """The database at a URI, for a catalogue in one table. A connection that is free is used again.

    Raises ValueError for a URI that PostgreSQL does not read.
    """

    def __init__(self, uri: str, table: str):
        try:
            told = conninfo.conninfo_to_dict(uri)
        except psycopg.ProgrammingError:  # whose words may hold the password
            raise ValueError(
                "The URI of the store is none that PostgreSQL reads: write "
                "postgresql://USER@HOST:PORT/DATABASE."
            ) from None
        host, port, name = (told.get(part, "") for part in ("host", "port", "dbname"))
        self.place = f"postgresql://{host}:{port or 5432}/{name}"
        waits = {"connect_timeout": str(_WAIT), "tcp_user_timeout": str(1_000 * _WAIT)}
        self._uri = conninfo.make_conninfo(uri, **{**waits, **told})
        self._table = table
        self._free: deque[Line] = deque()
        self._closed = False

    def close(self) -> None:
        """Close what is free, and from now on each connection once it has done its work."""
        self._closed = True
        while self._free:
            self._free.pop().server.close()

    def run(self, work: Callable[[Line], Any]) -> Any:
        """Do the work; once more where a connection turns out to have been lost since its last."""
        with self.told():
            while self._free:
                try:
                    line = self._free.pop()
                except IndexError:  # another thread took it
                    break
                try:
                    return self._do(line, work)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    if not line.server.closed:
                        raise
            return self._do(self.connect(), work)

    def _do(self, line: Line, work: Callable[[Line], Any]) -> Any:
        try:
            return work(line)
        finally:
            if self._closed:
                line.server.close()
            elif not line.server.closed:
                self._free.append(line)

    def connect(self) -> Line:
        with self.told():
            server = psycopg.connect(self._uri, autocommit=True)
            try:
                self._settle(server)
            except BaseException:
                server.close()
                raise
        return Line(server)

    def _settle(self, server: psycopg.Connection) -> None:
        found = server.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        row = found.fetchone()
        if row is None:
            raise ValueError(
                f"{self.place}: the extension pgvector is not there: have an administrator run "
                "CREATE EXTENSION vector; in the database."
            )
        if tuple(map(int, row[0].split(".")[:2])) < _OLDEST:
            raise ValueError(
                f"{self.place}: pgvector is of version {row[0]}, and "
                f"{'.'.join(map(str, _OLDEST))} or later is needed: update the extension."
            )
        register_vector(server)
        # Else a network that fails in silence would hold a thread of the service for good.
        server.execute(f"SET statement_timeout = {1_000 * _WAIT}")
        server.execute("SET hnsw.iterative_scan = relaxed_order")
        # A plan that does not know how many products are asked for would read all of them.
        server.execute("SET plan_cache_mode = force_custom_plan")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell what the server refuses in one sentence, without the URI's password."""
        try:
            yield
        except errors.UndefinedTable as error:
            raise stores.missing(self.place, self._table) from error
        except errors.DiskFull as error:
            raise OSError(
                errno.ENOSPC,
                f"{self.place}: no space left on the server's disk; the old catalogue stays: free "
                "some, and write it again",
            ) from error
        except errors.UniqueViolation as error:
            raise ValueError(
                f"{self.place}: a product id stands there twice: give each product its own."
            ) from error
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and _lost(error):
                raise self._unreached(error) from error
            said = str(error).partition("\n")[0]
            kind = PermissionError if isinstance(error, errors.InsufficientPrivilege) else OSError
            raise kind(f"{self.place}: PostgreSQL refuses: {said}.") from error

    def _unreached(self, error: psycopg.OperationalError) -> OSError:
        if isinstance(error, errors.InvalidPassword) or "password" in str(error):
            return PermissionError(
                f"{self.place}: PostgreSQL does not accept user and password: set PGPASSWORD, or "
                "write the user into the URI."
            )
        if 'database "' in str(error) and "does not exist" in str(error):
            return FileNotFoundError(f"{self.place}: there is no such database: create it first.")
        refused = str(error).partition("FATAL: ")[2].partition("\n")[0].strip()
        said = f"refuses ({refused}): mend that" if refused else "does not answer: start it"
        return ConnectionError(f"{self.place}: PostgreSQL {said}, or mend host and port.")


def without_secrets(uri: str) -> str:
    """The URI of the same database without a password, which no file may hold.

    Raises ValueError for a URI that PostgreSQL does not read.
    """
    Server(uri, "")  # which says what is wrong with it
    told = conninfo.conninfo_to_dict(uri)
    if not set(told) & set(_SECRETS):
        return uri
    kept = {name: str(value) for name, value in told.items() if name not in _SECRETS}
    return f"postgresql://?{urlencode(kept, quote_via=quote)}"


def _lost(error: psycopg.OperationalError) -> bool:
    """Whether an error is about the connection: of none, or of classes 08, 28 and 57P."""
    return (error.sqlstate or "08").startswith(("08", "28", "57P"))
