"""Numbers on their way to a reader: glued into prose, recorded as JSON, set as tables."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import metadata, resources
from numbers import Integral, Real
from pathlib import Path

import pandas as pd

from ecomkd.artifacts import write_text

_PACKAGES = ("torch", "transformers", "datasets", "numpy", "onnxruntime", "scikit-learn")


def record(name: str, value, unit: str | None = None) -> str:
    """Keep a measured value under `name`, so that the chapter's prose can quote it.

    In a notebook the text goes into the cell's metadata, from where `` {glue}`name` `` takes it.
    Numbers are set by `number`; anything else as its `str`. Returns the text.
    """
    text = number(value, unit) if isinstance(value, Real) else str(value)
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


def number(value: Real, unit: str | None = None) -> str:
    """A number as the book prints it: whole ones with thousands marked, others to 3 digits.

    The unit `%` multiplies by 100 first. The unit follows after a no-break space.
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
    else:
        text = f"{value:.3f}"
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
        entries = folder.iterdir() if folder.is_dir() else ()
        there = sorted(entry.name.removesuffix(".json") for entry in entries)
        raise FileNotFoundError(
            f"No recorded result {name!r}: there are {', '.join(there) or 'none yet'}."
        )
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
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def html(
    rows: pd.DataFrame, clock: pd.DataFrame, goals: Sequence[Mapping], verdict: str, command: str
) -> str:
    """A self-contained page with the verdict, the systems, their speed and the goals."""
    columns = ["ndcg@10", "ndcg@10 low", "ndcg@10 high", "lift@10", "mrr"]
    columns += ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    shown = rows[[column for column in columns if column in rows]]
    aims = pd.DataFrame(goals).set_index("name")
    parts = [
        f"<p><strong>{escape(verdict)}</strong></p>",
        "<h2>Quality on held-out queries</h2>",
        shown.to_html(float_format="{:.3f}".format, border=0),
        "<h2>Speed and size</h2>",
        clock.drop(columns="role").to_html(float_format="{:.2f}".format, na_rep="", border=0),
        "<h2>Goals</h2>",
        aims.to_html(float_format="{:.3f}".format, border=0),
        f"<p>Made by <code>{escape(command)}</code>.</p>",
    ]
    return _PAGE.replace("BODY", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Distillation report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child { text-align: left; }
</style></head><body><h1>Distillation report</h1>
BODY
</body></html>
"""
