"""Kinds of input for `ecomkd check`: how each is written, and what is to be said about it.

A case is refused with a sentence that holds all of its `words`, or accepted: then `words` stand in
the notes of the report, or there is none beside the one on too few test queries.
"""

import csv
import gzip
import io
import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ["query_id", "product_id", "query", "product_title", "esci_label", "split"]
GRADED = [*COLUMNS[:4], "grade", "split"]
QUERIES = (
    "red shoes", "blue mug", "desk lamp", "garden hose", "usb cable", "cotton towel", "steel pan",
    "kids bike", "wool hat", "tea pot", "office chair", "phone case",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    write: Callable[[Path], object]
    accepted: bool
    words: tuple[str, ...]


CASES: dict[str, Case] = {}


def rows() -> list[list[str]]:
    """Twelve queries with four products each, one of every label; seven queries for training."""
    return [
        [
            f"q{number + 1}",
            f"p{number * 4 + place + 1}",
            query,
            f"{query.title()} model {place}",
            label,
            "train" if number < 7 else "validation" if number < 9 else "test",
        ]
        for number, query in enumerate(QUERIES)
        for place, label in enumerate("ESCI")
    ]


def table(lines: list[list[str]], columns: list[str] = COLUMNS, **dialect) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", **dialect)
    writer.writerows([columns, *lines])
    return out.getvalue()


def with_cell(row: int | range, column: str, value: str, columns: list[str] = COLUMNS) -> str:
    """The good table with one value in some rows of a column."""
    lines = rows()
    for number in [row] if isinstance(row, int) else row:
        lines[number][columns.index(column)] = value
    return table(lines)


def with_row(*values: str) -> str:
    return table([*rows(), list(values)])


def relabelled(change: Callable[[str, str], str], columns: list[str] = COLUMNS) -> str:
    """The table with another label in each row, from its label and its split."""
    return table([[*row[:4], change(row[4], row[5]), row[5]] for row in rows()], columns)


def grades(change: Callable[[str], str] = str) -> str:
    return relabelled(lambda label, _: change(str(3 - "ESCI".index(label))), GRADED)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(rows(), columns=COLUMNS).assign(**columns)


def arrow(name: str | None = None, values: pa.Array | None = None, place: int | None = None):
    """The good table in Arrow, with a further column or another in the place of one."""
    given = pa.Table.from_pandas(frame())
    if name is None:
        return given
    if place is None:
        return given.append_column(name, values)
    return given.set_column(place, name, values)


def ungraded(grade) -> pd.DataFrame:
    return frame(grade=grade).drop(columns="esci_label")


def files(**contents: str | bytes) -> Callable[[Path], None]:
    """A writer of files; a name's double underline stands for its last full stop."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            data = (
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )
            (folder / name.replace("__", ".")).write_bytes(data)

    return write


def parquet(content) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "judgments.parquet"
        pq.write_table(content, path) if isinstance(content, pa.Table) else content.to_parquet(path)

    return write


def yes(name: str, write, *words: str) -> None:
    write = files(judgments__csv=write) if isinstance(write, (str, bytes)) else write
    CASES[name] = Case(write, True, words)


def no(name: str, write, *words: str) -> None:
    write = files(judgments__csv=write) if isinstance(write, (str, bytes)) else write
    CASES[name] = Case(write, False, words)


GOOD = table(rows())
HEADER = ",".join(COLUMNS)

yes("good", GOOD)
yes("good parquet", parquet(frame()))

# Folds in the place of splits -----------------------------------------------------------------

FOLDED = [*COLUMNS[:5], "fold"]


def by_fold(fold: Callable[[int], object], label: Callable[[str, int], str] = lambda x, _: x):
    """The table with the fold of each query, from its number; labels change with it."""
    lines = []
    for place, row in enumerate(rows()):
        number = place // 4
        lines.append([*row[:4], label(row[4], number), fold(number)])
    return table(lines, FOLDED)


def folds(values: list) -> pd.DataFrame:
    return frame(fold=np.repeat(values, 4)).drop(columns="split")


THREE = [number % 3 for number in range(12)]

yes("folds", by_fold(lambda number: number % 3), "12 test queries are too few")
yes("folds as numbers", parquet(folds(THREE)), "12 test queries are too few")
yes("folds as floats", parquet(folds([float(fold) for fold in THREE])), "12 test queries are")
yes("folds as a spreadsheet writes them", by_fold(lambda number: f"{number % 3}.0"))
yes("folds beside splits", parquet(frame(fold="first")))
no(
    "a query in two folds",
    by_fold(lambda number: number % 3).replace("Red Shoes model 1,S,0", "Red Shoes model 1,S,2"),
    "line 3, column 'query': the query 'red shoes' is in fold 2, and in fold 0 at",
    "keep each query in one fold.",
)
no(
    "a query in a fold and unlabelled",
    files(
        judgments__csv=by_fold(lambda number: number % 3),
        unlabelled__csv="query_id,product_id,query,product_title\nu1,p1,Blue Mug,Red shoes\n",
    ),
    "the query 'Blue Mug' is in unlabelled, and in fold 1 at",
)
no("two folds", by_fold(lambda number: number % 2), "there are 2 folds", "make 3 or more")
no("one fold", by_fold(lambda number: 0), "there is a single fold", "make 3 or more")
no(
    "a fold without a query",
    by_fold(lambda number: [0, 1, 3][number % 3]),
    "column 'fold': no query is in fold 2, and one is in fold 3; number the folds from 0",
)
no("folds from 1", by_fold(lambda number: number % 3 + 1), "no query is in fold 0, and one is in")
no(
    "a large fold",
    by_fold(lambda number: 999_999_999 if number == 3 else number % 3),
    "no query is in fold 3, and one is in fold 999999999",
)
no(
    "no fold",
    by_fold(lambda number: "" if number == 2 else number % 3),
    "line 10 and 3 more rows, column 'fold': the fold is empty; use the whole numbers from 0 on",
)
no(
    "a missing fold",
    parquet(
        folds([None if number == 2 else number % 3 for number in range(12)]).astype({"fold": float})
    ),
    "row 9 and 3 more rows, column 'fold': the fold is empty",
)
for name, fold in (
    ("half a", "1.5"),
    ("a negative", "-1"),
    ("a named", "unlabelled"),
    ("a great", "9" * 30),
):
    no(
        f"{name} fold",
        by_fold(lambda number, fold=fold: fold if number == 2 else number % 3),
        f"line 10 and 3 more rows, column 'fold': unknown fold '{fold}'; use the whole numbers",
    )
no(
    "nothing relevant in a fold",
    by_fold(lambda number: number % 3, lambda label, number: "I" if number % 3 == 2 else label),
    "column 'esci_label': no product is relevant in fold 2",
    "judge some products there as one of E, S, C.",
)

# Columns ------------------------------------------------------------------------------------------

for place, column in enumerate(COLUMNS[:5]):
    rest = [row[:place] + row[place + 1 :] for row in rows()]
    names = [name for name in COLUMNS if name != column]
    no(f"no {column}", table(rest, names), f"column '{column}' is missing; add it (found: ")
yes("no split", table([row[:5] for row in rows()], COLUMNS[:5]))
no(
    "no ids",
    table([row[2:] for row in rows()], COLUMNS[2:]),
    "'query_id', 'product_id' are missing; add them",
)
no("title renamed", GOOD.replace("product_title", "title", 1), "'product_title' is missing")
no(
    "capitals",
    GOOD.replace(HEADER, HEADER.upper(), 1),
    "'QUERY_ID' is in capitals; rename it 'query_id'",
)
no(
    "spaces in the header",
    GOOD.replace(HEADER, HEADER.replace(",", ", "), 1),
    "' product_id' has spaces around it",
)
yes("further columns", table([[*row, "x", ""] for row in rows()], [*COLUMNS, "price", "note"]))
yes("a column without a name", table([["7", *row] for row in rows()], ["", *COLUMNS]))
no(
    "two without a name",
    table([["a", "b", *row] for row in rows()], ["", "", *COLUMNS]),
    "the column '' occurs twice",
)
no(
    "a column label",
    table([[*row, "x"] for row in rows()], [*COLUMNS, "label"]),
    "'label' is taken",
)
further = ["length", "labels", "input_ids", "score", "query_kind"]
yes("names of a trainer", table([[*row, *"vwxyz"] for row in rows()], [*COLUMNS, *further]))
yes("comma at the end", "".join(line + ",\n" for line in GOOD.splitlines()))
no(
    "no header",
    GOOD.split("\n", 1)[1],
    "begins with 'q1'",
    "names no column",
    "put the names before",
)
yes(
    "5,000 columns",
    table([[*row, *["v"] * 5000] for row in rows()], [*COLUMNS, *map(str, range(5000))]),
)
no("5,000 others", table([["v"] * 5000], [*COLUMNS[1:], *map(str, range(4995))]), "and 4988 more)")

# Labels -------------------------------------------------------------------------------------------

words = dict(zip("ESCI", ("Exact", "Substitute", "Complement", "Irrelevant"), strict=True))
no(
    "words",
    relabelled(lambda label, _: words[label]),
    "line 2 and 47 more rows",
    "label 'Exact'; use",
)
no("small letters", GOOD.replace(",E,", ",e,"), "label 'e'; use one of E, S, C, I")
no("a space", GOOD.replace(",E,", ",E ,"), "label 'E '; use one of")
yes("a label with .0", GOOD.replace(",E,", ",E.0,"))
yes("grades", grades())
yes("grades as floats", grades(lambda grade: grade + ".0"))
for name, value in {"half": "1.5", "four": "4", "minus": "-1", "plus": "+3", "zero": "03"}.items():
    no(
        f"grade {name}",
        grades(lambda grade, v=value: v if grade == "1" else grade),
        f"label '{value}'",
    )
no(
    "both",
    table([[*row, "3"] for row in rows()], [*COLUMNS, "grade"]),
    "both 'esci_label' and 'grade'",
)
no("grade bool", parquet(ungraded([True, False] * 24)), "row 1", "label 'true'")
no(
    "grade null",
    parquet(ungraded([3.0, 2.0, 1.0, 0.0] * 11 + [None] * 4)),
    "row 45",
    "is empty; use",
)
no("grade float32", parquet(ungraded(np.full(48, 2.5, "float32"))), "label '2.5'")
no("grade inf", parquet(ungraded([3.0, 2.0, 1.0, np.inf] * 12)), "row 4", "label 'inf'")
decimals = pa.Table.from_pandas(frame().drop(columns="esci_label"))
decimals = decimals.append_column("grade", pa.array([3, 2, 1, 0] * 12).cast(pa.decimal128(22, 2)))
no("grade decimal", parquet(decimals), "label '3.00'")
one = "nothing can be learnt of the other labels"
yes("one class", relabelled(lambda *_: "E"), one)
yes("one class in training", relabelled(lambda e, s: "E" if s == "train" else e), one)
for split in ("test", "validation"):
    no(
        f"nothing relevant in {split}",
        relabelled(lambda label, s, split=split: "I" if s == split else label),
        f"no product is relevant in {split}",
        "judge some products there as one of E, S, C",
    )
no("irrelevant alone", relabelled(lambda *_: "I"), "no product is relevant in test")
no("grade 0 alone", grades(lambda _: "0"), "no product is relevant", "as one of 1, 2, 3")

# Ids ----------------------------------------------------------------------------------------------

whole = {"query_id": np.repeat(range(12), 4), "product_id": range(48)}
yes("integers", parquet(frame(**whole)))
yes("floats", parquet(frame(**whole).astype({"query_id": float, "product_id": float})))
no(
    "floats too large",
    parquet(frame(product_id=np.arange(48.0) + 1e16)),
    "row 1",
    "digits are lost",
)
no(
    "floats with NaN",
    parquet(frame(product_id=[np.nan, *map(float, range(1, 48))])),
    "row 1",
    "empty",
)
yes("unsigned integers", parquet(frame(product_id=np.arange(48, dtype="uint64") + 2**63)))
zeros = [[row[0].replace("q", "000"), row[1].replace("p", "00"), *row[2:]] for row in rows()]
yes("leading zeros", table(zeros))
yes("7 and 007", GOOD.replace(",p1,", ",7,").replace(",p2,", ",007,"))
yes("spaces around an id", GOOD.replace(",p1,", ", p2 ,"))
yes("as Excel writes them", table([[row[0], f"1.0E+{row[1][1:]}", *row[2:]] for row in rows()]))


def catalogue_as(kind) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        ids = [int(row[1][1:]) + 10**11 for row in rows()]
        frame(product_id=ids).drop(columns="product_title").to_parquet(folder / "judgments.parquet")
        titles = {
            "product_id": [kind(key) for key in ids],
            "product_title": [f"t {i}" for i in ids],
        }
        pd.DataFrame(titles).to_parquet(folder / "products.parquet")

    return write


yes("floats for integers in products", catalogue_as(float))
yes("texts for integers in products", catalogue_as(str))


def zeros_against_integers(folder: Path) -> None:
    lines = [[row[0], row[1][1:].zfill(6), *row[2:]] for row in rows()]
    (folder / "judgments.csv").write_text(table(lines))
    titles = {"product_id": range(1, 49), "product_title": [f"t {i}" for i in range(48)]}
    pd.DataFrame(titles).to_parquet(folder / "products.parquet")


no(
    "zeros against integers",
    zeros_against_integers,
    "products.parquet, column 'product_id': none of the 48 judged products is in it",
    "such as '000001', which stands there as '1'",
    "with the same leading zeros",
)

# Encodings ----------------------------------------------------------------------------------------

accented = with_cell(0, "product_title", "Café naïve")
yes("byte order mark", "\ufeff" + GOOD)
yes("mojibake", with_cell(0, "product_title", "CafÃ© â€“ mojibake"))
no("two byte order marks", "\ufeff\ufeff" + GOOD, "two byte order marks; save it as UTF-8")
for name, data, byte in (
    ("cp1252", accented.encode("cp1252"), "line 2: the byte 0xe9"),
    ("latin-1", accented.encode("latin-1"), "line 2: the byte 0xe9"),
    ("utf-16", GOOD.encode("utf-16"), "line 1: the byte 0xff"),
    ("utf-32", GOOD.encode("utf-32"), "line 1: the byte 0xff"),
    ("a surrogate", with_cell(0, "product_title", "bad \ud800"), "line 2: the byte 0xed"),
    ("gb18030", GOOD.replace("Red Shoes", "红鞋").encode("gb18030"), "line 2: the byte 0xba"),
    ("shift_jis", GOOD.replace("Red Shoes", "赤い靴").encode("shift_jis"), "line 2: the byte 0x90"),
):
    no(name, data, byte, "save the file as UTF-8")

# Dialects -----------------------------------------------------------------------------------------

for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
    no(name, GOOD.replace(",", sign), f"separated by {name}; save the file with commas")
yes("crlf", GOOD.replace("\n", "\r\n"))
no("cr", GOOD.replace("\n", "\r"), "line 1: the line ends with CR alone; save the file with LF")
yes("mixed line ends", GOOD.replace("\n", "\r\n", 7))
yes("line breaks in a text", with_cell(0, "product_title", 'Red\nShoes "large"\r\nline three'))
no(
    "unclosed",
    GOOD.replace("Red Shoes model 0", '"Red Shoes', 1),
    "line 2",
    "close every quotation mark",
)
yes("stray quotes", GOOD.replace("Red Shoes model 0", 'Red "Shoes" 12" model', 1))
no("backslash", GOOD.replace("Red Shoes model 0", r'"Red \"Shoes\""', 1), "double those inside")
yes("all quoted", table(rows(), quoting=csv.QUOTE_ALL))
no(
    "single quotes",
    table(rows(), quoting=csv.QUOTE_ALL, quotechar="'"),
    "single quotes; save the file with double quotes",
)
no("sep line", "sep=,\n" + GOOD, "begins with 'sep=', which is meant for Excel; delete that line")
no("comment", "# exported\n" + GOOD, "begins with the comment '# exported'; delete that line")
yes("blank lines", GOOD.replace("\n", "\n\n"))
yes("a line of spaces", GOOD + "   \n")
yes("blank lines before", "\n \n\n" + GOOD)
no("ctrl-z", GOOD + "\x1a", "line 50: 1 field, '\\x1a'", "complete the line or delete it")
no("short row", GOOD + "q13,p99\n", "line 50: 2 fields where the header has 6; complete the line")
no("a comma too many", GOOD + "q1,p1,a,b,c,E,train\n", "7 fields", "hold a comma in double quotes")
no(
    "space before a quote",
    GOOD.replace("red", ' "red, x"', 1),
    "remove the space before the quotation mark",
)

# Other kinds of files -----------------------------------------------------------------------------

sheet = io.BytesIO()
with zipfile.ZipFile(sheet, "w") as archive:
    archive.writestr("[Content_Types].xml", "<x/>")
objects = [dict(zip(COLUMNS, row, strict=True)) for row in rows()]
lines = "\n".join(map(json.dumps, objects))
columnar = io.BytesIO()
frame().to_parquet(columnar)
packed = gzip.compress(GOOD.encode())
only = "only judgments.csv and judgments.parquet are read"
no("xlsx", files(judgments__xlsx=sheet.getvalue()), only, "save the sheet as CSV in UTF-8")
no("gz", files(**{"judgments.csv.gz": packed}), only, "unpack it")
no("jsonl", files(judgments__jsonl=lines), only, "write its objects as the rows of a CSV")
no("tsv", files(judgments__tsv=GOOD.replace(",", "\t")), only, "save it with commas")
no("xlsx named csv", sheet.getvalue(), "an Excel sheet or a packed file", "save the sheet as CSV")
no("xls named csv", b"\xd0\xcf\x11\xe0" + bytes(100), "an Excel sheet, not CSV: save the sheet")
no("gz named csv", packed, "packed with gzip: unpack it")
no("jsonl named csv", lines, "JSON, not CSV")
no("json named csv", json.dumps(objects), "JSON, not CSV")
no("parquet named csv", columnar.getvalue(), "a Parquet file: give its name the ending .parquet")
no(
    "csv named parquet",
    files(judgments__parquet=GOOD),
    "not a Parquet file, or cut short; write or copy it again",
)
no("capital ending", files(judgments__CSV=GOOD), "its name has capitals; rename it judgments.csv")
no("capital stem", files(Judgments__csv=GOOD), "its name has capitals; rename it judgments.csv")
no(
    "html",
    "<!doctype html><html><body>404</body></html>",
    "an HTML or XML page",
    "download the data",
)
pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
no("pointer", files(judgments__parquet=pointer), "Git LFS", "git lfs pull")
no("pointer in csv", pointer, "Git LFS", "git lfs pull")
no("zero bytes", bytes(100_000), "begins with a zero byte")

# Types of Parquet ---------------------------------------------------------------------------------

yes("categories", parquet(frame().astype("category")))
large = {name: pa.array(frame()[name].tolist(), pa.large_string()) for name in COLUMNS}
yes("large strings", parquet(pa.table(large)))
yes(
    "dictionaries",
    parquet(
        pa.table({name: pa.array(frame()[name].tolist()).dictionary_encode() for name in COLUMNS})
    ),
)
yes("an index", parquet(frame().set_index("query_id")))
no(
    "struct title",
    parquet(arrow("product_title", pa.array([{"en": "x"}] * 48), 3)),
    "holds struct<en",
)
no(
    "null title",
    parquet(arrow("product_title", pa.nulls(48), 3)),
    "row 1 and 47 more rows",
    "empty",
)
no("null split", parquet(arrow("split", pa.nulls(48), 5)), "unknown split ''; use train or")
alike = "all judged products have the same title"
yes("binary title", parquet(arrow("product_title", pa.array([b"abc"] * 48), 3)), alike)
yes("boolean title", parquet(arrow("product_title", pa.array([True] * 48), 3)), alike)
dates = pa.array(pd.date_range("2020", periods=48))
for name, values in {
    "list": pa.array([["a", "b"], []] * 24),
    "struct": pa.array([{"a": 1, "b": [1, 2]}] * 48),
    "null": pa.nulls(48),
    "date": dates.cast(pa.date32()),
    "time": dates,
    "decimal": pa.array([1] * 48).cast(pa.decimal128(22, 2)),
    "duration": pa.array([1] * 48, pa.duration("s")),
    "dictionary": pa.array([1, 2] * 24).dictionary_encode(),
    "bytes": pa.array([b"\xff\xfe"] * 48),
    "half": pa.array(np.zeros(48, "float16")),
}.items():
    yes(f"further {name}", parquet(arrow(name, values)))
yes("an odd name", parquet(arrow("('a', 'b')", pa.array(range(48)))))
pairs_ = pa.array([[("k", 1)]] * 48, pa.map_(pa.string(), pa.int64()))
no(
    "further map",
    parquet(arrow("m", pairs_)),
    "judgments.parquet, column 'm': holds map<",
    "drop it",
)


def parts(folder: Path) -> None:
    (folder / "judgments.parquet").mkdir()
    pq.write_table(arrow(), folder / "judgments.parquet" / "part-0.parquet")


no("a folder of parts", parts, "judgments.parquet: a folder, not a file; put its parts together")

# Nothing there, or nothing to be seen -------------------------------------------------------------

no(
    "null query",
    parquet(frame(query=[None, *(row[2] for row in rows()[1:])])),
    "row 1, column 'query'",
)
no(
    "null label",
    parquet(frame(esci_label=[None, *(row[4] for row in rows()[1:])])),
    "label is empty",
)
no(
    "NaN labels",
    parquet(frame(esci_label=np.full(48, np.nan))),
    "row 1 and 47 more",
    "label is empty",
)
yes("titles NaN, NULL", with_cell(0, "product_title", "NaN").replace("Shoes model 1", "NULL"))
first = range(4)
yes("query nan", with_cell(first, "query", "nan"))
for name, letters in {
    "zero width": "\u200b\u200b", "soft hyphen": "\u00ad", "filler": "\u3164", "spaces": "\u3000 ",
}.items():  # fmt: skip
    no(
        f"query of {name}",
        with_cell(first, "query", letters),
        "line 2 and 3 more",
        "'query': empty",
    )
no(
    "title of zero width",
    with_cell(0, "product_title", "\u200b"),
    "'product_title': empty; fill it",
)
no("id of zero width", with_cell(0, "product_id", "\u200b"), "'product_id': empty; fill it in")
yes("query of marks", with_cell(first, "query", "?!?"))
yes("query of stop words", with_cell(first, "query", "the of and"))
yes("titles of stop words", with_cell(range(48), "product_title", "the"), alike)
stop_words = ("the", "of", "and", "a", "is", "to", "in", "it", "for", "on", "with", "as")
stopped = [[*row[:2], stop_words[QUERIES.index(row[2])], *row[3:]] for row in rows()]
yes("queries of stop words", table(stopped))

# Sizes --------------------------------------------------------------------------------------------

few = "too few to conclude anything from a comparison"
no("empty", "", "the file is empty; add a header and rows")
no("line breaks", "\n" * 1000, "the file is empty")
no("header", HEADER + "\n", "no rows; add at least one")
no("header without a line end", HEADER, "no rows; add at least one")
no("one row", table(rows()[:1]), "no pair is in test; put some queries there")
no("one query", table(rows()[:4]), "no pair is in test")
no("two queries", table([r[:5] for r in rows()[:8]], COLUMNS[:5]), "(2 found); give at least 3")
yes("three queries", table([r[:5] for r in rows()[:12]], COLUMNS[:5]), f"1 test query is {few}")
single = [[row[0], "p1", row[2], "Only thing", *row[4:]] for row in rows()[::4]]
no("one product", table(single), "all pairs are about one product", "give at least 2")
apart = "labels can be compared, rankings cannot"
yes("one product a query", table(rows()[::4]), one, apart)
yes("one training query", table([r for r in rows() if r[5] != "train" or r[0] == "q1"]))
no(
    "title too long",
    with_cell(0, "product_title", "x" * 1_000_000),
    "1,000,000 char",
    "shorten it to",
)
yes("title of 100,000", with_cell(0, "product_title", "word " * 19_999))
yes("query of 100,000", with_cell(first, "query", "q" * 100_000))
no(
    "id too long",
    with_cell(first, "query_id", "i" * 2_000_000),
    "'query_id'",
    "shorten it to 100,000",
)
no("one huge line", "a" * 5_000_000, "begins with 'aaaaaa", "names no column of the data contract")

# Letters ------------------------------------------------------------------------------------------

for name, title in {
    "zero byte": "a\x00b",
    "control": "a\x07\x1b[31mred\x1b[0m\x08",
    "emoji": "👟🇪🇸👩‍👩‍👧‍👦",
    "right to left": "\u202eحذاء أحمر رياضي",
    "chinese": "运动红色鞋子 男款",
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "zalgo": "z" + "\u0301" * 50_000,
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "formula": "=cmd|'/c calc'!A1",
}.items():
    yes(f"title, {name}", with_cell(0, "product_title", title))
yes("zero byte in parquet", parquet(frame(product_title=["a\0b", *(r[3] for r in rows()[1:])])))
yes("query, escapes", with_cell(first, "query", "\x1b]0;pwn\x07\x1b[2Jred"))
yes("query, right to left", with_cell(first, "query", "حذاء أحمر"))
no(
    "label, escapes",
    with_cell(0, "esci_label", "\x1b[2J\x1b[31mX"),
    r"label '\x1b[2J\x1b[31mX'; use",
)
no("header, escapes", GOOD.replace("query_id", "\x1b[2Jid", 1), r"(found: \x1b[2Jid, product_id")

# Repeated and contradicting rows ------------------------------------------------------------------

titles = "1 judged product has more than one title, such as 'p1' in "
yes("rows twice", table(rows() + rows()[:5]))
no(
    "two labels",
    with_row("q1", "p1", "red shoes", "Red Shoes model 0", "I", "train"),
    "line 50, column 'esci_label': this pair is labelled 'I', and 'E' in ",
    "keep one of the two",
)
yes("a pair with two titles", with_row("q1", "p1", "red shoes", "Other", "E", "train"), titles)
yes("a product with two titles", GOOD.replace("q2,p5,", "q2,p1,"), titles, "line 6")
yes(
    "a text with two ids and two labels",
    with_row("q99", "p1", "Red shoes", "Red Shoes model 0", "I", "train"),
    "1 pair has another label under another query_id",
    "line 50",
)
yes("another spelling of a text", with_row("q1", "p60", "Red SHOES", "T", "E", "train"))
no(
    "an id with two texts",
    with_row("q2", "p60", "red shoes", "T", "E", "train"),
    "the query_id 'q2'",
)

# Splits -------------------------------------------------------------------------------------------

for name, query in {
    "letters": "RED   shoes", "width": "ｒｅｄ shoes", "zero width": "red\u200b shoes",
    "joiner": "red shoe\u2060s", "mark": "\u200fred shoes",
}.items():  # fmt: skip
    text = with_row("q50", "p50", query, "T", "E", "test")
    no(
        f"two splits, {name}",
        text,
        "line 50",
        "is in test, and in train at ",
        "line 2; keep each query in one split",
    )
composed = with_cell(first, "query", "café")
decomposed = f"q50,p50,{unicodedata.normalize('NFD', 'café')},T,E,test\n"
no("two splits, accents", composed + decomposed, "is in test, and in train")
yes("two splits, full stop", with_row("q50", "p50", "red shoes.", "T", "E", "test"))
yes("two splits, singular", with_row("q50", "p50", "red shoe", "T", "E", "test"))
for name, split in {"unknown": "dev", "capitals": "Train", "a space": "train "}.items():
    no(
        f"split, {name}",
        GOOD.replace(",train", f",{split}"),
        f"unknown split '{split}'; use train or",
    )
no("no test", GOOD.replace(",test", ",train"), "no pair is in test")
no("validation for test", GOOD.replace(",test", ",validation"), "no pair is in test")
no("no train", GOOD.replace(",train", ",test"), "no pair is in train")
no(
    "labels on unlabelled",
    GOOD.replace(",test", ",unlabelled"),
    "'E' on an unlabelled pair; empty it",
)
bare = [[*row[:4], "", "unlabelled"] for row in rows()]
no("unlabelled alone", table(bare), "no pair is in train")
yes("unlabelled among them", with_row("u1", "p90", "green thing", "T", "", "unlabelled"))

# Products and unlabelled pairs --------------------------------------------------------------------

PRODUCTS = "product_id,product_title\n" + "".join(f"{row[1]},{row[3]}\n" for row in rows())
SOME = "".join(PRODUCTS.splitlines(keepends=True)[:20])
FREE = "query_id,product_id,query,product_title"
untitled = table([[*row[:3], *row[4:]] for row in rows()], [*COLUMNS[:3], *COLUMNS[4:]])


def beside(
    products: str | bytes, judgments: str = GOOD, kind: str = "csv"
) -> Callable[[Path], None]:
    return files(judgments__csv=judgments, **{f"products__{kind}": products})


def unlabelled(row: str, header: str = FREE, judgments: str = GOOD) -> Callable[[Path], None]:
    return files(judgments__csv=judgments, unlabelled__csv=f"{header}\n{row}\n")


yes("products", beside(PRODUCTS))
yes("titles from products", beside(PRODUCTS, untitled))
yes(
    "products missing",
    beside(SOME),
    "29 of the pairs' 48 products are not in the catalogue, such as 'p20'",
)
no(
    "titles missing",
    beside(SOME, untitled),
    "line 21 and 28 more rows",
    "empty, also in the products",
)
yes(
    "some zeros missing",
    beside("product_id,product_title\np2,Red\n001,Blue\n", GOOD.replace(",p1,", ",1,")),
    "47 of the pairs' 48 products are not in the catalogue, such as '1', which stands there as "
    "'001'",
)
no(
    "product twice",
    beside(PRODUCTS + "p1,Other\n"),
    "line 50",
    "'p1' stands in ",
    "keep one of the two",
)
no("no title of products", beside("product_id,price\np1,3\n"), "'product_title' is missing")
no(
    "other products",
    beside("product_id,product_title\nz1,Z\nz2,Zwei\n"),
    "none of the 48",
    "such as 'p1'; write ids alike",
)
no(
    "other products, but for an unlabelled one",
    files(
        judgments__csv=GOOD,
        products__csv="product_id,product_title\nz1,Z\nz2,Zwei\n",
        unlabelled__csv=f"{FREE}\nu1,new query,z1,Z\n",
    ),
    "none of the 48",
)
no(
    "one product to search",
    beside("product_id,product_title\np1,Only\n"),
    "a single product leaves nothing to search",
)
no(
    "products in jsonl",
    beside("{}", kind="jsonl"),
    "products.jsonl: only products.csv and products.parquet",
)
no(
    "products in xlsx",
    beside(b"PK", kind="xlsx"),
    "products.xlsx: only products.csv and",
    "save the sheet",
)
no(
    "products in tsv",
    beside(PRODUCTS, kind="tsv"),
    "products.tsv: only products.csv",
    "with commas",
)
no(
    "products twice",
    files(judgments__csv=GOOD, products__csv=PRODUCTS, products__parquet=b"x"),
    "both products.parquet and products.csv are here; keep one",
)
no(
    "products three times",
    files(judgments__csv=GOOD, products__csv=PRODUCTS, products__json="", products__xlsx=""),
    "products.csv, products.json and products.xlsx are here; keep one",
)
yes("an old copy beside them", files(judgments__csv=GOOD, **{"judgments.csv.bak": "x"}))
other = PRODUCTS.replace("Red Shoes model 0", "TOTALLY DIFFERENT")
yes(
    "another title in products",
    beside(other),
    "another title than in the products, such as 'p1' in ",
)
no(
    "judged among unlabelled",
    unlabelled("q12,p45,phone case,x"),
    "is in unlabelled, and in test at ",
)
no(
    "judged id among unlabelled",
    unlabelled("q1,p1,brand new,x"),
    "has the query_id 'q1' of 'red shoes'",
)
no(
    "no unlabelled",
    files(judgments__csv=GOOD, unlabelled__csv=""),
    "unlabelled.csv: the file is empty",
)
no(
    "label there",
    unlabelled("u1,p1,green,x,E", FREE + ",esci_label"),
    "'E' on an unlabelled pair; empty it",
)
yes("one unlabelled pair", unlabelled("u1,p90,green shoes,x"))
yes("two unlabelled pairs", unlabelled("u1,p90,green shoes,x\nu1,p91,green shoes,y"))
yes("further column there", unlabelled("u1,p90,green shoes,x,5", FREE + ",price"))
yes("labels beside grades", unlabelled("u1,p90,green shoes,x,", FREE + ",esci_label", grades()))

# Names and kinds of places ------------------------------------------------------------------------

yes("folder of ünïcode 空 spaces", GOOD)
yes("quote'dollar$`x`", GOOD)
yes("-dash", GOOD)


def link(target: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "real.csv").write_text(GOOD)
        os.symlink(target, folder / "judgments.csv")

    return write


yes("a link", link("real.csv"))
no("a link to itself", link("judgments.csv"), "a link that leads nowhere; put the file itself here")
no("a dangling link", link("/nonexistent"), "a link that leads nowhere")
no("/dev/null", link("/dev/null"), "no ordinary file; copy what it gives")
no("a pipe", lambda folder: os.mkfifo(folder / "judgments.csv"), "no ordinary file; copy what it")
no("a folder named csv", lambda folder: (folder / "judgments.csv").mkdir(), "a folder, not a file")
no(
    "a folder in itself",
    lambda folder: os.symlink(folder, folder / "loop"),
    "no judgments.parquet or judgments.csv here",
)
no("an empty folder", lambda folder: None, "no judgments.parquet or judgments.csv here; add one")
