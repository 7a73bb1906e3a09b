"""Runs notebooks in fresh kernels, keeps what they showed, and cleans it for readers."""

from __future__ import annotations

import copy
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from book.common import BUILD, PROFILE, ROOT, dump, say, write
from book.stale import code_hash, key
from book.values import fill
from ecomkd import bench

EXECUTED = BUILD / "executed"
CELL_TIMEOUT_S = 3600
LEFT = {"08_search": "search_data.js"}
"""A file that a chapter leaves among the artefacts, for a page that shows it."""
NOT_LEFT = b"window.ecomkdSearch = null;\n"
"""What stands in the file's place where the chapter was not executed; the page then says so."""


def execute(path: Path, label: str) -> tuple[nbformat.NotebookNode, dict]:
    """Run a notebook in a fresh kernel. Returns it with outputs, and its seconds and peak MiB."""
    notebook = clear(nbformat.read(path, as_version=4))
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    begin = time.monotonic()
    done = 0

    def progress(**_) -> None:
        nonlocal done
        done += 1
        if sys.stdout.isatty():
            say(f"\r{label}: cell {done} of {total}, {time.monotonic() - begin:.0f} s ", end="")

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
        on_cell_executed=progress,
        extra_arguments=["--log-level=ERROR"],
    )
    say(f"{label}: {total} code cells ...", end="" if sys.stdout.isatty() else "\n")
    with client.setup_kernel(), bench.peak_memory(client.km.provisioner.pid, 0.5) as memory:
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as fault:
                sys.exit(f"\n{path.relative_to(ROOT)}, cell {index}, failed:\n{fault}")
    cost = {"seconds": round(time.monotonic() - begin, 1), "peak_mib": round(memory["peak_mib"])}
    say(f"\r{label}: {total} code cells in {cost['seconds']:.0f} s, {cost['peak_mib']} MiB")
    return clean(notebook), cost


def clear(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


_PROGRESS = re.compile(r"it/s|s/it|\r|\x1b\[|\d+%\|")


def clean(notebook):
    """Drop what a reader has no use for: progress bars, widgets, timings, paths of this machine."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = []
            for output in cell.outputs:
                if output.output_type == "stream":
                    lines = output.text.splitlines(keepends=True)
                    text = "".join(line for line in lines if not _PROGRESS.search(line))
                    output.text = _without_paths(text)
                    if not text.strip():
                        continue
                elif "data" in output:
                    if "application/vnd.jupyter.widget-view+json" in output.data:
                        continue
                    for mime in ("text/plain", "text/html"):
                        if mime in output.data:
                            output.data[mime] = _without_paths(output.data[mime])
                kept.append(output)
            cell.outputs = kept
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _without_paths(text: str) -> str:
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(str(Path.home()), "~")


def left_by(name: str, notebook) -> Path | None:
    """Where the file that a chapter leaves for a page is kept beside its outputs."""
    return EXECUTED / f"{name}-{key(notebook)}-{LEFT[name]}" if name in LEFT else None


def with_outputs(notebook, ran):
    """`notebook`, whose prose may be newer, with the outputs of `ran`, whose code is the same."""
    outputs = iter(cell for cell in ran.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = next(outputs)
            cell.outputs, cell.execution_count = source.outputs, source.execution_count
    notebook.metadata = copy.deepcopy(ran.metadata)
    notebook.metadata["ecomkd"] = {"profile": PROFILE, "code": code_hash(notebook)}
    return notebook


def executed(path: Path, label: str, again: bool = False):
    """The notebook with outputs of profile `book`, from an earlier run if nothing changed.

    The second value is what the run cost, None when there was no need for one.
    """
    notebook = nbformat.read(path, as_version=4)
    kept = EXECUTED / f"{path.stem}-{key(notebook)}.ipynb"
    left = left_by(path.stem, notebook)
    cost = None
    if again or not kept.exists() or (left and not left.exists()):
        ran, cost = execute(path, label)
        if left:
            artifacts = ROOT / os.environ.get("ECOMKD_ARTIFACTS", "artifacts")
            write(left, (artifacts / LEFT[path.stem]).read_bytes())
        write(kept, dump(ran))
        for old in EXECUTED.glob(f"{path.stem}-*"):
            if old not in (kept, left):
                old.unlink()
    else:
        say(f"{label}: unchanged")
    return fill(with_outputs(notebook, nbformat.read(kept, as_version=4)), path.stem), cost


def page_files(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, bytes]:
    """What chapters have left for pages, by its place in the book."""
    found = {}
    for name in LEFT.keys() & notebooks.keys():
        left = left_by(name, notebooks[name])
        found[f"book/_static/{LEFT[name]}"] = left.read_bytes() if left.exists() else NOT_LEFT
    return found
