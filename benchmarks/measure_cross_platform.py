"""From one shop to another: what transfer is worth, when it harms, and what it costs.

    python benchmarks/measure_cross_platform.py recommendation --seeds 0 1 2  real baskets
    python benchmarks/measure_cross_platform.py search --seeds 18 19 20       shops and Icecat
    python benchmarks/measure_cross_platform.py --scale                       cost, to 10 × the data
    python benchmarks/measure_cross_platform.py --merge                       all in one record

Online Retail and Icecat are read from the folder that ECOMKD_REAL_DATA names. All users count,
whatever the profile says. Settings and checkpoints are chosen on validation days and queries of
what is known, sources are fitted to the days before their own validation, and all numbers are about
test days and test queries. A run that is started again finds its models among the artefacts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, interleave_datasets
from sklearn.preprocessing import normalize

import other_shop
import shared
from ecomkd import features, keys, metrics, recommend, report, transfer
from ecomkd.config import Profile
from ecomkd.data import journey, retail, sources
from ecomkd.data import shop as simulated
from ecomkd.data.baskets import HORIZON, Baskets, of_users
from ecomkd.data.schema import TEXT
from ecomkd.relevance import judge, mining, stages
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
    real_folder,
    timed,
    waits,
)

KIND = recommend.DecayedMeans
SHARES = (0, 0.01, 0.03, 0.1, 0.3, 1)
"""Of the target shop's customers, those whose baskets it has learnt from."""
ROWS = ("drawn", "zero-shot", "alone", "moved")
"""`drawn`, `zero-shot`: nothing was learnt in the target shop, with the first weights or with those
of the source. `alone`, `moved`: trained in the target shop from the one or from the other."""
ONLY = {"habits": ("habits",), "text and taste": ("text", "taste")}
BUY_AGAIN, POPULAR, KNN = "buy it again", "popularity", "item-kNN"
MEASURES = {"recall": "recall@10", "new_recall": "recall@10 of new items"}
FREE = "bi-encoder"
SHOPS = {
    "grocery": ("GROCERY",),
    "drugs": ("DRUG GM", "COSMETICS", "NUTRITION"),
    "fresh": ("PRODUCE", "MEAT", "MEAT-PCKGD", "SEAFOOD", "SEAFOOD-PCKGD", "DELI", "PASTRY"),
}
"""Departments of The Complete Journey that stand for shops of their own."""
GIFTS = "gifts"
SOURCE_USERS, TARGET_USERS, TOLD_USERS = 400, 600, 60
QUERIES = (3, 10, 30)
MIDDLE = 10
FEW_STEPS, STUDENT_STEPS, STUDENT_PAIRS = 60, 300, 4000
PLAIN, TERSE, ICECAT = "shop", "terse shop", "icecat"
OTHER = 500
"""Added to the seed: the terse shop has other brands, products and queries."""
TIMED_STEPS = 10
AFTER = "set after the runs"
"""Said of goals that took the place of weaker ones when these were met and told nothing: eight of
ten forecasts right, which a constant reached, and few queries against a start that was behind a
random order."""
OUTCOMES = ("zero-shot", "tuned")
"""What may help or harm: to use the source's model as it is, or to go on learning from it."""


# Recommendation -----------------------------------------------------------------------------------


def recommendation(seed: int) -> dict:
    """The curve from The Complete Journey to Online Retail, and pairs of smaller shops."""
    profile = Profile.named(seed=seed)
    whole, target = journey.load(), retail.load(real_folder("online_retail"))
    vectors = {"journey": encoded(whole), GIFTS: encoded(target)}
    items = recommend.Items(whole, vectors["journey"], recommend.FIRST, 64, profile)
    source = recommend.train(KIND, items, whole.validation_start, profile)
    scale = best_of(recommend.buy_again, GRIDS[BUY_AGAIN], whole)
    weights = recommend.load(source, KIND, items).state_dict()
    result = {
        "moved": transfer.move(KIND(items), weights).to_dict("records"),
        **apart(vectors["journey"], vectors[GIFTS], seed),
        "curve": curve(target, vectors[GIFTS], source, scale, profile),
    }
    result["pairs"] = between_shops(whole, vectors["journey"], target, vectors[GIFTS], profile)
    return result


def encoded(baskets: Baskets) -> np.ndarray:
    """The encoder's vectors of a shop's distinct texts, (T, E); one artefact for all seeds."""
    return features.layers(recommend.texts(baskets)[0], Profile.named())[-1]


def curve(
    baskets: Baskets, vectors: np.ndarray, source: Path, scale: dict, profile: Profile
) -> list[dict]:
    """For each share of the customers, what every row foresees of the test days, by user."""
    end, day, found = baskets.validation_start, baskets.test_start, []
    for share, users in zip(SHARES, subsets(baskets, SHARES, day, profile.seed), strict=True):
        items = other_shop.items_of(baskets, users, vectors, profile)
        models = {
            "drawn": other_shop.untrained(KIND, items, profile),
            "zero-shot": other_shop.untrained(KIND, items, profile, source),
        }
        for part, own in ONLY.items():
            models[f"zero-shot, {part} alone"] = other_shop.untrained(
                KIND, items, profile, source, own
            )
        if len(users):
            for name, begin in (("alone", None), ("moved", source)):
                folder = other_shop.learn(KIND, items, end, profile, begin)
                models[name] = recommend.load(folder, KIND, items)
        rankers = {name: ranker(own, baskets, day) for name, own in models.items()}
        rankers |= classical(baskets, users, scale)
        row = {"share": share, "baskets": basket_count(baskets, users, day)}
        row |= {"users": len(users), "rows": {}}
        for name, rank in rankers.items():
            row["rows"][name] = by_user(recommend.evaluate(rank, baskets, day))
            recall = np.mean(row["rows"][name]["recall"])
            print(f"{profile.seed}: {row['baskets']} baskets, {name}: {recall:.4f}", flush=True)
        found.append(row)
    return found


def subsets(baskets: Baskets, shares: Sequence[float], end: int, seed: int) -> list[np.ndarray]:
    """Rows of users who have bought before day `end`, drawn at random for each share of them.

    A larger share holds all users of the smaller ones.
    """
    known = recommend.users_before(baskets, end)
    order = np.random.default_rng(seed).permutation(known)
    return [np.sort(order[: round(share * len(known))]) for share in shares]


def basket_count(baskets: Baskets, users: np.ndarray, end: int) -> int:
    """The number of baskets that these users have filled before day `end`."""
    return int(other_shop.told_by(baskets, users).between(0, end)["basket"].nunique())


def ranker(model: recommend.Recommender, baskets: Baskets, day: int) -> recommend.Ranker:
    """The ranking by a recommender on a day.

    The baskets of the users who ask are read, whether or not the shop has learnt from them.
    """
    return recommend.network(recommend.Shelf(model, recommend.BasketCollator(baskets), day))


def by_user(found: dict) -> dict:
    table = found["per_user"][["recall", "new_recall"]]
    own = table.round(6).astype(object).where(table.notna(), None).to_dict("list")
    return {"user": table.index.tolist(), **own}


def classical(baskets: Baskets, users: np.ndarray, scale: dict) -> dict[str, recommend.Ranker]:
    """The rows without a network: what others buy comes from the baskets of `users` alone, settings
    from their validation days, or, where there is nobody yet, from the source."""
    day, known = baskets.test_start, other_shop.told_by(baskets, users)
    if not len(users):
        return {BUY_AGAIN: own_first(baskets, np.zeros(len(baskets.items)), day, **scale)}
    counts, past = recommend.popularity(known, day), recommend.history(baskets, day)
    chosen = best_of(recommend.buy_again, GRIDS[BUY_AGAIN], known)
    neighbours = best_of(recommend.item_knn, GRIDS[KNN], known)
    return {
        POPULAR: recommend.rank_by(lambda own: np.tile(counts, (len(own), 1)), past),
        BUY_AGAIN: own_first(baskets, counts, day, **chosen),
        KNN: recommend.item_knn(baskets, day, **neighbours, known=known),
    }


def own_first(baskets: Baskets, counts: np.ndarray, day: int, scale: float) -> recommend.Ranker:
    """As `recommend.buy_again`, with popularity from elsewhere."""
    own, filler = recommend.history(baskets, day, scale), recommend.tie_break(counts)
    return recommend.rank_by(lambda users: own[users].toarray() + filler, own)


def between_shops(
    whole: Baskets, vectors: np.ndarray, gifts: Baskets, gift_vectors: np.ndarray, profile: Profile
) -> list[dict]:
    """Each shop as a source for each other one: what a handful of customers foretells, and what
    comes true. Sources and targets have no household in common."""
    seed = profile.seed
    order = np.random.default_rng(seed).permutation(len(whole.users))
    of_text = dict(zip(recommend.texts(whole)[0], vectors, strict=True))
    of_text |= dict(zip(recommend.texts(gifts)[0], gift_vectors, strict=True))
    people = np.random.default_rng(seed).permutation(len(gifts.users))
    givers, takers = {}, {}
    for side, first, size in ((givers, 0, SOURCE_USERS), (takers, SOURCE_USERS, TARGET_USERS)):
        own = of_users(whole, order[first : first + size])
        for name, departments in SHOPS.items():
            side[name] = of_departments(own, departments)
        side[GIFTS] = of_users(gifts, people[first : first + size])
    read = {
        key: np.stack([of_text[text] for text in recommend.texts(own)[0]])
        for side, shops in (("giver", givers), ("taker", takers))
        for name, own in shops.items()
        for key in [(side, name)]
    }
    folders = {
        name: recommend.train(
            KIND,
            recommend.Items(own, read["giver", name], recommend.FIRST, 64, profile),
            own.validation_start,
            profile,
        )
        for name, own in givers.items()
    }
    rows = []
    for name, own in takers.items():
        share = (min(1.0, TOLD_USERS / len(own.users)),)
        users = subsets(own, share, own.test_start, seed)[0]
        items = other_shop.items_of(own, users, read["taker", name], profile)
        known = other_shop.told_by(own, users)
        end, day = own.validation_start, own.test_start

        def judged(model, baskets, when):
            rank = ranker(model, baskets, when)
            return recommend.evaluate(rank, baskets, when)["per_user"]["recall"]

        drawn = other_shop.untrained(KIND, items, profile)
        handful, untold = judged(drawn, known, end), judged(drawn, own, day)
        alone = recommend.load(other_shop.learn(KIND, items, end, profile), KIND, items)
        tuned_alone = judged(alone, own, day)
        for source, folder in folders.items():
            if source == name:
                continue
            first = other_shop.untrained(KIND, items, profile, folder)
            moved = other_shop.learn(KIND, items, end, profile, folder)
            moved = recommend.load(moved, KIND, items)
            rows.append(
                {
                    "source": source,
                    "target": name,
                    **apart(read["giver", source], read["taker", name], seed),
                    "foreseen": dict.fromkeys(
                        OUTCOMES, transfer.foreseen(judged(first, known, end), handful)
                    ),
                    "zero-shot": metrics.paired_bootstrap(judged(first, own, day), untold),
                    "tuned": metrics.paired_bootstrap(judged(moved, own, day), tuned_alone),
                }
            )
            print(f"{seed}: {rows[-1]}", flush=True)
    return rows


def apart(source: np.ndarray, target: np.ndarray, seed: int) -> dict[str, float]:
    """What the texts of two shops, as vectors, say of them without any label."""
    return {
        "distance": transfer.distance(source, target, seed),
        "likeness": likeness(source, target),
    }


def likeness(source: np.ndarray, target: np.ndarray) -> float:
    """The mean, over the target's vectors (N, E), of the highest cosine with a source's vector."""
    a, b = normalize(source), normalize(target)
    parts = np.split(b, range(1000, len(b), 1000))  # a table of all cosines takes memory
    return float(np.concatenate([(part @ a.T).max(axis=1) for part in parts]).mean())


def of_departments(baskets: Baskets, departments: tuple[str, ...]) -> Baskets:
    """The shop as if it sold nothing else, on the same days."""
    kept = baskets.items["department"].isin(departments).to_numpy()
    events = baskets.events[kept[baskets.events["item"]]]
    return of_users(replace(baskets, events=events), events["user"].unique())


# Search -------------------------------------------------------------------------------------------


def search(seed: int) -> dict:
    """Teachers of three shops, each asked in all of them, tuned on few queries, and as a pair."""
    profile = search_profile(seed)
    shops = {
        PLAIN: sources.load("shop", profile),
        TERSE: transfer.restyled(sources.load("shop", replace(profile, seed=seed + OTHER))),
    }
    real = real_folder("icecat")
    # Unlabelled pairs about as many products as the simulated shops have, the same for all seeds.
    catalogue = sources.catalogue(real, profile).shuffle(seed=0)
    catalogue = catalogue.select(range(min(profile.products, len(catalogue))))
    shops[ICECAT] = mining.with_unlabelled(sources.load(real, profile), catalogue, profile)
    begin = stages.warm_up(DatasetDict(unlabelled=mixed(shops)), profile)
    teachers = {name: stages.teacher(own, profile, checkpoint=begin) for name, own in shops.items()}
    print(f"{seed}: teachers", flush=True)
    asked = {name: questions(own) for name, own in shops.items()}
    values, handful = {}, {}
    for target, own in asked.items():
        values[target] = {"bi-encoder": ndcg(own["test"], cosine(profile), shops[target])}
        handful[target] = {
            "bi-encoder": ndcg(own["few"], cosine(profile), shops[target]),
            "chance": ndcg(own["few"], constant, shops[target]),
        }
        for source, folder in teachers.items():
            score = partial(transfer.scores, folder, profile=profile)
            values[target][f"{source}, zero-shot"] = ndcg(own["test"], score, shops[target])
            handful[target][source] = ndcg(own["few"], score, shops[target])
    for target, queries, name, folder in tuned(shops, teachers, begin, profile):
        score = partial(transfer.scores, folder, profile=profile)
        values[target][f"{name}, {queries}"] = ndcg(asked[target]["test"], score, shops[target])
        print(f"{seed}: {target}, {name}, {queries}: {values[target][f'{name}, {queries}'].mean()}")
    for name, folder in students(shops, teachers, begin, profile).items():
        for target in shops:
            score = partial(transfer.scores, folder, profile=profile)
            values[target][name] = ndcg(asked[target]["test"], score, shops[target])
    return {
        "ndcg": {
            target: {name: own.round(6).to_dict() for name, own in rows.items()}
            for target, rows in values.items()
        },
        "random": {
            target: metrics.ranking(
                judge.frame(own["test"], constant(own["test"])), judge.gains(own["test"])
            )["random_ndcg@10"]
            for target, own in asked.items()
        },
        "pairs": forecasts(shops, asked, handful, values, profile),
    }


def search_profile(seed: int) -> Profile:
    """The profile, at a size that three teachers and their pupils are trained in half an hour."""
    own = Profile.named(seed=seed)
    return replace(
        own,
        queries=min(own.queries, 450),
        unlabelled_pairs=min(own.unlabelled_pairs, 8000),
        warm_up_pairs=min(own.warm_up_pairs, 9600),
        teacher_epochs=min(own.teacher_epochs, 4),
    )


def mixed(shops: dict[str, DatasetDict]) -> Dataset:
    """Unlabelled pairs of all shops in turn, from which all models start: what moves later from a
    shop to another is what its labels have taught."""
    columns = ["query_id", "product_id", "query", *TEXT, "label"]
    label = shops[ICECAT]["train"].features["label"]
    return interleave_datasets(
        [own["unlabelled"].select_columns(columns).cast_column("label", label)
         for own in shops.values()]
    )  # fmt: skip


def questions(data: DatasetDict) -> dict[str, Dataset]:
    """The test pairs, and those of the queries that a handful is taken from."""
    most = transfer.few_queries(data, max(QUERIES))
    return {
        "test": data["test"],
        "few": concatenate_datasets([most["train"], most["validation"]]),
    }


def constant(pairs: Dataset) -> np.ndarray:
    return np.zeros(len(pairs))


def cosine(profile: Profile) -> Callable[[Dataset], np.ndarray]:
    return partial(features.bi_encoder_scores, profile=profile)


def ndcg(pairs: Dataset, score: Callable[[Dataset], np.ndarray], data: DatasetDict) -> pd.Series:
    """nDCG@10 of each query by the gains of the shop that it is asked in."""
    frame = judge.frame(pairs, score(pairs))
    return metrics.ranking(frame, judge.gains(data["test"]))["per_query"]["ndcg@10"]


def tuned(shops: dict, teachers: dict, begin: Path, profile: Profile):
    """Target, number of queries, row and folder of each model that learns from few."""
    for target, data in shops.items():
        for queries in (MIDDLE,) if target == TERSE else QUERIES:
            own = transfer.few_queries(data, queries)
            yield target, queries, "alone", transfer.fine_tune(own, profile, begin, FEW_STEPS)
            for source, folder in teachers.items():
                far = {source, target} == {PLAIN, ICECAT}
                if source == target or not (queries == MIDDLE or far):
                    continue
                turn = (source == PLAIN) != (target == PLAIN)
                model = transfer.fine_tune(own, profile, folder, FEW_STEPS, turn)
                yield target, queries, f"from {source}", model
                if turn and far and queries == MIDDLE:
                    model = transfer.fine_tune(own, profile, folder, FEW_STEPS)
                    yield target, queries, f"from {source}, head as it is", model


def students(shops: dict, teachers: dict, begin: Path, profile: Profile) -> dict[str, Path]:
    """A student of each of two teachers, and one of both, with as many steps."""
    label = shops[ICECAT]["train"].features["label"]
    lessons = {}
    for name in (PLAIN, ICECAT):
        pairs = shops[name]["unlabelled"].cast_column("label", label)
        lessons[name] = (pairs.select(range(min(STUDENT_PAIRS, len(pairs)))), teachers[name])
    steps = min(STUDENT_STEPS, 2 * keys.batches(2 * len(lessons[PLAIN][0]), profile))
    taught = {f"student of {name}": [own] for name, own in lessons.items()}
    taught["student of both"] = list(lessons.values())
    return {
        name: transfer.joint_student(own, begin, profile, steps) for name, own in taught.items()
    }


def forecasts(shops: dict, asked: dict, handful: dict, values: dict, profile: Profile):
    """What few labelled queries foretell of each pair of shops, and what comes true.

    The source's teacher, as it is, meets what the shop would have instead: the bi-encoder, where
    nothing is to be learnt, and a head that knows nothing, where learning begins.
    """
    texts = {name: product_vectors(own, profile) for name, own in shops.items()}
    rows = []
    for target, own in shops.items():
        for source in shops:
            if source == target:
                continue
            zero = values[target][f"{source}, zero-shot"]
            far = apart(texts[source], texts[target], profile.seed)
            for queries in QUERIES:
                few = transfer.few_queries(own, queries)
                ids = {*few["train"]["query_id"], *few["validation"]["query_id"]}
                told = {name: one[one.index.isin(ids)] for name, one in handful[target].items()}
                row = {"source": source, "target": target, "queries": queries, **far}
                row["foreseen"] = {
                    outcome: transfer.foreseen(told[source], told[other])
                    for outcome, other in zip(OUTCOMES, ("bi-encoder", "chance"), strict=True)
                }
                row["zero-shot"] = metrics.paired_bootstrap(zero, values[target]["bi-encoder"])
                moved = values[target].get(f"from {source}, {queries}")
                if moved is not None:
                    alone = values[target][f"alone, {queries}"]
                    row["tuned"] = metrics.paired_bootstrap(moved, alone)
                rows.append(row)
    return rows


def product_vectors(data: DatasetDict, profile: Profile) -> np.ndarray:
    """The encoder's vectors of the titles of a shop's training pairs."""
    titles = sorted(set(data["train"]["product_title"]))[:1000]
    return features.layers(titles, profile)[-1]


# Cost against size --------------------------------------------------------------------------------


def scale() -> list[dict]:
    """For target shops of several sizes: what it takes to move in, to learn, and to answer."""
    profile = Profile.named(seed=0)
    whole, rows = retail.load(real_folder("online_retail")), []
    vectors = encoded(whole)
    weights = KIND(recommend.Items(whole, vectors, recommend.FIRST, 64, profile)).state_dict()
    place = {text: row for row, text in enumerate(recommend.texts(whole)[0])}
    for times in SCALES:
        baskets = grown(whole, times)
        day, end = baskets.test_start, baskets.validation_start
        own = vectors[[place[text] for text in recommend.texts(baskets)[0]]]
        everyone = np.arange(len(baskets.users))
        items, read_s = timed(other_shop.items_of, baskets, everyone, own, profile)
        read_s += timed(items.on, day)[1]
        model = KIND(items)
        _, move_s = timed(transfer.move, model, weights)
        rank = ranker(model.eval(), baskets, day)
        users = recommend.users_before(baskets, day)[:TIMED]
        row = {
            "users": len(baskets.users),
            "items": len(baskets.items),
            "purchases": len(baskets.events),
            "read_s": read_s,
            "move_s": move_s,
            "step_s": step_seconds(model, baskets, end, profile),
            **waits(rank, users),
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def step_seconds(
    model: recommend.Recommender, baskets: Baskets, end: int, profile: Profile
) -> float:
    """The median time of a step of training, forward and back, on `GROUP` users."""
    collator = recommend.BasketCollator(baskets)
    day = end - HORIZON
    users = recommend.users_before(baskets, day)
    users = np.intersect1d(users, list(recommend.targets(baskets, day)))[: recommend.GROUP]
    row = {"day": day, "users": users.tolist(), "labelled": True}
    candidates = torch.from_numpy(np.unique(baskets.between(0, end)["item"]))
    column = recommend.columns_of(candidates, len(baskets.items))
    model.train()
    times = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        batch = collator([row])
        at = column[batch["bought"]]
        logits = model(batch, candidates)
        recommend.purchase_loss(logits, batch["buyer"][at >= 0], at[at >= 0]).backward()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds, and of the sizes."""
    parts = {kind: shared.read(folder / kind, ("profile",)) for kind in KINDS}
    data: dict = {"recommendation": _recommendation(parts["recommendation"])}
    data["search"] = _search(parts["search"])
    rows = [
        {"kind": kind, "seed": part["seed"], **row}
        for kind, own in parts.items()
        for part in own
        for row in part["pairs"]
    ]
    data["forecasts"] = _forecasts(rows)
    data["scale"] = shared.sizes(folder)
    report.write_recorded(
        out,
        command=shared.command("cross_platform", parts),
        seeds=[part["seed"] for own in parts.values() for part in own],
        hardware=parts["recommendation"][0]["hardware"],
        generator=simulated.generator_hash(),
        data=data,
        goals=goals_of(data),
    )
    print(out)


def worth(counts: Sequence[int], alone: pd.DataFrame, moved: pd.DataFrame, at: int) -> dict:
    """The number of further baskets that would do without transfer what transfer does.

    Args:
        counts: numbers of baskets (n,), ascending.
        alone, moved: a measure of each user (rows) at each count (columns), without transfer and
            with it; the same users in both.
        at: which of the counts the shop has.

    Returns:
        `value`, the count at which `alone` reaches what `moved` has at counts[at], minus
        counts[at], and `low` and `high`, its 95 % interval over users. A level that `alone` never
        reaches counts as the last count, so that all three are at most counts[-1] - counts[at].
    """
    columns = pd.concat([alone.set_axis(range(len(counts)), axis=1), moved.iloc[:, at]], axis=1)
    columns.columns = [*range(len(counts)), "level"]

    def further(means: pd.DataFrame) -> pd.Series:
        rows = means.to_numpy()
        return pd.Series([transfer.reached(counts, row[:-1], row[-1]) - counts[at] for row in rows])

    return metrics.bootstrap_of_means(columns, further, resamples=2_000)


def _recommendation(parts: list[dict]) -> dict:
    """Means over seeds and users of each point of the curve, and what transfer is worth."""
    points, tables = [], {}
    for place, point in enumerate(parts[0]["curve"]):
        own = [part["curve"][place] for part in parts]
        row = {"share": point["share"], "rows": {}, "new": {}}
        for name in ("baskets", "users"):
            row[name] = float(np.mean([one[name] for one in own]))
        for measure, into in (("recall", row["rows"]), ("new_recall", row["new"])):
            table = _table(own, measure)
            tables[place, measure] = table
            for name in table:
                into[name] = metrics.bootstrap_of_means(table[[name]], itemgetter(name))
                into[name]["by seed"] = [
                    float(pd.Series(one["rows"][name][measure], dtype=float).mean()) for one in own
                ]
        points.append(row)
    counts = [row["baskets"] for row in points]
    minus, worths = {}, {}
    for measure in MEASURES:
        curves = {
            name: pd.concat(
                [tables[place, measure][_at(name, place)] for place in range(len(points))],
                axis=1,
                keys=range(len(points)),
            )
            for name in ("alone", "moved")
        }
        minus[measure] = [
            metrics.paired_bootstrap(curves["moved"][place], curves["alone"][place])
            for place in range(len(points))
        ]
        worths[measure] = [
            worth(counts, curves["alone"], curves["moved"], place) for place in range(len(points))
        ]
    return {
        "curve": points,
        "moved − alone": minus,
        "worth": worths,
        "moved": parts[0]["moved"],
        **{name: [part[name] for part in parts] for name in ("distance", "likeness")},
        "test_users": len(tables[0, "recall"]),
    }


def _at(name: str, place: int) -> str:
    """The row of a curve at its place: with no basket, nothing can be learnt in the shop."""
    return name if place else {"alone": "drawn", "moved": "zero-shot"}[name]


def _table(points: list[dict], measure: str) -> pd.DataFrame:
    """Users × rows, the mean over seeds; users without a value are left out."""
    own = [
        pd.DataFrame(
            {
                name: pd.Series(found[measure], found["user"], dtype=float)
                for name, found in point["rows"].items()
            }
        )
        for point in points
    ]
    return means(own).dropna()


def _search(parts: list[dict]) -> dict:
    data = {}
    for target in parts[0]["ndcg"]:
        # The queries of a simulated shop are its seed's own; those of Icecat are the same for all.
        of_seeds = [pd.DataFrame(part["ndcg"][target]) for part in parts]
        if target != ICECAT:
            of_seeds = [
                one.rename(index=f"{part['seed']} {{}}".format)
                for one, part in zip(of_seeds, parts, strict=True)
            ]
        table = means(of_seeds)
        data[target] = {
            "queries": len(table),
            "random": float(np.mean([part["random"][target] for part in parts])),
            "rows": {
                name: {
                    **metrics.bootstrap_of_means(table[[name]], itemgetter(name)),
                    "by seed": [float(np.mean([*part["ndcg"][target][name].values()]))
                                for part in parts],
                }
                for name in table
            },
            "minus": _minus(table, target),
        }  # fmt: skip
        data[target]["minus, over seeds"] = minus_free(data[target]["rows"])
    return data


def minus_free(rows: dict) -> dict:
    """Each row that learns from few queries minus the bi-encoder: the mean over seeds with their
    interval, which says nothing of other queries."""
    free = np.array(rows[FREE]["by seed"])
    return {
        f"{name} − {FREE}": shared.of_seeds(np.array(row["by seed"]) - free)
        for name, row in rows.items()
        if name.startswith("from ")
    }


def _minus(table: pd.DataFrame, target: str) -> dict:
    pairs = {}
    for name in table:
        if name.endswith(", zero-shot"):
            pairs[f"{name} − bi-encoder"] = (name, "bi-encoder")
        if name.startswith("from "):
            source, queries = name.rsplit(", ", 1)
            pairs[f"{source} − alone, {queries}"] = (name, f"alone, {queries}")
    if target in (PLAIN, ICECAT):
        own = f"student of {target}"
        pairs["student of both − student of its own teacher"] = ("student of both", own)
        other = f"student of {ICECAT if target == PLAIN else PLAIN}"
        pairs["student of both − student of the other teacher"] = ("student of both", other)
    return {name: metrics.paired_bootstrap(table[a], table[b]) for name, (a, b) in pairs.items()}


def _forecasts(rows: list[dict]) -> dict:
    """How often a handful of labels and the distance of texts foretell who is harmed."""
    table = {}
    for kind in KINDS:
        for outcome in OUTCOMES:
            own = [row for row in rows if row["kind"] == kind and outcome in row]
            helped = [row[outcome]["difference"] > 0 for row in own]
            right = [
                (row["foreseen"][outcome]["says"] == "helps") == good
                for row, good in zip(own, helped, strict=True)
            ]
            sure = [
                ok for row, ok in zip(own, right, strict=True) if row["foreseen"][outcome]["sure"]
            ]
            clear = [
                ok
                for row, ok in zip(own, right, strict=True)
                if row[outcome]["low"] > 0 or row[outcome]["high"] < 0
            ]
            told = pd.DataFrame(
                {
                    **{name: [row[name] for row in own] for name in ("distance", "likeness")},
                    "gain": [row[outcome]["difference"] for row in own],
                    "foreseen": [row["foreseen"][outcome]["difference"] for row in own],
                }
            )
            ranks = told.corr("spearman")["gain"]
            table[f"{kind}, {outcome}"] = {
                "right": share_right(right),
                "right where it was sure": share_right(sure),
                "right where the outcome is clear": share_right(clear),
                "helped": share_right(helped),
                "right minus always the same": beside_constant(own, right, helped),
                "rank correlation of the forecast": float(ranks["foreseen"]),
                "rank correlation of the distance": float(ranks["distance"]),
                "rank correlation of the likeness": float(ranks["likeness"]),
            }
    return {"cases": rows, "summary": table}


def beside_constant(rows: list[dict], right: Sequence[bool], helped: Sequence[bool]) -> dict:
    """The share of forecasts that came true, minus that of whoever always says what came more often
    in these cases. The interval is over seeds and over pairs of shops, each with all its cases."""
    same = np.array(helped) == (2 * sum(helped) >= len(helped))
    table = pd.DataFrame(
        {
            "seed": [row["seed"] for row in rows],
            "pair": [f"{row['source']} to {row['target']}" for row in rows],
            "gap": np.array(right, dtype=float) - same,
            "cases": 1.0,
        }
    )
    wide = table.pivot_table(["gap", "cases"], "seed", "pair", "sum", fill_value=0)
    cells = np.stack([wide["gap"], wide["cases"]], axis=-1)
    return metrics.two_way_bootstrap(cells, lambda means: means[:, 0] / means[:, 1])


def share_right(right: Sequence[bool]) -> dict:
    """The share of forecasts that came true, with its exact 95 % interval.

    Where there is no forecast, the share is None and the interval is 0 to 1.
    """
    n, k = len(right), int(np.sum(right))
    if n == 0:
        return {"cases": 0, "share": None, "low": 0.0, "high": 1.0}
    return {"cases": n, "share": k / n} | shared.exact_interval(k, n)


def over_seeds(point: dict, measure: str, place: int) -> dict[str, float]:
    """What transfer gains at a point of the curve, with an interval over seeds: each draws its own
    baskets and trains anew, which an interval over customers does not know."""
    rows = point["rows" if measure == "recall" else "new"]
    moved, alone = (rows[_at(name, place)]["by seed"] for name in ("moved", "alone"))
    return shared.of_seeds(np.subtract(moved, alone))


def goals_of(data: dict) -> list[dict]:
    """The goals, from nothing but what the record holds."""
    told, goals = data["recommendation"], []
    for measure, called in MEASURES.items():
        for place in (0, 1):
            baskets = told["curve"][place]["baskets"]
            name = f"{called} at {baskets:.0f} target baskets, with transfer"
            gap = over_seeds(told["curve"][place], measure, place)
            goals.append(above(f"{name} minus without, interval over seeds", gap))
            gained = told["worth"][measure][place]
            goals.append(above(f"{name}, worth in further target baskets", gained))
    for target, other in ((PLAIN, ICECAT), (ICECAT, PLAIN)):
        own = data["search"][target]
        span = own["minus"]["student of both − student of its own teacher"]
        goals.append(
            report.goal(
                f"{target}: nDCG@10, student of both teachers minus student of its own",
                *ends(span), "at least -0.01",
                span["difference"] >= -0.01,
            )
        )  # fmt: skip
        few = f"from {other}, {MIDDLE}"
        goals.append(
            above(
                f"{target}: nDCG@10 after {MIDDLE} queries, from {other} minus {FREE}, interval "
                f"over seeds ({AFTER})",
                own["minus, over seeds"][f"{few} − {FREE}"],
            )
        )
    for name, row in data["forecasts"]["summary"].items():
        told = f"{name}: share of forecasts that came true, minus always the same ({AFTER})"
        goals.append(above(told, row["right minus always the same"]))
    return [*goals, *_costs(data["scale"])]


def _costs(rows: list[dict]) -> list[dict]:
    one = next(row for row in rows if row["users"] >= rows[-1]["users"] / SCALES[-1])
    own = rows[-1]
    ratio = own["step_s"] / one["step_s"]
    times = own["items"] / one["items"]
    return [
        exact(
            f"time of a step of training at {times:.0f} times the items, in units of that at one",
            ratio,
            f"at most {times:.0f}",
            ratio <= times,
        )
    ]


KINDS = {"recommendation": recommendation, "search": search}


def main() -> None:
    parser = argparse.ArgumentParser(description="From one shop to another.")
    arguments = shared.arguments_of(parser, "cross_platform", tuple(KINDS))
    shared.run(arguments, KINDS.get(arguments.kind), merge, scale, arguments.kind or "")


if __name__ == "__main__":
    main()
