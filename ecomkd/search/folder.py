"""The parts of an index's folder, read and checked one by one. Chapters 8 and 19.

What the command wrote is right. Checked is what another hand may have put there, manifest and all,
and what would otherwise fail at a request, or answer wrongly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ecomkd.score import Scorer
from ecomkd.search.catalogue import Damaged, table
from ecomkd.search.retrieve import Weights
from ecomkd.words import Words

KIND = "index"
"""The command that writes such a folder, as its manifest names it."""
FORMATS = {"static": 4, "sparse": 5}
"""Version of the folder, by its first stage. Format 1 had no number and no manifest, 2 another name
of a weight, and with 3 all was read into memory. Format 4 does not name its first stage."""
QUALITY = "quality.json"
"""What an index was worth on test queries, where they have a relevant product in the catalogue."""
_LENGTHS = (4, 8_192)
"""The shortest and the longest that `max_length` may be."""


class Fault(Exception):
    """What is wrong with a file, in words that follow its name."""


def need(condition: bool, fault: str) -> None:
    if not condition:
        raise Fault(fault)


@contextmanager
def reading(path: Path, otherwise: str) -> Iterator[Path]:
    """Read a file inside; whatever fails there is told in one sentence that names the file."""
    try:
        need(path.is_file(), "is missing")
        yield path
    except Damaged:
        raise
    except Exception as error:  # the libraries' errors have no class in common
        fault = error if isinstance(error, Fault) else otherwise
        raise ValueError(
            f"{path}: {fault}; write the folder again with `ecomkd {KIND}`."
        ) from error


@dataclass(frozen=True)
class Stored:
    """Where the catalogue of an index lies that is not in its folder."""

    uri: str
    table: str
    build: str
    length: float
    """The mean number of words of a text, as the statistics have it."""


@dataclass(frozen=True)
class Settings:
    """What `engine.json` says."""

    gains: list[float]
    max_length: int
    weights: Weights
    teacher: bool
    fields: dict[str, str]
    """Of each field that answers can tell, whether it holds a "number" or a "text"."""
    store: Stored | None
    first_stage: str
    """One of `FORMATS`: what is added to the words, vectors or posting lists of pieces."""


def settings(folder: Path) -> Settings:
    """The settings of an index. Raises ValueError where they are not whole."""

    def amounts(values) -> bool:
        return all(type(x) in (int, float) and math.isfinite(x) and x >= 0 for x in values)

    with reading(folder / "engine.json", "is not an object of JSON in UTF-8") as path:
        found = json.loads(path.read_text(encoding="utf-8"))
        number = found.get("format", 1)
        known = " and ".join(f"{own} ({kind})" for kind, own in FORMATS.items())
        fault = f"is of format {number!r:.20}, and this version reads formats {known}"
        need(number in FORMATS.values(), fault)
        first = found.get("first_stage", "static")
        need(
            type(first) is str and FORMATS.get(first) == number,
            f"is of format {number}, and its first_stage is {first!r:.60}",
        )
        names = ("gains", "max_length", "weights", "teacher", "fields", "store")
        gains, length, weights, teacher, fields, store = (found.get(name) for name in names)
        low, high = _LENGTHS
        right = (
            isinstance(gains, list) and len(gains) > 1 and amounts(gains),
            type(length) is int and low <= length <= high,
            isinstance(weights, dict)
            and set(weights) == {"words", "reranker"}
            and amounts(weights.values()),
            type(teacher) is bool,
            isinstance(fields, dict) and set(fields.values()) <= {"number", "text"},
            store is None
            or (
                first == "static"
                and isinstance(store, dict)
                and set(store) == {"uri", "table", "build", "length"}
                and all(type(store[name]) is str for name in ("uri", "table", "build"))
                and amounts([store["length"]])
            ),
        )
        for name, whole in zip(names, right, strict=True):
            need(whole, f"{name} is {found.get(name)!r:.60}")
    place = None if store is None else Stored(**store)
    return Settings(gains, length, Weights(**weights), teacher, fields, place, first)


def quality(folder: Path) -> list[str]:
    """What `index` tells of the folder that it has written: weights, and nDCG@10, in lines.

    Nothing where no test query could be judged.
    """
    if not (folder / QUALITY).is_file():
        return []
    found = json.loads((folder / QUALITY).read_text(encoding="utf-8"))
    weights = settings(folder).weights
    return [
        f"  Weights: BM25 {weights.words:g}, the student that re-ranks {weights.reranker:g}.",
        f"  nDCG@10 on {found['queries']:,} test queries over the whole catalogue, where what "
        "nobody judged counts as irrelevant:",
        *(f"    {name}: {value:.3f}" for name, value in found["ndcg@10"].items()),
    ]


def encoder(folder: Path) -> tuple[Tokenizer, np.ndarray]:
    """The static student: its tokenizer, and a vector for each token (V, H)."""
    pieces = tokenizer(folder / "encoder" / "tokenizer.json")
    pieces.no_padding()
    with reading(folder / "encoder" / "model.safetensors", "is not a safetensors file") as path:
        table = finite(load_file(str(path)).get("embedding.weight"), "embedding.weight", 2)
        need(len(table) >= pieces.get_vocab_size(), "has too few rows")
    return pieces, table


def pieces(folder: Path) -> Tokenizer:
    """What cuts a query into the pieces of a sparse student, however long it is."""
    found = tokenizer(folder / "encoder" / "tokenizer.json")
    found.no_padding()
    found.no_truncation()
    return found


def lists(folder: Path, name: str, numbers: dict[str, int], texts: int, misfit: str) -> Words:
    """The posting lists of a name, "words" or "pieces", of numbered terms in so many texts."""
    with reading(folder / f"{name}.data.npy", "cannot be read") as path:
        data = finite(table(path), f"{name}.data", 1)
        rest = (table(folder / f"{name}.{part}.npy") for part in ("indices", "indptr"))
        found = Words(numbers, data, *rest, texts)
        need(fit(found), misfit)
    return found


def numbers(folder: Path) -> dict[str, int]:
    """The number of each word that BM25 knows."""
    with reading(folder / "words.json", "is not JSON in UTF-8") as path:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and all(type(n) is int for n in found.values())
        need(whole, "does not number its words")
    return found


def scorers(folder: Path, told: Settings) -> tuple[Scorer, Scorer | None]:
    """The student that re-ranks, and the teacher where there is one."""
    student = scorer(folder / "student" / "model.int8.onnx", told.gains, told.max_length)
    if not told.teacher:
        return student, None
    return student, scorer(folder / "teacher" / "model.onnx", told.gains, told.max_length)


def tokenizer(path: Path) -> Tokenizer:
    with reading(path, "is not a tokenizer"):
        return Tokenizer.from_file(str(path))


def scorer(path: Path, gains: Sequence[float], max_length: int) -> Scorer:
    """A model with its tokenizer, tried once on a pair as long as it may be."""
    try:
        with reading(path, f"is no model that reads {max_length} tokens"):
            scorer = Scorer(path, max_length, gains)
            classes = len(scorer.probabilities("a", "a " * max_length))
            need(classes == len(gains), f"gives {classes} classes, and {len(gains)} have a gain")
    except ValueError:
        tokenizer(path.with_name("tokenizer.json"))  # raises where that is the damaged one
        raise
    return scorer


def finite(found: np.ndarray | None, name: str, dimensions: int) -> np.ndarray:
    """The table of a name, once it was found to be of finite floats, with so many dimensions."""
    right = found is not None and found.dtype.kind == "f" and found.ndim == dimensions
    need(right, f"has no table {name!r} of the right kind")
    need(np.isfinite(found).all(), f"{name!r} holds numbers that are not finite")
    return found


def fit(words: Words) -> bool:
    """Whether the parts of an index of words belong together: none points beyond another."""
    indices, indptr = words.indices, words.indptr
    if any(part is None or (part.ndim, part.dtype.kind) != (1, "i") for part in (indices, indptr)):
        return False
    return (
        sorted(words.numbers.values()) == list(range(len(indptr) - 1))
        and indptr[0] == 0
        and (np.diff(indptr) >= 0).all()
        and len(words.data) == len(indices) == indptr[-1]
        and ((indices >= 0) & (indices < words.texts)).all()
    )
