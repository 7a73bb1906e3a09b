"""Write the class pack: notebooks without solutions, the solutions apart, the plan.

    python tools/teaching.py [FOLDER]

Both notebooks are cut from the chapter, so there is one source. Cells with the tag `solution` go to
the solutions alone; in their place the students' notebook has an empty cell. Exercises and checks
are in both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

from book.common import ROOT, chapters, dump, tags, write
from book.execute import clear
from ecomkd import outputs
from ecomkd.artifacts import MANIFEST, changed

SMOKE = "# The class pack runs at the smallest scale.\n%env ECOMKD_PROFILE=smoke"
ANSWER = "# Your answer"


def students(notebook):
    """The chapter without solutions and outputs, with an empty cell for each answer."""
    pack = _copy(notebook)
    cells = [_added(SMOKE, "profile", 0)]
    before = None
    for cell in pack.cells:
        solution = "solution" in tags(cell)
        if not solution:
            cells.append(cell)
        elif not before:
            cells.append(_added(ANSWER, "answer", len(cells)))
        before = solution
    pack.cells = cells
    return pack


def solutions(notebook):
    """The exercises of a chapter with their solutions and checks, after the cells they need.

    All code cells stay, so that the notebook runs; the chapter's prose does not.
    """
    pack = _copy(notebook)
    kept = [
        cell
        for number, cell in enumerate(pack.cells)
        if number == 0 or cell.cell_type == "code" or "solution" in tags(cell) or exercise(cell)
    ]
    pack.cells = [_added(SMOKE, "profile", 0), *kept]
    return pack


def exercise(cell) -> bool:
    return cell.cell_type == "markdown" and bool(
        re.search(r"^[:`]{3,}\{exercise\}", cell.source, flags=re.MULTILINE)
    )


def _copy(notebook):
    return clear(nbformat.from_dict(notebook))


def _added(source: str, tag: str, place: int):
    return nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}, id=f"{tag}-{place}")


def main(folder: Path) -> None:
    """Write the pack. Raises OSError where `folder` holds anything that this did not write, or that
    was changed since."""
    with outputs.replaced(folder, "teaching") as working:
        if (folder / MANIFEST).exists():
            known = outputs.read(folder, "teaching")["files"]
            there = {name: one for name, one in known.items() if (folder / name).exists()}
            if wrong := changed(folder, there):
                raise FileExistsError(
                    f"{folder}/{wrong[0]}: {wrong[1]}, and nothing of yours is replaced; move the "
                    "folder away, or give another one with `make teaching OUT=folder`."
                )
        for path in chapters():
            notebook = nbformat.read(path, as_version=4)
            write(working / "students" / path.name, dump(students(notebook)))
            write(working / "solutions" / path.name, dump(solutions(notebook)))
        plan = (ROOT / "book" / "teaching.md").read_text("utf-8")
        write(working / "plan.md", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", plan))
    print(f"The class pack is in {folder}: {len(chapters())} chapters, their solutions, plan.md.")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "teaching")
    except OSError as error:
        sys.exit(str(error))
