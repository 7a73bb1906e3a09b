"""What a key is made of: data, settings, and checkpoints by their content."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from datasets import ClassLabel

from ecomkd import checkpoints, features, keys, models
from ecomkd.config import PACKAGED
from ecomkd.data.schema import TEXT
from ecomkd.relevance import adapt, stages


@pytest.fixture
def folder(tmp_path):
    return tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "teacher")


@pytest.fixture
def profile(tmp_path, folder):
    return tiny_models.profile(
        tmp_path / "artifacts", teacher=str(folder), warm_up_pairs=16, student_layers=(0,)
    )


def test_a_model_is_its_weights_shape_and_tokenizer(tmp_path, folder):
    names = [name for name, _ in keys.identity(folder)]
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    again = tiny_models.save(tiny_models.bert(layers=2, seed=1), tmp_path / "other name")
    (again / "training.json").write_text("[]")
    assert keys.identity(again) == keys.identity(folder)
    (again / "vocab.txt").write_text("red\nblue")
    assert keys.identity(again) != keys.identity(folder)


def test_a_name_stands_for_itself_and_a_folder_for_its_content(tmp_path, folder, monkeypatch):
    assert keys.known_as("minilm") == "minilm"
    assert keys.known_as(str(folder)) == keys.identity(folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()  # The packaged one is loaded, whatever lies here.
    (tmp_path / "minilm" / "config.json").write_text("{}")
    assert keys.known_as("minilm") == "minilm"
    assert {*models._BUNDLED, *checkpoints.OPTIONAL, "smollm2"} == PACKAGED


def test_the_modules_below_a_sentence_encoder_make_it_another(tmp_path, folder):
    alone = keys.identity(folder)
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    for mean in ({"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True, "word": 3}):
        pooling.write_text(json.dumps(mean))
        assert keys.identity(folder) == alone
    pooling.write_text('{"pooling_mode": "cls"}')
    assert [name for name, _ in keys.identity(folder)[len(alone) :]] == ["1_Pooling/config.json"]
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    assert keys.identity(folder)[-1][0] == "2_Dense/model.safetensors"


def test_settings_hold_neither_hardware_nor_versions(profile):
    assert keys.settings_of(profile, "alpha") == {
        "seed": 900,
        "batch_size": 8,
        "max_length": 32,
        "alpha": profile.alpha,
    }
    here = keys.settings_of(profile, "teacher")
    assert here == keys.settings_of(replace(profile, device="mps", precision="fp16"), "teacher")


def test_class_numbers_of_other_labels_are_other_pairs():
    """0 is the best of ESCI's labels and the worst of the grades."""
    pairs = tiny_models.pairs(8)
    grades = pairs.cast_column("label", ClassLabel(names=list("0123")))
    assert pairs["label"] == grades["label"]
    assert keys.digests(pairs) == keys.digests(pairs) != keys.digests(grades)


def test_a_teacher_that_is_retrained_in_its_folder_is_another_teacher(
    folder, profile, monkeypatch, tmp_path
):
    parts: dict[str, list] = {}

    def noted(name, given, make, root, recipe=1):
        parts.setdefault(name, []).append(json.dumps(given))
        return tmp_path / name

    for module in (stages, adapt, features):
        monkeypatch.setattr(module, "stage", noted)
    monkeypatch.setattr(np, "load", lambda path: None)
    data = tiny_models.shop()
    rows = {name: ["red shoe"] * 12 for name in TEXT} | {"product_id": list("abcdefghijkl")}
    catalogue = features.Dataset.from_dict(rows)

    def ask():
        stages.warm_up(data, profile)
        stages.teacher(data, profile, pretrained=False)
        stages.student(data, profile, "none", teacher_folder=folder)
        adapt.low_rank(data, profile)
        adapt.domain_adapted(catalogue, profile)
        features.layers(["red shoe"], profile, str(folder))

    ask()
    first = {name: list(given) for name, given in parts.items()}
    assert set(first) == {"warmed", "teacher", "student", "low_rank", "adapted", "features"}
    parts.clear()
    ask()
    assert parts == first
    parts.clear()
    with torch.no_grad():
        model = models.load(folder)
        model.classifier.weight += 1
    model.save_pretrained(folder)
    ask()
    for name, given in parts.items():
        assert given[-1] != first[name][-1], name
    assert str(folder) not in json.dumps(first)


def test_a_batch_more_for_what_is_left(profile):
    assert [keys.batches(pairs, profile) for pairs in (0, 1, 8, 9)] == [0, 1, 1, 2]
