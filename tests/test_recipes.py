"""What the code of a stage reaches: comments change no hash, and a changed loss is not passed."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recipes
from recipes import Package

ROOT = Path(__file__).resolve().parent.parent


def test_no_stage_has_changed_unseen():
    assert recipes.faults(Package().stages(), recipes.accepted()) == []


@pytest.fixture(scope="module")
def package() -> Package:
    return Package()


def hashes(folder: Path, of: str) -> dict[str, str]:
    """The definitions that a function of the package reaches, with their hashes."""
    module, name = of.rsplit(".", 1)
    return Package(folder).reached(f"from {module} import {name}\n{name}()")


@pytest.fixture
def changed(tmp_path):
    """A function that gives a copy of the package in which one text stands for another."""

    def copy(module: str, *replaced: tuple[str, str]) -> Path:
        shutil.rmtree(tmp_path / "ecomkd", ignore_errors=True)
        ignored = shutil.ignore_patterns("recorded", "__pycache__", "describe*")
        shutil.copytree(ROOT / "ecomkd", tmp_path / "ecomkd", ignore=ignored)
        path = tmp_path / "ecomkd" / module
        text = path.read_text("utf-8")
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, "utf-8")
        return tmp_path / "ecomkd"

    return copy


STUDENT = "ecomkd.relevance.stages.student"


def test_a_student_reaches_its_loss_its_judge_and_its_text(package):
    reached = package.reached(f"import ecomkd\necomkd.{STUDENT.removeprefix('ecomkd.')}()")
    assert {
        "ecomkd.losses.soft_kl",
        "ecomkd.distill.DistillationTrainer",
        "ecomkd.trainer.MeasuredTrainer",
        "ecomkd.models.build_student",
        "ecomkd.relevance.judge.quality",
        "ecomkd.metrics.classification",
        "ecomkd.data.contract.product_text",
        "ecomkd.relevance.stages.WARM_UP_LEAST",
    } <= set(reached)
    assert not {name for name in reached if name.startswith(recipes._APART)}
    assert not {name for name in reached if name.startswith(("ecomkd.cli", "ecomkd.plots"))}


def test_a_comment_a_docstring_and_an_annotation_change_nothing(changed):
    before = hashes(ROOT / "ecomkd", STUDENT)
    losses = (ROOT / "ecomkd" / "losses.py").read_text("utf-8")
    (first, *_) = [node for node in ast.parse(losses).body if isinstance(node, ast.FunctionDef)]
    docstring = ast.get_docstring(first, clean=False)
    folder = changed(
        "losses.py",
        (docstring, "Something else."),
        ("\n    return ", "\n    # Why this is so.\n    return "),
        ("temperature: float", "temperature: object"),
    )
    assert hashes(folder, STUDENT) == before


def test_a_changed_line_of_a_loss_cannot_pass_unseen(changed):
    same = Package(changed("losses.py", ("temperature**2", "temperature**2"))).stages()
    other = Package(changed("losses.py", ("temperature**2", "temperature**3"))).stages()
    changes = {name for name in same if same[name].hash != other[name].hash}
    assert {"student", "teacher", "warmed"} <= changes
    assert not changes & {"data", "features", "vectors", "mined"}
    accepted = {name: [one.recipe, one.hash] for name, one in same.items()}
    assert recipes.faults(same, accepted) == []
    (told,) = [line for line in recipes.faults(other, accepted) if "'student'" in line]
    assert told.startswith("The code behind stage 'student' has changed, and its recipe is still")


# On a small package -------------------------------------------------------------------------------

FILES = {
    "__init__.py": '''
from importlib import import_module
_HOMES = {"load": "pkg.data"}
def __getattr__(name):
    return getattr(import_module(_HOMES[name]), name)
''',
    "artifacts.py": "def stage(name, parts, make, root, recipe=1): ...\n",
    "config.py": "class Profile:\n    seed = 1\n",
    "data.py": '''
from pkg.artifacts import stage
SIZE = 3
def load(profile): return _stage(lambda folder: write(folder), [SIZE])
def _stage(tables, parts):
    return stage("data", parts, tables, ".")
def write(folder): return SIZE
def unused(): return 1
''',
    "part/__init__.py": '''
"""A part."""
_HOMES = {"Net": "nets"}
_NAMES = {"pkg.data": "unused write"}
_FORMER = {"Basis": "Base"}
def __getattr__(name): ...
''',
    "part/nets.py": '''
from __future__ import annotations
import pkg.data as tables
from pkg import artifacts
from pkg.config import Profile
from . import tools
tools.prepare()
class Net(tools.Base):
    width: int = 4
    def forward(self, x): return x * tools.RATE
def train(items: Items, profile: Profile):
    """Train."""
    tools = 3
    def make(folder):
        from pkg.part.late import polish
        polish(Net(), tools)
    return artifacts.stage("net", [profile.seed], make, ".", recipe=2)
class Items:
    def key(self): return tables.write(None)
''',
    "part/tools.py": '''
RATE = 0.5
class Base: ...
def prepare(): return hidden()
def hidden(): return 1
def other(): return RATE
''',
    "part/late.py": "def polish(net, by): return net\n",
}  # fmt: skip


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A function that writes the small package, with some files replaced, and reads it."""
    monkeypatch.setattr(recipes, "_APART", ("pkg.artifacts", "pkg.config"))

    def write(**replaced: str) -> Package:
        for name, text in {**FILES, **replaced}.items():
            path = tmp_path / "pkg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return Package(tmp_path / "pkg")

    return write


def test_what_is_followed(small):
    reached = small().reached("from pkg.part.nets import train\ntrain()")
    assert set(reached) == {
        "pkg.part.nets",  # what the module does when it is imported
        "pkg.part.nets.train",
        "pkg.part.nets.Net",
        "pkg.part.nets.Items",  # through an annotation
        "pkg.part.tools.Base",
        "pkg.part.tools.RATE",
        "pkg.part.tools.prepare",
        "pkg.part.tools.hidden",
        "pkg.part.late.polish",  # imported in a function
        "pkg.data.write",
        "pkg.data.SIZE",
    }


def test_lazy_names_modules_as_objects_and_cells(small):
    package = small()
    data = {f"pkg.data.{name}" for name in ("load", "_stage", "write", "SIZE")}
    assert set(package.reached("%pip install x\nimport pkg\npkg.load(1)")) == data
    for name, home in (
        ("Base", "pkg.part.tools.Base"),  # looked for
        ("Basis", "pkg.part.tools.Base"),
        ("unused", "pkg.data.unused"),
    ):
        assert set(package.reached(f"from pkg import part\npart.{name}")) == {home}
    assert "pkg.part.nets.Net" in package.reached("from pkg.part import Net\nNet()")
    assert set(package.reached("from pkg import data\ndir(data)")) == data | {"pkg.data.unused"}
    assert package.reached("x = 1\nprint(x)") == {}
    with pytest.raises(LookupError, match=r"pkg\.data has no 'lode': is it written right\?"):
        package.reached("from pkg import data\ndata.lode()")


def test_the_stages_of_a_package(small):
    found = small().stages()
    assert {name: one.recipe for name, one in found.items()} == {"data": 1, "net": 2}
    assert found["data"].places == ("pkg.data._stage",)
    # A private function stands for those that call it: what they hand over makes the artefact.
    other = FILES["data.py"].replace("write(folder), [SIZE]", "write(folder) + 1, [SIZE]")
    assert small(**{"data.py": other}).stages()["data"].hash != found["data"].hash
    # The number itself is no code.
    raised = FILES["part/nets.py"].replace("recipe=2", "recipe=3")
    again = small(**{"part/nets.py": raised}).stages()["net"]
    assert (again.recipe, again.hash) == (3, found["net"].hash)


def test_stages_that_cannot_be_read(small):
    twice = FILES["data.py"] + 'def two(): return stage("net", [], None, ".", recipe=5)\n'
    with pytest.raises(ValueError) as error:
        small(**{"data.py": twice}).stages()
    assert str(error.value) == (
        "Stage 'net' has several numbers (5 in pkg.data.two, 2 in pkg.part.nets.train): give it "
        "one."
    )
    hidden = FILES["data.py"].replace('stage("data"', "stage(tables.name")
    with pytest.raises(ValueError) as error:
        small(**{"data.py": hidden}).stages()
    assert str(error.value) == (
        "pkg.data._stage: give the name of the stage and its recipe= as literals in the call of "
        "stage()."
    )


def test_the_sentences_say_what_to_do(small):
    found = small().stages()
    accepted = {name: [one.recipe, one.hash] for name, one in found.items()}
    assert recipes.faults(found, accepted) == []
    accept = "`python tools/recipes.py --accept`"
    changed = small(**{"part/late.py": "def polish(net, by): return net + by\n"}).stages()
    assert recipes.faults(changed, accepted) == [
        "The code behind stage 'net' has changed, and its recipe is still 2: if it makes something "
        "else of the same parts now, raise recipe= in pkg.part.nets.train; then, or if it makes "
        f"the same, run {accept}."
    ]
    accepted["net"][0] = 1
    assert recipes.faults(found, accepted) == [
        "Stage 'net' has the recipe 2 in pkg.part.nets.train and 1 in the file: "
        f"run {accept}."
    ]  # fmt: skip
    accepted["old"] = accepted.pop("net")
    assert recipes.faults(found, accepted) == [
        f"Stage 'old' is gone: run {accept}.",
        f"Stage 'net' (pkg.part.nets.train) is new: run {accept}.",
    ]


def test_accepting_writes_the_file_once(small, tmp_path):
    small()
    script = (
        "import sys, pathlib, recipes\n"
        "recipes.FILE = pathlib.Path('accepted.json')\n"
        "recipes.Package.__init__.__defaults__ = (pathlib.Path('pkg'),)\n"
        "recipes.accepted.__defaults__ = (recipes.FILE,)\n"
        "sys.exit(recipes.main())\n"
    )

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT / "tools")},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    code, told = run()
    assert code == 1
    assert told.count(" is new: run ") == 2
    assert run("--accept")[0] == 0
    assert run() == (0, "No stage's code has changed.\n")


def test_a_comprehension_binds_no_name_of_the_module():
    """From Python 3.12 on a module lists such a name with its own; the hashes are the same."""
    (node,) = ast.parse("NAMES = [number for number in range(3)]").body
    assert recipes._bound(node) == ["NAMES"]


def test_empty_texts_between_nested_fields_are_no_change():
    """Some versions of Python 3.12 put them into a format string."""
    plain = ast.parse('f"{text:{side}}"', mode="eval").body
    padded = ast.parse('f"{text:{side}}"', mode="eval").body
    padded.values[0].format_spec.values.append(ast.Constant(""))
    found = [recipes._plain(recipes._Bare().visit(one)) for one in (plain, padded)]
    assert found[0] == found[1]
