"""Clicks as labels, and as judges: what students learn from them, and how soon they tell.

    python benchmarks/measure_clicks.py shop --seeds 0 1 2 3 4     one file for each seed
    python benchmarks/measure_clicks.py msrd --seeds 0 1 2 3 4
    python benchmarks/measure_clicks.py --merge                    all files into one record

`msrd` needs ECOMKD_REAL_DATA: its queries and labels are real, and the clicks on them simulated as
those of the shop are. The candidates of a query are shown in the order of BM25. A shopper looks at
rank r with probability 1 / r^η and clicks what was looked at with a probability that grows with
the gain of its label (`ecomkd.search.clicks`). In a tenth of the searches the first product has
changed places with another one, and that is all that propensities are estimated from.

A student is a small network over frozen features of a pair. It learns from labels, or from the
clicks of 1,000 to 100,000 searches: as they are, or weighed by inverse propensities, known or
estimated, whole or clipped, or beside a term for the rank that is left out when it serves. How long
it trains is chosen on other queries by what it learns from: no student of clicks sees a label.
All are judged on test queries by labels. Then pairs of students are told apart by clicks alone.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

import click_judges
import msrd_part
import shared
from ecomkd import features, metrics, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import baselines, judge, lexical
from ecomkd.search import clicks

DATA = {"shop": "simulated shop", "msrd": "film queries"}
LOGS = (1_000, 10_000, 100_000)
ETAS = (0.0, 0.5, 1.0, 2.0)
SHARE = 0.1
"""Of the searches whose list is changed, to estimate propensities."""
CLIP = 10.0
"""The largest weight of a click, where weights are clipped."""
ASKED = 1_500
"""Training queries of `msrd` that are searched for."""
HELD_OUT = 300
"""Validation queries of `msrd` that are."""
SEARCHED = ("train", "validation")
LOGGED, LABELS = "BM25, as logged", "labels"
NAIVE, KNOWN, ESTIMATED = "clicks as they are", "known propensities", "estimated propensities"
KNOWN_CLIPPED, ESTIMATED_CLIPPED = "known, clipped", "estimated, clipped"
TERM = "rank as a term"
FREE = "cosine, untrained"
ROWS = (NAIVE, KNOWN, KNOWN_CLIPPED, ESTIMATED, ESTIMATED_CLIPPED, TERM)
SWEPT = (NAIVE, ESTIMATED)
PRODUCT_RATE, PRODUCT_LOOKS = "click rate of the product", "clicks per look of the product"
PAIRS = {
    "large": (LABELS, LOGGED),
    "middle": (f"{ESTIMATED}, {max(LOGS)}", f"{NAIVE}, {max(LOGS)}"),
    "small": (f"{ESTIMATED}, {max(LOGS)}", f"{ESTIMATED}, {min(LOGS)}"),
}
"""Of each pair the better one by labels stands first, as a shop of another seed had them."""
HIDDEN, RATE, DROPOUT, BATCH = 64, 1e-3, 0.2, 64
RANK_RATE = 0.03
"""Of the terms of the ranks, which have further to go than a weight."""
PASSES, PATIENCE = 40, 4
SIGNALS = 2 + len(lexical.LEXICAL)
RESAMPLES = 2_000


# Queries and their candidates, in the order in which they are shown --------------------------------


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


# One seed -----------------------------------------------------------------------------------------


def learnt(base: Ground, logs: dict[str, Log], eta: float, seed: int, rows: Sequence[str]) -> dict:
    """The named students of a log, each as the order of the test candidates and its passes, and
    the propensities that were estimated."""
    depth = base.parts["train"].rows.shape[1]
    known, plain = clicks.examined(depth, eta), np.ones(depth)
    seen = np.concatenate([log.clicks for log in logs.values()])
    estimated = clicks.propensities(seen, np.concatenate([log.swapped for log in logs.values()]))
    inverse = {
        NAIVE: plain,
        KNOWN: 1 / known,
        KNOWN_CLIPPED: np.minimum(1 / known, CLIP),
        ESTIMATED: 1 / estimated,
        ESTIMATED_CLIPPED: np.minimum(1 / estimated, CLIP),
        TERM: plain,
    }
    found = {}
    for row in rows:
        # A term for the rank reads lists in which each product stood at its own.
        own = {name: log.unchanged() for name, log in logs.items()} if row == TERM else logs
        sizes = {name: len(base.parts[name].ids) for name in own}
        worth = {name: log.worth(inverse[row], sizes[name]) for name, log in own.items()}
        model, passes = fit(base, worth, seed, ranks=row == TERM)
        found[row] = order_of(scores_of(model, base, "test")), passes
    return {"orders": found, "estimated": estimated.tolist()}


def by_product(base: Ground, logs: dict[str, Log], looks: np.ndarray) -> np.ndarray:
    """The order of the test candidates by the clicks of each product in all its searches, over how
    often its ranks are looked at, `looks` (K,); as if each had been shown ten times more."""
    size = len(base.products)
    clicked, seen = np.zeros(size), np.zeros(size)
    for name, log in logs.items():
        shown = clicks.swap(base.parts[name].rows[log.query], log.swapped)
        np.add.at(clicked, shown, log.clicks)
        np.add.at(seen, shown, looks)
    mean = clicked.sum() / seen.sum()
    rate = (clicked + 10 * mean) / (seen + 10)
    test = base.parts["test"]
    return order_of(np.where(test.mask, rate[test.rows], -1))


class Found:
    """The order of the test candidates by each row, its nDCG@10 of each query, and its passes."""

    def __init__(self, test: Asked):
        self.test = test
        self.orders: dict[str, np.ndarray] = {}
        self.values: dict[str, list[float]] = {}
        self.passes: dict[str, int] = {}

    def add(self, name: str, order: np.ndarray, passes: int = 0) -> None:
        self.orders[name] = order
        self.values[name] = quality(self.test, order).round(6).tolist()
        if passes:
            self.passes[name] = passes


def by_chance(test: Asked) -> list[float]:
    """The nDCG@10 of each test query that a random order has in the mean."""
    mask = test.mask.numpy()
    sizes = mask.sum(axis=1, keepdims=True)
    mean = np.where(mask, test.gains.sum(axis=1, keepdims=True) / sizes, 0)
    return metrics.ndcg_of_gains(mean, test.gains).round(6).tolist()


def of_both(base: Ground, searches: int) -> dict[str, int]:
    """How many of the searches fall to the training and to the validation queries."""
    sizes = {name: len(base.parts[name].ids) for name in SEARCHED}
    own = round(searches * sizes["train"] / sum(sizes.values()))
    return {"train": own, "validation": searches - own}


def measured(base: Ground, seed: int) -> dict:
    """nDCG@10 of each test query for all rows of one seed, and what clicks say of pairs of them."""
    test, found = base.parts["test"], Found(base.parts["test"])
    signals = np.where(test.mask[..., None], test.signals, -np.inf)
    shown = np.tile(np.arange(test.rows.shape[1]), (len(test.ids), 1))
    found.add(LOGGED, shown)
    found.add(FREE, order_of(signals[..., 1]))
    found.add("words and cosine, untrained", order_of(signals[..., :2].sum(axis=2)))
    found.values["random"] = by_chance(test)
    labels = {name: torch.from_numpy(base.parts[name].gains).float() for name in SEARCHED}
    model, passes = fit(base, labels, seed)
    found.add(LABELS, order_of(scores_of(model, base, "test")), passes)
    estimates = {}
    for eta in ETAS:
        logs = {
            name: logged(base.parts[name], searches, eta, np.random.default_rng([seed, place]))
            for place, (name, searches) in enumerate(of_both(base, max(LOGS)).items())
        }
        for count in LOGS if eta == 1 else LOGS[-1:]:
            own = {name: logs[name].first(n) for name, n in of_both(base, count).items()}
            rows = ROWS if eta == 1 else SWEPT
            told = learnt(base, own, eta, seed, rows)
            where = f"{count}" if eta == 1 else f"{count}, eta {eta:g}"
            estimates[where] = told["estimated"]
            for row, (order, passes) in told["orders"].items():
                found.add(f"{row}, {where}", order, passes)
            if eta == 1:
                plain = np.ones(len(told["estimated"]))
                found.add(f"{PRODUCT_RATE}, {where}", by_product(base, own, plain))
                looks = np.array(told["estimated"])
                found.add(f"{PRODUCT_LOOKS}, {where}", by_product(base, own, looks))
    rng = np.random.default_rng([seed, 9])
    attraction = np.where(test.mask, clicks.attraction(test.gains), 0)
    judged = {
        name: click_judges.pair(attraction, found.orders[a], found.orders[b], rng)
        for name, (a, b) in PAIRS.items()
    }
    return {
        "queries": test.ids,
        "values": found.values,
        "passes": found.passes,
        "estimated": estimates,
        "judged": judged,
        "same": click_judges.same(attraction, found.orders[PAIRS["middle"][0]], rng),
        "sizes": {name: len(part.ids) for name, part in base.parts.items()},
    }


# The record ---------------------------------------------------------------------------------------


def summary(seeds: Sequence[dict]) -> dict:
    """The rows, comparisons and judges of one source, over its seeds and test queries."""
    values = {name: np.array([one["values"][name] for one in seeds]) for name in seeds[0]["values"]}

    def span(*names: str, how: Callable | None = None) -> dict:
        table = values[names[0]] - values[names[1]] if how is None else None
        if how is not None:
            table = np.stack([values[name] for name in names], axis=2)
        return metrics.two_way_bootstrap(table, how, RESAMPLES)

    def row(name: str) -> dict:
        return metrics.two_way_bootstrap(values[name], resamples=RESAMPLES)

    def share(means: np.ndarray) -> np.ndarray:
        return (means[:, 0] - means[:, 2]) / (means[:, 1] - means[:, 2])

    compared = [
        (f"{one}, {count}", f"{other}, {count}")
        for count in LOGS
        for one, other in (
            (ESTIMATED, NAIVE),
            (ESTIMATED, KNOWN),
            (ESTIMATED, TERM),
            (ESTIMATED_CLIPPED, ESTIMATED),
            (KNOWN_CLIPPED, KNOWN),
            (TERM, NAIVE),
        )
    ]
    compared += [(f"{ESTIMATED}, {count}", FREE) for count in LOGS]
    compared += [(f"{NAIVE}, {count}", LOGGED) for count in LOGS]
    compared += [(LABELS, FREE), (LABELS, f"{ESTIMATED}, {max(LOGS)}")]
    top = max(LOGS)
    swept = [f"{top}" if eta == 1 else f"{top}, eta {eta:g}" for eta in ETAS]
    compared += [
        (f"{ESTIMATED}, {where}", f"{NAIVE}, {where}") for where in swept if "eta" in where
    ]
    judged = {
        name: {
            "better": a,
            "worse": b,
            "ndcg": span(a, b),
            "right": {
                judge: [one["judged"][name]["right"][judge] for one in seeds]
                for judge in seeds[0]["judged"][name]["right"]
            },
            **click_judges.needs([one["judged"][name] for one in seeds], RESAMPLES),
        }
        for name, (a, b) in PAIRS.items()
    }
    return {
        "queries": len(seeds[0]["queries"]),
        "searched": {name: seeds[0]["sizes"][name] for name in SEARCHED},
        "rows": {name: row(name) for name in values},
        "comparisons": [{"system": a, "against": b, **span(a, b)} for a, b in compared],
        "kept": {
            name: span(name, LABELS, LOGGED, how=share)
            for name in values
            if any(name == f"{one}, {count}" for one in ROWS for count in LOGS)
        },
        "passes": {name: [one["passes"][name] for one in seeds] for name in seeds[0]["passes"]},
        "estimated": {
            where: np.mean([one["estimated"][where] for one in seeds], axis=0).tolist()
            for where in seeds[0]["estimated"]
        },
        "judged": judged,
        "false alarms": {
            judge: {
                looks: shared.over_seeds([one["same"][judge][looks] for one in seeds])
                for looks in seeds[0]["same"][judge]
            }
            for judge in seeds[0]["same"]
        },
    }


def goals(found: dict[str, dict]) -> list[dict]:
    """What clicks are to give, as labels and as judges, on each source."""
    entries, top = [], max(LOGS)
    for name, one in found.items():
        system, other = f"{ESTIMATED}, {top}", f"{NAIVE}, {top}"
        (gain,) = (
            pair
            for pair in one["comparisons"]
            if (pair["system"], pair["against"]) == (system, other)
        )
        what = f"{DATA[name]}, {top:,} searches, nDCG@10: estimated propensities minus naive clicks"
        entries.append(shared.above(what, gain))
        kept = one["kept"][system]
        what = f"{DATA[name]}, {top:,} searches: share of what labels gain over the logged list"
        met = bool(kept["value"] >= 0.9)
        entries.append(report.goal(what, *shared.ends(kept), "at least 0.9", met))
        middle = one["judged"]["middle"]["quotients"]["A/B"]
        what = f"{DATA[name]}, the middle pair: searches of interleaving over those of A/B"
        met = bool(middle["value"] <= 0.1)
        entries.append(report.goal(what, *shared.ends(middle), "at most 0.1", met))
    return entries


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds."""
    same = ["profile", "queries", "sizes"]
    seeds = {name: shared.read(folder / name, same) for name in DATA}
    found = {name: summary(own) for name, own in seeds.items()}
    model = {
        "looks": "1 / rank^eta",
        "eta": 1.0,
        "attraction": {"noise": clicks.NOISE, "most": clicks.MOST},
        "swapped": SHARE,
        "searches": list(LOGS),
        "etas": list(ETAS),
        "page": click_judges.DEPTH,
        "look": click_judges.LOOK,
        "looks of an experiment": click_judges.LOOKS,
        "experiments": click_judges.TRIALS,
    }
    report.write_recorded(
        out,
        command=shared.command("clicks", seeds).replace(", --scale", ""),
        seeds=sorted({one["seed"] for own in seeds.values() for one in own}),
        hardware=seeds["msrd"][0]["hardware"],
        generator=shop.generator_hash(),
        data={"model": model, **found},
        goals=goals(found),
    )
    print(f"Wrote {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Clicks as labels, and as judges.")
    arguments = shared.arguments_of(parser, "clicks", kinds=tuple(DATA), scaled=False)
    torch.set_num_threads(1)
    base = ground(arguments.kind, Profile.named("book")) if arguments.seeds else None
    shared.run(
        arguments, lambda seed: measured(base, seed), merge, part=arguments.kind if base else ""
    )


if __name__ == "__main__":
    main()
