"""A live state that outlives its process: a snapshot, and the events after it, in one SQLite file.

SQLite locks the file, waits for the disk, and recovers after a kill. Chapter 14.
"""

from __future__ import annotations

import errno
import io
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecomkd.recommend.live import Live

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf

_CHANGES = {
    "update": Live.update,
    "update_basket": Live.update_basket,
    "add_user": Live.add_user,
    "add_item": Live.add_item,
}
_PART = 1 << 28
"""Bytes of a snapshot in one row: SQLite takes no value above a thousand million."""
_FORMAT = 0x65636B01  # "eck" and a version, where SQLite keeps a number for the owner of a file
_TABLES = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {_FORMAT};
CREATE TABLE event (number INTEGER PRIMARY KEY, change TEXT);
CREATE TABLE snapshot (id INTEGER PRIMARY KEY, refreshes INTEGER, after INTEGER, arrays BLOB);
"""


class Durable:
    """A live state in a folder, which outlives its process.

    Its file `state.sqlite` has a table `event`, a row a change with what happened in JSON, and a
    table `snapshot`, the state after so many events as an .npz: the state to the bit. A change is a
    transaction; once its call returns, neither a kill nor a power cut takes it. It is written
    ahead, into `state.sqlite-wal`, for then it waits for the disk once, and in SQLite's other ways
    several times; all writers have to be on one machine for that. These processes, and threads
    that share an object, write in turn, and each first learns what the others have written.

    Args:
        live: what is kept; change it through this object alone.
        folder: a new one, or one that holds no state.

    Attributes:
        live: the state as of this object's own last change.
        folder: where it is kept.

    Raises FileExistsError when the folder holds a state; as every method does, OSError when the
    file cannot be written, and ValueError when it is damaged.
    """

    def __init__(self, live: Live, folder: Path | str):
        file = Path(folder) / "state.sqlite"
        taken = FileExistsError(f"{folder}: holds a state; restore it, or name another folder.")
        if file.exists() and file.stat().st_size:
            raise taken
        file.parent.mkdir(parents=True, exist_ok=True)
        self._open(file)
        self.live, self._end, self._refreshes = live, 0, 0
        with _told(file):
            with self._database:  # which commits, or takes back
                try:
                    self._database.executescript(_TABLES)
                except sqlite3.OperationalError as fault:
                    if "already exists" in str(fault):  # another process was quicker
                        raise taken from fault
                    raise
                self._write_snapshot(live, 0)
            self._database.execute("PRAGMA journal_mode = WAL")

    @classmethod
    def restore(cls, folder: Path | str) -> Durable:
        """The state as it was when its process ended, however that was.

        What was not committed, and nobody was told had been taken, is gone. Raises
        FileNotFoundError when there is no state, ValueError when what is there is no whole one.
        """
        file = Path(folder) / "state.sqlite"
        if not file.exists():
            raise FileNotFoundError(f"{folder}: holds no state; make one with Durable.")
        self = cls.__new__(cls)
        self._open(file)
        with _told(file):
            (found,) = self._database.execute("PRAGMA application_id").fetchone()
        if found != _FORMAT:
            raise ValueError(f"{file}: its format is {found:#x}, not {_FORMAT:#x} of a live state.")
        self._refreshes = -1  # none is loaded
        with self._turn():
            return self

    def _open(self, file: Path) -> None:
        self.folder, self._file, self._lock = file.parent, file, threading.RLock()
        with _told(file):
            self._database = sqlite3.connect(
                file, 60, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA synchronous = FULL")

    def update(self, user: int, item: int, day: int) -> None:
        """Learn one purchase, as `Live.update` does; one that is refused leaves no row."""
        self._change("update", int(user), int(item), int(day))

    def update_basket(self, user: int, items: Sequence[int], day: int) -> None:
        """Learn one basket, as `Live.update_basket` does, whole or not at all, in one transaction.

        So the disk is waited for once, not once an item.
        """
        self._change("update_basket", int(user), [int(item) for item in items], int(day))

    def add_user(self) -> int:
        """Add a user, as `Live.add_user` does: the row."""
        return self._change("add_user")

    def add_item(self, vector: np.ndarray) -> int:
        """Add an item, as `Live.add_item` does: the row."""
        return self._change("add_item", self.live.checked(vector).tolist())

    def refresh(self, shelf: Shelf) -> None:
        """Take the tables of a shelf, as `Live.refresh` does, and write a snapshot of them."""
        with self._turn():
            renewed = Live(self.live.arrays())  # until it is on the disk, the old one holds
            renewed.refresh(shelf)
            self._write_snapshot(renewed, self._refreshes + 1)
        with self._turn():  # which loads it, here as in every other process
            pass

    def snapshot(self) -> None:
        """Write the state as a whole, so that a restore replays only what comes after."""
        with self._turn():
            self._write_snapshot(self.live, self._refreshes)

    def _change(self, name: str, *given):
        with self._lock:
            with self._turn():
                if name == "update":
                    self.live.check(*given)
                elif name == "update_basket":
                    self.live.check_basket(*given)
                row = self._end + 1, json.dumps([name, *given])
                self._database.execute("INSERT INTO event VALUES (?, ?)", row)
            self._end += 1
            return _CHANGES[name](self.live, *given)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A transaction that no other writer is beside, with what they all have written."""
        with self._lock, _told(self._file), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        """Take in what is in the file and not yet in this object."""
        ask, place = self._database.execute, "its snapshot"
        events = "SELECT number, CAST(change AS BLOB) FROM event WHERE number > ? ORDER BY number"
        try:
            (refreshes,) = ask("SELECT refreshes FROM snapshot").fetchone()
            if refreshes != self._refreshes:  # no event holds the tables
                parts = ask("SELECT arrays, after FROM snapshot ORDER BY id").fetchall()
                self._end, arrays = parts[0][1], b"".join(part for part, _ in parts)
                with np.load(io.BytesIO(arrays), allow_pickle=False) as kept:
                    self.live, self._refreshes = Live(dict(kept)), refreshes
            (last,) = ask("SELECT coalesce(max(number), 0) FROM event").fetchone()
            if last < self._end:
                raise ValueError(f"{self._end} events were taken and {last} are there")
            for number, change in ask(events, (self._end,)):
                place = f"event {number}, {change.decode(errors='replace')}"
                if number != self._end + 1:
                    raise ValueError(f"event {self._end + 1} is missing")
                name, *given = json.loads(change)
                _CHANGES[name](self.live, *given)
                self._end = number
        except sqlite3.Error:
            raise
        except Exception as fault:  # damaged bytes raise almost anything
            raise ValueError(f"{self._file}: damaged at {place}: {fault!r}.") from fault

    def _write_snapshot(self, live: Live, refreshes: int) -> None:
        file = io.BytesIO()
        np.savez(file, **live.arrays())
        whole, told = file.getbuffer(), (refreshes, self._end)
        starts = range(0, len(whole), _PART)
        for number, start in enumerate(starts, 1):
            row = number, *told, whole[start : start + _PART]
            self._database.execute("REPLACE INTO snapshot VALUES (?, ?, ?, ?)", row)
        self._database.execute("DELETE FROM snapshot WHERE id > ?", [len(starts)])


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What SQLite refuses, as an error of Python's own, in one sentence."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as fault:
        # The last byte says what, the others where. Names that cannot be read have no code.
        code = getattr(fault, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, f"No space left while writing {file}") from fault
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise ValueError(f"{file}: is damaged, or no live state: {fault}.") from fault
        raise OSError(f"{file}: {fault}.") from fault
