"""CSV and Parquet files read in batches, with errors that say where; written as mapped Arrow.

Chapter 1.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecomkd.data.contract import TEXT, is_blank
from ecomkd.data.files import MAX_CHARACTERS, DataError, disguise, quoted, shown

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 2_000
_EXACT = 2**53  # up to here a floating-point number tells every whole number apart
_NAMES = {"query_id", "product_id", "query", "esci_label", "grade", "split", *TEXT}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_PLAIN = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_null,
)


class TableFile:
    """A CSV or Parquet file, read in batches, that can say where a row stands."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = 0
        self.lines = array("q")  # of CSV: the line at which each row begins
        self._parquet: pq.ParquetFile | None = None
        if path.suffix == ".parquet":
            self._open_parquet()
        else:
            self._open_csv()
        for name in set(self.columns):
            if self.columns.count(name) > 1:
                raise DataError(
                    f"{path}: the column {quoted(name)} occurs twice; rename or drop one."
                )

    def _open_parquet(self) -> None:
        try:
            self._parquet = pq.ParquetFile(self.path)
            schema = self._parquet.schema_arrow
            self.columns = schema.names
        except PermissionError as error:
            raise self._unreadable(error) from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            what = disguise(self.path)
            if what and "Git LFS" in what:
                raise DataError(f"{self.path}: {what}.") from error
            raise DataError(
                f"{self.path}: not a Parquet file, or cut short; write or copy it again."
            ) from error
        for field in schema:
            if not _storable(field.type):
                raise DataError(
                    f"{self.path}, column {quoted(field.name)}: holds "
                    f"{shown(str(field.type))}, which cannot be kept; drop it or store it as text."
                )

    def _open_csv(self) -> None:
        try:
            what = disguise(self.path)
        except OSError as error:
            raise self._unreadable(error) from error
        if what:
            raise DataError(f"{self.path}: {what}.")
        self._records = self._csv_records()
        try:
            self.columns = next(self._records)
        except StopIteration:
            raise DataError(f"{self.path}: the file is empty; add a header and rows.") from None
        if not _NAMES & set(self.columns) and (mend := self._mend_of_header(_NAMES)):
            raise DataError(f"{self.path}: {mend}.")

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be read ({error.strerror or error}); change its rights."
        )

    def require(self, *names: str) -> None:
        """Raise DataError unless the file has all these columns."""
        missing = [name for name in names if name not in self.columns]
        if not missing:
            return
        if mend := self._mend_of_header(set(missing)):
            raise DataError(f"{self.path}: {mend}.")
        several = len(missing) > 1
        found = ", ".join(shown(name, 40) for name in self.columns[:12])
        found += f" and {len(self.columns) - 12} more" if len(self.columns) > 12 else ""
        raise DataError(
            f"{self.path}: column{'s' if several else ''} {', '.join(map(repr, missing))} "
            f"{'are' if several else 'is'} missing; add {'them' if several else 'it'} "
            f"(found: {found})."
        )

    def _mend_of_header(self, wanted: set[str]) -> str | None:
        """What is wrong with the line of names as a whole, where these columns are not found."""
        first = self.columns[0]
        if first.startswith("\ufeff"):
            return "begins with two byte order marks; save it as UTF-8 without any"
        if first.lower().startswith("sep="):
            return f"begins with {quoted(first)}, which is meant for Excel; delete that line"
        if first.startswith("#"):
            return f"begins with the comment {quoted(first)}; delete that line"
        for sign, name in _SEPARATORS.items():
            parts = {part.strip(" '\"") for column in self.columns for part in column.split(sign)}
            if parts & wanted and any(sign in column for column in self.columns):
                return f"the columns are separated by {name}; save the file with commas"
        for column in self.columns:
            if column.strip("' ") in wanted and column.strip().startswith("'"):
                return (
                    f"the column name {shown(column)} stands in single quotes; save the file with "
                    "double quotes or with none"
                )
            if column.strip() in wanted:
                return f"the column name {quoted(column)} has spaces around it; remove them"
            if column.strip().lower() in wanted:
                return (
                    f"the column name {quoted(column)} is in capitals; "
                    f"rename it {column.strip().lower()!r}"
                )
        if not _NAMES & set(self.columns) and self._parquet is None:
            return (
                f"the first line, which begins with {quoted(first)}, names no column of the "
                "data contract; put the names before the rows, such as query_id, product_id, "
                "query, product_title, esci_label"
            )
        return None

    def place(self, row: int) -> str:
        """The path, and the line of a CSV or the row of a Parquet file, both counted from 1."""
        where = f"line {self.lines[row]}" if self._parquet is None else f"row {row + 1}"
        return f"{self.path}, {where}"

    def fault(self, row: int, column: str, sentence: str) -> DataError:
        """A DataError about one cell."""
        return DataError(f"{self.place(row)}, column {column!r}: {sentence}")

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Number of the first row and the rows, batch by batch."""
        parquet = self._parquet
        for batch in self._parquet_batches(parquet) if parquet else self._csv_batches():
            if batch.num_rows:
                yield self.rows, batch
                self.rows += batch.num_rows
        if not self.rows:
            raise DataError(f"{self.path}: the file has no rows; add at least one.")

    def _parquet_batches(self, file: pq.ParquetFile) -> Iterator[pa.Table]:
        try:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowException) as error:
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

    def _csv_records(self) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)  # our own limit names the column
        width, begin = 0, 1
        with open(self.path, "rb") as file:
            reader = csv.reader(self._decoded(file), strict=True)
            try:
                for record in reader:
                    blank = len(record) < 2 and width != 1 and not "".join(record).strip()
                    if record and not blank and not width:
                        width = len(record)
                        yield record
                    elif record and not blank:
                        self.lines.append(begin)
                        if len(record) != width:
                            raise self._another_width(begin, record, width)
                        yield record
                    begin = reader.line_num + 1
            except csv.Error as error:
                what = (
                    f"not valid CSV ({error}); close every quotation mark and double those inside"
                )
                what += " a text."
                if "new-line character" in str(error):
                    what = "the line ends with CR alone; save the file with LF or CRLF."
                raise DataError(f"{self.path}, line {begin}: {what}") from error

    def _another_width(self, line: int, record: list[str], width: int) -> DataError:
        if len(record) < width:
            what = f"1 field, {quoted(record[0])}," if len(record) == 1 else f"{len(record)} fields"
            mend = "complete the line or delete it"
        else:
            what, mend = f"{len(record)} fields", "put texts that hold a comma in double quotes"
            if any(field.startswith((' "', '\t"')) for field in record):
                mend = "remove the space before the quotation mark"
        return DataError(f"{self.path}, line {line}: {what} where the header has {width}; {mend}.")

    def _decoded(self, file: BinaryIO) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x} at position {error.start + 1}"
                raise DataError(
                    f"{self.path}, line {number}: the byte {byte} is not UTF-8; "
                    "save the file as UTF-8."
                ) from None


def _storable(kind: pa.DataType) -> bool:
    """Whether `datasets` has a type for a column. It is loaded only where that is in doubt."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if any(test(kind) for test in _PLAIN):
        return True
    from datasets import Features

    try:
        return bool(Features.from_arrow_schema(pa.schema([("column", kind)])))
    except (ValueError, NotImplementedError):
        return False


def text(file: TableFile, start: int, batch: pa.Table, name: str) -> list[str]:
    """One column of a batch as strings: "" for null, and throughout where there is no column.

    `start` is the number of the batch's first row. Raises DataError for what is no text, is not
    UTF-8, is longer than MAX_CHARACTERS, or is an id that has lost digits.
    """
    if name not in batch.column_names:
        return [""] * batch.num_rows
    column = batch.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        if pa.types.is_floating(column.type):
            column = _whole(file, start, column, name)
        column = column.cast(pa.string())
        column.validate(full=True)
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"{file.path}, column {name!r}: holds {shown(str(column.type))}; store it as text."
        ) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _not_text(file, start, column, name, error) from None
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


def _whole(file: TableFile, start: int, column: pa.Array, name: str) -> pa.Array:
    """Floating-point numbers as texts: 7 for 7.0, for pandas stores ids beside missing ones so."""
    column = pc.if_else(pc.is_nan(column), None, column.cast(pa.float64()))
    whole = pc.fill_null(pc.equal(pc.floor(column), column), False)
    large = pc.fill_null(pc.greater_equal(pc.abs(column), _EXACT), False)
    if name in ("query_id", "product_id") and pc.any(large).as_py():
        raise file.fault(
            start + pc.index(large, True).as_py(),
            name,
            "the id is a floating-point number so large that digits are lost; store ids as text.",
        )
    exact = pc.and_(whole, pc.invert(large))
    integers = pc.if_else(exact, column, None).cast(pa.int64()).cast(pa.string())
    return pc.if_else(exact, integers, column.cast(pa.string()))


def _not_text(
    file: TableFile, start: int, column: pa.Array, name: str, error: Exception
) -> DataError:
    kinds = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string)
    if any(test(column.type) for test in (*kinds, pa.types.is_large_binary)):
        for row, value in enumerate(column.cast(pa.large_binary())):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError:
                return file.fault(start + row, name, "the text is not UTF-8; save it as UTF-8.")
    return DataError(
        f"{file.path}, column {name!r}: cannot be read as text ({shown(str(error))}); "
        "store it as text."
    )


class Faults:
    """What is wrong with the rows of a file: the first place of each kind, and how often."""

    def __init__(self, file: TableFile):
        self.file = file
        self._first: dict[tuple[str, str], tuple[int, str]] = {}
        self._count: dict[tuple[str, str], int] = {}

    def add(self, row: int, column: str, kind: str, sentence: str) -> None:
        """Note a fault; those of one kind in one column are told as one."""
        key = (column, kind)
        self._first.setdefault(key, (row, sentence))
        self._count[key] = self._count.get(key, 0) + 1

    def add_blanks(self, start: int, values: list[str], name: str, hint: str = "") -> None:
        """Note each value of which nothing can be seen."""
        for row, value in enumerate(values, start):
            if is_blank(value):
                self.add(row, name, "empty", f"empty{hint}; fill it in or drop the row.")

    def sentences(self) -> list[str]:
        """A sentence for each kind, in the order of the rows, at most ten."""
        told = []
        for (column, kind), (row, sentence) in sorted(
            self._first.items(), key=lambda item: item[1][0]
        ):
            more = self._count[column, kind] - 1
            place = self.file.place(row)
            place += f" and {more:,} more row{'s' if more > 1 else ''}" if more else ""
            told.append(f"{place}, column {column!r}: {sentence}")
        return told[:10]

    def settle(self) -> None:
        """Raise DataError with all that was noted, if anything was."""
        if self._first:
            raise DataError(*self.sentences())


class ArrowWriter:
    """Writes batches into one Arrow stream, and then gives it memory-mapped."""

    schema: pa.Schema
    """The columns, once some were written."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: pa.RecordBatchStreamWriter | None = None

    def write(
        self,
        columns: dict[str, list[str]],
        further: pa.Table,
        labels: list[int] | None = None,
    ) -> None:
        """Append rows: texts, then `label` (class numbers), then further columns."""
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        if labels is not None:
            table = table.append_column("label", pa.array(labels, pa.int64()))
        for name in further.column_names:
            column = further.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            table = table.append_column(name, column)
        if self._stream is None:
            self.schema = table.schema.remove_metadata()
            self._stream = pa.ipc.new_stream(str(self.path), self.schema)
        self._stream.write_table(table.cast(self.schema))

    def close(self) -> None:
        """End the stream, after which `table` and `dataset` give what was written."""
        if self._stream is not None:
            self._stream.close()

    def table(self) -> pa.Table:
        """The rows, memory-mapped."""
        return pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()

    def dataset(self, names: tuple[str, ...] | None = None) -> Dataset:
        """The rows as a memory-mapped Dataset, in which `names` are those of the classes."""
        from datasets import ClassLabel, Dataset, DatasetInfo, Features

        features = Features.from_arrow_schema(self.schema)
        if names is not None:
            features["label"] = ClassLabel(names=list(names))
        return Dataset.from_file(str(self.path), info=DatasetInfo(features=features))
