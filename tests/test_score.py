"""What is deployed scores as the evaluation did, wherever and beside whatever it is asked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from datasets import Dataset

from ecomkd import distill, export, score
from ecomkd.data.schema import GAINS, TEXT

LENGTH = 32
QUERIES = ["mug", "red shoe", "large blue lamp desk mat strap " * 4, "tea pot " * 300]
WORDS = [1, 2, 9, 10, 11, 31, 32, 33, 600]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a tiny student's exports; its position table ends 8 tokens after a pair."""
    folder = tmp_path_factory.mktemp("served") / "onnx"
    path = export.to_onnx(
        tiny_models.bert(layers=1), tiny_models.tokenizer(), folder / "model.onnx"
    )
    export.quantize(path)
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def served(exported):
    """The same, deployed beside a file of somebody else's."""
    out = exported.parent / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    names = export.deploy(exported, out, GAINS, LENGTH)
    assert set(names) == {path.name for path in out.iterdir()} - {"notes.txt"}
    return out


def test_a_folder_is_deployed_over_an_older_one_file_by_file(exported, tmp_path, monkeypatch):
    """Whoever reads it meanwhile, or after a kill, finds each file whole."""
    export.deploy(exported, tmp_path, GAINS, LENGTH)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def killed(source, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export.shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        export.deploy(exported, tmp_path, GAINS, LENGTH)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.fixture(scope="module")
def pairs():
    """Texts of 1 to 600 words for queries of 1 to 600 words."""
    titles = [" ".join((tiny_models.WORDS * 40)[:count]) for count in WORDS]
    rows = [(query, title) for query in QUERIES for title in titles]
    columns = {"query_id": [f"q{QUERIES.index(query)}" for query, _ in rows]}
    columns |= {"product_id": [f"p{row}" for row in range(len(rows))]}
    columns |= {name: [""] * len(rows) for name in TEXT}
    columns |= {"query": [query for query, _ in rows], "product_title": [text for _, text in rows]}
    columns["label"] = [0] * len(rows)
    return Dataset.from_dict(columns).cast_column("label", tiny_models.CLASSES)


@pytest.fixture(scope="module")
def evaluated(exported, pairs):
    """What the evaluation gives for these pairs: probabilities (N, C)."""
    profile = tiny_models.profile(exported.parent, max_length=LENGTH)
    return export.predict_onnx(exported / "model.int8.onnx", pairs, profile)


def test_the_evaluation_reads_the_tokens_that_training_reads(exported, pairs, evaluated):
    """Token ids as `distill.encode` gives them, each pair in a batch of its own."""
    encoded = distill.encode(pairs, tiny_models.tokenizer(), LENGTH)
    model = export.OnnxClassifier(exported / "model.int8.onnx", threads=1)
    for row, chances in zip(encoded, evaluated, strict=True):
        ids = np.array([row["input_ids"]])
        types = np.array([row["token_type_ids"]])
        logits = model(input_ids=ids, token_type_ids=types, attention_mask=np.ones_like(ids))[0]
        odds = np.exp(logits - logits.max())
        assert chances == pytest.approx(odds / odds.sum(), abs=1e-6)
    assert {len(ids) for ids in encoded["input_ids"]} >= {5, LENGTH}


def test_deployed_scores_are_the_evaluations_for_every_length_alone_and_beside_others(
    served, pairs, evaluated
):
    expected = [chances @ np.array(list(GAINS.values())) for chances in evaluated]
    scorer = score.load(served)
    together = scorer(pairs["query"], pairs["product_title"])
    backwards = scorer(pairs["query"][::-1], pairs["product_title"][::-1])[::-1]
    alone = [scorer([row["query"]], [row["product_title"]])[0] for row in pairs]
    assert np.ptp(expected) > 0.01
    assert np.array_equal(together, expected)
    assert np.array_equal(backwards, expected)
    assert np.array_equal(alone, expected)


def test_deployed_folder_is_the_int8_student_and_touches_nothing_else(served):
    names = {path.name for path in served.iterdir()}
    assert {"model.int8.onnx", "labels.json", "score.py", "tokenizer.json", "notes.txt"} <= names
    assert not names & {"model.onnx", "manifest.json"}
    assert json.loads((served / "labels.json").read_text()) == {
        "labels": list(GAINS), "gains": list(GAINS.values()), "max_length": LENGTH,
    }  # fmt: skip


@pytest.mark.parametrize("query", range(len(QUERIES)))
def test_the_example_runs_anywhere_without_pytorch_and_gives_what_was_measured(
    served, pairs, evaluated, query, tmp_path
):
    """In a process in which neither torch, transformers nor this package can be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'transformers', 'ecomkd'))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    rows = range(query * len(WORDS), (query + 1) * len(WORDS))
    asked = pairs.select(rows)
    call = [sys.executable, "-c", code, served / "score.py", QUERIES[query]]
    done = subprocess.run(
        [*call, *asked["product_title"]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ", 1) for line in done.stdout.splitlines()]
    expected = evaluated[rows] @ list(GAINS.values())
    found = {title: value for value, title in lines}
    assert found == {
        title: f"{value:.3f}" for title, value in zip(asked["product_title"], expected, strict=True)
    }
    assert [float(value) for value, _ in lines] == sorted(map(float, found.values()), reverse=True)


def test_the_example_says_how_it_is_called(served, tmp_path):
    call = [sys.executable, Path(served, "score.py"), "red shoe"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Usage: python score.py")


def test_a_deployed_folder_without_its_tokenizer_is_named(served, tmp_path):
    for name in ("model.int8.onnx", "labels.json"):
        (tmp_path / name).write_bytes((served / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: not found; deploy the student"):
        score.load(tmp_path)


def test_what_serves_loads_neither_pytorch_nor_transformers():
    heavy = ("torch", "transformers", "sentence_transformers", "datasets", "onnx", "pandas")
    code = (
        "import sys, ecomkd.score, ecomkd.export\n"
        "assert ecomkd.export.OnnxClassifier and ecomkd.export.Scorer is ecomkd.score.Scorer\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
