"""What the goods of a till are called, and which of its lines are no goods at all.

A till's codes are cut and abbreviated, and one word of them means ice cream here and bacon there.
So the common ones are written out by hand, in `goods.csv`. Sizes: I items. Chapter 11.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

NO_GOODS = r"^COUPON(?:/|$)|/MISC SALES TRANS$|/GASOLINE|^PROD SUPPLIES/"
"""A pattern of category/type of The Complete Journey: coupons, fuel, what the till could not name.
Most of them stand in the department of groceries."""


def no_goods(items: pd.DataFrame) -> pd.Series:
    """True for each item that is no product of the shop, (I,).

    Args:
        items: with `category` and `type`.

    Example: ::

        everything = journey.load()
        goods = people.without(everything, people.no_goods(everything.items))
    """
    return shelves(items).str.contains(NO_GOODS)


def shelves(items: pd.DataFrame) -> pd.Series:
    """`category/type` of each item, (I,), by which reading is forbidden; a missing one is ""."""
    return items["category"].fillna("") + "/" + items["type"].fillna("")


def called(items: pd.DataFrame) -> pd.Series:
    """The name of each item's kind of goods, in words that are written out, (I,).

    It is found by type and category, or by the type alone where that means one thing. A kind that
    `goods.csv` does not have keeps the till's own words, with its category behind them.

    Args:
        items: with `category` and `type`.

    Example: ::

        PREMIUM of BACON            premium bacon
        CATSUP                      ketchup
        SHOESTRING of FRZN POTATOES shoestring (frzn potatoes)
    """
    names, types, category = _written(), items["type"].fillna(""), items["category"].fillna("")
    both = pd.Series(list(zip(types, category, strict=True)), items.index)
    alone = pd.Series([(kind, "") for kind in types], items.index)
    own = types + " (" + category + ")"
    own = own.mask((category == "") | (category == types), types)
    own = own.str.lower().str.replace(r"\s+", " ", regex=True).str.strip()
    return both.map(names).fillna(alone.map(names)).fillna(own).rename("name")


def written_out(items: pd.DataFrame) -> pd.Series:
    """True for each item whose name `called` has from `goods.csv`, (I,)."""
    names = _written()
    found = zip(items["type"], items["category"], strict=True)
    return pd.Series([(kind, "") in names or (kind, of) in names for kind, of in found],
                     items.index)  # fmt: skip


@cache
def _written() -> dict[tuple[str, str], str]:
    table = pd.read_csv(Path(__file__).with_name("goods.csv"), keep_default_na=False)
    return dict(zip(zip(table["type"], table["category"], strict=True), table["name"], strict=True))
