"""A catalogue in Milvus: a collection behind an alias, in a cluster, on a server, or in a file.

What each word adds to BM25 lies in a sparse vector, whose inner product with how often a query has
each word is the exact BM25. An answer is one request, and thus of one state of the catalogue: the
nearest by vector, the best by words, and the row that says which state that is. A catalogue is
written into a new collection, and then the alias turns to it. Chapter 19.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ecomkd.extras import needed
from ecomkd.search import stores
from ecomkd.search.milvus_server import FAULTS, WAIT, Server, lost
from ecomkd.search.stores import Batch, Candidates, Condition, Terms

with needed("ecomkd.search.milvus", "milvus"):
    from pymilvus import AnnSearchRequest, DataType, MilvusClient, MilvusException, RRFRanker

FLAT = 50_000
"""Up to so many products a query is compared with every vector, and no graph is made."""
_GRAPH = {"M": 16, "efConstruction": 150}
_WIDTH = 4
"""So many times the products that are asked for a search keeps in view in the graph."""
_MOST = 8_000
"""Candidates that can be asked for: Milvus gives 16,384 rows in one answer."""
_PART = 1_000
"""Ids that one condition names."""
_STATE = "ecomkd: the state of this catalogue"
"""The id of a row that is no product: its title names the state, its text what `_Known` has."""
_MARKED, _WORDLESS, _FIRST = 0, 1, 2
"""Dimensions of the vectors of words: of that row alone, of products without a word (for Milvus
takes no empty vector), and of the first word."""
_COLUMNS = ("id", "place", "title", "text", "vector", "words")
_TYPES = {float: DataType.DOUBLE, str: DataType.VARCHAR}
_NO_COLLECTION, _RELEASED = 100, 101


@dataclass(frozen=True)
class _Known:
    """What the row of the state has of a catalogue that does not change until it is rewritten."""

    collection: str
    build: str
    fields: dict[str, str]
    """Name to "float" or "str"."""
    width: int

    def kinds(self) -> dict[str, type]:
        return {name: float if kind == "float" else str for name, kind in self.fields.items()}

    def row(self) -> dict[str, Any]:
        """The row of a new state."""
        row = {"id": _STATE, "place": -1, "title": secrets.token_hex(4)}
        row |= {"text": json.dumps(vars(self)), "vector": np.zeros(self.width, np.float32)}
        return row | {"words": {_MARKED: 1.0}} | {_field(name): None for name in self.fields}


class MilvusStore:
    """A `Store` in Milvus 2.5 or later. A write needs room for the old catalogue and the new one.

    Writers of one object wait for each other, others do not: let one process write at a time. A
    file belongs to one process, and its lite version makes the searches of a request one after the
    other: a `put` may fall between them. A write that was killed, or
    could not drop the old collection, leaves one without an alias.
    """

    def __init__(self, uri: str, table: str, build: str):
        self._server = Server(uri, table)
        self.place = self._server.place
        self._table, self._build = table, build
        self._writing = threading.RLock()
        self._of: _Known | None = None

    def candidates(
        self, vector: np.ndarray, terms: Terms, number: int, where: Iterable[Condition] = ()
    ) -> Candidates:
        if number > _MOST:
            raise ValueError(f"Milvus gives {_MOST:,} candidates at most: ask for no more.")
        conditions = list(where)
        with self._server.told():
            # What is known of the fields may be older than the catalogue: then it is read again.
            for known in (self._of or self._look(), None):
                known = known or self._look()
                try:
                    found = self._found(known, vector, terms, number, conditions)
                except (*FAULTS, ValueError) as error:
                    released = getattr(error, "code", None) == _RELEASED
                    if lost(error) or (known == self._look() and not released):
                        raise
                    continue
                if found is not None:
                    return found
                self._look()
        raise stores.missing(self.place, self._table)

    def _found(
        self, known: _Known, vector, terms: Terms, number: int, where: list[Condition]
    ) -> Candidates | None:
        """What is found; None where the catalogue is no longer the one that is known."""
        kinds, vector = known.kinds(), np.asarray(vector, np.float32)
        kept = _kept(stores.fitted(where, kinds))
        # One more, for the row of the state may be among the nearest.
        searches = [
            _search(vector, "vector", number + 1, kept, ef=_WIDTH * (number + 1)),
            _search({_MARKED: 1.0}, "words", 1),
        ]
        if len(terms[0]):
            searches.append(_search(_sparse(*terms), "words", number, kept))
        hits = self._server.client().hybrid_search(
            self._table,
            searches,
            RRFRanker(),
            limit=2 * number + 2,
            output_fields=[*_COLUMNS, *map(_field, kinds)],
            timeout=WAIT,
        )[0]
        rows = sorted((hit["entity"] for hit in hits), key=lambda row: row["place"])
        if not rows or rows[0]["id"] != _STATE or _Known(**json.loads(rows[0]["text"])) != known:
            return None
        version = self._named(rows.pop(0)["title"])
        cosines = np.array([row["vector"] for row in rows], np.float32).reshape(-1, known.width)
        cosines, sums = cosines @ vector, _sums(terms, [row["words"] for row in rows])
        shared = np.argsort(-sums, kind="stable")[:number]
        first = np.union1d(
            np.argsort(-cosines, kind="stable")[:number], shared[sums[shared] > 0]
        ).astype(int)
        rows = [rows[row] for row in first]
        return Candidates(
            *([row[name] for row in rows] for name in ("id", "title", "text")),
            {name: [row[_field(name)] for row in rows] for name in kinds},
            cosines[first],
            sums[first],
            version,
        )

    def write(self, batches: Iterable[Batch]) -> None:
        first, rest = stores.begun(batches)
        with self._server.told(), self._writing:
            server = self._server.client(new=True)
            old = self._state()
            collection = f"{self._table}_{secrets.token_hex(4)}"
            fields = {name: kind.__name__ for name, kind in first.kinds().items()}
            known = _Known(collection, self._build, fields, first.vectors.shape[1])
            try:
                self._fill(server, known, chain([first], rest))
                turn = server.alter_alias if old else server.create_alias
                turn(collection, self._table)
            except BaseException:
                with suppress(*FAULTS):
                    server.drop_collection(collection, timeout=WAIT)
                raise
            self._of = None
            if old:  # the new catalogue answers already, whatever becomes of the old one
                with suppress(*FAULTS):
                    server.drop_collection(old[0].collection, timeout=WAIT)

    def claim(self) -> None:
        # A file that is not there yet is made by `write`.
        with self._server.told(), suppress(FileNotFoundError):
            self._state()

    def _fill(self, server: MilvusClient, known: _Known, batches: Iterable[Batch]) -> None:
        kinds, seen = known.kinds(), set[str]()
        server.create_collection(
            known.collection, schema=_schema(kinds, known.width), consistency_level="Strong"
        )
        for batch in batches:
            stores.checked(batch, kinds, known.width)
            twice = seen.intersection(batch.ids)
            if twice:
                raise ValueError(f"Product id {min(twice)!r:.60} stands there twice.")
            rows = _rows(batch, range(len(seen), len(seen) + len(batch.ids)))
            seen.update(batch.ids)
            if rows:
                server.insert(known.collection, rows)
        server.insert(known.collection, [known.row()])
        server.flush(known.collection)
        indexes = server.prepare_index_params()
        graph = {"index_type": "HNSW", "params": _GRAPH}
        how = graph if len(seen) > FLAT else {"index_type": "FLAT"}
        indexes.add_index("vector", metric_type="IP", **how)
        indexes.add_index("words", metric_type="IP", index_type="SPARSE_INVERTED_INDEX")
        for name in kinds:
            indexes.add_index(_field(name), index_type="INVERTED")
        server.create_index(known.collection, indexes)
        server.load_collection(known.collection)

    def put(self, products: Batch) -> None:
        with self._server.told(), self._writing:
            known, server = self._look(), self._server.client()
            stores.checked(products, known.kinds(), known.width)
            there: dict[str, int] = {}
            for part in _parts(products.ids):
                found = server.query(known.collection, part, output_fields=["id", "place"])
                there |= {row["id"]: row["place"] for row in found}
            end = time.time_ns()  # whatever is put later lies further back
            places = [there.get(one, end + row) for row, one in enumerate(products.ids)]
            server.upsert(known.collection, [*_rows(products, places), known.row()])

    def remove(self, ids: Sequence[str]) -> None:
        with self._server.told(), self._writing:
            known, server = self._look(), self._server.client()
            for part in _parts([one for one in ids if one != _STATE]):
                server.delete(known.collection, filter=part)
            server.upsert(known.collection, [known.row()])

    def count(self) -> int:
        with self._server.told():
            known, what = self._look(), "count(*)"
            found = self._server.client().query(
                known.collection, "place >= 0", output_fields=[what], timeout=WAIT
            )
            return int(found[0][what])

    def version(self) -> str:
        with self._server.told():
            return self._named(self._stated()[1])

    def _named(self, state: str) -> str:
        return f"{self._table}, version {state}, build {self._build}"

    def close(self) -> None:
        self._server.close()

    def _look(self) -> _Known:
        """What is known of the catalogue, which is kept. Refuses one of another build."""
        return self._stated()[0]

    def _stated(self) -> tuple[_Known, str]:
        found = self._state()
        if found is None:
            raise stores.missing(self.place, self._table)
        if found[0].build != self._build:
            raise stores.of_another_build(self.place, self._table, found[0].build, self._build)
        self._of = found[0]
        return found

    def _state(self) -> tuple[_Known, str] | None:
        """What the row of the state says, and the name of the state; None where nothing has the
        name of the catalogue. Refuses what somebody else made."""
        server = self._server.client()

        def read() -> list[dict[str, Any]]:
            named, told = f"id == {_literal(_STATE)}", ["title", "text"]
            return list(server.query(self._table, named, output_fields=told, timeout=WAIT))

        try:
            found = read()
        except MilvusException as error:
            if error.code == _NO_COLLECTION:
                return None
            if lost(error):
                raise
            fields = server.describe_collection(self._table, timeout=WAIT)["fields"]
            if not {one["name"] for one in fields} >= set(_COLUMNS):
                raise stores.not_ours(self.place, self._table) from None
            if error.code != _RELEASED:
                raise
            server.load_collection(self._table)
            found = read()
        try:
            known = _Known(**json.loads(found[0]["text"]))
        except (LookupError, TypeError, ValueError):
            raise stores.not_ours(self.place, self._table) from None
        if known.collection.rpartition("_")[0] != self._table:
            raise stores.not_ours(self.place, self._table)
        return known, found[0]["title"]


def _search(data: Any, name: str, limit: int, kept: str = "", **params: int) -> AnnSearchRequest:
    return AnnSearchRequest([data], name, {"metric_type": "IP", "params": params}, limit, kept)


def _kept(where: list[Condition]) -> str:
    """The conditions as Milvus reads them."""
    kept = []
    for one in where:
        name, operator = _field(one.field), "==" if one.operator == "=" else one.operator
        kept.append(f"{name} is not null and {name} {operator} {_literal(one.value)}")
    return " and ".join(kept)


def _literal(value: str | float) -> str:
    """A value so that nothing in it is read as part of a condition."""
    if not isinstance(value, str):
        return repr(value)
    for mark, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(mark, written)
    return f'"{value}"'


def _parts(ids: Sequence[str]) -> Iterator[str]:
    """Conditions that name all ids."""
    for start in range(0, len(ids), _PART):
        yield f"id in [{', '.join(map(_literal, ids[start : start + _PART]))}]"


def _schema(kinds: stores.Kinds, width: int) -> Any:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=stores.MILVUS_LONGEST)
    schema.add_field("place", DataType.INT64)
    for name in ("title", "text"):
        schema.add_field(name, DataType.VARCHAR, max_length=stores.MILVUS_LONGEST)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    for name, kind in kinds.items():
        longest = {"max_length": stores.MILVUS_LONGEST} if kind is str else {}
        schema.add_field(_field(name), _TYPES[kind], nullable=True, **longest)
    return schema


def _field(name: str) -> str:
    return f"field_{name}"


def _rows(products: Batch, places: Iterable[int]) -> list[dict[str, Any]]:
    """Products as Milvus takes them. Raises ValueError for a text that is too long for it."""
    columns: dict[str, Iterable] = {
        "id": products.ids,
        "place": places,
        "title": products.titles,
        "text": products.texts,
        "vector": np.ascontiguousarray(products.vectors, np.float32),
        "words": [_sparse(*own) or {_WORDLESS: 1.0} for own in products.words],
    }
    columns |= {_field(name): stores.plain(own) for name, own in products.fields.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for row in rows:
        if row["id"] == _STATE:
            raise ValueError(f"Product id {_STATE!r} is taken: give the product another.")
        for name, value in row.items():
            if isinstance(value, str) and len(value.encode()) > stores.MILVUS_LONGEST:
                raise ValueError(
                    f"Product {row['id']!r:.60}: its {name.removeprefix('field_')} is longer than "
                    f"the {stores.MILVUS_LONGEST:,} bytes that Milvus takes: shorten it."
                )
    return rows


def _sparse(numbers: np.ndarray, values: np.ndarray) -> dict[int, float]:
    own = zip(numbers.tolist(), values.tolist(), strict=True)
    return {_FIRST + number: float(value) for number, value in own}


def _sums(terms: Terms, found: list[dict[int, float]]) -> np.ndarray:
    """BM25 of the query with each product."""
    numbers = np.array([number for own in found for number in own], np.int64) - _FIRST
    adds = np.array([add for own in found for add in own.values()], np.float32)
    return stores.word_sums(terms, numbers, adds, np.cumsum([0, *map(len, found)]))
