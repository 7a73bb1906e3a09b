"""Numbers on their way to a reader: glued into prose, recorded as JSON. All chapters."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata, resources
from numbers import Integral, Real
from pathlib import Path

from ecomkd.artifacts import write_text

_PACKAGES = ("torch", "transformers", "datasets", "numpy", "onnxruntime", "scikit-learn")


def record(name: str, value, unit: str | None = None) -> str:
    """Keep a measured value under `name`, so that the chapter's prose can quote it.

    In a notebook the text goes into the cell's metadata, from where `` {glue}`name` `` takes it.
    Numbers are set by `number`; anything else as its `str`. Returns the text.

    Example:
        >>> record("share kept", 0.9731)
        '0.973'
    """
    is_number = isinstance(value, Real)  # NumPy's too, which no type of Python's own covers
    text = number(value, unit) if is_number else str(value)
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
        "versions": {
            "python": platform.python_version(),
            "ecomkd": metadata.version("ecomkd"),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "generator": generator,
        "data": dict(data),
        "goals": [dict(entry) for entry in goals],
    }
    write_text(path, to_json(content, indent=1) + "\n")


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
