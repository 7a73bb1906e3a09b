"""What every step of the book's making shares: places, chapters, and how a file is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
PACKAGE = ROOT / "ecomkd"
RECORDED = PACKAGE / "recorded"
RUN_TIMES = RECORDED / "run_times.json"
BUILD = ROOT / "_build"
PROFILE = "book"


class Pair(NamedTuple):
    """A word that shoppers type, what the shop calls it, and the kind of product that it is."""

    typed: str
    sold: str
    kind: str


OPENING = Pair("skillet", "frying pan", "frying_pan")
"""The example that opens the book: the words differ, so that a search that counts them is lost."""


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def write(path: Path, content: str | bytes) -> None:
    """Write in one step, and only what changed, so that Sphinx re-reads no more than it must."""
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f".{path.name}.partial")
    working.write_bytes(content)
    os.replace(working, path)


def dump(notebook) -> str:
    return nbformat.writes(notebook, version=4) + "\n"


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def pages() -> list[str]:
    """The pages of _toc.yml, in reading order, without suffix."""
    found = []

    def walk(node) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if name in ("root", "file"):
                    found.append(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
    return found


def chapters() -> list[Path]:
    return [ROOT / f"{page}.ipynb" for page in pages() if page.startswith("notebooks/")]
