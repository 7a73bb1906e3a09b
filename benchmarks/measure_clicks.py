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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import click_judges
import shared
from click_students import (
    SEARCHED,
    SHARE,
    Asked,
    Ground,
    Log,
    fit,
    ground,
    logged,
    order_of,
    quality,
    scores_of,
)
from ecomkd import metrics, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.search import clicks

DATA = {"shop": "simulated shop", "msrd": "film queries"}
LOGS = (1_000, 10_000, 100_000)
ETAS = (0.0, 0.5, 1.0, 2.0)
CLIP = 10.0
"""The largest weight of a click, where weights are clipped."""
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
RESAMPLES = 2_000


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
        clicked += np.bincount(shown.ravel(), log.clicks.ravel(), size)
        seen += np.bincount(shown.ravel(), np.tile(looks, len(shown)), size)
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
        middle = one["judged"]["middle"]["idle"]["0"]["quotient"]
        what = (
            f"{DATA[name]}, the middle pair: searches of interleaving over those of A/B at its best"
        )
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
