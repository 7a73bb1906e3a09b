"""The command line: what it prints, where, with which exit status; and the whole book, once."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny_models

import ecomkd
from ecomkd import cli, config, console, outputs
from ecomkd.cli import main
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.contract import named
from ecomkd.data.schema import GAINS, DataError
from ecomkd.relevance import run, tables


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


def stranger(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("the only copy")


MINE = "did not write thesis.tex, and deletes nothing of yours; give a new folder, or move it away."
NUL = "the name of a folder holds no NUL; give another name."
BAD = {
    "no folder": (["check", "nowhere"], "nowhere: no such file or folder; check the path."),
    "an empty path": (
        ["check", ""],
        ".: no judgments.parquet or judgments.csv here; add one of them.",
    ),
    "another kind of file": (
        ["check", "file"],
        "file: cannot read this kind of file; give a .csv or a .parquet.",
    ),
    "a path with escapes": (
        ["check", "a\x1b[2Jb\nc"],
        "a\\x1b[2Jb\\nc: no such file or folder; check the path.",
    ),
    "a long name": (["check", "x" * 300], "xxx: File name too long; check the path."),
    "a long path": (
        ["run", "x/" * 3_000, "--out", "out"],
        "…: File name too long; check the path.",
    ),
    "no source": (
        ["run", "nowhere", "--out", "out"],
        "Unknown source 'nowhere': give 'shop', 'esci', or the path of a folder or a "
        "CSV or Parquet file that exists.",
    ),
    "profile": (
        ["run", "shop", "--profile", "huge", "--out", "out"],
        "Unknown profile 'huge': set ECOMKD_PROFILE to, or pass, one of smoke, book, gpu.",
    ),
    "profile of an index": (
        ["index", "shop", "--profile", "Book", "--out", "out"],
        "Unknown profile 'Book': set ECOMKD_PROFILE to, or pass, one of smoke, book, gpu.",
    ),
    "seeds beyond the last": (
        ["run", "shop", "--first-seed", "4294967294", "--seeds", "3", "--out", "out"],
        "the last seed would be 4294967296; give a smaller --first-seed.",
    ),
    "run into a file": (
        ["run", "shop", "--out", "file"],
        "file: a file of this name is there; give another folder.",
    ),
    "run into what is not its own": (
        ["run", "shop", "--out", "mine"],
        f"mine: `ecomkd run` {MINE}",
    ),
    "index into what is not its own": (
        ["index", "shop", "--out", "mine"],
        f"mine: `ecomkd index` {MINE}",
    ),
    "quantize into what is not its own": (
        ["quantize", "mine", "--on", "shop", "--out", "mine"],
        f"mine: `ecomkd quantize` {MINE}",
    ),
    "quantize into a file": (
        ["quantize", "mine", "--on", "shop", "--out", "file"],
        "file: a file of this name is there; give another folder.",
    ),
    "quantize what is not there": (
        ["quantize", "nowhere", "--on", "shop"],
        "nowhere: no such folder; check the path.",
    ),
    "quantize what is no folder": (
        ["quantize", "file", "--on", "shop"],
        "file: no such folder; check the path.",
    ),
    "shop into what is not its own": (["shop", "mine"], f"mine: `ecomkd shop` {MINE}"),
    "run into a link to itself": (
        ["run", "shop", "--out", "loop"],
        "loop: a link that leads to itself",
    ),
    "run under a file": (["run", "shop", "--out", "file/x"], "file/x: nothing can be written"),
    "run into the folder itself": (
        ["run", "shop", "--out", "."],
        ".: the folder that you work in, or one above it, is not replaced; give a new folder.",
    ),
    "index into the folder above": (
        ["index", "shop", "--out", ".."],
        "..: the folder that you work in, or one above it, is not replaced; give a new folder.",
    ),
    "shop into a file": (["shop", "file"], "file: a file of this name is there; give another"),
    "run into a name with a NUL": (["run", "shop", "--out", "a\0b"], f"a\\x00b: {NUL}"),
    "index into a name with a NUL": (["index", "shop", "--out", "a\0b"], f"a\\x00b: {NUL}"),
    "shop into a name with a NUL": (["shop", "a\0b"], f"a\\x00b: {NUL}"),
    "more products than any disk holds": (
        ["shop", "out", "--products", "9" * 18],
        "out: 999,999,999,999,999,999 products need about 115,000,000,000.0 GB of disk, and ",
    ),
    "too few products": (
        ["shop", "out", "--products", "5"],
        "seed 1, 5 products: take a seed ≥ 0 and ≥ 100 products",
    ),
    "no index": (
        ["serve", "nowhere"],
        "nowhere: no such folder; write it with `ecomkd index` or `ecomkd recommend` first",
    ),
    "no reference": (
        ["serve", "mine", "--reference", "nowhere.txt"],
        "nowhere.txt: no such file; check --reference.",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence_and_status_1(
    arguments, sentence, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    (tmp_path / "file").write_text("kept")
    stranger(tmp_path / "mine")
    (tmp_path / "loop").symlink_to("loop")
    status, out, err = tried(arguments, capsys)
    assert (status, out) == (1, "")
    assert err.startswith("ecomkd: ") and sentence in err
    assert err.count("\n") == 1 and err[:-1].isprintable() and len(err) < 2_100
    assert (tmp_path / "file").read_text() == "kept"
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "the only copy"
    assert {p.name for p in tmp_path.iterdir()} <= {"file", "loop", "mine", "artifacts"}


def test_an_unknown_profile_in_the_environment_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ECOMKD_PROFILE", "laptop")
    status, _, err = tried(["run", "shop", "--out", tmp_path / "out"], capsys)
    assert status == 1
    assert "Unknown profile 'laptop': set ECOMKD_PROFILE to" in err


RUN, SERVE = ["run", "shop", "--out", "x"], ["serve", "x"]
QUANTIZE = ["quantize", "x", "--on", "shop"]
USAGE = {
    "no command": ([], "COMMAND"),
    "unknown command": (["train"], "invalid choice: 'train'"),
    "unknown option": ([*RUN, "--epochs", "3"], "unrecognized arguments: --epochs"),
    "no data": (["check"], "DATA"),
    "two data": (["check", "a", "b"], "unrecognized arguments: b"),
    "no output": (["run", "shop"], "--out"),
    "no output of an index": (["index", "shop"], "--out"),
    "no folder to serve": (["serve"], "DIR"),
    "no folder to write": (["shop"], "OUT"),
    "no model": (["quantize", "--on", "shop"], "MODEL"),
    "no data to measure on": (["quantize", "x"], "--on"),
    "a negative loss": ([*QUANTIZE, "--max-loss", "-1"], "-1: give a number from 0 to 100"),
    "no number of points": ([*QUANTIZE, "--max-loss", "nan"], "nan: give a number from 0 to 100"),
    "pairs that were trained on": ([*QUANTIZE, "--split", "train"], "invalid choice: 'train'"),
    "no tokens": ([*QUANTIZE, "--max-length", "0"], "0: give a whole number from 8 to 100000"),
    "no seed": ([*RUN, "--seeds", "0"], "0: give a whole number from 1 to 1000"),
    "a negative number of seeds": ([*RUN, "--seeds", "-1"], "-1: give a whole number from 1"),
    "half a seed": ([*RUN, "--seeds", "1.5"], "1.5: give a whole number from 1 to 1000"),
    "seeds in words": ([*RUN, "--seeds", "three"], "three: give a whole number from 1"),
    "many seeds": ([*RUN, "--seeds", "1000000000"], "give a whole number from 1 to 1000"),
    "empty seeds": ([*RUN, "--seeds", ""], "give a whole number from 1 to 1000"),
    "negative seed": ([*RUN, "--first-seed", "-1"], "-1: give a whole number from 0 to 4294967295"),
    "20 digits": ([*RUN, "--first-seed", "9" * 20], "give a whole number from 0 to 4294967295"),
    "5,000 digits": ([*RUN, "--first-seed", "9" * 5_000], "9…: give a whole number from 0 to"),
    "no unlabelled": ([*RUN, "--unlabelled", "0"], "0: give a whole number of at least 1"),
    "a long pair": ([*RUN, "--max-length", "513"], "513: give a whole number from 8 to 512"),
    "a long pair of an index": (
        ["index", "shop", "--out", "out", "--max-length", "513"],
        "513: give a whole number from 8 to 512",
    ),
    "two folds": ([*RUN, "--folds", "2"], "2: give a whole number of at least 3"),
    "folds before the data": (
        ["run", "--folds", "shop", "--out", "x"],
        "shop: give a whole number",
    ),
    "a seed with escapes": ([*RUN, "--seeds", "\x1b[2J"], "\\x1b[2J: give a whole number"),
    "half": (["shop", "x", "--products", "1.5"], "1.5: give a whole number of at least 1"),
    "no product": (["shop", "x", "--products", "0"], "0: give a whole number of at least 1"),
    "negative shop": (["shop", "x", "--seed", "-1"], "-1: give a whole number from 0"),
    "port": ([*SERVE, "--port", "70000"], "70000: give a whole number from 0 to 65535"),
    "negative port": ([*SERVE, "--port", "-1"], "-1: give a whole number from 0 to 65535"),
    "port in words": ([*SERVE, "--port", "http"], "http: give a whole number from 0 to 65535"),
    "no worker": ([*SERVE, "--workers", "0"], "0: give a whole number of at least 1"),
    "half a worker": ([*SERVE, "--workers", "0.5"], "0.5: give a whole number of at least 1"),
    "no time": ([*SERVE, "--timeout", "0"], "0: give a number of at least 0.001"),
    "time in words": ([*SERVE, "--timeout", "soon"], "soon: give a number of at least 0.001"),
    "no number": ([*SERVE, "--timeout", "nan"], "nan: give a number of at least 0.001"),
    "for ever": ([*SERVE, "--timeout", "inf"], "inf: give a number of at least 0.001"),
    "negative rate": ([*SERVE, "--rate", "-1"], "-1: give a number of at least 0"),
    "share above 1": ([*SERVE, "--shadow", "1.5"], "1.5: give a number from 0 to 1"),
    "negative share": ([*SERVE, "--shadow", "-0.5"], "-0.5: give a number from 0 to 1"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_named_with_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def refused(number: int, *where) -> OSError:
    return OSError(number, os.strerror(number), *where)


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ERRORS = {
    "two faults": (DataError("one.", "two."), "one.\necomkd: two."),
    "several lines": (RuntimeError("no\n  luck\x1b[2J"), "no luck\\x1b[2J"),
    "no network": (ConnectionError("connect to the network"), "connect to the network"),
    "disk": (
        refused(errno.ENOSPC),
        "a file: No space left on device; free some space, or choose "
        "another disk with --out or ECOMKD_ARTIFACTS.",
    ),
    "disk, with the place": (
        refused(errno.ENOSPC, "out/a"),
        "out/a: No space left on device; free "
        "some space, or choose another disk with --out or ECOMKD_ARTIFACTS.",
    ),
    "disk, in the words of a library": (
        OSError(errno.ENOSPC, f"Detail: [errno 28] {os.strerror(errno.ENOSPC)}", "out/a"),
        "out/a: No space left on device; free some space, or choose another disk with --out or "
        "ECOMKD_ARTIFACTS.",
    ),
    "disk, in a sentence": (
        OSError(errno.ENOSPC, "No space left while writing out: free some"),
        "No space left while writing out: free some.",
    ),
    "rights": (
        refused(errno.EACCES, "out/a"),
        "out/a: Permission denied; change its rights, or choose another place.",
    ),
    "memory": (
        MemoryError(),
        "the memory does not suffice; take a smaller profile, or fewer data.",
    ),
    "an extra": (
        ModuleNotFoundError("No module named 'faiss'", name="faiss"),
        'faiss is missing, which a command needs: pip install "ecomkd[run,search,serve]"',
    ),
    "an extra that a library misses": (
        caused_by(
            ModuleNotFoundError("Could not import module 'Trainer'"),
            ModuleNotFoundError("No module named 'onnx'", name="onnx"),
        ),
        'onnx is missing, which a command needs: pip install "ecomkd[run,search,serve]"',
    ),
    "an extra that nobody names": (ModuleNotFoundError("no luck"), "no luck"),
    "an extra that is named": (
        ModuleNotFoundError('x is missing: pip install "ecomkd[serve]"', name="x"),
        'x is missing: pip install "ecomkd[serve]"',
    ),
    "a broken library": (ImportError("libx.so: cannot open", name="x"), "libx.so: cannot open"),
}


@pytest.mark.parametrize(("error", "sentence"), ERRORS.values(), ids=ERRORS)
def test_what_a_user_can_mend_is_said(error, sentence, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_check", lambda options: throw(error))
    assert tried(["check", "x"], capsys) == (1, "", f"ecomkd: {sentence}\n")


def throw(error: BaseException) -> None:
    raise error


FAULTS = (
    KeyError("p7"),
    AttributeError("no 'row'"),
    ZeroDivisionError("division by zero"),
    TypeError("unhashable"),
    IndexError("out of range"),
    RecursionError("too deep"),
    NotImplementedError("later"),
    ModuleNotFoundError("No module named 'ecomkd.x'", name="ecomkd.x"),
    ValueError(),
)


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_of_the_program_says_so_and_how_to_report_it(error, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_check", lambda options: throw(error))
    status, out, err = tried(["check", "x"], capsys)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith(
        f"ecomkd: a fault of the program, not of your data ({type(error).__name__}: "
    )
    assert "report it with the command and with what it prints when ECOMKD_DEBUG=1 is set" in err
    monkeypatch.setenv("ECOMKD_DEBUG", "1")
    assert "Traceback" in tried(["check", "x"], capsys)[2]


def test_an_interruption_is_one_line_with_status_130(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_check", lambda options: throw(KeyboardInterrupt()))
    assert tried(["check", "x"], capsys) == (
        130,
        "",
        "ecomkd: interrupted; what was finished is kept, and the same command goes on from "
        "there.\n",
    )


def test_a_warning_is_one_line_without_a_place_in_the_program(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_check", lambda options: warnings.warn("mind\nthis", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *told: sys.stderr.write(warnings.formatwarning(*told[:4]))
        assert tried(["check", "x"], capsys) == (0, "", "ecomkd: mind\\nthis\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    write(tmp_path / "shop")
    command = [sys.executable, "-m", "ecomkd.cli", "check", tmp_path / "shop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 1


FULL = Path("/dev/full")


@pytest.mark.parametrize("tell", [print, console.say], ids=["at the end", "at once"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_output_that_nothing_can_be_written_to_is_named(tell, number, capsys, monkeypatch):
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, text) -> int:
            raise refused(number)

    monkeypatch.setattr(cli, "_check", lambda options: tell("found"))
    full = io.TextIOWrapper(io.BufferedWriter(Full()))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        status = main(["check", "x"])
    assert (status, capsys.readouterr().err) == (
        1,
        f"ecomkd: standard output: {os.strerror(number)}; send it to another place, such as a "
        "file on another disk.\n",
    )
    with contextlib.suppress(OSError):
        full.close()


@pytest.mark.skipif(not FULL.is_char_device(), reason="there is no device that is always full")
@pytest.mark.parametrize("command", [["check"], ["-u", "check"]], ids=" ".join)
def test_a_full_device_is_told_once_and_not_again_at_the_end(command, tmp_path):
    write(tmp_path / "shop")
    *flags, name = command
    call = [sys.executable, *flags, "-m", "ecomkd.cli", name, tmp_path / "shop"]
    with FULL.open("w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ecomkd: standard output: ")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_without_a_standard_output_a_command_does_its_work(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_check", lambda options: print("found"))
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["check", "x"]) == 0
    assert capsys.readouterr().err == ""


# What a name of a source means --------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch) -> list:
    """What `run` and `index` are called with, instead of training anything."""
    told = []
    monkeypatch.setattr(run, "run", lambda *given: told.append(given) or "verdict")

    def build(*given, **further):
        told.append((*given, further))
        return given[2]

    monkeypatch.setattr("ecomkd.search.build", build)
    return told


def test_a_source_has_one_name_in_every_command(tmp_path, capsys, monkeypatch, called):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("ECOMKD_PROFILE", "smoke")
    write(tmp_path / "shop")
    hint = "ecomkd: shop is the simulated shop; what lies here under that name is ./shop.\n"
    status, out, err = tried(["check", "shop"], capsys)
    assert (status, err) == (0, hint)
    assert out.startswith("shop: keeps the data contract.\n") and "products: 200" in out
    status, out, err = tried(["check", "./shop"], capsys)
    assert (status, err) == (0, "")
    assert "'train': 28" in out
    for command in ("run", "index"):
        assert tried([command, "shop", "--out", "out"], capsys)[::2] == (0, hint)
        assert tried([command, "./shop", "--out", "out"], capsys)[::2] == (0, "")
    assert [given[0] for given in called] == ["shop", Path("shop")] * 2


@pytest.mark.parametrize(
    ("option", "folds"), [([], None), (["--folds"], "given"), (["--folds", "5"], 5)]
)
def test_folds_are_handed_on_and_recorded_in_the_command(option, folds, tmp_path, capsys, called):
    assert tried(["run", "esci", *option, "--out", tmp_path / "out"], capsys)[0] == 0
    ((*_, command, _, found),) = called
    assert found == folds
    told = " ".join(["--first-seed 18", *option, "--out out"])
    assert command == f"ecomkd run esci --profile book --seeds 1 {told}"


def test_the_length_that_models_read_is_handed_on_and_recorded(tmp_path, capsys, called):
    given = ["run", "esci", "--max-length", "96", "--out", tmp_path / "out"]
    assert tried(given, capsys)[0] == 0
    ((_, profile, *_, command, _, _),) = called
    assert profile == replace(Profile.named("book"), max_length=96)
    assert command.endswith("--first-seed 18 --max-length 96 --out out")


def test_an_index_reads_as_many_tokens_as_a_run(tmp_path, capsys, called):
    given = ["index", "esci", "--max-length", "96", "--out", tmp_path / "out"]
    assert tried(given, capsys)[0] == 0
    ((_, profile, *_),) = called
    assert profile == replace(Profile.named("book"), max_length=96)


def test_the_folder_that_one_works_in_has_its_own_name(tmp_path, monkeypatch, capsys, called):
    write(tmp_path / "shoes")
    monkeypatch.chdir(tmp_path / "shoes")
    assert tried(["run", ".", "--out", "../out"], capsys)[0] == 0
    ((_, _, _, _, command, *_),) = called
    assert command.startswith("ecomkd run shoes ") and command.endswith(" --out out")
    assert [named(one) for one in ("shop", Path("."), Path("a/../b"))] == ["shop", "shoes", "b"]


def test_a_spread_head_is_handed_on_and_recorded(tmp_path, capsys, called):
    assert tried(["run", "esci", "--spread-head", "--out", tmp_path / "out"], capsys)[0] == 0
    ((_, profile, *_, command, _, _),) = called
    assert profile == replace(Profile.named("book"), spread_head=True)
    assert command.endswith("--first-seed 18 --spread-head --out out")


def test_index_can_put_the_teacher_beside_the_student(tmp_path, capsys, called):
    out = tmp_path / "out"
    assert tried(["index", "esci", "--out", out], capsys) == (0, f"Search engine: {out}\n", "")
    tried(["index", "esci", "--out", out, "--with-teacher"], capsys)
    assert [given[3:] for given in called] == [(False, [], {}), (True, [], {})]


def test_index_can_put_fields_and_a_store_beside_it(tmp_path, capsys, called, monkeypatch):
    told = SimpleNamespace(fields={"price": "number", "brand": "text"})
    monkeypatch.setattr("ecomkd.search.folder.settings", lambda folder: told)
    given = ["index", "esci", "--out", tmp_path / "out", "--field", "price", "--field", "brand"]
    _, out, _ = tried([*given, "--engine", "postgresql://me@here/shop", "--table", "june"], capsys)
    assert out.splitlines()[1:] == ["  Field price: numbers.", "  Field brand: texts."]
    place = {"store": "postgresql://me@here/shop", "table": "june"}
    assert called[0][3:] == (False, ["price", "brand"], place)
    status, _, err = tried([*given, "--table", "june"], capsys)
    assert (status, err) == (
        1, "ecomkd: --table names one of a store: give --engine, too, or leave it out.\n"
    )  # fmt: skip


def test_update_needs_something_to_do(tmp_path, capsys):
    status, _, err = tried(["update", tmp_path], capsys)
    assert (status, err[:22]) == (1, "ecomkd: nothing to do:")


@pytest.mark.parametrize(
    "command",
    ["check", "run", "quantize", "index", "recommend", "update", "export", "serve", "shop"],
)
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

    # Its own folder is replaced whole; not so one to which something was added.
    assert outputs.check(out, "shop")["files"].keys() == {
        "judgments.parquet", "products.parquet", "unlabelled.parquet",
    }  # fmt: skip
    assert tried([*arguments[:3], "200"], capsys)[0] == 0
    assert "products: 200" in tried(["check", out], capsys)[1]
    (out / "notes.txt").write_text("the only copy")
    assert tried(arguments, capsys)[0] == 1
    assert "products: 200" in tried(["check", out], capsys)[1]


def test_a_shop_that_is_not_finished_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shop, "_traffic", lambda *given: throw(KeyboardInterrupt()))
    assert tried(["shop", tmp_path / "out"], capsys)[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_shop_does_not_name_the_readers_own_folder(capsys):
    with pytest.raises(SystemExit):
        main(["shop", "--help"])
    assert "my_shop" not in capsys.readouterr().out


@pytest.fixture
def served(monkeypatch) -> dict:
    """What a service is made with and where it listens, instead of serving anything."""
    told = {}

    def create_app(engine, settings, newer, **further):
        assert newer() is None  # the folder is as it was
        return told.update(settings=settings, **further)

    service = SimpleNamespace(
        Settings=lambda **given: given,
        read_queries=lambda path: path.read_text().split("\n"),
        create_app=create_app,
        run=lambda app, host, port: told.update(host=host, port=port),
    )
    engine = SimpleNamespace(load=lambda folder: SimpleNamespace(shadow=None))
    for name, module in {"service": service, "search": engine}.items():
        monkeypatch.setitem(sys.modules, f"ecomkd.{name}", module)
        monkeypatch.setattr(ecomkd, name, module, raising=False)
    return told


def test_serve_hands_on_what_it_was_told(tmp_path, capsys, served):
    (tmp_path / "queries.txt").write_text("mug\nlamp")
    assert tried(["serve", tmp_path], capsys) == (0, "", "")
    settings = {"trusted_proxies": (), "allowed_hosts": ()}
    assert served == {
        "settings": settings, "name": tmp_path.name, "reference": None,
        "host": "127.0.0.1", "port": 8000,
    }  # fmt: skip
    options = "--proxy 10.0.0.1 --proxy 10.1.0.0/16 --allowed-host a.example --workers 2 --rate 0"
    options += f" --timeout 1.5 --host ::1 --port 0 --reference {tmp_path}/queries.txt"
    assert tried(["serve", tmp_path, *options.split()], capsys) == (0, "", "")
    assert served == {
        "settings": {
            "workers": 2, "timeout": 1.5, "rate": 0,
            "trusted_proxies": ("10.0.0.1", "10.1.0.0/16"), "allowed_hosts": ("a.example",),
        },
        "name": tmp_path.name, "reference": ["mug", "lamp"], "host": "::1", "port": 0,
    }  # fmt: skip


def test_a_shadow_needs_a_teacher(tmp_path, capsys, served):
    assert tried(["serve", tmp_path, "--shadow", "0.5"], capsys) == (
        1,
        "",
        f"ecomkd: {tmp_path} holds no teacher to compare with: leave out --shadow, or write the "
        "folder with `ecomkd index --with-teacher`.\n",
    )
    assert served == {}


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
    assert list(rows) == list(tables.SYSTEMS)
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
