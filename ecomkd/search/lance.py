"""A catalogue in LanceDB: one table in a folder or in object storage, without a server.

While the catalogue is small, a query is compared with every vector; then a graph over quantised
vectors finds the nearest (IVF_HNSW_SQ). Words are found by a full-text index over their numbers,
and the exact BM25 of more than are asked for decides which come first. Answers come from the
version of the table that the tag `current` names, so that nobody sees a catalogue whose indexes are
not built. Chapter 19.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from ecomkd.extras import needed
from ecomkd.search import buckets, stores
from ecomkd.search.stores import Batch, Candidates, Condition, Terms

# It would tell on standard error of each table that it makes.
os.environ.setdefault("LANCEDB_LOG", "error")
with needed("ecomkd.search.lance", "lance"):
    import lancedb
    from lancedb.expr import Expr, col, lit
    from lancedb.index import FTS, BTree, HnswSq
    from lancedb.query import MatchQuery

FLAT = 50_000
"""Up to so many products a query is compared with every vector, and no graph is made."""
_CURRENT = "current"
_BUILD = b"ecomkd.build"
"""Where the build stands in the metadata of the table."""
_WIDER, _LEAST = 4, 400
"""So many times the products that are asked for are found by words, and so many at least, before
the exact order decides: the index knows that a word is there, and not how often."""
_GRAPH = {"m": 16, "ef_construction": 150}
_WIDTH = 4
"""So many times the products that are asked for a search keeps in view in the graph."""
_UNFOLDED = 2_000
"""Products that were put since the indexes were built, and are compared one by one, at most."""
_FRAGMENTS = 50
"""Pieces that the table may lie in before they are put together."""
_KEPT = timedelta(hours=1)
"""Files of versions written longer ago are deleted, but for those of the current version."""
_READ_AGAIN = 3
"""So many times the tag is read again where a writer changed it meanwhile."""
_FRESH = 1.0
"""Seconds in which object storage is asked once at most whether there is a newer version."""
_TYPES = {float: pa.float64(), str: pa.string()}


@dataclass(frozen=True, eq=False)
class _View:
    """One version of the table; it does not change."""

    table: Any
    version: int
    kinds: dict[str, type]
    width: int


class LanceStore:
    """A `Store` in a LanceDB table. In a folder, writers of all processes wait for each other.

    In object storage only those of one object do: let one process write at a time.
    """

    def __init__(self, uri: str, table: str, build: str):
        self.place, self._table, self._build = uri, table, build
        self._folder = None if "://" in uri else Path(uri)
        self._writing = threading.RLock()
        self._db: Any = None
        self._now: _View | None = None
        self._asked = 0.0

    def candidates(
        self, vector: np.ndarray, terms: Terms, number: int, where: Iterable[Condition] = ()
    ) -> Candidates:
        conditions = list(where)
        with self._told():
            view = self._view()
            try:
                return self._of_view(view, vector, terms, number, conditions)
            except (ValueError, RuntimeError, OSError):
                # Once another version is current, the files of this one may be deleted.
                newer = self._view(now=True)
                if newer.version == view.version:
                    raise
                return self._of_view(newer, vector, terms, number, conditions)

    def _of_view(
        self, view: _View, vector: np.ndarray, terms: Terms, number: int, where: list[Condition]
    ) -> Candidates:
        kept = _expression(stores.fitted(where, view.kinds))
        rows = self._near(view, vector, number, kept)
        if len(terms[0]):
            rows = np.union1d(rows, self._shared(view, terms, number, kept))
        columns = [name for name in view.table.schema.names if name != "terms"]
        if len(rows):
            found = view.table.take_row_ids(rows.tolist()).select(columns).to_arrow()
        else:
            found = view.table.schema.empty_table()
        found = found.combine_chunks().sort_by("place")
        return Candidates(
            *(found[name].to_pylist() for name in ("id", "title", "text")),
            {name: found[f"field_{name}"].to_pylist() for name in view.kinds},
            _vectors(found) @ np.asarray(vector, np.float32),
            _sums(terms, found),
            self._named(view),
        )

    def _near(self, view: _View, vector, number: int, kept: Expr | None) -> np.ndarray:
        search = view.table.search(np.asarray(vector, np.float32), "vector", "vector")
        search = search.distance_type("dot").limit(number)
        # The width of the search in the graph; a flat search does not ask for it.
        return _found(search.ef(_WIDTH * number), kept, "_distance")["_rowid"].to_numpy()

    def _shared(self, view: _View, terms: Terms, number: int, kept: Expr | None) -> np.ndarray:
        query = MatchQuery(_joined(terms[0]), "terms")
        search = view.table.search(query, query_type="fts")
        search = search.limit(max(_WIDER * number, _LEAST))
        found = _found(search, kept, "_score", "place", "numbers", "adds").combine_chunks()
        order = np.lexsort((found["place"].to_numpy(), -_sums(terms, found)))[:number]
        return found["_rowid"].to_numpy()[order]

    def write(self, batches: Iterable[Batch]) -> None:
        first, rest = stores.begun(batches)
        kinds, width = first.kinds(), first.vectors.shape[1]
        schema = _schema(kinds, width, self._build)
        failed: list[BaseException] = []
        seen: set[str] = set()

        def rows() -> Iterator[pa.RecordBatch]:
            try:
                place = 0
                for batch in chain([first], rest):
                    stores.checked(batch, kinds, width)
                    twice = seen.intersection(batch.ids)
                    if twice:
                        raise ValueError(f"Product id {min(twice)!r:.60} stands there twice.")
                    seen.update(batch.ids)
                    yield _batch(batch, schema, np.arange(place, place + len(batch.ids)))
                    place += len(batch.ids)
            except BaseException as error:  # else only its words would come back
                failed.append(error)
                raise

        with self._told(), self._alone():
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._own()
            try:
                reader = pa.RecordBatchReader.from_batches(schema, rows())
                table = self._server().create_table(
                    self._table, reader, schema=schema, mode="overwrite"
                )
            except Exception:
                if failed:
                    raise failed[0] from None
                raise
            self._index(table, kinds)
            # First, for what the tag names is not cleaned up, however old it is.
            self._turn(table)
            table.optimize(cleanup_older_than=_KEPT)
            self._turn(table)

    def claim(self) -> None:
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(
                f"{self.place}: a file of this name is there; give another folder."
            )
        with self._told():
            self._own()

    def _own(self) -> None:
        """Refuse to write over a table that somebody else made."""
        if self._table in self._names():
            metadata = self._server().open_table(self._table).schema.metadata or {}
            if _BUILD not in metadata:
                raise stores.not_ours(self.place, self._table)

    def _index(self, table: Any, kinds: dict[str, type]) -> None:
        """Make the indexes that are not there yet."""
        there = {name for one in table.list_indices() for name in one.columns}
        if table.count_rows() > FLAT and "vector" not in there:
            table.create_index("vector", config=HnswSq(distance_type="dot", **_GRAPH))
        plain = FTS(
            base_tokenizer="whitespace",
            stem=False,
            lower_case=False,
            remove_stop_words=False,
            ascii_folding=False,
        )
        further = {f"field_{name}": BTree() for name in kinds}
        for name, config in {"terms": plain, "id": BTree(), **further}.items():
            if name not in there:
                table.create_index(name, config=config)

    def put(self, products: Batch) -> None:
        with self._told(), self._alone():
            view = self._view(now=True)
            stores.checked(products, view.kinds, view.width)
            table = self._latest(view)
            old = table.search().where(col("id").isin(list(products.ids)))
            old = old.select(["id", "place"]).limit(len(products.ids)).to_arrow()
            places = dict(zip(old["id"].to_pylist(), old["place"].to_pylist(), strict=True))
            end = time.time_ns()  # whatever is put later lies further back
            own = [places.get(one, end + row) for row, one in enumerate(products.ids)]
            batch = _batch(products, view.table.schema, np.array(own, np.int64))
            merge = table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(pa.Table.from_batches([batch]))
            self._turn(table)
            self._fold(table, view.kinds)

    def remove(self, ids: Sequence[str]) -> None:
        with self._told(), self._alone():
            table = self._latest(self._view(now=True))
            if len(ids):
                table.delete(col("id").isin(list(ids)))
            self._turn(table)

    def _latest(self, view: _View) -> Any:
        """The table at its newest version, which is the current one: what failed is undone."""
        table = self._server().open_table(self._table)
        if table.version != view.version:
            table.checkout(view.version)
            table.restore()
        return table

    def _fold(self, table: Any, kinds: dict[str, type]) -> None:
        """Put pieces together, and take what was put into the indexes, once there is enough."""
        unfolded = max(one.num_unindexed_rows or 0 for one in table.list_indices())
        if unfolded > _UNFOLDED or _fragments(table) > _FRAGMENTS:
            table.optimize(cleanup_older_than=_KEPT)
            self._index(table, kinds)
            self._turn(table)

    def count(self) -> int:
        with self._told():
            return self._view().table.count_rows()

    def version(self) -> str:
        with self._told():
            return self._named(self._view())

    def _named(self, view: _View) -> str:
        return f"{self._table}, version {view.version}, build {self._build}"

    def close(self) -> None:
        self._now = self._db = None

    def _server(self) -> Any:
        if self._db is None:
            own = self._folder is not None
            connect = lancedb.connect
            self._db = connect(self.place) if own else buckets.reached(connect, self.place)
        return self._db

    def _names(self) -> list[str]:
        if self._folder is not None and not self._folder.is_dir():
            return []  # else it would be made
        return list(self._server().list_tables(limit=100_000).tables)

    def _turn(self, table: Any) -> None:
        """Let answers come from the newest version from now on."""
        tags = table.tags
        if _CURRENT in tags.list():
            tags.update(_CURRENT, table.version)
        else:
            tags.create(_CURRENT, table.version)
        self._now = self._opened(table.version)

    def _view(self, now: bool = False) -> _View:
        """The version that is current. Refuses one of another build."""
        view = self._now
        if view is not None and not now and self._folder is None:
            if time.monotonic() - self._asked < _FRESH:
                return view
            self._asked = time.monotonic()
        if view is None and self._table not in self._names():
            raise stores.missing(self.place, self._table)
        table = view.table if view else self._server().open_table(self._table)
        try:
            version = _current(table)
        except Exception as error:  # the library's errors have no class in common
            if self._table in self._names() and _CURRENT in table.tags.list():
                raise
            raise stores.missing(self.place, self._table) from error
        if view is None or view.version != version:
            view = self._now = self._opened(version)
        return view

    def _opened(self, version: int) -> _View:
        table = self._server().open_table(self._table, version=version)
        schema = table.schema
        build = (schema.metadata or {}).get(_BUILD, b"of nobody").decode()
        if build != self._build:
            raise stores.of_another_build(self.place, self._table, build, self._build)
        kinds = {
            one.name.removeprefix("field_"): float if one.type == pa.float64() else str
            for one in schema
            if one.name.startswith("field_")
        }
        width = schema.field("vector").type.list_size
        return _View(table, version, kinds, width)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time."""
        lock: Any = nullcontext()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f".{self._table}.lock")
        with self._writing, lock:
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the library refuses in one sentence."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())
            if "o space left" in said or getattr(error, "errno", None) == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"{self.place}: no space left; the old catalogue stays: free some, and write "
                    "it again",
                ) from error
            if self._folder is None and buckets.of_storage(said):
                raise buckets.refused(self.place, said) from None
            if "lance error" not in said.lower() and "lanceerror" not in said.lower():
                raise
            if self._folder is None:
                raise OSError(f"{self.place}: LanceDB refuses what was asked of it.") from None
            raise OSError(f"{self.place}: LanceDB refuses: {said[:300]}") from error


def _current(table: Any) -> int:
    """The version that the tag names.

    LanceDB asks for the length of the tag's file, then for so many of its bytes. Where a writer has
    made it longer in between, its end is missing, and it is read again.
    """
    for _ in range(_READ_AGAIN):
        try:
            return table.tags.get_version(_CURRENT)
        except RuntimeError as error:
            if "EOF while parsing" not in str(error):
                raise
    return table.tags.get_version(_CURRENT)


def _fragments(table: Any) -> int:
    return table.stats()["fragment_stats"]["num_fragments"]


def _found(search: Any, kept: Expr | None, *columns: str) -> pa.Table:
    """What a search finds among the products that are kept, with the addresses of the rows."""
    if kept is not None:
        search = search.where(kept, prefilter=True)
    return search.select(list(columns)).with_row_id(True).to_arrow()


def _expression(where: list[Condition]) -> Expr | None:
    """The conditions as LanceDB takes them: values are never written into a text."""
    kept = None
    for one in where:
        name, value = col(f"field_{one.field}"), lit(one.value)
        compared = {
            "=": name.eq,
            "!=": name.ne,
            "<": name.lt,
            "<=": name.lte,
            ">": name.gt,
            ">=": name.gte,
        }[one.operator](value)
        kept = compared if kept is None else kept.and_(compared)
    return kept


def _schema(kinds: dict[str, type], width: int, build: str) -> pa.Schema:
    own = [pa.field(f"field_{name}", _TYPES[kind]) for name, kind in kinds.items()]
    columns = [
        pa.field("place", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), width)),
        pa.field("numbers", pa.list_(pa.int32())),
        pa.field("adds", pa.list_(pa.float32())),
        pa.field("terms", pa.string()),
    ]
    return pa.schema([*columns, *own], metadata={_BUILD: build.encode()})


def _batch(products: Batch, schema: pa.Schema, places: np.ndarray) -> pa.RecordBatch:
    vectors = pa.array(np.ascontiguousarray(products.vectors, np.float32).ravel())
    columns = {
        "place": places,
        "id": products.ids,
        "title": products.titles,
        "text": products.texts,
        "vector": pa.FixedSizeListArray.from_arrays(vectors, products.vectors.shape[1]),
        "numbers": [own[0] for own in products.words],
        "adds": [own[1] for own in products.words],
        "terms": [_joined(own[0]) for own in products.words],
    }
    columns |= {f"field_{name}": stores.plain(own) for name, own in products.fields.items()}
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, one.type)
        for one, column in ((one, columns[one.name]) for one in schema)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _joined(numbers: np.ndarray) -> str:
    return " ".join(map(str, numbers.tolist()))


def _vectors(found: pa.Table) -> np.ndarray:
    column = found["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(found), column.type.list_size)


def _sums(terms: Terms, found: pa.Table) -> np.ndarray:
    """BM25 of the query with each product."""
    numbers, adds = (found[name].combine_chunks() for name in ("numbers", "adds"))
    ends = numbers.offsets.to_numpy() - numbers.offsets[0].as_py()
    return stores.word_sums(terms, numbers.flatten().to_numpy(), adds.flatten().to_numpy(), ends)
