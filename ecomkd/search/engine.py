"""The engine that serves: words, a first-stage student and one that re-ranks, read from one folder.

The first stage is static, of vectors, or sparse, of posting lists of pieces. Neither torch nor
transformers is loaded, and nothing in the folder can be executed: texts are JSON, tables are
safetensors or .npy, models are ONNX. Products, vectors and lists are read where they lie on the
disk. A query's words and pieces are compared with every product, and its vector with those in the
nearest cells (`catalogue.Cells`). Chapters 8 and 19.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from tokenizers import Tokenizer

from ecomkd import outputs
from ecomkd.artifacts import file_digest
from ecomkd.search import folder as parts
from ecomkd.search.catalogue import Cells, Column, Product, Products, cells
from ecomkd.search.folder import FORMATS, KIND
from ecomkd.search.retrieve import Weights, reread, token_means, weighted, word_scores
from ecomkd.words import Words, term_sums

if TYPE_CHECKING:
    from ecomkd.search.hosted import StoreEngine

Engine: TypeAlias = "SearchEngine | SparseEngine | StoreEngine"
DEPTH = 20
"""Products that the student puts into a new order."""
_BY_WORDS = 1_024
"""Products outside the cells that are compared, of those that have most of a query's words."""


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


class Scoring:
    """What each engine has: a student that re-ranks."""

    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The student's expected gain (N,) of query–product pairs, each by itself."""
        return self.student(queries, texts)


class Encoding(Scoring):
    """What an engine of vectors does with a text: tokens, and static vectors."""

    pieces: Tokenizer
    table: np.ndarray

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, H) of texts under the static student; without tokens it is zero."""
        return self._vectors(self._tokens(texts))

    def _encoded(self, query: str) -> tuple[np.ndarray, bool]:
        """The vector (H,) of a query, and whether the static student knows one of its tokens."""
        tokens = self._tokens([query])
        return self._vectors(tokens)[0], any(token != self._unknown for token in tokens[0])

    @cached_property
    def _unknown(self) -> int | None:
        return self.pieces.token_to_id(getattr(self.pieces.model, "unk_token", None) or "")

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = self.pieces.encode_batch(list(texts), add_special_tokens=False)
        return [text.ids for text in pieces]

    def _vectors(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        return token_means(tokens, self.table).astype(np.float32)


@dataclass(eq=False, kw_only=True)
class FolderEngine(Scoring, ABC):
    """What engines over a catalogue in a folder have in common, whatever their first stage is."""

    products: Sequence[Product]
    """N of them, in the order of the catalogue."""
    words: Words
    """The BM25 index of their texts."""
    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    """Gives the expected gains of queries and texts."""
    weights: Weights
    """Of the words and of the student beside the first stage."""
    shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None
    """Like `student`, from the teacher."""
    fields: Mapping[str, str] = dataclass_field(default_factory=dict)
    """What the index tells of each product beside title and text: "number" or "text", by name."""
    depth: int = DEPTH
    """How many products the student reads; with 0, the order is that of words and first stage."""
    version: str | None = None
    """Names the index that `load` read: folder, format, what wrote it, and its content."""

    def __post_init__(self):
        self.ids, self.titles, self.texts = (
            Column(self.products, name) for name in ("product_id", "title", "text")
        )

    @abstractmethod
    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the first stage and of BM25 (Q, N) of queries with the whole catalogue."""

    @abstractmethod
    def _first(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best products by the sum of the two: sums and rows, (1, k) each."""

    def read(self, queries: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """The student's expected gain (Q · k,) of each of rows (Q, k)."""
        asked = [query for query, row in zip(queries, rows, strict=True) for _ in row]
        return self.score(asked, [self.texts[row] for row in rows.ravel()])

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k best products for a query, or all products of a catalogue that has fewer.

        The student puts the first `depth` by words and first stage into a new order; what comes
        after them keeps its place. A query of which neither of the two knows anything has no hits.
        Of posting lists, no more are found than share a piece with the query, or a word that
        weighs more than 0. Raises ValueError for k below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        sums, rows = self._first(query, max(k, self.depth))
        scores, rows = reread(sums, rows, self.depth, partial(self._added, query))
        found = [self.products[row] for row in rows[:k]]
        return [
            Hit(one.product_id, one.title, float(score), one.text, one.fields)
            for one, score in zip(found, scores[:k], strict=True)
        ]

    def _added(self, query: str, rows: np.ndarray) -> np.ndarray:
        return self.weights.reranker * self.read([query], rows)


@dataclass(eq=False, kw_only=True)
class SearchEngine(Encoding, FolderEngine):
    """A catalogue that can be searched: static vectors, words and a student that re-ranks.

    `load` makes one of a folder. All methods may be called from several threads at once.
    """

    cells: Cells
    """The vectors of the products (N, H), as `embed` gives them."""
    pieces: Tokenizer
    table: np.ndarray
    """The static student: its tokenizer, and a vector for each token (V, H)."""

    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and BM25 scores (Q, N) of queries with the whole catalogue."""
        return self.cells.compare(self.embed(queries)), word_scores(self.words, queries)

    def _first(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a large catalogue, the products are looked at that lie in the nearest cells, and those
        of the rest that have most of the query's words."""
        vector, known = self._encoded(query)
        words = word_scores(self.words, [query])[0]
        if not known and not words.any():
            return np.zeros((1, 0)), np.zeros((1, 0), int)
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


@dataclass(eq=False, kw_only=True)
class SparseEngine(FolderEngine):
    """A catalogue that can be searched without vectors: posting lists of pieces and of words.

    `load` makes one of a folder that was written with a sparse first stage. A query is cut into
    pieces, and what each piece adds to each product is looked up and added up, as in an index of
    words. All methods may be called from several threads at once. Chapter 19.
    """

    postings: Words
    """What each of the tokenizer's V pieces in a query adds to each product, scaled as a cosine."""
    pieces: Tokenizer

    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Sums of pieces and BM25 scores (Q, N) of queries with the whole catalogue."""
        cut = self.pieces.encode_batch(list(queries), add_special_tokens=False)
        sums = [term_sums(self.postings, one.tokens) for one in cut]
        return np.stack(sums), word_scores(self.words, queries)

    def asked(self, query: str) -> dict[str, int]:
        """How often a query has each piece that a product has, by the number of the piece, as text.

        What each adds is in the posting lists, so a product's sum is that of how often · what the
        piece adds to it.
        """
        cut = self.pieces.encode(query, add_special_tokens=False).ids
        known = (number for number in cut if np.diff(self.postings.indptr[number : number + 2])[0])
        return dict(Counter(map(str, known)))

    def _first(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        sums, rows = weighted(*self.compare([query]), self.weights.words, k)
        found = int((sums[0] > 0).sum())  # they come first, for no piece and no word adds less
        return sums[:, :found], rows[:, :found]


def load(folder: Path | str) -> Engine:
    """The engine in a folder that `ecomkd index` wrote, once each file was found as written.

    Its `shadow` is None unless the folder was written with the teacher. Where the catalogue lies in
    a store, the engine that asks it is given.

    Raises FileNotFoundError where the folder holds no engine, and ValueError with one sentence that
    names the file where it is of another format, damaged, or not what an engine is made of; of a
    store, as `hosted.assemble` does.
    """
    path = Path(folder)
    if not (path / "engine.json").is_file():
        raise FileNotFoundError(
            f"{folder}: there is no engine.json in it: write the folder with `ecomkd index` first."
        )
    if not (path / outputs.MANIFEST).is_file():
        raise ValueError(
            f"{folder}: there is no {outputs.MANIFEST} in it: it was lost, or an older version "
            f"wrote the folder; write it again with `ecomkd {KIND}`."
        )
    return outputs.whole(path, _loaded)


def _loaded(path: Path) -> Engine:
    written, read = outputs.check(path, KIND), file_digest(path / outputs.MANIFEST)
    told = parts.settings(path)
    version = (
        f"{path.resolve().name}, format {FORMATS[told.first_stage]}, written by ecomkd "
        f"{written['version']}, {read[:12]}"
    )
    if told.store is None:
        engine = assemble(path)
        engine.version = version
        return engine
    from ecomkd.search import hosted

    return hosted.assemble(path, told.store, version)


def assemble(folder: Path) -> SearchEngine | SparseEngine:
    """The engine over the catalogue in a folder whose manifest is not looked at."""
    told = parts.settings(folder)
    products = Products(folder / "products.jsonl")
    products[0], products[-1 + len(products)]  # the rest is read once it is found
    if told.first_stage == "sparse":
        pieces = parts.pieces(folder)
        numbers, fault = pieces.get_vocab(), "does not fit products and tokenizer"
        postings = parts.lists(folder, "pieces", numbers, len(products), fault)
        made = partial(SparseEngine, postings=postings, pieces=pieces)
        words = _words(folder, len(products))
    else:
        pieces, tokens = parts.encoder(folder)
        words = _words(folder, len(products))
        with parts.reading(folder / "vectors.npy", "cannot be read"):
            found = cells(folder)
            shape = (len(products), tokens.shape[1])
            parts.need(found.vectors.shape == shape, "does not fit products and encoder")
        made = partial(SearchEngine, cells=found, pieces=pieces, table=tokens)
    student, shadow = parts.scorers(folder, told)
    return made(
        products=products,
        words=words,
        student=student,
        weights=told.weights,
        shadow=shadow,
        fields=told.fields,
    )


def _words(folder: Path, products: int) -> Words:
    numbers = parts.numbers(folder)
    return parts.lists(folder, "words", numbers, products, "does not fit products and words")
