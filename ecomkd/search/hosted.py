"""The engine that answers from a store: candidates, their exact sum, and a student that re-ranks.

It answers as `SearchEngine` does, but for products that the store does not find. Its own memory
holds the table of tokens, the words and the models, and does not grow with the catalogue.
Chapter 19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ecomkd import words
from ecomkd.artifacts import digest, file_digest
from ecomkd.search import folder as parts
from ecomkd.search import stores
from ecomkd.search.catalogue import Product, save_table, table
from ecomkd.search.engine import DEPTH, Encoding, Hit, SearchEngine
from ecomkd.search.folder import Stored
from ecomkd.search.retrieve import Weights, reread, weighted
from ecomkd.search.stores import Batch, Condition, Store

_PART = 4_096
"""Products that are written at a time."""
CANDIDATES = 100, 400
"""Products that a store is asked for by vector, and as many by words: at least, and at most."""
_EACH = 4_000
"""A catalogue is asked for one in so many of its products: the more of them there are, the more lie
close to a query, and the further down lies the best sum."""


class Hits(list[Hit]):
    """The hits of a search, and the version of index and catalogue that they come from."""

    def __init__(self, hits: Iterable[Hit], version: str):
        super().__init__(hits)
        self.version = version


@dataclass(eq=False)
class StoreEngine(Encoding):
    """A catalogue in a store that can be searched. All methods are safe from several threads."""

    store: Store
    known: words.Statistics
    """By which the words of the store's products were counted."""
    pieces: Tokenizer
    table: np.ndarray
    """The static student: its tokenizer, and a vector for each token (V, H)."""
    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    """Gives the expected gains of queries and texts."""
    weights: Weights
    shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None
    """Like `student`, from the teacher."""
    depth: int = DEPTH
    """How many products the student reads; with 0, the order is that of words and vectors."""
    fields: Mapping[str, str] = dataclass_field(default_factory=dict)
    """What the store tells of each product beside title and text: "number" or "text", by name."""
    candidates: int = CANDIDATES[0]
    version: str | None = None
    """Names the index that `load` read; an answer names the state of the catalogue, too."""

    def conditions(self, texts: Iterable[str]) -> list[Condition]:
        """The conditions that texts such as `price<20` state, as `search` takes them.

        Raises ValueError with one sentence for what is none, or names no field of the index.
        """
        kinds = {name: float if kind == "number" else str for name, kind in self.fields.items()}
        return stores.fitted([stores.condition(text) for text in texts], kinds)

    def search(self, query: str, k: int = 10, where: Iterable[Condition] = ()) -> Hits:
        """The k best products for a query that keep all conditions, or all where there are fewer.

        As `SearchEngine.search` has it: the student puts the first `depth` into a new order, and a
        query of which neither words nor vectors know anything has no hits. Raises ValueError for k
        below 1, and as the store's `candidates` does.
        """
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        vector, known = self._encoded(query)
        terms = words.asked(self.known, query)
        number = max(self.candidates, k, self.depth)
        found = self.store.candidates(vector, terms, number, where)
        version = f"{self.version}, {found.version}"
        if not found.ids or not (known or found.words.any()):
            return Hits([], version)
        deepest = max(k, self.depth)
        sums, rows = weighted(found.cosines[None], found.words[None], self.weights.words, deepest)

        def added(first: np.ndarray) -> np.ndarray:
            texts = [found.texts[row] for row in first[0]]
            return self.weights.reranker * self.score([query] * len(texts), texts)

        scores, order = reread(sums, rows, self.depth, added)
        hits = []
        for row, score in zip(order[:k], scores[:k], strict=True):
            fields = {name: own[row] for name, own in found.fields.items()}
            hits.append(
                Hit(found.ids[row], found.titles[row], float(score), found.texts[row], fields)
            )
        return Hits(hits, version)

    @property
    def reach(self) -> int:
        """So many hits of a query can be paged through: of the pages beyond, each would rank other
        candidates."""
        return self.candidates

    def close(self) -> None:
        """Let go of the store's connections and files."""
        self.store.close()

    def put(self, products: Sequence[Product]) -> None:
        """Add products to the catalogue, or replace those of the same ids. Raises as stores do."""
        if not products:
            return
        told = _columns(products, self.fields)
        self.store.put(stores.encoded(self.embed, self.known, *told))

    def remove(self, ids: Sequence[str]) -> None:
        """Take products out of the catalogue; unknown ids change nothing. Raises as stores do."""
        self.store.remove(ids)


def enough(products: int) -> int:
    """How many candidates of each kind a catalogue of so many products is asked for."""
    return min(max(CANDIDATES[0], products // _EACH), CANDIDATES[1])


# An index whose catalogue lies in a store ---------------------------------------------------------


def tried(uri: str, table: str, fields: Iterable[str]) -> None:
    """Raise, before any work, what names of fields that no store takes, `stores.opened`, and a
    store that is out of reach, or holds somebody else's table of this name, raise."""
    stores.named(fields)
    stores.without_secrets(uri)
    store = stores.opened(uri, table, "none")
    try:
        store.claim()
    finally:
        store.close()


def moved(made: SearchEngine, folder: Path, uri: str, name: str) -> Stored:
    """Move the catalogue of an engine from its folder into a table of a store.

    Written first, then taken out of the folder: where the store fails, nothing is lost. Raises as
    `stores.opened` and `Store.write` do.
    """
    known = words.statistics_of(made.words, made.texts)
    files = [file_digest(path) for path in sorted((folder / "encoder").iterdir())]
    told = [known.numbers, known.idf.tolist(), known.length, dict(made.fields)]
    build, place = digest("build", 1, files, *told), stores.without_secrets(uri)
    store = stores.opened(uri, name, build)
    try:
        store.write(_batches(made))
    finally:
        store.close()
    save_table(folder / "words.idf.npy", known.idf)
    for file in ("products.*", "vectors.npy", "cells.*.npy", "words.data.npy", "words.ind*.npy"):
        for path in folder.glob(file):
            path.unlink()
    return Stored(place, name, build, known.length)


def _batches(made: SearchEngine) -> Iterator[Batch]:
    """The products of an engine, with the vectors and the words that it holds of them."""
    count, adds = len(made.products), words.entries(made.words)
    for start in range(0, count, _PART):
        rows = np.arange(start, min(start + _PART, count))
        told = _columns([made.products[row] for row in rows.tolist()], made.fields)
        own = list(islice(adds, len(rows)))
        yield Batch(*told[:3], made.cells.of(rows), own, told[3])


def _columns(
    products: Sequence[Product], fields: Mapping[str, str]
) -> tuple[Sequence[str], Sequence[str], Sequence[str], dict[str, Sequence]]:
    """Ids, titles, texts and fields of products, as a `Batch` has them."""
    columns: dict[str, Sequence] = {}
    for name, kind in fields.items():
        own = [product.fields[name] for product in products]
        columns[name] = np.array(own, float) if kind == "number" else own
    ids, titles, texts = zip(
        *((one.product_id, one.title, one.text) for one in products), strict=True
    )
    return ids, titles, texts, columns


def assemble(folder: Path, place: Stored, version: str) -> StoreEngine:
    """The engine of an index whose catalogue lies in a store, which is asked once.

    Raises ValueError as `engine.load` does, FileNotFoundError where the table is not there,
    ConnectionError and PermissionError where the server is out of reach, or refuses.
    """
    told = parts.settings(folder)
    pieces, tokens = parts.encoder(folder)
    numbers = parts.numbers(folder)
    with parts.reading(folder / "words.idf.npy", "cannot be read") as path:
        idf = parts.finite(table(path), "words.idf", 1)
        parts.need(sorted(numbers.values()) == list(range(len(idf))), "does not fit words.json")
    student, shadow = parts.scorers(folder, told)
    store = stores.opened(place.uri, place.table, place.build)
    try:
        candidates = enough(store.count())
    except BaseException:
        store.close()
        raise
    return StoreEngine(
        store,
        words.Statistics(numbers, idf, place.length),
        pieces,
        tokens,
        student,
        told.weights,
        shadow,
        fields=told.fields,
        candidates=candidates,
        version=version,
    )
