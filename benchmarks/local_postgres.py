"""A PostgreSQL server of one's own, in a temporary folder and on a free port of this machine.

Tests and benchmarks start it; the system's own cluster is never touched.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "of tests alone"
_USER = "postgres"


@dataclass
class Server:
    """A server that runs, or ran."""

    programs: Path
    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        """Of its database, without the password."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self, **settings: str) -> None:
        """Start it with these settings beside those that make no promise about a lost power."""
        given = {"port": self.port, "listen_addresses": "127.0.0.1", "fsync": "off"} | settings
        given |= {"unix_socket_directories": str(self.folder)}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        log = (self.folder / "log").open("ab")
        command = [self.programs / "postgres", "-D", self.folder / "data", *options]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, **_as_another())
        log.close()
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(200):
            if subprocess.run(ready).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{command[0]} did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Stop it at once; connections are cut."""
        if self.process is not None:
            self.process.send_signal(2)
            self.process.wait(timeout=60)
            self.process = None

    def sql(self, statement: str) -> str:
        """What psql prints of a statement."""
        command = [self.programs / "psql", self.uri, "-Atqc", statement]
        known = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.run(
            command, env=known, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()


def programs() -> Path | None:
    """The folder of the newest PostgreSQL that has pgvector, as Debian installs it, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    for program in found:
        version = program.parent.parent.name
        if Path(f"/usr/share/postgresql/{version}/extension/vector.control").is_file():
            return program.parent
    return None


@contextmanager
def running(**settings: str) -> Iterator[Server]:
    """A new server with the extension, until the block ends; its folder is deleted then.

    Raises RuntimeError where PostgreSQL or pgvector is not installed.
    """
    there = programs()
    if there is None:
        raise RuntimeError("PostgreSQL with pgvector is not installed.")
    folder = Path(tempfile.mkdtemp(prefix="ecomkd-postgres-"))
    server = Server(there, folder, _free_port())
    try:
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, _USER, _USER)
        making = [there / "initdb", "-D", folder / "data", "-U", _USER, "-E", "UTF8", "-N"]
        making += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(making, check=True, stdout=subprocess.DEVNULL, **_as_another())
        server.start(**settings)
        server.sql("CREATE EXTENSION vector")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _as_another() -> dict:
    """PostgreSQL does not run as root."""
    return {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
