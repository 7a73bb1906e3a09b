"""The form of the stored chapters. That each runs with the wheel alone, `make smoke` sees to."""

import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import teaching
from book import __main__ as actions
from book import cites, execute, pages, stale, values
from book.common import chapters, tags

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def prose(path: Path) -> str:
    """The Markdown without directives' options, code, mathematics, roles, links' targets."""
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    text = re.sub(r"```mermaid.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^[:`]{3,}.*$|^:[a-z-]+:.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\{[a-z:]+\}`[^`]*`|`[^`]*`", "", values.SPAN.sub("", text))
    return re.sub(r"\]\([^)]*\)", "]", text)


def stored_text(cell) -> str:
    """All text that a code cell shows."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        data = output.get("data", {})
        parts += [value for mime, value in data.items() if mime.startswith("text")]
    return "\n".join(parts)


@each_notebook
def test_size(path):
    shown, lengths = [], []
    for cell in cells(path, "code"):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert not [line for line in lines if len(line) > 88]
        lengths.append(len(lines))
        if not {"hide-cell", "hide-input"} & set(tags(cell)):
            shown.append(len(lines))
    assert max(lengths) <= 25
    assert statistics.median(shown) <= 6
    assert 1500 <= len(prose(path).split()) <= 4000


@each_notebook
def test_every_code_cell_was_executed_in_order_in_profile_book(path):
    counts = [cell.execution_count for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    # A fresh clone has no chapter whose outputs are those of other code.
    notebook = read(path)
    noted = notebook.metadata["ecomkd"]
    assert noted == stale.stamp(notebook)


@each_notebook
def test_three_or_more_cells_are_compared_by_nbval(path):
    compared = [cell for cell in cells(path, "code") if "nbval-check-output" in tags(cell)]
    assert len(compared) >= 3
    for cell in compared:
        assert cell.execution_count
        assert stored_text(cell).strip()


@each_notebook
def test_figures_have_caption_and_text_alternative(path):
    for cell in cells(path, "code"):
        shown = {mime for output in cell.outputs for mime in output.get("data", {})}
        if shown & {"image/png", "image/svg+xml"}:
            options = cell.metadata.get("mystnb", {})
            assert len(options["image"]["alt"]) > 30, cell.source
            assert options["figure"]["caption"], cell.source
    for cell in cells(path, "markdown"):
        assert cell.source.count("```mermaid") == cell.source.count("accDescr:")


@each_notebook
def test_outputs_hold_no_debris(path):
    for cell in cells(path, "code"):
        assert not [o for o in cell.outputs if o.output_type == "error"], cell.source
        errors = [o.text for o in cell.outputs if o.get("name") == "stderr"]
        assert not errors, f"{cell.source}\n{errors}"
        text = stored_text(cell)
        found = re.search(
            r"/home/|/root/|/tmp/|/Users/|[A-Z]:\\|site-packages|0x[0-9a-f]{8,}|Warning:|"
            r"it/s|s/it|\d+%\|",
            text,
        )
        assert not found, f"{cell.source}\n{found}"


@each_notebook
def test_generated_cells_are_as_generated(path):
    notebook = read(path)
    setup = [cell for cell in notebook.cells if "setup" in tags(cell)]
    assert [cell.source for cell in setup] == [pages.setup_cell(path.stem)]
    assert cells(path, "code")[0] == setup[0]
    assert setup[0].metadata == {"cellView": "form", "tags": ["setup", "hide-input"]}
    timed = [cell for cell in notebook.cells if "run-time" in tags(cell)]
    assert [cell.source for cell in timed] == [pages.run_time_cell(path.stem)]


def test_times_of_one_chapter_join_those_of_the_same_machine(monkeypatch, tmp_path):
    first, second, *_, last = names = [path.stem for path in PATHS]
    monkeypatch.setattr(pages, "RUN_TIMES", tmp_path / "run_times.json")
    monkeypatch.setattr(pages, "chapters", lambda: [Path(name) for name in names])
    pages.record_run_times({last: {"seconds": 300.0, "peak_mib": 512}})
    pages.record_run_times({second: {"seconds": 90.0, "peak_mib": 2048}})
    pages.record_run_times({first: {"seconds": 30.0, "peak_mib": 1024}})
    record = json.loads(pages.RUN_TIMES.read_text())
    assert [(row["name"], row["seconds"]) for row in record["data"]["notebooks"]] == [
        (first, 30.0),
        (second, 90.0),
        (last, 300.0),
    ]
    assert [goal["value"] for goal in record["goals"]] == [5.0, 7.0, 2.0]
    assert [goal["met"] for goal in record["goals"]] == [False, True, True]
    assert pages.recorded_seconds() == {first: 30.0, second: 90.0, last: 300.0}
    monkeypatch.setattr("ecomkd.bench.hardware", lambda: {"cpu": "another"})
    with pytest.raises(SystemExit, match="another machine; time all chapters"):
        pages.record_run_times({first: {"seconds": 1.0, "peak_mib": 1}})
    pages.record_run_times({name: {"seconds": 1.0, "peak_mib": 1} for name in names})


@each_notebook
def test_exercises_have_solution_and_check(path):
    notebook = read(path)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    labels = re.findall(r"\{exercise\}.*\n:label: (\S+)", text)
    assert len(labels) >= 2
    assert len(labels) == len(re.findall(r"\{exercise\}", text))
    # One at least asks for a guess before anything is computed.
    assert re.search(r":label: \S+\n+\*\*Predict, then run\.\*\* ", text)
    assert re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", text) == labels
    kinds = [next((tag for tag in ("solution", "check") if tag in tags(c)), "")
             for c in notebook.cells]  # fmt: skip
    # One letter for each cell: every run of solution cells is followed by a check.
    letters = "".join(kind[:1] or "-" for kind in kinds)
    assert len(re.findall(r"s+c", letters)) == len(labels)
    assert not re.search(r"s+-", letters)
    for cell in notebook.cells:
        if "check" in tags(cell):
            assert any(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(cell.source)))


METRIC = re.compile(
    r"nDCG|\bF1\b|accuracy|\bMRR\b|precision|recall|lift|latency|throughput|speed-?up|"
    r"\bp50\b|\bp95\b|milliseconds?|\bms\b",
    re.IGNORECASE,
)
MEASURED = re.compile(
    r"(?<![\w@.§])\d+\.\d+|\d+(\.\d+)?\s?(%(?! interval)|ms\b|milliseconds|points?\b|×)"
)


@each_notebook
def test_no_metric_is_typed_by_hand(path):
    for sentence in re.split(r"(?<=[.!?])\s+|\n\n|\n(?=[-*|#])", prose_with_citations(path)):
        typed = METRIC.search(sentence) and MEASURED.search(sentence)
        assert not typed or "{cite" in sentence, sentence


def prose_with_citations(path: Path) -> str:
    marked = []
    for cell in cells(path, "markdown"):
        if "run-time" not in tags(cell):
            source = re.sub(r"\{(cite[a-z:]*)\}`[^`]*`", r"{\1}", cites.roles(cell.source))
            source = re.sub(r"\{[a-z:]+\}`[^`]*`|`[^`]*`", "", values.SPAN.sub("", source))
            marked.append(re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", source, flags=re.DOTALL))
    return "\n\n".join(marked)


@each_notebook
def test_each_number_in_the_prose_is_that_of_the_stored_run(path):
    notebook = read(path)
    known, asked = values.values(notebook), values.quoted(notebook)
    assert asked
    assert [(i, name, text) for i, name, text in asked if known.get(name) != text] == []
    assert not any("{glue" in cell.source for cell in notebook.cells)


@each_notebook
def test_nothing_in_the_text_reads_as_markup_in_jupyter(path):
    """A link without words shows nothing there, a role its name."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert re.findall(r"\[\]\(|\{(?:[a-z]+:)?(?:cite|cite:.|numref|eq|ref|doc|term)\}`", text) == []


@each_notebook
def test_each_citation_has_the_words_and_the_address_of_its_entry(path):
    for cell in cells(path, "markdown"):
        assert cites.faults(cell.source) == []
        assert cites.readable(cites.roles(cell.source)) == cell.source


def test_citations_are_words_in_a_notebook_and_roles_in_the_book():
    typed = "It is old {cite:p}`hinton2015distilling, ba2014deep`; {cite:t}`pan2010survey` say so."
    shown = cites.readable(typed)
    assert shown == (
        "It is old ([Hinton et al., 2015](https://arxiv.org/abs/1503.02531); "
        "[Ba and Caruana, 2014](https://arxiv.org/abs/1312.6184)); "
        "[Pan and Yang (2010)](https://doi.org/10.1109/TKDE.2009.191) say so."
    )
    assert cites.readable(shown) == shown
    assert cites.faults(shown) == []
    assert cites.roles(shown) == typed.replace(", ba", ",ba")
    assert cites.faults(shown.replace("Hinton et al., 2015", "Hinton et al., 2016"))
    assert cites.faults(shown.replace("1503.02531", "1503.02532"))
    assert cites.faults("([a page](https://example.org)) of [chapter 2](02_teacher.ipynb)") == []
    with pytest.raises(SystemExit, match="has no entry nobody2015"):
        cites.readable("{cite:p}`nobody2015`")


def test_numbers_are_filled_in_and_become_placeholders(capsys):
    code = nbformat.v4.new_code_cell("1")
    for name, text in (("share", "-3 [-5, < 2]"), ("left", "1")):
        code.outputs.append(
            nbformat.v4.new_output(
                "display_data",
                data={"application/papermill.record/text/plain": text},
                metadata={"scrapbook": {"name": name}},
            )
        )
    prose = nbformat.v4.new_markdown_cell('It is <span data-value="share">?</span>.')
    notebook = nbformat.v4.new_notebook(cells=[prose, code])
    values.fill(notebook, "one")
    shown = 'It is <span data-value="share">-3 [-5, &lt; 2]</span>.'
    assert notebook.cells[0].source == shown
    assert "left" in capsys.readouterr().out
    assert values.quoted(notebook) == [(0, "share", "-3 [-5, < 2]")]
    assert values.fill(notebook, "one").cells[0].source == shown
    assert values.for_sphinx(notebook, "one").cells[0].source == "It is {value}`one::share`."
    notebook.cells[0].source = shown.replace("share", "chair")
    with pytest.raises(SystemExit, match="cell 0: no cell records 'chair'"):
        values.fill(notebook, "one")


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("The student reaches an nDCG@10 of 0.91.", True),
        ("It keeps 97 % of the accuracy.", True),
        ("One pair takes 3 ms of latency.", True),
        ("nDCG@10 looks at the first ten products.", False),
        ("nDCG@10 rises (95 % interval over queries).", False),
        ("The student has 2 of 6 layers.", False),
    ],
)
def test_the_check_for_typed_metrics_finds_them(sentence, typed):
    assert bool(METRIC.search(sentence) and MEASURED.search(sentence)) == typed


def test_spelling(tmp_path):
    for path in PATHS:
        text = "\n\n".join(cell.source for cell in read(path).cells)
        (tmp_path / f"{path.stem}.txt").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# The class pack ---------------------------------------------------------------------------------


@each_notebook
def test_students_and_solutions_are_two_cuts_of_one_notebook(path):
    source = {cell.id: (cell.source, "solution" in tags(cell)) for cell in read(path).cells}
    pack, solved = teaching.students(read(path)), teaching.solutions(read(path))
    added = {"profile", "answer"}
    ours = {cell.id: cell.source for cell in pack.cells if not added & set(tags(cell))}
    theirs = {cell.id: cell.source for cell in solved.cells if not added & set(tags(cell))}
    assert list(ours) == [name for name, (_, solution) in source.items() if not solution]
    assert {name for name, (_, solution) in source.items() if solution} <= set(theirs)
    for half in (ours, theirs):
        assert all(text == source[name][0] for name, text in half.items())
    blanks = [cell for cell in pack.cells if "answer" in tags(cell)]
    assert len(blanks) == len([c for c in pack.cells if "check" in tags(c)]) > 0
    for half in (pack, solved):
        nbformat.validate(half)
        assert not [c for c in half.cells if c.cell_type == "code" and c.outputs]


def test_make_teaching_writes_the_pack(tmp_path):
    teaching.main(tmp_path / "pack")
    written = {str(p.relative_to(tmp_path / "pack")) for p in (tmp_path / "pack").rglob("*.*")}
    names = [path.name for path in chapters()]
    expected = {f"{half}/{name}" for half in ("students", "solutions") for name in names}
    assert written == expected | {"plan.md", "manifest.json"}
    teaching.main(tmp_path / "pack")


def test_make_teaching_deletes_nothing_that_it_did_not_write(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "thesis.md").write_text("the only copy")
    with pytest.raises(FileExistsError, match=r"did not write thesis\.md"):
        teaching.main(tmp_path / "pack")
    assert (tmp_path / "pack" / "thesis.md").read_text() == "the only copy"


def test_make_teaching_replaces_nothing_that_was_changed(tmp_path):
    teaching.main(tmp_path / "pack")
    teaching.main(tmp_path / "pack")  # as it was written, it is replaced
    (tmp_path / "pack" / "plan.md").unlink()
    own = tmp_path / "pack" / "students" / "01_concepts.ipynb"
    own.write_text("my own lesson")
    with pytest.raises(FileExistsError, match=r"01_concepts\.ipynb: has changed"):
        teaching.main(tmp_path / "pack")
    assert own.read_text() == "my own lesson"


# What a notebook depends on -----------------------------------------------------------------------


def test_a_change_of_code_or_of_what_it_imports_makes_a_notebook_stale(tmp_path, monkeypatch):
    package = tmp_path / "ecomkd"
    (package / "recorded").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text("A = 1\nB = 1\n")
    (package / "distill.py").write_text(
        "from ecomkd import losses\n\ndef fit():\n    return losses.A\n"
    )
    (package / "bench.py").write_text("B = 1\n")
    (package / "recorded" / "core_shop.json").write_text("{}")
    monkeypatch.setattr(stale, "ROOT", tmp_path)
    monkeypatch.setattr(stale, "PACKAGE", package)

    def key(code: str, text: str = "Prose.", setup: str = "") -> str:
        first = nbformat.v4.new_code_cell(setup, metadata={"tags": ["setup"]})
        cells = [nbformat.v4.new_markdown_cell(text), first, nbformat.v4.new_code_cell(code)]
        return stale.key(nbformat.v4.new_notebook(cells=cells))

    code, other = (
        "from ecomkd import distill\ndistill.fit()",
        "from ecomkd import bench\n'core_shop'",
    )
    before, reading = key(code), key(other)
    assert key(code, "Other prose.") == before
    assert key(code, setup="import sys") == before
    assert key(code + "\n1") != before
    (package / "bench.py").write_text("B = 2\n")
    assert key(code) == before
    (package / "recorded" / "core_shop.json").write_text("[]")
    assert key(code) == before
    assert key(other) != reading
    (package / "losses.py").write_text("# Why this is so.\nA = 1\nB = 2\n")
    assert key(code) == before
    (package / "losses.py").write_text("A = 2\nB = 2\n")
    assert key(code) != before
    before = key(code)
    monkeypatch.setattr(stale, "settings", lambda: {"products": 1})
    assert key(code) != before


def test_a_recorded_model_makes_the_chapters_stale_that_reach_its_stage(tmp_path, monkeypatch):
    package = tmp_path / "ecomkd"
    card = package / "recorded" / "models" / "student-0a" / "card.json"
    card.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "stages.py").write_text('def student():\n    return "student"\n')
    (package / "bench.py").write_text("def student():\n    return 1\n")
    monkeypatch.setattr(stale, "ROOT", tmp_path)
    monkeypatch.setattr(stale, "PACKAGE", package)

    def keys():
        codes = (
            "from ecomkd import stages\nstages.student()",
            "from ecomkd import bench\nbench.student()",
        )
        found = [nbformat.v4.new_code_cell(code) for code in codes]
        return [stale.key(nbformat.v4.new_notebook(cells=[cell])) for cell in found]

    card.write_text("{}")
    reaching, other = keys()
    card.write_text("[]")
    assert keys()[0] != reaching
    assert keys()[1] == other


def test_outputs_of_other_code_are_never_shown(tmp_path, monkeypatch):
    """The real tool and a real kernel: stored outputs are taken, or the chapter is executed."""
    path = tmp_path / "one.ipynb"
    monkeypatch.setattr(execute, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(execute, "BUILD", tmp_path / "build")
    monkeypatch.setattr(execute, "ROOT", ROOT)

    def shown(code: str, text: str = "stored", **other) -> tuple[str, bool]:
        """What is shown of a chapter that was stored with `code`, and whether it was executed."""
        cell = nbformat.v4.new_code_cell(code, execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", text="stored")]
        notebook = nbformat.v4.new_notebook(cells=[cell])
        notebook.metadata["ecomkd"] = stale.stamp(notebook) | other
        cell.outputs[0].text = text
        nbformat.write(notebook, path)
        found, cost = execute.executed(path, "one", artifacts=tmp_path / "artifacts")
        assert found.metadata["ecomkd"] == stale.stamp(found)
        return stored_text(found.cells[0]).strip(), cost is not None

    code = "import os\nprint(os.environ['ECOMKD_PROFILE'], os.listdir())"
    assert shown(code) == ("stored", False)
    assert shown(code, key="of other code") == ("book []", True)
    assert shown(code, text="run in an editor") == ("book []", False)
    assert shown(code + "\n", key="of other code") == ("book []", True)
    assert len(list((tmp_path / "executed").iterdir())) == 1


def test_only_outputs_that_were_stored_are_accepted(tmp_path, monkeypatch):
    """A chapter that somebody ran in an editor has to be executed."""
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["ecomkd"] = stale.stamp(notebook) | {"key": "of other code"}
    path = tmp_path / "one.ipynb"
    monkeypatch.setattr(actions, "chapters", lambda: [path])
    nbformat.write(notebook, path)
    actions.accept(["one"])
    kept = nbformat.read(path, as_version=4)
    assert kept.metadata["ecomkd"] == stale.stamp(kept)
    kept.cells[0].execution_count = 2
    nbformat.write(kept, path)
    with pytest.raises(SystemExit, match=r"one\.ipynb: its outputs are not those .* ONLY=one`"):
        actions.accept(["one"])


def test_stored_outputs_are_cleaned():
    output = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    cell.outputs = [
        output("stream", name="stderr", text="\r 10%|#    | 1/10 [00:01<00:09, 1.0it/s]\n"),
        output("stream", name="stdout", text=f"saved to {ROOT}/artifacts\n"),
        output("display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
        output("execute_result", data={"text/plain": "1"}, execution_count=1),
    ]
    cleaned = execute.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0]
    assert [o.get("text") or o.data["text/plain"] for o in cleaned.outputs] == [
        "saved to artifacts\n",
        "1",
    ]
