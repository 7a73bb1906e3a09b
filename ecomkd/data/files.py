"""The files of a data set: which ones a path stands for, how they are read, and the mapped copy.

What is refused is refused with its place and its mend. Chapter 1.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecomkd.data.contract import TEXT, DataError, quoted, shown

if TYPE_CHECKING:
    from datasets import Dataset

MAX_CHARACTERS = 100_000
"""A longer text is taken for a mistake, such as a quotation mark that is never closed."""

STEMS = ("judgments", "products", "unlabelled")
"""The names, without the ending, of the files that a folder of data may hold."""

_BATCH = 2_000
_EXACT = 2**53  # up to here a floating-point number tells every whole number apart
_NAMES = {"query_id", "product_id", "query", "esci_label", "grade", "split", "fold", *TEXT}
_IDS = {"query_id", "product_id", "user_id", "item_id", "basket_id"}
_EXAMPLE = ("query_id", "product_id", "query", "product_title", "esci_label")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SHEET = "save the sheet as CSV in UTF-8"
_PACKED = "unpack it"
_OBJECTS = "write its objects as the rows of a CSV or Parquet file"
_COLUMNS = "write it as a Parquet file"
# The kinds of files in which tables are kept elsewhere, by suffix, and the way here from each.
_ELSEWHERE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SHEET),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"), _PACKED),
    **dict.fromkeys((".tsv", ".tab"), "save it with commas as CSV in UTF-8"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _OBJECTS),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".pq"), _COLUMNS),
}
# How such files begin, whatever they are called.
_POINTER = "a pointer of Git LFS: fetch the file itself with `git lfs pull`"
_BEGINNINGS = (
    (b"PAR1", "a Parquet file: give its name the ending .parquet"),
    (b"PK\x03\x04", f"an Excel sheet or a packed file, not CSV: {_SHEET}, or {_PACKED}"),
    (b"\xd0\xcf\x11\xe0", f"an Excel sheet, not CSV: {_SHEET}"),
    (b"\x1f\x8b", f"packed with gzip: {_PACKED}"),
    (b"version https://git-lfs", _POINTER),
    (b"<", "an HTML or XML page, not CSV: download the data themselves"),
    (b"{", f"JSON, not CSV: {_OBJECTS}"),
    (b"[", f"JSON, not CSV: {_OBJECTS}"),
    (b"\0", "no text, for it begins with a zero byte: write or copy it again"),
)


def data_files(path: Path) -> tuple[Path, Path | None, Path | None]:
    """The files of judgments, products and unlabelled pairs that a path stands for.

    Raises DataError where there are no judgments, where a part stands in two files, or where it
    stands in a file that is not read, such as `products.xlsx`.
    """
    if not path.is_dir():
        return single_file(path), None, None
    judgments, products, unlabelled = (part_of(path, stem) for stem in STEMS)
    if judgments is None:
        raise DataError(f"{path}: no judgments.parquet or judgments.csv here; add one of them.")
    return judgments, products, unlabelled


def single_file(path: Path) -> Path:
    """The path of a table, as it is. Raises DataError for what is none that is read."""
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix not in (".csv", ".parquet"):
            raise DataError(f"{path}: cannot read this kind of file; give a .csv or a .parquet.")
        if path.suffix != suffix:
            name = path.with_suffix(suffix).name
            raise DataError(f"{path}: the ending of the name is in capitals; rename it {name}.")
        return path
    if path.exists():
        raise DataError(f"{path}: no ordinary file; copy what it gives into a .csv.")
    raise DataError(f"{path}: no such file or folder; check the path.")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror or error}); change its rights.")


def part_of(folder: Path, stem: str) -> Path | None:
    """The one file of a folder that is called `stem`, with the ending of a table; None if none is.

    Raises DataError where there are two, or one that is not read, such as `products.xlsx`.
    """
    try:
        entries = sorted(
            folder.iterdir(), key=lambda entry: (entry.suffix != ".parquet", entry.name)
        )
    except OSError as error:
        raise _unreadable(folder, error) from error
    kinds = (".parquet", ".csv", *_ELSEWHERE)
    there = [
        entry
        for entry in entries
        if entry.name.partition(".")[0].lower() == stem and entry.suffix.lower() in kinds
    ]
    if not there:
        return None
    if len(there) > 1:
        names = f"{', '.join(entry.name for entry in there[:-1])} and {there[-1].name}"
        both = "both " if len(there) == 2 else ""
        raise DataError(f"{folder}: {both}{names} are here; keep one.")
    (path,) = there
    suffix = path.suffix.lower()
    if path.is_dir():
        fault = "a folder, not a file; put its parts together in one file of that name"
    elif not path.exists():
        fault = "a link that leads nowhere; put the file itself here"
    elif not path.is_file():
        fault = "no ordinary file; copy what it gives into a file of that name"
    elif suffix in _ELSEWHERE:
        fault = f"only {stem}.csv and {stem}.parquet are read; {_ELSEWHERE[suffix]}"
    elif path.name != f"{stem}{suffix}":
        fault = f"its name has capitals; rename it {stem}{suffix}"
    else:
        return path
    raise DataError(f"{path}: {fault}.")


class TableFile:
    """A CSV or Parquet file, read in batches, that can say where a row stands."""

    def __init__(self, path: Path, names: Sequence[str] = ()):
        """`names` are those that a table of another kind than judged pairs may have."""
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DataError(f"{path}: the path is not UTF-8; rename the folder or file.") from None
        self.path, self._known = path, set(names) or _NAMES
        self._example = names or _EXAMPLE
        self.rows = 0  # in the batches before the one that is being read
        self.columns: list[str] = []
        self._lines = array("q")  # of CSV: where the header and each row begin
        try:
            with open(path, "rb") as file:
                head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
        except OSError as error:
            raise _unreadable(path, error) from error
        disguise = next((what for begin, what in _BEGINNINGS if head.startswith(begin)), None)
        if disguise == _POINTER or (disguise and path.suffix == ".csv"):
            raise DataError(f"{path}: {disguise}.")
        if path.suffix == ".csv":
            records = self._csv_records()
            self.columns = next(records, [])
            if not self.columns:
                raise DataError(f"{path}: the file is empty; add a header and rows.")
            self._batches = self._csv_batches(records)
        else:
            self._batches = self._parquet_batches(self._open_parquet())

    @property
    def by_fold(self) -> bool:
        """Whether the file gives each query a fold, and no split."""
        return "fold" in self.columns and "split" not in self.columns

    def require(self, *names: str) -> None:
        """Raise DataError unless the file has all these columns, and none twice."""
        missing = [name for name in names if name not in self.columns]
        if missing and (mend := self._mend_of_header(set(missing))):
            raise DataError(f"{self.path}: {mend}.")
        each_once(self.path, self.columns, set(self.columns))
        if missing:
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
        first = self.columns[0] if self.columns else ""
        if first.startswith("\ufeff"):
            return "begins with two byte order marks; save it as UTF-8 without any"
        if first.lower().startswith("sep="):
            return f"begins with {quoted(first)}, which is meant for Excel; delete that line"
        if first.startswith("#"):
            return f"begins with the comment {quoted(first)}; delete that line"
        for sign, name in _SEPARATORS.items():
            divided = (column.split(sign) for column in self.columns if sign in column)
            if wanted & {part.strip(" '\"") for parts in divided for part in parts}:
                return f"the columns are separated by {name}; save the file with commas"
        for column in self.columns:
            bare = column.strip()
            if bare.startswith("'") and bare.strip("' ") in wanted:
                return (
                    f"the column name {shown(column)} stands in single quotes; save the file with "
                    "double quotes or with none"
                )
            if bare in wanted:
                return f"the column name {quoted(column)} has spaces around it; remove them"
            if bare.lower() in wanted:
                name = f"the column name {quoted(column)} is in capitals"
                return f"{name}; rename it {bare.lower()!r}"
        if self.path.suffix == ".csv" and not self._known & set(self.columns):
            return (
                f"the first line, which begins with {quoted(first)}, names no column of the "
                f"data contract; put the names before the rows, such as {', '.join(self._example)}"
            )
        return None

    def place(self, row: int) -> str:
        """The path, and the line of a CSV or the row of a Parquet file, both counted from 1."""
        where = f"line {self._lines[row + 1]}" if self.path.suffix == ".csv" else f"row {row + 1}"
        return f"{self.path}, {where}"

    def batches(self) -> Iterator[pa.Table]:
        """The rows, batch by batch. Raises DataError where there is none."""
        for batch in self._batches:
            if batch.num_rows:
                yield batch
                self.rows += batch.num_rows
        if not self.rows:
            raise DataError(f"{self.path}: the file has no rows; add at least one.")

    def _open_parquet(self) -> pq.ParquetFile:
        try:
            parquet = pq.ParquetFile(self.path)
            schema = parquet.schema_arrow
            self.columns = schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self.path}: not a Parquet file, or cut short; write or copy it again."
            ) from error
        for field in schema:
            if not _storable(field.type):
                raise DataError(
                    f"{self.path}, column {quoted(field.name)}: holds "
                    f"{shown(str(field.type))}, which cannot be kept; drop it or store it as text."
                )
        return parquet

    def _parquet_batches(self, parquet: pq.ParquetFile) -> Iterator[pa.Table]:
        try:
            for batch in parquet.iter_batches(batch_size=_BATCH):
                yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: cut short or damaged; copy it again.") from error

    def _csv_batches(self, records: Iterator[list[str]]) -> Iterator[pa.Table]:
        while rows := list(islice(records, _BATCH)):
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield pa.Table.from_arrays(columns, names=self.columns)

    def _csv_records(self) -> Iterator[list[str]]:
        """The header and the rows, without blank lines."""
        csv.field_size_limit(2**31 - 1)  # our own limit names the column
        begin = 1
        with open(self.path, "rb") as file:
            reader = csv.reader(self._decoded(file), strict=True)
            try:
                for record in reader:
                    if len(record) > 1 or "".join(record).strip():
                        self._lines.append(begin)
                        if self.columns and len(record) != len(self.columns):
                            raise self._another_width(begin, record)
                        yield record
                    begin = reader.line_num + 1
            except csv.Error as error:
                mend = "close every quotation mark and double those inside a text"
                what = f"not valid CSV ({error}); {mend}"
                if "new-line character" in str(error):
                    what = "the line ends with CR alone; save the file with LF or CRLF"
                raise DataError(f"{self.path}, line {begin}: {what}.") from error

    def _another_width(self, line: int, record: list[str]) -> DataError:
        what, width = f"{len(record)} fields", len(self.columns)
        if len(record) == 1:
            what = f"1 field, {quoted(record[0])},"
        if len(record) < width:
            mend = "complete the line or delete it"
        elif any(field.startswith((' "', '\t"')) for field in record):
            mend = "remove the space before the quotation mark"
        else:
            mend = "put texts that hold a comma in double quotes"
        return DataError(f"{self.path}, line {line}: {what} where the header has {width}; {mend}.")

    def _decoded(self, lines: Iterator[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x} at position {error.start + 1}"
                raise DataError(
                    f"{self.path}, line {number}: the byte {byte} is not UTF-8; "
                    "save the file as UTF-8."
                ) from None

    def texts(self, batch: pa.Table, name: str) -> list[str]:
        """A column of the batch being read: "" for null, and throughout where there is no column.

        Raises DataError for what is no text, is not UTF-8, is longer than MAX_CHARACTERS, or is an
        id that has lost digits.
        """
        if name not in batch.column_names:
            return [""] * batch.num_rows
        column = batch.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            if pa.types.is_floating(column.type):
                column = self._whole(column, name)
            column = column.cast(pa.string())
            column.validate(full=True)
        except pa.ArrowNotImplementedError:
            raise DataError(
                f"{self.path}, column {name!r}: holds {shown(str(column.type))}; store it as text."
            ) from None
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self._not_text(column, name, error) from None
        lengths = pc.utf8_length(column)
        if (pc.max(lengths).as_py() or 0) > MAX_CHARACTERS:
            row = pc.index(pc.greater(lengths, MAX_CHARACTERS), True).as_py()
            raise self._fault(
                row,
                name,
                f"the text has {lengths[row].as_py():,} characters; "
                f"shorten it to {MAX_CHARACTERS:,} or fewer.",
            )
        return column.fill_null("").to_pylist()

    def _fault(self, row: int, column: str, sentence: str) -> DataError:
        """A DataError about one cell of the batch being read."""
        return DataError(f"{self.place(self.rows + row)}, column {column!r}: {sentence}")

    def _whole(self, column: pa.Array, name: str) -> pa.Array:
        """Floating-point numbers as `digits` gives them; DataError for an id that has lost some."""
        large = pc.greater_equal(pc.abs(column.cast(pa.float64())), _EXACT)
        if name in _IDS and pc.any(large).as_py():
            raise self._fault(
                pc.index(large, True).as_py(),
                name,
                "the id is a floating-point number so large that digits are lost; "
                "store ids as text.",
            )
        return digits(column)

    def _not_text(self, column: pa.Array, name: str, error: Exception) -> DataError:
        if _is_text(column.type):
            for row, value in enumerate(column.cast(pa.large_binary())):
                try:
                    (value.as_py() or b"").decode()
                except UnicodeDecodeError:
                    return self._fault(row, name, "the text is not UTF-8; save it as UTF-8.")
        return DataError(
            f"{self.path}, column {name!r}: cannot be read as text ({shown(str(error))}); "
            "store it as text."
        )


def each_once(file: Path, columns: Sequence[str], names: Iterable[str]) -> None:
    """Raise DataError where one of these names occurs twice among the columns of a file."""
    for name in names:
        if columns.count(name) > 1:
            raise DataError(f"{file}: the column {quoted(name)} occurs twice; rename or drop one.")


def digits(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Floating-point numbers as texts: 7 for 7.0, as pandas stores ids beside missing ones."""
    column = column.cast(pa.float64())
    column = pc.if_else(pc.is_nan(column), None, column)
    exact = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _EXACT))
    integers = pc.if_else(exact, column, None).cast(pa.int64()).cast(pa.string())
    return pc.coalesce(integers, column.cast(pa.string()))


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _storable(kind: pa.DataType) -> bool:
    """Whether `datasets` has a type for a column. It is loaded only where that is in doubt."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind):
        return True
    from datasets import Features

    try:
        return bool(Features.from_arrow_schema(pa.schema([("column", kind)])))
    except (ValueError, NotImplementedError):
        return False


class ArrowWriter:
    """Writes batches into one Arrow stream, and then gives it memory-mapped."""

    schema: pa.Schema
    """The columns, once some were written."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: pa.RecordBatchStreamWriter | None = None

    def write(self, columns: dict[str, list], further: pa.Table) -> None:
        """Append rows: our own columns, then further ones."""
        table = pa.table(columns)
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
        """End the stream, after which it can be read."""
        if self._stream is not None:
            self._stream.close()

    def dataset(self, names: tuple[str, ...] = ()) -> Dataset:
        """The rows as a memory-mapped Dataset, in which `names` are those of the classes."""
        from datasets import ClassLabel, Dataset, DatasetInfo, Features

        features = Features.from_arrow_schema(self.schema)
        if names:
            features["label"] = ClassLabel(names=list(names))
        return Dataset.from_file(str(self.path), info=DatasetInfo(features=features))
