"""The record `sum_students` on a page: students of a sum that nobody trained."""

from __future__ import annotations

from book.goals import folded, number
from book.pages import apart, ranked, table
from ecomkd.relevance.tables import UNTRAINED_SUM

ROWS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    UNTRAINED_SUM: "words and bi-encoder: the teacher",
    "labels only": "student, labels only",
    "the sum's answers too": "student, and the teacher's answers for the same pairs",
    "the sum's answers, more pairs": "student, and for mined pairs",
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
    return "\n\n".join([*tables, folded(record)]) + "\n"
