"""Online Retail, in rows of its shape and, where it is at hand, whole."""

import os
from pathlib import Path

import pandas as pd
import pytest

from ecomkd.data import retail
from ecomkd.data.contract import DataError

NAMES = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice"]
ROWS = [
    ("536365", "85123A", "WHITE  HEART ", "6", "2010-12-01 08:26:00", "2.55", "17850.0"),
    ("536365", "85123a", "WHITE HEART", "2", "2010-12-01 08:26:00", "2.55", "17850.0"),
    ("536366", "85123A", "heart, damaged", "1", "2010-12-03 09:00:00", "2.95", "13047.0"),
    ("536366", "71053", "METAL LANTERN", "3", "2010-12-03 09:00:00", "3.39", "13047.0"),
    ("C536367", "71053", "METAL LANTERN", "-3", "2010-12-03 10:00:00", "3.39", "13047.0"),
    ("536368", "71053", "METAL LANTERN", "3", "2010-12-04 10:00:00", "3.39", ""),
    ("536369", "POST", "POSTAGE", "1", "2010-12-05 10:00:00", "18.0", "13047.0"),
    ("536369", "71053", "", "-1", "2010-12-05 10:00:00", "0.0", "13047.0"),
]


def published() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=[*NAMES, "CustomerID"]).assign(Country="United Kingdom")


@pytest.mark.parametrize("name", ["transactions.parquet", "online_retail.csv"])
def test_invoices_become_events(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".csv":
        published().to_csv(path, index=False)
    else:
        published().to_parquet(path)
    baskets = retail.load(path)
    assert baskets.items[["item_id", "text"]].to_numpy().tolist() == [
        ["71053", "metal lantern"],
        ["85123A", "white heart"],
    ]
    assert baskets.users["user_id"].tolist() == ["13047", "17850"]
    events = baskets.events
    assert events["user"].tolist() == [1, 0, 0]
    assert events["quantity"].tolist() == [8, 3, 1]
    assert events["price"].tolist() == pytest.approx([2.55, 3.39, 2.95])
    assert baskets.left_out == {
        "cancelled": 1,
        "no customer": 1,
        "no product": 1,
        "no piece": 1,
        "unknown item": 0,
    }


def test_a_folder_stands_for_its_file(tmp_path):
    published().to_parquet(tmp_path / "transactions.parquet")
    assert len(retail.load(tmp_path).events) == 3


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="not found"):
        retail.load(tmp_path / "nowhere.csv")
    path = tmp_path / "online_retail.csv"
    published().drop(columns="UnitPrice").to_csv(path, index=False)
    with pytest.raises(DataError, match="column 'UnitPrice' is missing"):
        retail.load(path)
    published().replace("6", "six").to_csv(path, index=False)
    with pytest.raises(DataError, match="'six'"):
        retail.load(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("transactions.parquet", b"no Parquet"),
        ("online_retail.csv", b""),
        ("online_retail.csv", "Invoice;na\u00efve".encode("latin-1")),
        ("online_retail.csv", b'a,b\n"1,2\n'),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="give the published file"):
        retail.load(tmp_path / name)


@pytest.mark.skipif("ECOMKD_REAL_DATA" not in os.environ, reason="set ECOMKD_REAL_DATA")
def test_online_retail_is_what_its_card_says(card):
    baskets = retail.load(Path(os.environ["ECOMKD_REAL_DATA"]) / "online_retail")
    told = card("card-retail")
    assert told[:6] == [
        len(baskets.users),
        len(baskets.items),
        baskets.items["text"].nunique(),
        baskets.events["basket"].nunique(),
        len(baskets.events),
        baskets.days,
    ]
    assert set(baskets.left_out.values()) - {0} <= set(told)
    assert (baskets.items["text"].str.len() > 0).all()
