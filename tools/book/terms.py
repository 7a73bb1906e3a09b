"""Links from a chapter's words to the glossary, made on the way into Sphinx.

In the notebook a term is a plain word, which Jupyter, Colab and GitHub show as it is. In the book
the first use of each term in a chapter is a link, which shows the definition.
"""

from __future__ import annotations

import re
from functools import cache

from book.common import ROOT, tags

GLOSSARY = ROOT / "book" / "glossary.md"
_APART = re.compile(
    r"""
    ```.*?``` | ~~~.*?~~~ | \$\$.*?\$\$ | \$[^$\n]+\$           # fences, mathematics
    | \{[a-z:]+\}`[^`]*` | `[^`]*`                              # roles, code
    | !?\[[^\]]*\]\([^)]*\) | <span\b.*?</span> | <[^>]+>       # links, numbers, HTML
    | ^[#].*$ | ^[:`]{3,}.*$ | ^:[a-z-]+:.*$ | ^\(.*\)=$        # headings, directives, labels
    | ^[|].*$ | \*\*[^*]+\*\*                                   # tables, what is bold already
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
"""What holds no link."""
_BEFORE = {
    "baseline": r"(?<!less )",
    "batch": r"(?<!what a )",
    "drift": r"(?:[Aa]|[Dd]ata|for|of|the)\s",
    "gain": r"(?:[Ee]xpected|These are the|chapter 1's|own)\s",
    "lift": r"(?:[Aa]|[Ii]ts|[Tt]he|'s)\s",
    "loss": r"(?:[Tt]he|[Ii]ts|log|ranking)\s",
    "mode": r"(?<!train )(?<!eval )",
    "split": r"(?:[Aa]|[Ee]ach|The|[Tt]est|[Tt]raining)\s",
    "transformer": r"(?<!Sentence )",
}
"""What stands before these words where they are terms, and not verbs or a difference."""


def terms(glossary: str) -> list[str]:
    """The English terms of a glossary, the longest first."""
    found, inside = set(), False
    for line in glossary.splitlines():
        if re.fullmatch(r"[:`]{3,}\s*(\{glossary\})?", line):
            inside = line.endswith("{glossary}")
        elif inside and re.fullmatch(r"[A-Za-z0-9][\x21-\x7e ]+", line):
            found.add(line)
    return sorted(found, key=lambda term: (-len(term), term))


@cache
def uses(glossary: str) -> list[tuple[str, re.Pattern]]:
    """The terms of a glossary, with what finds each of them, alone, in the plural or capital."""
    found = []
    for term in terms(glossary):
        words = {term, f"{term}s", term[0].upper() + term[1:], f"{term[0].upper()}{term[1:]}s"}
        either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        before = _BEFORE.get(term, "")
        found.append((term, re.compile(rf"(?<![\w/-]){before}(?P<use>{either})(?![\w/-])")))
    return found


def linked(notebook):
    """The notebook with a link at the first use of each term."""
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown" and "run-time" not in tags(cell)
    ]
    for term, use in uses(GLOSSARY.read_text("utf-8")):
        any(_link(cell, use, term) for cell in cells)
    return notebook


def _link(cell, pattern: re.Pattern, term: str) -> bool:
    """Link the first use of a term in a cell, where there is one."""
    found = list(pattern.finditer(cell.source)) if term[1:] in cell.source else []
    apart = [one.span() for one in _APART.finditer(cell.source)] if found else []
    for one in found:
        (begin, end), use = one.span("use"), one["use"]
        if not any(start < end and begin < stop for start, stop in apart):
            shown = use if use == term else f"{use} <{term}>"
            cell.source = f"{cell.source[:begin]}{{term}}`{shown}`{cell.source[end:]}"
            return True
    return False
