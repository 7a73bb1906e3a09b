"""Guesses about households from what they buy, what leaving purchases out costs, and the cost.

    python benchmarks/measure_profiles.py people --seeds 18 19 20 21 22  folds with these
                                                       seeds, real data
    python benchmarks/measure_profiles.py --scale      cost, to ten times the data
    python benchmarks/measure_profiles.py --merge      all files into the record

All households count, whatever the profile says. Penalties are chosen inside the training folds, and
all numbers are about what was held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import f1_score, roc_auc_score

import shared
from ecomkd import bench, features, metrics, people, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data.baskets import Baskets
from shared import GRIDS, SCALES, TIMED, below, best_of, ends, grown, timed

CLUSTERS = 60
FOLDS = 5
READINGS = ("everything", "nothing sensitive")
BOTH = "text + tf-idf"
KINDS = ("people",)


# Real households ----------------------------------------------------------------------------------


def households(seed: int) -> dict:
    """Guesses about households with and without sensitive purchases, and what that costs."""
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
    parts = shared.read(folder / KINDS[0], ("profile",))
    data, goals = _people(parts)
    report.write_recorded(
        out,
        command=shared.command("profiles", {KINDS[0]: parts}),
        seeds=[part["seed"] for part in parts],
        hardware=parts[0]["hardware"],
        generator=None,
        data={"people": data, "scale": sizes},
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
                **shared.over_both(losses[target][name]),
                **_quality([np.array(part["guesses"][target][name]) for part in parts], y),
            }
            for name in parts[0]["guesses"][target]
        }
    minus = {target: _minus(own) for target, own in losses.items()}
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
    }
    return data, goals


def _losses(parts: list[dict], target: str, y: np.ndarray) -> dict[str, np.ndarray]:
    """The log loss (S, H) of each row, seeds × households."""
    rows = np.arange(len(y))
    return {
        name: np.array(
            [-np.log(np.array(part["guesses"][target][name])[rows, y]) for part in parts]
        )
        for name in parts[0]["guesses"][target]
    }


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


def _minus(losses: dict[str, np.ndarray]) -> dict:
    read = {name: f"{name}, {READINGS[0]}" for name in ("counts", "tf-idf", "text", BOTH)}
    read["majority"] = "majority"
    pairs = [("text", "majority"), ("text", "counts"), ("text", "tf-idf"), (BOTH, "tf-idf")]
    named = {f"{a} - {b}": (read[a], read[b]) for a, b in pairs}
    for name in ("counts", "tf-idf", "text", BOTH):
        a, b = (f"{name}, {reading}" for reading in reversed(READINGS))
        named[f"{name}, {READINGS[1]} - {READINGS[0]}"] = a, b
    return {
        name: shared.difference(shared.over_both(losses[a] - losses[b]))
        for name, (a, b) in named.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Guesses about households.")
    arguments = shared.arguments_of(parser, "profiles", KINDS)
    shared.run(arguments, households, merge, scale, KINDS[0])


if __name__ == "__main__":
    main()
