"""The engine that serves: words, static vectors and a student that re-ranks, read from one folder.

It loads neither torch nor transformers, and nothing in its folder can be executed: texts are JSON,
tables are safetensors, models are ONNX. Every query is compared with every product and all texts
are held in memory, so that time and memory of an answer grow with the catalogue. Chapter 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ecomkd import outputs
from ecomkd.artifacts import file_digest
from ecomkd.score import Scorer
from ecomkd.search.retrieve import Weights, rerank, token_means, weighted, word_scores
from ecomkd.words import Words

KIND = "index"
"""The command that writes such a folder, as its manifest names it."""
FORMAT = 3
"""Version of the folder. Format 1 had no number and no manifest, 2 another name of a weight."""
DEPTH = 20
"""Products that the student puts into a new order."""
_LENGTHS = (4, 8_192)
"""The shortest and the longest that `max_length` may be."""


@dataclass(frozen=True)
class Hit:
    """One product of an answer."""

    product_id: str
    title: str
    score: float
    text: str
    """What a model reads of the product."""


@dataclass(eq=False)
class SearchEngine:
    """A catalogue that can be searched: static vectors, words and a student that re-ranks.

    `load` makes one of a folder. All methods may be called from several threads at once.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    """Of N products; a model reads the text."""
    words: Words
    """The BM25 index of the texts."""
    vectors: np.ndarray
    """(N, H), as `embed` gives them."""
    pieces: Tokenizer
    table: np.ndarray
    """The static student: its tokenizer, and a vector for each token (V, H)."""
    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    """Gives the expected gains of queries and texts."""
    weights: Weights
    """Of the words and of the student beside the cosine."""
    shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None
    """Like `student`, from the teacher."""
    depth: int = DEPTH
    """How many products the student reads; with 0, the order is that of words and vectors."""
    version: str | None = None
    """Names the index that `load` read: folder, format, what wrote it, and its content."""

    def __post_init__(self):
        unknown = getattr(self.pieces.model, "unk_token", None)
        self._unknown = self.pieces.token_to_id(unknown or "")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, H) of texts under the static student; without tokens it is zero."""
        return token_means(self._tokens(texts), self.table).astype(np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = self.pieces.encode_batch(list(texts), add_special_tokens=False)
        return [text.ids for text in pieces]

    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and BM25 scores (Q, N) of queries with the whole catalogue."""
        return self.embed(queries) @ self.vectors.T, word_scores(self.words, queries)

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The student's expected gain (N,) of query–product pairs, each by itself."""
        return self.student(queries, texts)

    def read(self, queries: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """The student's expected gain (Q · k,) of each of rows (Q, k)."""
        asked = [query for query, row in zip(queries, rows, strict=True) for _ in row]
        return self.score(asked, [self.texts[row] for row in rows.ravel()])

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k best products for a query, or all products of a catalogue that has fewer.

        The student puts the first `depth` by words and vectors into a new order; what comes after
        them keeps its place. A query of which neither words nor vectors know anything has no hits.
        Raises ValueError for k below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        known = any(token != self._unknown for token in self._tokens([query])[0])
        cosines, words = self.compare([query])
        if not known and not words.any():
            return []
        sums, rows = weighted(cosines, words, self.weights.words, max(k, self.depth))
        first = rows[:, : self.depth]
        gains = self.weights.reranker * self.read([query], first)
        # No gain is below 0, so that nothing read falls behind what was not.
        scores, first = rerank(first, sums[0, : self.depth] + gains)
        scores = np.concatenate([scores[0], sums[0, self.depth :]])[:k]
        rows = np.concatenate([first[0], rows[0, self.depth :]])[:k]
        return [
            Hit(self.ids[row], self.titles[row], float(score), self.texts[row])
            for row, score in zip(rows, scores, strict=True)
        ]


def load(folder: Path | str) -> SearchEngine:
    """The engine in a folder that `ecomkd index` wrote, once each file was found as written.

    Its `shadow` is None unless the folder was written with the teacher.

    Raises FileNotFoundError where the folder holds no engine, and ValueError with one sentence that
    names the file where it is of another format, damaged, or not what an engine is made of.
    """
    folder = Path(folder)
    if not (folder / "engine.json").is_file():
        raise FileNotFoundError(
            f"{folder}: there is no engine.json in it: write the folder with `ecomkd index` first."
        )
    manifest = folder / outputs.MANIFEST
    if not manifest.is_file():
        raise ValueError(
            f"{folder}: there is no {outputs.MANIFEST} in it: it was lost, or an older version "
            f"wrote the folder; write it again with `ecomkd {KIND}`."
        )
    written = outputs.check(folder, KIND)
    engine = assemble(folder)
    engine.version = (
        f"{folder.resolve().name}, format {FORMAT}, written by ecomkd {written['version']}, "
        f"{file_digest(manifest)[:12]}"
    )
    return engine


def assemble(folder: Path) -> SearchEngine:
    """What `load` gives, of a folder whose manifest is not looked at. Raises as `load` does.

    What the command wrote is right. Checked is what another hand may have put there, manifest and
    all, and what would otherwise fail at a request, or answer wrongly.
    """
    gains, max_length, weights, with_teacher = _settings(folder / "engine.json")
    ids, titles, texts = _products(folder / "products.jsonl")
    pieces = _tokenizer(folder / "encoder" / "tokenizer.json")
    pieces.no_padding()
    with _reading(folder / "encoder" / "model.safetensors", "is not a safetensors file") as path:
        table = _finite(load_file(str(path)), "embedding.weight", 2)
        _need(len(table) >= pieces.get_vocab_size(), "has too few rows")
    with _reading(folder / "words.json", "is not JSON in UTF-8") as path:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(numbers, dict) and all(type(n) is int for n in numbers.values())
        _need(whole, "does not number its words")
    with _reading(folder / "index.safetensors", "is not a safetensors file") as path:
        tables = load_file(str(path))
        vectors = _finite(tables, "vectors", 2)
        _need(vectors.shape == (len(ids), table.shape[1]), "does not fit products and encoder")
        rest = (tables.get(f"words.{name}") for name in ("indices", "indptr"))
        words = Words(numbers, _finite(tables, "words.data", 1), *rest, len(ids))
        _need(_fit(words), "does not fit products and words")
    student = _scorer(folder / "student" / "model.int8.onnx", gains, max_length)
    shadow = _scorer(folder / "teacher" / "model.onnx", gains, max_length) if with_teacher else None
    return SearchEngine(
        ids, titles, texts, words, vectors, pieces, table, student, weights, shadow
    )  # fmt: skip


class _Fault(Exception):
    """What is wrong with a file, in words that follow its name."""


def _need(condition: bool, fault: str) -> None:
    if not condition:
        raise _Fault(fault)


@contextmanager
def _reading(path: Path, otherwise: str) -> Iterator[Path]:
    """Read a file inside; whatever fails there is told in one sentence that names the file."""
    try:
        _need(path.is_file(), "is missing")
        yield path
    except Exception as error:  # the libraries' errors have no class in common
        fault = error if isinstance(error, _Fault) else otherwise
        raise ValueError(
            f"{path}: {fault}; write the folder again with `ecomkd {KIND}`."
        ) from error


def _settings(path: Path) -> tuple[list[float], int, Weights, bool]:
    """Gains, longest pair, weights, and whether a teacher is there."""

    def amounts(values) -> bool:
        return all(type(x) in (int, float) and math.isfinite(x) and x >= 0 for x in values)

    with _reading(path, "is not an object of JSON in UTF-8"):
        found = json.loads(path.read_text(encoding="utf-8"))
        number = found.get("format", 1)
        fault = f"is of format {number!r:.20}, and this version reads format {FORMAT}"
        _need(number == FORMAT, fault)
        names = ("gains", "max_length", "weights", "teacher")
        gains, length, weights, teacher = (found.get(name) for name in names)
        low, high = _LENGTHS
        right = (
            isinstance(gains, list) and len(gains) > 1 and amounts(gains),
            type(length) is int and low <= length <= high,
            isinstance(weights, dict)
            and set(weights) == {"words", "reranker"}
            and amounts(weights.values()),
            type(teacher) is bool,
        )
        for name, whole in zip(names, right, strict=True):
            _need(whole, f"{name} is {found.get(name)!r:.60}")
    return gains, length, Weights(**weights), teacher


def _products(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, titles and texts of the products, one JSON list a line."""
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    with _reading(path, "is not JSON in UTF-8"), path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                product = json.loads(line)
            except ValueError:
                product = None
            whole = isinstance(product, list) and [type(part) for part in product] == 3 * [str]
            _need(whole, f"line {number} is no list of three texts")
            for column, part in zip(columns, product, strict=True):
                column.append(part)
        _need(len(columns[0]) > 0, "holds no product")
    return columns


def _tokenizer(path: Path) -> Tokenizer:
    with _reading(path, "is not a tokenizer"):
        return Tokenizer.from_file(str(path))


def _scorer(path: Path, gains: Sequence[float], max_length: int) -> Scorer:
    """A model with its tokenizer, tried once on a pair as long as it may be."""
    try:
        with _reading(path, f"is no model that reads {max_length} tokens"):
            scorer = Scorer(path, max_length, gains)
            classes = len(scorer.probabilities("a", "a " * max_length))
            _need(classes == len(gains), f"gives {classes} classes, and {len(gains)} have a gain")
    except ValueError:
        _tokenizer(path.with_name("tokenizer.json"))  # raises where that is the damaged one
        raise
    return scorer


def _finite(tables: dict[str, np.ndarray], name: str, dimensions: int) -> np.ndarray:
    """The table of a name: finite floats, with so many dimensions."""
    table = tables.get(name)
    right = table is not None and table.dtype.kind == "f" and table.ndim == dimensions
    _need(right, f"has no table {name!r} of the right kind")
    _need(np.isfinite(table).all(), f"{name!r} holds numbers that are not finite")
    return table


def _fit(words: Words) -> bool:
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
