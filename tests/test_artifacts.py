"""Artefacts: made once, verified once a process, made again when damaged, told in one sentence."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors import SafetensorError

from ecomkd import artifacts
from ecomkd.artifacts import digest, stage, write_text

ROOT = Path(__file__).resolve().parent.parent


def thing(folder: Path) -> None:
    (folder / "file").write_text("whole")


@pytest.fixture
def another_process():
    """A function after which nothing counts as hashed, as in a process that has just begun."""
    return artifacts._DIGESTS.clear


def test_a_damaged_artefact_is_made_again_with_a_warning(tmp_path, another_process):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "file").write_text("whole")

    folder = stage("thing", [1], make, tmp_path)
    assert stage("thing", [1], make, tmp_path) == folder
    assert len(calls) == 1
    assert stage("thing", [2], make, tmp_path) != folder
    manifest = folder / "manifest.json"
    for damage, fault in (
        (lambda: (folder / "file").write_text("whale"), "file has changed since it was written"),
        (lambda: (folder / "file").unlink(), "file is missing"),
        (lambda: manifest.unlink(), "manifest.json is missing"),
        (lambda: manifest.write_text(""), "manifest.json is damaged"),
        (lambda: manifest.write_text("[]"), "manifest.json is damaged"),
        (lambda: manifest.write_text("null"), "manifest.json is damaged"),
        (lambda: manifest.write_text('{"file": 5}'), "manifest.json is damaged"),
        (lambda: manifest.write_bytes(b"\xff\x00"), "manifest.json is damaged"),
        (lambda: manifest.write_text("[" * 100_000), "manifest.json is damaged"),
        (lambda: manifest.unlink() or manifest.mkdir(), "manifest.json is damaged"),
        (lambda: shutil.rmtree(folder) or folder.touch(), "a file stands in its place"),
    ):
        damage()
        another_process()
        with pytest.warns(UserWarning) as caught:
            stage("thing", [1], make, tmp_path)
        assert str(caught[0].message) == f"{folder}: {fault}; it is made again."
        assert (folder / "file").read_text() == "whole"
        assert set(json.loads(manifest.read_text())) == {"file"}
    assert len(calls) == 13


def test_a_killed_make_goes_on_in_the_same_working_folder(tmp_path):
    def make(folder):
        done = folder / "first"
        if not done.exists():
            done.write_text("made before the kill")
            raise KeyboardInterrupt
        (folder / "second").write_text("made after it")

    with pytest.raises(KeyboardInterrupt):
        stage("thing", [1], make, tmp_path)
    assert not list(tmp_path.glob("thing-*"))
    folder = stage("thing", [1], make, tmp_path)
    assert (folder / "first").read_text() == "made before the kill"
    assert (folder / "second").exists()


def test_a_recipe_is_part_of_the_key(tmp_path):
    first = stage("thing", [1], thing, tmp_path)
    assert stage("thing", [1], thing, tmp_path, recipe=1) == first
    assert stage("thing", [1], thing, tmp_path, recipe=2) != first


KINDS = {"function": thing, "class": Path, "module": json, "path": Path("x"), "set": {1}}


@pytest.mark.parametrize("part", KINDS.values(), ids=KINDS)
def test_a_key_takes_plain_values_alone(part):
    """A function or a module stood for its source text once, which no key holds any more."""
    with pytest.raises(TypeError, match="Cannot take a digest of"):
        artifacts.digest("thing", [part])


def test_a_dataclass_stands_for_its_fields():
    @dataclass
    class Pair:
        query: str
        grades: tuple

    assert artifacts.digest(Pair("a", (1, 2))) == artifacts.digest({"query": "a", "grades": [1, 2]})


# Hashed once a process ----------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are read to be hashed, in order."""
    names = []
    whole = artifacts.file_digest
    monkeypatch.setattr(
        artifacts, "file_digest", lambda path: names.append(Path(path).name) or whole(path)
    )
    return names


def test_an_artefact_is_hashed_once_a_process(tmp_path, hashed, another_process):
    folder = stage("thing", [1], thing, tmp_path)
    assert hashed == ["file"]  # when it was made
    for _ in range(3):
        stage("thing", [1], thing, tmp_path)
        artifacts.known_digest(folder / "file")
    assert hashed == ["file"]
    another_process()
    for _ in range(3):
        stage("thing", [1], thing, tmp_path)
    assert hashed == ["file", "file"]


def test_a_file_that_is_written_again_is_hashed_again(tmp_path, hashed):
    path = tmp_path / "weights"
    path.write_text("one")
    first = artifacts.known_digest(path)
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert artifacts.known_digest(path) != first
    assert artifacts.known_digest(path) == artifacts.file_digest(path)
    assert hashed == ["weights"] * 3


# The disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
        OSError("4096 requested and 120 written"),
        RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed "
                     "writing file data/3: file write failed"),
    ],
    ids=["system", "safetensors", "numpy", "torch"],
)  # fmt: skip
def test_a_full_disk(tmp_path, error):
    def make(folder):
        raise error

    with pytest.raises(OSError) as told:
        stage("thing", [1], make, tmp_path)
    assert told.value.errno == errno.ENOSPC
    (name,) = [path.name[1:].removesuffix(".partial") for path in tmp_path.glob("*.partial")]
    assert told.value.strerror == (
        f"No space left while writing {tmp_path / name}: free some, or set ECOMKD_ARTIFACTS to a "
        "folder on another disk; a run that is started again resumes"
    )


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_all_artefacts_is_named(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="is no folder, and cannot become one: set ECOMKD_ARTIFACTS"):
        stage("thing", [1], thing, tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_any_other_error_stays_what_it_is(tmp_path):
    for fault in (OSError(errno.EIO, "I/O error"), RuntimeError("CUDA"), PermissionError(13, "no")):

        def make(folder, fault=fault):
            raise fault

        with pytest.raises(type(fault)) as told:
            stage("thing", [1], make, tmp_path)
        assert told.value is fault


_LIMITED = """
import resource, signal, sys
import torch
from safetensors.torch import save_file
from ecomkd.artifacts import stage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    stage("thing", [1], lambda folder: save_file({"a": torch.zeros(99_999)}, folder / "w"), ".")
except OSError as error:
    print(error.errno, error.strerror)
"""


def test_a_file_larger_than_the_system_allows(tmp_path):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    (folder,) = [path.name[1:].removesuffix(".partial") for path in tmp_path.glob("*.partial")]
    assert done.stdout.strip() == (
        f"{errno.EFBIG} A file of this size may not be written in {folder}: raise the limit "
        "(ulimit -f unlimited), or set ECOMKD_ARTIFACTS to a folder on another disk; a run that "
        "is started again resumes"
    )


class Forbidden:
    """Stands in for a file system that is read-only, which not even root can write to."""

    def __init__(self, path):
        self.path = str(path)

    def acquire(self, timeout=None):
        raise OSError(errno.EROFS, "Read-only file system", self.path)


def test_a_whole_artefact_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    folder = stage("thing", [1], thing, tmp_path)
    monkeypatch.setattr(artifacts, "FileLock", Forbidden)
    artifacts._DIGESTS.clear()
    assert stage("thing", [1], None, tmp_path) == folder
    with pytest.raises(OSError) as told:
        stage("thing", [2], thing, tmp_path)
    assert told.value.errno == errno.EROFS
    assert told.value.strerror == (
        f"Nothing can be written to {tmp_path}: allow it, or set ECOMKD_ARTIFACTS to a folder that "
        "you can write to"
    )


def test_a_process_that_waits_for_another_says_so(tmp_path, monkeypatch):
    folder = stage("thing", [1], thing, tmp_path)
    (folder / "file").unlink()
    monkeypatch.setattr(artifacts, "_SILENT_S", 0.05)
    held, said, warn = threading.Event(), threading.Event(), warnings.warn

    def other():
        with FileLock(tmp_path / f".{folder.name}.lock"):
            held.set()
            said.wait(60)

    def watched(*sentence, **options):
        warn(*sentence, **options)
        said.set()

    monkeypatch.setattr(artifacts.warnings, "warn", watched)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    with pytest.warns(UserWarning) as caught:
        assert stage("thing", [1], thing, tmp_path) == folder
    thread.join()
    assert [str(warning.message) for warning in caught] == [
        f"{folder}: another process is making it; this one waits until it is done.",
        f"{folder}: file is missing; it is made again.",
    ]


def test_a_text_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: done.append("replace") or replace(a, b))
    write_text(tmp_path / "deep" / "text", "grüße")
    assert done == ["fsync", "replace"]
    assert (tmp_path / "deep" / "text").read_text("utf-8") == "grüße"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["text"]


def test_a_text_that_cannot_be_written_leaves_the_old_one_alone(tmp_path, monkeypatch):
    write_text(tmp_path / "text", "old")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "text", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "old"


def test_the_manifest_of_a_killed_run_is_no_file_of_the_artefact(tmp_path):
    """A run may be killed after it has written the manifest, and before the rename."""
    key = f"thing-{digest('thing', 1, 1)}"
    working = tmp_path / f".{key}.partial"
    working.mkdir()
    (working / "manifest.json").write_text("{}")
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text("whole")

    assert stage("thing", [1], make, tmp_path) == tmp_path / key
    artifacts._DIGESTS.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage("thing", [1], make, tmp_path)
    assert len(made) == 1


def test_a_forbidden_folder_above_that_of_artefacts_is_told_of_too(tmp_path, monkeypatch):
    root = tmp_path / "shared" / "mine"

    def mkdir(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "shared"))

    with monkeypatch.context() as patch, pytest.raises(OSError) as told:
        patch.setattr(artifacts.Path, "mkdir", mkdir)
        stage("thing", [1], lambda folder: None, root)
    assert told.value.strerror == (
        f"Nothing can be written to {root}: allow it, or set ECOMKD_ARTIFACTS to a folder that you "
        "can write to"
    )
