"""Recommendation on real baskets: quality on the test days, cost, and items that were never sold.

    python benchmarks/measure_recommendation.py journey --once      what no seed changes
    python benchmarks/measure_recommendation.py journey --seeds 0   one seed, its own file
    python benchmarks/measure_recommendation.py ../data/online_retail --once --seeds 0
    python benchmarks/measure_recommendation.py --scale             cost, to ten times the data
    python benchmarks/measure_recommendation.py --merge             all files into the record

The record has two more sources, `office_products` and `industrial_and_scientific`, which are read
from `amazon18` in the folder that ECOMKD_REAL_DATA names.

All users count, whatever the profile says. Settings of the rows without a network are chosen on the
validation days, networks are fitted to the days before these, and all numbers are about the test
days. What counts is counted up to the test days, so that the rows that end in "refitted" are fitted
up to them as well, with all that was chosen before but for the checkpoint. A run that is started
again finds its networks among the artefacts.

In the record the rows of TIFU-kNN, with their settings and edges, come from a later run of these
rows alone, after `recommend.tifu_knn` had been mended. Their waits are those of the first run, and
the record lacks the differences, user by user, between other rows and these.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Callable
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

import groups
import rivals
import shared
from ecomkd import bench, features, metrics, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey, retail
from ecomkd.data.baskets import HORIZON, Baskets, from_lines
from shared import (
    SCALES,
    TIMED,
    above,
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
TREES, REFITTED, PICKED = "LambdaMART", "refitted", "over the candidates of LambdaMART"
CHANCE, NEAREST = "chance, and whoever knows ids alone", "nearest text"
GROUPED = ("popularity", "buy it again", "user-kNN", TREES, DISTILLED)
"""Rows that are told by group of users."""
COLD = (
    (f"{NEAREST}, MiniLM", CHANCE),
    (f"{NEAREST}, MiniLM", f"{NEAREST}, TF-IDF"),
    (DISTILLED, CHANCE),
    (DISTILLED, f"{NEAREST}, TF-IDF"),
    (ALONE, f"{ALONE}, TF-IDF"),
)
"""What transferred text should win, on items that were never sold: first against second."""
LEAST_COLD = 200
"""Fewer such items decide nothing; measure_cold_items.py hides a fifth of all. It was set after the
first results, when 34 items had shown a gain of transfer that hidden fifths deny."""


# One seed -----------------------------------------------------------------------------------------


def load(source: str) -> Baskets:
    if source == "journey":
        return journey.load()
    return reviews(source) if source in REVIEWS else retail.load(source)


def reviews(category: str) -> Baskets:
    """Reviewed products of a category of Amazon, at most ten of a user before the validation days.

    These data have an order and no dates: the latest product of the past stands on the day before
    the validation days, each one before it four weeks earlier; what is to be foreseen stands on the
    last days of its period.
    """
    folder = shared.real_folder("amazon18")
    items = pd.read_parquet(folder / f"{category}_items.parquet").rename(
        columns={"item": "item_id"}
    )
    more = items["description"].str.strip("[]'\"").str[:300]
    told = items[["title", "brand"]].agg(". ".join, axis=1) + ". " + more
    rows = pd.read_parquet(folder / f"{category}_histories.parquet")
    rows = rows.assign(length=rows["history"].str.len())
    lines = []
    # A later row of a user holds the earlier ones: the shortest history is what was before.
    for user, own in rows.sort_values("length", kind="stable").groupby("user"):
        past = own["history"].iloc[0][::-1]
        lines += [(user, item, EARLIEST - 1 - HORIZON * back) for back, item in enumerate(past)]
        for split, end in (("validation", EARLIEST + HORIZON), ("test", EARLIEST + 2 * HORIZON)):
            found = own.loc[own["split"] == split, "item"].tolist()[::-1]
            lines += [(user, item, end - 1 - back) for back, item in enumerate(found)]
    frame = pd.DataFrame(lines, columns=["user_id", "item_id", "day"])
    frame["time"] = pd.Timestamp("2018-01-01") + pd.to_timedelta(frame["day"], "D")
    frame = frame.assign(basket_id=range(len(frame)), quantity=1, value=1.0)
    users = pd.DataFrame({"user_id": frame["user_id"].unique()})
    return from_lines(frame, items.assign(text=told.str.lower()), users, {})


REVIEWS = ("industrial_and_scientific", "office_products")
EARLIEST = 10 * HORIZON
"""The first validation day of a category: ten products of a user lie before it."""


def measure(source: str, seed: int, folder: Path) -> dict:
    """What a seed changes, on the test days of one shop: values per user, cost, cold items."""
    profile, baskets = Profile.named(seed=seed), load(source)
    settings = shared.sizes(folder, "once")["settings"]
    result: dict = {"source": Path(source).name, "systems": {}, "cold": {}}
    for name, rankers, further in systems(baskets, profile, settings, result):
        result["systems"][name] = judged(rankers, baskets) | further
        told(seed, name, result["systems"][name])
    return result


def fixed(source: str) -> dict:
    """What no seed changes: the settings of all rows, and the rows without chance in them."""
    baskets, shop = load(source), Path(source).name
    result: dict = {"source": shop, "systems": {}, "settings": {}, "tried": {}}
    start = START | START_OF.get(shop, {})
    for name, (make, grid) in classics(shop, 0).items():
        chosen, tried = recommend.tuned(or_nothing(make), grid, baskets, start.get(name))
        result["settings"][name], result["tried"][name] = chosen, tried
        if name in BY_CHANCE:
            continue
        rankers = pair(make, chosen, baskets, baskets.test_start)
        result["systems"][name] = judged(rankers, baskets)
        told(None, name, result["systems"][name])
    result["trees"] = trees(baskets, result)
    result["shop"] = nature(baskets)
    result["groups"] = groups.groups(baskets)
    result["habits"] = groups.habits(baskets, result["groups"])
    return result


def told(seed: int | None, name: str, row: dict) -> None:
    print(f"{seed}: {name}: {row['recall']:.4f}, new {row['new_recall']:.4f}", flush=True)


def judged(rankers: dict[str, recommend.Ranker], baskets: Baskets) -> dict:
    """A row: `recall` and its like from the ranker for all items, `new_recall` and its like from
    that for new ones."""
    day = baskets.test_start
    found = {rank: recommend.evaluate(rank, baskets, day) for rank in set(rankers.values())}
    whole, new = (found[rankers[goal]] for goal in recommend.GOALS)
    per_user = whole["per_user"].copy()
    for column in ("new_recall", "new_ndcg"):
        per_user[column], whole[column] = new["per_user"][column], new[column]
    del whole["per_user"]
    return {
        **whole,
        **waits(rankers["recall"], per_user.index[:TIMED]),
        "user": per_user.index.tolist(),
        "per_user": per_user.astype(object).where(per_user.notna(), None).to_dict("list"),
    }


def pair(make: Callable, chosen: dict, baskets: Baskets, day: int) -> dict[str, recommend.Ranker]:
    """The rankers with the settings for all items and with those for new ones."""
    return {goal: make(baskets, day, **chosen[goal]) for goal in recommend.GOALS}


def classics(source: str, seed: int) -> dict[str, tuple[Callable, dict]]:
    """Rankers without a network, and the settings that are tried, the first of each first."""
    long, fewer = (14, 28, 56, 112, 224, 448), FEWER_TRIED.get(source, {})
    windows = (*DAYS.get(source, (1, 3, 7)), 14, 28, 56, 112, 400)
    rows = {
        "popularity": (recommend.popular, {"window": windows}),
        "buy it again": (recommend.buy_again, {"scale": (7, *long, None), "window": windows}),
        "item-kNN": (
            recommend.item_knn,
            {"neighbours": (1, 3, 10, 30, 100, 300, 1000), "scale": (*long, None)},
        ),
        "user-kNN": (
            recommend.user_knn,
            {"neighbours": (3, 6, 12, 25, 50, 100, 200, 400, 800, 1600, 3200),
             "scale": (*long, 1e4), "window": windows,
             "share": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)},
        ),
        "TIFU-kNN": (
            recommend.tifu_knn,
            {"neighbours": (3, 10, 25, 50, 100, 300, 900, 2000),
             "share": (0.0, 0.1, 0.2, 0.5, 0.7, 0.9),
             "within": (0.4, 0.6, 0.8, 0.9, 1.0), "across": (0.2, 0.4, 0.6, 0.8, 1.0),
             "groups": (1, 3, 7, 15, 30)},
        ),
        "EASE": (
            partial(recommend.ease, least=LEAST.get(source, 1)),
            {"penalty": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5,
                         1e6, 1e7, 1e8),
             "scale": (7, *long, None)},
        ),
        "matrix factorisation": (
            partial(recommend.factors, seed=seed),
            {"width": (4, 8, 16, 32, 64, 128, 256, 512),
             "weight": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
             "scale": (14, 28, 56, 112, 224, None)},
        ),
        "BPR": (
            partial(recommend.bpr, seed=seed),
            {"width": (16, 32, 64, 128, 256, 512),
             "learning_rate": (0.001, 0.003, 0.01, 0.03, 0.1),
             "penalty": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)},
        ),
        "SASRec": (
            rivals.SASRec(seed, **(long_of := LONG.get(source, {}))),
            {"width": (32, 64, 128, 256), "dropout": (0.1, 0.2, 0.5, 0.7, 0.9),
             "passes": long_of.get("passes", rivals.SASRec.PASSES)},
        ),
        "gSASRec": (
            rivals.GSASRec(seed, **long_of),
            {"width": (32, 64, 128), "dropout": (0.1, 0.2, 0.5, 0.7),
             "calibration": (0.0, 0.5, 0.75, 0.9, 1.0), "passes": rivals.GSASRec.PASSES},
        ),
    }  # fmt: skip
    return {
        name: (
            partial(recommend.old_or_not, make),
            {**grid, "old": (True, False)} | fewer.get(name, {}),
        )
        for name, (make, grid) in rows.items()
        if name not in NOT_TRIED.get(source, ())
    }


def or_nothing(make: Callable) -> Callable:
    """The same; settings with which factors diverge make a ranker that finds nothing, so that a
    search does not choose them."""
    from implicit.recommender_base import ModelFitError

    def made(baskets: Baskets, day: int, **chosen: float) -> recommend.Ranker:
        try:
            return make(baskets, day, **chosen)
        except ModelFitError:
            return lambda users, new: np.full((len(users), recommend.DEPTH), -1)

    return made


GROWN = {
    "leaves": (3, 7, 15, 31, 63, 127),
    "rate": (0.03, 0.1, 0.3),
    "number": (6, 12, 25, 50, 100, 200, 400),
}
"""Settings of LambdaMART that are tried."""
FEWER_TRIED = {
    "journey": {
        "TIFU-kNN": {
            "neighbours": (50, 100, 300, 900), "share": (0.0, 0.1, 0.5, 0.8, 0.95),
            "within": (0.6, 0.8, 0.9, 1.0), "across": (0.2, 0.4, 0.6, 0.8),
            "groups": (3, 7, 15, 30), "old": (True,),
        },
        "BPR": {
            "width": (64, 128, 256, 512), "learning_rate": (0.01, 0.03, 0.1, 0.3),
            "penalty": (0.0001, 0.0003, 0.001, 0.003), "passes": (10, 20, 40, 80), "old": (True,),
        },
        "gSASRec": {
            "width": (64,), "dropout": (0.2,), "calibration": (0.75,), "passes": (1, 2, 3, 4),
            "old": (True,),
        },
        "user-kNN": {
            "neighbours": (50, 100, 200, 400, 800), "scale": (56, 112, 224, 448, 1e4),
            "window": (14, 28, 56, 112), "share": (0.3, 1.0, 3.0, 10.0), "old": (True,),
        },
        "EASE": {
            "penalty": (3.0, 10.0, 30.0, 100.0, 300.0, 1e3), "scale": (28, 56, 112, 224, None),
            "old": (True,),
        },
        "matrix factorisation": {
            "width": (16, 32, 64, 128, 256), "weight": (0.03, 0.1, 0.3, 1.0, 3.0),
            "scale": (112, None), "old": (True,),
        },
    },
    "online_retail": {"SASRec": {"width": (32, 64, 128), "dropout": (0.2, 0.5, 0.7)}},
}  # fmt: skip
"""Where one setting takes seconds or half a minute, not all are tried."""
NOT_TRIED = {
    "journey": ("SASRec",),
    **dict.fromkeys(("online_retail", *REVIEWS), ("gSASRec",)),
}
"""Networks over sequences: on the larger shop the cross entropy among all items takes too long, and
gSASRec is there for it; among the few items of the other shops it does not, and SASRec has what
gSASRec approximates."""
LONG = {
    "journey": {"length": 200, "least": recommend.BUYERS, "passes": (1, 2, 3, 4)},
    "online_retail": {"length": 100, "passes": (1, 2, 4, 8, 12)},
}
"""How the networks over sequences read the histories of shops where people buy more: half of the
users of the largest have 337 purchases or more."""
LEAST = {"journey": 40, "online_retail": 5}
"""The buyers of an item that EASE knows: it holds a row for each."""
DAYS = dict.fromkeys(REVIEWS, (7,))
"""The shortest windows: the reviews have no dates of their own that shorter ones could tell."""
BUYERS = dict.fromkeys(REVIEWS, 1)
"""The buyers of an item that the networks learn of, where most items have few."""
BY_CHANCE = ("matrix factorisation", "BPR", "SASRec", "gSASRec")
START = {
    "user-kNN": {"neighbours": 200, "scale": 112, "window": 28, "share": 3.0},
    "TIFU-kNN": {"neighbours": 300, "share": 0.2, "within": 0.9, "across": 0.6, "groups": 3},
    "matrix factorisation": {"width": 64, "weight": 1.0, "scale": None},
    "BPR": {"width": 64, "learning_rate": 0.03, "penalty": 0.01},
    "EASE": {"penalty": 300.0, "scale": None},
    "item-kNN": {"neighbours": 100, "scale": None},
    "SASRec": {"width": 64, "dropout": 0.5, "passes": 12},
    "gSASRec": {"width": 64, "dropout": 0.5, "calibration": 0.75, "passes": 12},
}
"""Where the search of settings begins: what the authors chose, or the middle of the grid."""
START_OF = {
    "journey": {
        "TIFU-kNN": {
            "neighbours": 300, "share": 0.8, "within": 0.9, "across": 0.6, "groups": 7, "old": True,
        },
        "BPR": {"width": 128, "learning_rate": 0.03, "penalty": 0.001, "passes": 20, "old": True},
        "gSASRec": {"width": 64, "dropout": 0.2, "calibration": 0.75, "passes": 2, "old": True},
    }
}  # fmt: skip
"""The same for the larger shop; for TIFU-kNN where a first search ended, which began with what its
authors chose for dunnhumby, whose shop it is: 900, 0.2, 0.9, 0.6, 3."""


ENDS = {
    "old": (True, False), "scale": (None, 1e4), "window": (1, 400), "within": (1.0,),
    "across": (1.0,), "groups": (1,), "share": (0.0,), "neighbours": (1,),
}  # fmt: skip
"""Beyond these settings there are none."""
NO_SAY = {"user-kNN": ("share",), "TIFU-kNN": ("share",), "buy it again": ("scale",)}
"""Settings that change nothing of what is shown of new items."""


def at_an_edge(row: str, chosen: dict, grid: dict, ends: dict = ENDS) -> dict[str, list[str]]:
    """The settings of a row that lie at an end of what was tried, for each goal, though they have a
    say and more could be tried, beyond the `ends`."""
    idle = {"recall": (), "new_recall": NO_SAY.get(row, ())}
    return {
        goal: [
            name for name, one in own.items()
            if len(grid[name]) > 1
            and one in (grid[name][0], grid[name][-1])
            and one not in ends.get(name, ())
            and name not in idle[goal]
        ]
        for goal, own in chosen.items()
    }  # fmt: skip


def edges(source: str, once: dict) -> dict[str, dict[str, list[str]]]:
    """`at_an_edge` of each row whose settings were chosen in a shop."""
    chosen = {goal: own["settings"] for goal, own in once["trees"].items()}
    found = {TREES: at_an_edge(TREES, chosen, GROWN)}
    ends = ENDS | ({"window": (*DAYS[source], 400)} if source in DAYS else {})
    rows = classics(source, 0)
    for name, own in once["settings"].items():
        found[name] = at_an_edge(name, own, rows[name][1], ends)
    return found


def trees(baskets: Baskets, result: dict) -> dict:
    """Adds the rows of LambdaMART to the result; what it ranks, how much of what is bought is among
    that, and the recall@10 of who ranks it perfectly.

    The trees for new items learn from candidates that are new alone. Settings are chosen with trees
    that learn from some of the users.
    """
    day, start, found = baskets.test_start, baskets.validation_start, {}
    near = neighbourhood(result["settings"])
    asked = recommend.some_users(baskets)
    rows: dict[str, dict] = {TREES: {}, f"{TREES}, {REFITTED}": {}}
    for goal, (own, others) in CANDIDATES.items():
        made = rivals.Trees(baskets, near, own, others)
        tables, tried = [made.table(then, asked) for then in taught_on(start)], []
        for leaves, rate in itertools.product(GROWN["leaves"], GROWN["rate"]):
            made.fit(tables, leaves, rate, GROWN["number"][-1])
            for number in GROWN["number"]:
                rank = made.ranker(start, number)
                quality = recommend.evaluate(rank, baskets, start, asked=asked)[goal]
                tried.append((quality, {"leaves": leaves, "rate": rate, "number": number}))
        best = max(tried, key=itemgetter(0))[1]
        for name, before in zip(rows, (start, day), strict=True):
            tables = [made.table(then) for then in taught_on(before)]
            rows[name][goal] = copy.copy(made).fit(tables, **best).ranker(day)
        perfect = recommend.evaluate(made.perfect(day), baskets, day)[goal]
        found[goal] = {"settings": best, "own": own, "others": others,
                       "reach": made.reach(day), "perfect": perfect}  # fmt: skip
    for name, rankers in rows.items():
        row = judged(rankers, baskets)
        # Candidates are kept from one question to the next, so an answer's time says nothing.
        result["systems"][name] = {key: row[key] for key in row if key not in TIMES}
        told(None, name, result["systems"][name])
    return found


CANDIDATES = {"recall": (200, 100), "new_recall": (0, 300)}
"""How many of a user's own items, and of others, LambdaMART ranks."""


def taught_on(end: int) -> list[int]:
    """The days before `end` of which LambdaMART learns."""
    return list(range(end - HORIZON, 0, -HORIZON)[:3])


def neighbourhood(settings: dict) -> dict:
    """Who a user's neighbours are, as user-kNN for new items has it."""
    own = settings["user-kNN"]["new_recall"]
    return {name: own[name] for name in ("neighbours", "scale", "window")}


def nature(baskets: Baskets) -> dict:
    """What kind of shop it is: how often people come back for what they had, how much its texts
    say, and how old its items are."""
    day = baskets.test_start
    past, wanted = recommend.history(baskets, day), recommend.targets(baskets, day)
    pairs = [(user, item) for user, items in wanted.items() for item in items]
    first = baskets.events.groupby("item")["day"].min()
    ages = np.array([day - first[item] for _, item in pairs])
    words = baskets.items["text"].str.findall(r"[a-z]{2,}").map(lambda own: len(set(own)))
    return {
        "users": len(baskets.users),
        "items": len(baskets.items),
        "purchases": len(baskets.events),
        "repeats": float(np.mean([past[user, item] > 0 for user, item in pairs])),
        "words": float(words.median()),
        "texts": float(baskets.items["text"].nunique() / len(baskets.items)),
        "age": float(np.median(np.maximum(ages, 0))),
        "cold": float((ages <= 0).mean()),
        "cold_items": len(recommend.first_sold(baskets, day)),
    }


def systems(baskets: Baskets, profile: Profile, settings: dict, result: dict):
    """Each system that has chance in it: its name, its rankers, and further numbers of its own."""
    day, seed = baskets.test_start, profile.seed
    made = classics(result["source"], seed)
    for name in BY_CHANCE:
        if name in made:
            yield name, pair(made[name][0], settings[name], baskets, day), {}
    texts, codes = recommend.texts(baskets)
    tables = {"MiniLM": features.layers(texts, profile)[-1], **words(texts, seed)}
    result["cold"] = neighbours(baskets, tables, codes)
    near, old = neighbourhood(settings), settings["user-kNN"]["recall"]["old"]
    others = {
        when: recommend.neighbours_share(baskets, when, **near)
        for when in (baskets.validation_start, day)
    }
    for vectors in ("MiniLM", "TF-IDF"):
        items = recommend.Items(baskets, tables[vectors], recommend.FIRST, 64, profile)
        least = BUYERS.get(result["source"])
        shelves: dict[str, recommend.Shelf] = {}
        weights: dict[str, dict[str, float]] = {}
        for name, (kind, folder) in networks(vectors, items, profile, least).items():
            model = recommend.load(folder, kind, items)
            shelf = recommend.Shelf(model, recommend.BasketCollator(baskets), day)
            score = partial(on_shelf, shelf)
            result["cold"][name] = by_user(recommend.evaluate_cold(score, baskets, day))
            log = json.loads((folder / "training.json").read_text(encoding="utf-8"))
            further = {**size(shelf), "train_s": max(entry.get("seconds", 0) for entry in log)}
            rank = recommend.network(shelf)
            yield name, {"recall": recommend.shown(rank, old), "new_recall": rank}, further
            if name in (TEACHER, DISTILLED):
                shelves[name] = shelf
                weights[name] = best_weights(model, baskets, others[baskets.validation_start], old)
                rankers = with_neighbours(shelf, baskets, others[day], weights[name], old)
                yield f"{name} + neighbours", rankers, {"weights": weights[name]}
        if vectors == "MiniLM":
            yield from refits(items, profile, others[day], weights, old, least)
            yield f"{DISTILLED}, {PICKED}", second_stage(shelves[DISTILLED], baskets, near), {}
            ranks = {name: recommend.network(shelf) for name, shelf in shelves.items()}
            for row in UNTRAINED:
                ranks[row] = pair(made[row][0], settings[row], baskets, day)["recall"]
            result["times"] = in_turn(ranks, baskets)


def refits(
    items: recommend.Items,
    profile: Profile,
    share: recommend.Scores,
    weights: dict[str, dict[str, float]],
    old: bool,
    least: int | None,
):
    """The rows of teacher and distilled student refitted, without neighbours and with their share,
    which has the weights that were chosen before."""
    baskets = items.baskets
    for name, (kind, folder) in refitted(items, profile, least).items():
        model, collator = recommend.load(folder, kind, items), recommend.BasketCollator(baskets)
        shelf = recommend.Shelf(model, collator, baskets.test_start)
        rank, row = recommend.network(shelf), f"{name}, {REFITTED}"
        yield row, {"recall": recommend.shown(rank, old), "new_recall": rank}, {}
        rankers = with_neighbours(shelf, baskets, share, weights[name], old)
        yield f"{row} + neighbours", rankers, {}


def second_stage(
    shelf: recommend.Shelf, baskets: Baskets, near: dict
) -> dict[str, recommend.Ranker]:
    """Rankers that ask a network about the candidates of LambdaMART alone."""
    return {
        goal: rivals.Trees(baskets, near, *sizes).asking(baskets.test_start, shelf.scores)
        for goal, sizes in CANDIDATES.items()
    }


def refitted(items: recommend.Items, profile: Profile, buyers: int | None) -> dict:
    """Teacher and distilled student, fitted to the days before the test days: nothing is chosen any
    more, so the end of each training is kept."""
    large, small = recommend.BasketTransformer, recommend.DecayedMeans
    fitted = {"items": items, "start": items.baskets.test_start, "profile": profile,
              "buyers": buyers, "evaluations": 1}  # fmt: skip
    teacher = recommend.train(large, **fitted)
    return {
        TEACHER: (large, teacher),
        DISTILLED: (small, recommend.train(small, **fitted, teacher=teacher)),
    }


UNTRAINED = ("buy it again", "user-kNN")
"""Rows that are timed in turn with teacher and student."""


def in_turn(ranks: dict[str, recommend.Ranker], baskets: Baskets, rounds: int = 5) -> dict:
    """The median wait of single users in each of some rounds, in which all take their turn."""
    known = recommend.users_before(baskets, baskets.test_start)[:TIMED]
    found: dict[str, list[float]] = {name: [] for name in ranks}
    for _ in range(rounds):
        for name, rank in ranks.items():
            found[name].append(waits(rank, known)["p50_ms"])
    return found


def best_weights(
    model: recommend.Recommender, baskets: Baskets, share: recommend.Scores, old: bool
) -> dict[str, float]:
    """For each goal how many times the share of the user's neighbours is added to a network's
    log-odds where that is best on the validation days."""
    start, asked = baskets.validation_start, recommend.some_users(baskets)
    shelf = recommend.Shelf(model, recommend.BasketCollator(baskets), start)
    odds, share = (kept(scores) for scores in (shelf.scores, share))
    found = {
        weight: recommend.evaluate(
            blend(odds, share, weight, baskets, start, old), baskets, start, asked=asked
        )
        for weight in SHARES
    }
    return {goal: max(SHARES, key=lambda weight: found[weight][goal]) for goal in recommend.GOALS}


def kept(scores: recommend.Scores) -> recommend.Scores:
    """The same scores, computed once: all weights are asked for the same few parts of the users."""
    again = lru_cache(maxsize=1 + recommend.ASKED // 256)(
        lambda users: scores(np.frombuffer(users, int))
    )
    return lambda users: again(users.tobytes())


def with_neighbours(
    shelf: recommend.Shelf,
    baskets: Baskets,
    share: recommend.Scores,
    weights: dict[str, float],
    old: bool,
) -> dict[str, recommend.Ranker]:
    """For each goal a network's log-odds plus so many times the share, on the test days."""
    return {
        goal: blend(shelf.scores, share, weight, baskets, baskets.test_start, old)
        for goal, weight in weights.items()
    }


def blend(
    odds: recommend.Scores,
    share: recommend.Scores,
    weight: float,
    baskets: Baskets,
    day: int,
    old: bool,
) -> recommend.Ranker:
    """A ranker by log-odds and the weighed share, which is not asked for where it has no weight."""

    def scores(users: np.ndarray) -> np.ndarray:
        return odds(users) + weight * share(users) if weight else odds(users)

    return recommend.shown(recommend.rank_by(scores, recommend.history(baskets, day)), old)


SHARES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""How many log-odds the share of all neighbours is worth."""


def size(shelf: recommend.Shelf) -> dict[str, int]:
    """The bytes of the network's own weights, and of the tables of items beside it."""
    own = sum(weight.nbytes for weight in shelf.model.parameters())
    table = shelf.read.nbytes + shelf.offers.nbytes + shelf.demand.nbytes
    return {"network_bytes": own, "table_bytes": table}


def networks(
    vectors: str, items: recommend.Items, profile: Profile, buyers: int | None = None
) -> dict:
    """The networks that read these vectors: their kind, and the folder of each.

    They learn of items with so many `buyers`, by default as many as on The Complete Journey.
    """
    large, small = recommend.BasketTransformer, recommend.DecayedMeans
    fitted = {"items": items, "start": items.baskets.validation_start, "profile": profile}
    fitted["buyers"] = buyers
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


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds, of what no seed changes, and of the
    sizes.

    A shop without a folder here keeps its data and goals of the record that is there, with the
    seeds that its data tell, and so do the sizes without their file; hardware and versions are
    those of the shops that have one.
    """
    places = shared.shops(folder, "once")
    data, goals = shared.kept(out, [place.name for place in places])
    hardware, seeds = None, set()
    for shop in set(data) - {"scale"}:
        seeds |= {*data[shop]["seeds"]}
    for place in places:
        parts = shared.read(place, ("profile", "source"))
        once = shared.sizes(place, "once")
        hardware = parts[0]["hardware"]
        seeds |= {part["seed"] for part in parts}
        for part in parts:
            part["systems"] = {**once["systems"], **part["systems"]}
        names = list(parts[0]["systems"])
        values = {column: _values(parts, column) for column in MEASURES}
        cold = _cold(parts)
        own = {
            "seeds": [part["seed"] for part in parts],
            **{name: once[name] for name in ("shop", "settings", "tried", "trees", "habits")},
            "edges": edges(place.name, once),
            "users": values["recall"][names[0]].shape[1],
            "cold_users": len(cold),
            "rows": {name: _row(name, values, parts) for name in names},
            "cold": {name: metrics.bootstrap_of_means(cold, itemgetter(name)) for name in cold},
            "minus": _differences(values),
            "by_group": groups.by_group(
                {name: values["recall"][name] for name in GROUPED},
                parts[0]["systems"][DISTILLED]["user"], once["groups"], (DISTILLED, "user-kNN"),
            ),
            "times": _times(parts),
        }  # fmt: skip
        data[place.name] = own
        goals += _goals(place.name, values, cold, own)
    if "scale" not in data or (folder / "scale.json").exists():
        data["scale"] = shared.sizes(folder)
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_recommendation.py SOURCE --once, SOURCE --seeds "
        f"{' '.join(map(str, sorted(seeds)))}, --scale, --merge",
        seeds=sorted(seeds),
        hardware=hardware,
        generator=None,
        data=dict(sorted(data.items())),
        goals=goals,
    )
    print(out)


def _values(parts: list[dict], column: str) -> dict[str, np.ndarray]:
    """Of each system its values (S, U), seeds × users, NaN for a user without a target."""
    return {
        name: np.array([part["systems"][name]["per_user"][column] for part in parts], float)
        for name in parts[0]["systems"]
    }


def _cold(parts: list[dict]) -> pd.DataFrame:
    """Users × systems, the mean over seeds of the recall among cold items."""
    tables = [
        pd.DataFrame(
            {
                name: pd.Series(row["per_user"]["recall"], row["user"])
                for name, row in part["cold"].items()
            },
            dtype=float,
        )
        for part in parts
    ]
    return means(tables)


def _row(name: str, values: dict, parts: list[dict]) -> dict:
    own = [part["systems"][name] for part in parts]
    row = {column: float(np.nanmean(table[name])) for column, table in values.items()}
    for column in recommend.GOALS:
        span = shared.over_both(values[column][name])
        row |= {f"{column} low": span["low"], f"{column} high": span["high"]}
        row[f"{column} by seed"] = [float(np.nanmean(seed)) for seed in values[column][name]]
    # Cached candidates and a busy machine: what these rows took says nothing.
    clocked = () if REFITTED in name or name.endswith(PICKED) else TIMES
    for column in ("coverage", "novelty", *clocked):
        if column in own[0]:
            row[column] = float(np.median([seed[column] for seed in own]))
    if "weights" in own[0]:
        row["weights"] = [seed["weights"] for seed in own]
    return row | {name: own[0][name] for name in own[0] if name.endswith("_bytes")}


def _times(parts: list[dict]) -> dict[str, dict[str, float]]:
    """The student's wait as a share of the teacher's, over all rounds of all seeds: the median, the
    least and the most; and the median waits of all that took their turn, in milliseconds."""
    waited = {
        name: np.concatenate([part["times"][name] for part in parts])
        for name in (TEACHER, DISTILLED, *UNTRAINED)
    }
    return {
        "student over teacher": shared.over_rounds(waited[DISTILLED] / waited[TEACHER]),
        "p50_ms": {name: float(np.median(own)) for name, own in waited.items()},
    }


def _minus(values: dict[str, np.ndarray], one: str, other: str) -> dict[str, float]:
    return shared.difference(shared.over_both(values[one] - values[other]))


def _differences(values: dict) -> dict:
    others = untaught(values["recall"])
    pairs = {
        "distilled − alone": (DISTILLED, ALONE),
        "distilled on labelled days − alone": (FEWER, ALONE),
        "distilled − teacher": (DISTILLED, TEACHER),
        "alone − alone, TF-IDF": (ALONE, f"{ALONE}, TF-IDF"),
        "distilled + neighbours − user-kNN": (f"{DISTILLED} + neighbours", "user-kNN"),
        "teacher + neighbours − user-kNN": (f"{TEACHER} + neighbours", "user-kNN"),
        **{f"distilled − {name}": (DISTILLED, name) for name in others},
        **{f"teacher − {name}": (TEACHER, name) for name in others},
        **{
            f"{name} refitted − {name}": (f"{whole}, {REFITTED}", whole)
            for name, whole in (("distilled", DISTILLED), ("teacher", TEACHER), (TREES, TREES))
        },
        **{f"distilled refitted − {name}": (f"{DISTILLED}, {REFITTED}", name) for name in others},
        "distilled refitted + neighbours − user-kNN": (
            f"{DISTILLED}, {REFITTED} + neighbours",
            "user-kNN",
        ),
        "distilled over candidates − distilled": (f"{DISTILLED}, {PICKED}", DISTILLED),
        **{
            f"distilled over candidates − {name}": (f"{DISTILLED}, {PICKED}", name)
            for name in others
        },
        **{f"user-kNN − {name}": ("user-kNN", name) for name in ("popularity", "buy it again")},
    }
    return {
        name: {column: _minus(values[column], a, b) for column in recommend.GOALS}
        for name, (a, b) in pairs.items()
    }


def untaught(values: dict) -> list[str]:
    """The rows that need no network."""
    return [
        name for name in values
        if not name.startswith(("student", "teacher"))
    ]  # fmt: skip


def highest(values: dict[str, np.ndarray]) -> str:
    """The row without a network that is best on the test days themselves."""
    return max(untaught(values), key=lambda name: np.nanmean(values[name]))


def _goals(shop: str, values: dict, cold: pd.DataFrame, data: dict) -> list[dict]:
    rows, minus = data["rows"], data["minus"]
    student, teacher = rows[DISTILLED], rows[TEACHER]
    best = highest(values["recall"])
    both = np.stack([values["recall"][name] for name in (DISTILLED, TEACHER)], axis=-1)
    kept = metrics.two_way_bootstrap(both, lambda means: means[:, 0] / means[:, 1], 2_000)
    parts = {"network": ("network_bytes",), "network and table": ("network_bytes", "table_bytes")}
    small = {
        label: sum(student[name] for name in names) / sum(teacher[name] for name in names)
        for label, names in parts.items()
    }
    goals = [
        report.goal(
            f"{shop}: share of the teacher's recall@10 that the distilled student keeps",
            *ends(kept), "at least 0.97", kept["value"] >= 0.97,
        ),
        above(
            f"{shop}: recall@10, distilled minus undistilled",
            minus["distilled − alone"]["recall"],
        ),
        above(
            f"{shop}: recall@10, distilled minus {best}, the best row without a network",
            minus[f"distilled − {best}"]["recall"],
        ),
        above(
            f"{shop}: recall@10, distilled and refitted minus {best}",
            minus[f"distilled refitted − {best}"]["recall"],
        ),
    ]  # fmt: skip
    for name in ("distilled", "teacher"):
        goals.append(
            above(
                f"{shop}: recall@10 of new items, {name} + neighbours minus user-kNN",
                minus[f"{name} + neighbours − user-kNN"]["new_recall"],
            )
        )
    goals += [
        exact(f"{shop}: {name}, student over teacher", share, "at most 0.2", share <= 0.2)
        for name, share in small.items()
    ]
    waited = data["times"]["student over teacher"]
    goals.append(
        report.goal(
            f"{shop}: latency, student over teacher", *ends(waited), "at most 0.2",
            waited["value"] <= 0.2,
        )
    )  # fmt: skip
    for one, other in COLD if data["shop"]["cold_items"] >= LEAST_COLD else ():
        span = metrics.paired_bootstrap(cold[one], cold[other])
        goals.append(above(f"{shop}: cold items, recall@10, {one} minus {other}", span))
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommendation on real baskets.")
    parser.add_argument("source", nargs="?", default="journey",
                        help="journey, a category of amazon18, or a path")  # fmt: skip
    arguments = shared.arguments_of(parser, "recommendation", once=True)
    source, part = arguments.source, Path(arguments.source).name

    def measured(seed: int) -> dict:
        return measure(source, seed, arguments.folder / part)

    shared.run(arguments, measured, merge, scale, part, partial(fixed, source))


if __name__ == "__main__":
    main()
