"""`ecomkd quantize`: what it measures on, what it writes, and where it fails."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

from ecomkd import cli, distill, export, metrics, outputs, score
from ecomkd.data.schema import GAINS
from ecomkd.relevance import gate as gating
from ecomkd.relevance import runtimes

TOKENIZER = tiny_models.tokenizer()
LENGTH = 24
QUERIES = 20


pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def model():
    return tiny_models.bert()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    return tiny_models.save(model, tmp_path_factory.mktemp("model") / "trained")


@pytest.fixture(scope="module")
def shop(model, tmp_path_factory) -> Path:
    """A shop whose labels are what the model says, so that fp32 is right about all of it."""
    return written(model, tmp_path_factory.mktemp("data") / "shoes")


def written(model, folder: Path, candidates: int = 4) -> Path:
    pairs = tiny_models.pairs(QUERIES * candidates, seed=3)
    frame = pairs.to_pandas().drop(columns="label")
    number = frame.index // candidates
    words = tiny_models.WORDS
    frame["query_id"] = [f"q{i}" for i in number]
    frame["query"] = [f"{words[i % 16]} {words[(3 * i + i // 16) % 16]}" for i in number]
    asked = pairs.remove_columns("query").add_column("query", list(frame["query"]))
    encoded = distill.encode(asked, TOKENIZER, LENGTH)
    columns = encoded.select_columns(["input_ids", "token_type_ids"])
    with torch.inference_mode():
        logits = model.eval()(**TOKENIZER.pad(columns[:], return_tensors="pt")).logits
    frame["esci_label"] = np.array(list(GAINS))[logits.argmax(1).numpy()]
    splits = ["train"] * 5 + ["validation"] * 3 + ["test"] * 12
    frame["split"] = [splits[i] for i in number]
    folder.mkdir()
    frame.to_csv(folder / "judgments.csv", index=False)
    return folder


@pytest.fixture
def own_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


@pytest.fixture
def alone(monkeypatch):
    """ONNX Runtime alone: what OpenVINO can do differs between processors."""
    monkeypatch.setitem(sys.modules, "openvino", None)


def ruined(folder: Path) -> Path:
    """A checkpoint that is as good as another, and of which no weight in one byte is left.

    Each channel has one weight far above all others, of an input that is always zero.
    """
    model = tiny_models.bert()
    with torch.no_grad():
        norms = [model.bert.embeddings.LayerNorm]
        norms += [layer.output.LayerNorm for layer in model.bert.encoder.layer]
        norms += [layer.attention.output.LayerNorm for layer in model.bert.encoder.layer]
        for norm in norms:
            norm.weight[0] = norm.bias[0] = 0
        for layer in model.bert.encoder.layer:
            own = layer.attention.self
            for part in (own.query, own.key, own.value, layer.intermediate.dense):
                part.weight[:, 0] = 30
    return tiny_models.save(model, folder)


def tried(arguments: list, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main([str(argument) for argument in arguments])
    printed, err = capsys.readouterr()
    return status, printed, err.rstrip("\n").split("\n")[-1]  # without the bars of progress


def command(model: Path, data: Path, *further) -> list:
    return ["quantize", model, "--on", data, "--max-length", LENGTH, *further]


# What passes


@pytest.mark.parametrize(
    ("folds", "data", "told"),
    [("--folds 5", "shoes", True), ("--folds", "shoes", False), ("--folds 5", "hats", False)],
)
def test_a_student_of_drawn_folds_has_met_some_of_the_pairs(tmp_path, folds, data, told):
    (tmp_path / "student").mkdir()
    command = f"ecomkd run shoes --seeds 1 {folds} --out report"
    report = {"command": command, "data": {"source": "shoes"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    notes = gating._overlap(tmp_path / "student", tmp_path / data)
    assert ["has met some of these pairs" in note for note in notes] == [True] * told


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"command": 3, "data": null}'])
def test_another_programs_report_says_nothing_of_folds(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    assert gating._overlap(tmp_path / "student", "shoes") == []


def test_the_gate_passes_and_writes_what_the_table_says(
    checkpoint, shop, tmp_path, capsys, own_artifacts
):
    out = tmp_path / "serving"
    status, printed, err = tried(command(checkpoint, shop, "--max-loss", 60, "--out", out), capsys)
    assert status == 0, err
    outputs.check(out, "quantize")
    kept = json.loads((out / "quantize.json").read_text("utf-8"))
    chosen = runtimes.Variant(*kept["data"]["chosen"].values())
    table = pd.DataFrame(kept["data"]["rows"])
    table = table.set_index(["model", "runtime", "precision", "batch"])
    assert runtimes.winner(table, 60) == chosen and chosen.precision != "fp32"
    assert set(table.index) == {
        ("trained", variant.runtime, variant.precision, batch)
        for variant in runtimes.available()
        for batch in (1, 32)
    }
    origin = table.loc[("trained", "onnxruntime", "fp32", 1)]
    assert (origin["macro_f1"], origin["ndcg@10_loss"]) == (1, 0)

    assert kept["command"] == (
        "ecomkd quantize trained --on shoes --split test --max-loss 60 --max-length 24 "
        "--out serving"
    )
    assert [goal["met"] for goal in kept["goals"]] == [True, True]
    assert str(tmp_path) not in (out / "quantize.json").read_text("utf-8")
    lines = printed.splitlines()
    assert len([line for line in lines if line.startswith(("ONNX Runtime", "OpenVINO"))]) == (
        2 * len(runtimes.available()) + 1
    )
    assert kept["data"]["sentence"] in lines and lines[-1] == f"Written: {out}"
    assert "on 48 test pairs, and may lose 60 points" in kept["data"]["sentence"]
    files = {path.name for path in out.iterdir()}
    assert files >= {chosen.file, "labels.json", "score.py", "tokenizer.json", "manifest.json"}
    assert len([name for name in files if name.endswith(".onnx")]) == 1


@pytest.mark.parametrize("variant", runtimes.available(), ids=str)
def test_what_is_written_scores_as_it_was_measured(
    variant, model, checkpoint, shop, tmp_path, own_artifacts, monkeypatch
):
    """Whichever was chosen; `score.py` reads from `labels.json` how it is to be run."""
    monkeypatch.setattr(gating, "winner", lambda table, loss: variant)
    for module in (gating, runtimes):
        both = tuple(dict.fromkeys([runtimes.VARIANTS[0], variant]))
        monkeypatch.setattr(module, "available", lambda both=both: both)
    profile = tiny_models.profile(own_artifacts)
    out = tmp_path / "serving"
    found = gating.gate(checkpoint, shop, profile, 60.0, out, LENGTH)
    scorer = score.load(out)
    is_openvino = isinstance(scorer.session, score.OpenVinoSession)
    assert is_openvino == (variant.runtime == "openvino")
    pairs = pd.read_csv(shop / "judgments.csv").query("split == 'test'")
    rows = zip(pairs["query"], pairs["product_title"], strict=True)
    chances = np.array([scorer.probabilities(query, title) for query, title in rows])
    right = np.array(list(GAINS))[chances.argmax(1)] == pairs["esci_label"]
    key = (checkpoint.name, variant.runtime, variant.precision, 1)
    assert right.mean() >= (1 if variant.precision == "fp32" else 0.9)
    truth = [list(GAINS).index(label) for label in pairs["esci_label"]]
    served = metrics.classification(truth, np.eye(4)[chances.argmax(1)])
    assert found.table.loc[key, "macro_f1"] == pytest.approx(served["macro_f1"])
    known = json.loads((out / "labels.json").read_text())
    usual = variant == runtimes.VARIANTS[1]
    assert (set(known) == {"labels", "gains", "max_length"}) == usual
    assert known["max_length"] == LENGTH


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_split_that_is_asked_for_is_measured(
    split, checkpoint, shop, capsys, own_artifacts, alone
):
    status, printed, _ = tried(
        command(checkpoint, shop, "--split", split, "--max-loss", 100), capsys
    )
    assert status == 0
    assert f" on {48 if split == 'test' else 12} {split} pairs" in printed
    assert (
        'OpenVINO is left out, for it is not installed: pip install "ecomkd[openvino]"' in printed
    )


def test_classes_alone_are_judged_where_queries_have_one_product(
    model, checkpoint, tmp_path, capsys, own_artifacts, alone
):
    shop = written(model, tmp_path / "single", candidates=1)
    status, printed, _ = tried(command(checkpoint, shop, "--max-loss", 100), capsys)
    assert status == 0
    assert "macro-F1 alone decides" in printed
    assert "nDCG" not in printed


# What fails


def test_the_gate_fails_where_int8_is_ruined_and_leaves_what_was_there(
    shop, tmp_path, capsys, own_artifacts, alone, checkpoint
):
    out = tmp_path / "serving"
    assert tried(command(checkpoint, shop, "--max-loss", 60, "--out", out), capsys)[0] == 0
    before = (out / "manifest.json").read_text()
    bad = ruined(tmp_path / "ruined")
    status, printed, err = tried(command(bad, shop, "--max-loss", 0.5, "--out", out), capsys)
    assert status == 1
    assert err.startswith("ecomkd: No quantised variant ")
    assert "serve the model in fp32" in err
    assert "ONNX Runtime" in printed and "fp32" in printed
    assert (out / "manifest.json").read_text() == before


def test_the_sentence_of_a_failed_gate_names_the_nearest_variant_and_its_loss(
    checkpoint, shop, capsys, own_artifacts, alone, monkeypatch
):
    own = gating.like_for_like

    def lossy(*given):
        table = own(*given)
        table.loc[pd.IndexSlice[:, :, "int8", 1], "ndcg@10_loss"] = 3.25
        table.loc[pd.IndexSlice[:, :, "int8", 1], "macro_f1_loss"] = 0.125
        return table

    monkeypatch.setattr(gating, "like_for_like", lossy)
    status, _, err = tried(command(checkpoint, shop), capsys)
    assert (status, err) == (
        1,
        "ecomkd: No quantised variant loses at most 0.5 points: ONNX Runtime int8, the nearest, "
        "loses 3.25 of nDCG@10 and 0.125 of macro-F1 on 48 test pairs; serve the model in fp32, or "
        "allow more with --max-loss.",
    )


def test_fp32_that_is_quicker_is_told_of_and_does_not_pass_the_gate(
    checkpoint, shop, capsys, own_artifacts, alone, monkeypatch
):
    own = gating.like_for_like

    def slow(*given):
        table = own(*given)
        table["p50_ms"] = np.where(table.index.get_level_values("precision") == "int8", 9.0, 1.0)
        return table

    monkeypatch.setattr(gating, "like_for_like", slow)
    status, printed, _ = tried(command(checkpoint, shop, "--max-loss", 100), capsys)
    assert status == 0
    assert "ONNX Runtime fp32 is quicker on this machine, and loses nothing." in printed
    assert "ONNX Runtime int8: 0.111 times as quick" in printed


# What it takes


def test_a_deployed_student_is_held_against_the_model_that_it_was_made_of(
    checkpoint, shop, tmp_path, capsys, own_artifacts, alone
):
    profile = tiny_models.profile(own_artifacts)
    student = tmp_path / "student"
    export.deploy(export.exports(checkpoint, profile), student, GAINS, LENGTH)
    arguments = ["quantize", student, "--on", shop, "--max-loss", 100]
    status, printed, err = tried(arguments, capsys)
    assert status == 0, err
    assert "on 48 test pairs" in printed

    shutil.rmtree(next(own_artifacts.glob("onnx-*")))
    status, _, err = tried(arguments, capsys)
    assert status == 1
    assert f"{student}: holds the int8 model alone, and what it was made of is not in" in err


def test_a_folder_with_an_onnx_file_will_do(
    checkpoint, model, shop, tmp_path, capsys, own_artifacts, alone
):
    export.to_onnx(model, TOKENIZER, tmp_path / "onnx" / "model.onnx")
    out = tmp_path / "out"
    arguments = command(tmp_path / "onnx", shop, "--max-loss", 100, "--out", out)
    assert tried(arguments, capsys)[0] == 0
    assert {path.name for path in (tmp_path / "onnx").glob("*.onnx")} == {"model.onnx"}
    # What it wrote itself, it replaces; not a folder to which something was added.
    assert tried(arguments, capsys)[0] == 0
    (out / "notes.txt").write_text("the only copy")
    status, _, err = tried(arguments, capsys)
    assert status == 1 and "`ecomkd quantize` did not write notes.txt" in err


def own_labels(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "labels.json").write_text(text)
    return folder


def of_classes(folder: Path, count: int) -> Path:
    export.to_onnx(tiny_models.bert(classes=count), TOKENIZER, folder / "model.onnx")
    return folder


def graded(folder: Path) -> Path:
    model = tiny_models.bert(layers=1)
    model.config.id2label = dict(enumerate("0123"))
    return tiny_models.save(model, folder)


def not_onnx(folder: Path) -> Path:
    TOKENIZER.save_pretrained(folder)
    (folder / "model.onnx").write_bytes(b"nothing")
    return folder


BAD = {
    "no folder": (lambda at: (at / "nowhere", []), "nowhere: no such folder; check the path."),
    "no length": (
        lambda at: (own_labels(at / "x", "{}"), []),
        "labels.json: damaged; deploy the model again, or give --max-length.",
    ),
    "a damaged length": (
        lambda at: (own_labels(at / "x", '{"max_length": "long"}'), []),
        "labels.json: damaged; deploy the model again, or give --max-length.",
    ),
    "no length said": (
        lambda at: (tiny_models.save(tiny_models.bert(layers=1), at / "x"), []),
        "x: nothing in it says at how many tokens a pair is cut; give --max-length",
    ),
    "no model": (
        lambda at: (own_labels(at / "x", '{"max_length": 24}'), []),
        "x: neither model.safetensors, model.onnx nor model.int8.onnx is in it",
    ),
    "other classes in a checkpoint": (
        lambda at: (tiny_models.save(tiny_models.bert(classes=2), at / "x"), [24]),
        "x: the checkpoint has 2 classes and the data have 4",
    ),
    "other classes in a file": (
        lambda at: (of_classes(at / "x", 2), [24]),
        "model.onnx: gives 2 classes, and the data have 4",
    ),
    "classes of other names": (
        lambda at: (graded(at / "x"), [24]),
        "x: its classes are 0, 1, 2, 3, and those of the data E, S, C, I; give data with",
    ),
    "more tokens than the model reads": (
        lambda at: (of_classes(at / "x", 4), [400]),
        "model.onnx: is no classifier that reads 400 tokens of the tokenizer beside it",
    ),
    "no ONNX": (
        lambda at: (not_onnx(at / "x"), [24]),
        "model.onnx: is no classifier that reads 24 tokens of the tokenizer beside it",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), BAD.values(), ids=BAD)
def test_a_model_that_will_not_do_gets_one_sentence(
    make, sentence, shop, tmp_path, capsys, own_artifacts, alone
):
    model, length = make(tmp_path)
    further = ["--max-length", *length] if length else []
    status, printed, err = tried(["quantize", model, "--on", shop, *further], capsys)
    assert (status, printed) == (1, "")
    assert err.startswith("ecomkd: ") and sentence in err


def test_data_without_the_split_are_refused(checkpoint, shop, tmp_path, capsys, own_artifacts):
    frame = pd.read_csv(shop / "judgments.csv")
    frame[frame["split"] != "test"].to_csv(tmp_path / "untested.csv", index=False)
    status, _, err = tried(command(checkpoint, tmp_path / "untested.csv"), capsys)
    assert status == 1
    assert err.startswith("ecomkd: ") and "test" in err


def test_a_folder_without_a_classifier_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no classifier in it; give the folder"):
        gating.stated_length(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match="give --max-length"):
        gating.stated_length(tmp_path)
