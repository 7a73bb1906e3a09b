"""The engine that serves: words, static vectors and a student that re-ranks, read from one folder.

It loads neither torch nor transformers, and nothing in its folder can be executed: texts are JSON,
tables are safetensors or .npy, models are ONNX. Products, vectors and words are read where they lie
on the disk. A query's words are compared with every product, and its vector with those in the
nearest cells (`catalogue.Cells`). Chapters 8 and 19.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ecomkd import outputs
from ecomkd.artifacts import file_digest
from ecomkd.score import Scorer
from ecomkd.search.catalogue import Cells, Column, Damaged, Product, Products, cells, table
from ecomkd.search.retrieve import Weights, rerank, token_means, weighted, word_scores
from ecomkd.words import Words

KIND = "index"
"""The command that writes such a folder, as its manifest names it."""
FORMAT = 4
"""Version of the folder. Format 1 had no number and no manifest, 2 another name of a weight, and
with 3 all was read into memory."""
DEPTH = 20
"""Products that the student puts into a new order."""
_BY_WORDS = 1_024
"""Products outside the cells that are compared, of those that have most of a query's words."""
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
    fields: Mapping[str, str | float | None]
    """What else the index tells of it."""


@dataclass(eq=False)
class SearchEngine:
    """A catalogue that can be searched: static vectors, words and a student that re-ranks.

    `load` makes one of a folder. All methods may be called from several threads at once.
    """

    products: Sequence[Product]
    """N of them, in the order of the catalogue."""
    words: Words
    """The BM25 index of their texts."""
    cells: Cells
    """Their vectors (N, H), as `embed` gives them."""
    pieces: Tokenizer
    table: np.ndarray
    """The static student: its tokenizer, and a vector for each token (V, H)."""
    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    """Gives the expected gains of queries and texts."""
    weights: Weights
    """Of the words and of the student beside the cosine."""
    shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None
    """Like `student`, from the teacher."""
    fields: tuple[str, ...] = ()
    """What the index tells of each product beside title and text."""
    depth: int = DEPTH
    """How many products the student reads; with 0, the order is that of words and vectors."""
    version: str | None = None
    """Names the index that `load` read: folder, format, what wrote it, and its content."""

    def __post_init__(self):
        unknown = getattr(self.pieces.model, "unk_token", None)
        self._unknown = self.pieces.token_to_id(unknown or "")
        self.ids, self.titles, self.texts = (
            Column(self.products, name) for name in ("product_id", "title", "text")
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, H) of texts under the static student; without tokens it is zero."""
        return token_means(self._tokens(texts), self.table).astype(np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = self.pieces.encode_batch(list(texts), add_special_tokens=False)
        return [text.ids for text in pieces]

    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and BM25 scores (Q, N) of queries with the whole catalogue."""
        return self.cells.compare(self.embed(queries)), word_scores(self.words, queries)

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
        words = word_scores(self.words, [query])[0]
        if not known and not words.any():
            return []
        sums, rows = self._first(query, words, max(k, self.depth))
        first = rows[:, : self.depth]
        gains = self.weights.reranker * self.read([query], first)
        # No gain is below 0, so that nothing read falls behind what was not.
        scores, first = rerank(first, sums[0, : self.depth] + gains)
        scores = np.concatenate([scores[0], sums[0, self.depth :]])[:k]
        rows = np.concatenate([first[0], rows[0, self.depth :]])[:k]
        found = [self.products[row] for row in rows]
        return [
            Hit(one.product_id, one.title, float(score), one.text, one.fields)
            for one, score in zip(found, scores, strict=True)
        ]

    def _first(self, query: str, words: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best products by words (N,) and vectors: sums and rows, (1, k) each.

        Of a large catalogue, the products are looked at that lie in the nearest cells, and those of
        the rest that have most of the query's words.
        """
        vector = self.embed([query])[0]
        rows, cosines, read = self.cells.near(vector, k)
        if len(rows) < len(words):
            further = np.flatnonzero(words)
            if len(further) > _BY_WORDS:
                further = further[np.argpartition(-words[further], _BY_WORDS)[:_BY_WORDS]]
            further = self.cells.outside(further, read)
            rows = np.concatenate([rows, further])
            cosines = np.concatenate([cosines, self.cells.cosines(vector, further)])
            order = np.argsort(rows)  # equal sums keep the order of the catalogue
            rows, cosines = rows[order], cosines[order]
        sums, places = weighted(cosines[None], words[rows][None], self.weights.words, k)
        return sums, rows[places]


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
    gains, max_length, weights, with_teacher, fields = _settings(folder / "engine.json")
    with _reading(folder / "products.jsonl", "cannot be read") as path:
        products = Products(path)
        products[0], products[-1 + len(products)]  # the rest is read once it is found
    pieces = _tokenizer(folder / "encoder" / "tokenizer.json")
    pieces.no_padding()
    with _reading(folder / "encoder" / "model.safetensors", "is not a safetensors file") as path:
        tokens = _finite(load_file(str(path)).get("embedding.weight"), "embedding.weight", 2)
        _need(len(tokens) >= pieces.get_vocab_size(), "has too few rows")
    with _reading(folder / "words.json", "is not JSON in UTF-8") as path:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(numbers, dict) and all(type(n) is int for n in numbers.values())
        _need(whole, "does not number its words")
    with _reading(folder / "words.data.npy", "cannot be read") as path:
        data = _finite(table(path), "words.data", 1)
        rest = (table(folder / f"words.{name}.npy") for name in ("indices", "indptr"))
        words = Words(numbers, data, *rest, len(products))
        _need(_fit(words), "does not fit products and words")
    with _reading(folder / "vectors.npy", "cannot be read"):
        found = cells(folder)
        shape = (len(products), tokens.shape[1])
        _need(found.vectors.shape == shape, "does not fit products and encoder")
    student = _scorer(folder / "student" / "model.int8.onnx", gains, max_length)
    shadow = _scorer(folder / "teacher" / "model.onnx", gains, max_length) if with_teacher else None
    return SearchEngine(
        products, words, found, pieces, tokens, student, weights, shadow, fields
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
    except Damaged:
        raise
    except Exception as error:  # the libraries' errors have no class in common
        fault = error if isinstance(error, _Fault) else otherwise
        raise ValueError(
            f"{path}: {fault}; write the folder again with `ecomkd {KIND}`."
        ) from error


def _settings(path: Path) -> tuple[list[float], int, Weights, bool, tuple[str, ...]]:
    """Gains, longest pair, weights, whether a teacher is there, and the names of the fields."""

    def amounts(values) -> bool:
        return all(type(x) in (int, float) and math.isfinite(x) and x >= 0 for x in values)

    with _reading(path, "is not an object of JSON in UTF-8"):
        found = json.loads(path.read_text(encoding="utf-8"))
        number = found.get("format", 1)
        fault = f"is of format {number!r:.20}, and this version reads format {FORMAT}"
        _need(number == FORMAT, fault)
        names = ("gains", "max_length", "weights", "teacher", "fields")
        gains, length, weights, teacher, fields = (found.get(name) for name in names)
        low, high = _LENGTHS
        right = (
            isinstance(gains, list) and len(gains) > 1 and amounts(gains),
            type(length) is int and low <= length <= high,
            isinstance(weights, dict)
            and set(weights) == {"words", "reranker"}
            and amounts(weights.values()),
            type(teacher) is bool,
            isinstance(fields, list) and all(type(name) is str for name in fields),
        )
        for name, whole in zip(names, right, strict=True):
            _need(whole, f"{name} is {found.get(name)!r:.60}")
    return gains, length, Weights(**weights), teacher, tuple(fields)


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


def _finite(found: np.ndarray | None, name: str, dimensions: int) -> np.ndarray:
    """The table of a name, once it was found to be of finite floats, with so many dimensions."""
    right = found is not None and found.dtype.kind == "f" and found.ndim == dimensions
    _need(right, f"has no table {name!r} of the right kind")
    _need(np.isfinite(found).all(), f"{name!r} holds numbers that are not finite")
    return found


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
