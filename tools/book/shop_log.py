"""The records `shop_log` and `shop_pairs` on a page: students with few logged pairs and with many,
shop by shop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from book.goals import folded, number, span
from book.pages import table
from ecomkd.relevance.tables import UNTRAINED_SUM

FREE = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    UNTRAINED_SUM: "words and bi-encoder, untrained",
    "teacher": "teacher",
}
SYSTEMS = FREE | {
    "the book's student": "book's student",
    "as many steps as the whole log": "student, more steps",
    "the whole log": "student, whole log",
}
"""The rows of the record `shop_log`, in words."""

AMOUNTS = {f"student of {pairs:,} pairs": pairs for pairs in (2_000, 20_000, 200_000)}
PAIRS = FREE | {name: name for name in ("teacher, no weight frozen", *AMOUNTS)}
"""The rows of the record `shop_pairs`, in words."""


def page_part(record: dict) -> str:
    """What book/more_pairs.md includes: what each system reaches in the mean over the shops and on
    each, and the differences that were asked, with intervals over the shops."""

    def told(one: dict) -> list[str]:
        ends = [one[of] for of in ("seeds", "macro_f1") if of in one]
        return [span({"value": found["mean"], **found}) for found in ends]

    return _part(record, SYSTEMS, next(iter(record["data"]["read"].values())), told)


def pairs_part(record: dict) -> str:
    """The same of students that differ in pairs and not in steps. Of two shops there is no interval
    over shops: that of nDCG@10 is over the queries of both, and macro-F1 has none."""
    (steps,) = set(record["data"]["steps"].values())

    def told(one: dict) -> list[str]:
        f1 = [number(one["macro_f1"]["mean"])] if "macro_f1" in one else []
        return [span({"value": one["difference"], **one}), *f1]

    return _part(record, PAIRS, {name: (pairs, steps) for name, pairs in AMOUNTS.items()}, told)


def _part(
    record: dict,
    systems: dict[str, str],
    read: dict[str, Sequence[int]],
    told: Callable[[dict], list[str]],
) -> str:
    """Three tables: of the systems, with what each student `read`, of their differences, as `told`
    writes one, and of each shop."""
    data = record["data"]
    rows, kept = {}, {}
    for name, words in systems.items():
        own = data["rows"][name]
        pairs, steps = map(number, read.get(name, ("", "")))
        f1 = number(own["macro_f1"]) if "macro_f1" in own else ""
        rows[words] = [pairs, steps, number(own["ndcg@10"]), f1]
        kept[words] = [number(value) for value in own["by_seed"]]
    apart = {
        f"{systems[one['system']]} − {systems[one['against']]}": [*told(one), ""][:2]
        for one in data["differences"]
    }
    shops = [f"shop {place}" for place, _ in enumerate(record["seeds"], 1)]
    tables = (
        table("system", ["logged pairs", "steps", "nDCG@10", "macro-F1"], rows),
        table("difference", ["nDCG@10", "macro-F1"], apart),
        table("nDCG@10", shops, kept),
    )
    return "\n\n".join([*tables, folded(record)]) + "\n"
