"""Vectors of a frozen encoder: pooling in closed form, one vector a text, kept and verified."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecomkd import features, models
from ecomkd.config import Profile

TEXTS = ["couch cover", "Stretch Sofa Slipcover, Blue, for three seats", "desk lamp"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Profile:
    folder = tmp_path_factory.mktemp("features")
    return Profile.named("smoke", device="cpu", precision="fp32", artifacts=folder)


STATES = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 1, 0]])


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.0, -3.0]), ("cls", [1.0, -4.0]), ("max", [3.0, -2.0])]
)
def test_pooling_leaves_padding_out(pooling, expected):
    found = features.pool(STATES, MASK, pooling)
    assert found.tolist() == [expected]
    nan = STATES.masked_fill(~MASK.bool()[..., None], torch.nan)
    assert torch.equal(features.pool(nan, MASK, pooling), found)


def test_an_unknown_pooling_is_named(profile):
    wanted = "Unknown pooling 'sum': choose one of mean, cls, max."
    with pytest.raises(ValueError, match=wanted):
        features.pool(STATES, MASK, "sum")
    with pytest.raises(ValueError, match=wanted):
        features.layers(TEXTS, profile, pooling="sum")


def test_no_text_is_an_error(profile):
    with pytest.raises(ValueError, match="layers: there is no text to encode"):
        features.layers([], profile)


def test_the_last_layer_is_what_the_sentence_encoder_gives(profile):
    found = features.layers(TEXTS, profile)
    assert found.shape == (7, 3, 384)
    assert found.dtype == np.float32
    last = found[-1] / np.linalg.norm(found[-1], axis=1, keepdims=True)
    assert np.allclose(last, features.embed(TEXTS, profile), atol=1e-5)


def test_layer_0_is_the_embedding_layer(profile):
    tokenizer = models.load_tokenizer("minilm")
    encoder = models.build_teacher("minilm", ("a", "b")).base_model.eval()
    batch = tokenizer([TEXTS[0]], return_tensors="pt")
    with torch.no_grad():
        wanted = encoder.embeddings(batch["input_ids"], batch["token_type_ids"]).mean(dim=1)
    assert np.allclose(features.layers(TEXTS, profile)[0, 0], wanted[0].numpy(), atol=1e-5)


def test_the_order_of_the_texts_and_the_batch_change_nothing(profile):
    found = features.layers(TEXTS, profile)
    turned = features.layers(TEXTS[::-1], replace(profile, batch_size=1))
    assert np.allclose(found, turned[:, ::-1], atol=1e-5)


def test_a_text_longer_than_the_encoder_reads_is_cut(profile):
    long = features.layers(["lamp " * 1000, "lamp " * 2000], profile)
    assert np.isfinite(long).all()
    assert np.allclose(long[:, 0], long[:, 1], atol=1e-5)


def test_vectors_are_kept_by_text_and_pooling(profile, tmp_path, monkeypatch):
    apart = replace(profile, artifacts=tmp_path)
    first = features.layers(TEXTS, apart)
    features.layers(TEXTS, apart, pooling="max")
    features.layers(TEXTS[:2], apart)
    assert len(list(tmp_path.glob("features-*"))) == 3
    monkeypatch.setattr(models, "build_teacher", None)  # read back, not computed
    assert np.array_equal(features.layers(TEXTS, apart), first)


def test_the_last_layer_alone_is_the_last_of_all(tmp_path):
    profile = replace(Profile.named("smoke"), artifacts=tmp_path)
    wanted = features.layers(TEXTS, profile)[-1]
    found = features.last_layer(TEXTS, profile)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="last_layer: there is no text"):
        features.last_layer([], profile)
