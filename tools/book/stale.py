"""What a notebook depends on: its outputs are stale when one of these has changed since it ran.

These are its code cells, the functions, classes and constants of the package that they reach, and
the packaged data files that the modules of these name. A comment or a docstring changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from book.common import PACKAGE, PROFILE, ROOT, RUN_TIMES, tags
from ecomkd.config import Profile
from recipes import Package


def data_files(code: str, reached: set[str]) -> list[Path]:
    """The packaged files that are not Python which code, or a module that it reaches, names.

    Of a recorded model, named by its stage, that is the card: it has the hashes of the rest.
    """
    modules = {name.rpartition(".")[0] for name in reached}
    sources = [path.read_text("utf-8") for path in map(module_file, modules) if path]
    text = "\n".join([code, *sources])
    models = PACKAGE / "recorded" / "models"
    named = [
        path
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file()
        and path.suffix not in (".py", ".pyc", ".typed")
        and path != RUN_TIMES
        and not path.is_relative_to(models)
        and re.search(rf"\b{re.escape(path.stem)}\b", text)
    ]
    cards = sorted(models.glob("*/card.json"))
    return named + [path for path in cards if f'"{path.parent.name.rpartition("-")[0]}"' in text]


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def code_of(notebook) -> str:
    """The code cells, but for the one that does nothing outside Colab."""
    found = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "\n\n".join(cell.source for cell in found if "setup" not in tags(cell))


def settings() -> dict:
    """The profile of the stored outputs, but for what the environment says."""
    own = asdict(Profile.named(PROFILE))
    return {name: value for name, value in own.items() if name not in ("artifacts", "precision")}


@lru_cache(maxsize=1)
def package(folder: Path, state: str) -> Package:
    """The package in a folder, whose `state` is that of `sources`: reading it takes a second."""
    return Package(folder)


def sources(folder: Path) -> str:
    """A hash of the Python files in a folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        sha.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def key(notebook) -> str:
    """What a run's outputs are filed under."""
    code = code_of(notebook)
    reached = package(PACKAGE, sources(PACKAGE)).reached(code)
    parts = [code, json.dumps(reached), json.dumps(settings(), default=str)]
    sha = hashlib.sha256("\0".join(parts).encode())
    for path in data_files(code, set(reached)):
        sha.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def shown(notebook) -> str:
    """A hash of what the code cells show: whoever runs a chapter in an editor changes it."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parts = [[cell.execution_count, cell.outputs] for cell in cells]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def stamp(notebook) -> dict[str, str]:
    """What is noted beside stored outputs: their profile, the key of their code, and their hash."""
    return {"profile": PROFILE, "key": key(notebook), "outputs": shown(notebook)}
