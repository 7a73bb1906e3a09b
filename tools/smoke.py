"""Prepares the notebooks for the tests: each in an empty folder, beside the built wheel alone.

`_build/smoke/site` holds what the wheel holds, and goes first on the path of the kernels;
`_build/smoke/notebooks/NAME/NAME.ipynb` is a chapter. One that needs a file of the repository,
or one that another chapter has left, fails. The folder is made anew each time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from book.common import ROOT, chapters, dump, write

WHERE = """import os
from pathlib import Path

import ecomkd

assert Path(ecomkd.__file__).is_relative_to(os.environ["PYTHONPATH"]), ecomkd.__file__"""
"""A last cell, which fails where the notebook did not run with the wheel."""


def built(folder: Path) -> Path:
    """The wheel in `folder`, built from a copy of the sources."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-data"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ecomkd", source / "ecomkd", ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nNo wheel was built, which needs the package index; see above.")
    (wheel,) = folder.glob("*.whl")
    return wheel


def wheel(folder: Path) -> Path:
    """`folder/site`, with the content of a wheel."""
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(built(folder))], check=True)
    return site


def notebooks(folder: Path) -> None:
    """The chapters with their stored outputs, which are compared, and a last cell more."""
    for path in chapters():
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(WHERE, id="where"))
        write(folder / path.stem / path.name, dump(notebook))


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    wheel(folder)
    notebooks(folder / "notebooks")


if __name__ == "__main__":
    main(ROOT / "_build" / "smoke")
