"""User profiles: guesses about households, cards that hold, and searches with a profile.

    python benchmarks/measure_profiles.py people --seeds 18 19 20  folds with these seeds, real data
    python benchmarks/measure_profiles.py shop --seeds 18 19 20    simulated shops of these seeds
    python benchmarks/measure_profiles.py --scale                  cost, to ten times the data
    python benchmarks/measure_profiles.py --merge                  all files into the record

All households count, whatever the profile says. Penalties are chosen inside the training folds,
weights of a profile on validation queries, and all numbers are about what was held out. The
students of the shops are found among the artefacts where they have been trained before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import f1_score, roc_auc_score

import shared
from ecomkd import bench, features, metrics, people, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey, sources
from ecomkd.data import shop as simulated
from ecomkd.data.baskets import Baskets
from ecomkd.relevance import judge, stages
from shared import GRIDS, SCALES, TIMED, above, below, best_of, ends, grown, timed

CLUSTERS = 60
FOLDS = 5
READINGS = ("everything", "nothing sensitive")
BOTH = "text + tf-idf"
PURCHASES = (0, 1, 3, 10, 30)
CLARITIES = (1.0, 4.0, 16.0)
CLEAR = 4.0
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3)
PRIORS = (1.0, 3.0, 10.0, 30.0)


# Real households ----------------------------------------------------------------------------------


def households(seed: int) -> dict:
    """Guesses about households with and without sensitive purchases, and what cards are worth."""
    profile, baskets = Profile.named(seed=seed), journey.load()
    texts, codes = recommend.texts(baskets)
    vectors = features.layers(texts, profile)[-1]
    hidden = (people.sensitive(baskets.items) != "").to_numpy()
    readings = dict(zip(READINGS, (baskets, people.without(baskets, hidden)), strict=True))
    told = people.demographics(baskets.users)
    guesses: dict = {target: {} for target in told}
    for reading, own in readings.items():
        for name, X in tables(own, vectors[codes]).items():
            for target, label in told.items():
                y, X_told = label.cat.codes.to_numpy(), X[told.index]
                found = people.held_out(X_told, y, FOLDS, seed)
                guesses[target][f"{name}, {reading}"] = found.round(5).tolist()
            print(f"seed {seed}: {name}, {reading}", flush=True)
    for target, label in told.items():
        y = label.cat.codes.to_numpy()
        guesses[target]["majority"] = people.shares_held_out(y, FOLDS, seed).tolist()
    return {
        "household": told.index.tolist(),
        "labels": {target: label.cat.codes.tolist() for target, label in told.items()},
        "guesses": guesses,
        "hidden": hidden_shares(baskets),
        "recall": recall(baskets, readings),
        "cards": hold(baskets, vectors, codes, seed),
    }


def tables(baskets: Baskets, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """What is read of each user, (U, F): vectors are those of items (I, E)."""
    types = pd.factorize(baskets.items["type"])[0]
    counts = people.group_counts(baskets, baskets.days, types)
    words = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    text = people.user_vectors(people.purchase_weights(baskets, baskets.days), vectors)
    rows = {"counts": counts.toarray(), "tf-idf": words, "text": text}
    return {**rows, BOTH: np.hstack([words, text])}


def hidden_shares(baskets: Baskets) -> dict[str, float]:
    """Of all purchases, the share that is sensitive, by reason."""
    reason = people.sensitive(baskets.items)[baskets.events["item"]]
    shares = reason[reason != ""].value_counts() / len(reason)
    return shares.to_dict()


def recall(baskets: Baskets, readings: dict[str, Baskets]) -> dict:
    """Recall@10 of *buy it again* for each user, by what it may read; all purchases are targets."""
    chosen, day = best_of(recommend.buy_again, GRIDS["buy it again"], baskets), baskets.test_start
    rows = {
        reading: recommend.evaluate(recommend.buy_again(own, day, **chosen), baskets, day)
        for reading, own in readings.items()
    }
    users = rows[READINGS[0]]["per_user"].index.tolist()
    return {
        "user": users,
        **{reading: found["per_user"]["recall"].tolist() for reading, found in rows.items()},
    }


def hold(baskets: Baskets, vectors: np.ndarray, codes: np.ndarray, seed: int) -> list[dict]:
    """Of each statement made at the middle of the time, whether the rest of the time bears it out:
    what is observed then lies on the same side of what is usual."""
    groups = people.cluster(vectors, CLUSTERS, seed)[codes]
    middle = baskets.days // 2
    rest = replace(baskets, events=baskets.events[baskets.events["day"] >= middle])
    first, then = (
        people.Cards(part, day, groups, journey.FIRST_DAY)
        for part, day in ((baskets, middle), (rest, baskets.days))
    )
    rows = []
    for user in np.flatnonzero(then.rhythm["visits"] >= people.LEAST):
        for one in first(int(user)):
            if one.topic == "interest":
                held, chance = then.lift[user, one.about] > 1, (then.lift[user] > 1).mean()
            elif one.topic in then.habits:
                row = then.habits[one.topic].loc[user]
                held = (row["value"] > row["expected"]) == (one.value > one.usual)
                side = then.habits[one.topic]["z"].dropna() > 0
                chance = side.mean() if one.value > one.usual else 1 - side.mean()
            elif one.topic == "weekday":
                usual = then.rhythm["weekday"]
                held = first.rhythm.loc[user, "weekday"] == usual[user]
                chance = (usual == first.rhythm.loc[user, "weekday"]).mean()
            else:
                continue
            rows.append({"user": int(user), "topic": one.topic, "held": bool(held)})
            rows[-1]["chance"] = float(chance)
    return rows


# Simulated shoppers -------------------------------------------------------------------------------


def shop(seed: int) -> dict:
    """nDCG@10 of each shopper of a simulated shop, without a profile and with several."""
    profile = Profile.named(seed=seed)
    return reranked(made_for(profile), scored(profile), seed)


def made_for(profile: Profile) -> simulated.Shop:
    """The simulated shop that `sources.load` gives to the core."""
    return simulated.generate(
        profile.seed,
        profile.products,
        profile.queries,
        profile.judged_per_query,
        profile.unlabelled_pairs,
    )


def scored(profile: Profile) -> dict[str, pd.DataFrame]:
    """The judged pairs of the splits, with the scores of the distilled student of the core."""
    data = sources.load("shop", profile)
    student, gains = stages.student(data, profile), judge.gains(data["test"])
    return {
        split: judge.frame(
            data[split],
            metrics.expected_gain(judge.predict(student, data[split], profile), gains),
        )
        for split in ("validation", "test")
    }


def reranked(made: simulated.Shop, scores: dict[str, pd.DataFrame], seed: int) -> dict:
    """Each shopper's nDCG@10, by clarity and number of purchases; what is searched for the profile
    are training queries, its weight is chosen on validation queries."""
    taste = people.tastes(made)
    lessons = made.judgments[made.judgments["split"] == "train"].assign(score=0.0)
    train = people.searches(made, lessons)
    validation, test = (people.searches(made, scores[s]) for s in ("validation", "test"))
    found: dict = {"shopper": made.shoppers["shopper_id"].tolist(), "with": {}}
    nothing = np.zeros_like(taste)
    found["without"] = people.per_shopper(test, taste, nothing, 0.0).tolist()
    found["taste"] = _best(test, validation, taste, {1.0: taste})["own"]
    for clarity in CLARITIES:
        for n in PURCHASES:
            bought = people.draw(train, taste, n, seed, clarity)
            fits = {prior: people.match(made.products, bought, prior) for prior in PRIORS}
            row = _best(test, validation, taste, fits)
            if n == max(PURCHASES):
                row |= _strangers(made, test, taste, bought, row)
            found["with"][f"{clarity:g}/{n}"] = row
            print(f"seed {seed}: clarity {clarity:g}, {n} purchases", flush=True)
    return found


def _best(test, validation, taste: np.ndarray, fits: dict[float, np.ndarray]) -> dict:
    tried = {
        (weight, prior): people.per_shopper(validation, taste, fit, weight).mean()
        for prior, fit in fits.items()
        for weight in WEIGHTS
    }
    weight, prior = max(tried, key=tried.get)
    own = people.per_shopper(test, taste, fits[prior], weight)
    return {"weight": weight, "prior": prior, "own": own.tolist()}


def _strangers(made, test, taste: np.ndarray, bought: np.ndarray, chosen: dict) -> dict:
    """The same with purchases that are half, or wholly, another shopper's."""
    half, other = bought.shape[1] // 2, np.roll(bought, 1, axis=0)
    kinds = {"shared": np.hstack([bought[:, :half], other[:, half:]]), "another's": other}
    return {
        name: people.per_shopper(
            test, taste, people.match(made.products, rows, chosen["prior"]), chosen["weight"]
        ).tolist()
        for name, rows in kinds.items()
    }


# Cost against size --------------------------------------------------------------------------------


def scale() -> list[dict]:
    """For shops of several sizes: what a night's profiles cost, and one card."""
    profile, whole, rows = Profile.named(seed=0), journey.load(), []
    vectors = features.layers(recommend.texts(whole)[0], profile)[-1]
    groups = pd.Series(
        people.cluster(vectors, CLUSTERS, 0)[recommend.texts(whole)[1]],
        whole.items["item_id"],
    )
    for times in SCALES:
        baskets = grown(whole, times)
        day, own = baskets.days, groups.loc[baskets.items["item_id"]].to_numpy()
        cards, cards_s = timed(people.Cards, baskets, day, own, journey.FIRST_DAY)
        table = vectors[recommend.texts(baskets)[1]]
        weights, weights_s = timed(people.purchase_weights, baskets, day)
        _, means_s = timed(people.user_vectors, weights, table)
        users = np.random.default_rng(0).permutation(len(baskets.users))[:TIMED]
        asked = [int(user) for user in users]
        clock = bench.latency(cards, asked, repeats=3, threads=1, device="cpu")
        rows.append(
            {
                "users": len(baskets.users),
                "purchases": len(baskets.events),
                "cards_s": cards_s,
                "vectors_s": weights_s + means_s,
                "card_p50_ms": clock["p50_ms"],
                "card_p95_ms": clock["p95_ms"],
            }
        )
        print(rows[-1], flush=True)
    return rows


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds, and of the sizes."""
    sizes = shared.sizes(folder)
    parts = {kind: shared.read(folder / kind, ("profile",)) for kind in KINDS}
    data, goals = {}, []
    for make, kind in ((_people, "people"), (_shop, "shop")):
        data[kind], own = make(parts[kind])
        goals += own
    data["scale"] = sizes
    seeds = [part["seed"] for part in parts["people"]]
    report.write_recorded(
        out,
        command=shared.command("profiles", parts),
        seeds=seeds,
        hardware=parts["people"][0]["hardware"],
        generator=simulated.generator_hash(),
        data=data,
        goals=goals,
    )
    print(out)


def _people(parts: list[dict]) -> tuple[dict, list[dict]]:
    guesses, losses = {}, {}
    for target in parts[0]["guesses"]:
        y = np.array(parts[0]["labels"][target])
        losses[target] = _losses(parts, target, y)
        guesses[target] = {
            name: {
                **metrics.bootstrap_of_means(losses[target], itemgetter(name)),
                **_quality([np.array(part["guesses"][target][name]) for part in parts], y),
            }
            for name in parts[0]["guesses"][target]
        }
    minus = {target: _minus(table) for target, table in losses.items()}
    kids, told = minus["kids"], "log loss of kids, {} minus {}"
    goals = [
        below(told.format(a, b), kids[f"{a} - {b}"])
        for a, b in (("text", "majority"), ("text", "counts"), (BOTH, "tf-idf"))
    ]
    error = guesses["kids"][f"text, {READINGS[0]}"]
    goals.append(
        report.goal(
            "expected calibration error of kids, text", error["ece"],
            min(error["ece by seed"]), max(error["ece by seed"]), "at most 0.05",
            error["ece"] <= 0.05,
        )
    )  # fmt: skip
    read = pd.DataFrame(parts[0]["recall"]).set_index("user")
    cost = metrics.paired_bootstrap(read[READINGS[1]], read[READINGS[0]])
    goals.append(
        report.goal(
            "recall@10 of buy it again, without sensitive purchases minus with",
            *ends(cost), "at least -0.02", cost["difference"] >= -0.02,
        )
    )  # fmt: skip
    data = {
        "households": len(parts[0]["household"]),
        "guesses": guesses,
        "minus": minus,
        "reliability": _reliability(parts, f"text, {READINGS[0]}"),
        "hidden": parts[0]["hidden"],
        "recall": {**read.mean().to_dict(), "minus": cost},
        "cards": _held(parts),
    }
    return data, goals


def _losses(parts: list[dict], target: str, y: np.ndarray) -> pd.DataFrame:
    """Households × rows, the mean log loss over seeds."""
    rows = np.arange(len(y))
    return pd.DataFrame(
        {
            name: np.mean(
                [-np.log(np.array(part["guesses"][target][name])[rows, y]) for part in parts],
                axis=0,
            )
            for name in parts[0]["guesses"][target]
        },
        index=parts[0]["household"],
    )


def _quality(found: list[np.ndarray], y: np.ndarray) -> dict:
    one_hot = np.eye(found[0].shape[1])[y]
    errors = [_error(p, one_hot) for p in found]
    rng = np.random.default_rng(0)
    # What an honest forecaster would have: outcomes drawn from the probabilities themselves.
    honest = [_error(p, np.eye(p.shape[1])[_drawn(p, rng)]) for p in found for _ in range(100)]
    row = {
        "ece": float(np.mean(errors)),
        "ece by seed": errors,
        "ece if honest": float(np.mean(honest)),
    }
    row["macro_f1"] = float(np.mean([f1_score(y, p.argmax(1), average="macro") for p in found]))
    if found[0].shape[1] == 2:
        row["auc"] = float(np.mean([roc_auc_score(y, p[:, 1]) for p in found]))
    return row


def _drawn(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A class for each row of probabilities (N, C)."""
    return (p.cumsum(axis=1)[:, :-1] < rng.random((len(p), 1))).sum(axis=1)


def _error(p: np.ndarray, one_hot: np.ndarray) -> float:
    return people.calibration_error(people.reliability(p.ravel(), one_hot.ravel()))


def _reliability(parts: list[dict], name: str) -> list[dict]:
    p = np.concatenate([np.array(part["guesses"]["kids"][name])[:, 1] for part in parts])
    y = np.tile(parts[0]["labels"]["kids"], len(parts))
    return people.reliability(p, y).reset_index().to_dict("records")


def _minus(table: pd.DataFrame) -> dict:
    read = {name: f"{name}, {READINGS[0]}" for name in ("counts", "tf-idf", "text", BOTH)}
    read["majority"] = "majority"
    pairs = [("text", "majority"), ("text", "counts"), ("text", "tf-idf"), (BOTH, "tf-idf")]
    found = {f"{a} - {b}": metrics.paired_bootstrap(table[read[a]], table[read[b]])
             for a, b in pairs}  # fmt: skip
    for name in ("counts", "tf-idf", "text", BOTH):
        a, b = (f"{name}, {reading}" for reading in reversed(READINGS))
        found[f"{name}, {READINGS[1]} - {READINGS[0]}"] = metrics.paired_bootstrap(
            table[a], table[b]
        )
    return found


def _held(parts: list[dict]) -> dict:
    """By topic, the share of statements that held, and of chance; intervals over households."""
    rows = pd.concat([pd.DataFrame(part["cards"]) for part in parts]).assign(n=1.0)
    found = {}
    for topic, own in rows.groupby("topic"):
        sums = own.groupby("user")[["held", "chance", "n"]].sum().astype(float)
        found[topic] = {
            **metrics.bootstrap_of_means(sums, lambda means: means["held"] / means["n"]),
            "chance": float(own["chance"].mean()),
            "statements": len(own) / len(parts),
        }
    return found


def _shop(parts: list[dict]) -> tuple[dict, list[dict]]:
    names = [name for part in parts for name in part["shopper"]]

    def series(read: Callable[[dict], list[float]]) -> pd.Series:
        return pd.Series([value for part in parts for value in read(part)], names)

    without, rows = series(lambda part: part["without"]), {}
    for key in parts[0]["with"]:
        for kind in ("own", "shared", "another's"):
            if kind in parts[0]["with"][key]:
                own = series(lambda part, key=key, kind=kind: part["with"][key][kind])
                rows[f"{key}/{kind}"] = {
                    "ndcg": float(own.mean()),
                    **metrics.paired_bootstrap(own, without),
                    "better for": float((own > without).mean()),
                    "worse for": float((own < without).mean()),
                    "weights": [part["with"][key].get("weight") for part in parts],
                }
    lifted = rows[f"{CLEAR:g}/{max(PURCHASES)}/own"]
    new = rows[f"{CLEAR:g}/0/own"]
    goals = [
        above(f"nDCG@10 per shopper, profile of {max(PURCHASES)} purchases minus none", lifted),
        report.goal(
            "nDCG@10 per shopper, new shopper minus none", *ends(new), "0, exactly",
            new["low"] == new["high"] == 0,
        ),
    ]  # fmt: skip
    told = {
        "shoppers": len(names),
        "without": float(without.mean()),
        "taste": metrics.paired_bootstrap(series(lambda part: part["taste"]), without),
        "with": rows,
    }
    return told, goals


KINDS = {"people": households, "shop": shop}


def main() -> None:
    parser = argparse.ArgumentParser(description="User profiles.")
    arguments = shared.arguments_of(parser, "profiles", tuple(KINDS))
    shared.run(arguments, KINDS.get(arguments.kind), merge, scale, arguments.kind or "")


if __name__ == "__main__":
    main()
