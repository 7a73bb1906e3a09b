"""Students of clicks: queries and candidates, a log of searches, a network over frozen vectors.

`measure_clicks.py` measures them. Chapter 19.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import nn

import msrd_part
import shared
from ecomkd import features, metrics, runtime
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.relevance import baselines, judge, lexical
from ecomkd.search import clicks

SHARE = 0.1
"""Of the searches whose list is changed, to estimate propensities."""
ASKED = 1_000
"""Training queries of `msrd` that are searched for."""
HELD_OUT = 200
"""Validation queries of `msrd` that are."""
SEARCHED = ("train", "validation")
HIDDEN, RATE, DROPOUT, BATCH = 64, 1e-3, 0.2, 64
RANK_RATE = 0.03
"""Of the terms of the ranks, which have further to go than a weight."""
PASSES, PATIENCE = 40, 4
SIGNALS = 2 + len(lexical.LEXICAL)


# Queries and their candidates, in the order in which they are shown -------------------------------


@dataclass(frozen=True)
class Asked:
    """Q queries with K candidates each, ordered by the ranker whose list is logged."""

    queries: torch.Tensor
    """(Q, H), unit vectors."""
    rows: np.ndarray
    """(Q, K), of the candidates in the products' vectors; 0 where `mask` is False."""
    mask: torch.Tensor
    """(Q, K)."""
    signals: torch.Tensor
    """(Q, K, SIGNALS), in standard units of the query: BM25, the cosine, lexical.LEXICAL."""
    gains: np.ndarray
    """(Q, K), 0 where `mask` is False."""
    ids: list[str]

    def part(self, kept: np.ndarray) -> Asked:
        names = [self.ids[place] for place in np.flatnonzero(kept)]
        own = [one[kept] for one in (self.queries, self.rows, self.mask, self.signals, self.gains)]
        return Asked(*own, names)


@dataclass(frozen=True)
class Ground:
    """What all seeds of a source share."""

    parts: dict[str, Asked]
    products: torch.Tensor
    """(P, H), unit vectors."""


def ground(name: str, profile: Profile) -> Ground:
    """The queries of a source, by split.

    The queries of `msrd` that are searched for are drawn by a hash of their ids; those of them
    with fewer candidates than the others are left out, so that all lists are equally long.
    """
    source = name if name == "shop" else shared.real_folder(name)
    data, catalogue = sources.load(source, profile), sources.catalogue(source, profile)
    texts = dict(zip(catalogue["product_id"], sources.product_text(catalogue[:]), strict=True))
    place = {product: row for row, product in enumerate(texts)}
    products = unit(features.last_layer(list(texts.values()), profile))
    told = lexical.lexical_signals(catalogue)
    parts = {}
    for split, most in (("train", ASKED), ("validation", HELD_OUT), ("test", None)):
        pairs = data[split]
        if name == "msrd" and most:
            kept = set(msrd_part.drawn(pairs["query_id"])[:most])
            pairs = pairs.select([row for row, one in enumerate(pairs["query_id"]) if one in kept])
        found = asked_of(
            pairs, baselines.bm25_scores(pairs, catalogue), told(pairs), place, products, profile
        )
        if split != "test":
            found = found.part(found.mask.all(dim=1).numpy())
        parts[split] = found
    return Ground(parts, products)


def unit(vectors: np.ndarray) -> torch.Tensor:
    return nn.functional.normalize(torch.from_numpy(vectors), dim=1)


def asked_of(
    pairs: Dataset,
    bm25: np.ndarray,
    words: np.ndarray,
    place: dict[str, int],
    products: torch.Tensor,
    profile: Profile,
) -> Asked:
    """The queries of judged pairs; those without a relevant product are left out.

    `bm25` (N,) is the order in which candidates are shown; `words` (N, W) are further signals.
    """
    gains = judge.worth(pairs)
    groups: dict[str, list[int]] = {}
    for row, query in enumerate(pairs["query_id"]):
        groups.setdefault(query, []).append(row)
    groups = {query: np.array(own) for query, own in groups.items() if gains[own].any()}
    texts, items = list(pairs["query"]), np.array([place[one] for one in pairs["product_id"]])
    names = [texts[own[0]] for own in groups.values()]
    distinct = list(dict.fromkeys(names))
    encoded = unit(features.last_layer(distinct, profile))
    queries = encoded[[distinct.index(name) for name in names]]
    shape = len(groups), max(map(len, groups.values()))
    rows, mask, worth = np.zeros(shape, int), np.zeros(shape, bool), np.zeros(shape)
    signals = np.zeros((*shape, SIGNALS), np.float32)
    for query, own in enumerate(groups.values()):
        own = own[np.argsort(-bm25[own], kind="stable")]
        size = len(own)
        rows[query, :size], mask[query, :size], worth[query, :size] = items[own], True, gains[own]
        cosine = (products[items[own]] @ queries[query]).numpy()
        every = np.column_stack([bm25[own], cosine, words[own]])
        signals[query, :size] = (every - every.mean(0)) / (every.std(0) + 1e-6)
    return Asked(
        queries, rows, torch.from_numpy(mask), torch.from_numpy(signals), worth, list(groups)
    )


# The log ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """N searches: the query of each, the column that was swapped, and the clicks as shown."""

    query: np.ndarray
    swapped: np.ndarray
    clicks: np.ndarray
    """(N, K)."""

    def first(self, count: int) -> Log:
        return Log(self.query[:count], self.swapped[:count], self.clicks[:count])

    def unchanged(self) -> Log:
        own = self.swapped == 0
        return Log(self.query[own], self.swapped[own], self.clicks[own])

    def worth(self, inverse: np.ndarray, queries: int) -> torch.Tensor:
        """(Q, K): the clicks of each product of a query, each times `inverse` (K,) of its rank."""
        found = np.zeros((queries, self.clicks.shape[1]))
        np.add.at(found, self.query, clicks.swap(self.clicks * inverse, self.swapped))
        return torch.from_numpy(found).float()


def logged(asked: Asked, searches: int, eta: float, rng: np.random.Generator) -> Log:
    """Searches whose queries are drawn alike."""
    query = rng.integers(len(asked.ids), size=searches)
    swapped = clicks.swaps(searches, asked.rows.shape[1], rng, SHARE)
    shown = clicks.swap(clicks.attraction(asked.gains)[query], swapped)
    return Log(query, swapped, clicks.click(shown, rng, eta))


# Students -----------------------------------------------------------------------------------------


class Student(nn.Module):
    """A score for each candidate from the two vectors' products, number by number, and signals."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(width + SIGNALS, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1)
        )
        self.plain = nn.Linear(SIGNALS, 1, bias=False)
        self.rank = nn.Parameter(torch.zeros(depth))
        """What a rank adds in training, where it is learnt."""

    def forward(self, asked: Asked, products: torch.Tensor, places) -> torch.Tensor:
        """(B, K), −∞ where there is no candidate."""
        rows = torch.from_numpy(asked.rows[places])
        query, signals = asked.queries[places], asked.signals[places]
        near = query.unsqueeze(1) * products[rows] * query.shape[1] ** 0.5
        found = self.inner(torch.cat([near, signals], dim=2)) + self.plain(signals)
        return found.squeeze(2).masked_fill(~asked.mask[places], -1e9)


def loss_of(scores: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
    """Σ worth · −log softmax: linear in the worth, so that worth with the right mean is enough."""
    return -(worth * scores.log_softmax(dim=1)).sum()


def fit(
    base: Ground, worth: dict[str, torch.Tensor], seed: int, ranks: bool = False
) -> tuple[Student, int]:
    """A student of what the candidates of training queries are worth (Q, K), and its passes.

    It keeps the weights of the pass after which the loss on validation's worth is lowest. `ranks`
    adds a term of the rank in training.
    """
    train = base.parts["train"]
    draw, known = np.random.default_rng(seed), np.flatnonzero(worth["train"].sum(1) > 0)
    scale = float(worth["train"].sum() / len(known))
    with runtime.seeded(seed):
        model = Student(base.products.shape[1], train.rows.shape[1])
        weights = [*model.inner.parameters(), *model.plain.parameters()]
        groups = [{"params": weights}, {"params": [model.rank], "lr": RANK_RATE, "weight_decay": 0}]
        optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01)
        best, kept, since = np.inf, None, 0
        for done in range(1, PASSES + 1):
            model.train()
            order = draw.permutation(known)
            for places in np.array_split(order, -(-len(order) // BATCH)):
                scores = model(train, base.products, places) + ranks * model.rank
                loss = loss_of(scores, worth["train"][places]) / (scale * len(places))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            found = scores_of(model, base, "validation") + ranks * model.rank.detach()
            now = float(loss_of(found, worth["validation"]))
            if now < best:
                best, kept, since, passes = now, copy.deepcopy(model.state_dict()), 0, done
            elif (since := since + 1) == PATIENCE:
                break
    model.load_state_dict(kept)
    return model, passes


def scores_of(model: Student, base: Ground, split: str) -> torch.Tensor:
    """(Q, K) of a split, without a gradient."""
    model.eval()
    asked = base.parts[split]
    places = np.array_split(np.arange(len(asked.ids)), -(-len(asked.ids) // 256))
    with torch.no_grad():
        return torch.cat([model(asked, base.products, own) for own in places])


def order_of(scores) -> np.ndarray:
    """(Q, K): the columns of each query's candidates, the best first; ties as they are shown."""
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")


def quality(asked: Asked, order: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query, (Q,)."""
    return metrics.ndcg_of_gains(np.take_along_axis(asked.gains, order, axis=1), asked.gains)
