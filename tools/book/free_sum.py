"""The record `sum_students` on a page: students of a sum that nobody trained."""

from __future__ import annotations

from book.goals import folded, number
from book.pages import apart, ranked, table
from ecomkd.relevance.tables import UNTRAINED_SUM

ALONE = "labels only"
ROWS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    UNTRAINED_SUM: "words and bi-encoder: the teacher",
    ALONE: "student, labels only",
    "the sum's answers too": "student, with answers for the labelled pairs",
    "the sum's answers, more pairs": "student, with answers for mined pairs too",
}
"""The rows of the record, in words."""


def page_part(record: dict) -> str:
    """What book/compared.md includes: what each reaches, and what is told from what."""
    rows = {name: record["data"]["rows"][system] for system, name in ROWS.items()}
    shown = {name: [ranked(row), number(row["lift@10"])] for name, row in rows.items()}
    told = {
        f"{ROWS[one['system']]} − {ROWS[one['against']]}": [apart(one)]
        for one in record["data"]["comparisons"]
    }
    tables = (
        table("system", ["nDCG@10", "above a random order"], shown),
        table("compared", ["difference of nDCG@10"], told),
    )
    return "\n\n".join([*tables, tried(record["data"]["choices"]), folded(record)]) + "\n"


def tried(choices: dict[str, list[list[dict]]]) -> str:
    """A folded table of nDCG@10 on the validation queries of each fold, with what labels alone
    take in bold."""
    shown: dict[str, list[str]] = {}
    for runs in (fold for own in choices.values() for fold in own):
        best = max(run["ndcg@10"] for run in runs if run["system"] == ALONE)
        for run in runs:
            held, name = number(run["ndcg@10"]), ROWS[run["system"]]
            if run["system"] == ALONE:
                name += ", rate × {rate:.2g}, steps × {steps:g}, dropout {dropout:g}".format(**run)
                held = f"**{held}**" if run["ndcg@10"] == best else held
            shown.setdefault(name, []).append(held)
    heads = [f"fold {place}" for place in range(1, len(next(iter(shown.values()))) + 1)]
    title = "What was tried, and what validation said"
    return f":::{{dropdown}} {title}\n{table('nDCG@10 on validation', heads, shown)}\n:::"
