"""The actions of the book: `python -m book ACTION`, with `tools/` on the path.

build            what `make book` does
stored           render the outputs stored in notebooks/, execute nothing
store [NAME ...] execute and store the outputs in notebooks/
cells            write the setup and run-time cells of the notebooks, and the tree of modules
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import nbformat

from book.common import BUILD, NOTEBOOKS, PROFILE, chapters, dump, say, write
from book.execute import executed
from book.pages import record_run_times, write_cells, write_house
from book.render import render


def build() -> None:
    notebooks = {}
    for count, path in enumerate(chapters(), 1):
        notebooks[path.stem], _ = executed(path, f"[{count}/{len(chapters())}] {path.stem}")
    say(f"The book is ready: {render(BUILD, notebooks).as_uri()}")


def stored() -> None:
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in chapters()}
    say(f"The book is ready: {render(BUILD / 'stored', notebooks).as_uri()}")


def store(names: list[str], timed: bool = False) -> None:
    """Execute and store outputs. All chapters: from an empty artefact folder, times recorded.

    With `timed` the times of `names` are recorded, too. Then the artefact folder has what the
    chapters before them leave, and nothing of their own.
    """
    everything = chapters()
    chosen = [path for path in everything if not names or path.stem in names]
    if unknown := set(names) - {path.stem for path in everything}:
        sys.exit(f"No such notebook in _toc.yml: {', '.join(sorted(unknown))}.")
    if not names:
        artifacts = BUILD / "artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        os.environ["ECOMKD_ARTIFACTS"] = str(artifacts)
    costs = {}
    for count, path in enumerate(chosen, 1):
        write_cells(path)
        label = f"[{count}/{len(chosen)}] {path.stem}"
        notebook, costs[path.stem] = executed(path, label, again=True)
        write(path, dump(notebook))
    if timed or not names:
        record_run_times(costs)
        for path in chosen:
            write_cells(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("action", choices=("build", "stored", "store", "cells"))
    parser.add_argument("names", nargs="*", help="with `store`: the notebooks, e.g. 01_concepts")
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with `store NAME`: record its run time, from artefacts of the chapters before alone",
    )
    arguments = parser.parse_args()
    os.environ["ECOMKD_PROFILE"] = PROFILE
    if arguments.action == "build":
        build()
    elif arguments.action == "stored":
        stored()
    elif arguments.action == "store":
        store(arguments.names, arguments.timed)
    else:
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            write_cells(path)
        write_house()


if __name__ == "__main__":
    main()
