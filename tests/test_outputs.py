"""Folders that a command writes: nothing of a user's is deleted, and damage is named."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from ecomkd import outputs


def written(folder, kind="index", **files):
    with outputs.replaced(folder, kind) as working:
        for name, text in files.items():
            (working / name).write_text(text)
    return folder


def test_a_new_or_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/new"):
        assert outputs.claim(tmp_path / name, "index") == tmp_path / name
        written(tmp_path / name, a="1")
        assert (tmp_path / name / "a").read_text() == "1"


def test_a_folder_of_its_own_is_replaced_whole(tmp_path):
    out = written(tmp_path / "out", a="1", b="2")
    written(out, a="3")
    assert (out / "a").read_text() == "3"
    assert sorted(path.name for path in out.iterdir()) == ["a", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out"]


@pytest.mark.parametrize("place", ["notes.txt", "a/notes.txt"])
def test_a_strangers_file_is_refused_and_stays(tmp_path, place):
    out = written(tmp_path / "out", b="1")
    (out / place).parent.mkdir(exist_ok=True)
    (out / place).write_text("only copy")
    with pytest.raises(FileExistsError, match=f"did not write {place}, and deletes nothing"):
        outputs.claim(out, "index")
    with pytest.raises(FileExistsError), outputs.replaced(out, "index"):
        pytest.fail("the work had begun")
    assert (out / place).read_text() == "only copy"


def test_a_strangers_file_that_comes_during_the_work_stays(tmp_path):
    out = written(tmp_path / "out", b="1")
    with (
        pytest.raises(FileExistsError, match=r"notes\.txt"),
        outputs.replaced(out, "index") as working,
    ):
        (working / "b").write_text("2")
        (out / "notes.txt").write_text("only copy")
    assert (out / "notes.txt").read_text() == "only copy"
    assert (out / "b").read_text() == "1"


def test_a_folder_of_another_kind_a_file_and_where_one_stands_are_refused(tmp_path, monkeypatch):
    out = written(tmp_path / "out", a="1")
    with pytest.raises(FileExistsError, match="`ecomkd run` did not write a"):
        outputs.claim(out, "run")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="a file of this name"):
        outputs.claim(tmp_path / "file", "run")
    monkeypatch.chdir(tmp_path)
    for place in (".", ".."):
        with pytest.raises(FileExistsError, match="folder that you work in"):
            outputs.claim(place, "run")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    out = written(tmp_path / "out", a="1")
    (out / "private").mkdir()
    scan = os.scandir

    def scandir(path="."):
        if os.fspath(path).endswith("private"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="private"):
        outputs.claim(out, "index")


def test_a_large_folder_is_refused_at_its_first_file(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "home" / name).mkdir(parents=True)
        (tmp_path / "home" / name / "file").write_text("mine")
    listed, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scan(path))
    with pytest.raises(FileExistsError, match="did not write a/file"):
        outputs.claim(tmp_path / "home", "index")
    assert len(listed) == 2


def test_a_place_that_cannot_be_written_is_refused():
    with pytest.raises(PermissionError, match="nothing can be written there"):
        outputs.claim("/proc/here", "run")


def test_what_a_link_points_to_is_replaced(tmp_path):
    out = written(tmp_path / "release", a="1")
    os.symlink("release", tmp_path / "current")
    written(tmp_path / "current", a="2")
    assert (tmp_path / "current").is_symlink()
    assert (out / "a").read_text() == "2"


def test_where_the_work_fails_the_old_folder_stays(tmp_path):
    out = written(tmp_path / "out", a="1")
    with pytest.raises(RuntimeError), outputs.replaced(out, "index") as working:
        (working / "a").write_text("2")
        raise RuntimeError
    assert (out / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".out.lock"] == ["out"]


def test_where_the_swap_fails_the_old_folder_stays(tmp_path, monkeypatch):
    out, replace = written(tmp_path / "out", a="1"), os.replace

    def failing(source, target):
        if source.name == "new":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(outputs.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        written(out, a="2")
    assert (out / "a").read_text() == "1"


def test_what_is_read_while_another_folder_comes_is_read_again(tmp_path):
    out, closed, seen = written(tmp_path / "out", a="1"), [], []

    class Read(str):
        def close(self):
            closed.append(str(self))

    def load(folder):
        seen.append((folder / "a").read_text())
        if len(seen) < 3:
            written(out, a=str(len(seen) + 1))
        if len(seen) == 2:
            raise ValueError("has changed since it was written")
        return Read(seen[-1])

    assert outputs.whole(out, load) == "3"
    assert (seen, closed) == (["1", "2", "3"], ["1"])

    def damaged(folder):
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        outputs.whole(out, damaged)


def test_a_full_disk_is_told_with_the_folder(tmp_path):
    with pytest.raises(OSError, match="out") as caught, outputs.replaced(tmp_path / "out", "shop"):
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert caught.value.filename == str(tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the folder that one works in")
def test_a_working_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match="out: the folder that you work in is no longer there"):
        outputs.claim("out", "shop")


def test_files_are_noted_one_by_one_and_old_ones_pruned(tmp_path):
    (tmp_path / "old").write_text("1")
    (tmp_path / "new").write_text("2")
    outputs.add(tmp_path, "run", ["old"])
    outputs.add(tmp_path, "run", ["new"])
    assert list(outputs.check(tmp_path, "run")["files"]) == ["new", "old"]
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".old.4711").write_text("half")  # of a run that was killed
    outputs.prune(tmp_path, "run", ["new"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "new", "notes.txt"]
    assert list(outputs.check(tmp_path, "run")["files"]) == ["new"]


def test_what_a_killed_run_left_is_its_own(tmp_path):
    outputs.expect(tmp_path, "run", ["seed-1.json", "student/labels.json"])
    (tmp_path / "student").mkdir()
    for name in ("seed-1.json", ".seed-1.json.4711", "student/.labels.json.12"):
        (tmp_path / name).write_text("half")
    assert outputs.claim(tmp_path, "run") == tmp_path
    with pytest.raises(ValueError, match=r"seed-1\.json: has changed"):
        outputs.check(tmp_path, "run")
    outputs.add(tmp_path, "run", ["seed-1.json"])
    outputs.expect(tmp_path, "run", ["seed-1.json"])
    assert outputs.read(tmp_path, "run")["files"]["seed-1.json"][0] == 4
    (tmp_path / ".notes.4711").write_text("mine")
    with pytest.raises(FileExistsError, match=r"did not write \.notes\.4711"):
        outputs.claim(tmp_path, "run")


def test_a_missing_or_changed_file_is_named(tmp_path):
    out = written(tmp_path / "out", a="1", b="2")
    assert outputs.check(out, "index")["kind"] == "index"
    (out / "b").write_text("3")
    with pytest.raises(ValueError, match=r"out/b: has changed since it was written"):
        outputs.check(out, "index")
    (out / "b").unlink()
    with pytest.raises(ValueError, match=r"out/b: is missing"):
        outputs.check(out, "index")


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"kind": "index", "version": "1", "files": {"a": 3}}', "[" * 100_000],
)
def test_a_damaged_manifest_is_named(tmp_path, text):
    out = written(tmp_path / "out", a="1")
    (out / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: damaged"):
        outputs.read(out, "index")
    with pytest.raises(FileExistsError):
        outputs.claim(out, "index")


def test_a_folder_without_a_manifest_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json in it"):
        outputs.read(tmp_path, "index")
    (tmp_path / "manifest.json").write_text(
        json.dumps({"kind": "run", "version": "1", "files": {}})
    )
    with pytest.raises(ValueError, match="`ecomkd run` wrote this folder"):
        outputs.read(tmp_path, "index")


def test_a_mounted_volume_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fspath(path).endswith("volume"))
    with pytest.raises(OSError, match=r"mounted there, .* give a folder inside it"):
        outputs.claim(tmp_path / "volume", "index")
    for kind in ("run", "score"):  # which write into the folder that is there
        assert outputs.claim(tmp_path / "volume", kind) == tmp_path / "volume"
    assert outputs.claim(tmp_path / "volume" / "search", "index")


def test_a_folder_that_cannot_be_renamed_is_replaced_too(tmp_path, monkeypatch):
    out, replace = written(tmp_path / "out", a="1"), os.replace

    def crossing(source, target):
        if Path(source).name == "out":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(outputs.os, "replace", crossing)
    written(out, a="2")
    assert (out / "a").read_text() == "2"
    assert outputs.check(out, "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out"]


def test_a_run_needs_its_own_folder_alone(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    made = tempfile.TemporaryDirectory

    def read_only(dir, prefix):
        if dir == tmp_path:
            raise OSError(30, "Read-only file system")
        return made(dir=dir, prefix=prefix)

    monkeypatch.setattr(outputs.tempfile, "TemporaryDirectory", read_only)
    assert outputs.claim(tmp_path / "out", "run") == tmp_path / "out"
    for kind, name, where in (("run", "new", "there"), ("index", "out", "beside it")):
        with pytest.raises(PermissionError, match=rf"written {where} \(Read-only file system"):
            outputs.claim(tmp_path / name, kind)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="the name is not UTF-8; give another name"):
        outputs.claim(tmp_path / os.fsdecode(b"m\xf6bel"), "index")
    (tmp_path / os.fsdecode(b"m\xf6bel")).mkdir()
    monkeypatch.chdir(tmp_path / os.fsdecode(b"m\xf6bel"))
    with pytest.raises(OSError, match="the name is not UTF-8; give another name"):
        outputs.claim("out", "index")
