"""The contract's reader on tables, damage and bytes that nobody thought of.

Whatever stands in a file, it is read as it was written, or refused with a sentence for each fault.
"""

import csv
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from contract_cases import GOOD, PRODUCTS, frame
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecomkd.data.contract import DataError, as_seen, is_blank, normalise_query, shown
from ecomkd.data.schema import check, read

quick = settings(max_examples=60, deadline=None, derandomize=True)

# Any text that a file can hold. CSV has no NUL in some programs and no difference between an empty
# and a missing text; neither is of interest here.
anything = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
seen = anything.filter(lambda text: not is_blank(text))


def told(error: DataError) -> None:
    """That an error is a sentence for each fault, each fit for a terminal."""
    assert 1 <= len(error.sentences) <= 11
    for sentence in error.sentences:
        assert sentence.endswith(".") and len(sentence) < 2_000
        assert sentence.isprintable(), sentence


def tried(name: str, data: bytes, **beside: bytes) -> dict | None:
    """The report on a folder with a file of these bytes, or None where it is refused in words."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        for other, content in beside.items():
            (Path(folder) / f"{other}.csv").write_bytes(content)
        try:
            return check(folder)
        except DataError as error:
            told(error)
            return None


@st.composite
def tables(draw) -> list[list[str]]:
    """Rows that keep the contract, with any texts: three queries, one for each split."""
    queries = draw(st.lists(seen, min_size=3, max_size=3, unique_by=as_seen))
    ids = draw(st.lists(seen, min_size=3, max_size=3, unique=True))
    rows = []
    for query_id, query, split in zip(ids, queries, ("train", "validation", "test"), strict=True):
        for label in "ES":
            title, brand = draw(seen), draw(anything)
            rows.append([query_id, f"p{label}{split}", query, title, brand, label, split])
    return rows


NAMES = ["query_id", "product_id", "query", "product_title", "product_brand", "esci_label", "split"]
TEXTS = ("query_id", "product_id", "query", "product_title", "product_brand")


@quick
@given(tables(), st.booleans())
def test_a_csv_is_read_as_it_was_written(rows, quoted):
    # Where not all is quoted, `csv` quotes a CR only if it is part of the line's end.
    dialect = {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"} if quoted else {}
    out = io.StringIO(newline="")
    csv.writer(out, **dialect).writerows([NAMES, *rows])
    assert as_read("judgments.csv", out.getvalue().encode()) == [row[:5] for row in rows]


@quick
@given(tables())
def test_a_parquet_file_is_read_as_it_was_written(rows):
    out = io.BytesIO()
    columns = zip(NAMES, zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), out)
    assert as_read("judgments.parquet", out.getvalue()) == [row[:5] for row in rows]


def as_read(name: str, data: bytes) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        judgments = read(folder, scratch=folder).judgments
        return [[row[column] for column in TEXTS] for row in judgments]


damage = st.lists(
    st.tuples(
        st.integers(0, len(GOOD) - 1),
        st.integers(0, 40),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from([b'"', b",", b"\n", b"\r", b";", b"\0", b"\xff", "\u200b".encode()]),
        ),
    ),
    min_size=1,
    max_size=4,
)


@quick
@given(damage, st.sampled_from(["judgments", "products"]))
@example([(0, 0, b"\xef\xbb\xbf\xef\xbb\xbf")], "judgments")
@example([(0, 8, b"")], "products")
def test_a_damaged_csv_is_read_or_refused_in_words(places, name):
    data = {"judgments": GOOD.encode(), "products": PRODUCTS.encode()}
    for start, length, new in places:
        data[name] = data[name][:start] + new + data[name][start + length :]
    tried("judgments.csv", data["judgments"], products=data["products"])


def whole() -> bytes:
    out = io.BytesIO()
    frame().to_parquet(out)
    return out.getvalue()


PARQUET = whole()


@quick
@given(st.integers(0, len(PARQUET) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_a_damaged_parquet_file_is_read_or_refused_in_words(start, new, cut):
    after = b"" if cut else PARQUET[start + len(new) :]
    tried("judgments.parquet", PARQUET[:start] + new + after)


@quick
@given(st.binary(max_size=200), st.sampled_from(["judgments.csv", "judgments.parquet"]))
@example(b"\xff\xfe", "judgments.csv")
@example(b"PAR1PAR1", "judgments.parquet")
def test_no_bytes_at_all_give_anything_but_a_sentence(data, name):
    assert tried(name, data) is None


@quick
@given(st.lists(st.lists(anything, min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_cells_at_all_give_anything_but_a_sentence(rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    assert tried("judgments.csv", out.getvalue().encode()) is None


@quick
@given(anything)
def test_what_is_seen_is_a_coarser_form_of_what_is_normal(text):
    assert as_seen(as_seen(text)) == as_seen(text)
    assert as_seen(normalise_query(text)) == as_seen(text)
    assert bool(as_seen(text)) or is_blank(normalise_query(text))
    assert shown(text).isprintable()
