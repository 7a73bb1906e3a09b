"""What a chapter says, and how prose writes a value, for tests that hold its sentences against a
record."""

from pathlib import Path

import nbformat
import pandas as pd

import shared
from book import values
from ecomkd import report

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def of(chapter: str) -> str:
    """The Markdown of a chapter, such as `19_growing`, on one line, recorded numbers included."""
    cells = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return " ".join(values.SPAN.sub(r"\2", text).split())


def by_seed(record: str, measure: str) -> pd.DataFrame:
    """Systems × seeds: a measure, such as `ndcg@10`, of a recorded run of several seeds."""
    runs = pd.DataFrame(report.recorded(record)["data"]["per_seed"])
    return runs.map(lambda row: row[measure])


def by_order(record: str) -> dict[tuple[str, str], dict]:
    """The comparisons of a recorded run that go by nDCG@10, by the two systems compared."""
    found = report.recorded(record)["data"]["comparisons"]
    return shared.by_pair([one for one in found if one["measure"] == "nDCG@10"])


def span(found: dict, value: str = "value") -> str:
    """A recorded value with its interval, as the prose writes it."""
    ends = [report.number(found[end]) for end in (value, "low", "high")]
    return "{} [{}, {}]".format(*ends).replace("-", "−")
