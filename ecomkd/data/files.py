"""The files that a path stands for, and what to do about those that are something else.

Only the standard library is loaded here. Chapter 1.
"""

from __future__ import annotations

from pathlib import Path

MAX_CHARACTERS = 100_000
"""A longer text is taken for a mistake, such as a quotation mark that is never closed."""

NAMES = {"shop": "simulated shop", "esci": "Shopping Queries Dataset from the hub"}
"""The sources that are no paths. A folder of such a name is given as `./shop`."""

STEMS = ("judgments", "products", "unlabelled")
"""The names, without the ending, of the files that a folder of data may hold."""

_SHEET = "save the sheet as CSV in UTF-8"
_PACKED = "unpack it"
_COMMAS = "save it with commas as CSV in UTF-8"
_OBJECTS = "write its objects as the rows of a CSV or Parquet file"
_COLUMNS = "write it as a Parquet file"
# The kinds of files in which tables are kept elsewhere, by suffix, and the way here from each.
_ELSEWHERE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SHEET),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"), _PACKED),
    **dict.fromkeys((".tsv", ".tab"), _COMMAS),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _OBJECTS),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".pq"), _COLUMNS),
}
# How such files begin, whatever they are called.
_BEGINNINGS = (
    (b"PAR1", "a Parquet file: give its name the ending .parquet"),
    (b"PK\x03\x04", f"an Excel sheet or a packed file, not CSV: {_SHEET}, or {_PACKED}"),
    (b"\xd0\xcf\x11\xe0", f"an Excel sheet, not CSV: {_SHEET}"),
    (b"\x1f\x8b", f"packed with gzip: {_PACKED}"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with `git lfs pull`"),
    (b"<", "an HTML or XML page, not CSV: download the data themselves"),
    (b"{", f"JSON, not CSV: {_OBJECTS}"),
    (b"[", f"JSON, not CSV: {_OBJECTS}"),
    (b"\0", "no text, for it begins with a zero byte: write or copy it again"),
)


class DataError(ValueError):
    """Input that breaks the contract: `sentences`, each with the place of a fault and its mend."""

    def __init__(self, *sentences: str):
        super().__init__("\n".join(sentences))
        self.sentences = sentences


def shown(text: str, limit: int = 80) -> str:
    """The text fit for a terminal: no longer than `limit`, and what cannot be printed escaped."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def quoted(text: str) -> str:
    """The text between quotation marks, as `shown` gives it."""
    return repr(text if len(text) <= 80 else text[:79] + "…")


def data_files(path: Path) -> tuple[Path, Path | None, Path | None]:
    """The files of judgments, products and unlabelled pairs that a path stands for.

    Raises DataError where there are no judgments, where a part stands in two files, or where it
    stands in a file that is not read, such as `products.xlsx`.
    """
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise DataError(f"{path}: cannot read this kind of file; give a .csv or a .parquet.")
        if path.suffix != path.suffix.lower():
            name = path.with_suffix(path.suffix.lower()).name
            raise DataError(f"{path}: the ending of the name is in capitals; rename it {name}.")
        return path, None, None
    if not path.is_dir():
        if path.exists():
            raise DataError(f"{path}: no ordinary file; copy what it gives into a .csv.")
        raise DataError(f"{path}: no such file or folder; check the path.")
    try:
        entries = sorted(path.iterdir(), key=lambda entry: (entry.suffix != ".parquet", entry.name))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); change its rights.") from error
    judgments, products, unlabelled = (_part(path, entries, stem) for stem in STEMS)
    if judgments is None:
        raise DataError(f"{path}: no judgments.parquet or judgments.csv here; add one of them.")
    return judgments, products, unlabelled


def _part(folder: Path, entries: list[Path], stem: str) -> Path | None:
    kinds = (".parquet", ".csv", *_ELSEWHERE)
    there = [
        entry
        for entry in entries
        if entry.name.partition(".")[0].lower() == stem and entry.suffix.lower() in kinds
    ]
    if len(there) > 1:
        names = f"{', '.join(entry.name for entry in there[:-1])} and {there[-1].name}"
        both = "both " if len(there) == 2 else ""
        raise DataError(f"{folder}: {both}{names} are here; keep one.")
    if not there:
        return None
    (path,) = there
    if path.name in (f"{stem}.parquet", f"{stem}.csv") and path.is_file():
        return path
    if path.is_dir():
        how = "put its parts together in one file of that name"
        raise DataError(f"{path}: a folder, not a file; {how}.")
    if not path.exists():
        raise DataError(f"{path}: a link that leads nowhere; put the file itself here.")
    if not path.is_file():
        raise DataError(f"{path}: no ordinary file; copy what it gives into a file of that name.")
    if path.suffix.lower() in _ELSEWHERE:
        names, how = f"{stem}.csv and {stem}.parquet", _ELSEWHERE[path.suffix.lower()]
        raise DataError(f"{path}: only {names} are read; {how}.")
    raise DataError(f"{path}: its name has capitals; rename it {stem}{path.suffix.lower()}.")


def disguise(path: Path) -> str | None:
    """What a file named .csv is in truth, with the mend; None where it may well be CSV."""
    with open(path, "rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    return next((what for begin, what in _BEGINNINGS if head.startswith(begin)), None)
