"""Recommendation on real baskets: quality on the test days, cost, and items that were never sold.

    python benchmarks/measure_recommendation.py journey --seeds 0   one seed, its own file
    python benchmarks/measure_recommendation.py ../data/online_retail --seeds 0
    python benchmarks/measure_recommendation.py --scale             cost, to ten times the data
    python benchmarks/measure_recommendation.py --merge             all files into the record

All users count, whatever the profile says. Settings of the rows without a network are chosen on the
validation days, networks are fitted to the days before these, and all numbers are about the test
days. A run that is started again finds its networks among the artefacts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

import shared
from ecomkd import bench, features, metrics, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey, retail
from ecomkd.data.baskets import Baskets
from shared import (
    GRIDS,
    SCALES,
    TIMED,
    above,
    best_of,
    ends,
    exact,
    grown,
    means,
    one_user,
    timed,
    waits,
)

TIMES = ("p50_ms", "p95_ms", "train_s")
MEASURES = ("recall", "ndcg", "repeats", "new_recall", "new_ndcg")
TEACHER, DISTILLED, ALONE = "teacher", "student, distilled", "student alone"
FEWER = "student, distilled on labelled days"
CHANCE, NEAREST = "chance, and whoever knows ids alone", "nearest text"
COLD = (
    (f"{NEAREST}, MiniLM", CHANCE),
    (f"{NEAREST}, MiniLM", f"{NEAREST}, TF-IDF"),
    (DISTILLED, CHANCE),
    (DISTILLED, f"{NEAREST}, TF-IDF"),
    (ALONE, f"{ALONE}, TF-IDF"),
    (ALONE, f"{ALONE}, one-hot"),
)
"""What transferred text should win, on items that were never sold: first against second."""


# One seed -----------------------------------------------------------------------------------------


def load(source: str) -> Baskets:
    return journey.load() if source == "journey" else retail.load(source)


def measure(source: str, seed: int) -> dict:
    """All systems on the test days of one shop: values per user, cost, and cold items."""
    profile, baskets = Profile.named(seed=seed), load(source)
    result: dict = {"systems": {}, "settings": {}, "cold": {}}
    for name, rank, further in systems(baskets, profile, result):
        found = recommend.evaluate(rank, baskets, baskets.test_start)
        per_user = found.pop("per_user")
        result["systems"][name] = {
            **found,
            **further,
            **waits(rank, per_user.index[:TIMED]),
            "user": per_user.index.tolist(),
            "per_user": per_user.astype(object).where(per_user.notna(), None).to_dict("list"),
        }
        print(f"seed {seed}: {name}: {found['recall']:.4f}, new {found['new_recall']:.4f}")
    return result


def systems(baskets: Baskets, profile: Profile, result: dict):
    """Each system's name, its ranker on the first test day, and further numbers of its own."""
    day = baskets.test_start
    yield "popularity", recommend.popular(baskets, day), {}
    makers = {
        "buy it again": recommend.buy_again,
        "item-kNN": recommend.item_knn,
        "matrix factorisation": partial(recommend.factors, seed=profile.seed),
    }
    for name, make in makers.items():
        chosen = best_of(make, GRIDS[name], baskets)
        result["settings"][name] = chosen
        yield name, make(baskets, day, **chosen), {}
    texts, codes = recommend.texts(baskets)
    tables = {"MiniLM": features.layers(texts, profile)[-1], **words(texts, profile.seed)}
    result["cold"] = neighbours(baskets, tables, codes)
    for vectors, table in tables.items():
        items = recommend.Items(baskets, table, recommend.FIRST, 64, profile)
        collator = recommend.BasketCollator(baskets)
        for name, (kind, folder) in networks(vectors, items, profile).items():
            model = recommend.load(folder, kind, items)
            shelf = recommend.Shelf(model, collator, day)
            score = partial(on_shelf, shelf)
            result["cold"][name] = by_user(recommend.evaluate_cold(score, baskets, day))
            log = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            further = {**size(shelf), "train_s": max(entry.get("seconds", 0) for entry in log)}
            yield name, recommend.network(shelf), further


def size(shelf: recommend.Shelf) -> dict[str, int]:
    """The bytes of the network's own weights, and of the tables of items beside it."""
    own = sum(weight.nbytes for weight in shelf.model.parameters())
    table = shelf.read.nbytes + shelf.offers.nbytes + shelf.demand.nbytes
    return {"network_bytes": own, "table_bytes": table}


def networks(vectors: str, items: recommend.Items, profile: Profile) -> dict:
    """The networks that read these vectors: their kind, and the folder of each."""
    large, small = recommend.BasketTransformer, recommend.DecayedMeans
    fitted = {"items": items, "start": items.baskets.validation_start, "profile": profile}
    alone = recommend.train(small, **fitted)
    if vectors != "MiniLM":
        return {f"{ALONE}, {vectors}": (small, alone)}
    teacher = recommend.train(large, **fitted)
    taught = recommend.train(small, **fitted, teacher=teacher)
    fewer = recommend.train(small, **fitted, teacher=teacher, further=False)
    return {
        TEACHER: (large, teacher),
        DISTILLED: (small, taught),
        FEWER: (small, fewer),
        ALONE: (small, alone),
    }


def words(texts: list[str], seed: int) -> dict[str, np.ndarray]:
    """Vectors (T, 384) of texts without transfer: by their words, and each text for itself, one-hot
    under a random projection, which is what a first layer makes of it."""
    weights = TfidfVectorizer(token_pattern=r"[^\s.]+").fit_transform(texts)
    width = min(384, weights.shape[1] - 1, len(texts) - 1)
    return {
        "TF-IDF": TruncatedSVD(width, random_state=seed).fit_transform(weights),
        "one-hot": np.random.default_rng(seed).standard_normal((len(texts), 384)),
    }


def neighbours(baskets: Baskets, tables: dict[str, np.ndarray], codes: np.ndarray) -> dict:
    """Recall among cold items by user, from a user's decayed purchases and nothing learnt."""
    day, found = baskets.test_start, {}
    past = recommend.history(baskets, day, 112.0)
    past.data = np.log1p(past.data)
    kept = {name: normalize(table - table.mean(axis=0)) for name, table in tables.items()}

    def nearest(users, items, vectors):
        return (past[users] @ vectors[codes]) @ vectors[codes[items]].T

    def chance(users, items):
        return np.zeros((len(users), len(items)))

    found[CHANCE] = chance
    found |= {f"{NEAREST}, {name}": partial(nearest, vectors=table) for name, table in kept.items()}
    return {
        name: by_user(recommend.evaluate_cold(score, baskets, day)) for name, score in found.items()
    }


def by_user(recall: pd.Series) -> dict:
    return {"user": recall.index.tolist(), "per_user": {"recall": recall.tolist()}}


def on_shelf(shelf: recommend.Shelf, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return shelf.scores(users)[:, items]


# Cost against size --------------------------------------------------------------------------------


def scale() -> list[dict]:
    """For shops of several sizes: what a night costs, what is kept, and a user's wait."""
    profile, whole, rows = Profile.named(seed=0), journey.load(), []
    for times in SCALES:
        baskets = grown(whole, times)
        day, texts = baskets.test_start, recommend.texts(baskets)[0]
        vectors = features.layers(texts, profile)[-1]
        items, read_s = timed(recommend.Items, baskets, vectors, recommend.FIRST, 64, profile)
        read_s += timed(items.on, day)[1]
        collator = recommend.BasketCollator(baskets)
        users = np.random.default_rng(0).permutation(recommend.users_before(baskets, day))[:TIMED]
        for kind in (recommend.BasketTransformer, recommend.DecayedMeans):
            model = kind(items).eval()
            shelf, shelf_s = timed(recommend.Shelf, model, collator, day)
            rank = recommend.network(shelf)
            together = bench.throughput(partial(one_user, rank), [users], len(users), warmup=1)
            rows.append(
                {
                    "users": len(baskets.users),
                    "items": len(baskets.items),
                    "purchases": len(baskets.events),
                    "network": kind.__name__,
                    "read_s": read_s,
                    "shelf_s": shelf_s,
                    "table_mb": size(shelf)["table_bytes"] / 1e6,
                    **waits(rank, users),
                    "users_per_second": together["per_second"],
                }
            )
            print(rows[-1])
    return rows


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path, untimed: Sequence[int] = ()) -> None:
    """Write the recorded result from the files of single seeds, without the times of `untimed`, and
    of the sizes."""
    data, goals, hardware, seeds = {}, [], None, []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts = shared.read(place, ("profile", "source"))
        hardware = parts[0]["hardware"]
        seeds = sorted({*seeds, *(part["seed"] for part in parts)})
        names = list(parts[0]["systems"])
        tables = {column: _values(parts, "systems", column) for column in MEASURES}
        cold = _values(parts, "cold", "recall")
        data[place.name] = {
            "seeds": [part["seed"] for part in parts],
            "timed_seeds": [part["seed"] for part in parts if part["seed"] not in untimed],
            "settings": [part["settings"] for part in parts],
            "users": len(tables["recall"]),
            "cold_users": len(cold),
            "rows": {name: _row(name, tables, parts, untimed) for name in names},
            "cold": {name: metrics.bootstrap_of_means(cold, itemgetter(name)) for name in cold},
            "minus": _differences(tables["recall"], tables["new_recall"].dropna()),
        }
        goals += _goals(place.name, tables["recall"], cold, data[place.name]["rows"])
    data["scale"] = shared.sizes(folder)
    told = f" --untimed {' '.join(map(str, untimed))}" if untimed else ""
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_recommendation.py SOURCE --seeds "
        f"{' '.join(map(str, seeds))}, --scale, --merge{told}",
        seeds=seeds,
        hardware=hardware,
        generator=None,
        data=data,
        goals=goals,
    )
    print(out)


def _values(parts: list[dict], kind: str, column: str) -> pd.DataFrame:
    """Users × systems, the mean over seeds."""
    tables = [
        pd.DataFrame(
            {name: pd.Series(row["per_user"][column], row["user"]) for name, row in found.items()},
            dtype=float,
        )
        for found in (part[kind] for part in parts)
    ]
    return means(tables)


def _row(name: str, tables: dict, parts: list[dict], untimed: Sequence[int]) -> dict:
    own = [part["systems"][name] for part in parts]
    timed = [part["systems"][name] for part in parts if part["seed"] not in untimed]
    row = {column: float(table[name].mean()) for column, table in tables.items()}
    for column in ("recall", "new_recall"):
        span = metrics.bootstrap_of_means(tables[column].dropna(), itemgetter(name))
        row |= {f"{column} low": span["low"], f"{column} high": span["high"]}
        row[f"{column} by seed"] = [seed[column] for seed in own]
    of_all = dict.fromkeys(("coverage", "novelty"), own)
    for column, those in (of_all | dict.fromkeys(TIMES, timed)).items():
        if column in own[0]:
            row[column] = float(np.median([seed[column] for seed in those]))
    return row | {name: own[0][name] for name in own[0] if name.endswith("_bytes")}


def _differences(recall: pd.DataFrame, new: pd.DataFrame) -> dict:
    pairs = {
        "distilled − alone": (DISTILLED, ALONE),
        "distilled on labelled days − alone": (FEWER, ALONE),
        "distilled − buy it again": (DISTILLED, "buy it again"),
        "teacher − buy it again": (TEACHER, "buy it again"),
    }
    return {
        name: {
            label: metrics.paired_bootstrap(table[a], table[b])
            for label, table in (("recall", recall), ("new_recall", new))
        }
        for name, (a, b) in pairs.items()
    }


def _goals(shop: str, recall: pd.DataFrame, cold: pd.DataFrame, rows: dict) -> list[dict]:
    kept = metrics.bootstrap_of_means(recall, lambda means: means[DISTILLED] / means[TEACHER])
    more = metrics.paired_bootstrap(recall[DISTILLED], recall[ALONE])
    student, teacher = rows[DISTILLED], rows[TEACHER]
    parts = {"network": ("network_bytes",), "network and table": ("network_bytes", "table_bytes")}
    small = {
        label: sum(student[name] for name in names) / sum(teacher[name] for name in names)
        for label, names in parts.items()
    }
    small["latency"] = student["p50_ms"] / teacher["p50_ms"]
    goals = [
        report.goal(
            f"{shop}: share of the teacher's recall@10 that the distilled student keeps",
            *ends(kept), "at least 0.97", kept["value"] >= 0.97,
        ),
        above(f"{shop}: recall@10, distilled minus undistilled", more),
    ]  # fmt: skip
    goals += [
        exact(f"{shop}: {name}, student over teacher", share, "at most 0.2", share <= 0.2)
        for name, share in small.items()
    ]
    for one, other in COLD:
        span = metrics.paired_bootstrap(cold[one], cold[other])
        goals.append(above(f"{shop}: cold items, recall@10, {one} minus {other}", span))
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommendation on real baskets.")
    parser.add_argument("source", nargs="?", default="journey", help="journey, or a path")
    parser.add_argument("--untimed", type=int, nargs="*", default=[], help="seeds without times")
    arguments = shared.arguments_of(parser, "recommendation")
    source = Path(arguments.source).name

    def measured(seed: int) -> dict:
        return {"source": source, **measure(arguments.source, seed)}

    shared.run(arguments, measured, partial(merge, untimed=arguments.untimed), scale, source)


if __name__ == "__main__":
    main()
