"""Artefacts made small enough to ship, and made whole again: the recorded models. All chapters.

A tensor that a bundled checkpoint holds too is named, not stored. One that training changed is
stored as its difference from there, in eight bits, with one scale for each row: the difference is
small, and so is its rounding. Other files are compressed. What comes out is the same to the byte on
every machine, for keys are made of it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from lzma import LZMAError
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np

from ecomkd.artifacts import MANIFEST, file_digest, write_text

CARD = "card.json"
SMALL = 4_096
"""A tensor with fewer values is stored as it is."""
_WEIGHTS = ".safetensors"
_OTHERS = "files.tar.xz"
_ARGUMENTS = "training_args.bin"
"""What the Trainer pickles of a run's settings, with paths of the machine; nobody reads it."""
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, LZMAError, TarError)
_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


class DamagedError(ValueError):
    """A packed artefact that does not give what its card promises."""


class _MissingError(Exception):
    """The checkpoint that a recorded model differs from is not there."""


def pack(folder: Path, packed: Path, made: Mapping[str, Any], sources: tuple[str, ...] = ()) -> int:
    """Pack the artefact in `folder` into the new folder `packed`; the bytes that it takes.

    Args:
        made: what the card says of its making, such as command, seeds and hardware.
        sources: bundled checkpoints, by name, whose tensors need not be stored.

    The artefact that `unpack` gives back differs from this one by the rounding of trained weights.
    """
    packed.mkdir(parents=True)
    known = {name: _tensors(_weights_of(name))[1] for name in sources}
    card: dict[str, Any] = {"made": dict(made), "weights": {}, "files": {}}
    stored: dict[str, np.ndarray] = {}
    others = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name in (MANIFEST, _ARGUMENTS):
            continue
        if path.suffix == _WEIGHTS:
            header, tensors = _tensors(path)
            ways = {key: _packed(f"{name}/{key}", value, known, stored)
                    for key, value in tensors.items()}  # fmt: skip
            card["weights"][name] = {"header": header, "tensors": ways}
        else:
            others.append(name)
    if others:
        with tarfile.open(packed / _OTHERS, "w:xz", preset=9) as archive:
            for name in others:
                archive.add(folder / name, name, filter=_nobodys)
    if stored:
        # One after the other, without a library's header, which another version might write anew.
        card["stored"] = {
            key: [value.dtype.str, list(value.shape)] for key, value in stored.items()
        }
        (packed / "weights.bin").write_bytes(b"".join(v.tobytes() for v in stored.values()))
    card["packed"] = {
        path.name: file_digest(path) for path in sorted(packed.iterdir()) if path.name != CARD
    }
    card["files"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in _contents(packed, card)
    }
    write_text(packed / CARD, json.dumps(card, separators=(",", ":")))
    return sum(path.stat().st_size for path in packed.iterdir())


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid, member.gid, member.uname, member.gname, member.mtime = 0, 0, "", "", 0
    return member


def unpack(packed: Path, folder: Path) -> None:
    """Write the artefact in `packed` into `folder`, whole.

    Raises DamagedError where the card, a packed file or what comes out of them is not as it was.
    """
    try:
        card = json.loads((packed / CARD).read_text("utf-8"))
        for name, sha in card["packed"].items():
            if file_digest(packed / name) != sha:
                raise DamagedError(f"{packed / name} has changed since it was recorded")
        for name, content in _contents(packed, card):
            if hashlib.sha256(content).hexdigest() != card["files"][name]:
                raise DamagedError(f"{packed}: {name} does not come out as it was recorded")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except DamagedError:
        raise
    except _MissingError as error:
        raise DamagedError(f"{packed}: its weights are stored as a difference; {error}") from error
    except OSError as error:
        if not str(error.filename or "").startswith(str(packed)):
            raise  # of the folder that is written to
        raise DamagedError(f"{packed}: a recorded model is not whole") from error
    except _UNREADABLE as error:
        raise DamagedError(f"{packed}: a recorded model is cut short or damaged") from error


def _contents(packed: Path, card: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each file of an artefact, by its name, and its bytes."""
    stored, at = {}, 0
    if card.get("stored"):
        data = (packed / "weights.bin").read_bytes()
        for key, (kind, shape) in card["stored"].items():
            count = int(np.prod(shape, dtype=int))
            stored[key] = np.frombuffer(data, kind, count, at).reshape(shape)
            at += stored[key].nbytes
    if (packed / _OTHERS).exists():
        with tarfile.open(packed / _OTHERS, "r:xz") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read()
    sources: dict[str, dict[str, np.ndarray]] = {}
    for name, weights in card["weights"].items():
        header = weights["header"]
        entries = {key: entry for key, entry in json.loads(header).items() if key[:2] != "__"}
        size = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        content = bytearray(size)
        for key, entry in entries.items():
            value = _whole(f"{name}/{key}", weights["tensors"][key], stored, sources)
            begin, end = entry["data_offsets"]
            content[begin:end] = np.ascontiguousarray(value, _TYPES[entry["dtype"]]).tobytes()
        text = header.encode()
        yield name, len(text).to_bytes(8, "little") + text + bytes(content)


def _packed(
    key: str,
    value: np.ndarray,
    known: Mapping[str, Mapping[str, np.ndarray]],
    stored: dict[str, np.ndarray],
) -> list[str]:
    """How a tensor is made again: `same`, `near` or `own`, and of what; what it takes is stored."""
    near, least = None, 0.5 * float(np.square(value, dtype=np.float64).sum())
    for source, tensors in known.items():
        for name, other in tensors.items():
            if other.shape != value.shape or other.dtype != value.dtype:
                continue
            if np.array_equal(other, value):
                return ["same", source, name]
            distance = float(np.square(value - other, dtype=np.float64).sum())
            if distance < least:
                near, least = [source, name], distance
    if value.ndim < 2 or value.size < SMALL or value.dtype != np.float32:
        stored[key] = value
        return ["own"]
    rest = value - known[near[0]][near[1]] if near else value
    flat = rest.reshape(len(rest), -1)
    scale = np.maximum(np.abs(flat).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
    stored[key] = np.rint(flat / scale[:, None]).astype(np.int8).reshape(rest.shape)
    stored[f"{key}:scale"] = scale.astype(np.float32)
    return ["near", *near] if near else ["eight"]


def _whole(
    key: str,
    way: list[str],
    stored: Mapping[str, np.ndarray],
    sources: dict[str, dict[str, np.ndarray]],
) -> np.ndarray:
    if way[0] == "own":
        return stored[key]
    if len(way) == 3 and way[1] not in sources:
        sources[way[1]] = _tensors(_weights_of(way[1]))[1]
    if way[0] == "same":
        return sources[way[1]][way[2]]
    steps = stored[key].astype(np.float32)
    scale = stored[f"{key}:scale"].reshape(-1, *[1] * (steps.ndim - 1))
    rest = steps * scale
    return sources[way[1]][way[2]] + rest if way[0] == "near" else rest


def _weights_of(name: str) -> Path:
    from ecomkd.models import ModelError, checkpoint  # here, for it loads PyTorch

    try:
        return Path(checkpoint(name)) / f"model{_WEIGHTS}"
    except ModelError as error:
        raise _MissingError(str(error).rstrip(".")) from error


def _tensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The header of a safetensors file, as it stands there, and its tensors."""
    with open(path, "rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little")).decode()
        begin = file.tell()
    data = np.memmap(path, np.uint8, "r", begin) if path.stat().st_size > begin else np.empty(0)
    found = {}
    for key, entry in json.loads(header).items():
        if key[:2] != "__":
            start, end = entry["data_offsets"]
            kind = _TYPES[entry["dtype"]]
            found[key] = np.asarray(data[start:end]).view(kind).reshape(entry["shape"])
    return header, found
