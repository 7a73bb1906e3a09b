"""The record `runtimes` on a page: what each runtime and precision costs and loses."""

from __future__ import annotations

from book.goals import folded
from book.pages import table
from ecomkd.relevance.runtimes import NAMES

MODELS = ("teacher", "student")


def points(value: float) -> str:
    """Points that were lost, below 0 gained; nothing lost has no sign."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def page_part(record: dict) -> str:
    """What book/own_catalogue.md includes: a table for each model, with its two sizes of batch."""
    parts = []
    for model in MODELS:
        rows: dict[tuple[str, str], dict[int, dict]] = {}
        for row in record["data"]["rows"]:
            if row["model"] == model:
                rows.setdefault((row["runtime"], row["precision"]), {})[row["batch"]] = row
        shown = {}
        for (runtime, precision), found in rows.items():
            one, many = found[1], found[32]
            shown[f"{NAMES[runtime]} {precision}"] = [
                f"{one['megabytes']:.0f} MB",
                f"{one['p50_ms']:.2f} ms",
                f"{many['pairs_per_second']:,.0f}",
                *(
                    points(own[f"{of}_loss"])
                    for of in ("ndcg@10", "macro_f1")
                    for own in (one, many)
                ),
            ]
        heads = ["file", "one pair", "pairs a second, 32 at once"]
        sizes = ("one", "of 32")
        heads += [f"{of} lost, {size}" for of in ("nDCG@10", "macro-F1") for size in sizes]
        parts.append(table(model, heads, shown))
    return "\n\n".join([*parts, folded(record)]) + "\n"
