"""A frozen encoder as a maker of features: a vector for each text, from each of its layers.

Chapters 1, 6, 8, 10, 11 and 14.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ecomkd.extras import needed

with needed("ecomkd.features", "run"):
    import torch
    from safetensors.numpy import load_file, save_file
    from sentence_transformers import SentenceTransformer

from ecomkd import keys, models, runtime
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.sources import product_text

POOLINGS = ("mean", "cls", "max")
_MAX_TOKENS = 256
PART = 4_096
"""Texts of a catalogue that are encoded at a time."""

Encode = Callable[[Sequence[str]], np.ndarray]
"""From N texts to vectors (N, H)."""
Vectors = Callable[[Callable[[], Encode], Iterable[Sequence[str]], Path], Iterable[np.ndarray]]
"""What `in_turn` is: who computes the vectors of a catalogue, part by part."""


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str = "mean") -> torch.Tensor:
    """One vector (B, H) for each text from the states (B, L, H) of its tokens.

    `mask` (B, L) is 1 on tokens and 0 on padding. `mean` and `max` leave padding out; `cls` takes
    the first token. (Reimers & Gurevych 2019, section 3.) Raises ValueError for another name.
    """
    _check(pooling)
    if pooling == "cls":
        return states[:, 0]
    there = mask.bool().unsqueeze(-1)
    if pooling == "max":
        return states.masked_fill(~there, -torch.inf).amax(dim=1)
    return states.masked_fill(~there, 0).sum(dim=1) / there.sum(dim=1)


def layers(
    texts: Sequence[str], profile: Profile, name: str = "minilm", pooling: str = "mean"
) -> np.ndarray:
    """Vectors (K + 1, N, H), float32, of N texts under an encoder of K layers that is not trained.

    Index 0 is the embedding layer, index k the output of layer k, each pooled over the tokens of a
    text (see `pool`). Texts are cut at 256 tokens. Computed once, then read from the artifact
    folder; what is kept is keyed by the texts, the pooling, and the checkpoint: of a folder, its
    content.

    Raises ValueError for an unknown pooling or for no text, ModelError for an unknown checkpoint.
    """
    if not len(texts):
        raise ValueError("layers: there is no text to encode.")
    _check(pooling)

    def make(folder: Path) -> None:
        np.save(folder / "vectors.npy", _encode(list(texts), profile, name, pooling))

    parts = [list(texts), keys.known_as(name), pooling]
    return np.load(stage("features", parts, make, profile.artifacts, recipe=1) / "vectors.npy")


def last_layer(
    texts: Sequence[str], profile: Profile, name: str = "minilm", pooling: str = "mean"
) -> np.ndarray:
    """Vectors (N, H), float32, of N texts: the last of `layers`, without the others.

    Computed once, then read from the artifact folder. Where they are recorded they have eight bits
    each. Raises as `layers` does.
    """
    if not len(texts):
        raise ValueError("last_layer: there is no text to encode.")
    _check(pooling)

    def make(folder: Path) -> None:
        vectors = _encode(list(texts), profile, name, pooling, last=True)[0]
        save_file({"vectors": vectors}, folder / "vectors.safetensors")

    parts = [list(texts), keys.known_as(name), pooling]
    folder = stage("text_vectors", parts, make, profile.artifacts, recipe=1)
    return load_file(folder / "vectors.safetensors")["vectors"]


def embed(
    texts: Sequence[str], profile: Profile, name: str = "minilm", role: str = "document"
) -> np.ndarray:
    """Unit vectors (N, H) of texts under a pretrained sentence encoder, untrained here.

    `name` is one of the book's (`minilm`, `mpnet`, `e5-multilingual`) or a folder of
    sentence-transformers. `role` says what the texts are, `query` or `document`: an encoder that
    was trained with another word before each, as E5 was, gets that word. A text that stands twice
    is encoded once.

    Raises ModelError for a checkpoint that is not installed.
    """
    return embedder(profile, name, role)(texts)


def embedder(profile: Profile, name: str = "minilm", role: str = "document") -> Encode:
    """The function from texts to vectors that `embed` calls, with its encoder loaded."""
    source = models.checkpoint(name)
    with runtime.quiet():
        encoder = SentenceTransformer(
            source, device=str(runtime.device(profile)), local_files_only=True
        )
    return partial(
        encode,
        encoder,
        batch_size=profile.batch_size,
        normalize_embeddings=True,
        prompt=encoder.prompts.get(role) or None,
    )


def encode(encoder: SentenceTransformer, texts: Sequence[str], **options: Any) -> np.ndarray:
    """Vectors (N, H) of texts, each encoded once however often it stands there.

    `options` go to `SentenceTransformer.encode`.
    """
    distinct = list(dict.fromkeys(texts))
    vectors = encoder.encode(distinct, show_progress_bar=False, **options)
    row = {text: index for index, text in enumerate(distinct)}
    return vectors[[row[text] for text in texts]]


def in_turn(
    load: Callable[[], Encode], parts: Iterable[Sequence[str]], scratch: Path
) -> Iterator[np.ndarray]:
    """Vectors (_, H) of each part of texts, one part after the other, in this process.

    `load` gives the function that encodes; it is a function of a module, or a `partial` of one, so
    that another process could call it. `scratch` is where others keep unfinished work; what they
    left there is not needed, and is deleted.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    yield from map(load(), parts)


def all_vectors(
    load: Callable[[], Encode], texts: Sequence[str], scratch: Path, vectors_of: Vectors
) -> np.ndarray:
    """Vectors (N, H) of N texts, of which `vectors_of` gets `PART` at a time.

    Each part is encoded by itself, so that it does not matter who encodes it.
    """
    parts = (texts[start : start + PART] for start in range(0, len(texts), PART))
    return np.concatenate(list(vectors_of(load, parts, scratch)))


def bi_encoder_scores(pairs: Dataset, profile: Profile, name: str = "minilm") -> np.ndarray:
    """Cosine between query and product under a pretrained sentence encoder, untrained, (N,).

    `name` as in `embed`.
    """
    query = embed(pairs["query"], profile, name, "query")
    product = embed(product_text(pairs[:]), profile, name)
    return (query * product).sum(axis=1)


def _check(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise ValueError(f"Unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}.")


def _encode(
    texts: list[str], profile: Profile, name: str, pooling: str, last: bool = False
) -> np.ndarray:
    tokenizer = models.load_tokenizer(name)
    # The encoder alone is used, without the head that comes on top of it.
    encoder: Any = models.build_teacher(name, ("unused",)).base_model
    encoder = encoder.eval().to(runtime.device(profile))
    cut = {"truncation": True, "max_length": _MAX_TOKENS}
    order = np.argsort([len(ids) for ids in tokenizer(texts, **cut)["input_ids"]], kind="stable")
    count = 1 if last else encoder.config.num_hidden_layers + 1
    found = np.empty((count, len(texts), encoder.config.hidden_size), np.float32)
    for start in range(0, len(order), profile.batch_size):
        rows = order[start : start + profile.batch_size]
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt", **cut)
        batch = batch.to(encoder.device)
        with torch.inference_mode(), runtime.autocast(profile):
            states = encoder(**batch, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states[-count:]):
            found[layer, rows] = pool(state.float(), batch["attention_mask"], pooling).cpu().numpy()
    return found
