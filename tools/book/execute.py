"""Runs notebooks in fresh kernels, keeps what they showed, and cleans it for readers."""

from __future__ import annotations

import copy
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book.common import BUILD, PROFILE, ROOT, dump, say, write
from book.stale import stamp
from book.values import fill
from ecomkd import bench

EXECUTED = BUILD / "executed"
CELL_TIMEOUT_S = 3600


def execute(
    path: Path, label: str, artifacts: Path, site: Path | None = None, precision: str = ""
) -> tuple[nbformat.NotebookNode, dict]:
    """Run a notebook in a fresh kernel and an empty folder.

    Args:
        artifacts: where the kernel keeps what it makes.
        site: what holds the package, such as a wheel's content; by default this checkout.
        precision: the number format of all models; by default the profile's, which is the fastest.

    Returns the notebook with outputs, and its seconds and peak MiB.
    """
    notebook = clear(nbformat.read(path, as_version=4))
    working = BUILD / "working" / path.stem
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    environment = {
        **os.environ,
        "ECOMKD_PROFILE": PROFILE,
        "ECOMKD_ARTIFACTS": str(artifacts),
        "PYTHONPATH": str(site or ROOT),
    }
    if precision:
        environment["ECOMKD_PRECISION"] = precision
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
        resources={"metadata": {"path": str(working)}},
        on_cell_executed=progress,
        extra_arguments=["--log-level=ERROR"],
    )
    say(f"{label}: {total} code cells ...", end="" if sys.stdout.isatty() else "\n")
    with (
        client.setup_kernel(env=environment),
        bench.peak_memory(client.km.provisioner.pid, 0.5) as memory,
    ):
        for index, cell in enumerate(notebook.cells):
            place = f"\n{path.name}, cell {index}"
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as fault:
                sys.exit(f"\n{path.relative_to(ROOT)}, cell {index}, failed:\n{fault}")
            except DeadKernelError:
                sys.exit(
                    f"{place}: the kernel died, as it does where memory is full; close other "
                    "programs, and run the command again."
                )
            except CellTimeoutError:
                sys.exit(
                    f"{place}: no end after {CELL_TIMEOUT_S // 60} minutes; raise CELL_TIMEOUT_S "
                    "in tools/book/execute.py."
                )
    shutil.rmtree(working)
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


def with_outputs(notebook, ran):
    """`notebook`, whose prose may be newer, with the outputs of `ran`, whose code is the same."""
    outputs = iter(cell for cell in ran.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = next(outputs)
            cell.outputs, cell.execution_count = source.outputs, source.execution_count
    notebook.metadata = copy.deepcopy(ran.metadata)
    notebook.metadata["ecomkd"] = stamp(notebook)
    return notebook


def executed(path: Path, label: str, again: bool = False, **where):
    """The notebook with outputs of this code: those that it has, those kept here, or new ones.

    With `again` it is executed in any case; `where` goes to `execute`. The second value is what the
    execution cost, None when there was none.
    """
    notebook = nbformat.read(path, as_version=4)
    found = stamp(notebook)
    if not again and notebook.metadata.get("ecomkd") == found:
        say(f"{label}: its stored outputs are those of this code")
        return notebook, None
    kept = EXECUTED / f"{path.stem}-{found['key']}.ipynb"
    cost = None
    if again or not kept.exists():
        ran, cost = execute(path, label, **where)
        write(kept, dump(ran))
        for old in EXECUTED.glob(f"{path.stem}-*"):
            if old != kept:
                old.unlink()
    else:
        say(f"{label}: executed before, and unchanged since")
    return fill(with_outputs(notebook, nbformat.read(kept, as_version=4)), path.stem), cost
