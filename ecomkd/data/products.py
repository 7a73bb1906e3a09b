"""The catalogue of a data set: checked, mapped, and asked for the texts that pairs lack.

Chapter 1.
"""

from __future__ import annotations

from array import array
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from ecomkd.data.contract import TEXT, is_blank
from ecomkd.data.files import DataError, quoted
from ecomkd.data.tables import ArrowWriter, Faults, TableFile, text


class Products:
    """The catalogue, checked and mapped, and the row of each product_id in it."""

    def __init__(self, file: TableFile, scratch: Path):
        file.require("product_id", "product_title")
        self.file = file
        self.writer = ArrowWriter(scratch / "products.arrow")
        self.row: dict[str, int] = {}
        self.titles = array("q")  # the `title_hash` of each
        faults = Faults(file)
        try:
            for start, batch in file.batches():
                self._read(start, batch, faults)
        except DataError as error:
            raise DataError(*faults.sentences(), *error.sentences) from error
        faults.settle()
        self.writer.close()
        if len(self.row) < 2:
            raise DataError(
                f"{file.path}: a single product leaves nothing to search; give at least 2."
            )

    def _read(self, start: int, batch: pa.Table, faults: Faults) -> None:
        texts = {name: text(self.file, start, batch, name) for name in ("product_id", *TEXT)}
        for name in ("product_id", "product_title"):
            faults.add_blanks(start, texts[name], name)
        for row, product in enumerate(texts["product_id"], start):
            if product and self.row.setdefault(product, row) != row:
                sentence = f"{quoted(product)} stands in {self.file.place(self.row[product])}, too"
                faults.add(row, "product_id", "twice", f"{sentence}; keep one of the two.")
        self.titles.extend(map(title_hash, texts["product_title"]))
        self.writer.write(texts, batch.drop_columns([n for n in texts if n in batch.column_names]))

    @cached_property
    def _texts(self) -> pa.Table:
        return self.writer.table().select(list(TEXT))

    def fill(self, ids: list[str], texts: dict[str, list[str]]) -> None:
        """Put the catalogue's text wherever a pair has none."""
        blank = {name: [is_blank(value) for value in texts[name]] for name in TEXT}
        rows = [
            row
            for row, product in enumerate(ids)
            if product in self.row and any(blank[name][row] for name in TEXT)
        ]
        if not rows:
            return
        known = self._texts.take([self.row[ids[row]] for row in rows])
        for name in TEXT:
            for row, value in zip(rows, known[name].to_pylist(), strict=True):
                if blank[name][row]:
                    texts[name][row] = value


def title_hash(title: str) -> int:
    """A number that is the same, in this process, for titles that differ by spaces alone."""
    return hash(" ".join(title.split()))
