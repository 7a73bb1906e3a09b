"""A live state that outlives its process: a log of what happened, and a snapshot, in one folder.

The log is text, one line an event, so that a reader can see it, tear it and mend it. Chapter 14.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from filelock import FileLock

from ecomkd.recommend.live import Live

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf

_CHANGES = {
    "update": Live.update,
    "update_basket": Live.update_basket,
    "add_user": Live.add_user,
    "add_item": Live.add_item,
}


class Durable:
    """A live state in a folder, which outlives its process.

    Each change is a line of `events.log` before it counts: a checksum, and what happened, in JSON.
    When a call returns, its line is on the disk, so that neither a kill nor a power cut can take
    it. `state.npz` is the state after the first `position` bytes of the log, replaced in one step.
    Together they give the state back to the bit.

    Several processes may write to one folder: a lock lets them do so in turn, and each first learns
    what the others have written since its own last change. Every purchase counts once.

    Args:
        live: what is kept; change it through this object alone.
        folder: a new one, or one that holds neither a state nor a log.

    Attributes:
        live: the state as of this object's own last change.
        folder: where it is kept.

    Raises FileExistsError when the folder holds a state or a log.
    """

    def __init__(self, live: Live, folder: Path | str):
        self._set_up(folder)
        with self._lock:
            if self._kept.exists():
                raise FileExistsError(
                    f"{folder}: holds a state; restore it, or name another folder."
                )
            self._log.touch()
            if self._log.stat().st_size:
                raise FileExistsError(
                    f"{self._log}: a log without its state.npz is there; name another folder."
                )
            self.live, self._end = live, 0
            self._write_snapshot()

    @classmethod
    def restore(cls, folder: Path | str) -> Durable:
        """The state as it was when its process ended, however that was.

        A torn last line, an event that nobody was told had been taken, is cut off. Raises
        FileNotFoundError when there is no state, ValueError when the log is damaged elsewhere.
        """
        if not (Path(folder) / "state.npz").exists():
            raise FileNotFoundError(f"{folder}: holds no state; make one with Durable.")
        self = cls.__new__(cls)
        self._set_up(folder)
        with self._lock:
            self._catch_up()
        return self

    def _set_up(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept, self._log = self.folder / "state.npz", self.folder / "events.log"
        self._lock, self._loaded = FileLock(self.folder / ".lock"), None

    def update(self, user: int, item: int, day: int) -> None:
        """Learn one purchase, as `Live.update` does; one that is refused leaves no line."""
        self._change("update", int(user), int(item), int(day))

    def update_basket(self, user: int, items: Sequence[int], day: int) -> None:
        """Learn one basket, as `Live.update_basket` does, in one line.

        After a kill all of it counts or nothing, and the disk is waited for once, not once an item.
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
        with self._lock:
            self._catch_up()
            self._loaded = None  # without its snapshot the old state holds, and is loaded again
            self.live.refresh(shelf)
            self._write_snapshot()

    def snapshot(self) -> None:
        """Write the state as a whole, so that a restore replays only what comes after."""
        with self._lock:
            self._catch_up()
            self._write_snapshot()

    def _change(self, name: str, *given):
        with self._lock:
            self._catch_up()
            if name == "update":
                self.live.check(*given)
            elif name == "update_basket":
                self.live.check_basket(*given)
            self._write(_sealed(json.dumps([name, *given]).encode()))
            return _CHANGES[name](self.live, *given)

    def _write(self, line: bytes) -> None:
        with open(self._log, "ab", buffering=0) as log:
            try:
                if log.write(line) < len(line):
                    raise OSError(errno.ENOSPC, f"No space left while writing {self._log}")
                os.fsync(log.fileno())
            except OSError:
                os.truncate(log.fileno(), self._end)  # half a line would spoil the next one
                raise
        self._end += len(line)

    def _catch_up(self) -> None:
        """Take in what is in the folder and not yet in this object; cut off a torn last line."""
        if self._loaded != self._snapshot_there():  # at first, and after another's snapshot
            with np.load(self._kept, allow_pickle=False) as kept:
                arrays = dict(kept)
            self._end, self.live = int(arrays.pop("position")), Live(arrays)
            self._loaded = self._snapshot_there()
        size = self._log.stat().st_size
        if size == self._end:
            return
        for (name, *given), end in _entries(self._log, self._end):
            if name not in _CHANGES:
                raise ValueError(
                    f"{self._log}: {name!r} at byte {self._end} is no event of a live state."
                )
            _CHANGES[name](self.live, *given)
            self._end = end
        os.truncate(self._log, self._end)

    def _write_snapshot(self) -> None:
        working = self.folder / ".state.npz"
        with open(working, "wb") as file:
            np.savez(file, position=self._end, **self.live.arrays())
            file.flush()
            os.fsync(file.fileno())
        os.replace(working, self._kept)
        if os.name == "posix":  # the new name, too, is to outlive a power cut
            folder = os.open(self.folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self._loaded = self._snapshot_there()

    def _snapshot_there(self) -> tuple[int, int]:
        """What tells one snapshot from the next."""
        found = self._kept.stat()
        return found.st_ino, found.st_mtime_ns


def _sealed(text: bytes) -> bytes:
    """A line of the log: a checksum, and what happened."""
    return b"%08x %b\n" % (crc32(text), text)


def _entries(log: Path, position: int) -> Iterator[tuple[list, int]]:
    """The whole lines of a log from a byte on: what each holds, and the byte after it."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < position:
            raise ValueError(
                f"{log}: has {size} bytes, and the snapshot was made at {position}; put back the "
                "log that belongs to it."
            )
        file.seek(position)
        for line in file:
            text = line[9:-1]
            if line != _sealed(text):
                if position + len(line) < size:
                    raise ValueError(f"{log}: damaged at byte {position}, and more comes after it.")
                return
            position += len(line)
            yield json.loads(text), position
