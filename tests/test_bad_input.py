"""What breaks the data contract, each with the one sentence that the reader gets."""

import errno
from pathlib import Path

import pandas as pd
import pytest

from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.contract import DataError
from ecomkd.data.files import MAX_CHARACTERS
from ecomkd.data.schema import check

HEADER = "query_id,product_id,query,product_title,esci_label,split\n"
GOOD = (
    HEADER
    + "q1,p1,red shoes,Runner Red,E,train\n"
    + "q2,p2,blue mug,Mug Blue,S,train\n"
    + "q3,p3,desk lamp,Lamp,I,test\n"
)
NO_LABEL = "query_id,product_id,query,product_title\n"
PRODUCTS = "product_id,product_title\np1,Runner\np2,Mug\n"


def line(row: str) -> dict[str, str]:
    """The good file with one more row, which is its line 5."""
    return {"judgments.csv": GOOD + row + "\n"}


BAD = {
    "missing column": (
        {"judgments.csv": "query_id,product_id,query,esci_label\nq1,p1,red shoes,E\n"},
        "{dir}/judgments.csv: column 'product_title' is missing; add it "
        "(found: query_id, product_id, query, esci_label).",
    ),
    "semicolons": (
        {"judgments.csv": GOOD.replace(",", ";")},
        "{dir}/judgments.csv: the columns are separated by semicolons; save the file with commas.",
    ),
    "no label column": (
        {"judgments.csv": NO_LABEL + "q1,p1,red shoes,Runner\n"},
        "{dir}/judgments.csv: column 'esci_label' is missing; add it "
        "(found: query_id, product_id, query, product_title).",
    ),
    "both label columns": (
        {"judgments.csv": HEADER.replace("split", "grade") + "q1,p1,red shoes,Runner,E,3\n"},
        "{dir}/judgments.csv: has both 'esci_label' and 'grade'; keep one of them.",
    ),
    "column named label": (
        {"judgments.csv": HEADER.replace("split", "label") + "q1,p1,red shoes,Runner,E,3\n"},
        "{dir}/judgments.csv: the column name 'label' is taken; rename the column "
        "(judgments stand in 'esci_label' or 'grade').",
    ),
    "column twice": (
        {"judgments.csv": GOOD.replace("esci_label,split", "split,split")},
        "{dir}/judgments.csv: the column 'split' occurs twice; rename or drop one.",
    ),
    "unknown label": (
        line("q4,p4,tea pot,Pot,X,train"),
        "{dir}/judgments.csv, line 5, column 'esci_label': unknown label 'X'; "
        "use one of E, S, C, I.",
    ),
    "label in small letters": (
        line("q4,p4,tea pot,Pot,e,train"),
        "{dir}/judgments.csv, line 5, column 'esci_label': unknown label 'e'; "
        "use one of E, S, C, I.",
    ),
    "no label": (
        line("q4,p4,tea pot,Pot,,train"),
        "{dir}/judgments.csv, line 5, column 'esci_label': the label is empty; "
        "use one of E, S, C, I.",
    ),
    "grade out of range": (
        {"judgments.csv": GOOD.replace("esci_label", "grade").replace(",E,", ",4,")},
        "{dir}/judgments.csv, line 2 and 2 more rows, column 'grade': unknown label '4'; "
        "use one of 0, 1, 2, 3.",
    ),
    "empty query": (
        line("q4,p4,,Pot,E,train"),
        "{dir}/judgments.csv, line 5, column 'query': empty; fill it in or drop the row.",
    ),
    "blank query": (
        line('q4,p4," \u00a0\t",Pot,E,train'),
        "{dir}/judgments.csv, line 5, column 'query': empty; fill it in or drop the row.",
    ),
    "empty query_id": (
        line(",p4,tea pot,Pot,E,train"),
        "{dir}/judgments.csv, line 5, column 'query_id': empty; fill it in or drop the row.",
    ),
    "empty product_id": (
        line("q4,,tea pot,Pot,E,train"),
        "{dir}/judgments.csv, line 5, column 'product_id': empty; fill it in or drop the row.",
    ),
    "empty title": (
        line("q4,p4,tea pot,,E,train"),
        "{dir}/judgments.csv, line 5, column 'product_title': empty; fill it in or drop the row.",
    ),
    "empty title, products without it": (
        {**line("q4,p4,tea pot,,E,train"), "products.csv": PRODUCTS},
        "{dir}/judgments.csv, line 5, column 'product_title': empty, also in the products; "
        "fill it in or drop the row.",
    ),
    "a line break inside a text before it": (
        {"judgments.csv": GOOD.replace("Lamp", '"Lamp\nof brass"') + "q4,p4,,Pot,E,train\n"},
        "{dir}/judgments.csv, line 6, column 'query': empty; fill it in or drop the row.",
    ),
    "a pair with two labels": (
        line("q1,p1,red shoes,Runner Red,I,train"),
        "{dir}/judgments.csv, line 5, column 'esci_label': this pair is labelled 'I', and 'E' in "
        "{dir}/judgments.csv, line 2; keep one of the two.",
    ),
    "a query in two splits": (
        line("q4,p4,Red  SHOES,Runner,E,test"),
        "{dir}/judgments.csv, line 5, column 'query': the query 'Red  SHOES' is in test, and in "
        "train at {dir}/judgments.csv, line 2; keep each query in one split.",
    ),
    "a judged query among the unlabelled": (
        {"judgments.csv": GOOD, "unlabelled.csv": NO_LABEL + "u1,p1,Desk Lamp,Lamp\n"},
        "{dir}/unlabelled.csv, line 2, column 'query': the query 'Desk Lamp' is in unlabelled, "
        "and in test at {dir}/judgments.csv, line 4; keep each query in one split.",
    ),
    "a query_id with two texts": (
        line("q1,p4,green shoes,Runner,E,train"),
        "{dir}/judgments.csv, line 5, column 'query': 'green shoes' has the query_id 'q1' of "
        "'red shoes' in {dir}/judgments.csv, line 2; give each query its own id.",
    ),
    "unknown split": (
        line("q4,p4,tea pot,Pot,E,dev"),
        "{dir}/judgments.csv, line 5, column 'split': unknown split 'dev'; "
        "use train or validation or test or unlabelled.",
    ),
    "no split": (
        line("q4,p4,tea pot,Pot,E,"),
        "{dir}/judgments.csv, line 5, column 'split': unknown split ''; "
        "use train or validation or test or unlabelled.",
    ),
    "nothing to test on": (
        {"judgments.csv": GOOD.replace(",test", ",train")},
        "{dir}/judgments.csv, column 'split': no pair is in test; put some queries there, "
        "or leave the column out to have them drawn.",
    ),
    "one training query": (
        {"judgments.csv": GOOD.replace("S,train", "S,test")},
        "{dir}/judgments.csv: too few queries to hold some out for validation "
        "(1 found); give at least 2.",
    ),
    "too few to draw from": (
        {"judgments.csv": NO_LABEL.strip() + ",grade\nq1,p1,red shoes,Runner,3\n"},
        "{dir}/judgments.csv: too few queries to hold some out for test and validation "
        "(1 found); give at least 3.",
    ),
    "label on an unlabelled pair": (
        line("q4,p4,tea pot,Pot,E,unlabelled"),
        "{dir}/judgments.csv, line 5, column 'esci_label': 'E' on an unlabelled pair; "
        "empty it or change the split.",
    ),
    "unlabelled file with another split": (
        {
            "judgments.csv": GOOD,
            "unlabelled.csv": NO_LABEL.strip() + ",split\nu1,p1,tea pot,Pot,train\n",
        },
        "{dir}/unlabelled.csv, line 2, column 'split': unknown split 'train'; use unlabelled.",
    ),
    "not UTF-8": (
        {"judgments.csv": (GOOD + "q4,p4,na\u00efve,Pot,E,train\n").encode("latin-1")},
        "{dir}/judgments.csv, line 5: the byte 0xef at position 9 is not UTF-8; "
        "save the file as UTF-8.",
    ),
    "UTF-16": (
        {"judgments.csv": GOOD.encode("utf-16")},
        "{dir}/judgments.csv, line 1: the byte 0xff at position 1 is not UTF-8; "
        "save the file as UTF-8.",
    ),
    "empty file": (
        {"judgments.csv": ""},
        "{dir}/judgments.csv: the file is empty; add a header and rows.",
    ),
    "header alone": (
        {"judgments.csv": HEADER},
        "{dir}/judgments.csv: the file has no rows; add at least one.",
    ),
    "products without rows": (
        {"judgments.csv": GOOD, "products.csv": "product_id,product_title\n"},
        "{dir}/products.csv: the file has no rows; add at least one.",
    ),
    "a title of 10 MB": (
        line(f"q4,p4,tea pot,{'x' * 10_000_000},E,train"),
        "{dir}/judgments.csv, line 5, column 'product_title': the text has 10,000,000 "
        "characters; shorten it to 100,000 or fewer.",
    ),
    "a field too many": (
        line("q4,p4,tea pot,Pot, white,E,train"),
        "{dir}/judgments.csv, line 5: 7 fields where the header has 6; "
        "put texts that hold a comma in double quotes.",
    ),
    "a quotation mark never closed": (
        line('q4,p4,"tea pot,Pot,E,train'),
        "{dir}/judgments.csv, line 5: not valid CSV (unexpected end of data); close every "
        "quotation mark and double those inside a text.",
    ),
    "a product twice": (
        {"judgments.csv": GOOD, "products.csv": PRODUCTS + "p1,Other\n"},
        "{dir}/products.csv, line 4, column 'product_id': 'p1' stands in "
        "{dir}/products.csv, line 2, too; keep one of the two.",
    ),
    "a product without a title": (
        {"judgments.csv": GOOD, "products.csv": PRODUCTS + "p3,\n"},
        "{dir}/products.csv, line 4, column 'product_title': empty; fill it in or drop the row.",
    ),
    "no judgments": (
        {"products.csv": PRODUCTS},
        "{dir}: no judgments.parquet or judgments.csv here; add one of them.",
    ),
    "two judgments files": (
        {"judgments.csv": GOOD, "judgments.parquet": ""},
        "{dir}: both judgments.parquet and judgments.csv are here; keep one.",
    ),
    "not a Parquet file": (
        {"judgments.parquet": "query_id,product_id"},
        "{dir}/judgments.parquet: not a Parquet file, or cut short; write or copy it again.",
    ),
}


def refused(path: Path) -> str:
    """What is said of a file or folder that is refused."""
    with pytest.raises(DataError) as error:
        check(path)
    return str(error.value)


@pytest.mark.parametrize(("contents", "message"), BAD.values(), ids=BAD)
def test_folder(tmp_path, contents, message):
    for name, content in contents.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    assert refused(tmp_path) == message.replace("{dir}", str(tmp_path))


def frame(**changed) -> pd.DataFrame:
    columns = {
        "query_id": ["q1", "q2", "q3"],
        "product_id": ["p1", "p2", "p3"],
        "query": ["red shoes", "blue mug", "desk lamp"],
        "product_title": ["Runner", "Mug", "Lamp"],
        "esci_label": ["E", "S", "I"],
        "split": ["train", "train", "test"],
    }
    return pd.DataFrame({**columns, **changed})


PARQUET = {
    "no title": (
        frame(product_title=["Runner", None, "Lamp"]),
        "{file}, row 2, column 'product_title': empty; fill it in or drop the row.",
    ),
    "not UTF-8": (
        frame(query=[b"red shoes", b"blue mug", b"l\xe1mpara"]),
        "{file}, row 3, column 'query': the text is not UTF-8; save it as UTF-8.",
    ),
    "a list for a text": (
        frame(product_title=[["Runner"], ["Mug"], ["Lamp"]]),
        "{file}, column 'product_title': holds list<element: string>; store it as text.",
    ),
    "a text too long": (
        frame(product_title=["Runner", "Mug", "x" * (MAX_CHARACTERS + 1)]),
        "{file}, row 3, column 'product_title': the text has 100,001 characters; "
        "shorten it to 100,000 or fewer.",
    ),
    "no rows": (frame().head(0), "{file}: the file has no rows; add at least one."),
}


@pytest.mark.parametrize(("table", "message"), PARQUET.values(), ids=PARQUET)
def test_parquet(tmp_path, table, message):
    path = tmp_path / "pairs.parquet"
    table.to_parquet(path)
    assert refused(path) == message.replace("{file}", str(path))


def test_parquet_cut_short(tmp_path):
    path = tmp_path / "pairs.parquet"
    frame().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(path) == f"{path}: not a Parquet file, or cut short; write or copy it again."


def test_further_column_of_two_types(tmp_path):
    frame(price=[1, 2, 3]).to_parquet(tmp_path / "judgments.parquet")
    more = frame(query_id=list("abc"), query=list("abc"), price=["1", "2", "3"])
    more.drop(columns=["esci_label", "split"]).to_parquet(tmp_path / "unlabelled.parquet")
    assert refused(tmp_path) == (
        f"{tmp_path}/unlabelled.parquet, column 'price': another type than in "
        f"{tmp_path}/judgments.parquet; store both alike."
    )


def test_other_kind_of_file(tmp_path):
    path = tmp_path / "pairs.xlsx"
    path.write_bytes(b"PK")
    assert refused(path) == f"{path}: cannot read this kind of file; give a .csv or a .parquet."


def test_path_that_is_not_there(tmp_path):
    assert (
        refused(tmp_path / "nowhere")
        == f"{tmp_path}/nowhere: no such file or folder; check the path."
    )


@pytest.mark.parametrize("source", ["journey", "nowhere/at/all"])
def test_unknown_source(tmp_path, source):
    with pytest.raises(DataError) as error:
        sources.load(source, Profile.named("smoke", artifacts=tmp_path))
    assert str(error.value) == (
        f"Unknown source {source!r}: give 'shop', 'esci', or the path of a folder or a CSV or "
        "Parquet file that exists."
    )


def test_no_network(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(sources.datasets, "load_dataset", unreachable)
    with pytest.raises(ConnectionError) as error:
        sources.load("esci", Profile.named("smoke", artifacts=tmp_path))
    assert str(error.value) == (
        "tasksource/esci cannot be read from the hub (Couldn't reach the Hub): connect to the "
        "network, or give the path of a copy that keeps the data contract."
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("data-")]


def test_no_disk_left_while_downloading(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.datasets, "load_dataset", full)
    with pytest.raises(OSError, match="free some, or set ECOMKD_ARTIFACTS") as error:
        sources.load("esci", Profile.named("smoke", artifacts=tmp_path))
    assert error.value.errno == errno.ENOSPC
