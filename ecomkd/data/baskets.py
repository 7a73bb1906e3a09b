"""Purchases: who bought what and when, the same for every shop they come from.

Chapters 10, 11, 13, 14 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecomkd.data.contract import DataError

HORIZON = 28
"""Days that a recommendation looks ahead, and that validation and test last."""

_LINES = ("user_id", "item_id", "basket_id", "time", "quantity", "value")


@dataclass(frozen=True)
class Baskets:
    """The purchases of a shop.

    `events` has one row for each item of a basket, in order of time: `user` and `item` (rows of
    `users` and `items`), `basket`, `day` (whole days since the first purchase's midnight),
    `quantity`, and `price`, what one piece cost.
    `items` has `item_id`, `text` (what an encoder reads) and further columns; `users` has `user_id`
    and further ones. Both hold only what occurs in `events`.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    left_out: dict[str, int]
    """Lines that are not among the events, counted by the reason."""

    @property
    def days(self) -> int:
        """Days from the first purchase to the last, both counted."""
        return int(self.events["day"].iloc[-1]) + 1

    @property
    def test_start(self) -> int:
        """The first day of the test period, which lasts to the end."""
        return self.days - HORIZON

    @property
    def validation_start(self) -> int:
        """The first day of the validation period, which ends where test begins."""
        return self.days - 2 * HORIZON

    def between(self, start: int, end: int) -> pd.DataFrame:
        """The events of the days `start` to `end` - 1."""
        first, last = np.searchsorted(self.events["day"].to_numpy(), (start, end))
        return self.events.iloc[first:last]


def from_lines(
    lines: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame, left_out: dict[str, int]
) -> Baskets:
    """Baskets from the lines of a till.

    Lines of one basket with the same item become one event. Lines without a piece (a quantity of 0
    or less) or of an item that `items` does not have are left out and counted, after what the
    caller has left out already.

    Args:
        lines: `user_id`, `item_id`, `basket_id`, `time` (a timestamp), `quantity`, `value` (money).
        items: `item_id`, each once, `text`, and further columns.
        users: `user_id`, each once, and further columns. Users without a row have missing values.
        left_out: lines that were left out before, by reason.

    Raises:
        DataError: a column is missing, an id is twice in `items` or `users`, no line is left.
    """
    for name in _LINES:
        if name not in lines:
            raise DataError(f"lines: column {name!r} is missing; add it.")
    for table, key in ((items, "item_id"), (users, "user_id")):
        if table[key].duplicated().any():
            twice = table.loc[table[key].duplicated(), key].iloc[0]
            raise DataError(f"{key} {twice} has two rows; keep one.")
    own = {
        "no piece": lines["quantity"] <= 0,
        "unknown item": ~lines["item_id"].isin(items["item_id"]),
    }
    lines, counts = leave_out(lines, own)
    if lines.empty:
        raise DataError(
            "no line is left: each has no piece, an unknown item or a value below 0; check ids and "
            "signs."
        )
    keys = ["user_id", "basket_id", "item_id"]
    bought = lines.groupby(keys, sort=False).agg(
        time=("time", "min"), quantity=("quantity", "sum"), value=("value", "sum")
    )
    # A basket is one event in time, and baskets of one moment keep apart.
    bought["time"] = bought.groupby("basket_id")["time"].transform("min")
    bought = bought.reset_index().sort_values(["time", "basket_id", "item_id"], kind="stable")
    items = items[items["item_id"].isin(bought["item_id"])].sort_values("item_id")
    people = pd.DataFrame({"user_id": np.sort(bought["user_id"].unique())})
    midnight = bought["time"].min().normalize()
    events = pd.DataFrame(
        {
            "user": np.searchsorted(people["user_id"], bought["user_id"]).astype(np.int32),
            "item": np.searchsorted(items["item_id"], bought["item_id"]).astype(np.int32),
            "basket": pd.factorize(bought["basket_id"])[0].astype(np.int32),
            "day": (bought["time"] - midnight).dt.days.to_numpy(np.int32),
            "quantity": bought["quantity"].to_numpy(np.float32),
            "price": (bought["value"] / bought["quantity"]).to_numpy(np.float32),
        }
    )
    users = people.merge(users, how="left", on="user_id")
    return Baskets(events, items.reset_index(drop=True), users, left_out | counts)


def sample(baskets: Baskets, users: int | None, seed: int) -> Baskets:
    """The shop as so many of its users know it, drawn at random; all of it with None.

    Items that none of them bought are gone. Day numbers stay as they are, and the periods end with
    the last purchase that is left. Raises ValueError when the shop has fewer users.
    """
    if users is None:
        return baskets
    if users > len(baskets.users):
        raise ValueError(f"The shop has {len(baskets.users)} users: ask for no more, not {users}.")
    return of_users(baskets, np.random.default_rng(seed).permutation(len(baskets.users))[:users])


def of_users(baskets: Baskets, users: np.ndarray) -> Baskets:
    """The shop as these rows of users know it, in their old order.

    Items that none of them bought are gone, days stay as they are.
    """
    kept = np.unique(users)
    events = baskets.events[baskets.events["user"].isin(kept)]
    sold = np.unique(events["item"])
    events = events.assign(
        user=np.searchsorted(kept, events["user"]).astype(np.int32),
        item=np.searchsorted(sold, events["item"]).astype(np.int32),
        basket=pd.factorize(events["basket"])[0].astype(np.int32),
    )
    tables = (table.iloc[rows] for table, rows in ((baskets.items, sold), (baskets.users, kept)))
    items, people = (table.reset_index(drop=True) for table in tables)
    return Baskets(events.reset_index(drop=True), items, people, baskets.left_out)


def leave_out(
    lines: pd.DataFrame, reasons: dict[str, pd.Series]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The lines that no reason speaks against, and how many each of them takes away.

    A reason is true where a line has to go. A line with several reasons counts for the first.
    """
    kept, counts = np.ones(len(lines), bool), {}
    for reason, gone in reasons.items():
        counts[reason] = int((kept & gone.to_numpy()).sum())
        kept &= ~gone.to_numpy()
    return lines[kept], counts
