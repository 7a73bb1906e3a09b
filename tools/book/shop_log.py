"""The record `shop_log` on a page: students with few logged pairs and with many, shop by shop."""

from __future__ import annotations

from book.goals import folded, number, span
from book.pages import table
from ecomkd.relevance.tables import UNTRAINED_SUM

SYSTEMS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    UNTRAINED_SUM: "words and bi-encoder, untrained",
    "teacher": "teacher",
    "the book's student": "book's student",
    "as many steps as the whole log": "student, more steps",
    "the whole log": "student, whole log",
}
"""The rows of the record, in words."""


def page_part(record: dict) -> str:
    """What book/compared.md includes: what each system reaches in the mean over the shops and on
    each, and the differences that were asked, with intervals over the shops."""
    data = record["data"]
    read = next(iter(data["read"].values()))
    rows, kept = {}, {}
    for name, words in SYSTEMS.items():
        own = data["rows"][name]
        pairs, steps = map(number, read.get(name, ("", "")))
        f1 = number(own["macro_f1"]) if "macro_f1" in own else ""
        rows[words] = [pairs, steps, number(own["ndcg@10"]), f1]
        kept[words] = [number(value) for value in own["by_seed"]]
    apart = {}
    for one in data["differences"]:
        ends = [one[of] for of in ("seeds", "macro_f1") if of in one]
        told = [span({"value": found["mean"], **found}) for found in ends]
        what = f"{SYSTEMS[one['system']]} − {SYSTEMS[one['against']]}"
        apart[what] = [*told, ""][:2]
    shops = [f"shop {place}" for place, _ in enumerate(record["seeds"], 1)]
    tables = (
        table("system", ["logged pairs", "steps", "nDCG@10", "macro-F1"], rows),
        table("difference", ["nDCG@10", "macro-F1"], apart),
        table("nDCG@10", shops, kept),
    )
    return "\n\n".join([*tables, folded(record)]) + "\n"
