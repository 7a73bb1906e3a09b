"""The command line: what it prints, where, with which exit status; and the whole book, once."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny_models

from ecomkd import config, run
from ecomkd.cli import main
from ecomkd.data.schema import GAINS


def frames(seed: int = 1, candidates: int = 4, graded: bool = False) -> dict:
    """A shop of 14 queries in the contract's columns; words are the tiny tokenizer's."""
    count = 14 * candidates
    pairs = tiny_models.pairs(count, seed).to_pandas()
    number = pairs.index // candidates
    pairs["query_id"] = [f"q{i}" for i in number]
    pairs["query"] = [tiny_models.WORDS[i] + " " + tiny_models.WORDS[-1 - i // 2] for i in number]
    labels = pairs.pop("label")
    labels.iloc[:4] = range(4)
    if graded:
        pairs["grade"] = labels
    else:
        pairs["esci_label"] = [list(GAINS)[label] for label in labels]
    pairs["split"] = ["train" if i < 7 else "validation" if i < 10 else "test" for i in number]
    pairs["query_kind"] = ["plain" if i % 2 else "typo" for i in number]
    extra = tiny_models.pairs(16, seed + 1, labelled=False, prefix="u").to_pandas()
    extra["query"] = extra.groupby("query_id")["query"].transform("first")
    return {"judgments": pairs, "unlabelled": extra.drop(columns="label")}


def write(folder: Path, **options) -> Path:
    folder.mkdir(parents=True)
    for name, frame in frames(**options).items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


def tried(arguments: list, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_check_says_what_it_found(tmp_path, capsys):
    status, out, err = tried(["check", write(tmp_path / "shop")], capsys)
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path}/shop: keeps the data contract.\n")
    assert "'train': 28, 'validation': 12, 'test': 16, 'unlabelled': 16" in out


def test_check_says_what_is_wrong_in_one_sentence(tmp_path, capsys):
    folder = write(tmp_path / "shop")
    pairs = pd.read_csv(folder / "judgments.csv")
    pairs.loc[3, "esci_label"] = "X"
    pairs.to_csv(folder / "judgments.csv", index=False)
    status, out, err = tried(["check", folder], capsys)
    assert (status, out) == (1, "")
    assert err == (
        f"ecomkd: {folder}/judgments.csv, line 5, column 'esci_label': unknown label 'X'; "
        "use one of E, S, C, I.\n"
    )


BAD = {
    "no folder": (["check", "nowhere"], "ecomkd: nowhere: no such file or folder; check the path."),
    "no source": (
        ["run", "nowhere", "--out", "out"],
        "ecomkd: Unknown source 'nowhere': give 'shop', 'esci', or the path of a folder or a "
        "CSV or Parquet file that exists.",
    ),
    "profile": (
        ["run", "shop", "--profile", "huge", "--out", "out"],
        "ecomkd: Unknown profile 'huge': set ECOMKD_PROFILE to, or pass, one of smoke, book, gpu.",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence_and_status_1(
    arguments, sentence, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    assert tried(arguments, capsys) == (1, "", sentence + "\n")
    assert not (tmp_path / "out").exists()


USAGE = {
    "no command": ([], "COMMAND"),
    "no output": (["run", "shop"], "--out"),
    "no seed": (
        ["run", "shop", "--out", "x", "--seeds", "0"],
        "0: give a whole number",
    ),
    "half": (["shop", "x", "--products", "1.5"], "1.5: give a whole number of at least 1"),
    "port": (["serve", "x", "--port", "70000"], "70000: give a whole number from 0 to 65535"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_named_with_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "run", "serve", "shop"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: ecomkd {command} " in " ".join(capsys.readouterr().out.split())


def test_the_program_is_installed_and_its_help_is_quick_to_import():
    """Nothing heavy is loaded before a command needs it."""
    code = (
        "import sys, ecomkd.cli\n"
        "try: ecomkd.cli.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "check" in done.stdout and done.stdout.endswith("[]\n")
    program = Path(sys.executable).with_name("ecomkd")
    done = subprocess.run([program, "check", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "ecomkd: nowhere: no such file or folder; check the path.\n"


def test_shop_writes_what_check_accepts(tmp_path, capsys):
    out = tmp_path / "shop"
    arguments = ["shop", out, "--products", "300", "--seed", "900"]
    assert tried(arguments, capsys) == (0, f"Wrote 300 products to {out}.\n", "")
    status, found, _ = tried(["check", out], capsys)
    assert status == 0
    assert "products: 300" in found


# The whole book


@pytest.fixture
def tiny_smoke(tmp_path, monkeypatch):
    """Profile `smoke` with a teacher of two random layers, kept under `tmp_path`."""
    teacher = tiny_models.save(tiny_models.bert(), tmp_path / "pretrained")
    scale = {"teacher": str(teacher), "student_layers": (0,), "unlabelled_pairs": 16}
    scale |= {"device": "cpu", "precision": "fp32", "frozen_layers": 1}
    monkeypatch.setitem(config._SCALES, "smoke", config._SCALES["smoke"] | scale)
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))


def command(folder: Path, out: Path, seeds: int) -> list:
    return [
        "run",
        folder,
        "--profile",
        "smoke",
        "--seeds",
        seeds,
        "--first-seed",
        900,
        "--out",
        out,
    ]


def test_run_writes_report_student_and_verdict(tiny_smoke, tmp_path, capsys):
    folder, out = write(tmp_path / "shoes"), tmp_path / "report"
    status, printed, err = tried(command(folder, out, seeds=2), capsys)
    assert status == 0, err
    kept = json.loads((out / "report.json").read_text("utf-8"))
    assert printed.splitlines()[-2:] == [kept["data"]["verdict"], f"Report: {out / 'report.html'}"]

    # The contract of recorded results, and nothing of this machine's paths.
    assert list(kept) == [
        "command", "created", "seeds", "hardware", "versions", "generator", "data", "goals",
    ]  # fmt: skip
    assert kept["command"] == (
        "ecomkd run shoes --profile smoke --seeds 2 --first-seed 900 --out report"
    )
    assert (kept["seeds"], kept["generator"]) == ([900, 901], None)
    assert str(tmp_path) not in (out / "report.json").read_text("utf-8")
    rows = kept["data"]["rows"]
    assert list(rows) == list(run.SYSTEMS)
    assert all(row["ndcg@10 low"] <= row["ndcg@10"] <= row["ndcg@10 high"] for row in rows.values())
    assert set(kept["data"]["per_seed"]) == {"900", "901"}
    assert set(kept["data"]["by_kind"]) == {"plain", "typo"}
    assert kept["data"]["pairs"] == {"train": 28, "validation": 12, "test": 16, "unlabelled": 16}
    speed = kept["data"]["speed"]
    assert len(speed) == 7
    assert all(row["p50_ms"] <= row["p95_ms"] for row in speed.values())
    smaller = ["teacher, ONNX fp32", "student, ONNX fp32", "student, ONNX int8"]
    sizes = [speed[name]["megabytes"] for name in smaller]
    assert sizes == sorted(sizes, reverse=True)
    assert kept["goals"] == []
    assert kept["data"]["verdict"].startswith("No verdict: there are 3 test queries")
    assert kept["data"]["notes"][0].startswith("Only 3 of the test queries have a relevant product")

    page = (out / "report.html").read_text("utf-8")
    assert kept["data"]["verdict"].replace("'", "&#x27;") in page
    assert "src=" not in page and "http" not in page
    assert {"model.int8.onnx", "labels.json", "score.py"} <= {
        p.name for p in (out / "student").iterdir()
    }

    # Again: what was made is found, and says the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").glob("[!.]*")}
    assert {path.name.split("-")[0] for path in before} == {
        "data", "warmed", "teacher", "teacher_outputs", "student", "onnx", "result",
    }  # fmt: skip
    seeds = [(out / f"seed-{seed}.json").read_text() for seed in (900, 901)]
    assert tried(command(folder, out, seeds=2), capsys)[0] == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").glob("[!.]*")}
    assert after == before
    assert [(out / f"seed-{seed}.json").read_text() for seed in (900, 901)] == seeds
    again = json.loads((out / "report.json").read_text("utf-8"))
    assert again["data"]["rows"] == rows
    assert again["data"]["verdict"] == kept["data"]["verdict"]


def test_run_on_grades_with_one_candidate_a_query_judges_classes_alone(
    tiny_smoke, tmp_path, capsys
):
    folder, out = write(tmp_path / "graded", candidates=1, graded=True), tmp_path / "report"
    status, _, err = tried(command(folder, out, seeds=1), capsys)
    assert status == 0, err
    kept = json.loads((out / "report.json").read_text("utf-8"))
    assert "ndcg@10" not in kept["data"]["rows"]["teacher"]
    assert kept["data"]["by_kind"] is None
    assert "macro_f1" in kept["data"]["rows"]["teacher"]
    assert "the report goes by classes alone" in kept["data"]["notes"][0]
    assert json.loads((out / "student" / "labels.json").read_text())["labels"] == list("0123")
