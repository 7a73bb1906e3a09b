"""Online Retail: the invoices of a British shop for gifts, published by UCI.

Chapters 10 and 13.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ecomkd.data.baskets import Baskets, from_lines, leave_out
from ecomkd.data.contract import DataError

_COLUMNS = {
    "InvoiceNo": "basket_id",
    "StockCode": "item_id",
    "Description": "text",
    "Quantity": "quantity",
    "InvoiceDate": "time",
    "UnitPrice": "price",
    "CustomerID": "user_id",
}
_GOODS = r"\d{5}"  # what a code of the catalogue begins with; postage, fees and gifts have letters


def load(path: str | Path) -> Baskets:
    """The purchases in a copy of Online Retail, a Parquet or CSV file with its published columns.

    A folder stands for the `transactions.parquet` in it. Left out, and counted in this order: lines
    of cancelled invoices (their number begins with C), without a customer, and of what is no
    product, such as postage. An item's text is the description that it has most often; without one
    it is unknown.

    Raises DataError for a path that does not exist, a missing column, or a number or date that
    cannot be read.
    """
    path = Path(path)
    path = path / "transactions.parquet" if path.is_dir() else path
    if not path.exists():
        raise DataError(f"{path}: not found; give the file of Online Retail or its folder.")
    read = pd.read_parquet if path.suffix == ".parquet" else _read_csv
    try:
        lines = read(path)
    except (OSError, ValueError) as error:  # what pandas and Arrow say of other files
        raise DataError(f"{path}: cannot be read ({error}); give the published file.") from error
    for name in _COLUMNS:
        if name not in lines:
            raise DataError(f"{path}: column {name!r} is missing; give the published file.")
    lines = lines[list(_COLUMNS)].rename(columns=_COLUMNS).astype("str").fillna("")
    reasons = {
        "cancelled": lines["basket_id"].str.startswith("C"),
        "no customer": lines["user_id"].isin(["", "nan"]),
        "no product": ~lines["item_id"].str.match(_GOODS),
    }
    kept, left_out = leave_out(lines, reasons)
    try:
        numbers = kept[["quantity", "price"]].astype(float)
        kept = kept.assign(
            **numbers,
            value=numbers.prod(axis=1),
            time=pd.to_datetime(kept["time"]),
            user_id=kept["user_id"].str.removesuffix(".0"),
            item_id=kept["item_id"].str.upper(),
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}; give the published file.") from error
    texts = kept["text"].str.split().str.join(" ").str.lower()
    texts = texts[texts != ""]
    named = texts.groupby(kept["item_id"]).agg(lambda own: own.mode().iloc[0])
    items = named.rename("text").rename_axis("item_id").reset_index()
    users = pd.DataFrame({"user_id": kept["user_id"].unique()})
    return from_lines(kept, items, users, left_out)


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)
