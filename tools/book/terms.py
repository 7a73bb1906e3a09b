"""Links from a chapter's words to the glossary, made on the way into Sphinx.

In the notebook a term is a plain word, which Jupyter, Colab and GitHub show as it is. In the book
the first use of each term in a chapter is a link, which shows the definition.
"""

from __future__ import annotations

import re

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


def terms() -> list[str]:
    """The English terms of the glossary, the longest first."""
    found, inside = set(), False
    for line in GLOSSARY.read_text("utf-8").splitlines():
        if re.fullmatch(r"[:`]{3,}\s*(\{glossary\})?", line):
            inside = line.endswith("{glossary}")
        elif inside and re.fullmatch(r"[A-Za-z0-9][\x21-\x7e ]+", line):
            found.add(line)
    return sorted(found, key=lambda term: (-len(term), term))


def linked(notebook):
    """The notebook with a link at the first use of each term, alone, in the plural or capital."""
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown" and "run-time" not in tags(cell)
    ]
    for term in terms():
        words = {term, f"{term}s", term[0].upper() + term[1:], f"{term[0].upper()}{term[1:]}s"}
        either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        use = re.compile(rf"(?<![\w/-])(?:{either})(?![\w/-])")
        any(_link(cell, use, term) for cell in cells)
    return notebook


def _link(cell, use: re.Pattern, term: str) -> bool:
    """Link the first use of a term in a cell, where there is one."""
    apart = [found.span() for found in _APART.finditer(cell.source)]
    for found in use.finditer(cell.source):
        begin, end = found.span()
        if not any(start < end and begin < stop for start, stop in apart):
            shown = found[0] if found[0] == term else f"{found[0]} <{term}>"
            cell.source = f"{cell.source[:begin]}{{term}}`{shown}`{cell.source[end:]}"
            return True
    return False
