"""Where a catalogue lies that a service searches: a shop's own engine, behind one small protocol.

A store finds candidates: the nearest products by vector and the best by words, among those that
keep the conditions. What each candidate scores is exact whatever the engine, because vectors and
what each word adds lie in the store itself; only which products are found may be approximate.
Nothing here loads an engine before `opened` is asked for one. Chapter 19.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ecomkd import words

OPERATORS = ("!=", "<=", ">=", "=", "<", ">")
"""What a condition may ask of a field. Texts are compared by the numbers of their characters."""
Kinds = Mapping[str, type]
"""The fields of a catalogue, and of each whether it holds `float` or `str`."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,39}"
_CONDITION = re.compile(rf"\s*({_NAME})\s*({'|'.join(OPERATORS)})\s*(.*?)\s*", re.DOTALL)
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_CLOUDS = ("s3", "gs", "az", "s3+ddb")
"""Schemes of object storage that LanceDB reads."""
MILVUS_LONGEST = 65_535
"""Bytes of the longest text that Milvus takes."""


@dataclass(frozen=True)
class Condition:
    """What a product has to keep to be found. A product without the field never does."""

    field: str
    operator: str
    """One of `OPERATORS`."""
    value: str | float
    """Of a field that holds numbers, a text is read as one."""


def condition(text: str) -> Condition:
    """The condition that a text such as `price<20` or `product_brand = "Oak & Co"` states.

    Quotes around a value may be left out. Raises ValueError with one sentence for any other text.

    Example:
        >>> condition("price<20")
        Condition(field='price', operator='<', value='20')
    """
    found = _CONDITION.fullmatch(text)
    if found is None or not found[3] or found[2][-1] + found[3][0] == "==" or "\0" in text:
        raise ValueError(
            f"{text[:60]!r} is no condition: write a field, one of {' '.join(OPERATORS)}, and a "
            "value, such as price<20."
        )
    name, operator, value = found.groups()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return Condition(name, operator, value)


def fitted(where: Iterable[Condition], kinds: Kinds) -> list[Condition]:
    """The conditions with values of the kind that their fields hold.

    Raises ValueError for a field that is none of `kinds`, an unknown operator, and for a value that
    is no number where the field holds numbers.
    """
    found = []
    for one in where:
        if one.field not in kinds:
            known = f"it has {', '.join(sorted(kinds))}" if kinds else "it has none"
            raise ValueError(f"The catalogue has no field {one.field!r:.60}: {known}.")
        if one.operator not in OPERATORS:
            raise ValueError(
                f"{one.operator!r:.20} is no operator: take one of {' '.join(OPERATORS)}."
            )
        value: str | float = str(one.value)
        if kinds[one.field] is float:
            try:
                value = float(one.value)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise ValueError(
                    f"{one.field} holds numbers, and {one.value!r:.60} is none: compare it with "
                    "one, such as 20."
                )
        found.append(Condition(one.field, one.operator, value))
    return found


@dataclass(frozen=True, eq=False)
class Batch:
    """N products as a store takes them. Ids are texts, and no two are equal."""

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    """What a model reads of each."""
    vectors: np.ndarray
    """(N, H), float32, of length 1 or zero."""
    words: Sequence[tuple[np.ndarray, np.ndarray]]
    """Of each, what `words.added` gives of its text."""
    fields: Mapping[str, Sequence] = field(default_factory=dict)
    """Columns to filter by: an array of floats, where NaN says that there is none, or texts and
    None."""

    def kinds(self) -> dict[str, type]:
        """Of each field, `float` for an array of numbers, else `str`."""
        return {name: float if _numbers(own) else str for name, own in self.fields.items()}


def _numbers(column: Sequence) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind in "fiu"


def encoded(
    embed: Callable[[Sequence[str]], np.ndarray],
    known: words.Statistics,
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    fields: Mapping[str, Sequence] | None = None,
) -> Batch:
    """Products as a store takes them, their texts encoded by `embed` and by the statistics."""
    adds = [words.added(known, text) for text in texts]
    return Batch(ids, titles, texts, embed(texts), adds, fields or {})


def checked(products: Batch, kinds: Kinds | None = None, width: int | None = None) -> Batch:
    """The same products, once they are found whole, and of the `kinds` and `width` of the rest.

    Raises ValueError with one sentence: for columns of unequal length, an id twice, a vector that
    is not finite, a name that is no field's, or fields other than the catalogue's.
    """
    count = len(products.ids)
    columns = [products.titles, products.texts, products.vectors, products.words]
    if any(len(column) != count for column in [*columns, *products.fields.values()]):
        raise ValueError(f"Columns of {count:,} products are not all of one length.")
    twice = repeated(products.ids)
    if twice is not None:
        raise ValueError(f"Product id {twice!r:.60} stands there twice: give each its own.")
    for own, title, text in zip(products.ids, products.titles, products.texts, strict=True):
        if "\0" in own + title + text:
            raise ValueError(
                f"Product {own!r:.60} has a NUL in its id or texts, which engines do not take: "
                "take it out."
            )
    if products.vectors.ndim != 2 or not np.isfinite(products.vectors).all():
        raise ValueError("The vectors of the products are no table (N, H) of finite numbers.")
    named(products.fields)
    if width is not None and products.vectors.shape[1] != width:
        raise ValueError(
            f"The vectors have {products.vectors.shape[1]} numbers, and those of the catalogue "
            f"{width}: encode the products with the model of the catalogue."
        )
    if kinds is not None and products.kinds() != dict(kinds):
        raise ValueError(
            f"The products have the fields {_said(products.kinds())}, and the catalogue "
            f"{_said(kinds)}: give all of them, each of its kind."
        )
    return products


def repeated(ids: Iterable[str]) -> str | None:
    """The first id that stands there a second time, if one does."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            return one
        seen.add(one)
    return None


def named(fields: Iterable[str]) -> None:
    """Raise ValueError for a name that no field of a store may have."""
    for name in fields:
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"{name!r:.60} is no name of a field: take up to 40 letters, digits and _."
            )


def begun(batches: Iterable[Batch]) -> tuple[Batch, Iterator[Batch]]:
    """The first batch of a catalogue, which says its fields and its width, and the rest.

    Raises ValueError where there is none, and as `checked` does.
    """
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise ValueError("There is no product to write: give one batch at least.")
    return checked(first), rest


def _said(kinds: Kinds) -> str:
    names = {float: "number", str: "text"}
    listed = [f"{name} ({names[kinds[name]]})" for name in sorted(kinds)]
    return ", ".join(listed) or "(none)"


@dataclass(frozen=True, eq=False)
class Candidates:
    """n products that a store found for a query, in the order of the catalogue."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    fields: dict[str, list]
    """Each (n,); None where a product has none."""
    cosines: np.ndarray
    """(n,), float32: the exact inner product of the query's vector with the stored one."""
    words: np.ndarray
    """(n,), float32: the exact BM25 of the query."""
    version: str
    """Of the catalogue that they come from, as `Store.version` names it."""


Terms = tuple[np.ndarray, np.ndarray]
"""The known words of a query and how often each stands in it, as `words.asked` gives them."""


class Store(Protocol):
    """A catalogue in an engine. All methods may be called from several threads at once.

    All but `write` and `close` raise FileNotFoundError where nobody has written the catalogue, and
    ValueError where another build wrote it: vectors and words of two builds cannot be compared.
    ConnectionError says that the server is out of reach, PermissionError that it refuses.
    """

    def candidates(
        self, vector: np.ndarray, terms: Terms, number: int, where: Iterable[Condition] = ()
    ) -> Candidates:
        """The first `number` by vector (H,) and the first `number` by words, together.

        Both are found among the products that keep all conditions. The first by words share one
        with the query. Raises ValueError for a condition that `fitted` refuses.
        """
        ...

    def write(self, batches: Iterable[Batch]) -> None:
        """Replace the whole catalogue. Until all is written, everybody is answered from the old.

        The fields are those of the first batch. Where it fails, the old catalogue stays.
        """
        ...

    def claim(self) -> None:
        """Raise as `write` would where the store is out of reach, or a table is somebody else's.

        Whether the right to write is there is not tried.
        """
        ...

    def put(self, products: Batch) -> None:
        """Add products, or replace those that have the same ids; answers show it at once."""
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Take products out of the catalogue; ids that it does not have change nothing."""
        ...

    def count(self) -> int:
        """The number of products."""
        ...

    def version(self) -> str:
        """Names the state of the catalogue; every `write`, `put` and `remove` changes it."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


def opened(uri: str, table: str, build: str) -> Store:
    """The store at a URI: PostgreSQL at `postgresql://…`, Milvus at `milvus://…`, else LanceDB.

    `build` names what vectors and words come from, such as the digest of encoder and statistics.
    LanceDB takes a folder, `lance://FOLDER`, or object storage (`s3://…`, `gs://…`, `az://…`) with
    the credentials that the environment gives. Milvus is at `milvus://HOST:PORT/DATABASE`, behind
    TLS at `milvus+tls://…`, and its lite version in a file, `milvus:///FOLDER/NAME.db`. A password
    stands in PGPASSWORD, USER:PASSWORD of Milvus or its API key in MILVUS_TOKEN, or either in the
    URI, and is neither kept nor shown.

    Nothing is read or written yet. Raises ValueError for another scheme or a name that no table may
    have, and ModuleNotFoundError where the engine's package is missing.
    """
    if not _TABLE.fullmatch(table):
        raise ValueError(
            f"{table!r:.60} is no name of a table: take up to 40 small letters, digits and _, "
            "beginning with a letter."
        )
    scheme, separator, rest = uri.partition("://")
    if not separator and re.match(r"\s*\w+\s*=", uri):
        raise ValueError("The store is no URI: write postgresql://USER@HOST:PORT/DATABASE.")
    if separator and scheme in ("postgresql", "postgres"):
        from ecomkd.search.postgres import PostgresStore

        return PostgresStore(uri, table, build)
    if separator and scheme in ("milvus", "milvus+tls"):
        from ecomkd.search.milvus import MilvusStore

        return MilvusStore(uri, table, build)
    if separator and scheme in _CLOUDS and "@" in rest.partition("/")[0]:
        raise ValueError(
            f"The URI {scheme}://… holds credentials: take them out, and set them in the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if separator and scheme not in ("lance", *_CLOUDS):
        raise ValueError(
            f"{scheme!r:.20} is no store: give postgresql://…, a folder, lance://FOLDER, "
            "object storage such as s3://BUCKET/FOLDER, or milvus://…."
        )
    from ecomkd.search.lance import LanceStore

    return LanceStore(rest if scheme == "lance" and separator else uri, table, build)


def without_secrets(uri: str) -> str:
    """The URI as a file may hold it: without a password, and a folder by its whole path.

    Raises as `opened` does.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in ("postgresql", "postgres"):
        from ecomkd.search import lines

        return lines.without_secrets(uri)
    if separator and scheme in ("milvus", "milvus+tls"):
        from ecomkd.search import milvus_server

        return milvus_server.without_secrets(uri)
    if separator and scheme != "lance":
        return uri
    return str(Path(rest if separator else uri).resolve())


def missing(place: str, table: str) -> FileNotFoundError:
    """What is raised where nobody has written the catalogue."""
    return FileNotFoundError(f"{place}: there is no catalogue {table!r} in it: write it first.")


class OtherBuild(ConnectionError, ValueError):
    """Another build wrote the catalogue: who serves the index that wrote it is answered again."""


def of_another_build(place: str, table: str, found: str, build: str) -> OtherBuild:
    """What is raised where another build has written the catalogue."""
    return OtherBuild(
        f"{place}: the catalogue {table!r} was written by the build {found}, and this one is "
        f"{build}: write it again, or serve the index that wrote it."
    )


def not_ours(place: str, table: str) -> ValueError:
    """What is raised before anything is written where a table of that name is somebody else's."""
    return ValueError(
        f"{place}: {table!r} is a table that ecomkd did not write: take another name."
    )


def word_sums(terms: Terms, numbers: np.ndarray, adds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """BM25 (n,) of a query with n products whose numbers and adds lie one after the other.

    `ends` (n + 1,) says where those of each product begin, and where the last ones end.
    """
    asked, often = terms
    if not len(asked):
        return np.zeros(len(ends) - 1, np.float32)
    at = np.minimum(np.searchsorted(asked, numbers), len(asked) - 1)
    parts = np.where(asked[at] == numbers, often[at] * adds, 0)
    rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    return np.bincount(rows, parts, len(ends) - 1).astype(np.float32)


def plain(column: Sequence) -> list[Any]:
    """A field as engines take it: floats or texts, and None where there is none."""
    if _numbers(column):
        return [None if math.isnan(one) else one for one in map(float, column)]
    return list(column)
