"""The data contract: what reading a table gives, and what holds for every table."""

import csv
import os
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomkd.data import schema
from ecomkd.data.contract import order_by_hash
from ecomkd.data.schema import (
    GAINS,
    GAINS_SWAPPED,
    GRADE_GAINS,
    LABELS,
    TEXT,
    DataError,
    normalise_query,
    read,
    to_dataset,
)

COLUMNS = ["query_id", "product_id", "query", "product_title", "esci_label"]
REAL = os.environ.get("ECOMKD_REAL_DATA")
real_data = pytest.mark.skipif(not REAL, reason="set ECOMKD_REAL_DATA to the folder of real data")


def pairs(queries: int, each: int = 2) -> pd.DataFrame:
    rows = [
        (f"q{q}", f"p{p}", f"query {q}", f"Title {p}", LABELS[(q + p) % 4])
        for q in range(queries)
        for p in range(each)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def saved(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def rows_of(data: datasets.DatasetDict) -> dict[str, list]:
    """The rows of each split, sorted: what must not depend on the order of the input."""
    return {name: sorted(map(str, part)) for name, part in data.items()}


def test_gains():
    assert GAINS == {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
    assert (GAINS_SWAPPED["S"], GAINS_SWAPPED["C"]) == (GAINS["C"], GAINS["S"])
    assert GRADE_GAINS == {0: 0, 1: 1 / 7, 2: 3 / 7, 3: 1}


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("  Red\tShoes \n", "red shoes"),
        ("ＲＥＤ　shoes", "red shoes"),  # full-width letters and space
        ("Straße", "strasse"),
        ("cafe\u0301", "café"),
        ("½ zip", "1⁄2 zip"),
    ],
)
def test_normalise_query(raw, normal):
    assert normalise_query(raw) == normal


def test_hash_order_is_the_same_everywhere():
    # As `printf %s WORD | sha256sum` orders them: 20cd…, a19e…, c98e…, efda….
    assert order_by_hash({"kettle", "mug", "lamp", "shoe"}) == ["kettle", "mug", "lamp", "shoe"]


def test_columns_and_types(tmp_path):
    frame = pairs(10).assign(price=1.5)
    data = to_dataset(read(saved(frame, tmp_path / "pairs.parquet"), tmp_path))
    assert list(data) == ["train", "validation", "test"]
    for part in data.values():
        assert part.column_names == [
            "query_id", "product_id", "query", *TEXT, "label", "price"
        ]  # fmt: skip
        assert part.features["label"] == datasets.ClassLabel(names=list(LABELS))
        assert all(part.features[name].dtype == "string" for name in ("query_id", "query", *TEXT))
        assert part.features["price"].dtype == "float64"
        assert set(part["product_color"]) == {""}


def test_memory_mapped(tmp_path):
    tables = read(saved(pairs(10), tmp_path / "pairs.csv"), scratch=tmp_path)
    files = [Path(file["filename"]) for file in to_dataset(tables)["train"].cache_files]
    assert files == [tmp_path / "pairs-1.arrow"]


def test_further_csv_columns_stay_text(tmp_path):
    data = to_dataset(read(saved(pairs(10).assign(price=1.5), tmp_path / "pairs.csv"), tmp_path))
    assert set(data["train"]["price"]) == {"1.5"}


def test_no_split_column_draws_70_15_15(tmp_path):
    tables = read(saved(pairs(100), tmp_path / "pairs.csv"), tmp_path)
    assert tables.report["queries"] == {"train": 70, "validation": 15, "test": 15}
    assert tables.report["pairs"] == {"train": 140, "validation": 30, "test": 30}
    assert tables.report["splits"].startswith("no split column")


def test_no_validation_takes_15_percent_of_train(tmp_path):
    frame = pairs(100)
    frame["split"] = np.where(frame.index < 160, "train", "test")
    tables = read(saved(frame, tmp_path / "pairs.csv"), tmp_path)
    assert tables.report["queries"] == {"train": 68, "validation": 12, "test": 20}
    texts = {normalise_query(query) for query in frame.loc[frame.split == "train", "query"]}
    chosen = set(to_dataset(tables)["validation"]["query"])
    assert chosen == set(order_by_hash(texts)[:12])


def test_given_validation_stays(tmp_path):
    frame = pairs(3, each=1).assign(split=["train", "validation", "test"], product_id=list("abc"))
    tables = read(saved(frame, tmp_path / "pairs.csv"), tmp_path)
    assert tables.report["pairs"] == {"train": 1, "validation": 1, "test": 1}
    assert tables.report["splits"] == "as given"


def test_one_text_with_two_ids_stays_in_one_split(tmp_path):
    frame = pairs(40, each=1).assign(product_id=[f"p{row}" for row in range(40)], esci_label="E")
    frame["query"] = [f"Query {row // 2}" if row % 2 else f"query  {row // 2}" for row in range(40)]
    data = to_dataset(read(saved(frame, tmp_path / "pairs.csv"), tmp_path))
    seen = [set(map(normalise_query, part["query"])) for part in data.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 20


def test_integer_ids_and_missing_texts(tmp_path):
    frame = pairs(10).assign(product_color=np.nan, product_brand=None)
    frame["query_id"] = frame["query_id"].str[1:].astype(int)
    frame["product_id"] = frame["product_id"].str[1:].astype(float)
    train = to_dataset(read(saved(frame, tmp_path / "pairs.parquet"), tmp_path))["train"]
    assert set(train["query_id"]) <= set(map(str, range(10)))
    assert set(train["product_id"]) == {"0", "1"}
    assert set(train["product_color"]) == set(train["product_brand"]) == {""}


def test_categories_are_text(tmp_path):
    frame = pairs(10).astype("category").assign(shelf=pd.Categorical(["a"] * 20))
    data = to_dataset(read(saved(frame, tmp_path / "pairs.parquet"), tmp_path))
    assert set(data["train"]["shelf"]) == {"a"}
    assert data["train"][0]["query"].startswith("query ")


@pytest.mark.parametrize("kind", [int, float, str])
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet"])
def test_grades(tmp_path, kind, name):
    frame = pairs(8, each=4).drop(columns="esci_label")
    frame["grade"] = (frame.index % 4).astype(kind)
    tables = read(saved(frame, tmp_path / name), tmp_path)
    assert tables.report["labels"] == {"0": 8, "1": 8, "2": 8, "3": 8}
    train = to_dataset(tables)["train"]
    assert train.features["label"].names == ["0", "1", "2", "3"]
    assert train["label"][:4] == [0, 1, 2, 3]


def test_unlabelled_rows_and_file_come_together(tmp_path):
    frame = pairs(10).assign(split="train", kind="judged")
    frame.loc[18:, "split"] = "test"
    free = pairs(2).assign(query_id="u1", query="free", esci_label=None, split="unlabelled")
    frame = pd.concat([frame, free.head(1).assign(kind="free")])
    saved(frame, tmp_path / "judgments.csv")
    more = pairs(2).assign(query_id="u2", query="free too")[COLUMNS[:4]].head(2)
    saved(more, tmp_path / "unlabelled.parquet")
    tables = read(tmp_path, tmp_path)
    data = to_dataset(tables)
    assert data["unlabelled"]["query"] == ["free", "free too", "free too"]
    assert data["unlabelled"]["label"] == [-1, -1, -1]
    assert data["unlabelled"]["kind"] == ["free", None, None]
    assert len(tables.judgments) == 20 and set(tables.judgments["split"]) == {
        "train", "validation", "test"
    }  # fmt: skip


def test_products_fill_what_is_missing(tmp_path):
    frame = pairs(10).assign(product_color="")
    frame.loc[frame.product_id == "p0", "product_title"] = None
    saved(frame, tmp_path / "judgments.csv")
    catalogue = pd.DataFrame(
        {
            "product_id": ["p9", "p0"],
            "product_title": ["Nine", "Nought"],
            "product_color": ["red", "blue"],
            "department": ["home", "garden"],
        }
    )
    saved(catalogue, tmp_path / "products.parquet")
    tables = read(tmp_path, tmp_path)
    found = {(row["product_title"], row["product_color"]) for row in tables.judgments}
    assert found == {("Nought", "blue"), ("Title 1", "")}
    assert tables.report["products"] == 2
    assert tables.report["products_not_in_catalogue"] == 1
    assert tables.products["department"][:] == ["home", "garden"]


def test_titles_from_the_catalogue_alone(tmp_path):
    saved(pairs(10).drop(columns="product_title"), tmp_path / "judgments.csv")
    catalogue = pd.DataFrame({"product_id": ["p0", "p1"], "product_title": ["Nought", "One"]})
    saved(catalogue, tmp_path / "products.csv")
    data = to_dataset(read(tmp_path, tmp_path))
    assert set(data["train"]["product_title"]) == {"Nought", "One"}


def test_duplicates_are_merged_and_counted(tmp_path):
    frame = pd.concat([pairs(10), pairs(3)])
    tables = read(saved(frame, tmp_path / "pairs.csv"), tmp_path)
    assert tables.report["duplicates_merged"] == 6
    assert len(tables.judgments) == 20


def test_more_rows_than_one_batch(tmp_path):
    frame = pairs(2_100)
    tables = read(saved(frame, tmp_path / "pairs.csv"), tmp_path)
    assert sum(tables.report["pairs"].values()) == 4_200
    frame.loc[4_199, "esci_label"] = "X"
    with pytest.raises(DataError, match="line 4201, column 'esci_label'"):
        read(saved(frame, tmp_path / "pairs.csv"), tmp_path)


def test_csv_with_quotes_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "pairs.csv"
    header = ",".join(COLUMNS)
    body = (
        'q1,p1,"screen 24""","Monitor, 24""\r\nblack",E\r\n\r\nq2,p2,mug,x,S\r\nq3,p3,pot,x,S\r\n'
    )
    path.write_bytes(b"\xef\xbb\xbf" + f"{header}\r\n{body}".encode())
    rows = {row["query"]: row["product_title"] for row in read(path, tmp_path).judgments}
    assert rows == {'screen 24"': 'Monitor, 24"\r\nblack', "mug": "x", "pot": "x"}


# Properties. Queries come from few words in many spellings, so that texts and ids collide.
spelling = st.sampled_from(["mug", "Mug", " mug", "ｍｕｇ", "red mug", "RED  mug", "pot", "lamp"])
row = st.tuples(
    st.sampled_from(["q1", "q2", "q3", "q4", "q5"]),
    st.sampled_from(["p1", "p2", "p3"]),
    spelling,
    st.just("title"),
    st.sampled_from(LABELS),
    st.sampled_from(["train", "validation", "test"]),
)


def split_from(rows: list[tuple], columns: list[str]) -> datasets.DatasetDict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        data = to_dataset(read(path, scratch=folder))
        return datasets.DatasetDict(
            {k: datasets.Dataset.from_list(list(v)) for k, v in data.items()}
        )


@given(st.lists(row, min_size=1, max_size=12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_splits_are_disjoint_or_refused(rows, with_split):
    columns = [*COLUMNS, "split"] if with_split else COLUMNS
    try:
        data = split_from([row[: len(columns)] for row in rows], columns)
    except DataError as error:
        assert "pairs.csv" in str(error) and str(error).endswith(".")
        return
    seen = [set(map(normalise_query, part["query"])) for part in data.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert sum(map(len, data.values())) == len({(row[0], row[1]) for row in rows})


@st.composite
def shuffled(draw):
    queries = draw(st.lists(st.text("abcdeé ", min_size=1), min_size=5, max_size=25))
    queries = list({normalise_query(query): query for query in queries if query.strip()}.values())
    rows = [
        (f"q{number}", f"p{p}", query, f"title {p}", LABELS[(number + p) % 4])
        for number, query in enumerate(queries)
        for p in range(draw(st.integers(2, 3)))
    ]
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    return rows, draw(st.permutations(rows)), len(queries)


@given(shuffled())
@settings(max_examples=40, deadline=None)
def test_row_order_changes_order_alone(case):
    rows, permuted, queries = case
    if queries < 3:
        return
    assert rows_of(split_from(rows, COLUMNS)) == rows_of(split_from(permuted, COLUMNS))


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise_query(normalise_query(text)) == normalise_query(text)


@real_data
def test_real_graded_products(tmp_path):
    tables = read(Path(REAL) / "icecat", tmp_path)
    assert tables.report["queries"] == {"train": 55, "validation": 10, "test": 30}
    assert sum(tables.report["pairs"].values()) == 2_635
    assert tables.report["products"] == 19_406
    assert tables.report["products_not_in_catalogue"] == 0
    assert sum(map(bool, to_dataset(tables)["train"]["product_description"])) > 1_500


@real_data
def test_real_esci_sample(tmp_path):
    tables = read(Path(REAL) / "esci_sample", tmp_path)
    assert tables.report["labels"] == {"E": 1_226, "S": 572, "C": 91, "I": 273}
    assert tables.report["duplicates_merged"] == 1
    assert tables.report["pairs"]["test"] == 351
    assert set(to_dataset(tables)["test"]["product_locale"]) == {"us"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_is_not_utf8_is_refused_at_once(tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xf6bel")
    folder.mkdir()
    rows = ["query_id,product_id,query,product_title,esci_label"]
    rows += [f"q{n // 2},p{n},query {n // 2},title {n},{'EI'[n % 2]}" for n in range(12)]
    (folder / "judgments.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="the path is not UTF-8; rename"):
        schema.check(folder)
