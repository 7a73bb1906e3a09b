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
GOALS = {"whole": "among all items", "cold": "among hidden items"}
CHANCE = "chance, and whoever knows ids alone"


def interval(found: dict) -> str:
    """A recall with its interval, which does not break."""
    return "{value:.3f} ({low:.3f}\u00a0to\u00a0{high:.3f})".format(**found)


def gap(found: dict) -> str:
    """A difference with its interval, which does not break."""
    value = found.get("difference", found.get("value"))
    span = f"({found['low']:+.4f}\u00a0to\u00a0{found['high']:+.4f})"
    return f"{value:+.4f} {span}".replace("-", "−")


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
    rows = {
        name.replace(CHANCE, "chance"): [
            told(own[kind][name][goal]) if name in own[kind] else "" for own in found.values()
        ]
        for name in names
    }
    return table(head, [SHOPS[shop] for shop in found], rows)


def worth(found: dict, known: dict) -> str:
    """What transferred text is worth against counts of words, by what kind of shop it is."""
    rows = {}
    for shop, name in SHOPS.items():
        if shop not in known:
            continue
        own = known[shop]
        kind, text = own["shop"], own["minus"]["alone − alone, TF-IDF"]
        hidden = found.get(shop)
        gaps = [text["recall"], text["new_recall"]]
        if hidden:
            gaps.append(hidden["minus"]["best of MiniLM − best of TF-IDF"]["whole"])
        told = [gap(one).replace("\u00a0", " ") for one in gaps]  # or it is wider than a page
        kinds = [f"{100 * kind['repeats']:.1f} %", f"{kind['words']:.0f}"]
        rows[name] = kinds + told + [""] * (3 - len(told))
    heads = ["bought again", "words of a text", "all items", "new to the user", "hidden"]
    return table("MiniLM − TF-IDF, recall@10", heads, rows)
