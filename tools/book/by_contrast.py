"""The record `contrast_lists` on a page: a bi-encoder that labels teach by contrast."""

from __future__ import annotations

from collections import Counter

from book.goals import folded, number
from book.pages import apart, ranked, table
from ecomkd.relevance.tables import UNTRAINED_SUM

ROWS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    "bi-encoder, labels by contrast": "bi-encoder, taught by labels",
    UNTRAINED_SUM: "words and bi-encoder, untrained",
    "words + bi-encoder, labels by contrast": "words and bi-encoder, taught by labels",
}
"""The rows of the record, in words."""


def page_part(record: dict) -> str:
    """What book/compared.md includes: what each reaches, and what is told from what."""
    rows = {name: record["data"]["rows"][system] for system, name in ROWS.items()}
    shown = {name: [ranked(row)] for name, row in rows.items()}
    told = {
        f"{ROWS[one['system']]} − {ROWS[one['against']]}": [apart(one)]
        for one in record["data"]["comparisons"]
    }
    tables = (
        table("system", ["nDCG@10"], shown),
        table("compared", ["difference of nDCG@10"], told),
    )
    return "\n\n".join([*tables, tried(record["data"]["choices"]), folded(record)]) + "\n"


def tried(choices: dict[str, list[dict]]) -> str:
    """A folded table of nDCG@10 on the validation queries of each fold at each look, with what was
    kept in bold."""
    shown: dict[str, list[str]] = {}
    for looks in (fold["looks"] for own in choices.values() for fold in own):
        kept = max(looks, key=lambda look: look["ndcg@10"])  # the first of equals
        place: Counter[float] = Counter()  # the same passes are other steps in each fold
        for look in looks:
            rate, held = look["learning_rate"], number(look["ndcg@10"])
            place[rate] += 1
            name = f"rate {rate:.0e}, pass {place[rate]}" if rate else "untrained"
            shown.setdefault(name, []).append(f"**{held}**" if look is kept else held)
    heads = [f"fold {place}" for place in range(1, len(next(iter(shown.values()))) + 1)]
    title = "What was tried, and what validation said"
    return f":::{{dropdown}} {title}\n{table('nDCG@10 on validation', heads, shown)}\n:::"
