"""Gathers the sources of the book in one folder and lets Jupyter Book render them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from book import (
    cites,
    cold,
    esci_lists,
    frontier,
    landing,
    moved,
    runtimes,
    shop_log,
    teacher_sizes,
    trial,
)
from book.common import BUILD, ROOT, dump, say, write
from book.goals import results_page
from book.pages import (
    SIDES,
    beside,
    fitted,
    query_side,
    recipes,
    records,
    run_times_page,
    trees,
    untrained,
)
from book.terms import linked
from book.values import for_sphinx, values
from ecomkd import artifacts, packing

NO_PAGE_DATA = b"window.ecomkdSearch = null;\n"
"""What stands in the place of the search page's data where none is recorded; the page says so."""


def page_data() -> bytes:
    """The data file of the page that searches, as `make models` has recorded it."""
    told = os.environ.get("ECOMKD_RECORDED")
    place = Path(told if told and told != "0" else artifacts.RECORDED)
    found = sorted(place.glob("search_page-*"))
    if len(found) > 1:
        sys.exit(f"{place} has {len(found)} data files of the search page: remove what is old.")
    if not found:
        return NO_PAGE_DATA
    with tempfile.TemporaryDirectory() as folder:
        packing.unpack(found[0], Path(folder))
        return (Path(folder) / "search_data.js").read_bytes()


def render(output: Path, notebooks: dict[str, nbformat.NotebookNode]) -> Path:
    """Gather the sources under `output/source` and render them. Returns the first page."""
    source = output / "source"
    shown = {f"notebooks/{name}.ipynb": dump(notebook) for name, notebook in notebooks.items()}
    wanted = {
        f"notebooks/{name}.ipynb": dump(
            for_sphinx(cites.for_sphinx(linked(copy.deepcopy(notebook))), name)
        )
        for name, notebook in notebooks.items()
    }
    for name, notebook in notebooks.items():
        wanted[f"notebooks/{name}.json"] = json.dumps(values(notebook), indent=1)
    found = records()
    wanted["book/results.md"] = results_page(found)
    wanted["book/run_times.md"] = run_times_page()
    # The text around these tables is book/compared.md, few_labels.md, film_queries.md and
    # more_pairs.md.
    wanted["book/untrained.txt"] = untrained(found["untrained"])
    wanted["book/esci_lists.txt"] = fitted(found["core_esci_150"])
    wanted["book/whole_lists.txt"] = recipes(found["whole_lists"])
    wanted["book/further_lists.txt"] = esci_lists.further_part(found["further_lists"])
    wanted["book/list_losses.txt"] = esci_lists.losses_part(found["list_losses"])
    wanted["book/film_lists.txt"] = esci_lists.films_part(found["film_lists"])
    wanted["book/sum_weights.txt"] = esci_lists.weights_part(found["sum_weights"])
    wanted["book/base_lists.txt"] = esci_lists.base_part(found["base_lists"])
    wanted["book/contrast_lists.txt"] = esci_lists.contrast_part(found["contrast_lists"])
    wanted["book/sum_students.txt"] = esci_lists.students_part(found["sum_students"])
    wanted["book/whole_lists_icecat.txt"] = recipes(found["whole_lists_icecat"])
    wanted["book/free_teacher.txt"] = frontier.teachers_part(found["free_teacher"])
    wanted["book/teacher_sizes.txt"] = teacher_sizes.page_part(found["teacher_sizes"])
    wanted["book/shop_log.txt"] = shop_log.page_part(found["shop_log"])
    wanted["book/shop_pairs.txt"] = shop_log.pairs_part(found["shop_pairs"])
    wanted["book/query_side.txt"] = query_side(found["query_side"])
    wanted["book/trees.txt"] = trees(found["trees"])
    # That around these is book/cold_items.md.
    wanted["book/cold_items.txt"] = cold.page_part(found["cold_items"], found["recommendation"])
    # And those around these are book/moved_pairs.md.
    wanted["book/moved_matching.txt"] = moved.matching_part(found["moved_pairs"])
    wanted["book/moved_languages.txt"] = moved.languages_part(found["moved_pairs"])
    # And those around these are book/trial.md.
    for part, text in trial.page_parts(found["trial"], found["recommendation"]).items():
        wanted[f"book/{part}.txt"] = text
    wanted["book/frontier.txt"] = frontier.page_part(found["frontier"], found["sparse_student"])
    # The text around these tables is book/own_catalogue.md.
    wanted["book/runtimes.txt"] = runtimes.page_part(found["runtimes"])
    sides = {title: found[name] for name, title in SIDES.items() if name in found}
    wanted["book/beside.txt"] = beside(sides)
    wanted["book/_static/search_data.js"] = page_data()
    wanted["index.md"] = landing.first_page(notebooks)
    for path in [ROOT / "_toc.yml", *(ROOT / "book").rglob("*")]:
        if path.is_file():
            wanted[str(path.relative_to(ROOT))] = path.read_bytes()
    for path in source.rglob("*"):
        if path.is_file() and str(path.relative_to(source)) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        write(source / name, content)

    # Sphinx does not see that these changed, nor does it repeat the warnings of a failed build.
    html = output / "_build" if output != BUILD else BUILD
    inputs = [ROOT / "_config.yml", ROOT / "_toc.yml", *sorted((ROOT / "tools").rglob("*.py"))]
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
    for name, content in shown.items():  # what a reader downloads has the numbers in its text
        write(html / "html" / "_sources" / name, content)
    stamp.write_text(state)
    return html / "html" / "index.html"
