"""What a notebook depends on: its outputs are stale when one of these has changed since it ran.

These are its code cells, the source of the modules of `ecomkd` that they import, directly or
through another, and the packaged data files that these name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

import ecomkd
from book.common import PACKAGE, PROFILE, ROOT, RUN_TIMES


def modules_used(code: str, module: str | None = None) -> set[str]:
    """The modules of `ecomkd` that Python source names: by import, or as `ecomkd.module.name`.

    `module` is the dotted name of the module that the source belongs to, for relative imports.
    """
    code = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = (module or "").split(".")[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    used = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "ecomkd":
            continue
        if len(parts) > 1 and parts[1] in ecomkd._HOMES:
            parts = ecomkd._HOMES[parts[1]].split(".")
        used |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return {name for name in used if name != module and module_file(name)}


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _imports_of(name: str) -> frozenset[str]:
    return frozenset(modules_used(module_file(name).read_text("utf-8"), name))


def dependencies(code: str) -> list[Path]:
    """The files of the package that the code depends on, in a fixed order."""
    found, waiting = set(), modules_used(code)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= _imports_of(name)
    files = {module_file(name) for name in found}
    text = code + "".join(path.read_text("utf-8") for path in files)
    for path in PACKAGE.rglob("*"):
        packaged = path.is_file() and path.suffix not in (".py", ".pyc") and path != RUN_TIMES
        if packaged and re.search(rf"\b{re.escape(path.stem)}\b", text):
            files.add(path)
    return sorted(files)


def code_of(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def code_hash(notebook) -> str:
    return hashlib.sha256(code_of(notebook).encode()).hexdigest()[:16]


def key(notebook) -> str:
    """What a run's outputs are filed under."""
    code = code_of(notebook)
    sha = hashlib.sha256(f"{PROFILE}\0{code}".encode())
    for path in dependencies(code):
        sha.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]
