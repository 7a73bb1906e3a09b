"""Records of a simulated shop's products, with descriptions that can be learnt. Chapter 12."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from ecomkd.data import shop as simulated
from ecomkd.describe import facts
from ecomkd.describe.facts import Fact, Product, Vocabulary

_OPENINGS = (
    "The {brand} {name} is made for {use}.",
    "Made for {use}, this {name} comes from {brand}.",
    "This {name} by {brand} is a fine choice for {use}.",
    "For {use}, {brand} offers this {name}.",
)
_PHRASES = {
    "colour": ("it comes in {}", "the colour is {}"),
    "material": ("it is made of {}", "the material is {}"),
    "set": ("it is sold as a {}", "you get a {}"),
    "who": ("it belongs to the {} range", "it is from the {} range"),
    "capacity": ("it has a capacity of {}", "its capacity is {}"),
}
_ANY = ("its {attribute} is {}", "the {attribute} is {}")


@cache
def shop_vocabulary() -> Vocabulary:
    """The words of the simulated shop for values, brands, kinds of product, uses and promises."""
    known, forms = simulated.vocabulary(), defaultdict(set)
    for reading, both in known.forms.items():
        forms[reading] |= {form for side in both for form in side}
    for kind in known.types:
        forms["product", kind.key] |= {*kind.names, *kind.known}
        for use in kind.uses:
            forms["for", use].add(use)
    for brands in known.brands.values():
        for brand in brands:
            forms["brand", brand.name].add(brand.name)
    return Vocabulary(forms | {("promise", one): {one} for one in facts.PROMISES})


def shop_products(catalogue: pd.DataFrame, promises: bool = False) -> list[Product]:
    """The products of a simulated shop, with the texts of a simulated writer who names every fact.

    The products that have a description in the shop have such a text too. With `promises`, it ends
    as the shop's own description does: on a guarantee, on packaging, or on something else that no
    record holds.
    """
    known = simulated.vocabulary()
    kinds = {kind.key: kind for kind in known.types}
    products = []
    for row in catalogue.itertuples():
        bullets = row.product_bullet_point.split("\n")
        shown = dict(line.split(": ", 1) for line in bullets if ": " in line)
        title = row.product_title.casefold()
        names = kinds[row.product_type].names
        name = max((one for one in names if one.casefold() in title), key=len, default=names[0])
        told_facts = [Fact("brand", row.product_brand, row.product_brand)]
        for attribute, value in json.loads(row.attributes).items():
            forms = known.forms[attribute, value][0]
            told = [form for form in forms if form.casefold() in title] or forms[:1]
            label = attribute.replace("_", " ").capitalize()
            told_facts.append(Fact(attribute, value, shown.get(label, max(told, key=len))))
        first, _, closer = row.product_description.partition(". ")
        use = bullets[-1].removeprefix("For ") if bullets[-1].startswith("For ") else ""
        use = use or first.rstrip(".").partition(" made for ")[2] or kinds[row.product_type].uses[0]
        product = Product(row.product_id, name.lower(), (*told_facts, Fact("for", use, use)))
        if row.product_description:
            product = replace(product, written=_written(product, closer if promises else ""))
        products.append(product)
    return products


def _written(product: Product, closer: str) -> str:
    rng = np.random.default_rng(list(product.product_id.encode()))
    shown = {fact.attribute: fact.shown for fact in product.facts}
    opening = str(rng.choice(_OPENINGS)).format(
        brand=shown.pop("brand"), name=product.name, use=shown.pop("for")
    )
    told = [
        str(rng.choice(_PHRASES.get(attribute, _ANY))).format(
            value.lower().removeprefix("for " if attribute == "who" else ""),
            attribute=attribute.replace("_", " "),
        )
        for attribute, value in sorted(shown.items(), key=lambda _: rng.random())
    ]
    halves = [told] if len(told) < 3 else [told[:2], told[2:]]
    rest = [f"{' and '.join(part)}." for part in halves if part]
    return " ".join([opening, *(one[0].upper() + one[1:] for one in rest), closer]).strip()
