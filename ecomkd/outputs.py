"""Folders that a command writes for a user: refused unless they are its own, replaced whole.

Every chapter's commands (`run`, `index`, `shop`) and the class pack keep to it. What tells a
folder of the program's own is its `manifest.json`: the kind of folder, the version that wrote it,
and each file's size and SHA-256.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from filelock import FileLock

import ecomkd
from ecomkd.artifacts import MANIFEST, changed, file_digest, noted, write_text

T = TypeVar("T")
_IN_PLACE = ("run", "score")
"""The kinds of folders that are written where they lie; others are put together beside and take
their place whole."""


def claim(folder: Path | str, kind: str) -> Path:
    """The folder, with links resolved, that a command may write to: call it before any work.

    It may if nothing is there, if the folder is empty, or if every file in it stands in a manifest
    of the same `kind` ("run", "index", …), whichever version wrote that. Nothing is changed, but
    for the parent folder, which is made and tried.

    Raises OSError with one sentence otherwise: NotADirectoryError for a file, PermissionError where
    nothing can be written, FileExistsError for anything that the program did not write.
    """
    if "\0" in str(folder):
        raise OSError(f"{folder}: the name of a folder holds no NUL; give another name.")
    given, folder = folder, _resolved(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise OSError(f"{folder}: the name is not UTF-8; give another name.") from None
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{given}: a file of this name is there; give another folder.")
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(
            f"{given}: the folder that you work in, or one above it, is not replaced; "
            "give a new folder."
        )
    if kind not in _IN_PLACE and os.path.ismount(folder):
        raise OSError(
            f"{given}: a disk or volume is mounted there, and {_by(kind)} replaces its folder as a "
            "whole; give a folder inside it."
        )
    strange = _stranger(folder, kind)
    if strange is not None:
        raise FileExistsError(
            f"{given}: {_by(kind)} did not write {strange}, and deletes nothing of yours; "
            "give a new folder, or move it away."
        )
    there = [folder] if folder.exists() else []
    # `run` needs its folder alone; all others put something beside it.
    beside = [] if there and kind == "run" else [folder.parent]
    place = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for place in (*beside, *there):
            with tempfile.TemporaryDirectory(dir=place, prefix=".ecomkd-"):
                pass
    except OSError as error:
        raise PermissionError(
            f"{given}: nothing can be written "
            f"{'beside it' if there and place != folder else 'there'} "
            f"({error.strerror or error}); give another folder."
        ) from error
    return folder


def _stranger(folder: Path, kind: str) -> str | None:
    """What in the folder keeps it from being the program's own, or None."""
    try:
        own = {*read(folder, kind)["files"], MANIFEST}
    except ValueError:
        own = set()
    names = _files(folder)
    return next((name for name in names if name not in own and _finished(name) not in own), None)


def _finished(name: str) -> str:
    """The name that a file of `write_text` gets in the end, of a killed run's unfinished one."""
    path = PurePosixPath(name)
    match = re.fullmatch(r"\.(.+)\.\d+", path.name)
    return path.with_name(match[1]).as_posix() if match else name


def _by(kind: str) -> str:
    """The command that writes folders of this kind."""
    return "`make teaching`" if kind == "teaching" else f"`ecomkd {kind}`"


def _resolved(folder: Path | str) -> Path:
    try:
        return Path(folder).resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError(f"{folder}: a link that leads to itself; give another folder.") from error
    except FileNotFoundError as error:
        raise OSError(
            f"{folder}: the folder that you work in is no longer there; change to another."
        ) from error


def _files(folder: Path) -> Iterator[str]:
    """The files and links in a folder; the rest of a large one is not listed unless asked for.

    Raises OSError for a folder that cannot be listed, for what it holds might be a stranger's.
    """
    for place, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders.sort()
        for name in sorted([*names, *links]):
            yield Path(place, name).relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def read(folder: Path | str, kind: str) -> dict:
    """The manifest of a folder: `kind`, `version`, and `files`, name to [bytes, SHA-256].

    Raises ValueError with one sentence where it is missing, damaged, or of another kind.
    """
    path = Path(folder) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        listed = all(
            isinstance(name, str) and isinstance(size, int) and isinstance(sha, str)
            for name, (size, sha) in found["files"].items()
        )
        whole = listed and isinstance(found["version"], str) and isinstance(found["kind"], str)
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: there is no {MANIFEST} in it; write the folder with {_by(kind)}."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: damaged; write the folder again with {_by(kind)}.")
    if found["kind"] != kind:
        raise ValueError(
            f"{folder}: {_by(found['kind'])} wrote this folder; give one that {_by(kind)} wrote."
        )
    return found


def check(folder: Path | str, kind: str) -> dict:
    """The manifest, as `read` gives it, once every file in it was found to be as it was written.

    Raises ValueError that names the first file that is missing or has changed.
    """
    found = read(folder, kind)
    if wrong := changed(Path(folder), found["files"]):
        name, fault = wrong
        raise ValueError(f"{folder}/{name}: {fault}; write the folder again with {_by(kind)}.")
    return found


class Changes:
    """Tells, each time it is called, whether a folder is another than the one that was `taken`.

    At first that is the folder as it is. One that is missing, as for a moment while another takes
    its place, has not changed.
    """

    def __init__(self, folder: Path | str):
        self._manifest = Path(folder) / MANIFEST
        self._taken = self._seen = self._now()

    def __call__(self) -> bool:
        now = self._now()
        self._seen = now or self._seen
        return now not in (None, self._taken)

    def taken(self) -> None:
        """Take the folder as it was when it was last looked at."""
        self._taken = self._seen

    def _now(self) -> str | None:
        try:
            return file_digest(self._manifest)
        except OSError:
            return None


def whole(folder: Path, load: Callable[[Path], T]) -> T:
    """What `load` makes of a folder: made anew where another took its place meanwhile, for what was
    read may be of both."""
    while True:
        another = Changes(folder)
        try:
            found = load(folder)
        except Exception:  # whatever a mixture of two folders leads to
            if not another():
                raise
            continue
        if not another():
            return found
        if (close := getattr(found, "close", None)) is not None:
            close()


def expect(folder: Path, kind: str, names: Iterable[str]) -> None:
    """Note files in the folder's manifest before they are written.

    So a run that is killed between the two leaves nothing that it would take for a stranger's.
    Until `add` notes them as written, `check` finds them changed.
    """
    _write(folder, kind, {name: [0, ""] for name in names} | _files_of(folder, kind))


def add(folder: Path, kind: str, names: Iterable[str]) -> None:
    """Note files of the folder, which were just written, in its manifest."""
    _write(folder, kind, _files_of(folder, kind) | noted(folder, names))


def _files_of(folder: Path, kind: str) -> dict:
    try:
        return read(folder, kind)["files"]
    except ValueError:
        return {}


def prune(folder: Path, kind: str, keep: Iterable[str]) -> None:
    """Delete the files of an earlier run: those in the manifest that are not among `keep`, and
    what a killed run left of them."""
    files = read(folder, kind)["files"]
    gone = files.keys() - set(keep)
    for name in [one for one in _files(folder) if one in gone or _finished(one) in gone]:
        (folder / name).unlink(missing_ok=True)
    for name in gone:
        del files[name]
    _write(folder, kind, files)


def _write(folder: Path, kind: str, files: dict) -> None:
    entry = {"kind": kind, "version": ecomkd.__version__, "files": dict(sorted(files.items()))}
    write_text(folder / MANIFEST, json.dumps(entry, indent=1))


@contextmanager
def replaced(folder: Path | str, kind: str) -> Iterator[Path]:
    """A working folder beside `folder` that takes its place, whole, when the block is left.

    Where the block raises, `folder` stays as it was. Two processes may do this at once: each has
    a working folder of its own, and the folder of the one that ends last stays.

    Raises OSError as `claim` does, before the block and once more before the swap.
    """
    folder = claim(folder, kind)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as room:
        working = Path(room) / "new"
        working.mkdir()
        try:
            yield working
        except OSError as error:
            if error.errno is not None and error.filename is None:
                error.filename = str(folder)  # a library may tell of a full disk without the place
            raise
        add(working, kind, _files(working))
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            claim(folder, kind)
            old = Path(room) / "old"
            try:
                if folder.exists():
                    _aside(folder, old)
                os.replace(working, folder)
            except BaseException:
                if old.exists() and not folder.exists():
                    os.replace(old, folder)
                raise


def _aside(folder: Path, old: Path) -> None:
    """Move a folder, by copying where it lies in a layer of an image, which nothing renames."""
    try:
        os.replace(folder, old)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, old, symlinks=True)
        shutil.rmtree(folder)
