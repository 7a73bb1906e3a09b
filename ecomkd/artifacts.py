"""What is made once and kept: `artifacts/<stage>-<hash>/`, written whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import inspect
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

_MANIFEST = "manifest.json"


def digest(*parts) -> str:
    """The first 16 hex digits of a SHA-256 over `parts`.

    A part is a plain value, a list, tuple or mapping of parts, a dataclass, or a module or
    function, which stands for its source text.
    """
    text = json.dumps([_plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part):
    if inspect.ismodule(part) or inspect.isfunction(part) or inspect.isclass(part):
        return inspect.getsource(part)
    if dataclasses.is_dataclass(part):
        return _plain(dataclasses.asdict(part))
    if isinstance(part, dict):
        return {str(key): _plain(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(value) for value in part]
    if part is None or isinstance(part, (str, int, float, bool)):
        return part
    raise TypeError(f"Cannot take a digest of a {type(part).__name__}: pass plain values.")


def file_digest(path: Path | str) -> str:
    """The SHA-256 of a file, in hex, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stage(
    name: str,
    parts: Iterable,
    make: Callable[[Path], None],
    root: Path | str,
    recipe: int = 1,
) -> Path:
    """The folder `root/<name>-<hash of parts>`, made by `make(folder)` unless it is there, intact.

    `recipe` is the stage's own number: it is raised by hand when the code behind the stage comes to
    make something else of the same parts.

    `make` writes into a working folder that becomes the artefact in one rename. A run that is
    killed leaves the working folder, so that `make` can resume from what it finds there. Each
    file's size and SHA-256 stand in `manifest.json`; an artefact that no longer agrees with them
    is made again, with a warning. Two processes that ask for the same artefact make it once.

    Raises OSError with the folder's name when the disk is full.
    """
    folder = Path(root) / f"{name}-{digest(name, recipe, *parts)}"
    working = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.exists():
                fault = _fault(folder)
                if fault is None:
                    return folder
                warnings.warn(f"{folder}: {fault}; it is made again.", stacklevel=2)
                shutil.rmtree(folder)
            working.mkdir(exist_ok=True)
            make(working)
            manifest = {
                str(path.relative_to(working)): [path.stat().st_size, file_digest(path)]
                for path in sorted(working.rglob("*"))
                if path.is_file()
            }
            write_text(working / _MANIFEST, json.dumps(manifest, indent=1))
            os.replace(working, folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"No space left while writing {folder}: free some, or set ECOMKD_ARTIFACTS to a "
                "folder on another disk; a run that is started again resumes",
            ) from error
        raise
    return folder


def _fault(folder: Path) -> str | None:
    manifest = folder / _MANIFEST
    if not manifest.exists():
        return f"{_MANIFEST} is missing"
    for name, (size, sha) in json.loads(manifest.read_text()).items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size or file_digest(path) != sha:
            return f"{name} has changed since it was written"
    return None


def data_digest(dataset, columns: Iterable[str]) -> str:
    """A SHA-256 in hex over the rows of `dataset` (a `datasets.Dataset`), in order.

    It depends on the content of `columns` alone, not on how the rows are stored.
    """
    sha = hashlib.sha256()
    for batch in dataset.select_columns(list(columns)).iter(10_000):
        sha.update(json.dumps(batch, sort_keys=True).encode())
    return sha.hexdigest()


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file in one step: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f".{path.name}.{os.getpid()}")
    working.write_text(text, encoding="utf-8")
    os.replace(working, path)
