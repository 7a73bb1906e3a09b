"""The demo store: a real catalogue's records, with the descriptions that its sellers wrote.

Colours, materials, numbers and promises are not in the catalogue; they are read from its texts.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import pandas as pd

from ecomkd import describe
from ecomkd.config import Profile
from ecomkd.data import shop as simulated
from ecomkd.describe import Fact, Product, Vocabulary, facts
from shared import real_folder

FURTHER = {
    "colour": (
        "aqua", "bronze", "caramel", "coral", "cream", "indigo", "khaki", "lavender", "magenta",
        "maroon", "mauve", "multicolor", "multicolored", "neutral", "pastel", "peach", "rose gold",
        "ruby", "tan", "teal", "turquoise", "violet",
    ),
    "material": (
        "brass", "cedar", "chiffon", "clay", "concrete", "cork", "crystal", "diamond",
        "faux fur", "faux leather", "fur", "granite", "hemp", "iron", "jute", "lace", "mahogany",
        "mesh", "oak", "pearl", "resin", "satin", "sequin", "sterling silver", "stone", "suede",
        "teak", "terracotta", "tulle", "tweed", "velour", "vinyl", "walnut",
    ),
}  # fmt: skip
"""Values of colours and materials of a real catalogue that the simulated shop does not have."""


def task(profile: Profile, withheld: bool = False, **changes: int | str) -> describe.Task:
    """The task of the demo store's 2,465 products; for `withheld` see `products`, for `changes`
    `describe.task`."""
    return describe.task(products(catalogue(), withheld), vocabulary(), profile, **changes)


def catalogue() -> pd.DataFrame:
    """The products of the demo store as it lists them, each with a written description."""
    return pd.read_parquet(real_folder("demo_store") / "products.parquet")


@cache
def vocabulary() -> Vocabulary:
    """The words for colours, materials and promises in a real catalogue; numbers need no word.

    They are those of the simulated shop and `FURTHER` ones.
    """
    known, forms = simulated.vocabulary(), defaultdict(set)
    for (attribute, value), both in known.forms.items():
        if attribute in FURTHER:
            forms[attribute, value] |= {form for side in both for form in side}
    for attribute, values in FURTHER.items():
        for value in values:
            forms[attribute, value].add(value)
    return Vocabulary(forms | {("promise", one): {one} for one in facts.PROMISES})


def products(listed: pd.DataFrame, withheld: bool = False) -> list[Product]:
    """The products of a catalogue such as `catalogue()`, each with its written description.

    A catalogue has names, categories, styles and audiences. Colours, materials, numbers and
    promises, which a shop would hold in its records too, are read from the name and the description
    by the `vocabulary`. With `withheld` they are read from the name alone.
    """
    words, found = vocabulary(), []
    for row in listed.itertuples():
        context = [f"Kind: {row.category}, {row.style}"]
        if row.gender_affinity in ("F", "M"):
            context.append(f"For: {'women' if row.gender_affinity == 'F' else 'men'}")
        told = row.name if withheld else f"{row.name}. {row.description}"
        seen = {}
        for form, shown in words.find(told):
            reading = min(words.readings.get(form) or {("number", form)})
            seen.setdefault(reading, Fact(*reading, shown))
        own = tuple(sorted(seen.values(), key=lambda fact: fact.attribute))
        found.append(Product(row.id, row.name, own, tuple(context), row.description))
    return found
