"""The actions of the book: `python -m book ACTION`, with `tools/` on the path.

build            what `make book` does: the pages; a chapter is executed only where its stored
                 outputs are not those of this code
execute          every chapter, from one empty artefact folder, then the pages
stored           the pages from the outputs stored in notebooks/; nothing is executed
store [NAME ...] execute each chapter alone and store its outputs in notebooks/; all of them: record
                 what each costs
accept [NAME ...] say that stored outputs are those of this code, after a change that makes the same
cells            write the setup and run-time cells of the notebooks, the words of their citations,
                 and the tree of modules
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

import smoke
from book.common import BUILD, NOTEBOOKS, PROFILE, chapters, dump, say, write
from book.execute import executed
from book.pages import record_run_times, recorded_seconds, write_cells, write_house
from book.render import render
from book.stale import shown, stamp


def build() -> None:
    artifacts = Path(os.environ.get("ECOMKD_ARTIFACTS", "artifacts")).resolve()
    notebooks = {}
    for path, label in labelled(chapters(), known={}):  # most have nothing to execute
        notebooks[path.stem], _ = executed(path, label, artifacts=artifacts)
    say(f"The book is ready: {render(BUILD, notebooks).as_uri()}")


def execute_all() -> None:
    artifacts = emptied(BUILD / "artifacts")
    begin, notebooks = time.monotonic(), {}
    for path, label in labelled(chapters()):
        notebooks[path.stem], _ = executed(path, label, again=True, artifacts=artifacts)
    minutes = (time.monotonic() - begin) / 60
    say(f"All chapters were executed in {minutes:.1f} min.")
    say(f"The book is ready: {render(BUILD, notebooks).as_uri()}")


def stored() -> None:
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in chapters()}
    say(f"The book is ready: {render(BUILD / 'stored', notebooks).as_uri()}")


def store(names: list[str], timed: bool = False) -> None:
    """Execute chapters and store their outputs, each alone, with the wheel, from no artefact.

    All in fp32: bf16 is quicker where the processor has it, and rounds, so that numbers in the text
    would depend on the machine.

    Run times are recorded of all chapters together, or with `timed` of `names` too.
    """
    costs = {}
    site = smoke.wheel(emptied(BUILD / "wheel"))
    for path, label in labelled(chosen(names)):
        write_cells(path)
        artifacts = emptied(BUILD / "artifacts")
        notebook, costs[path.stem] = executed(
            path, label, again=True, artifacts=artifacts, site=site, precision="fp32"
        )
        write(path, dump(notebook))
    if timed or not names:
        record_run_times(costs)
        for path in chosen(names):
            write_cells(path)


def accept(names: list[str]) -> None:
    for path in chosen(names):
        notebook = nbformat.read(path, as_version=4)
        if notebook.metadata.get("ecomkd", {}).get("outputs") != shown(notebook):
            sys.exit(
                f"{path.name}: its outputs are not those that were stored; run "
                f"`make notebooks ONLY={path.stem}`."
            )
        notebook.metadata["ecomkd"] = stamp(notebook)
        write(path, dump(notebook))


def chosen(names: list[str]) -> list[Path]:
    """The chapters of these names, in reading order; all where none is named."""
    everything = chapters()
    if unknown := set(names) - {path.stem for path in everything}:
        sys.exit(f"No such notebook in _toc.yml: {', '.join(sorted(unknown))}.")
    return [path for path in everything if not names or path.stem in names]


def labelled(
    paths: list[Path], known: dict[str, float] | None = None
) -> Iterator[tuple[Path, str]]:
    """Each chapter, and how its progress is announced, with what is left by the `known` seconds.

    By default these are the recorded ones.
    """
    known = recorded_seconds() if known is None else known
    for count, path in enumerate(paths):
        left = [known.get(one.stem) for one in paths[count:]]
        guess = f", about {sum(left) / 60:.0f} min left at most" if all(left) else ""
        yield path, f"[{count + 1}/{len(paths)}{guess}] {path.stem}"


def emptied(folder: Path) -> Path:
    """A folder of the build's own, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument(
        "action", choices=("build", "execute", "stored", "store", "accept", "cells")
    )
    parser.add_argument("names", nargs="*", help="with `store`, `accept`: e.g. 01_concepts")
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with `store NAME`: record its run time",
    )
    arguments = parser.parse_args()
    os.environ["ECOMKD_PROFILE"] = PROFILE
    if arguments.action == "build":
        build()
    elif arguments.action == "execute":
        execute_all()
    elif arguments.action == "stored":
        stored()
    elif arguments.action == "store":
        store(arguments.names, arguments.timed)
    elif arguments.action == "accept":
        accept(arguments.names)
    else:
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            write_cells(path)
        write_house()


if __name__ == "__main__":
    main()
