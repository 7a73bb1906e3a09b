"""Bi-encoders that learn the margins of a search: what they learn from, and their stage.

A query's best product is to stand above four others by as much as a search says that it is better
(margins in mean squared error, Hofstätter et al. 2020). The search adds up the cosine of an encoder
that learnt the gains of labels so, BM25 and the teacher's expected gain, with the weights that are
best on validation queries. Nothing bounds the margins that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MarginMSELoss
from sentence_transformers.util import pairwise_dot_score

from ecomkd import features, keys, search, words
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance import bi_encoders, judge, stages
from ecomkd.search.engine import DEPTH
from ecomkd.search.tune import RERANKER, WORDS, weights_on

RIVALS = 4
"""Products that a query's best one is compared with in a training step."""
SCALE = 4.0
"""A student's score is this times the cosine, so that a margin of 1 is within its reach."""
TAUGHT = ("train", "unlabelled", "mined")
"""The pairs of which the search says how good they are."""


def steps(data: DatasetDict, profile: Profile) -> int:
    """Those of `profile.student_epochs` passes over all queries, training and unlabelled ones."""
    asked = sum(len(set(data[name]["query_id"])) for name in ("train", "unlabelled"))
    return profile.student_epochs * keys.batches(asked, profile)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """All pairs of several data sets, with what is read of them and without their labels."""
    columns = ["query_id", "product_id", "query", *TEXT]
    return datasets.concatenate_datasets([part.select_columns(columns) for part in parts])


def rows_of(pairs: Dataset, scores: np.ndarray, seed: int) -> Dataset:
    """Rows for a margin loss, one for each query of pairs with scores (N,): its best and rivals.

    Columns are `query`, `product_0` (the best), `product_1` … and `label`, the margins of the best
    over each rival. Rivals are drawn without replacement where there are enough of them. Queries
    with one product teach nothing and are left out.
    """
    rng = np.random.default_rng(seed)
    texts = product_text(pairs[:])
    columns: dict[str, list] = {"query": [], "label": []}
    columns |= {f"product_{number}": [] for number in range(RIVALS + 1)}
    groups = pd.Series(np.arange(len(pairs))).groupby(np.asarray(pairs["query_id"]), sort=False)
    queries = pairs["query"]
    for _, group in groups:
        if len(group) < 2:
            continue
        best, *rest = group.iloc[np.argsort(-scores[group], kind="stable")]
        rivals = rng.choice(rest, RIVALS, replace=len(rest) < RIVALS)
        columns["query"].append(queries[int(best)])
        columns["label"].append((scores[best] - scores[rivals]).tolist())
        for number, row in enumerate((best, *rivals)):
            columns[f"product_{number}"].append(texts[row])
    names = ["query", *(f"product_{number}" for number in range(RIVALS + 1)), "label"]
    return Dataset.from_dict({name: columns[name] for name in names})


def bi_encoder(
    data: DatasetDict, catalogue: Dataset, profile: Profile, teacher: Path, searched: bool
) -> Path:
    """The folder of one that learns margins: of the search's scores if `searched`, else of the
    gains of judged pairs.

    Both take as many `steps`, at `profile.student_learning_rate`.
    """
    weights = np.asarray(list(judge.gains(data["train"]).values()))
    taught = DatasetDict({**data, "mined": search.hard_negatives(data, catalogue, profile)})
    first, imitated = None, None
    if searched:
        first = bi_encoder(data, catalogue, profile, teacher, searched=False)
        imitated = [
            keys.digests(taught["unlabelled"], taught["mined"]),
            keys.identity(teacher),
            keys.identity(first),
            data_digest(catalogue, ("product_id", *TEXT)),
            [list(WORDS), list(RERANKER), DEPTH],
        ]

    def make(folder: Path) -> None:
        if first is None:
            pairs = data["train"]
            rows = rows_of(pairs, weights[pairs["label"]], profile.seed)
        else:
            told = [stages.teacher_pairs(taught, profile, teacher, name) for name in TAUGHT]
            answers = [np.asarray(one["teacher_logits"]) for one in told]
            chances = judge.softmax(np.concatenate(answers))
            pairs = joined([taught[name] for name in TAUGHT])
            scores = by_search(
                pairs, chances @ weights, data["validation"], catalogue, profile, first, teacher
            )
            rows = rows_of(pairs, SCALE * scores, profile.seed)
        model = bi_encoders._start(profile)
        rate = profile.student_learning_rate
        learn(model, rows, data["validation"], profile, folder, steps(data, profile), rate)

    parts = [
        "distilled" if searched else "labels",
        bi_encoders.PRETRAINED,
        steps(data, profile),
        keys.digests(data["train"], data["validation"]),
        imitated,
        keys.settings_of(profile, "frozen_layers", "student_learning_rate"),
        [RIVALS, SCALE],
    ]
    return stage("bi_encoder", parts, make, profile.artifacts, recipe=1)


def by_search(
    pairs: Dataset,
    gains: np.ndarray,
    validation: Dataset,
    catalogue: Dataset,
    profile: Profile,
    first: Path,
    teacher: Path,
) -> np.ndarray:
    """Scores (N,) of pairs under the sum of a bi-encoder, BM25 and a teacher's expected gains."""
    # A judged product need not stand in the catalogue; it is scored by its own text.
    place = {product: row for row, product in enumerate(catalogue["product_id"])}
    texts = product_text(catalogue[:])
    for product, text in zip(pairs["product_id"], product_text(pairs[:]), strict=True):
        if product not in place:
            place[product] = len(texts)
            texts.append(text)
    index, model = words.bm25(texts), bi_encoders.encoder(first, profile)
    vectors = features.encode(model, texts)
    labels, worth = validation.features["label"], judge.gains(validation)

    def compare(queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        there = len(catalogue)
        cosines = features.encode(model, queries) @ vectors[:there].T
        return cosines, search.word_scores(index, queries)[:, :there]

    def read(queries: Sequence[str], rows: np.ndarray) -> np.ndarray:
        numbered = Dataset.from_dict({"query_id": queries, "query": queries})
        shown = search.candidates(numbered, catalogue, rows)
        return search.model_scores(teacher, shown, labels, worth, profile)

    weights = weights_on(validation, catalogue["product_id"], compare, read, DEPTH)
    rows = np.array([place[product] for product in pairs["product_id"]])
    scores = (features.encode(model, pairs["query"]) * vectors[rows]).sum(axis=1)
    scores += weights.reranker * gains
    for query, own in pd.Series(rows).groupby(np.asarray(pairs["query"])).indices.items():
        scores[own] += weights.words * words.bm25_of(index, query)[rows[own]]
    return scores


def learn(
    model: SentenceTransformer,
    rows: Dataset,
    validation: Dataset,
    profile: Profile,
    folder: Path,
    steps: int,
    rate: float,
) -> None:
    """Train on the rows of `rows_of` and save the best of five looks into `folder`."""
    loss = MarginMSELoss(model, lambda a, b: SCALE * pairwise_dot_score(a, b))
    bi_encoders.fit(model, rows, validation, profile, folder, steps, rate, loss)
