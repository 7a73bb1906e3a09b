"""Which parts of a recommender move to another shop, chosen there; and rivals that learn nothing.

    python benchmarks/measure_cross_parts.py --seeds 0 1 2 3 4   one file a seed
    python benchmarks/measure_cross_parts.py --merge             all files into the record

From The Complete Journey to Online Retail, whose folder ECOMKD_REAL_DATA names, as in
benchmarks/measure_cross_platform.py: the source is fitted to the days before its own validation,
the baskets of a share of the target's customers are known, and all customers are asked. Nothing is
trained in the target. Of text and taste, habits, sales, and price each is the source's or as it is
drawn: of the sixteen networks the validation days of the known customers choose one for recall of
all items and one for recall of new items. The settings of user-kNN are chosen there too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

import other_shop
import shared
from ecomkd import recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey, retail
from ecomkd.data.baskets import Baskets
from measure_cross_platform import (
    BUY_AGAIN,
    GRIDS,
    KIND,
    SHARES,
    basket_count,
    best_of,
    by_user,
    classical,
    encoded,
    ranker,
    subsets,
)
from shared import above, over_known

PIECES = {"text and taste": ("text", "taste"), "habits": ("habits",), "sales": ("sales",),
          "price": ("price",)}  # fmt: skip
GOALS = {"recall": "all items", "new_recall": "new items"}
NEAR, RANDOM, WHOLE, DRAWN = "user-kNN", "random", "zero-shot", "drawn"
CHOSEN = {goal: f"parts chosen for {told}" for goal, told in GOALS.items()}
HABITS, BOTH = "habits alone", "habits and sales alone"
GRID = {"neighbours": (20, 50, 100, 200, 400), "scale": (56.0, 112.0, 224.0),
        "window": (14, 28, 56, 112), "share": (0.1, 0.3, 1.0, 3.0, 10.0)}  # fmt: skip


def measure(seed: int) -> dict:
    """The values of each customer for every row, at each share of the customers."""
    profile = Profile.named(seed=seed)
    whole, target = journey.load(), retail.load(shared.real_folder("online_retail"))
    items = recommend.Items(whole, encoded(whole), recommend.FIRST, 64, profile)
    source = recommend.train(KIND, items, whole.validation_start, profile)
    scale = best_of(recommend.buy_again, GRIDS[BUY_AGAIN], whole)
    vectors, points = encoded(target), []
    for users in subsets(target, SHARES, target.test_start, seed):
        own = other_shop.items_of(target, users, vectors, profile)
        rows, chosen = networks(target, own, users, source, profile)
        rows |= classical(target, users, scale)
        rows[RANDOM] = at_random(target, seed)
        if len(users):
            rows |= near(target, users)
        point = {"baskets": basket_count(target, users, target.test_start), "chosen": chosen}
        point["rows"] = {
            name: by_user(recommend.evaluate(rank, target, target.test_start))
            for name, rank in rows.items()
        }
        points.append(point)
        told = {name: round(float(np.nanmean(row["recall"])), 4)
                for name, row in point["rows"].items()}  # fmt: skip
        print(f"{seed}: {point['baskets']} baskets {chosen} {told}", flush=True)
    return {"points": points}


def networks(
    baskets: Baskets, items: recommend.Items, users: np.ndarray, source: Path, profile: Profile
) -> tuple[dict[str, recommend.Ranker], dict]:
    """Rankers of fixed parts and of chosen ones, and which were chosen; with no customer known
    there is nothing to choose by, and everything moves."""

    def model(own: Sequence[str]) -> recommend.Recommender:
        parts = [part for piece in own for part in PIECES[piece]]
        return other_shop.untrained(KIND, items, profile, source, parts)

    fixed = {WHOLE: tuple(PIECES), DRAWN: (), HABITS: ("habits",), BOTH: ("habits", "sales")}
    chosen = dict.fromkeys(GOALS, tuple(PIECES))
    if len(users):
        known, day = other_shop.told_by(baskets, users), baskets.validation_start
        tried = {}
        for flags in product((True, False), repeat=len(PIECES)):
            own = tuple(piece for piece, kept in zip(PIECES, flags, strict=True) if kept)
            found = recommend.evaluate(ranker(model(own), known, day), known, day)["per_user"]
            tried[own] = found[list(GOALS)].mean()
        chosen = {goal: max(tried, key=lambda own, goal=goal: tried[own][goal]) for goal in GOALS}
    rows = {**fixed, **{CHOSEN[goal]: own for goal, own in chosen.items()}}
    day = baskets.test_start
    return {name: ranker(model(own), baskets, day) for name, own in rows.items()}, chosen


def at_random(baskets: Baskets, seed: int) -> recommend.Ranker:
    rng, past = np.random.default_rng(seed), recommend.history(baskets, baskets.test_start)
    return recommend.rank_by(lambda users: rng.random((len(users), len(baskets.items))), past)


def near(baskets: Baskets, users: np.ndarray) -> dict[str, recommend.Ranker]:
    """User-kNN whose neighbours are known customers, chosen for each goal."""
    known, grid = other_shop.told_by(baskets, users), GRID
    chosen, _ = recommend.tuned(recommend.user_knn, grid, known)
    return {
        f"{NEAR}, for {GOALS[goal]}": knn_among(baskets, users, **chosen[goal]) for goal in GOALS
    }


def knn_among(
    baskets: Baskets, users: np.ndarray, neighbours: int, scale: float, window: int, share: float
) -> recommend.Ranker:
    """`recommend.user_knn` for all customers, with neighbours among `users` alone."""
    day, known = baskets.test_start, other_shop.told_by(baskets, users)
    past = recommend.history(baskets, day, scale)
    alike, late = recommend.neighbour_tables(baskets, day, scale, window)
    others, late = alike[users], late[users]
    filler = recommend.tie_break(recommend.popularity(known, day, window))

    def scores(asked: np.ndarray) -> np.ndarray:
        table = (alike[asked] @ others.T).toarray()
        table[asked[:, None] == users] = -1
        kept = min(neighbours, len(users))
        least = np.partition(table, -kept, axis=1)[:, -kept, None]
        table[(table < least) | (table < 0)] = 0
        total = np.maximum(table.sum(axis=1, keepdims=True), 1e-9)
        return past[asked].toarray() + share * (late.T @ (table / total).T).T + filler

    return recommend.rank_by(scores, past)


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile",))
    points, goals = [], []
    for place, first in enumerate(parts[0]["points"]):
        own = [part["points"][place] for part in parts]
        point: dict = {"baskets": float(np.mean([one["baskets"] for one in own]))}
        point["chosen"] = {goal: [one["chosen"][goal] for one in own] for goal in GOALS}
        for goal in GOALS:
            tables = {name: _table(own, name, goal) for name in first["rows"]}
            point[goal] = {name: over_known(table) for name, table in tables.items()}
            pairs = [(WHOLE, DRAWN), (CHOSEN[goal], WHOLE), (WHOLE, BUY_AGAIN), (BOTH, HABITS)]
            pairs += [(CHOSEN[goal], BUY_AGAIN)]
            rival = f"{NEAR}, for {GOALS[goal]}"
            if rival in tables:
                pairs += [(CHOSEN[goal], rival), (WHOLE, rival)]
            point[f"{goal}, minus"] = {
                f"{a} − {b}": over_known(tables[a] - tables[b]) for a, b in pairs
            }
        points.append(point)
    for place in (0, 1, 3, len(points) - 1):
        point = points[place]
        rival = f"{NEAR}, for all items" if place else BUY_AGAIN
        goals.append(
            above(
                f"recall@10 at {point['baskets']:,.0f} target baskets, parts chosen minus {rival}",
                point["recall, minus"][f"{CHOSEN['recall']} − {rival}"],
            )
        )
        if place:
            goals.append(
                above(
                    f"recall@10 of new items at {point['baskets']:,.0f} target baskets, parts "
                    "chosen minus all parts",
                    point["new_recall, minus"][f"{CHOSEN['new_recall']} − {WHOLE}"],
                )
            )
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_cross_parts.py --seeds "
        f"{' '.join(str(part['seed']) for part in parts)}, --merge",
        seeds=[part["seed"] for part in parts],
        hardware=parts[0]["hardware"],
        generator=None,
        data={"points": points, "grid": GRID},
        goals=goals,
    )
    print(out)


def _table(points: list[dict], name: str, goal: str) -> np.ndarray:
    """Seeds × customers (S, U); NaN for a customer without such a target."""
    return np.array([pd.Series(point["rows"][name][goal], dtype=float) for point in points])


def main() -> None:
    parser = argparse.ArgumentParser(description="Parts of a recommender in another shop.")
    arguments = shared.arguments_of(parser, "cross_parts", scaled=False)
    shared.run(arguments, measure, merge)


if __name__ == "__main__":
    main()
