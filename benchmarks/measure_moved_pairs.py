"""Cross-encoders that move: the same product in two shops, and queries in other languages.

    python benchmarks/measure_moved_pairs.py matching --seeds 0 1 2    offers of pairs of shops
    python benchmarks/measure_moved_pairs.py languages --seeds 0 1 2 3 4   the United States, es, jp
    python benchmarks/measure_moved_pairs.py --merge                   all files into the record

ECOMKD_REAL_DATA names the folder of both. Matching: are two offers of different shops the same
product? Three pairs of shops are sources and targets in turn, with the splits that they come with.
A source gives its first thousands of training pairs; in the target a few hundred are labelled, or
none. Languages: a frozen multilingual encoder reads pairs of the ESCI sample, about one product a
query, and a head says whether a product is exactly what was meant. A market's own labels are those
of one half of its queries, and the other half is asked, in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import shared
from ecomkd import distill, features, keys, models, report
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.contract import product_text
from ecomkd.data.schema import GAINS, TEXT
from ecomkd.relevance import judge, stages

PAIRS = ("abt_buy", "amazon_google", "walmart_amazon")
"""Electronics, software, and electronics once more: two shops each, as their names say."""
GIVEN, FEW, HELD, ASKED = 3_000, 200, 400, 1_000
"""Labelled pairs of a source, and of a target; validation pairs of a source; test pairs, which are
the same for all seeds. A target takes a fifth of its few for validation."""
WARM_UP, PASSES, FEW_PASSES = 6_000, 3, 10
"""Unlabelled pairs of the warm-up; passes over a source's pairs, and over a target's few."""
LONGEST = 64
"""Tokens of both texts together."""
MATCH = ("different", "same")
NAMES = {"name", "title", "brand", "manufacturer", "modelno"}
"""Entries of an offer that are read; prices and descriptions are often missing."""
RANDOM, WORDS, COSINE = "random order", "TF-IDF", "untrained bi-encoder"
SIGNALS, ALONE, WHOLE = "logistic regression of signals", "alone", "all own labels"
HOME, ABROAD = "us", ("es", "jp")
ENGLISH = "untrained English bi-encoder"
MOVED, HALF, BOTH = "from the United States", "own half", "United States and own half"
MULTILINGUAL = "e5-multilingual"
DRAWS = 1_000


# Matching -----------------------------------------------------------------------------------------


def matching(seed: int) -> dict:
    """The score of each test pair of each target, by row, and F1 at the thresholds of the sources.

    All cross-encoders begin with the same warmed-up one, which has read offers of all shops and no
    label.
    """
    profile = replace(Profile.named(seed=seed), max_length=LONGEST, warm_up_pairs=WARM_UP)
    shops = {name: offers(name) for name in PAIRS}
    unlabelled = concatenate_datasets([own["train"] for own in shops.values()])
    unlabelled = unlabelled.map(lambda row: {"label": -1}, desc="Labels away").shuffle(seed=seed)
    begin = stages.warm_up(DatasetDict(unlabelled=unlabelled), profile)
    lessons = {name: lesson(own, seed) for name, own in shops.items()}
    teachers = {name: taught(own, profile, PASSES, begin) for name, own in lessons.items()}
    cuts = {
        name: threshold(np.array(own[1]["label"]), judged(teachers[name], own[1], profile))
        for name, own in lessons.items()
    }
    free = {
        name: sum_of(signals(own[0], shops[name], profile), own[0]) for name, own in lessons.items()
    }
    found: dict = {}
    for target, own in shops.items():
        asked = own["test"].shuffle(seed=0).select(range(ASKED))
        few = own["train"].shuffle(seed=seed).select(range(FEW))
        little = few.select(range(FEW // 5, FEW)), few.select(range(FEW // 5))
        seen, known = signals(asked, own, profile), signals(few, own, profile)
        rows = {
            RANDOM: np.random.default_rng(seed).random(ASKED),
            WORDS: seen[:, 0],
            COSINE: seen[:, 1],
            f"{SIGNALS}, {FEW}": sum_of(known, few)(seen),
            f"{ALONE}, {FEW}": judged(taught(little, profile, FEW_PASSES, begin), asked, profile),
            WHOLE: judged(teachers[target], asked, profile),
        }
        for name in PAIRS:
            if name == target:
                continue
            moved = f"from {name}"
            rows[f"{SIGNALS}, {moved}"] = free[name](seen)
            rows[moved] = judged(teachers[name], asked, profile)
            model = taught(little, profile, FEW_PASSES, teachers[name])
            rows[f"{moved}, {FEW}"] = judged(model, asked, profile)
            both = np.column_stack([known, logit(judged(teachers[name], few, profile))])
            rows[f"{SIGNALS} and {moved}, {FEW}"] = sum_of(both, few)(
                np.column_stack([seen, logit(rows[moved])])
            )
            print(f"{seed}: {target}, {moved}", flush=True)
        found[target] = {
            "same": list(asked["label"]),
            "offer": list(asked["query_id"]),
            "rows": {name: rankdata(own).tolist() for name, own in rows.items()},
            "f1": {
                name: f1(rows[WHOLE if name == target else f"from {name}"], asked, cut)
                for name, cut in cuts.items()
            },
        }
    return {"targets": found}


def sum_of(seen: np.ndarray, pairs: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic regression of signals (N, S), fitted to labelled pairs."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(seen, pairs["label"])
    return lambda others: fitted.predict_proba(others)[:, 1]


def offers(name: str) -> dict[str, Dataset]:
    """The splits of a pair of shops, as pairs of a query and a product: offer a and offer b."""
    table = pd.read_parquet(shared.real_folder("product_matching") / f"{name}.parquet")

    def told(text: str) -> str:
        return " ".join(value for key, value in json.loads(text).items() if key in NAMES)

    left, right = table["a"].map(told), table["b"].map(told)
    frame = pd.DataFrame({"query": left, "product_title": right, "split": table["split"]})
    frame["query_id"] = pd.factorize(left)[0].astype(str)
    frame["product_id"] = pd.factorize(right)[0].astype(str)
    frame["label"] = table["same"]
    frame[[name for name in TEXT if name not in frame]] = ""
    return {
        split: Dataset.from_pandas(own.drop(columns="split"), preserve_index=False).cast_column(
            "label", ClassLabel(names=list(MATCH))
        )
        for split, own in frame.groupby("split", sort=False)
    }


def lesson(own: dict[str, Dataset], seed: int) -> tuple[Dataset, Dataset]:
    """The training and the validation pairs that a source gives."""
    return tuple(
        own[split].shuffle(seed=seed).select(range(size))
        for split, size in (("train", GIVEN), ("validation", HELD))
    )


def signals(pairs: Dataset, own: dict[str, Dataset], profile: Profile) -> np.ndarray:
    """What costs nothing of each pair, (N, 3): the likeness of words, of meaning, of characters.

    The weights of words and characters are those of the training offers, whose labels are not read.
    """
    known = [*own["train"]["query"], *own["train"]["product_title"]]
    found = []
    for options in ({}, {"analyzer": "char_wb", "ngram_range": (3, 5)}):
        weights = TfidfVectorizer(sublinear_tf=True, **options).fit(known)
        left, right = (weights.transform(pairs[name]) for name in ("query", "product_title"))
        found.append(np.asarray(left.multiply(right).sum(axis=1)).ravel())
    return np.stack([found[0], features.bi_encoder_scores(pairs, profile), found[1]], axis=1)


def taught(pairs: tuple[Dataset, Dataset], profile: Profile, passes: int, begin: Path) -> Path:
    """The folder of a cross-encoder that learns from the first pairs and is chosen on the second
    ones, for its area under the ROC curve."""
    train, held = pairs

    def make(folder: Path) -> None:
        model, tokenizer = models.load(begin), models.load_tokenizer(str(begin))
        models.freeze(model, profile.frozen_layers)

        def quality(logits: np.ndarray) -> dict[str, float]:
            return {"quality": float(roc_auc_score(held["label"], logits[:, 1] - logits[:, 0]))}

        distill.fit(
            model,
            distill.encode(train, tokenizer, profile.max_length),
            distill.encode(held, tokenizer, profile.max_length),
            tokenizer,
            profile,
            folder,
            steps=passes * keys.batches(len(train), profile),
            learning_rate=profile.teacher_learning_rate,
            quality=quality,
            alpha=0,
        )

    settings = keys.settings_of(profile, "teacher_learning_rate", "frozen_layers")
    parts = [keys.digests(*pairs), keys.identity(begin), settings, passes]
    return stage("moved_pairs", parts, make, profile.artifacts)


def judged(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """The chance (N,) of each pair to be the same, by a saved cross-encoder."""
    tokenizer, model = models.load_tokenizer(str(folder)), models.load(folder)
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    return judge.softmax(distill.predict(model, encoded, tokenizer, profile))[:, 1]


def threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The score from which on a pair is called the same, for the best F1 on these pairs."""
    precision, recall, cuts = precision_recall_curve(labels, scores)
    return float(cuts[np.argmax((precision * recall / (precision + recall).clip(1e-9))[:-1])])


def f1(scores: np.ndarray, pairs: Dataset, cut: float) -> float:
    return float(f1_score(pairs["label"], scores >= cut))


# Languages ----------------------------------------------------------------------------------------


def languages(seed: int) -> dict:
    """The score of each pair of the markets abroad, by row, and of the home market's test pairs."""
    markets = {name: market(name) for name in (HOME, *ABROAD)}
    read = {name: vectors(name) for name in markets}
    train = np.array(markets[HOME]["split"]) == "train"
    home = features_of(*(side[train] for side in read[HOME])), exact(markets[HOME])[train]
    found = {}
    for name, pairs in markets.items():
        asked = ~train if name == HOME else np.ones(len(pairs), bool)
        own, wanted = features_of(*read[name]), exact(pairs)
        rows = {
            RANDOM: np.random.default_rng(seed).random(len(pairs)),
            ENGLISH: english(name),
            COSINE: own[:, 0],
            MOVED: head(*home)(own),
        }
        if name != HOME:
            rows |= crossed(own, wanted, home, pairs["query"], seed)
        found[name] = {
            "exact": wanted[asked].astype(int).tolist(),
            "query": np.array(pairs["query"])[asked].tolist(),
            "rows": {row: rankdata(scores[asked]).tolist() for row, scores in rows.items()},
        }
    return {"markets": found}


def exact(pairs: Dataset) -> np.ndarray:
    """Whether each product is exactly what was meant, (N,)."""
    return np.array(pairs["label"]) == list(GAINS).index("E")


@cache
def vectors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, 384) of the queries and the products of a market; no seed changes them."""
    pairs, profile = market(name), Profile.named()
    query = features.embed(pairs["query"], profile, MULTILINGUAL, "query")
    return query, features.embed(product_text(pairs[:]), profile, MULTILINGUAL)


@cache
def english(name: str) -> np.ndarray:
    """The cosine (N,) of each pair of a market under the English bi-encoder."""
    return features.bi_encoder_scores(market(name), Profile.named())


def features_of(query: np.ndarray, product: np.ndarray) -> np.ndarray:
    """What a head reads of unit vectors (N, H): their cosine, products and distances, (N, 1 + 2 H),
    as sentence encoders are read for pairs of sentences (Conneau et al. 2017, arXiv:1705.02364)."""
    both = query * product
    return np.column_stack([both.sum(axis=1), both, np.abs(query - product)])


def head(seen: np.ndarray, wanted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A ridge classifier on features, its penalty chosen on folds of these pairs."""
    fitted = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 6, 13)))
    return fitted.fit(seen, wanted).decision_function


def crossed(
    own: np.ndarray, wanted: np.ndarray, home: tuple, queries: list[str], seed: int
) -> dict[str, np.ndarray]:
    """The scores of pairs by heads that learnt from the other half of the queries, alone and with
    the home market's pairs."""
    names = sorted(set(queries))
    half = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    inside = np.array([query in half for query in queries])
    scores = {HALF: np.empty(len(own)), BOTH: np.empty(len(own))}
    for asked in (inside, ~inside):
        known = own[~asked], wanted[~asked]
        both = tuple(map(np.concatenate, zip(home, known, strict=True)))
        for row, lesson in ((HALF, known), (BOTH, both)):
            found = head(*lesson)(own[asked])
            scores[row][asked] = rankdata(found) / asked.sum()  # two heads, whose levels differ
    return scores


def market(name: str) -> Dataset:
    """The judged pairs of one market, with their split."""
    table = pd.read_parquet(shared.real_folder("esci_sample") / "judgments.parquet")
    own = table[table["product_locale"] == name].fillna("")
    own = own.assign(label=own["esci_label"].map(list(GAINS).index))
    kept = own[["query_id", "product_id", "query", *TEXT, "label", "split"]].astype(
        {"query_id": str}
    )
    return Dataset.from_pandas(kept, preserve_index=False).cast_column(
        "label", ClassLabel(names=list(GAINS))
    )


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    same = ("profile",)
    parts = {kind: shared.read(folder / kind, same) for kind in MEASURES}
    data = {
        "matching": {
            target: table(
                [part["targets"][target] for part in parts["matching"]],
                "same", "offer", average_precision_score, compared(target),
            ) | {"f1": f1_of([part["targets"][target] for part in parts["matching"]])}
            for target in PAIRS
        },
        "languages": {
            name: table(
                [part["markets"][name] for part in parts["languages"]],
                "exact", "query", roc_auc_score, LANGUAGES if name != HOME else LANGUAGES[:1],
            )
            for name in (HOME, *ABROAD)
        },
        "given": GIVEN, "few": FEW, "draws": DRAWS,
        "seeds": {kind: [part["seed"] for part in own] for kind, own in parts.items()},
    }  # fmt: skip
    report.write_recorded(
        out,
        command="python benchmarks/measure_moved_pairs.py "
        + ", ".join(
            f"{kind} --seeds {' '.join(str(one['seed']) for one in own)}"
            for kind, own in parts.items()
        )
        + ", --merge",
        seeds=[part["seed"] for part in parts["matching"]],
        hardware=parts["matching"][0]["hardware"],
        generator=None,
        data=data,
        goals=goals_of(data),
    )
    print(out)


def compared(target: str) -> list[tuple[str, str]]:
    """The rows of a target whose difference is told."""
    own = f"{SIGNALS}, {FEW}"
    found = [(f"{ALONE}, {FEW}", own), (WHOLE, own)]
    for name in PAIRS:
        if name != target:
            moved = f"from {name}"
            found += [(moved, f"{SIGNALS}, {moved}"), (moved, COSINE), (moved, WORDS),
                      (f"{moved}, {FEW}", f"{ALONE}, {FEW}"), (f"{moved}, {FEW}", own),
                      (f"{moved}, {FEW}", moved),
                      (f"{SIGNALS}, {moved}", WORDS), (f"{SIGNALS}, {moved}", own),
                      (f"{SIGNALS} and {moved}, {FEW}", own)]  # fmt: skip
    return found


LANGUAGES = [(MOVED, COSINE), (BOTH, HALF), (BOTH, COSINE), (BOTH, MOVED)]


def table(
    parts: list[dict], wanted: str, cluster: str, measure: Callable, pairs: list[tuple[str, str]]
) -> dict:
    """Each row's measure, and differences of rows, the mean over seeds, with intervals over seeds
    and over what the pairs belong to, which is drawn whole."""
    _, unit = np.unique(parts[0][cluster], return_inverse=True)
    found = np.array(parts[0][wanted]) > 0
    rng = np.random.default_rng(0)
    units = int(unit.max()) + 1
    drawn = rng.multinomial(units, np.full(units, 1 / units), DRAWS)
    weights = np.concatenate([np.ones((1, units)), drawn])[:, unit]
    seeds = rng.integers(len(parts), size=(DRAWS, len(parts)))
    values = {}
    for name in parts[0]["rows"]:
        own = np.array(
            [
                [measure(found, part["rows"][name], sample_weight=own) for own in weights]
                for part in parts
            ]
        )
        values[name] = np.concatenate(
            [[own[:, 0].mean()], own[seeds.T, np.arange(1, DRAWS + 1)].mean(axis=0)]
        )
    return {
        "pairs": len(found),
        "share": float(found.mean()),
        "rows": {name: told(own) for name, own in values.items()},
        "minus": {f"{a} − {b}": told(values[a] - values[b]) for a, b in pairs},
    }


def told(draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws[1:], (2.5, 97.5))
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}


def f1_of(parts: list[dict]) -> dict[str, float]:
    """F1 at the threshold of each source, the target's own among them; means over seeds."""
    return {name: float(np.mean([part["f1"][name] for part in parts])) for name in PAIRS}


def goals_of(data: dict) -> list[dict]:
    goals = []
    for target, own in data["matching"].items():
        best = max((name for name in own["rows"] if name in {f"from {one}" for one in PAIRS}),
                   key=lambda name: own["rows"][name]["value"])  # fmt: skip
        for rival in (COSINE, WORDS):
            goals.append(shared.above(
                f"average precision in {target}, {best} minus {rival}",
                own["minus"][f"{best} − {rival}"],
            ))  # fmt: skip
    for name in ABROAD:
        for a, b in LANGUAGES[:3]:
            goals.append(shared.above(
                f"area under ROC in {name}, {a} minus {b}",
                data["languages"][name]["minus"][f"{a} − {b}"],
            ))  # fmt: skip
    return goals


MEASURES: dict[str, Callable[[int], dict]] = {"matching": matching, "languages": languages}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cross-encoders that move.")
    arguments = shared.arguments_of(parser, "moved_pairs", tuple(MEASURES), scaled=False)
    shared.run(arguments, MEASURES.get(arguments.kind), merge, part=arguments.kind or "")


if __name__ == "__main__":
    main()
