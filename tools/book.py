"""Execute the notebooks that are stale, write the generated pages, render the book.

    python tools/book.py build            what `make book` does
    python tools/book.py stored           render the outputs stored in notebooks/, execute nothing
    python tools/book.py store [NAME ...] execute and store the outputs in notebooks/
    python tools/book.py cells            write the setup and run-time cells of the notebooks

A notebook is stale when its code cells, the source of a module of `ecomkd` that they import,
directly or through another, or a packaged data file that these name, have changed since it ran.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import ecomkd
from ecomkd import report

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PACKAGE = ROOT / "ecomkd"
RECORDED = PACKAGE / "recorded"
SIDES = {
    "core_shop": "simulated shop",
    "core_icecat": "Icecat",
    "core_esci_sample": "ESCI sample",
}
"""The recorded runs of the same systems, and the data that each is about."""
LEFT = {"08_search": "search_data.js"}
"""A file that a chapter leaves among the artefacts, for a page that shows it."""
NOT_LEFT = b"window.ecomkdSearch = null;\n"
"""What stands in the file's place where the chapter was not executed; the page then says so."""
RUN_TIMES = RECORDED / "run_times.json"
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
PROFILE = "book"
CELL_TIMEOUT_S = 3600


# What a notebook depends on ---------------------------------------------------------------------


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


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


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


# Execution --------------------------------------------------------------------------------------


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def write(path: Path, content: str | bytes) -> None:
    """Write in one step, and only what changed, so that Sphinx re-reads no more than it must."""
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    working = path.with_name(f".{path.name}.partial")
    working.write_bytes(content)
    os.replace(working, path)


def dump(notebook) -> str:
    return nbformat.writes(notebook, version=4) + "\n"


class _PeakMemory(threading.Thread):
    """Samples the resident memory of a process and its children; `mib` is the peak."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.mib, self.done = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            try:
                parent = psutil.Process(self.pid)
                everyone = [parent, *parent.children(recursive=True)]
                resident = sum(process.memory_info().rss for process in everyone)
            except psutil.NoSuchProcess:
                continue
            self.mib = max(self.mib, resident / 2**20)


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
    with client.setup_kernel():
        memory = _PeakMemory(client.km.provisioner.pid)
        memory.start()
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as fault:
                sys.exit(f"\n{path.relative_to(ROOT)}, cell {index}, failed:\n{fault}")
        memory.done.set()
        memory.join()
    cost = {"seconds": round(time.monotonic() - begin, 1), "peak_mib": round(memory.mib)}
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
    return with_outputs(notebook, nbformat.read(kept, as_version=4)), cost


# Cells that are written, not typed ----------------------------------------------------------------


def repository_url() -> str:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    return (config["repository"]["url"] or "").rstrip("/")


def setup_cell() -> str:
    """The first code cell of every notebook. On Colab it installs the package, nothing elsewhere.

    The ranges in pyproject.toml accept Colab's own torch, numpy and pandas, which pip then keeps.
    """
    url = repository_url()
    if url:
        spec = f"ecomkd @ git+{url}@v{ecomkd.__version__}"
        action = f'%pip install -q "{spec}"'
    else:
        action = 'print("On Colab: no repository.url in _config.yml yet, nothing to install.")'
    return f'import sys\n\nif "google.colab" in sys.modules:\n    {action}'


def run_time_cell(name: str) -> str:
    """The sentence on a chapter's run time and memory, from the recorded run."""
    record = json.loads(RUN_TIMES.read_text("utf-8")) if RUN_TIMES.exists() else {}
    rows = {row["name"]: row for row in record["data"]["notebooks"]} if record else {}
    if name not in rows:
        return "Run time: not measured yet. `make notebooks` measures it."
    row = rows[name]
    return (
        f"Run time: {duration(row['seconds'])} and {gibibytes(row['peak_mib'])} of memory "
        f"in profile `{row['profile']}` on {machine(record)}, "
        "as [recorded](../book/run_times.md)."
    )


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def gibibytes(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def write_cells(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "setup" in tags(cell):
            cell.source = setup_cell()
        elif "run-time" in tags(cell):
            cell.source = run_time_cell(path.stem)
    write(path, dump(notebook))


# Generated pages ----------------------------------------------------------------------------------


def machine(record: dict) -> str:
    """The recorded hardware, for people."""
    hardware = record["hardware"]
    cores = "1 core" if hardware["cores"] == 1 else f"{hardware['cores']} cores"
    named = f"{cores} of {hardware['cpu']} with {hardware['memory_gib']} GiB"
    return f"{named} and a {hardware['gpu']}" if "gpu" in hardware else named


def record_run_times(costs: dict[str, dict]) -> None:
    """Record what chapters cost; those that are not among them keep what is recorded."""
    from ecomkd import bench  # here, for it loads torch
    from ecomkd.config import Profile
    from ecomkd.data import shop

    found = [{"name": name, "profile": PROFILE, **cost} for name, cost in costs.items()]
    order = [path.stem for path in chapters()]
    kept = []
    if len(costs) < len(order) and RUN_TIMES.exists():
        record = json.loads(RUN_TIMES.read_text("utf-8"))
        if record["hardware"] != bench.hardware():
            sys.exit(f"{RUN_TIMES.name} is of another machine; time all chapters on this one.")
        kept = [
            row
            for row in record["data"]["notebooks"]
            if row["name"] in order and row["name"] not in costs
        ]
    rows = sorted(kept + found, key=lambda row: order.index(row["name"]))
    minutes = sum(row["seconds"] for row in rows if row["name"] < "06") / 60
    later = max((row["seconds"] / 60 for row in rows if row["name"] >= "06"), default=0.0)
    gib = max(row["peak_mib"] for row in rows) / 1024
    report.write_recorded(
        RUN_TIMES,
        command="make notebooks",
        seeds=[Profile.named(PROFILE).seed],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={"notebooks": rows},
        goals=[
            report.goal(name, value, None, None, f"≤ {most}", value <= most)
            for name, value, most in (
                ("The five core chapters together, minutes", minutes, 20),
                ("The slowest of the later chapters, minutes", later, 4),
                ("Memory of the largest chapter, GiB", gib, 6),
            )
        ],
    )


def records() -> dict[str, dict]:
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RECORDED.glob("*.json"))
    }


def provenance(record: dict) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines = [
        f"Remade by `{record['command']}`. Recorded on {record['created']}, {machine(record)}.",
        f"Versions: {versions}.",
    ]
    if record.get("seeds"):
        lines.append(f"Seeds: {', '.join(str(seed) for seed in record['seeds'])}.")
    if record.get("generator"):
        lines.append(f"Hash of the shop's generator: `{record['generator']}`.")
    return "\n".join(lines)


def results_page() -> str:
    """Every goal of every recorded result, met or not."""
    parts = [
        "# Measured results",
        "Each table comes from one recorded run that ships with the package, under "
        "`ecomkd/recorded/`. A goal was set before the run; a goal that was missed is shown as "
        "missed. A range in brackets is a 95 % interval, unless the goal says otherwise. Where a "
        "result comes from the simulated shop, its hash is given: it is not a result on real "
        "traffic.",
    ]
    found = records()
    with_goals = {name: record for name, record in found.items() if record.get("goals")}
    if not with_goals:
        parts.append("No result is recorded yet.")
    for name, record in with_goals.items():
        rows = ["| Goal | Measured | Wanted | Met |", "| --- | --- | --- | --- |"]
        for goal in record["goals"]:
            met = "yes" if goal["met"] else "**no**"
            rows.append(f"| {goal['name']} | {span(goal)} | {goal['goal']} | {met} |")
        title = record.get("title", name.replace("_", " "))
        parts += [f"({name})=\n\n## {title}", "\n".join(rows), provenance(record)]
        if record.get("note"):
            parts.append(record["note"])
    return "\n\n".join(parts) + "\n"


def beside(shown: dict[str, dict]) -> str:
    """Simulated and real data: their size, a table for each measure, the goals, the verdicts."""
    rows = {title: record["data"]["rows"] for title, record in shown.items()}
    pairs = [record["data"]["pairs"] for record in shown.values()]
    sizes = {split: [f"{count[split]:,}" for count in pairs] for split in pairs[0]}
    parts = [table("Pairs", list(shown), sizes)]
    for measure, name in (
        ("lift@10", "nDCG@10 above that of a random order"),
        ("macro_f1", "macro-F1"),
    ):
        having = [title for title in rows if measure in next(iter(rows[title].values()))]
        values = {
            system: [number(rows[title][system][measure]) for title in having]
            for system in next(iter(rows.values()))
        }
        parts.append(table(name, having, values))
    goals = [{goal["name"]: span(goal) for goal in record["goals"]} for record in shown.values()]
    names = dict.fromkeys(name for found in goals for name in found)
    spans = {name: [found.get(name, "") for found in goals] for name in names}
    parts.append(table("Goal", list(shown), spans))
    parts += [f"{title}\n: {record['data']['verdict']}" for title, record in shown.items()]
    return "\n\n".join(parts) + "\n"


def table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table with the names of `rows` on the left and numbers on the right."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def span(goal: dict) -> str:
    """A measured value, with its interval where it has one."""
    if goal.get("low") is None:
        return number(goal["value"])
    return f"{number(goal['value'])} [{number(goal['low'])}, {number(goal['high'])}]"


def number(value) -> str:
    return value if isinstance(value, str) else report.number(value)


def run_times_page() -> str:
    parts = [
        "# Run times",
        "How long each chapter takes in profile `book`, and how much memory it needs at most. "
        "`make notebooks` measures both: it runs the chapters in reading order from an empty "
        "artefact folder, so that a later chapter finds what an earlier one has trained. A "
        "chapter that is run alone first makes what it needs and takes longer.",
    ]
    if not RUN_TIMES.exists():
        return "\n\n".join([*parts, "No run is recorded yet.\n"])
    record = json.loads(RUN_TIMES.read_text("utf-8"))
    rows = record["data"]["notebooks"]
    table = ["| Chapter | Time | Memory |", "| --- | ---: | ---: |"]
    for row in rows:
        link = f"[](../notebooks/{row['name']}.ipynb)"
        table.append(f"| {link} | {duration(row['seconds'])} | {gibibytes(row['peak_mib'])} |")
    total = duration(sum(row["seconds"] for row in rows))
    table.append(f"| **all** | {total} | {gibibytes(max(row['peak_mib'] for row in rows))} |")
    return "\n\n".join([*parts, "\n".join(table), provenance(record)]) + "\n"


# Rendering ------------------------------------------------------------------------------------


def pages() -> list[str]:
    """The pages of _toc.yml, in reading order, without suffix."""
    found = []

    def walk(node) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if name in ("root", "file"):
                    found.append(value)
                else:
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
    return found


def chapters() -> list[Path]:
    return [ROOT / f"{page}.ipynb" for page in pages() if page.startswith("notebooks/")]


def page_files(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, bytes]:
    """What chapters have left for pages, by its place in the book."""
    found = {}
    for name in LEFT.keys() & notebooks.keys():
        left = left_by(name, notebooks[name])
        found[f"book/_static/{LEFT[name]}"] = left.read_bytes() if left.exists() else NOT_LEFT
    return found


def render(output: Path, notebooks: dict[str, nbformat.NotebookNode]) -> Path:
    """Gather the sources under `output/source` and render them. Returns the first page."""
    source = output / "source"
    wanted = {f"notebooks/{name}.ipynb": dump(notebook) for name, notebook in notebooks.items()}
    wanted["book/results.md"] = results_page()
    wanted["book/run_times.md"] = run_times_page()
    found = records()  # the text around this table is book/compared.md
    sides = {title: found[name] for name, title in SIDES.items() if name in found}
    wanted["book/beside.txt"] = beside(sides)
    for path in [ROOT / "_toc.yml", *(ROOT / "book").rglob("*")]:
        if path.is_file():
            wanted[str(path.relative_to(ROOT))] = path.read_bytes()
    wanted |= page_files(notebooks)
    for path in source.rglob("*"):
        if path.is_file() and str(path.relative_to(source)) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        write(source / name, content)

    # Sphinx does not see that these changed, nor does it repeat the warnings of a failed build.
    html = output / "_build" if output != BUILD else BUILD
    inputs = [ROOT / "_config.yml", ROOT / "_toc.yml", *sorted((ROOT / "tools").glob("*.py"))]
    inputs += sorted((ROOT / "book" / "_static").iterdir())
    state = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    stamp = html / ".rendered"
    if not stamp.exists() or stamp.read_text() != state:
        for folder in ("html", ".doctrees"):
            shutil.rmtree(html / folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    say("Rendering ...")
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(source), "-W", "--keep-going"]
    command += ["-q", "--path-output", str(html.parent), "--config", str(ROOT / "_config.yml")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        shutil.rmtree(html / "html", ignore_errors=True)
        sys.exit(f"{done.stdout}\nThe book was not rendered; the messages above say why.")
    html.mkdir(exist_ok=True)
    stamp.write_text(state)
    return html / "html" / "index.html"


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


if __name__ == "__main__":
    main()
