"""Encoders for search, distilled: bi-encoders and a static student, and the pairs they learn from.

What is compared here are all products of a catalogue: memory grows with their number. Chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets
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
from ecomkd.relevance import bi_encoders, mining, stages
from ecomkd.relevance.bi_encoders import COLUMNS, PRETRAINED, encoder
from ecomkd.search.retrieve import exact
from ecomkd.search.tune import candidates

BI_ENCODERS = ("labels", "distilled")
"""What a bi-encoder learns from: the judged pairs alone, or with pairs that the teacher labels."""

_MINED = 4
"""Hard negatives of each query."""
_NEAREST = 50
"""Products nearest to a query, from which its hard negatives are drawn."""
_WIDTH = 96
"""Numbers in the vector of a token of a static student."""
_TEMPERATURE = 0.05
"""Temperature of the softmax over a catalogue's cosines that a static student is to imitate."""
_PASSES = 8
"""Passes over all queries in which a static student learns."""
_SHOWN = 4_096
"""The most products that a static student sees in a step. Of a larger catalogue so many are drawn
at random, and the nearest of each query join them."""


def hard_negatives(data: DatasetDict, catalogue: Dataset, profile: Profile) -> Dataset:
    """Pairs of each training and unlabelled query with a few of its nearest products.

    They are drawn from the 50 nearest by the pretrained bi-encoder, away from the pairs that the
    query has already. Columns are as `load` gives them, with label −1. Vectors of all products are
    held in memory, and every query is compared with each.
    """
    splits = [data[name] for name in ("train", "unlabelled") if name in data]

    def make(folder: Path) -> None:
        pairs = _near(splits, catalogue, profile)
        pairs = pairs.cast_column("label", data["train"].features["label"])
        # Without a row the library would write no file, and could not read that.
        pairs.save_to_disk(str(folder / "pairs"), num_shards=None if len(pairs) else 1)

    parts = [
        keys.digests(*splits),
        data_digest(catalogue, ("product_id", *TEXT)),
        keys.settings_of(profile),
        [_MINED, _NEAREST],
    ]
    folder = stage("hard_negatives", parts, make, profile.artifacts, recipe=1)
    return datasets.load_from_disk(str(folder / "pairs"))


def _near(splits: Sequence[Dataset], catalogue: Dataset, profile: Profile) -> Dataset:
    known: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for split in splits:
        for query_id, query, product in zip(
            split["query_id"], split["query"], split["product_id"], strict=True
        ):
            texts[query_id] = query
            known.setdefault(query_id, set()).add(product)
    queries = Dataset.from_dict({"query_id": list(texts), "query": list(texts.values())})
    ids = np.asarray(catalogue["product_id"], dtype=object)
    vectors = mining.catalogue_vectors(catalogue, profile)
    _, nearest = exact(vectors).search(
        features.embed(queries["query"], profile), min(_NEAREST, len(ids))
    )
    rng = np.random.default_rng(profile.seed)
    rows = np.full((len(texts), _MINED), -1)
    for number, query_id in enumerate(texts):
        new = [row for row in nearest[number] if ids[row] not in known[query_id]]
        drawn = rng.permutation(new)[:_MINED]
        rows[number, : len(drawn)] = drawn
    return candidates(queries, catalogue, rows)


def told(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    teacher_folder: Path,
    unlabelled: int | None = None,
    outputs_of: stages.Outputs | None = None,
) -> Dataset:
    """The first `unlabelled` pairs without a label (all by default), and those that are mined for
    their queries and the training ones, each with the label that the teacher takes for likeliest.

    From these a bi-encoder can learn by contrast (`bi_encoders.contrastive`), and then from the
    judged pairs, for the teacher errs. `outputs_of` computes its outputs, as `stages.student` has
    it.
    """
    taught = _taught(data, catalogue, profile, unlabelled)
    parts = [data["train"].select([])]
    for name in ("unlabelled", "mined"):
        # Of a tiny catalogue a query may have all products already, and nothing is mined.
        if len(pairs := taught[name]):
            answers = stages.teacher_pairs(
                taught, profile, teacher_folder, name, outputs_of=outputs_of
            )
            likeliest = np.asarray(answers["teacher_logits"]).argmax(axis=1).tolist()
            pairs = pairs.remove_columns("label").add_column("label", likeliest)
            parts.append(pairs.cast_column("label", data["train"].features["label"]))
    return datasets.concatenate_datasets([part.select_columns(COLUMNS) for part in parts])


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

    Both rows (see `BI_ENCODERS`) learn by contrast (`bi_encoders.contrastive`). "labels" has the
    judged pairs alone. "distilled" learns in two stages, at the higher of the rates that labels
    alone choose from: `profile.student_epochs` passes over these and `told`, the first `unlabelled`
    pairs without a label (all by default) and mined ones with the labels that the teacher gives
    them, and then `profile.teacher_epochs` passes over the judged pairs. `outputs_of` computes the
    teacher's outputs, as `stages.student` has it. Raises ValueError for an unknown row.
    """
    if row not in BI_ENCODERS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(BI_ENCODERS)}.")
    if row == "labels":
        return bi_encoders.contrastive(data, profile)
    if teacher_folder is None:
        teacher_folder = stages.teacher(data, profile)
    further = told(data, catalogue, profile, teacher_folder, unlabelled, outputs_of)
    rates = bi_encoders.RATES[-1:]
    first = bi_encoders.contrastive(data, profile, further, profile.student_epochs, rates)
    return bi_encoders.contrastive(data, profile, rates=rates, start=first)


def _catalogues(
    folder: Path, profile: Profile, scratch: Path, vectors_of: features.Vectors
) -> features.Encode:
    """What the bi-encoder in a folder makes of all texts of a catalogue."""
    load = partial(_loaded, folder.resolve(), profile)
    return partial(features.all_vectors, load, scratch=scratch, vectors_of=vectors_of)


def _loaded(folder: Path, profile: Profile) -> features.Encode:
    """What it makes of texts, in the process that calls this."""
    return partial(features.encode, encoder(folder, profile))


def _taught(
    data: DatasetDict, catalogue: Dataset, profile: Profile, unlabelled: int | None
) -> DatasetDict:
    """The data with the first `unlabelled` pairs of that split, and what is mined for both."""
    pairs = data["unlabelled"]
    if unlabelled is not None:
        pairs = pairs.select(range(min(unlabelled, len(pairs))))
    part = DatasetDict({**data, "unlabelled": pairs})
    return DatasetDict({**part, "mined": hard_negatives(part, catalogue, profile)})


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
        [_TEMPERATURE, _PASSES, _SHOWN, _NEAREST],
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
    near = cosines.topk(_NEAREST, dim=1).indices.numpy()
    drawn = rng.choice(products, _SHOWN, replace=False)
    return np.union1d(near, drawn)
