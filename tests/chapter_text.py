"""What a chapter says, for tests that hold its sentences against a record."""

from pathlib import Path

import nbformat

from book import values

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def of(chapter: str) -> str:
    """The Markdown of a chapter, such as `19_growing`, on one line, recorded numbers included."""
    cells = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return " ".join(values.SPAN.sub(r"\2", text).split())
