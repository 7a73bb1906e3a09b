"""Encoders for search, distilled: bi-encoders and a static student.

What is compared here are all products of a catalogue: memory grows with their number. Chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from sklearn.decomposition import PCA
from transformers import PreTrainedTokenizerBase

from ecomkd import features, keys, losses, models
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance import bi_encoders, stages
from ecomkd.relevance.bi_encoders import PRETRAINED, encoder
from ecomkd.search.unjudged import NEAREST, told

BI_ENCODERS = ("labels", "told", "distilled")
"""What a bi-encoder learns from: the judged pairs, these beside pairs that the teacher labels, or
first as "told" and then from the judged pairs alone."""

_WIDTH = 96
"""Numbers in the vector of a token of a static student."""
_TEMPERATURE = 0.05
"""Temperature of the softmax over a catalogue's cosines that a static student is to imitate."""
_PASSES = 8
"""Passes over all queries in which a static student learns."""
_SHOWN = 4_096
"""The most products that a static student sees in a step. Of a larger catalogue so many are drawn
at random, and the nearest of each query join them."""


def bi_encoder(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    row: str = "distilled",
    teacher_folder: Path | None = None,
    unlabelled: int | None = None,
    outputs_of: stages.Outputs | None = None,
) -> Path:
    """The folder of a bi-encoder that starts from the pretrained one and learns as `row` says.

    All rows (see `BI_ENCODERS`) learn by contrast (`bi_encoders.contrastive`; Henderson et al.
    2017), and differ in steps. "labels" takes `profile.teacher_epochs` passes over the judged pairs
    and chooses its rate. "told" takes `profile.student_epochs` passes over these and the pairs of
    `unjudged.told`, at the higher of the rates. "distilled" goes on from there, at the same rate,
    with `profile.teacher_epochs` passes over the judged pairs, which err less than the teacher.

    Where there is nothing to learn from, or no validation query with a relevant product to choose
    by, a warning says so and the encoder stays as it was.

    Args:
        data: `train` and `validation`, and `unlabelled` unless the row is "labels".
        catalogue: all products, from which further pairs are mined.
        row: one of `BI_ENCODERS`.
        teacher_folder: the model that labels; `stages.teacher` trains one where none is given.
        unlabelled: how many of the pairs without a label are told, the first ones; all by default.
        outputs_of: computes the teacher's outputs, as `stages.student` has it.

    Raises ValueError for an unknown row.
    """
    if row not in BI_ENCODERS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(BI_ENCODERS)}.")
    if row == "labels":
        return bi_encoders.contrastive(data, profile)
    if teacher_folder is None:
        teacher_folder = stages.teacher(data, profile)
    given = teacher_folder, unlabelled, outputs_of
    rates = bi_encoders.RATES[-1:]
    if row == "told":
        further = told(data, catalogue, profile, *given)
        return bi_encoders.contrastive(data, profile, further, profile.student_epochs, rates)
    start = bi_encoder(data, catalogue, profile, "told", *given)
    if not bi_encoders.has_learnt(start):
        return bi_encoders.contrastive(data, profile, rates=rates)
    return bi_encoders.contrastive(data, profile, rates=rates, start=start)


def _catalogues(
    folder: Path, profile: Profile, scratch: Path, vectors_of: features.Vectors
) -> features.Encode:
    """What the bi-encoder in a folder makes of all texts of a catalogue."""
    load = partial(_loaded, folder.resolve(), profile)
    return partial(features.all_vectors, load, scratch=scratch, vectors_of=vectors_of)


def _loaded(folder: Path, profile: Profile) -> features.Encode:
    """What it makes of texts, in the process that calls this."""
    return partial(features.encode, encoder(folder, profile))


def static_encoder(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    teacher_folder: Path,
    vectors_of: features.Vectors = features.in_turn,
) -> Path:
    """The folder of a static student: a vector for each token, a text's vector their mean.

    Its table starts from what the bi-encoder in `teacher_folder` makes of each token by itself,
    on 96 principal components (Tulkens & van Dongen 2024). Then it learns how the bi-encoder ranks
    the catalogue for the training and the unlabelled queries: `losses.listwise_kl` between the
    cosines of both. `vectors_of` computes the bi-encoder's vectors of the catalogue.
    """
    asked = [*data["train"]["query"], *data["unlabelled"]["query"]]
    queries, texts = list(dict.fromkeys(asked)), product_text(catalogue[:])

    def make(folder: Path) -> None:
        teacher = encoder(teacher_folder, profile)
        model = _untaught(teacher, profile.seed)
        encode = _catalogues(teacher_folder, profile, folder / "scratch", vectors_of)
        _imitate(model, teacher, queries, texts, encode(texts), profile.seed)
        model.save_pretrained(str(folder), create_model_card=False)

    parts = [
        _WIDTH,
        keys.identity(teacher_folder),
        queries,
        data_digest(catalogue, ("product_id", *TEXT)),
        keys.settings_of(profile),
        [_TEMPERATURE, _PASSES, _SHOWN, NEAREST],
    ]
    return stage("static_encoder", parts, make, profile.artifacts, recipe=1)


def _untaught(teacher: SentenceTransformer, seed: int) -> SentenceTransformer:
    """A static student of a bi-encoder before it learns."""
    tokenizer = models.load_tokenizer(PRETRAINED)
    bag = StaticEmbedding(tokenizer, embedding_weights=_token_table(teacher, tokenizer, seed))
    return SentenceTransformer(modules=[bag, Normalize()], device="cpu")


def _token_table(
    teacher: SentenceTransformer, tokenizer: PreTrainedTokenizerBase, seed: int
) -> np.ndarray:
    """(tokens, `_WIDTH`): what the bi-encoder makes of each token by itself, reduced."""
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    alone = [name.removeprefix("##") for name in names]
    vectors = teacher.encode(alone, batch_size=1024, show_progress_bar=False)
    return PCA(_WIDTH, random_state=seed).fit_transform(vectors).astype(np.float32)


def _imitate(
    model: SentenceTransformer,
    teacher: SentenceTransformer,
    queries: Sequence[str],
    texts: Sequence[str],
    kept: np.ndarray,
    seed: int,
) -> None:
    """Train `model` to rank the texts for each query as the teacher does, whose vectors of the
    texts are `kept`."""
    asked = teacher.encode(queries, show_progress_bar=False)
    tokenizer = model[0].tokenizer

    def tokens(side: Sequence[str]) -> list[np.ndarray]:
        cut = tokenizer.encode_batch(list(side), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) for one in cut]

    def pieces(ids: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.from_numpy(np.cumsum([0, *map(len, ids)])[:-1])
        return torch.from_numpy(np.concatenate(ids)), starts

    query_tokens, text_tokens = tokens(queries), tokens(texts)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(seed)
    for _ in range(_PASSES):
        order = rng.permutation(len(queries))
        for batch in np.array_split(order, -(-len(order) // 64)):
            wanted = torch.from_numpy(asked[batch] @ kept.T)
            shown = _shown(wanted, rng)
            a = pieces([query_tokens[row] for row in batch])
            b = pieces([text_tokens[row] for row in shown])
            loss = imitation_loss(model, a, b, wanted[:, shown])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def imitation_loss(
    model: SentenceTransformer,
    queries: tuple[torch.Tensor, torch.Tensor],
    products: tuple[torch.Tensor, torch.Tensor],
    wanted: torch.Tensor,
) -> torch.Tensor:
    """What a static student learns by: how far its ranking of products is from a teacher's.

    It is `losses.listwise_kl` between the cosines of both, at the temperature at which
    `static_encoder` trains. Chapter 8 has the same loss on its page.

    Args:
        model: a static student, as `encoder` loads it.
        queries, products: texts as their tokens' ids (T,), one text after the other, and where each
            text begins (Q,) or (N,).
        wanted: the teacher's cosines (Q, N) of the queries with the products.

    Returns:
        A scalar with a gradient.
    """

    def vectors(side: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return model(dict(zip(("input_ids", "offsets"), side, strict=True)))["sentence_embedding"]

    found = vectors(queries) @ vectors(products).T
    return losses.listwise_kl(found, wanted, torch.ones_like(wanted).bool(), _TEMPERATURE)


def _shown(cosines: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """The rows of the products in a step: all, or the queries' nearest ones and random ones."""
    products = cosines.shape[1]
    if products <= _SHOWN:
        return np.arange(products)
    near = cosines.topk(NEAREST, dim=1).indices.numpy()
    drawn = rng.choice(products, _SHOWN, replace=False)
    return np.union1d(near, drawn)
