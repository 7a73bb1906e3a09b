"""CSV and Parquet files read in batches, with errors that say where; written as mapped Arrow."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_CHARACTERS = 100_000
"""A longer text is taken for a mistake, such as a quotation mark that is never closed."""

_BATCH = 2_000


class DataError(ValueError):
    """Input that breaks the contract: one sentence with the place and the mend."""


class TableFile:
    """A CSV or Parquet file, read in batches, that can say where a row stands."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = 0
        self.lines = array("q")  # of CSV: the line at which each row begins
        try:
            self._parquet = pq.ParquetFile(path) if path.suffix == ".parquet" else None
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path}: not a Parquet file, or cut short; write or copy it again."
            ) from error
        self._records = None if self._parquet else self._csv_records()
        self.columns = self._parquet.schema_arrow.names if self._parquet else self._header()
        for name in set(self.columns):
            if self.columns.count(name) > 1:
                raise DataError(f"{path}: the column {name!r} occurs twice; rename or drop one.")

    def require(self, *names: str) -> None:
        for name in names:
            if name not in self.columns:
                raise DataError(
                    f"{self.path}: column {name!r} is missing; add it "
                    f"(found: {', '.join(self.columns)})."
                )

    def place(self, row: int) -> str:
        where = f"line {self.lines[row]}" if self._parquet is None else f"row {row + 1}"
        return f"{self.path}, {where}"

    def fault(self, row: int, column: str, sentence: str) -> DataError:
        return DataError(f"{self.place(row)}, column {column!r}: {sentence}")

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Number of the first row and the rows, batch by batch."""
        for batch in self._parquet_batches() if self._parquet else self._csv_batches():
            if batch.num_rows:
                yield self.rows, batch
                self.rows += batch.num_rows
        if not self.rows:
            raise DataError(f"{self.path}: the file has no rows; add at least one.")

    def _parquet_batches(self) -> Iterator[pa.Table]:
        try:
            for batch in self._parquet.iter_batches(batch_size=_BATCH):
                yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.path}: cut short or damaged; copy it again.") from error

    def _csv_batches(self) -> Iterator[pa.Table]:
        rows = []
        for row in self._records:
            rows.append(row)
            if len(rows) == _BATCH:
                yield self._strings(rows)
                rows = []
        yield self._strings(rows)

    def _strings(self, rows: list[list[str]]) -> pa.Table:
        columns = zip(*rows, strict=True) if rows else [()] * len(self.columns)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return pa.Table.from_arrays(arrays, names=self.columns)

    def _header(self) -> list[str]:
        try:
            return next(self._records)
        except StopIteration:
            raise DataError(f"{self.path}: the file is empty; add a header and rows.") from None

    def _csv_records(self) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)  # our own limit names the column
        width, begin = None, 1
        with open(self.path, "rb") as file:
            reader = csv.reader(self._decoded(file), strict=True)
            try:
                for record in reader:
                    if record and width is None:
                        width = len(record)
                        yield record
                    elif record:
                        self.lines.append(begin)
                        if len(record) != width:
                            raise DataError(
                                f"{self.path}, line {begin}: {len(record)} fields where the header "
                                f"has {width}; put texts that hold a comma in double quotes."
                            )
                        yield record
                    begin = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, line {begin}: not valid CSV ({error}); close every quotation "
                    "mark and double those inside a text."
                ) from error

    def _decoded(self, file) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x} at position {error.start + 1}"
                raise DataError(
                    f"{self.path}, line {number}: the byte {byte} is not UTF-8; "
                    "save the file as UTF-8."
                ) from None


def text(file: TableFile, start: int, batch: pa.Table, name: str) -> list[str]:
    """One column of a batch as strings: "" for null, and throughout where there is no column.

    `start` is the number of the batch's first row. Raises DataError for what is no text, is not
    UTF-8 or is longer than MAX_CHARACTERS.
    """
    if name not in batch.column_names:
        return [""] * batch.num_rows
    column = batch.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):  # pandas stores missing values, and ids beside them, so
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        column = column.cast(pa.string())
        column.validate(full=True)
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"{file.path}, column {name!r}: holds {column.type}; store it as text."
        ) from None
    except pa.ArrowInvalid:
        for row, value in enumerate(column.cast(pa.large_binary())):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError:
                raise file.fault(
                    start + row, name, "the text is not UTF-8; save it as UTF-8."
                ) from None
        raise
    lengths = pc.utf8_length(column)
    if (pc.max(lengths).as_py() or 0) > MAX_CHARACTERS:
        row = pc.index(pc.greater(lengths, MAX_CHARACTERS), True).as_py()
        raise file.fault(
            start + row,
            name,
            f"the text has {lengths[row].as_py():,} characters; "
            f"shorten it to {MAX_CHARACTERS:,} or fewer.",
        )
    return column.fill_null("").to_pylist()


def filled(file: TableFile, start: int, values: list[str], name: str, hint: str = "") -> list[str]:
    """The values; raises DataError at the first that is empty or blank."""
    for row, value in enumerate(values):
        if not value.strip():
            raise file.fault(start + row, name, f"empty{hint}; fill it in or drop the row.")
    return values


class ArrowWriter:
    """Batches into one Arrow stream, then memory-mapped as a Dataset."""

    def __init__(self, path: Path):
        self.path = path
        self._stream = None

    def write(
        self,
        columns: dict[str, list],
        further: pa.Table,
        labels: tuple[tuple[str, ...], list[int]] | None = None,
    ) -> None:
        """Append rows: texts, then `label` (class names, class numbers), then further columns."""
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        if labels is not None:
            table = table.append_column("label", pa.array(labels[1], pa.int64()))
        for name in further.column_names:
            column = further.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            table = table.append_column(name, column)
        if self._stream is None:
            features = datasets.Features.from_arrow_schema(table.schema)
            if labels is not None:
                features["label"] = datasets.ClassLabel(names=list(labels[0]))
            self._schema = features.arrow_schema
            self._stream = pa.ipc.new_stream(str(self.path), self._schema)
        self._stream.write_table(table.cast(self._schema))

    def dataset(self) -> datasets.Dataset:
        self._stream.close()
        return datasets.Dataset.from_file(str(self.path))
