"""Numbers on their way to a reader: in prose, in tables, recorded as JSON. All chapters."""

from __future__ import annotations

import json
import math
import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import metadata, resources
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from ecomkd.artifacts import write_text

if TYPE_CHECKING:
    import pandas as pd

_PACKAGES = ("torch", "transformers", "datasets", "numpy", "onnxruntime", "scikit-learn")


def record(name: str, value, unit: str | None = None) -> str:
    """Keep a measured value under `name`, so that the chapter's prose can quote it.

    In a notebook the text goes into the cell's metadata, and from there into the prose, where
    `<span data-value="name">` stands.
    Numbers are set by `number`; anything else as its `str`. A hyphen that stands for a minus
    becomes one. Returns the text.

    Example:
        >>> record("share kept", 0.9731)
        '0.973'
        >>> record("change", "-0.8 (-1.4 to -0.1) on ms-2")
        '−0.8 (−1.4 to −0.1) on ms-2'
    """
    is_number = isinstance(value, Real)  # NumPy's too, which no type of Python's own covers
    text = number(value, unit) if is_number else str(value)
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return text
    if get_ipython() is not None:
        prefix = "application/papermill.record/"
        display(
            {f"{prefix}text/plain": text},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
        )
    return text


def record_all(values: Mapping, **units: str) -> None:
    """Record each of `values` as `record` does, and print it: "name = text", one a line.

    A value is a number or a text; a pair of a value and its unit stands for both. `units` gives the
    units of values whose names are words of Python.

    Example:
        >>> record_all({"queries": 1200, "share kept": 0.9731})
        queries = 1,200
        share kept = 0.973
    """
    lines = []
    for name, value in values.items():
        value, unit = value if isinstance(value, tuple) else (value, units.get(name))
        lines.append(f"{name} = {record(name, value, unit)}")
    print("\n".join(lines))


def number(value: float, unit: str | None = None) -> str:
    """A number as the book prints it.

    A whole number has its thousands marked; others have 3 digits, and one digit below 0.001. The
    unit follows after a no-break space; for `%` the number is multiplied by 100 first.
    """
    value = value + 0  # no minus before a zero
    if unit == "%":
        return f"{100 * value:.1f} %"
    if isinstance(value, Integral):
        text = f"{value:,}"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 10:
        text = f"{value:.1f}"
    elif abs(value) >= 1 or value == 0:
        text = f"{value:.2f}"
    elif abs(value) >= 0.001:
        text = f"{value:.3f}"
    else:
        text = f"{value:.1g}"
    return f"{text} {unit}" if unit else text


@dataclass(frozen=True)
class Table:
    """A table that Jupyter shows as HTML, and a terminal as text. `show` makes it."""

    heads: list[str]
    rows: list[list[str]]
    right: list[bool]
    """For each column, whether it is set at the right, as numbers are."""
    named: int
    """How many of the first columns name their row."""

    def __repr__(self) -> str:
        lines = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [">" if right else "<" for right in self.right]
        return "\n".join(
            "  ".join(
                f"{text:{side}{width}}"
                for text, side, width in zip(line, sides, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        styles = [f"text-align: {'right' if right else 'left'}" for right in self.right]

        def cell(kind: str, text: str, style: str) -> str:
            # An empty head is no head: screen readers would announce it.
            kind = kind if text else "td"
            return f'<{kind} style="{style}">{escape(text)}</{kind.split()[0]}>'

        def line(kinds: Sequence[str], texts: Sequence[str]) -> str:
            cells = map(cell, kinds, texts, styles)
            return f"<tr>{''.join(cells)}</tr>"

        kinds = ['th scope="row"'] * self.named + ["td"] * (len(self.heads) - self.named)
        head = line(['th scope="col"'] * len(self.heads), self.heads)
        body = "\n".join(line(kinds, row) for row in self.rows)
        label = _shortened("Table: " + ", ".join(filter(None, self.heads)), 80)
        return (
            f'<div class="table-box" tabindex="0" role="region" aria-label="{escape(label)}">\n'
            f'<table class="ecomkd">\n<thead>\n{head}\n</thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )


def show(
    frame: pd.DataFrame | pd.Series,
    units: Mapping[str, str] | None = None,
    digits: int | Mapping[str, int] | None = None,
    index: str | bool | None = None,
    width: int = 48,
) -> Table:
    """A table as the book prints it, as the last line of a cell.

    Numbers stand at the right, as `number` writes them and with a true minus; texts are shortened
    at a word, and what is missing is a dash. The head is one row, whatever the levels of the
    columns.

    Args:
        frame: R rows and C columns; a series is a frame with one column.
        units: the unit of a column, which its head shows. Where it is `%`, the numbers are shares
            and are multiplied by 100.
        digits: how many digits follow the point, for all numbers that are not whole, or for each
            column that is named.
        index: the head over the names of the rows. The names are left out where it is False, and
            where nothing is said and they only count the rows.
        width: the most letters of a text.

    Example:
        >>> import pandas as pd
        >>> waits = pd.DataFrame({"p50": [0.412, 1068.1], "pairs": [20000, 5560]})
        >>> show(waits.set_axis(["student", "teacher"]), units={"p50": "ms"}, index="model")
        model    p50 (ms)   pairs
        student     0.412  20,000
        teacher     1,068   5,560
    """
    import pandas as pd

    units = units or {}
    if isinstance(frame, pd.Series):
        frame = frame.to_frame("value" if frame.name is None else frame.name)
    counted = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    shown = not counted if index is None else index is not False
    heads, columns, right = [], [], []
    if shown:
        for level, name in enumerate(frame.index.names):
            head = index if isinstance(index, str) and level == 0 else name
            heads.append("" if head is None else str(head))
            values = frame.index.get_level_values(level)
            columns.append([_cell(value, None, None, width) for value in values])
            right.append(_all_numbers(values))
    for place, name in enumerate(frame.columns):
        head = _head(name, frame.columns.names)
        unit = units.get(name, units.get(head))
        wanted = digits if isinstance(digits, int | None) else digits.get(name, digits.get(head))
        values = frame.iloc[:, place]
        if wanted is None and unit != "%" and _all_whole(values):
            wanted = 0
        heads.append(f"{head} ({unit})" if unit else head)
        columns.append([_cell(value, unit, wanted, width) for value in values])
        right.append(_all_numbers(values))
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(heads, rows, right, frame.index.nlevels if shown else 0)


def _head(name, levels: Sequence) -> str:
    """The head of a column in one line; a bare number says what it is a number of."""
    names = name if isinstance(name, tuple) else (name,)
    told = [
        f"{level} {part}" if level is not None and _is_number(part) else str(part)
        for part, level in zip(names, levels, strict=True)
    ]
    return ", ".join(filter(None, told))


def _cell(value, unit: str | None, digits: int | None, width: int) -> str:
    if _is_missing(value):
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":  # NumPy's too
        return "yes" if value else "no"
    if not _is_number(value):
        return _shortened(str(value), width)
    if unit == "%":
        text = f"{100 * value + 0:,.{1 if digits is None else digits}f}"
    elif digits is not None and not isinstance(value, Integral):
        text = f"{value + 0:,.{digits}f}"
    else:
        text = number(value)
    return text.replace("-", "−")


def _shortened(text: str, width: int) -> str:
    short = textwrap.shorten(text, width, placeholder=" …")
    return short if short.strip(" …") or not text.strip() else text.strip()[: width - 1] + "…"


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_missing(value) -> bool:
    import pandas as pd

    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def _all_numbers(values) -> bool:
    return all(_is_number(value) for value in values if not _is_missing(value))


def _all_whole(values) -> bool:
    """Whether a column holds counts, which a missing one among them has made floats.

    Noughts and ones alone may be shares as well.
    """
    if not _all_numbers(values):
        return False
    there = [float(value) for value in values if not _is_missing(value)]
    return all(value.is_integer() for value in there) and any(abs(value) > 1 for value in there)


def goal(name: str, value: float, low: float, high: float, wanted: str, met: bool) -> dict:
    """One entry of a recorded result's `goals`: what was asked, what came out, and whether."""
    return {"name": name, "value": value, "low": low, "high": high, "goal": wanted, "met": met}


def recorded(name: str) -> dict:
    """A recorded result that ships with the package, by its name without `.json`.

    Raises FileNotFoundError that names the results there are.
    """
    folder = resources.files("ecomkd") / "recorded"
    file = folder / f"{name}.json"
    if not file.is_file():
        there = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir())
        raise FileNotFoundError(f"No recorded result {name!r}: there are {', '.join(there)}.")
    return json.loads(file.read_text(encoding="utf-8"))


def write_recorded(
    path: Path | str,
    *,
    command: str,
    seeds: Sequence[int],
    hardware: Mapping,
    generator: str | None,
    data: Mapping,
    goals: Sequence[Mapping],
) -> None:
    """Write a result in the form that every file of `ecomkd/recorded/` has."""
    content = {
        "command": command,
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seeds": list(seeds),
        "hardware": dict(hardware),
        "versions": versions(),
        "generator": generator,
        "data": dict(data),
        "goals": [dict(entry) for entry in goals],
    }
    write_text(path, to_json(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of those that decide what a run computes."""
    return {
        "python": platform.python_version(),
        "ecomkd": metadata.version("ecomkd"),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def to_json(content, indent: int | None = None) -> str:
    """The JSON of plain values, lists and mappings; what is not finite becomes null.

    JSON has no NaN and no infinity, and strict readers refuse a file that holds them.
    """
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content):
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
