"""The record `teacher_sizes` on a page: what students of film queries have from two teachers."""

from __future__ import annotations

from book.frontier import NAMES
from book.goals import folded, span
from book.pages import ranked, rates, table

UNTRAINED = "six layers, untrained"
SMALL, LARGE = "six layers, fine-tuned", "base size, fine-tuned"
TEACHERS = {UNTRAINED: "six layers, as they came", SMALL: "six layers", LARGE: "base size"}
"""The teachers of the record, in words."""
STUDENTS = ("three layers", "two layers", "two layers of 128", "static")


def page_part(record: dict) -> str:
    """What book/film_queries.md includes: teachers and students by themselves and with words, the
    differences that decide, and what validation chose."""
    rows = record["data"]["rows"]
    heads = ["labels alone", *TEACHERS.values()]
    tables = []
    for before, corner in (("", "nDCG@10, taught by"), ("words + ", "with words, taught by")):
        shown = {"the teacher": ["", *(ranked(rows[before + name]) for name in TEACHERS)]}
        for name in STUDENTS:
            known = [f"{name}, labels", *(f"{name}, taught by {one}" for one in TEACHERS)]
            own = [rows.get(before + one) for one in known]
            shown[NAMES[name]] = [ranked(one) if one else "" for one in own]
        tables.append(table(corner, heads, shown))
    told = {(one["system"], one["against"]): span(one) for one in record["data"]["comparisons"]}
    kept = {one["system"]: one for one in record["data"]["kept"]}
    apart = {}
    for name in STUDENTS:
        small, large = (f"{name}, taught by {one}" for one in (SMALL, LARGE))
        apart[NAMES[name]] = [told[small, f"{name}, labels"], told[large, small]]
        apart[NAMES[name]].append(told[f"words + {large}", f"words + {small}"])
        apart[NAMES[name]].append(span(kept[small]))
    columns = [
        "six layers − labels alone",
        "base size − six layers",
        "with words, base size − six layers",
        "share of six layers' lift",
    ]
    tables.append(table("student", columns, apart))
    names = {SMALL: "teacher of six layers", LARGE: "teacher of base size"}
    for name in STUDENTS:
        names[f"{name}, labels"] = f"{NAMES[name]}, labels alone"
        for one, words in TEACHERS.items():
            names[f"{name}, taught by {one}"] = f"{NAMES[name]}, taught by {words}"
    chosen = rates(record["data"]["choices"], names)
    return "\n\n".join([*tables, chosen, folded(record)]) + "\n"
