"""Search over a whole catalogue: retrieve, add up, re-rank, and the encoders distilled for it.

A ranking of Q queries is a pair (scores, rows), each (Q, k): the k best products as rows of the
catalogue, best first. Where a query has fewer than k, the rest is row −1 with score −inf.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import bm25s
import datasets
import faiss
import numpy as np
import pandas as pd
import sentence_transformers
import torch
from datasets import Dataset, DatasetDict
from scipy.special import softmax
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.losses import MarginMSELoss
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from sentence_transformers.util import pairwise_dot_score
from sklearn.decomposition import PCA
from tokenizers import Tokenizer

from ecomkd import baselines, distill, export, losses, metrics, mining, models, pipeline, run
from ecomkd.artifacts import data_digest, digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.features import token_means

BI_ENCODERS = ("labels", "distilled")
"""How a bi-encoder learns: from the gains of labelled pairs, or from the scores of a whole search
(the first row, BM25 and the teacher) on labelled, unlabelled and mined pairs."""

_PRETRAINED = "minilm"
"""The sentence encoder that every bi-encoder starts from."""
_RIVALS = 4
"""Products that a query's best one is compared with in a training step."""
_SCALE = 4.0
"""Student score = this times the cosine, so that a margin of 1 is within its reach."""
_MINED = 4
"""Further candidates of each query, from its nearest in the catalogue."""
_NEAREST = 50
_TAUGHT = ("train", "unlabelled", "mined")
_READ = 20
"""Products that a reader puts into a new order."""
WORDS = (0.0, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
READER = (0.0, 0.03, 0.1, 0.2, 0.3, 1.0, 3.0)
"""Weights of BM25 and of a re-ranker that are tried beside the cosine (see `choose_weights`)."""
_TEMPERATURE = 0.05
"""Of the softmax over the cosines of a catalogue that a static student is to imitate."""
_PASSES = 8
_SHOWN = 4_096
"""Products that it sees in a step, drawn at random where a catalogue has more; with them the
nearest of each query."""


# Retrieve ----------------------------------------------------------------------------------------


def lexical(index: bm25s.BM25, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best products by BM25; those that share no word with the query are left out."""
    k = min(k, index.scores["num_docs"])
    scores = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1)
    for number, query in enumerate(queries):
        found = baselines.bm25_of(index, query)
        best = np.argpartition(-found, k - 1)[:k]
        best = best[np.lexsort((best, -found[best]))]
        best = best[found[best] > 0]
        scores[number, : len(best)], rows[number, : len(best)] = found[best], best
    return scores, rows


def word_scores(index: bm25s.BM25, queries: Sequence[str]) -> np.ndarray:
    """BM25 scores (Q, N) of queries with every product."""
    return np.stack([baselines.bm25_of(index, query) for query in queries])


def exact(vectors: np.ndarray) -> faiss.Index:
    """An index (N, H) that compares a query with every vector, by inner product."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def approximate(vectors: np.ndarray, links: int = 32) -> faiss.Index:
    """An HNSW graph over the vectors (Malkov & Yashunin 2020), by inner product.

    Each vector is linked with `links` neighbours; `index.hnsw.efSearch` trades recall for speed.
    """
    index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def fuse(rankings: Sequence[np.ndarray], k: int, constant: int = 60):
    """The k best products by reciprocal rank fusion: the sum of 1 / (constant + rank).

    `rankings` are rows (Q, k_i); a product that a ranking lacks gets nothing from it. Equal sums
    keep the order of the first ranking (Cormack et al. 2009).
    """
    queries = len(rankings[0])
    scores, rows = np.full((queries, k), -np.inf), np.full((queries, k), -1)
    for query in range(queries):
        sums: dict[int, float] = {}
        for ranking in rankings:
            for rank, row in enumerate(ranking[query], start=1):
                if row >= 0:
                    sums[int(row)] = sums.get(int(row), 0.0) + 1 / (constant + rank)
        best = sorted(sums, key=sums.get, reverse=True)[:k]
        rows[query, : len(best)] = best
        scores[query, : len(best)] = [sums[row] for row in best]
    return scores, rows


@dataclass(frozen=True)
class Weights:
    """A product's score is cosine + `words` · BM25 + `reader` · expected gain under a re-ranker."""

    words: float = 0.0
    reader: float = 0.0


def weighted(cosines: np.ndarray, words: np.ndarray, weight: float, k: int):
    """The k best products by cosine + weight · BM25; both are (Q, N), over the whole catalogue."""
    sums = cosines + weight * words
    rows = np.argsort(-sums, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(sums, rows, 1), rows


def quality_on(pairs: Dataset, product_ids: Sequence[str]):
    """The distinct queries of judged pairs, and a function from rows (Q, k) to their nDCG@10.

    What nobody judged counts as irrelevant.
    """
    asked = dict(zip(pairs["query_id"], pairs["query"], strict=True))
    judged = pipeline.frame(pairs, np.zeros(len(pairs))).drop(columns="score")
    gains = pipeline.gains(pairs)

    def quality(rows: np.ndarray) -> float:
        found = ranked(list(asked), product_ids, rows)
        return metrics.retrieval(found, judged, gains)["ndcg@10"]

    return list(asked.values()), quality


def choose_weights(
    cosines: np.ndarray,
    words: np.ndarray,
    quality: Callable[[np.ndarray], float],
    read: Callable[[np.ndarray], np.ndarray],
    depth: int,
) -> Weights:
    """Of `WORDS` and then of `READER` the weight of the highest quality, the smaller of equals.

    Args:
        cosines, words: (Q, N) for validation queries.
        quality: of rows (Q, k), such as nDCG@10.
        read: the expected gains, one for each of rows (Q, depth), in their order.
    """
    by_words = {w: quality(weighted(cosines, words, w, depth)[1]) for w in WORDS}
    best = max(by_words, key=by_words.get)
    scores, rows = weighted(cosines, words, best, depth)
    gains = read(rows).reshape(rows.shape)
    by_reader = {w: quality(rerank(rows, (scores + w * gains).ravel())[1]) for w in READER}
    return Weights(best, max(by_reader, key=by_reader.get))


# Re-rank -----------------------------------------------------------------------------------------


def candidates(queries: Dataset, catalogue: Dataset, rows: np.ndarray) -> Dataset:
    """The pairs of retrieved products, query by query, as a model reads them (label −1).

    `queries` has `query_id` and `query`, one row each, in the order of `rows` (Q, k).
    """
    asked, products = np.nonzero(rows >= 0)[0], rows[rows >= 0]
    pairs = catalogue.select_columns(["product_id", *TEXT]).select(products)
    for name in ("query_id", "query"):
        values = np.asarray(queries[name], dtype=object)[asked].tolist()
        pairs = pairs.add_column(name, values)
    return pairs.add_column("label", [-1] * len(pairs))


def rerank(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Retrieved rows (Q, k) in the order of new scores, one for each pair of `candidates`.

    Equal scores keep the order of retrieval.
    """
    table = np.full(rows.shape, -np.inf)
    table[rows >= 0] = scores
    order = np.argsort(-table, axis=1, kind="stable")
    return np.take_along_axis(table, order, 1), np.take_along_axis(rows, order, 1)


def model_scores(folder: Path, pairs: Dataset, labels, weights, profile: Profile) -> np.ndarray:
    """Expected gains (N,) of pairs under a saved cross-encoder with these labels."""
    pairs = pairs.cast_column("label", labels)
    return metrics.expected_gain(pipeline.predict(folder, pairs, profile), weights)


def ranked(query_ids: Sequence[str], product_ids: Sequence[str], rows: np.ndarray) -> pd.DataFrame:
    """A ranking as the frame that `metrics.retrieval` reads."""
    products = np.asarray(product_ids, dtype=object)
    found = rows >= 0
    return pd.DataFrame(
        {
            "query_id": np.asarray(query_ids, dtype=object)[np.nonzero(found)[0]],
            "product_id": products[rows[found]],
            # The rank, not the score: trec_eval would order equal scores by product_id.
            "score": -np.nonzero(found)[1].astype(float),
        }
    )


# Distil ------------------------------------------------------------------------------------------


def mined(data: DatasetDict, catalogue: Dataset, profile: Profile) -> Dataset:
    """Hard negatives: of each training and unlabelled query a few of its nearest products.

    Drawn from the 50 nearest by the pretrained bi-encoder, away from the pairs that the query has
    already. Columns as `load` gives them, label −1.
    """
    splits = [data[name] for name in ("train", "unlabelled") if name in data]

    def make(folder: Path) -> None:
        pairs = _near(splits, catalogue, profile)
        pairs = pairs.cast_column("label", data["train"].features["label"])
        pairs.save_to_disk(str(folder / "pairs"))

    parts = [
        pipeline.digests(*splits),
        data_digest(catalogue, ("product_id", *TEXT)),
        pipeline.settings_of(profile),
        [_MINED, _NEAREST],
        digest(mined, _near, candidates, mining),
    ]
    folder = stage("mined_near", parts, make, profile.artifacts)
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
    vectors = pipeline.catalogue_vectors(catalogue, profile)
    _, nearest = exact(vectors).search(
        mining.embed(queries["query"], profile), min(_NEAREST, len(ids))
    )
    rng = np.random.default_rng(profile.seed)
    rows = np.full((len(texts), _MINED), -1)
    for number, query_id in enumerate(texts):
        new = [row for row in nearest[number] if ids[row] not in known[query_id]]
        drawn = rng.permutation(new)[:_MINED]
        rows[number, : len(drawn)] = drawn
    return candidates(queries, catalogue, rows)


def lesson(pairs: Dataset, scores: np.ndarray, seed: int) -> Dataset:
    """Pairs with scores (N,) as rows for a margin loss: the best product of a query and rivals.

    Columns `query`, `product_0` (the best), `product_1` … and `label`, the margins of the best
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
) -> Path:
    """The folder of a bi-encoder that starts from the pretrained one and learns as `row` says.

    Both rows (see `BI_ENCODERS`) take the same loss, margins in mean squared error (Hofstätter et
    al. 2020), and the same number of steps: `profile.student_epochs` passes over all queries, those
    of the training pairs and of the first `unlabelled` ones without a label (all by default). A
    label counts as its gain. The search that is imitated adds up the first row's cosine, BM25 and
    the teacher's expected gain with the weights that are best on the validation queries. Embeddings
    and the lowest `profile.frozen_layers` layers stay. Of five looks at the validation queries the
    one with the best nDCG@10 is kept. On a development shop a contrastive loss on the labels, at
    the better of two rates, came to the same nDCG@10 as their margins (recall@100 .955, not .921).
    Raises ValueError for an unknown row.
    """
    if row not in BI_ENCODERS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(BI_ENCODERS)}.")
    if teacher_folder is None:
        teacher_folder = pipeline.teacher(data, profile)
    weights = np.asarray(list(pipeline.gains(data["train"]).values()))
    taught = _taught(data, catalogue, profile, unlabelled)
    queries = sum(len(set(taught[name]["query_id"])) for name in ("train", "unlabelled"))
    steps = profile.student_epochs * pipeline.batches(queries, profile)
    first = None
    if row == "distilled":
        first = bi_encoder(data, catalogue, profile, "labels", teacher_folder, unlabelled)

    def make(folder: Path) -> None:
        if first is None:
            pairs = data["train"]
            rows = lesson(pairs, weights[pairs["label"]], profile.seed)
        else:
            answers = [
                pipeline.teacher_pairs(taught, profile, teacher_folder, name)["teacher_logits"]
                for name in _TAUGHT
            ]
            chances = pipeline.softmax(np.concatenate([np.asarray(part) for part in answers]))
            columns = ["query_id", "product_id", "query", *TEXT]
            shown = [taught[name].select_columns(columns) for name in _TAUGHT]
            pairs = datasets.concatenate_datasets(shown)
            scores = _by_search(
                pairs, chances @ weights, data["validation"], catalogue, profile, first,
                teacher_folder,
            )  # fmt: skip
            rows = lesson(pairs, _SCALE * scores, profile.seed)
        model = SentenceTransformer(
            models.checkpoint(_PRETRAINED),
            device=str(models.device(profile)),
            local_files_only=True,
        )
        model.max_seq_length = profile.max_length
        models.freeze(model[0].auto_model, profile.frozen_layers)
        _fit(model, rows, data["validation"], profile, folder, steps, profile.student_learning_rate)

    parts = [
        row,
        _PRETRAINED,
        steps,
        pipeline.digests(data["train"], data["validation"]),
        None if row == "labels" else pipeline.digests(taught["unlabelled"], taught["mined"]),
        None if row == "labels" else pipeline.identity(teacher_folder),
        None if row == "labels" else pipeline.identity(first),
        None if row == "labels" else digest(_by_search, choose_weights, WORDS, READER),
        pipeline.settings_of(profile, "frozen_layers", "student_learning_rate"),
        sentence_transformers.__version__,
        digest(bi_encoder, lesson, _fit, _Validation, models),
        [_RIVALS, _SCALE],
    ]
    return stage("bi_encoder", parts, make, profile.artifacts)


def _by_search(
    pairs: Dataset,
    gains: np.ndarray,
    validation: Dataset,
    catalogue: Dataset,
    profile: Profile,
    first: Path,
    teacher_folder: Path,
) -> np.ndarray:
    """Scores (N,) of pairs under the sum of a bi-encoder, BM25 and a teacher's expected gains."""
    texts = product_text(catalogue[:])
    index, model = baselines.bm25(texts), encoder(first, profile)
    vectors = mining.encode(model, texts)
    queries, quality = quality_on(validation, catalogue["product_id"])
    numbered = Dataset.from_dict({"query_id": queries, "query": queries})
    labels, worth = validation.features["label"], pipeline.gains(validation)

    def read(rows: np.ndarray) -> np.ndarray:
        shown = candidates(numbered, catalogue, rows)
        return model_scores(teacher_folder, shown, labels, worth, profile)

    cosines = mining.encode(model, queries) @ vectors.T
    weights = choose_weights(cosines, word_scores(index, queries), quality, read, _READ)
    place = {product: row for row, product in enumerate(catalogue["product_id"])}
    rows = np.array([place[product] for product in pairs["product_id"]])
    scores = (mining.encode(model, pairs["query"]) * vectors[rows]).sum(axis=1)
    scores += weights.reader * gains
    for query, own in pd.Series(rows).groupby(np.asarray(pairs["query"])).indices.items():
        scores[own] += weights.words * baselines.bm25_of(index, query)[rows[own]]
    return scores


def _taught(
    data: DatasetDict, catalogue: Dataset, profile: Profile, unlabelled: int | None
) -> DatasetDict:
    """The data with the first `unlabelled` pairs of that split, and what is mined for both."""
    pairs = data["unlabelled"]
    if unlabelled is not None:
        pairs = pairs.select(range(min(unlabelled, len(pairs))))
    part = DatasetDict({**data, "unlabelled": pairs})
    return DatasetDict({**part, "mined": mined(part, catalogue, profile)})


def static_encoder(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    teacher_folder: Path,
    width: int = 96,
) -> Path:
    """The folder of a static student: a vector for each token, a text's vector their mean.

    Its table starts from what the bi-encoder in `teacher_folder` makes of each token by itself,
    on `width` principal components (Tulkens & van Dongen 2024). Then it learns how the bi-encoder
    ranks the catalogue for the training and the unlabelled queries: `losses.listwise_kl` between
    the cosines of both.
    """
    asked = [*data["train"]["query"], *data["unlabelled"]["query"]]
    queries, texts = list(dict.fromkeys(asked)), product_text(catalogue[:])

    def make(folder: Path) -> None:
        teacher = encoder(teacher_folder, profile)
        tokenizer = models.load_tokenizer(_PRETRAINED)
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        with_word = [name.removeprefix("##") for name in names]
        vectors = teacher.encode(with_word, batch_size=1024, show_progress_bar=False)
        table = PCA(width, random_state=profile.seed).fit_transform(vectors)
        bag = StaticEmbedding(tokenizer, embedding_weights=table.astype(np.float32))
        model = SentenceTransformer(modules=[bag, Normalize()], device="cpu")
        _imitate(model, teacher, queries, texts, profile.seed)
        model.save_pretrained(str(folder), create_model_card=False)

    parts = [
        width,
        pipeline.identity(teacher_folder),
        sorted(queries),
        data_digest(catalogue, ("product_id", *TEXT)),
        pipeline.settings_of(profile),
        [_TEMPERATURE, _PASSES, _SHOWN, _NEAREST],
        sentence_transformers.__version__,
        digest(static_encoder, _imitate, _shown, losses),
    ]
    return stage("static_encoder", parts, make, profile.artifacts)


def _imitate(
    model: SentenceTransformer,
    teacher: SentenceTransformer,
    queries: Sequence[str],
    texts: Sequence[str],
    seed: int,
) -> None:
    """Train `model` to rank the texts for each query as the teacher does."""
    asked, kept = teacher.encode(queries, show_progress_bar=False), mining.encode(teacher, texts)
    tokenizer = model[0].tokenizer

    def tokens(side: Sequence[str]) -> list[np.ndarray]:
        cut = tokenizer.encode_batch(list(side), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) for one in cut]

    def vectors(ids: list[np.ndarray]) -> torch.Tensor:
        starts = torch.from_numpy(np.cumsum([0, *map(len, ids)])[:-1])
        side = {"input_ids": torch.from_numpy(np.concatenate(ids)), "offsets": starts}
        return model(side)["sentence_embedding"]

    query_tokens, text_tokens = tokens(queries), tokens(texts)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(seed)
    for _ in range(_PASSES):
        order = rng.permutation(len(queries))
        for batch in np.array_split(order, -(-len(order) // 64)):
            wanted = torch.from_numpy(asked[batch] @ kept.T)
            shown = _shown(wanted, rng)
            a = vectors([query_tokens[row] for row in batch])
            b = vectors([text_tokens[row] for row in shown])
            wanted = wanted[:, shown]
            loss = losses.listwise_kl(a @ b.T, wanted, torch.ones_like(wanted).bool(), _TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _shown(cosines: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """The products of a step: all, or of a large catalogue the queries' nearest and random ones."""
    products = cosines.shape[1]
    if products <= _SHOWN:
        return np.arange(products)
    near = cosines.topk(_NEAREST, dim=1).indices.numpy()
    drawn = rng.choice(products, _SHOWN, replace=False)
    return np.union1d(near, drawn)


def encoder(folder: Path | str, profile: Profile) -> SentenceTransformer:
    """A saved bi-encoder or static student, in eval mode; its vectors have length 1."""
    return SentenceTransformer(
        str(folder), device=str(models.device(profile)), local_files_only=True
    ).eval()


class _Validation(BaseEvaluator):
    """nDCG@10 of the cosines on the validation pairs."""

    def __init__(self, pairs: Dataset):
        super().__init__()
        self.primary_metric = "ndcg@10"
        self.pairs = pairs
        self.texts = product_text(pairs[:])

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        asked = mining.encode(model, self.pairs["query"])
        shown = mining.encode(model, self.texts)
        scored = pipeline.frame(self.pairs, (asked * shown).sum(axis=1))
        return {"ndcg@10": metrics.ranking(scored, pipeline.gains(self.pairs))["ndcg@10"]}


def _fit(
    model: SentenceTransformer,
    rows: Dataset,
    validation: Dataset,
    profile: Profile,
    folder: Path,
    steps: int,
    learning_rate: float,
) -> None:
    """Train on the rows of `lesson` and save the best of five looks into `folder`."""
    trainer = _Trainer(
        model=model,
        args=distill.arguments(
            profile,
            folder,
            steps,
            learning_rate,
            kind=SentenceTransformerTrainingArguments,
            metric_for_best_model="ndcg@10",
        ),
        train_dataset=rows,
        evaluator=_Validation(validation),
        loss=MarginMSELoss(model, _scaled),
    )
    distill.run_to_end(trainer, folder)


class _Trainer(SentenceTransformerTrainer):
    def save_model(self, output_dir=None, _internal_call=False):
        if _internal_call:
            return super().save_model(output_dir, _internal_call=True)
        # Without the library's model card, which would ask a hub.
        self.model.save_pretrained(output_dir, create_model_card=False)


def _scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _SCALE * pairwise_dot_score(a, b)


# Serve -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hit:
    """One product of an answer."""

    product_id: str
    title: str
    score: float


class Reader:
    """An exported student as a function from queries and texts to expected gains (N,).

    One pair a call: the activations of an int8 model share one scale per tensor, so that in a batch
    the score of a pair would depend on the others.

    Args:
        folder: `model.int8.onnx` and its tokenizer.
        gains: what each label is worth, in the order of the classes.
        max_length: tokens of a query–product pair.
    """

    def __init__(self, folder: Path | str, gains: Sequence[float], max_length: int):
        self.model = export.OnnxClassifier(Path(folder) / "model.int8.onnx", threads=1)
        self.tokenizer = models.load_tokenizer(str(folder))
        self.gains = np.asarray(gains)
        self.max_length = max_length

    def __call__(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        scores = np.empty(len(texts))
        for row, pair in enumerate(zip(queries, texts, strict=True)):
            tokens = self.tokenizer(
                *pair, truncation="longest_first", max_length=self.max_length, return_tensors="np"
            )
            logits = self.model(**{name: tokens[name] for name in self.model.inputs})
            scores[row] = softmax(logits[0]) @ self.gains
        return scores


class Engine:
    """A catalogue that can be searched: static vectors, words and a student that re-ranks.

    Args:
        products: one row a product: `product_id` and the texts of the data contract.
        static: the folder of a static student.
        student: a folder with `model.int8.onnx`, its tokenizer and `labels.json` (gains).
        max_length: tokens of a query–product pair.
        weights: of the words and of the student beside the cosine.
        depth: how many products the student reads.
    """

    def __init__(
        self,
        products: pd.DataFrame,
        static: Path | str,
        student: Path | str,
        max_length: int,
        weights: Weights,
        depth: int = _READ,
    ):
        self.ids = products["product_id"].tolist()
        self.titles = products["product_title"].tolist()
        self.texts = product_text(products.to_dict("list"))
        self.weights, self.depth = weights, min(depth, len(products))
        self.words = baselines.bm25(self.texts)
        bag = SentenceTransformer(str(static), device="cpu", local_files_only=True)[0]
        self.pieces: Tokenizer = bag.tokenizer
        self.table = bag.embedding.weight.detach().numpy()
        self.vectors = self.embed(self.texts)
        labels = json.loads((Path(student) / "labels.json").read_text(encoding="utf-8"))
        self.reader = Reader(student, labels["gains"], max_length)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, H) under the static student; a text without tokens is zero."""
        pieces = self.pieces.encode_batch(texts, add_special_tokens=False)
        return token_means([text.ids for text in pieces], self.table).astype(np.float32)

    def compare(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and BM25 scores (Q, N) of queries with the whole catalogue."""
        return self.embed(queries) @ self.vectors.T, word_scores(self.words, queries)

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The student's expected gain (N,) of query–product pairs, each by itself."""
        return self.reader(queries, texts)

    def read(self, queries: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """The student's expected gain (Q · k,) of each of rows (Q, k)."""
        asked = [query for query, row in zip(queries, rows, strict=True) for _ in row]
        return self.score(asked, [self.texts[row] for row in rows.ravel()])

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """The k best products of the catalogue for a query, `depth` at most."""
        scores, rows = weighted(*self.compare([query]), self.weights.words, self.depth)
        scores += self.weights.reader * self.read([query], rows)
        scores, rows = rerank(rows, scores.ravel())
        return [
            Hit(self.ids[row], self.titles[row], float(score))
            for row, score in zip(rows[0, :k], scores[0, :k], strict=True)
        ]


def write(
    folder: Path | str,
    catalogue: Dataset,
    static: Path,
    exported: Path,
    profile: Profile,
    validation: Dataset,
) -> Path:
    """Write all that an engine needs into one folder, which `load` reads; return the folder.

    `exported` is what `run.exports` gives for a student. The weights of words and student are those
    with the best nDCG@10 on the queries of the validation pairs over the whole catalogue, where
    what nobody judged counts as irrelevant.
    """
    folder = Path(folder)
    working = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(working, ignore_errors=True)
    gains = pipeline.gains(validation)
    run.deploy(exported, working / "student", list(map(str, gains)), list(gains.values()))
    shutil.copytree(static, working / "static", ignore=shutil.ignore_patterns("manifest.json"))
    products = catalogue.select_columns(["product_id", *TEXT])
    products.to_parquet(str(working / "products.parquet"))
    engine = Engine(
        products.to_pandas(),
        working / "static",
        working / "student",
        profile.max_length,
        Weights(),
    )
    queries, quality = quality_on(validation, engine.ids)
    read = partial(engine.read, queries)
    weights = choose_weights(*engine.compare(queries), quality, read, engine.depth)
    settings = {"max_length": profile.max_length, "weights": asdict(weights)}
    write_text(working / "engine.json", json.dumps(settings))
    shutil.rmtree(folder, ignore_errors=True)
    working.replace(folder)
    return folder


def build(source: str | Path, profile: Profile, folder: Path | str) -> Path:
    """Train what an engine over a source needs, where it is not there yet, and `write` it."""
    catalogue = sources.catalogue(source, profile)
    data = pipeline.with_unlabelled(sources.load(source, profile), catalogue, profile)
    teacher = pipeline.teacher(data, profile)
    student = pipeline.student(data, profile, teacher_folder=teacher)
    wide = bi_encoder(data, catalogue, profile, teacher_folder=teacher)
    static = static_encoder(data, catalogue, profile, wide)
    exported = run.exports(student, profile)
    return write(folder, catalogue, static, exported, profile, data["validation"])


def load(folder: Path | str) -> Engine:
    """The engine that `write` wrote. Raises FileNotFoundError where the folder holds none."""
    folder = Path(folder)
    file = folder / "engine.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: there is no engine.json in it: write the folder with `ecomkd index` first."
        )
    settings = json.loads(file.read_text(encoding="utf-8"))
    return Engine(
        pd.read_parquet(folder / "products.parquet"),
        folder / "static",
        folder / "student",
        settings["max_length"],
        Weights(**settings["weights"]),
    )
