"""The examples of the manual run, and each public function has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("losses", "metrics", "intervals", "bench", "scale.cost")
FURTHER = (
    "data.sources.load",
    "export.quantize",
    "export.to_onnx",
    "report.record",
    "report.record_all",
    "report.show",
)


def functions() -> list[str]:
    """Every public function of MODULES, and those that are named."""
    found = []
    for name in MODULES:
        module = importlib.import_module(f"ecomkd.{name}")
        found += [
            f"{name}.{function}"
            for function, made in inspect.getmembers(module, inspect.isfunction)
            if made.__module__ == module.__name__ and not function.startswith("_")
        ]
    return [*found, *FURTHER]


@pytest.mark.parametrize("name", functions())
def test_the_example_of(name):
    module, function = name.rsplit(".", 1)
    module = importlib.import_module(f"ecomkd.{module}")
    made = getattr(module, function)
    assert "Example:\n" in inspect.getdoc(made), "give the function an Example section"
    finder = doctest.DocTestFinder(recurse=False)
    (examples,) = finder.find(inspect.unwrap(made), function, module, globs=vars(module).copy())
    assert examples.examples, "an Example without a line that runs"
    faults = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(examples, out=faults.append)
    assert not faults, "".join(faults)


def test_the_functions_of_the_manual_are_on_its_page():
    page = (ROOT / "book" / "api.md").read_text("utf-8")
    for name in FURTHER:
        assert f"ecomkd.{name}\n" in page
    for name in MODULES:
        assert f".. automodule:: ecomkd.{name}\n   :members:" in page
