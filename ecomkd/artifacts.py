"""What is made once and kept: `artifacts/<stage>-<key>/`, written whole or not at all.

All chapters.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

RECORDED = str(Path(__file__).parent / "recorded" / "models")
"""Where the recorded artefacts of the package lie, each packed (see `packing`)."""

MANIFEST = "manifest.json"
"""Holds, of a folder that the program wrote, each file's size and SHA-256."""


def digest(*parts) -> str:
    """The first 16 hex digits of a SHA-256 over `parts`.

    A part is a plain value, a list, tuple or mapping of parts, or a dataclass. Raises TypeError for
    anything else, such as a function: no key holds source text.
    """
    text = json.dumps(parts, sort_keys=True, default=_fields)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fields(part) -> dict:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return dataclasses.asdict(part)
    raise TypeError(f"Cannot take a digest of a {type(part).__name__}: pass plain values.")


def file_digest(path: Path | str) -> str:
    """The SHA-256 of a file, in hex, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_DIGESTS: dict[Path, tuple[tuple[int, int, int], str]] = {}
"""What was hashed in this process: a file, as its inode, size and time of change were, and its
SHA-256."""


def known_digest(path: Path | str) -> str:
    """The SHA-256 of a file, in hex, read once a process as long as nobody writes to the file."""
    path = Path(path).resolve()
    found = path.stat()
    state = found.st_ino, found.st_size, found.st_mtime_ns
    if path not in _DIGESTS or _DIGESTS[path][0] != state:
        _DIGESTS[path] = (state, file_digest(path))
    return _DIGESTS[path][1]


def noted(folder: Path, names: Iterable[str]) -> dict[str, list]:
    """What a manifest says of files of a folder: name to [bytes, SHA-256]."""
    return {name: [(folder / name).stat().st_size, known_digest(folder / name)] for name in names}


def changed(folder: Path, files: Mapping[str, Sequence]) -> tuple[str, str] | None:
    """The first file that is not as `noted` found it, and what is wrong with it; or None."""
    for name, (size, sha) in files.items():
        path = folder / name
        if not path.is_file():
            return name, "is missing"
        if path.stat().st_size != size or known_digest(path) != sha:
            return name, "has changed since it was written"
    return None


def stage(
    name: str,
    parts: Iterable,
    make: Callable[[Path], None],
    root: Path | str,
    recipe: int = 1,
) -> Path:
    """The folder `root/<name>-<hash of parts>`, made by `make(folder)` unless it is there, intact.

    Where such an artefact was recorded, it is unpacked below `root`, and nothing is made. The
    environment variable ECOMKD_RECORDED names another folder of recorded artefacts than the
    package's own; 0 stands for none. A damaged one is told of in a warning, and made here.

    `recipe` is the stage's own number: it is raised by hand when the code behind the stage comes to
    make something else of the same parts (see `tools/recipes.py`).

    `make` writes into a working folder that becomes the artefact in one rename. A run that is
    killed leaves the working folder, so that `make` can resume from what it finds there. Each
    file's size and SHA-256 stand in `manifest.json`; an artefact that no longer agrees with them
    is made again, with a warning. Files are hashed once a process. Two processes that ask for the
    same artefact make it once: the second says that it waits.

    Raises OSError with the folder's name when the disk is full, when files of such a size may not
    be written, and when nothing may be written to `root`. A whole artefact is read from a folder
    that cannot be written to.
    """
    key = f"{name}-{digest(name, recipe, *parts)}"
    return _recorded(key, Path(root)) or _kept(Path(root) / key, make)


def _recorded(key: str, root: Path) -> Path | None:
    """The recorded artefact of that name, unpacked below `root`, or None where there is none."""
    place = os.environ.get("ECOMKD_RECORDED") or RECORDED
    packed = Path(place) / key
    if place == "0" or not packed.is_dir():
        return None
    from ecomkd import packing  # here, for packing uses this module

    try:
        version = known_digest(packed / packing.CARD)[:8]  # it may be recorded anew
        return _kept(root / "recorded" / version / key, partial(packing.unpack, packed))
    except (packing.DamagedError, FileNotFoundError) as fault:
        warnings.warn(f"{fault}; it is made here instead.", stacklevel=3)
        return None


def _kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made unless it is there, intact."""
    # Without a lock: what stands under its own name is whole, or damaged.
    if folder.exists() and _fault(folder) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if folder.exists():
                fault = _fault(folder)
                if fault is None:
                    return folder
                warnings.warn(f"{folder}: {fault}; it is made again.", stacklevel=3)
                if folder.is_dir():
                    shutil.rmtree(folder)
                else:
                    folder.unlink()
            _make(folder, make)
    except Exception as error:
        told = _explained(error, folder)
        if told is None:
            raise
        raise told from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    working = folder.with_name(f".{folder.name}.partial")
    working.mkdir(exist_ok=True)
    make(working)
    files = sorted(path for path in working.rglob("*") if path.is_file())
    names = [path.relative_to(working).as_posix() for path in files]
    manifest = noted(working, [name for name in names if name != MANIFEST])  # of a killed run
    write_text(working / MANIFEST, json.dumps(manifest, indent=1))
    made = working.resolve()
    os.replace(working, folder)
    for name in manifest:
        _DIGESTS[folder.resolve() / name] = _DIGESTS.pop(made / name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with a folder, which need not be there; warns where another process is waited for."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(timeout=_SILENT_S)
    except Timeout:
        warnings.warn(
            f"{folder}: another process is making it; this one waits until it is done.",
            stacklevel=5,
        )
        held = lock.acquire()
    with held:
        yield


_SILENT_S = 5.0
"""Seconds of waiting for another process before it is told."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.ENOENT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def _explained(error: Exception, folder: Path) -> OSError | None:
    """What is told instead of an error of the disk; None for any other error."""
    number, root = _errno(error), folder.parent
    again = "set ECOMKD_ARTIFACTS to a folder on another disk; a run that is started again resumes"
    other = "set ECOMKD_ARTIFACTS to a folder that you can write to"
    place = getattr(error, "filename", None)
    if number in _FULL:
        said = f"No space left while writing {folder}: free some, or {again}"
    elif number == errno.EFBIG:
        limit = "raise the limit (ulimit -f unlimited)"
        said = f"A file of this size may not be written in {folder}: {limit}, or {again}"
    elif number in _NO_FOLDER and not root.is_dir():
        said = f"{root} is no folder, and cannot become one: {other}"
    elif (
        number in _FORBIDDEN
        and isinstance(place, str)
        and (Path(place).resolve().is_relative_to(root.resolve()) or not root.is_dir())
    ):
        said = f"Nothing can be written to {root}: allow it, or {other}"
    else:
        return None
    return OSError(number, said)


def _errno(error: Exception) -> int | None:
    """The number of the system's error behind one that a writer raised in a class of its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if found := re.search(r"\(os error (\d+)\)", text):  # safetensors and tokenizers
        return int(found[1])
    # NumPy and PyTorch tell that a write fell short, and not why.
    if re.search(r"\d+ requested and \d+ written|PytorchStreamWriter failed", text):
        return errno.ENOSPC
    return None


def _fault(folder: Path) -> str | None:
    """What is wrong with an artefact, in words, or None."""
    try:
        found = changed(folder, json.loads((folder / MANIFEST).read_text("utf-8")))
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except NotADirectoryError:
        return "a file stands in its place"
    except (ValueError, TypeError, AttributeError, RecursionError, IsADirectoryError):
        return f"{MANIFEST} is damaged"
    return found and " ".join(found)


def data_digest(dataset, columns: Iterable[str]) -> str:
    """A SHA-256 in hex over the rows of `dataset` (a `datasets.Dataset`), in order.

    It depends on the content of `columns` alone, not on how the rows are stored.
    """
    sha = hashlib.sha256()
    for batch in dataset.select_columns(list(columns)).iter(10_000):
        sha.update(json.dumps(batch, sort_keys=True).encode())
    return sha.hexdigest()


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file in one step: a reader sees the old file or the new one.

    The text is on the disk before it takes the old one's place, so that not even a power cut leaves
    an empty file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(working, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(working, path)
    except BaseException:
        working.unlink(missing_ok=True)
        raise
