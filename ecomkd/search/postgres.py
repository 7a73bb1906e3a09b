"""A catalogue in PostgreSQL, with the extension pgvector: one table, filtered in SQL.

Vectors are found by an HNSW graph (Malkov & Yashunin 2020), or one by one while the catalogue is
small; words by an inverted index (GIN) over the numbers of the words, and the exact BM25 of all
products that share one decides which come first. Each answer is one statement, and thus of one
state of the catalogue. Chapter 19.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ecomkd.extras import needed
from ecomkd.search import stores
from ecomkd.search.lines import Line, Server
from ecomkd.search.stores import Batch, Candidates, Condition, Terms

with needed("ecomkd.search.postgres", "postgres"):
    from pgvector import SparseVector
    from psycopg import errors
    from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
    from psycopg.types.json import Jsonb

FLAT = 10_000
"""Up to so many products a query is compared with every vector, and no graph is made."""
EXACT = 150_000
"""Up to so many products that keep all conditions are compared one by one: a graph would be
searched far from the query until enough of them were found, and not find all."""
READ = 10_000
"""Products that share a word with a query, of which BM25 is computed. Where more do, the frequent
words count for nobody who shares no other with the query."""
_CATALOGUES = Identifier("ecomkd_catalogues")
"""The table that says which build wrote which catalogue, in which state it is, and its fields."""
_OURS = "A catalogue that ecomkd wrote."
"""The comment by which a table is known as one that may be replaced."""
_FREQUENT = 50
"""A word that one in so many of `READ` products have is told apart; rarer ones count as nothing."""
_WORDS = 1_000_000_000
"""Dimensions of the vectors of words; those that are 0 take no room."""
_WIDTH = 40, 1_000
"""Between these pgvector has to have the width of a search in the graph."""
_LOCK = 7_305_161
"""Any number: writers of catalogues wait for each other under it."""
_RARE = SQL("numbers && %(rare)s::int4[]")
_SHARED = SQL("({} OR numbers @> %(common)s::int4[] AND numbers && %(others)s::int4[])").format(
    _RARE
)
_GRAPH = SQL("CREATE INDEX ON {} USING hnsw (vector vector_ip_ops)")
_TYPES = {float: "float8", str: 'text COLLATE "C"'}


@dataclass(frozen=True)
class _Known:
    """What stands of a catalogue in `_CATALOGUES`."""

    build: str
    fields: dict[str, str]
    """Name to "float" or "str"."""
    width: int
    common: dict[str, int]
    """The numbers of words that many products have, and how many."""

    def kinds(self) -> dict[str, type]:
        return {name: float if kind == "float" else str for name, kind in self.fields.items()}

    def sought(self, numbers: np.ndarray) -> tuple[list[int], list[int], list[int]]:
        """By which words of a query a product is found: it has one of the first list, or all of
        the second and one of the third.

        The first are the rarest, as far as `READ` products have them. The rarest of the rest finds
        only products that share one more word; but a query of one word finds all that have it.
        """
        counts = {number: self.common.get(str(number), 0) for number in numbers.tolist()}
        order = sorted(counts, key=lambda number: (counts[number], number))
        sums = np.cumsum([counts[number] for number in order])
        rare = order[: max(int(np.searchsorted(sums, READ, "right")), len(order) == 1)]
        rest = order[len(rare) :]
        return rare, rest[:1], [number for number in order if number not in rest[:1]]


class PostgresStore:
    """A `Store` in a table of a PostgreSQL database, beside whatever else lies there.

    Indexes are built with the server's own settings: for a large catalogue give it
    `maintenance_work_mem` that the graph fits into. A `write` is one transaction, and alone makes a
    graph: write a catalogue anew that was put together of small changes and has grown past `FLAT`.
    """

    def __init__(self, uri: str, table: str, build: str):
        self._server = Server(uri, table)
        self.place = self._server.place
        self._table, self._build = table, build
        self._of: _Known | None = None

    def candidates(
        self, vector: np.ndarray, terms: Terms, number: int, where: Iterable[Condition] = ()
    ) -> Candidates:
        conditions = list(where)
        return self._server.run(lambda line: self._found(line, vector, terms, number, conditions))

    def _found(self, line: Line, vector, terms: Terms, number: int, where) -> Candidates:
        width = min(max(number, _WIDTH[0]), _WIDTH[1])
        if line.width != width:
            line.server.execute("SELECT set_config('hnsw.ef_search', %s, false)", [str(width)])
            line.width = width
        # What is known of the fields may be older than the catalogue: then it is read again.
        for known in (self._of or self._look(line), None):
            known = known or self._look(line)
            try:
                kinds = known.kinds()
                kept, values = _kept(stores.fitted(where, kinds))
                few = bool(values) and self._estimated(line, kept, values) <= EXACT
                rare, common, others = known.sought(terms[0])
                if few:
                    rare, common = terms[0].tolist(), []
                statement = self._statement(kinds, kept, _SHARED if common else _RARE, few)
                values |= {
                    "vector": np.asarray(vector, np.float32),
                    "rare": rare,
                    "common": common,
                    "others": others,
                    "words": _sparse(*terms),
                    "number": number,
                    "name": self._table,
                }
                rows = line.server.execute(statement, values, binary=True).fetchall()
            except (errors.UndefinedColumn, errors.UndefinedTable, ValueError):
                if known == self._look(line):
                    raise
                continue
            if rows and (rows[0][0], rows[0][1]) == (known.build, known.fields):
                return self._answer(rows, kinds)
            self._look(line)
        raise stores.missing(self.place, self._table)

    def _answer(self, rows: list[tuple], kinds: stores.Kinds) -> Candidates:
        version = self._named(rows[0][2])
        rows = [row[3:] for row in rows if row[3] is not None]
        columns: list[Sequence] = list(zip(*rows, strict=True)) or [()] * (5 + len(kinds))
        ids, titles, texts, cosines, sums = columns[:5]
        fields = {name: list(own) for name, own in zip(kinds, columns[5:], strict=True)}
        exact = (np.array(part, np.float32) for part in (cosines, sums))
        return Candidates(list(ids), list(titles), list(texts), fields, *exact, version)

    def _estimated(self, line: Line, kept: Composed, values: dict) -> float:
        """How many products keep the conditions, as the server's statistics have it."""
        statement = SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}")
        statement = statement.format(Identifier(self._table), kept)
        return line.server.execute(statement, values).fetchone()[0][0]["Plan"]["Plan Rows"]

    def _statement(
        self, kinds: stores.Kinds, kept: Composed, shared: Composable, few: bool
    ) -> Composed:
        """The statement of an answer. Of few products, the vectors are compared one by one."""
        fields = [SQL(", c.{}").format(_column(name)) for name in kinds]
        return SQL(
            "WITH near AS MATERIALIZED (SELECT place FROM {table} WHERE {kept} "
            "ORDER BY {distance} LIMIT %(number)s), "
            "shared AS MATERIALIZED (SELECT place FROM {table} "
            "WHERE {shared} AND {kept} "
            "ORDER BY words <#> %(words)s, place LIMIT %(number)s), "
            "found AS (SELECT place FROM near UNION SELECT place FROM shared) "
            "SELECT m.build, m.fields, m.version, c.id, c.title, c.text, "
            "-(c.vector <#> %(vector)s), -(c.words <#> %(words)s){fields} "
            "FROM {catalogues} m LEFT JOIN (found JOIN {table} c USING (place)) ON true "
            "WHERE m.name = %(name)s ORDER BY place"
        ).format(
            table=Identifier(self._table),
            shared=shared,
            catalogues=_CATALOGUES,
            kept=kept,
            # A sum is no expression that the graph knows.
            distance=SQL("(vector <#> %(vector)s) + 0" if few else "vector <#> %(vector)s"),
            fields=SQL("").join(fields),
        )

    def write(self, batches: Iterable[Batch]) -> None:
        line = self._server.connect()
        try:
            with self._server.told(), line.server.transaction():
                self._write(line, batches)
        finally:
            line.server.close()
        self._of = None

    def _write(self, line: Line, batches: Iterable[Batch]) -> None:
        run, name = line.server.execute, self._table
        run("SET LOCAL statement_timeout = 0")
        run("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        run(
            SQL(
                "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, build text NOT NULL, "
                "fields jsonb NOT NULL, width int4 NOT NULL, common jsonb NOT NULL, "
                "version int8 NOT NULL)"
            ).format(_CATALOGUES)
        )
        there = self._there(line)
        new = Identifier(f"{name}_{secrets.token_hex(4)}")
        first, rest = stores.begun(batches)
        kinds, width = first.kinds(), first.vectors.shape[1]
        own = [SQL(", {} {}").format(_column(n), SQL(_TYPES[kind])) for n, kind in kinds.items()]
        run(
            SQL(
                "CREATE TABLE {} (place int8 GENERATED BY DEFAULT AS IDENTITY, "
                "id text PRIMARY KEY, title text NOT NULL, text text NOT NULL, "
                "vector vector({}) NOT NULL, numbers int4[] NOT NULL, words sparsevec NOT NULL{})"
            ).format(new, SQL(str(width)), SQL("").join(own))
        )
        run(SQL("COMMENT ON TABLE {} IS {}").format(new, Literal(_OURS)))
        copy = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(new, _columns(kinds))
        kept, count = ["float8" if kind is float else "text" for kind in kinds.values()], 0
        having: Counter[int] = Counter()
        with line.server.cursor() as cursor, cursor.copy(copy) as rows:
            rows.set_types(["text", "text", "text", "vector", "int4[]", "sparsevec", *kept])
            for batch in chain([first], rest):
                for row in _rows(stores.checked(batch, kinds, width)):
                    rows.write_row(row)
                count += len(batch.ids)
                having.update(number for own in batch.words for number in own[0].tolist())
        run(SQL("CREATE UNIQUE INDEX ON {} (place)").format(new))
        run(SQL("CREATE INDEX ON {} USING gin (numbers)").format(new))
        for field in kinds:
            run(SQL("CREATE INDEX ON {} ({})").format(new, _column(field)))
        if count > FLAT:
            run(_GRAPH.format(new))
        run(SQL("ANALYZE {}").format(new))
        if there:
            run(SQL("DROP TABLE {}").format(Identifier(name)))
        run(SQL("ALTER TABLE {} RENAME TO {}").format(new, Identifier(name)))
        fields = Jsonb({n: kind.__name__ for n, kind in kinds.items()})
        common = Jsonb({number: n for number, n in having.items() if n > READ // _FREQUENT})
        run(
            SQL(
                "INSERT INTO {0} AS m VALUES (%s, %s, %s, %s, %s, 1) ON CONFLICT (name) DO UPDATE "
                "SET build = excluded.build, fields = excluded.fields, width = excluded.width, "
                "common = excluded.common, version = m.version + 1"
            ).format(_CATALOGUES),
            [name, self._build, fields, width, common],
        )

    def claim(self) -> None:
        self._server.run(self._there)

    def _there(self, line: Line) -> bool:
        """Whether the table is there. Refuses one that somebody else made."""
        there, comment = line.server.execute(
            "SELECT oid IS NOT NULL, obj_description(oid, 'pg_class') "
            "FROM (SELECT to_regclass(quote_ident(%s))::oid AS oid) t",
            [self._table],
        ).fetchone()
        if there and comment != _OURS:
            raise stores.not_ours(self.place, self._table)
        return there

    def put(self, products: Batch) -> None:
        def work(line: Line, known: _Known) -> None:
            kinds = known.kinds()
            stores.checked(products, kinds, known.width)
            names = ["title", "text", "vector", "numbers", "words", *map(_field, kinds)]
            new = [SQL("{0} = excluded.{0}").format(Identifier(name)) for name in names]
            marks = SQL(", ").join([SQL("%s")] * (len(names) + 1))
            statement = SQL(
                "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}"
            ).format(Identifier(self._table), _columns(kinds), marks, SQL(", ").join(new))
            with line.server.cursor() as cursor:
                cursor.executemany(statement, list(_rows(products, kinds)))
            self._linked(line)

        self._change(work)

    def _linked(self, line: Line) -> None:
        """Makes the graph of a catalogue that has grown past FLAT without one. Who asks meanwhile
        is answered without it."""
        has_graph = (
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am a ON a.oid = c.relam "
            "WHERE i.indrelid = quote_ident(%s)::regclass AND a.amname = 'hnsw')"
        )
        table, run = Identifier(self._table), line.server.execute
        if run(has_graph, [self._table]).fetchone()[0]:
            return
        if run(SQL("SELECT count(*) FROM {}").format(table)).fetchone()[0] > FLAT:
            run(_GRAPH.format(table))
            run(SQL("ANALYZE {}").format(table))

    def remove(self, ids: Sequence[str]) -> None:
        statement = SQL("DELETE FROM {} WHERE id = ANY(%s)").format(Identifier(self._table))
        self._change(lambda line, _: line.server.execute(statement, [list(ids)]))

    def _change(self, work: Callable[[Line, _Known], Any]) -> None:
        def whole(line: Line) -> None:
            with line.server.transaction():
                line.server.execute("SET LOCAL statement_timeout = 0")  # of another who writes
                line.server.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                work(line, self._look(line))
                line.server.execute(
                    SQL("UPDATE {} SET version = version + 1 WHERE name = %s").format(_CATALOGUES),
                    [self._table],
                )

        self._server.run(whole)

    def count(self) -> int:
        statement = SQL("SELECT count(*) FROM {}").format(Identifier(self._table))

        def work(line: Line) -> int:
            self._look(line)
            return line.server.execute(statement).fetchone()[0]

        return self._server.run(work)

    def version(self) -> str:
        statement = SQL("SELECT version FROM {} WHERE name = %s").format(_CATALOGUES)

        def work(line: Line) -> str:
            self._look(line)
            return self._named(line.server.execute(statement, [self._table]).fetchone()[0])

        return self._server.run(work)

    def _named(self, version: int) -> str:
        return f"{self._table}, version {version}, build {self._build}"

    def close(self) -> None:
        self._server.close()

    def _look(self, line: Line) -> _Known:
        """What stands of the catalogue, which it keeps. Refuses one of another build."""
        statement = SQL("SELECT build, fields, width, common FROM {} WHERE name = %s").format(
            _CATALOGUES
        )
        row = line.server.execute(statement, [self._table]).fetchone()
        if row is None:
            raise stores.missing(self.place, self._table)
        if row[0] != self._build:
            raise stores.of_another_build(self.place, self._table, row[0], self._build)
        self._of = _Known(*row)
        return self._of


def _kept(where: list[Condition]) -> tuple[Composed, dict[str, str | float]]:
    """The conditions in SQL, and their values, which are never written into it."""
    kept = [
        SQL("{} {} {}").format(_column(one.field), SQL(one.operator), SQL(f"%(value{number})s"))
        for number, one in enumerate(where)
    ]
    values = {f"value{number}": one.value for number, one in enumerate(where)}
    return SQL(" AND ").join(kept) if kept else Composed([SQL("true")]), values


def _field(name: str) -> str:
    return f"field_{name}"


def _column(name: str) -> Identifier:
    return Identifier(_field(name))


def _columns(kinds: stores.Kinds) -> Composed:
    names = ["id", "title", "text", "vector", "numbers", "words", *map(_field, kinds)]
    return SQL(", ").join(map(Identifier, names))


def _sparse(numbers: np.ndarray, values: np.ndarray) -> SparseVector:
    return SparseVector(dict(zip(numbers.tolist(), values.tolist(), strict=True)), _WORDS)


def _rows(products: Batch, kinds: stores.Kinds | None = None) -> Iterator[tuple]:
    """One tuple a product, in the order of `_columns`."""
    fields = [stores.plain(products.fields[name]) for name in kinds or products.kinds()]
    numbers = [own[0].tolist() for own in products.words]
    sparse = (_sparse(*own) for own in products.words)
    vectors = iter(products.vectors)
    return zip(
        products.ids, products.titles, products.texts, vectors, numbers, sparse, *fields,
        strict=True,
    )  # fmt: skip
