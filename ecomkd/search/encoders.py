"""Encoders for search, distilled: bi-encoders, which learn margins, and a static student.

What is compared here are all products of a catalogue: memory grows with their number. Chapter 8.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MarginMSELoss
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from sentence_transformers.util import pairwise_dot_score
from sklearn.decomposition import PCA
from transformers import PreTrainedTokenizerBase

from ecomkd import features, keys, losses, models, words
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance import judge, stages
from ecomkd.relevance.bi_encoders import PRETRAINED, encoder, fit
from ecomkd.search.engine import DEPTH
from ecomkd.search.retrieve import word_scores
from ecomkd.search.tune import RERANKER, WORDS, candidates, model_scores, weights_on
from ecomkd.search.unjudged import NEAREST, with_mined

BI_ENCODERS = ("labels", "distilled")
"""How a bi-encoder learns: from the gains of labelled pairs, or from the scores of a whole search
(the first row, BM25 and the teacher) on labelled, unlabelled and mined pairs."""

_RIVALS = 4
"""Products that a query's best one is compared with in a training step."""
_SCALE = 4.0
"""A student's score is this times the cosine, so that a margin of 1 is within its reach."""
_TAUGHT = ("train", "unlabelled", "mined")
_WIDTH = 96
"""Numbers in the vector of a token of a static student."""
_TEMPERATURE = 0.05
"""Temperature of the softmax over a catalogue's cosines that a static student is to imitate."""
_PASSES = 8
"""Passes over all queries in which a static student learns."""
_SHOWN = 4_096
"""The most products that a static student sees in a step. Of a larger catalogue so many are drawn
at random, and the nearest of each query join them."""


def margin_rows(pairs: Dataset, scores: np.ndarray, seed: int) -> Dataset:
    """Rows for a margin loss, one for each query of pairs with scores (N,): its best and rivals.

    Columns are `query`, `product_0` (the best), `product_1` … and `label`, the margins of the best
    over each rival. Rivals are drawn without replacement where there are enough of them. Queries
    with one product teach nothing and are left out.
    """
    rng = np.random.default_rng(seed)
    texts = product_text(pairs[:])
    columns: dict[str, list] = {"query": [], "label": []}
    columns |= {f"product_{number}": [] for number in range(_RIVALS + 1)}
    groups = pd.Series(np.arange(len(pairs))).groupby(np.asarray(pairs["query_id"]), sort=False)
    queries = pairs["query"]
    for _, group in groups:
        if len(group) < 2:
            continue
        best, *rest = group.iloc[np.argsort(-scores[group], kind="stable")]
        rivals = rng.choice(rest, _RIVALS, replace=len(rest) < _RIVALS)
        columns["query"].append(queries[int(best)])
        columns["label"].append((scores[best] - scores[rivals]).tolist())
        for number, row in enumerate((best, *rivals)):
            columns[f"product_{number}"].append(texts[row])
    names = ["query", *(f"product_{number}" for number in range(_RIVALS + 1)), "label"]
    return Dataset.from_dict({name: columns[name] for name in names})


def bi_encoder(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    row: str = "distilled",
    teacher_folder: Path | None = None,
    unlabelled: int | None = None,
    vectors_of: features.Vectors = features.in_turn,
    outputs_of: stages.Outputs | None = None,
) -> Path:
    """The folder of a bi-encoder that starts from the pretrained one and learns as `row` says.

    Both rows (see `BI_ENCODERS`) take the same loss, margins in mean squared error (Hofstätter et
    al. 2020), and the same number of steps: `profile.student_epochs` passes over all queries, those
    of the training pairs and of the first `unlabelled` ones without a label (all by default). A
    label counts as its gain. The search that is imitated adds up the first row's cosine, BM25 and
    the teacher's expected gain with the weights that are best on the validation queries. Embeddings
    and the lowest `profile.frozen_layers` layers stay. Of five looks at the validation queries the
    one with the best nDCG@10 is kept. Nothing bounds the margins that are asked for: on one of
    three shops validation gave the teacher a weight of 3, and the distilled encoder fell below the
    first row. On all three one that learnt the labels by contrast (`bi_encoders.contrastive`), in
    more steps, was above both, and one that learnt these beside the teacher's labels (`told`), and
    then these alone, was above that (chapter 8).
    `vectors_of` computes the vectors of the catalogue under the first row's encoder, and
    `outputs_of` the teacher's outputs, as `stages.student` has it. Raises ValueError for an unknown
    row.
    """
    if row not in BI_ENCODERS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(BI_ENCODERS)}.")
    if teacher_folder is None:
        teacher_folder = stages.teacher(data, profile)
    weights = np.asarray(list(judge.gains(data["train"]).values()))
    taught = with_mined(data, catalogue, profile, unlabelled)
    queries = sum(len(set(taught[name]["query_id"])) for name in ("train", "unlabelled"))
    steps = profile.student_epochs * keys.batches(queries, profile)
    first, imitated = None, None
    if row == "distilled":
        first = bi_encoder(data, catalogue, profile, "labels", teacher_folder, unlabelled)
        imitated = [
            keys.digests(taught["unlabelled"], taught["mined"]),
            keys.identity(teacher_folder),
            keys.identity(first),
            data_digest(catalogue, ("product_id", *TEXT)),
            [list(WORDS), list(RERANKER), DEPTH],
        ]

    def make(folder: Path) -> None:
        if first is None:
            pairs = data["train"]
            rows = margin_rows(pairs, weights[pairs["label"]], profile.seed)
        else:
            # Of a tiny catalogue a query may have all products already, and nothing is mined.
            names = [name for name in _TAUGHT if len(taught[name])]
            said = [
                stages.teacher_pairs(taught, profile, teacher_folder, name, outputs_of=outputs_of)
                for name in names
            ]
            answers = [one["teacher_logits"] for one in said]
            chances = judge.softmax(np.concatenate([np.asarray(part) for part in answers]))
            columns = ["query_id", "product_id", "query", *TEXT]
            shown = [taught[name].select_columns(columns) for name in names]
            pairs = datasets.concatenate_datasets(shown)
            scores = _by_search(
                pairs, chances @ weights, data["validation"], catalogue, profile, first,
                teacher_folder, _catalogues(first, profile, folder / "scratch", vectors_of),
            )  # fmt: skip
            rows = margin_rows(pairs, _SCALE * scores, profile.seed)
        model = encoder(models.checkpoint(PRETRAINED), profile)
        model.max_seq_length = profile.max_length
        if not len(rows):
            warnings.warn(
                "No query has two products to compare, so the bi-encoder stays as pretrained; "
                "judge two products or more for some queries.",
                stacklevel=2,
            )
            model.save_pretrained(str(folder), create_model_card=False)
            return
        models.freeze(model[0].auto_model, profile.frozen_layers)
        _fit(model, rows, data["validation"], profile, folder, steps, profile.student_learning_rate)

    parts = [
        row,
        PRETRAINED,
        steps,
        keys.digests(data["train"], data["validation"]),
        imitated,
        keys.settings_of(profile, "frozen_layers", "student_learning_rate"),
        [_RIVALS, _SCALE],
    ]
    return stage("bi_encoder", parts, make, profile.artifacts, recipe=1)


def _by_search(
    pairs: Dataset,
    gains: np.ndarray,
    validation: Dataset,
    catalogue: Dataset,
    profile: Profile,
    first: Path,
    teacher_folder: Path,
    encode: features.Encode,
) -> np.ndarray:
    """Scores (N,) of pairs under the sum of a bi-encoder, BM25 and a teacher's expected gains.

    `encode` is what the bi-encoder in `first` makes of many texts.
    """
    # A judged product need not stand in the catalogue; it is scored by its own text.
    place = {product: row for row, product in enumerate(catalogue["product_id"])}
    texts = product_text(catalogue[:])
    for product, text in zip(pairs["product_id"], product_text(pairs[:]), strict=True):
        if product not in place:
            place[product] = len(texts)
            texts.append(text)
    index, model = words.bm25(texts), encoder(first, profile)
    vectors = encode(texts)
    labels, worth = validation.features["label"], judge.gains(validation)

    def compare(queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        there = len(catalogue)
        cosines = features.encode(model, queries) @ vectors[:there].T
        return cosines, word_scores(index, queries)[:, :there]

    def read(queries: Sequence[str], rows: np.ndarray) -> np.ndarray:
        numbered = Dataset.from_dict({"query_id": queries, "query": queries})
        shown = candidates(numbered, catalogue, rows)
        return model_scores(teacher_folder, shown, labels, worth, profile)

    weights = weights_on(validation, catalogue["product_id"], compare, read, DEPTH)
    rows = np.array([place[product] for product in pairs["product_id"]])
    scores = (features.encode(model, pairs["query"]) * vectors[rows]).sum(axis=1)
    scores += weights.reranker * gains
    for query, own in pd.Series(rows).groupby(np.asarray(pairs["query"])).indices.items():
        scores[own] += weights.words * words.bm25_of(index, query)[rows[own]]
    return scores


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


def _fit(
    model: SentenceTransformer,
    rows: Dataset,
    validation: Dataset,
    profile: Profile,
    folder: Path,
    steps: int,
    learning_rate: float,
) -> None:
    """Train on the rows of `margin_rows` and save the best of five looks into `folder`."""
    loss = MarginMSELoss(model, _scaled)
    fit(model, rows, validation, profile, folder, steps, learning_rate, loss)


def _scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _SCALE * pairwise_dot_score(a, b)
