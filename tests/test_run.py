"""Everything on one catalogue: what it loads, trains, keeps, says and leaves alone."""

import json
import shutil
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny_models
from datasets import Dataset, DatasetDict

from ecomkd import features, outputs
from ecomkd.data import sources
from ecomkd.data.schema import GAINS
from ecomkd.relevance import baselines, mining, stages
from ecomkd.relevance import run as running
from ecomkd.relevance.run import cautions, results_of, run, trained
from ecomkd.relevance.tables import ranked, table
from ecomkd.relevance.verdict import verdict

COMMAND = "ecomkd run shoes --profile smoke --seeds 1 --first-seed 900 --out report"
QUERIES = 14


def judgments(**columns) -> pd.DataFrame:
    """A shop of 14 queries, each with four products of one label each; words are the tokenizer's.

    `columns` replace those of the frame; a function gets the frame.
    """
    pairs = tiny_models.pairs(4 * QUERIES, 1).to_pandas().drop(columns="label")
    number = pairs.index // 4
    pairs["query_id"] = [f"q{i}" for i in number]
    words = tiny_models.WORDS
    pairs["query"] = [words[i] + " " + words[-1 - i // 2] for i in number]
    pairs["esci_label"] = list(GAINS) * QUERIES
    pairs["split"] = ["train" if i < 7 else "validation" if i < 10 else "test" for i in number]
    for name, column in columns.items():
        pairs[name] = column(pairs) if callable(column) else column
    return pairs


def shop(folder: Path, pairs: pd.DataFrame) -> Path:
    folder.mkdir()
    pairs.to_csv(folder / "judgments.csv", index=False)
    extra = tiny_models.pairs(16, 2, labelled=False, prefix="u").to_pandas()
    extra["query"] = extra.groupby("query_id")["query"].transform("first")
    extra.drop(columns="label").to_csv(folder / "unlabelled.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Profile `smoke` with a teacher of two random layers; artefacts are shared by all tests."""
    folder = tmp_path_factory.mktemp("run")
    teacher = tiny_models.save(tiny_models.bert(), folder / "pretrained")
    scale = {"teacher": str(teacher), "student_layers": (0,)}
    return tiny_models.profile(folder / "artifacts", **scale)


@pytest.fixture(scope="module", autouse=True)
def encoder():
    """A stand-in for the untrained bi-encoder, whose weights take longer to load than all else."""
    with pytest.MonkeyPatch.context() as patch:
        own = baselines.random_scores
        patch.setattr(features, "bi_encoder_scores", lambda pairs, profile: own(pairs))
        yield


@pytest.fixture(scope="module")
def shoes(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("data") / "shoes", judgments())


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ran(profile, shoes, tmp_path_factory):
    """A run of two seeds: its `folder`, how often it `asked` for what is made or loaded, and what
    it had `written` when the results of each seed were wanted."""
    found = SimpleNamespace(
        folder=tmp_path_factory.mktemp("ran") / "report", asked=Counter(), written=[]
    )

    def watched(function):
        def counted(*given, **options):
            found.asked[function.__name__] += 1
            if function is results_of:
                found.written.append(names(found.folder) if found.folder.exists() else set())
            return function(*given, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module, name in [
            (sources, "load"),
            (sources, "catalogue"),
            (stages, "teacher"),
            (stages, "student"),
            (running, "exports"),
            (running, "results_of"),
        ]:
            patch.setattr(module, name, watched(getattr(module, name)))
        run(shoes, profile, [900, 901], found.folder, COMMAND)
    return found


@pytest.fixture
def did(ran, tmp_path):
    """The folder of that run, to be changed."""
    return shutil.copytree(ran.folder, tmp_path / "report")


# What is written, and what is left alone


def test_all_that_is_written_stands_in_the_manifest(did):
    listed = outputs.check(did, "run")["files"]
    assert names(did) == {*listed, "manifest.json"}
    assert {"seed-900.json", "seed-901.json", "report.json", "report.html"} <= set(listed)
    assert {"student/model.int8.onnx", "student/labels.json", "student/score.py"} <= set(listed)
    report = json.loads((did / "report.json").read_text())
    assert report["goals"] == []
    assert "Goals" not in (did / "report.html").read_text()


def test_a_further_run_leaves_nothing_of_an_earlier_one(did, profile, shoes):
    (did / "student" / "old.json").write_text("{}")
    outputs.add(did, "run", ["student/old.json"])
    with pytest.warns(UserWarning, match="no verdict on fewer than 20"):
        run(shoes, profile, [900], did, COMMAND)
    assert not {"seed-901.json", "student/old.json"} & names(did)
    assert names(did) == {*outputs.check(did, "run")["files"], "manifest.json"}


@pytest.mark.parametrize("where", ["", "student"])
def test_a_folder_of_somebody_else_is_refused_before_any_work(
    where, profile, tmp_path, monkeypatch
):
    """Its `student` was deleted once, whatever was in it."""
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("work began"))
    theirs = tmp_path / "q" / where
    theirs.mkdir(parents=True)
    (theirs / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"did not write (student/)?thesis\.tex"):
        run("shop", profile, [900], tmp_path / "q", COMMAND)
    assert (theirs / "thesis.tex").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_named_before_any_work(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("work began"))
    (tmp_path / "x").touch()
    with pytest.raises(NotADirectoryError, match="a file of this name is there"):
        run("shop", profile, [900], tmp_path / "x", COMMAND)


def test_a_seeds_results_are_there_as_soon_as_it_is_done(ran):
    assert ran.written == [set(), {"manifest.json", "seed-900.json"}]


@pytest.mark.parametrize("package", ["lightgbm", "onnx", "bm25s"])
def test_a_missing_package_is_named_before_any_work(package, profile, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("work began"))
    with pytest.raises(ModuleNotFoundError, match=rf'{package} is missing, .*"ecomkd\[run\]"'):
        run("shop", profile, [900], tmp_path / "out", COMMAND)


# What is handed on


def test_nothing_is_loaded_or_exported_twice(ran):
    """Once a seed the data and the catalogue, once for all the exports of the first student."""
    # Of the exports, two are students', one is the first teacher's, whose speed is measured.
    made = {"teacher": 2, "student": 8, "exports": 3}
    assert ran.asked == {"load": 2, "catalogue": 2, "results_of": 2, **made}


@pytest.fixture(scope="module")
def made(profile, shoes):
    return trained(sources.load(shoes, profile), sources.catalogue(shoes, profile), profile)


def test_the_results_of_another_catalogue_are_others(made):
    """BM25 and the boosted trees count words of the whole catalogue."""

    def kept_results() -> set[Path]:
        return set(made.profile.artifacts.glob("result-*"))

    first = results_of(made)
    before = kept_results()
    further = [{name: "red shoe" for name in made.catalogue.column_names} | {"product_id": f"n{i}"}
               for i in range(9)]  # fmt: skip
    longer = Dataset.from_list([*made.catalogue.to_list(), *further])
    other = results_of(replace(made, catalogue=longer))
    assert len(kept_results() - before) == 1
    assert other["systems"]["teacher"] == first["systems"]["teacher"]
    assert results_of(made) == first
    assert len(kept_results() - before) == 1


# What `ecomkd check` accepts


def kept(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


SHOPS = {
    "one class, stop words, kinds that are no text": (
        {"esci_label": "S", "product_title": "the of a", "query_kind": range(4 * QUERIES)},
        [
            "All training pairs have the label S",
            "Only 4 of the test",
            "BM25 scores every product 0",
        ],
        True,
    ),
    "one test query, one class in training": (
        {
            "split": lambda pairs: pairs["split"].where(pairs.index < 44, "train"),
            "esci_label": lambda pairs: pairs["esci_label"].where(pairs["split"] != "train", "S"),
        },
        ["All training pairs have the label S", "Only 1 of the test queries"],
        True,
    ),
    "one product": (
        {"product_id": "p", "product_title": "red shoe", "keep": lambda pairs: pairs.index % 5},
        ["Most test queries have a single judged product"],
        False,
    ),
}


@pytest.mark.parametrize(("columns", "sentences", "ordered"), SHOPS.values(), ids=SHOPS)
def test_what_check_accepts_run_finishes_with_words_on_what_it_cannot_say(
    columns, sentences, ordered, profile, tmp_path
):
    pairs = judgments(**columns)
    if "keep" in pairs:
        pairs = pairs[pairs.pop("keep") == 0]
    with pytest.warns(UserWarning) as warned:
        run(shop(tmp_path / "shop", pairs), profile, [900], tmp_path / "out", COMMAND)
    report = kept(tmp_path / "out")
    notes = report["data"]["notes"]
    assert notes and set(notes) <= {str(warning.message) for warning in warned}
    assert len(notes) == len(sentences)
    assert all(words in note for words, note in zip(sentences, notes, strict=True))
    assert report["data"]["verdict"].startswith(("No verdict", "Stay with"))
    assert ("ndcg@10" in report["data"]["rows"]["teacher"]) == ordered
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(note.split(":")[0].replace("'", "&#x27;") in page for note in notes)
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()


def test_test_queries_without_a_relevant_product_are_judged_by_classes(made):
    """The contract refuses a file of such; data from elsewhere can still hold them."""
    test = made.data["test"].map(lambda _: {"label": list(GAINS).index("I")})
    data = DatasetDict({**made.data, "test": test})
    assert [
        note for note in cautions(data, made.catalogue) if "No test query has a relevant" in note
    ]
    result = results_of(replace(made, data=data))
    assert not ranked([result])
    assert "ndcg@10" not in table([result])
    assert verdict([result]).startswith("No verdict")


def test_cautions_come_before_any_training(profile, shoes, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise RuntimeError("training begins")

    monkeypatch.setattr(mining, "with_unlabelled", stop)
    with pytest.warns(UserWarning, match="Only 4 of the test"), pytest.raises(RuntimeError):
        run(shoes, profile, [900], tmp_path / "out", COMMAND)


def test_ordinary_data_need_no_caution():
    data = DatasetDict(
        train=tiny_models.pairs(24, 1),
        test=tiny_models.pairs(4 * 24, 3, prefix="t"),
    )
    assert cautions(data, tiny_models.pairs(8)) == []
