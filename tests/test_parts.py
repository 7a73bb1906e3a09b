"""Names of the parts: each is found where it is used, in the package and in the notebooks."""

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

import ecomkd
from ecomkd import lazy

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PARTS = (
    "relevance",
    "search",
    "service",
    "recommend",
    "people",
    "describe",
    "transfer",
    "multimodal",
    "privacy",
    "explain",
    "federated",
)


@pytest.mark.parametrize("part", PARTS)
def test_every_name_of_a_part_can_be_had_from_it(part):
    module = import_module(f"ecomkd.{part}")
    assert len(dir(module)) > 5
    for name in dir(module):
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"'ecomkd.{part}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def used_names(source: str) -> set[tuple[str, str]]:
    """Modules that `from ecomkd import …` names in a notebook's code, each with an attribute."""
    tree = ast.parse(source)
    modules = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "ecomkd"
        for alias in node.names
    }
    return {
        (modules[node.value.id], node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    }


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_uses_of_a_module_is_there(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = "\n".join(line for line in lines.splitlines() if not line.lstrip().startswith("%"))
    used = used_names(code)
    assert used
    missing = [
        f"{module}.{name}"
        for module, name in sorted(used)
        if not hasattr(getattr(ecomkd, module, None) or import_module(f"ecomkd.{module}"), name)
    ]
    assert not missing


def test_a_name_that_is_a_module_too_is_refused():
    """Once loaded, the module would hide it."""
    with pytest.raises(ValueError, match="'run' is a module and a name in one"):
        lazy.names("part", {".run": "Trained", ".other": "run"})
