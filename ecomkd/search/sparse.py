"""A sparse student for search: a network expands products into weighted terms, a query looks up.

Learned sparse retrieval as SPLADE has it (Formal et al. 2021, arXiv:2107.05720), with documents
alone expanded (SPLADE-doc, arXiv:2109.10086) and queries that run no network (Geng et al. 2024,
arXiv:2411.04403). A term is a piece of the tokenizer, and a score is the inner product of two
sparse vectors, so that posting lists serve it. Chapter 19.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from scipy import sparse
from sentence_transformers import SentenceTransformer
from torch import nn

from ecomkd import features, keys, losses, words
from ecomkd.artifacts import data_digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance.bi_encoders import encoder
from ecomkd.search.engine import DEPTH
from ecomkd.search.retrieve import word_scores
from ecomkd.search.tune import WORDS, weights_on

TOKENS = 64
"""Tokens of a product that are read."""
PENALTY = 0.03
"""Weight of the penalty on what products hold. On validation queries of the simulated shop it is
the largest one of a grid that comes within 0.005 nDCG@10 of the best."""
_SHARP, _LEAST = 6.0, 0.35
"""At the start a product holds a piece that one of its tokens has this cosine with, or more, and
its weight grows so steeply beyond it."""
TEMPERATURE = 0.05
"""Temperature of the softmax over the teacher's scores."""
_PASSES = 2
"""Passes over all queries."""
_BATCH = 64
"""Queries of a step."""
_NEAREST, _RANDOM = 8, 256
"""Products of a step: the best of each query under the teacher, and some at random."""
_DRAWN = 64
"""Pieces of a step that are drawn at random, beside those of its queries."""
_RATES = (1e-3, 3e-3)
"""Learning rates of the linear map, and of what each piece has for itself."""
_TEXTS = 512
"""Texts whose states are in memory at a time when products are expanded."""
_ROWS = 16
"""Products that are compared with the whole vocabulary at a time."""


class SparseHead(nn.Module):
    """What a sparse student learns: a linear map, and two numbers for each of V pieces.

    Each piece has a vector. A product's weight of a piece is log(1 + max(0, x)), where x is the
    largest inner product of its mapped vector with one of the product's token states, plus the
    piece's bias. A query's weight of a piece is the piece's idf times a factor.
    """

    def __init__(self, pieces: torch.Tensor, idf: torch.Tensor):
        """From vectors of the pieces (V, H), of length 1, and their idf (V,)."""
        super().__init__()
        self.register_buffer("pieces", pieces)
        self.register_buffer("idf", idf)
        self.map = nn.Parameter(_SHARP * torch.eye(pieces.shape[1]))
        self.bias = nn.Parameter(torch.full((len(pieces),), -_SHARP * _LEAST))
        self.log_factor = nn.Parameter(torch.zeros(len(pieces)))

    def forward(self, states: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Weights (N, C) of the `chosen` pieces in products of T token states (N, T, H)."""
        near = states @ (self.pieces[chosen] @ self.map).T
        return (near.amax(dim=1) + self.bias[chosen]).relu().log1p()


def sparse_loss(
    head: SparseHead,
    states: torch.Tensor,
    counts: torch.Tensor,
    chosen: torch.Tensor,
    wanted: torch.Tensor,
    penalty: float = PENALTY,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a sparse student learns by: a teacher's ranking, and few terms.

    `losses.listwise_kl` between the scores of both, and the FLOPS penalty (arXiv:2004.05665): the
    sum over pieces of the squared mean weight in the products. It is laid on a weight times the
    factor that the query side learnt, without the idf: so a rare piece may add more to a score for
    the same penalty (after arXiv:2411.04403), and no factor can evade it. Chapter 19 has the same
    loss on its page.

    Args:
        states: token states (N, T, H) of the products.
        counts: how often queries have each of the chosen pieces, (Q, C).
        chosen: numbers of pieces (C,).
        wanted: the teacher's scores (Q, N).
        penalty: weight of the penalty.
        kept: (N, C), 1 for a piece that a product may have; all without it.

    Returns:
        A scalar with a gradient.
    """
    products = head(states, chosen) * head.log_factor[chosen].exp()
    if kept is not None:
        products = products * kept
    found = (counts * head.idf[chosen]) @ products.T
    everything = torch.ones_like(wanted).bool()
    imitated = losses.listwise_kl(found, wanted / TEMPERATURE, everything)
    return imitated + penalty * products.mean(dim=0).square().sum()


@dataclass(frozen=True)
class SparseStudent:
    """A sparse student: its encoder reads products alone."""

    encoder: SentenceTransformer
    head: SparseHead
    expands: bool = True
    """Whether a product may have pieces that do not stand in its text."""

    def documents(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Weights (N, V) of products, float32."""
        parts = []
        for start in range(0, len(texts), _TEXTS):
            part = list(texts[start : start + _TEXTS])
            kept = None if self.expands else own_pieces(self.encoder, part)
            parts.append(expanded(self.head, token_states(self.encoder, part), self.terms, kept))
        return sparse.vstack(parts, "csr")

    def queries(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Weights (Q, V) of queries, float32: a look-up of each piece, and no network."""
        return piece_counts(self.encoder, texts).multiply(self.weights).tocsr()

    @property
    def weights(self) -> np.ndarray:
        """The weight (V,) of each piece in a query."""
        with torch.no_grad():
            return (self.head.idf * self.head.log_factor.exp()).numpy()

    @property
    def terms(self) -> np.ndarray:
        """The numbers of the pieces that a text can have: no special token is among them."""
        pieces = self.encoder.tokenizer
        names = pieces.convert_ids_to_tokens(range(len(pieces)))
        unused = {number for number, name in enumerate(names) if name.startswith("[unused")}
        return np.array(sorted(set(range(len(names))) - set(pieces.all_special_ids) - unused))

    def postings(self, documents: sparse.csr_matrix) -> words.Words:
        """Products (N, V) as posting lists: what each piece of a query adds to each product.

        `words.term_sums` adds them up for the pieces that the tokenizer cuts a query into.
        """
        adds = documents.multiply(self.weights).tocsc()
        adds.sort_indices()
        pieces = self.encoder.tokenizer
        numbers = {n: i for i, n in enumerate(pieces.convert_ids_to_tokens(range(len(pieces))))}
        data = adds.data.astype(np.float32)
        return words.Words(numbers, data, adds.indices, adds.indptr, adds.shape[0])


def expanded(
    head: SparseHead,
    states: torch.Tensor,
    chosen: np.ndarray,
    kept: sparse.csr_matrix | None = None,
) -> sparse.csr_matrix:
    """Weights (N, V), float32, of products from their states (N, T, H), for the chosen pieces.

    With `kept` (N, V) a product has only pieces that are above 0 there.
    """
    numbers, parts = torch.from_numpy(chosen), []
    with torch.inference_mode():
        for start in range(0, len(states), _ROWS):
            found = head(states[start : start + _ROWS].float(), numbers).numpy()
            rows, places = np.nonzero(found)
            shape = (len(found), len(head.pieces))
            part = sparse.csr_matrix((found[rows, places], (rows, chosen[places])), shape)
            parts.append(part if kept is None else part.multiply(kept[start : start + _ROWS] > 0))
    return sparse.vstack(parts, "csr")


def token_states(
    model: SentenceTransformer, texts: Sequence[str], tokens: int = TOKENS
) -> torch.Tensor:
    """States (N, T, H) of the first `tokens` of each text, at length 1, in half precision.

    A shorter text repeats its last one, which changes no maximum.
    """
    read, model.max_seq_length = model.max_seq_length, tokens
    # The first and the last token are special ones, whose states are left out.
    width = model[0].get_embedding_dimension()
    states = torch.empty(len(texts), tokens - 2, width, dtype=torch.half)
    longest = 1
    # What the encoder gives takes twice the memory, in single precision, so it comes in slices.
    for start in range(0, len(texts), _TEXTS):
        some = list(texts[start : start + _TEXTS])
        found = model.encode(some, output_value="token_embeddings", show_progress_bar=False)
        for row, one in enumerate(found, start):
            inner = one[1:-1] if len(one) > 2 else one
            unit = nn.functional.normalize(inner.float().cpu(), dim=1)
            states[row] = unit[torch.arange(states.shape[1]).clamp(max=len(unit) - 1)]
            longest = max(longest, len(unit))
    model.max_seq_length = read
    return states[:, :longest]


def piece_counts(
    model: SentenceTransformer, texts: Sequence[str], longest: int | None = None
) -> sparse.csr_matrix:
    """How often each text has each piece of the tokenizer, (N, V), float32.

    Of a text longer than `longest` tokens the first ones count.
    """
    pieces = model.tokenizer
    # The tokenizer keeps what it was told last of cutting, so each call tells it.
    cut = {"truncation": longest is not None, "max_length": longest, "verbose": False}
    ids = pieces(list(texts), add_special_tokens=False, **cut)["input_ids"]
    rows = np.repeat(np.arange(len(ids)), [len(own) for own in ids])
    columns = np.array([piece for own in ids for piece in own], dtype=np.int64)
    shape = (len(ids), len(pieces))
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)


def own_pieces(model: SentenceTransformer, texts: Sequence[str]) -> sparse.csr_matrix:
    """The pieces (N, V) that stand in what is read of each text."""
    return piece_counts(model, texts, TOKENS - 2)


def untrained_head(model: SentenceTransformer, texts: Sequence[str]) -> SparseHead:
    """The start: a product holds the pieces that the bi-encoder finds near one of its tokens.

    A piece's vector is what the bi-encoder makes of it by itself, its weight in a query the idf
    among the texts of the catalogue.
    """
    pieces = model.tokenizer
    names = pieces.convert_ids_to_tokens(range(len(pieces)))
    alone = [name.removeprefix("##") for name in names]
    vectors = features.encode(model, alone, batch_size=1024, normalize_embeddings=True)
    return SparseHead(torch.from_numpy(vectors), torch.from_numpy(piece_idf(model, texts)))


def piece_idf(model: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """The idf (V,), float32, of each piece of the tokenizer among texts."""
    having = np.asarray((piece_counts(model, texts) > 0).sum(axis=0)).ravel()
    return words.inverse_frequency(len(texts), having).astype(np.float32)


def fit(
    head: SparseHead,
    states: torch.Tensor,
    queries: sparse.csr_matrix,
    answers: Callable[[np.ndarray], np.ndarray],
    seed: int,
    penalty: float = PENALTY,
    kept: sparse.csr_matrix | None = None,
) -> None:
    """Train a head to rank the products as a teacher does.

    Args:
        states: of all products, (N, T, H).
        queries: how often each has each piece, (Q, V).
        answers: gives the teacher's scores (B, N) of queries by their rows (B,).
        kept: as in `expanded`.
    """
    of_pieces = [head.bias, head.log_factor]
    rates = zip(([head.map], of_pieces), _RATES, strict=True)
    optimizer = torch.optim.Adam([{"params": params, "lr": rate} for params, rate in rates])
    rng = np.random.default_rng(seed)
    products, pieces = len(states), len(head.pieces)
    for _ in range(_PASSES):
        order = rng.permutation(queries.shape[0])
        for batch in np.array_split(order, -(-len(order) // _BATCH)):
            asked, wanted = queries[batch], answers(batch).astype(np.float32)
            best = np.argpartition(-wanted, min(_NEAREST, products) - 1)[:, :_NEAREST]
            shown = np.union1d(best, rng.choice(products, min(_RANDOM, products), replace=False))
            drawn = rng.choice(pieces, min(_DRAWN, pieces), replace=False)
            chosen = np.union1d(asked.indices, drawn)
            loss = sparse_loss(
                head,
                states[shown].float(),
                torch.from_numpy(asked[:, chosen].toarray()),
                torch.from_numpy(chosen),
                torch.from_numpy(wanted[:, shown]),
                penalty,
                None if kept is None else torch.from_numpy(kept[shown][:, chosen].toarray() > 0),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def sparse_encoder(
    data: DatasetDict, catalogue: Dataset, profile: Profile, teacher_folder: Path
) -> Path:
    """The folder of a sparse student, which `load_sparse` reads.

    The bi-encoder in `teacher_folder` reads the products, and stays as it is; the head starts from
    what the bi-encoder makes of each piece (see `untrained_head`). Then it learns how the sum of
    the bi-encoder's cosine and BM25 ranks the catalogue for the training and the unlabelled
    queries, with the weight of BM25 that is best on the validation queries. Token states of all
    products are held in memory.
    """
    asked = [*data["train"]["query"], *data["unlabelled"]["query"]]
    queries, texts = list(dict.fromkeys(asked)), product_text(catalogue[:])

    def make(folder: Path) -> None:
        model = encoder(teacher_folder, profile)
        head = untrained_head(model, texts)
        answers = whole_search(model, data["validation"], catalogue, queries)
        counts = piece_counts(model, queries)
        fit(head, token_states(model, texts), counts, answers, profile.seed)
        save_sparse(SparseStudent(model, head), folder)

    parts = [
        keys.identity(teacher_folder),
        queries,
        keys.digests(data["validation"]),
        data_digest(catalogue, ("product_id", *TEXT)),
        keys.settings_of(profile),
        [TOKENS, PENALTY, _SHARP, _LEAST, TEMPERATURE, _PASSES, _BATCH, _NEAREST, _RANDOM],
        [_DRAWN, list(_RATES), list(WORDS), DEPTH],
    ]
    return stage("sparse_encoder", parts, make, profile.artifacts, recipe=1)


def whole_search(
    model: SentenceTransformer, validation: Dataset, catalogue: Dataset, queries: Sequence[str]
) -> Callable[[np.ndarray], np.ndarray]:
    """The sum of a bi-encoder and BM25 as a teacher: scores (B, N) of queries by their rows (B,).

    The weight of BM25 is the best one on the queries of the validation pairs.
    """
    texts = product_text(catalogue[:])
    kept, index = features.encode(model, texts), words.bm25(texts)

    def compare(some: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return features.encode(model, some) @ kept.T, word_scores(index, some)

    def unread(_: Sequence[str], rows: np.ndarray) -> np.ndarray:
        return np.zeros(rows.size)

    weight = weights_on(validation, catalogue["product_id"], compare, unread, DEPTH).words
    asked = features.encode(model, queries)

    def answers(rows: np.ndarray) -> np.ndarray:
        return asked[rows] @ kept.T + weight * word_scores(index, [queries[row] for row in rows])

    return answers


def save_sparse(student: SparseStudent, folder: Path) -> None:
    """Write a sparse student into an empty folder: its encoder with the tokenizer, and its head."""
    student.encoder.save_pretrained(str(folder / "encoder"), create_model_card=False)
    save_file(student.head.state_dict(), folder / "head.safetensors")
    write_text(folder / "sparse.json", json.dumps({"expands": student.expands}))


def load_sparse(folder: Path | str, profile: Profile) -> SparseStudent:
    """A saved sparse student. Raises FileNotFoundError where the folder holds none."""
    told = json.loads((Path(folder) / "sparse.json").read_text(encoding="utf-8"))
    saved = load_file(Path(folder) / "head.safetensors")
    head = SparseHead(saved["pieces"], saved["idf"])
    head.load_state_dict(saved)
    return SparseStudent(encoder(Path(folder) / "encoder", profile), head.eval(), told["expands"])
