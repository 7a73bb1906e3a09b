"""Somebody's own purchases: a table of users, items and times, checked row by row. Chapter 10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ecomkd.data.baskets import Baskets, from_lines, leave_out
from ecomkd.data.contract import DataError, is_blank, quoted
from ecomkd.data.files import TableFile, part_of, single_file

STEM, ITEMS = "purchases", "items"
"""The names, without the ending, of the files in a folder."""
_NEEDED = ("user_id", "item_id", "time")
_FURTHER = ("basket_id", "quantity", "value", "text")
_SECONDS = r"\d{9,10}"
_WHEN = "give a date such as 2026-03-01, with a time or without, or seconds since 1970"


class Given(NamedTuple):
    """Purchases, and whether it is known what the items are called."""

    baskets: Baskets
    has_texts: bool


def load(path: Path | str) -> Given:
    """The purchases in a CSV or Parquet file, or in the `purchases.*` of a folder.

    Each row is one item that a user bought: `user_id`, `item_id` and `time`, a date with or without
    a time of day, or seconds since 1970; days are those of UTC for seconds and for times with a
    zone. Further columns may be `basket_id` (what a user buys on one day under one number, or
    without any, is one basket), `quantity` (without it 1; rows with 0 or less are left out),
    `value`, what the row cost (without it, all pieces cost the same; rows below 0 are left out),
    and `text`, what the item is called. A folder may have the texts in a file `items.*` of its own,
    with the columns `item_id` and `text`. An item without a text is read by its id.

    Raises DataError with one sentence that names file, row, column and mend.
    """
    path = Path(path)
    described = None
    if path.is_dir():
        folder, found = path, part_of(path, STEM)
        if found is None:
            raise DataError(f"{folder}: no {STEM}.parquet or {STEM}.csv here; add one of them.")
        path, described = found, part_of(folder, ITEMS)
    lines = _table(single_file(path), _NEEDED, _FURTHER)
    texts = lines.pop("text") if "text" in lines else pd.Series("", lines.index)
    named = pd.DataFrame({"item_id": lines["item_id"], "text": texts})
    if described is not None:
        further = _table(described, ("item_id", "text"))
        named = pd.concat([further, named], ignore_index=True)
    named = named[~named["text"].map(is_blank)].drop_duplicates("item_id")
    lines["quantity"] = lines.get("quantity", 1.0)
    below = lines["value"] < 0 if "value" in lines else pd.Series(False, lines.index)
    lines["value"] = lines.get("value", lines["quantity"])
    lines, left_out = leave_out(lines, {"value below 0": below})
    lines = lines.copy()  # before pandas 3 it may be a view
    ids = pd.Series(np.sort(lines["item_id"].unique()))
    of_item = dict(zip(named["item_id"], named["text"], strict=True))
    items = pd.DataFrame({"item_id": ids, "text": [of_item.get(name, name) for name in ids]})
    # A basket is of one user and one day: shops number the baskets of each user from 1 on, and
    # tills use their numbers again.
    day = lines["time"].dt.date.astype(str)
    given = lines["basket_id"] + "\n" + day if "basket_id" in lines else day
    lines["basket_id"] = lines["user_id"] + "\n" + given
    users = pd.DataFrame({"user_id": lines["user_id"].unique()})
    return Given(from_lines(lines, items, users, left_out), bool(of_item))


def _table(path: Path, needed: tuple[str, ...], further: tuple[str, ...] = ()) -> pd.DataFrame:
    """The columns of a file, all `needed` ones and of the `further` ones those that are there."""
    file = TableFile(path, needed)
    file.require(*needed)
    names = [*needed, *(name for name in further if name in file.columns)]
    parts = []
    for batch in file.batches():
        columns = {name: _READ.get(name, _as_text)(file, batch, name) for name in names}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _as_text(file: TableFile, batch: pa.Table, name: str) -> list[str]:
    return file.texts(batch, name)


def _as_id(file: TableFile, batch: pa.Table, name: str) -> list[str]:
    texts = file.texts(batch, name)
    for row, text in enumerate(texts):
        if is_blank(text):
            raise _fault(file, row, name, "is empty; give the id, or delete the row")
    return texts


def _as_time(file: TableFile, batch: pa.Table, name: str) -> pd.Series:
    texts = pd.Series(file.texts(batch, name))
    seconds = texts.str.fullmatch(_SECONDS)
    times = pd.to_datetime(texts.where(~seconds), format="ISO8601", utc=True, errors="coerce")
    numbers = pd.to_numeric(texts.where(seconds))
    times = times.fillna(pd.to_datetime(numbers, unit="s", utc=True))
    if times.isna().any():
        row = int(times.isna().argmax())
        raise _fault(file, row, name, f"{quoted(texts[row])} is no time; {_WHEN}")
    return times.dt.tz_localize(None)


def _as_number(file: TableFile, batch: pa.Table, name: str) -> pd.Series:
    texts = pd.Series(file.texts(batch, name))
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = ~np.isfinite(numbers.to_numpy(float))
    if wrong.any():
        row = int(wrong.argmax())
        raise _fault(file, row, name, f"{quoted(texts[row])} is no number; give one such as 2.5")
    return numbers.astype(float)


def _fault(file: TableFile, row: int, column: str, sentence: str) -> DataError:
    return DataError(f"{file.place(file.rows + row)}, column {column!r}: {sentence}.")


_READ: dict[str, Callable] = {
    **dict.fromkeys(("user_id", "item_id", "basket_id"), _as_id),
    **dict.fromkeys(("quantity", "value"), _as_number),
    "time": _as_time,
}
