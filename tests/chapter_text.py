"""What a chapter says, and how prose writes a value, for tests that hold its sentences against a
record."""

from pathlib import Path

import nbformat

from book import values
from ecomkd import report

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def of(chapter: str) -> str:
    """The Markdown of a chapter, such as `19_growing`, on one line, recorded numbers included."""
    cells = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return " ".join(values.SPAN.sub(r"\2", text).split())


def span(found: dict, value: str = "value") -> str:
    """A recorded value with its interval, as the prose writes it."""
    ends = [report.number(found[end]) for end in (value, "low", "high")]
    return "{} [{}, {}]".format(*ends).replace("-", "−")
