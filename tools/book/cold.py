"""The record `cold_items` on a page: how hidden items are ranked, and what text is worth where."""

from __future__ import annotations

from collections.abc import Callable

from book.goals import folded
from book.pages import table

SHOPS = {
    "journey": "The Complete Journey",
    "online_retail": "Online Retail",
    "office_products": "office products",
    "industrial_and_scientific": "industrial and scientific",
}
"""The shops of the records, in words."""
UNDATED = ("office_products", "industrial_and_scientific")
"""Shops whose purchases have an order and no dates, so that their items have no age."""
GOALS = {"whole": "among all items", "cold": "among hidden items"}
CHANCE = "chance, and whoever knows ids alone"


def interval(found: dict) -> str:
    """A recall with its interval."""
    return "{value:.3f} ({low:.3f} to {high:.3f})".format(**found)


def gap(found: dict, digits: int = 4) -> str:
    """A difference with its interval."""
    value = found.get("difference", found.get("value"))
    own, low, high = (f"{end:+.{digits}f}" for end in (value, found["low"], found["high"]))
    return f"{own} ({low} to {high})".replace("-", "−")


def page_part(cold: dict, known: dict) -> str:
    """What book/cold_items.md includes: recall by way and text, differences, and shop by shop.

    `cold` is the record `cold_items`, `known` the record `recommendation`.
    """
    found = {shop: cold["data"][shop] for shop in SHOPS if shop in cold["data"]}
    recalls = [
        _by_shop(f"recall@10 {where}", found, "rows", goal, interval)
        for goal, where in GOALS.items()
    ]
    gaps = [
        _by_shop(f"difference {where}", found, "minus", goal, gap) for goal, where in GOALS.items()
    ]
    return "\n\n".join([*recalls, *gaps, worth(found, known["data"]), folded(cold)])


def _by_shop(head: str, found: dict, kind: str, goal: str, told: Callable[[dict], str]) -> str:
    """One table, with a column for each shop; a row that a shop has not is empty there."""
    names = dict.fromkeys(name for own in found.values() for name in own[kind])

    def cell(own: dict, name: str) -> str:
        return narrow(told(own[kind][name][goal])) if name in own[kind] else ""

    rows = {
        # Names of rows do not break at their hyphens.
        name.replace(CHANCE, "ids alone").replace("-", "\u2011"): [
            cell(own, name) for own in found.values()
        ]
        for name in names
    }
    return table(head, [SHOPS[shop] for shop in found], rows)


def narrow(text: str) -> str:
    """A value with its interval below it, which does not break: so four shops fit into a page."""
    return text.replace(" (", "<br>(").replace(" to ", "\u00a0to\u00a0")


def worth(found: dict, known: dict) -> str:
    """What transferred text is worth against counts of words, by what kind of shop it is."""
    rows = {}
    for shop, name in SHOPS.items():
        if shop not in known:
            continue
        own = known[shop]
        kind, text = own["shop"], own["minus"]["alone − alone, TF-IDF"]
        hidden = found.get(shop)
        rows[name] = [
            f"{100 * kind['repeats']:.1f} %",
            f"{kind['words']:.0f}",
            "no dates" if shop in UNDATED else f"{kind['age']:.0f} days",
            narrow(gap(text["recall"])),
            narrow(gap(text["new_recall"])),
            narrow(gap(hidden["minus"]["best of MiniLM − best of TF-IDF"]["whole"]))
            if hidden
            else "",
        ]
    heads = ["bought again", "words of a text", "age of what is bought", "all items",
             "new to the user", "hidden"]  # fmt: skip
    return table("MiniLM − TF-IDF, recall@10", heads, rows)
