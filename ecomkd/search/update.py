"""Add, change and take out products of an index whose catalogue lies in a store. Chapter 19."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from ecomkd.data.contract import TEXT, DataError, is_blank, product_text
from ecomkd.data.files import TableFile, single_file
from ecomkd.search import stores
from ecomkd.search.catalogue import Product, plain_field
from ecomkd.search.engine import load
from ecomkd.search.hosted import StoreEngine

_PART = 4_096
"""Products that are written at a time."""


def update(folder: Path, products: Path | None, ids: Path | None) -> tuple[int, int]:
    """Put the products of a file into an index's store and take out others by id; how many of each.

    The file has the columns `product_id`, `product_title`, the fields of the index, and further
    texts where they are known; `ids` names one product a line. What is wrong with a row is told
    before anything is changed, but for a text that is too long for Milvus. Raises ValueError and
    OSError with one sentence.
    """
    engine = load(folder)
    if not isinstance(engine, StoreEngine):
        raise ValueError(
            f"{folder}: its catalogue lies in the folder itself: write it anew with "
            "`ecomkd index`, and a running service takes the new one."
        )
    with closing(engine):
        gone = [] if ids is None else list(filter(None, map(str.strip, _lines(ids))))
        given = [] if products is None else list(_given(products, engine.fields))
        twice = stores.repeated(one.product_id for one in given)
        if twice is not None:
            raise ValueError(
                f"{products}: product {twice!r:.60} stands there twice; keep one of the two."
            )
        for start in range(0, len(given), _PART):
            engine.put(given[start : start + _PART])
        if gone:
            engine.remove(gone)
    return len(given), len(gone)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8.") from error


def _given(path: Path, fields: Mapping[str, str]) -> Iterator[Product]:
    """The products of a file. Raises DataError for the first row that is none."""
    file = TableFile(single_file(path))
    file.require("product_id", "product_title", *fields)
    row = 0
    for batch in file.batches():
        columns = {name: file.texts(batch, name) for name in ("product_id", *TEXT, *fields)}
        texts = product_text(columns)
        for place, text in enumerate(texts):
            own = {name: columns[name][place] for name in columns}
            for name in ("product_id", "product_title"):
                if is_blank(own[name]):
                    raise DataError(f"{file.place(row)}: {name} is empty; fill it.")
            if any("\0" in one for one in own.values()):
                raise DataError(f"{file.place(row)}: holds a NUL, which no store takes; delete it.")
            told = {}
            for name, kind in fields.items():
                try:
                    told[name] = plain_field(own[name], kind)
                except ValueError:
                    raise DataError(
                        f"{file.place(row)}: {name} is {own[name]!r:.60}, and the index holds "
                        "numbers there; give a number or nothing."
                    ) from None
            yield Product(own["product_id"], own["product_title"], text, told)
            row += 1
