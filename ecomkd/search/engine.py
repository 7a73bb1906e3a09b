"""The engine that serves: words, static vectors and a student that re-ranks, read from one folder.

It loads neither torch nor transformers, and nothing in its folder can be executed: texts are JSON,
tables are safetensors, models are ONNX. Every query is compared with every product and all texts
are held in memory, so that time and memory of an answer grow with the catalogue. Chapter 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ecomkd import outputs
from ecomkd.score import Scorer
from ecomkd.search.retrieve import Weights, rerank, token_means, weighted, word_scores

KIND = "index"
"""The command that writes such a folder, as its manifest names it."""
FORMAT = 2
"""Version of the folder. Format 1 had no number and no manifest."""
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


class SearchEngine:
    """A catalogue that can be searched: static vectors, words and a student that re-ranks.

    `load` makes one of a folder. All methods may be called from several threads at once.

    Args:
        ids, titles, texts: of N products; a model reads the text.
        words: the BM25 index of the texts.
        vectors: (N, H), as `embed` gives them.
        pieces, table: the static student: its tokenizer, and a vector for each token (V, H).
        student: gives the expected gains of queries and texts.
        weights: of the words and of the student beside the cosine.
        shadow: like `student`, from the teacher, or None.
    """

    def __init__(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        texts: Sequence[str],
        words: bm25s.BM25,
        vectors: np.ndarray,
        pieces: Tokenizer,
        table: np.ndarray,
        student: Callable[[Sequence[str], Sequence[str]], np.ndarray],
        weights: Weights,
        shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None,
    ):
        self.ids, self.titles, self.texts = ids, titles, texts
        self.words, self.vectors = words, vectors
        self.pieces, self.table = pieces, table
        self.student, self.shadow = student, shadow
        self.weights = weights
        self.depth = DEPTH
        """How many products the student reads."""
        self._unknown = pieces.token_to_id(getattr(pieces.model, "unk_token", None) or "")

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
        gains = self.weights.reader * self.read([query], first)
        # No gain is below 0, so that nothing read falls behind what was not.
        scores, first = rerank(first, sums[0, : self.depth] + gains)
        scores = np.concatenate([scores[0], sums[0, self.depth :]])[:k]
        rows = np.concatenate([first[0], rows[0, self.depth :]])[:k]
        return [
            Hit(self.ids[row], self.titles[row], float(score))
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
    if not (folder / outputs.MANIFEST).is_file():
        raise ValueError(
            f"{folder}: there is no {outputs.MANIFEST} in it: it was lost, or an older version "
            f"wrote the folder; write it again with `ecomkd {KIND}`."
        )
    outputs.check(folder, KIND)
    return assemble(folder)


def assemble(folder: Path) -> SearchEngine:
    """What `load` gives, of a folder whose manifest is not looked at. Raises as `load` does."""
    settings = _settings(folder / "engine.json")
    ids, titles, texts = _products(folder / "products.jsonl")
    pieces = _tokenizer(folder / "encoder" / "tokenizer.json")
    pieces.no_padding()
    (table,) = _tables(folder / "encoder" / "model.safetensors", {"embedding.weight": "f2"})
    if len(table) < pieces.get_vocab_size():
        raise _damaged(folder / "encoder" / "model.safetensors", "has too few rows")
    vectors, words = _index(folder, len(ids))
    if vectors.shape != (len(ids), table.shape[1]):
        raise _damaged(folder / "index.safetensors", "does not fit products and encoder")
    gains, max_length = settings["gains"], settings["max_length"]
    teacher = folder / "teacher" / "model.onnx"
    return SearchEngine(
        ids,
        titles,
        texts,
        words,
        vectors,
        pieces,
        table,
        _scorer(folder / "student" / "model.int8.onnx", gains, max_length),
        Weights(**settings["weights"]),
        shadow=_scorer(teacher, gains, max_length) if settings["teacher"] else None,
    )


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path}: {why}; write the folder again with `ecomkd {KIND}`.")


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, "is not JSON in UTF-8") from error


def _settings(path: Path) -> dict:
    """What engine.json holds, each value of its kind and within its range."""
    found = _json(path)
    number = found.get("format", 1) if isinstance(found, dict) else None
    if number != FORMAT:
        raise _damaged(path, f"is of format {number}, and this version reads format {FORMAT}")

    def amounts(values) -> bool:
        return all(type(x) in (int, float) and math.isfinite(x) and x >= 0 for x in values)

    weights, gains = found.get("weights"), found.get("gains")
    low, high = _LENGTHS
    right = {
        "max_length": type(found.get("max_length")) is int and low <= found["max_length"] <= high,
        "weights": isinstance(weights, dict)
        and set(weights) == {"words", "reader"}
        and amounts(weights.values()),
        "gains": isinstance(gains, list) and len(gains) > 1 and amounts(gains),
        "teacher": type(found.get("teacher")) is bool,
    }
    for name, whole in right.items():
        if not whole:
            raise _damaged(path, f"{name} is {found.get(name)!r:.60}")
    return found


def _products(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, titles and texts of the products, one JSON list a line."""
    ids, titles, texts = [], [], []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                product = json.loads(line)
                if [type(part) for part in product] != [str, str, str]:
                    raise ValueError
                for column, part in zip((ids, titles, texts), product, strict=True):
                    column.append(part)
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise _damaged(path, f"line {len(ids) + 1} is no list of three texts") from error
    if not ids:
        raise _damaged(path, "holds no product")
    return ids, titles, texts


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise _damaged(path, "is missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise _damaged(path, "is not a tokenizer") from error


def _scorer(path: Path, gains: Sequence[float], max_length: int) -> Scorer:
    """A model with its tokenizer, tried once on a pair as long as it may be."""
    for file in (path, path.with_name("tokenizer.json")):
        if not file.is_file():
            raise _damaged(file, "is missing")
    try:
        scorer = Scorer(path, max_length, gains)
        classes = len(scorer.probabilities("a", "a " * max_length))
    except Exception as error:  # ONNX Runtime's errors have no class in common
        _tokenizer(path.with_name("tokenizer.json"))  # raises where that is the damaged one
        raise _damaged(path, f"is no model that reads {max_length} tokens") from error
    if classes != len(gains):
        raise _damaged(path, f"gives {classes} classes, and {len(gains)} have a gain")
    return scorer


def _tables(path: Path, kinds: dict[str, str]) -> list[np.ndarray]:
    """The tables of a safetensors file by name, each of a kind and a number of dimensions.

    `kinds` maps a name to, for example, "f2": a matrix of finite floats, or "i1": integers.
    """
    if not path.is_file():
        raise _damaged(path, "is missing")
    try:
        found = load_file(str(path))
    except Exception as error:  # SafetensorError is a plain Exception
        raise _damaged(path, "is not a safetensors file") from error
    for name, (kind, dimensions) in kinds.items():
        table = found.get(name)
        if table is None or table.dtype.kind != kind or table.ndim != int(dimensions):
            raise _damaged(path, f"has no table {name!r} of the right kind")
        if kind == "f" and not np.isfinite(table).all():
            raise _damaged(path, f"{name!r} holds numbers that are not finite")
    return [found[name] for name in kinds]


def _index(folder: Path, products: int) -> tuple[np.ndarray, bm25s.BM25]:
    """The products' vectors, and the index of their words."""
    path = folder / "index.safetensors"
    kinds = {"vectors": "f2", "words.data": "f1", "words.indices": "i1", "words.indptr": "i1"}
    vectors, data, indices, indptr = _tables(path, kinds)
    vocabulary = _json(folder / "words.json")
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged(folder / "words.json", "does not number its words")
    fits = (
        max(numbers, default=0) < len(indptr)
        and set(range(len(indptr) - 1)) <= set(numbers)
        and len(data) == len(indices) == indptr[-1]
        and indptr[0] == 0
        and (np.diff(indptr) >= 0).all()
        and (not len(indices) or 0 <= indices.min() <= indices.max() < products)
    )
    if not fits:
        raise _damaged(path, "does not fit products and words")
    index = bm25s.BM25()
    index.vocab_dict, index.nonoccurrence_array = vocabulary, None
    index.scores = {"data": data, "indices": indices, "indptr": indptr, "num_docs": products}
    return vectors, index


Engine = SearchEngine  # the former name, which chapter 9 uses
