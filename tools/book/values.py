"""Measured numbers in a chapter's prose: written there as numbers, held against the stored run.

In the notebook a number stands in a marked span, `<span data-value="name">0.152</span>`, which
Jupyter, Colab and GitHub show as it is. On its way into Sphinx the span becomes the role `{value}`
with the notebook's name in its key: text that does not change with the number, so that a
translation of the sentence stays valid. (MyST-NB's `{glue}` is lost in a translated sentence, and
with a notebook's name it sets numbers as code.)
"""

from __future__ import annotations

import html
import re
import sys

from book.common import say

SPAN = re.compile(r'<span data-value="([^"]+)">(.*?)</span>', re.DOTALL)
_TEXT = "application/papermill.record/text/plain"


def values(notebook) -> dict[str, str]:
    """What the stored run recorded: name to text."""
    return {
        output.metadata["scrapbook"]["name"]: output.data[_TEXT]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "scrapbook" in output.get("metadata", {})
    }


def quoted(notebook) -> list[tuple[int, str, str]]:
    """Each number in the prose: its cell, its name, and its text as it stands there."""
    return [
        (index, found[1], html.unescape(found[2]))
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for found in SPAN.finditer(cell.source)
    ]


def fill(notebook, name: str):
    """The notebook with the numbers of its stored run in the prose. Exits where one is missing."""
    known = values(notebook)
    for index, asked, _ in quoted(notebook):
        if asked not in known:
            sys.exit(f"notebooks/{name}.ipynb, cell {index}: no cell records {asked!r}.")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = SPAN.sub(lambda found: span(found[1], known[found[1]]), cell.source)
    if unused := sorted(known.keys() - {asked for _, asked, _ in quoted(notebook)}):
        say(f"notebooks/{name}.ipynb: recorded, and not in the prose: {', '.join(unused)}")
    return notebook


def span(name: str, text: str) -> str:
    return f'<span data-value="{name}">{html.escape(text, quote=False)}</span>'


def for_sphinx(notebook, name: str):
    """The notebook with a placeholder in place of each number in the prose."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = SPAN.sub(rf"{{value}}`{name}::\1`", cell.source)
    return notebook
