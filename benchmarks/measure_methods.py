"""Ways of transfer against the number of labels and the cost; and labels from near and far.

    python benchmarks/measure_methods.py --tune           learning rates, on shop 901 alone
    python benchmarks/measure_methods.py --seeds 1        one seed, into its own file
    python benchmarks/measure_methods.py --seeds 2 3      further seeds, in turn
    python benchmarks/measure_methods.py --merge          all files into the recorded result

Times are means over the seeds. What ran beside other programs is named in --untimed when merging:
its times are left out, its qualities are not.

The profile comes from ECOMKD_PROFILE. All methods of a seed learn from the same first training
pairs, whole queries, and choose their checkpoint or strength on no more validation pairs than
that, VALIDATION at most. Small training sets take more passes: no network stops before
`--min-steps` optimiser steps. Large ones take EPOCHS passes, fewer than the profile's, to save
time. Learning rates were chosen by `--tune` on the validation queries of a shop that is not
reported.

The second part: a teacher learns from the labels of one department and is judged on each. The
SOURCES departments with the most training pairs are sources, all with the same number of labels.
Of the sources other than the target, that is near whose products' mean embedding has the largest
cosine with the target's, and that is far which has the smallest. A run that is started again goes
on where it stopped.

Chapter 7 compares methods over seeds, each with another shop and other trainings, by intervals
that hold together (`metrics.simultaneous_intervals`): measure five seeds at least, for with three
such an interval is three times as wide. `comparisons` has what that chapter warns of: the best
method on the test queries against each other one, by an interval over these queries. The lift of
each query stays in the record, so that other intervals can be made of it.

Beside each model alone the record has it in a sum with words and cosine, in standard units, whose
weights the validation pairs chose: few labels that ruin a model need not ruin the sum.

The record `methods` is of an earlier version: without `contrast`, `warmed LoRA`,
`BM25`, the sums, the lift of each query and what was chosen, with narrower grids of strengths and
trees, and with a latency for each method in place of one for each network.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import lightgbm
import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

import shared
from ecomkd import bench, distill, features, keys, load, metrics, models, report
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import adapt, baselines, bi_encoders, judge, stages
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.lexical import lexical_signals

RECORDED = Path(report.__file__).parent / "recorded" / "methods.json"
METHODS = (
    "frozen",
    "trees",
    "contrast",
    "full",
    "LoRA",
    "adapted",
    "warmed",
    "warmed LoRA",
    "distilled",
    "scratch",
)
"""`frozen`, `trees`: logistic regression and boosted trees on vectors of the frozen encoder.
`contrast`: a bi-encoder that labels taught by contrast, its classes by a logistic regression on
the cosine. `full`, `LoRA`, `adapted`, `scratch`: all layers of the checkpoint, a low-rank
correction of it, all layers after domain-adaptive pretraining, all layers from random weights.
`warmed`: the book's teacher. `warmed LoRA`: a low-rank correction of the model that it starts from.
`distilled`: a student of that teacher."""
NETWORKS = {
    "frozen": "six layers read the query",
    "trees": "six layers read the query",
    "contrast": "six layers read the query",
    "distilled": "the student reads the pair",
}
"""What a method serves, where that is not the whole encoder, which reads the pair. Methods that
serve the same network have one latency, timed once a seed."""
WHOLE = "six layers read the pair"
LABELS = (50, 200, 1000)
VALIDATION = 500
EPOCHS = 3
SOURCES, SOURCE_LABELS = 3, 200
SPREAD = "all departments"  # the same number of labels, taken as they come
TARGET_QUERIES = 10  # test queries that a department needs to be a target
TUNED_ON, TUNED_AT = 901, 1000
RATES = {
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
    "LoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "scratch": (1e-4, 2e-4, 4e-4, 8e-4),
}
"""What `--tune` tries. `adapted` takes the rate of `full`, `warmed LoRA` that of `LoRA`; `warmed`
and `distilled` have the profile's, which were chosen on a development shop too, and `contrast`
tries its own."""
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10)
TREES = (10, 25, 50, 100, 200, 400, 800)
"""What validation chooses among in each run. An entry keeps what was `chosen`, and whether it lies
`on_edge` of the grid."""
UNSEEN = "unseen_synonym"
MEASURES = ("macro_f1", "ndcg@10", "lift@10", "lift@10 unseen", "lift@10 sum")
COSTS = ("seconds", "shared_seconds", "trained_parameters", "kept_bytes", "p50_ms")
TIMES = ("seconds", "shared_seconds", "seconds_per_pair", "p50_ms")
SAME = ("profile", "generator", "labels", "pairs", "min_steps", "rates", "measures")
SPEED_PAIRS = 50


# Data ---------------------------------------------------------------------------------------------


def whole_queries(pairs: Dataset, limit: int) -> Dataset:
    """The first pairs, at most `limit`, without cutting a query."""
    if limit >= len(pairs):
        return pairs
    ids = pairs["query_id"][: limit + 1]
    cut = limit
    while cut and ids[cut] == ids[cut - 1]:
        cut -= 1
    if not cut:
        raise SystemExit(f"--labels {limit}: the first query has more pairs; give a larger number.")
    return pairs.select(range(cut))


def few(data: DatasetDict, labels: int) -> DatasetDict:
    """`data` with at most so many labelled pairs, and no more for validation."""
    own = {
        "train": whole_queries(data["train"], labels),
        "validation": whole_queries(data["validation"], min(labels, VALIDATION)),
    }
    return DatasetDict({**data, **own})


def fitted(profile: Profile, method: str, pairs: int, min_steps: int, rates: dict) -> Profile:
    """The profile with a method's learning rate and as many epochs as its pairs need."""
    batches = keys.batches(pairs, profile)
    changes: dict = {"teacher_epochs": max(EPOCHS, -(-min_steps // batches))}
    if method == "warmed LoRA":
        changes |= {"teacher_learning_rate": rates["LoRA"]}
    elif method not in ("warmed", "distilled", "contrast"):
        rate = rates["full" if method == "adapted" else method]
        changes |= {"teacher_learning_rate": rate, "warm_up_pairs": 0, "frozen_layers": None}
    return replace(profile, **changes)


# Quality and cost ---------------------------------------------------------------------------------


def judged(pairs: Dataset, probabilities: np.ndarray, scores: np.ndarray | None = None) -> dict:
    found = judge.evaluate(pairs, probabilities, scores)
    values = {"macro_f1": found["classification"]["macro_f1"]}
    return values | ranked(pairs, found["ranking"])


def ranked(pairs: Dataset, ranking: dict) -> dict:
    """Means over all queries and over those with unseen synonyms, and the lift of each query."""
    lifts = ranking["per_query"]["lift@10"]
    kinds = lifts.index.map(dict(zip(pairs["query_id"], pairs["query_kind"], strict=True)))
    return {
        "ndcg@10": ranking["ndcg@10"],
        "lift@10": ranking["lift@10"],
        "lift@10 unseen": float(lifts[kinds == UNSEEN].mean()),
        "per_query": {query: round(lift, 5) for query, lift in lifts.items()},
    }


def in_sum(
    validation: Dataset,
    test: Dataset,
    known: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
) -> dict:
    """The lift of a model's scores added to words and cosine, with weights that validation chose.

    `known` has words and cosine (N, 2) of all pairs of the two splits, `scores` the model's (N,);
    `validation` is the pairs that it may choose on, the first ones of their split.
    """
    columns = {
        split: np.column_stack([known[split][: len(own)], own]) for split, own in scores.items()
    }
    fused = choose_fusion("z", columns["validation"], validation)
    order = fused.scores(columns["test"], test["query_id"])
    found = ranked(test, metrics.ranking(judge.frame(test, order), judge.gains(test)))
    return {
        "lift@10 sum": found["lift@10"],
        "per_query sum": found["per_query"],
        "weights": list(fused.weights),
    }


def seconds(folder: Path) -> float:
    return float(stages.training_log(folder)["seconds"].max())


def sizes(folder: Path, frozen: int | None) -> dict:
    """Weights that were trained, and bytes that are kept beside the pretrained checkpoint."""
    adapter = folder / "adapter"
    if adapter.exists():
        size = bench.model_size(adapter)
        return {"trained_parameters": size["parameters"], "kept_bytes": size["bytes"]}
    model = models.load(folder)
    models.freeze(model, frozen)
    free = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {"trained_parameters": free, "kept_bytes": bench.model_size(folder)["bytes"]}


def p50(folder: Path, pairs: Dataset, profile: Profile) -> float:
    """Milliseconds for one pair, from its tokens to its logits, in fp32 on one thread."""
    tokenizer = models.load_tokenizer(str(folder))
    encoded = distill.encode(first(pairs, SPEED_PAIRS), tokenizer, profile.max_length)
    names = [name for name in encoded.column_names if name in ("input_ids", "token_type_ids")]
    inputs = [
        dict(tokenizer.pad({name: [row[name]] for name in names}, return_tensors="pt"))
        for row in encoded
    ]
    model = models.load(folder)
    return bench.latency(lambda batch: model(**batch).logits, inputs, threads=1)["p50_ms"]


def first(pairs: Dataset, count: int) -> Dataset:
    return pairs.select(range(min(count, len(pairs))))


# Frozen features ----------------------------------------------------------------------------------


class Vectors:
    """Unit vectors of a shop's products and judged queries under the frozen encoder."""

    def __init__(self, data: DatasetDict, catalogue: Dataset, profile: Profile):
        self.profile = profile
        asked = {
            query: text
            for split in ("train", "validation", "test")
            for query, text in zip(data[split]["query_id"], data[split]["query"], strict=True)
        }
        texts = sources.product_text(catalogue[:]), list(asked.values())
        start = time.perf_counter()
        with TemporaryDirectory() as folder:  # not from the artefacts, for the time counts
            apart = replace(profile, artifacts=Path(folder))
            self.product, self.query = (
                normalize(features.layers(side, apart, profile.teacher)[-1]) for side in texts
            )
        self.seconds = time.perf_counter() - start
        self.product_row = {key: row for row, key in enumerate(catalogue["product_id"])}
        self.query_row = {key: row for row, key in enumerate(asked)}

    def of(self, pairs: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The vectors (N, H) of the queries and of the products of N pairs."""
        queries = [self.query_row[key] for key in pairs["query_id"]]
        return self.query[queries], self.product[
            [self.product_row[key] for key in pairs["product_id"]]
        ]

    def p50(self, call: Callable, pairs: Dataset) -> float:
        """Milliseconds for one pair whose product's vector is at hand, on one thread."""
        tokenizer = models.load_tokenizer(self.profile.teacher)
        encoder = models.build_teacher(self.profile.teacher, ("unused",)).base_model.eval()
        some = first(pairs, SPEED_PAIRS)
        tokens = [tokenizer(query, return_tensors="pt") for query in some["query"]]

        def answer(one):
            batch, product = one
            state = encoder(**batch).last_hidden_state
            query = normalize(features.pool(state, batch["attention_mask"]).numpy())
            return call(pair_table(query, product[None]))

        inputs = list(zip(tokens, self.of(some)[1], strict=True))
        return bench.latency(answer, inputs, threads=1)["p50_ms"]


def pair_table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Features (N, 2H + 1) of pairs: product and difference, element by element, and cosine."""
    both = a * b
    return np.hstack([both, np.abs(a - b), both.sum(axis=1, keepdims=True)])


def logistic(x: np.ndarray, y: np.ndarray, classes: int, seed: int) -> list[tuple[Callable, dict]]:
    """For each strength a function from features to probabilities (N, C), and its size."""
    found = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        model.fit(x, y)

        def call(rows, model=model):
            chances = np.zeros((len(rows), classes))  # 0 for a label that training never showed
            chances[:, model.classes_] = model.predict_proba(rows)
            return chances

        weights = model[-1].coef_.size + model[-1].intercept_.size
        scale = 2 * x.shape[1]
        cost = {"trained_parameters": weights, "kept_bytes": 8 * (weights + scale)}
        found.append((call, cost | chosen_of(strength, STRENGTHS)))
    return found


def chosen_of(value: float, grid: Sequence[float]) -> dict:
    return {"chosen": value, "on_edge": value in (grid[0], grid[-1])}


def boosted(x: np.ndarray, y: np.ndarray, classes: int, seed: int) -> list[tuple[Callable, dict]]:
    """The same for numbers of boosted trees."""
    settings = {
        "objective": "multiclass",
        "num_class": classes,
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_data_in_leaf": 5,
        "feature_fraction": 0.3,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    model = lightgbm.train(settings, lightgbm.Dataset(x, y), num_boost_round=max(TREES))
    found = []
    for trees in TREES:
        kept = model.dump_model(num_iteration=trees)["tree_info"]
        cost = {
            "trained_parameters": sum(tree["num_leaves"] for tree in kept),
            "kept_bytes": len(model.model_to_string(num_iteration=trees).encode()),
            **chosen_of(trees, TREES),
        }
        found.append((lambda rows, trees=trees: model.predict(rows, num_iteration=trees), cost))
    return found


def classical(method: str, data: DatasetDict, vectors: Vectors) -> tuple[Callable, dict]:
    """Of the strengths or numbers of trees that which is best on validation pairs, and its cost."""
    start = time.perf_counter()
    train, validation = data["train"], data["validation"]
    fit = {"frozen": logistic, "trees": boosted}[method]
    seed, classes = vectors.profile.seed, train.features["label"].num_classes
    tried = fit(pair_table(*vectors.of(train)), np.array(train["label"]), classes, seed)
    table = pair_table(*vectors.of(validation))

    reached = [quality(judge.evaluate(validation, call(table))) for call, _ in tried]
    call, cost = tried[int(np.argmax(reached))]
    return call, cost | {"seconds": time.perf_counter() - start, "validation": max(reached)}


def quality(found: dict) -> float:
    """What a run chooses by, as the networks do: the mean of macro-F1 and nDCG@10."""
    return (found["classification"]["macro_f1"] + found["ranking"]["ndcg@10"]) / 2


# Networks -----------------------------------------------------------------------------------------


def trained(method: str, data: DatasetDict, profile: Profile, catalogue: Dataset) -> Path:
    """The folder of the network that a method trains on `data["train"]`, students apart."""
    if method == "scratch":
        return stages.teacher(data, profile, pretrained=False)
    if method == "adapted":
        start = adapt.domain_adapted(catalogue, profile)
        return stages.teacher(data, profile, checkpoint=start)
    if method in ("LoRA", "warmed LoRA"):
        return adapt.low_rank(data, profile, learning_rate=profile.teacher_learning_rate)
    return stages.teacher(data, profile)


def measure(seed: int, result: dict, keep: Callable[[], None]) -> None:
    """Add every run to `result` that it lacks, and `keep` it after each."""
    profile = Profile.named(seed=seed)
    data, catalogue = load("shop", profile), sources.catalogue("shop", profile)
    test, entries = data["test"], result["entries"]
    vectors = Vectors(data, catalogue, profile)
    warmed = stages.warm_up(data, profile)
    # Once for any number of labels. The warm-up needs the bi-encoder's vectors.
    shared = {
        "cosine": vectors.seconds,
        "frozen": vectors.seconds,
        "trees": vectors.seconds,
        "words + cosine": vectors.seconds,
        **dict.fromkeys(("warmed", "warmed LoRA", "distilled"), seconds(warmed) + vectors.seconds),
    }
    known = words_and_cosine(data, catalogue, vectors)
    clocks = {entry["network"]: entry["p50_ms"] for entry in entries if "network" in entry}

    def lookup(method: str, wanted: int) -> dict | None:
        same = [e for e in entries if (e["method"], e["wanted"]) == (method, wanted)]
        return same[0] if same else None

    def add(method: str, wanted: int, labels: int, found: dict) -> None:
        own = {"seed": seed, "method": method, "wanted": wanted, "labels": labels}
        entries.append(own | {"shared_seconds": shared.get(method, 0.0)} | found)
        keep()
        print(f"seed {seed}, {method}, {labels} labels: lift@10 {found['lift@10']:.3f}")

    def clocked(method: str, time_it: Callable[[], float]) -> dict:
        """The latency of the network that a method serves, timed by the first that has it."""
        served = NETWORKS.get(method, WHOLE)
        if served not in clocks:
            clocks[served] = time_it()
        return {"network": served, "p50_ms": clocks[served]}

    def network(method: str, wanted: int, lesson: DatasetDict) -> dict:
        pairs = len(lesson["train"])
        settings = fitted(profile, method, pairs, result["min_steps"], result["rates"])
        folder, cost = trained(method, lesson, settings, catalogue), 0.0
        if method == "distilled":
            teacher, taught = folder, lookup("warmed", wanted)
            folder = stages.student(
                lesson, profile, teacher_folder=teacher, unlabelled=result["pairs"]
            )
            read = pairs + min(result["pairs"], len(lesson["unlabelled"]))
            cost = taught["seconds"] + taught["seconds_per_pair"] * read
        if method == "adapted":
            shared[method] = seconds(adapt.domain_adapted(catalogue, settings))
        frozen = {"warmed": profile.frozen_layers, "distilled": 0}.get(method)
        start = time.perf_counter()
        chances = {"test": judge.predict(folder, test, profile)}
        spent = time.perf_counter() - start
        chances["validation"] = judge.predict(folder, lesson["validation"], profile)
        log = stages.training_log(folder)
        return {
            **judged(test, chances["test"]),
            **in_sum(lesson["validation"], test, known, expected(chances)),
            "validation": float(log["eval_quality"].max()),
            "seconds_per_pair": spent / len(test),
            "seconds": seconds(folder) + cost,
            "steps": int(log["step"].max()),
            **clocked(method, lambda: p50(folder, test, profile)),
            **sizes(folder, frozen),
        }

    def expected(chances: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights = judge.gains(test)
        return {split: metrics.expected_gain(own, weights) for split, own in chances.items()}

    def frozen(method: str, lesson: DatasetDict) -> dict:
        call, cost = classical(method, lesson, vectors)
        rows = {"test": test, "validation": lesson["validation"]}
        chances = {split: call(pair_table(*vectors.of(pairs))) for split, pairs in rows.items()}
        return {
            **judged(test, chances["test"]),
            **in_sum(lesson["validation"], test, known, expected(chances)),
            **cost,
            **clocked(method, lambda: vectors.p50(call, test)),
        }

    def contrast(method: str, lesson: DatasetDict) -> dict:
        settings = fitted(profile, method, len(lesson["train"]), result["min_steps"], {})
        found = by_contrast({**lesson, "test": test}, settings)
        chances = found["chances"]
        chosen_on = lesson["validation"], chances["validation"], found["scores"]["validation"]
        return {
            **judged(test, chances["test"], found["scores"]["test"]),
            "validation": quality(judge.evaluate(*chosen_on)),
            **in_sum(lesson["validation"], test, known, found["scores"]),
            **found["cost"],
            **clocked(method, lambda: vectors.p50(lambda table: table[:, -1], test)),
        }

    scores = without_labels(data, warmed, vectors, known)
    for method, score in scores.items():
        if lookup(method, 0) is None:
            ranking = metrics.ranking(judge.frame(test, score), judge.gains(test))
            add(method, 0, 0, ranked(test, ranking))
    for wanted in numbers(result["labels"], len(data["train"])):
        lesson = few(data, wanted)
        for method in METHODS:
            if lookup(method, wanted) is None:
                if method == "contrast":
                    run = contrast(method, lesson)
                elif method in ("frozen", "trees"):
                    run = frozen(method, lesson)
                else:
                    run = network(method, wanted, lesson)
                counts = {"validation_labels": len(lesson["validation"])}
                add(method, wanted, len(lesson["train"]), run | counts)
    log = stages.training_log(adapt.domain_adapted(catalogue, profile))
    looks = log.dropna(subset="eval_loss")
    result["adaptation"] = [
        {"seed": seed, "step": int(step), "loss": loss}
        for step, loss in zip(looks["step"], looks["eval_loss"], strict=True)
    ]
    if not result["distance"]:
        result["distance"] = departments(data, catalogue, vectors, scores["warmed"], result)
    keep()


def numbers(labels: list[int], everything: int) -> list[int]:
    return [*(n for n in labels if n < everything), everything]


def without_labels(
    data: DatasetDict, warmed: Path, vectors: Vectors, known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Scores (N,) of the test pairs before any label.

    By BM25, by the cosine, by the sum of both in standard units, and by the warmed-up model.
    """
    profile = vectors.profile
    tokenizer = models.load_tokenizer(str(warmed))
    encoded = distill.encode(data["test"], tokenizer, profile.max_length)
    logits = distill.predict(models.load(warmed, 2), encoded, tokenizer, profile)
    words, cosine = known["test"].T
    # Units are those of the validation pairs, whose labels are not read.
    units = (known["test"] - known["validation"].mean(axis=0)) / known["validation"].std(axis=0)
    return {
        "BM25": words,
        "cosine": cosine,
        "words + cosine": units.sum(axis=1),
        "warmed": logits[:, 1] - logits[:, 0],
    }


def words_and_cosine(
    data: DatasetDict, catalogue: Dataset, vectors: Vectors
) -> dict[str, np.ndarray]:
    """What costs no label, (N, 2): BM25 with mended spelling, and the cosine of the vectors."""
    by_words, found = lexical_signals(catalogue), {}
    for split in ("validation", "test"):
        queries, products = vectors.of(data[split])
        cosine = (queries * products).sum(axis=1)
        found[split] = np.column_stack([by_words(data[split])[:, 0], cosine])
    return found


def by_contrast(lesson: Mapping[str, Dataset], profile: Profile) -> dict:
    """A bi-encoder that labels teach by contrast: its `scores` and `chances` by split, and `cost`.

    The scores (N,) of validation and test are cosines. The class probabilities (N, C) come of the
    cosine, by a logistic regression on the training pairs. The seconds are those of this call, so
    that an artefact kept from an earlier one falsifies them.
    """
    start = time.perf_counter()
    folder = bi_encoders.contrastive(DatasetDict(lesson), profile)
    spent = time.perf_counter() - start
    looks = bi_encoders.contrastive_choices(folder)
    best = looks.loc[looks["ndcg@10"].idxmax()]
    cosines = {
        split: bi_encoders.cosine_scores(folder, lesson[split], profile)
        for split in ("train", "validation", "test")
    }
    encoder = bi_encoders.encoder(folder, profile)[0].auto_model
    models.freeze(encoder, profile.frozen_layers)
    shown = lesson["train"]
    classes = shown.features["label"].num_classes
    cost = {
        "trained_parameters": sum(w.numel() for w in encoder.parameters() if w.requires_grad),
        "kept_bytes": bench.model_size(folder)["bytes"],
        "seconds": spent,
        **chosen_of(float(best["learning_rate"]), bi_encoders.RATES),
    }
    taught_by = cosines.pop("train"), shown["label"]
    chances = {
        split: baselines.scores_to_probabilities(*taught_by, own, classes)
        for split, own in cosines.items()
    }
    return {"scores": cosines, "chances": chances, "cost": cost}


# Labels from another department -------------------------------------------------------------------


def departments(
    data: DatasetDict, catalogue: Dataset, vectors: Vectors, untaught: np.ndarray, result: dict
) -> list[dict]:
    """The lift on each department of teachers that learnt from another's labels, or its own.

    Beside them a teacher that learnt from as many labels of all departments, and the model that all
    of them start from. Empty for a shop of one department.
    """
    profile, test = vectors.profile, data["test"]
    of_product = np.array(catalogue["department"])
    names = np.unique(of_product)
    middle = normalize([vectors.product[of_product == name].mean(axis=0) for name in names])
    distance = pd.DataFrame(1 - middle @ middle.T, names, names)
    asked = departments_of_queries(profile, catalogue)
    of_query = {
        split: np.array([asked[key] for key in data[split]["query_id"]])
        for split in ("train", "validation")
    }
    counts = pd.Series(of_query["train"]).value_counts().sort_index()
    chosen = counts.nlargest(SOURCES).index.tolist()
    labels = min(SOURCE_LABELS, int(counts[chosen].min()))
    if len(chosen) < 2:
        return []

    def lifts(scores: np.ndarray) -> pd.Series:
        ranking = metrics.ranking(judge.frame(test, scores), judge.gains(test))
        return ranking["per_query"]["lift@10"]

    before = lifts(untaught)
    target_of = before.index.map(asked)
    queries = target_of.value_counts()
    entries = []
    for source in (*chosen, SPREAD):
        lesson = DatasetDict(data)
        for split, there in of_query.items():
            rows = np.flatnonzero((there == source) | (source == SPREAD))
            lesson[split] = whole_queries(data[split].select(rows), labels)
        pairs = len(lesson["train"])
        settings = fitted(profile, "warmed", pairs, result["min_steps"], result["rates"])
        chances = judge.predict(stages.teacher(lesson, settings), test, profile)
        after = lifts(metrics.expected_gain(chances, judge.gains(test)))
        for target in names[[queries.get(name, 0) >= TARGET_QUERIES for name in names]]:
            others = distance.loc[[name for name in chosen if name != target], target]
            kinds = {target: "own", others.idxmax(): "far", others.idxmin(): "near"}
            kinds[SPREAD] = "spread"
            entries.append(
                {
                    "seed": profile.seed,
                    "source": source,
                    "target": target,
                    "kind": kinds.get(source, "between"),
                    "distance": None if source == SPREAD else distance.loc[source, target],
                    "labels": pairs,
                    "queries": int(queries[target]),
                    "lift@10": float(after[target_of == target].mean()),
                    "lift@10 before": float(before[target_of == target].mean()),
                }
            )
        print(f"seed {profile.seed}: {pairs} labels of {source}")
    return entries


def departments_of_queries(profile: Profile, catalogue: Dataset) -> dict[str, str]:
    """The department that each query of the simulated shop is about."""
    simulated = shop.generate(
        profile.seed,
        products=profile.products,
        queries=profile.queries,
        judged_per_query=profile.judged_per_query,
        unlabelled_pairs=profile.unlabelled_pairs,
    )
    kinds = dict(zip(catalogue["product_type"], catalogue["department"], strict=True))
    asked = simulated.queries.set_index("query_id")["product_type"].map(kinds)
    return asked.to_dict()


# Learning rates -----------------------------------------------------------------------------------


def tune(out: Path, min_steps: int) -> None:
    """Record the validation quality of each method at each of its rates, and the best."""
    profile = Profile.named(seed=TUNED_ON)
    data, catalogue = load("shop", profile), sources.catalogue("shop", profile)
    lesson = DatasetDict({**data, "train": whole_queries(data["train"], TUNED_AT)})
    tried = []
    for method, rates in RATES.items():
        for rate in rates:
            settings = fitted(profile, method, len(lesson["train"]), min_steps, {method: rate})
            log = stages.training_log(trained(method, lesson, settings, catalogue))
            tried.append({"method": method, "rate": rate, "quality": log["eval_quality"].max()})
            print(f"{method}, rate {rate:g}: quality {tried[-1]['quality']:.4f}")
    best = pd.DataFrame(tried).sort_values("quality").groupby("method")["rate"].last()
    report.write_recorded(
        out,
        command="python benchmarks/measure_methods.py --tune",
        seeds=[TUNED_ON],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={
            "profile": profile.name,
            "labels": len(lesson["train"]),
            "min_steps": min_steps,
            "tried": tried,
            "chosen": best.to_dict(),
        },
        goals=[],
    )


# The recorded result ------------------------------------------------------------------------------


def summary(entries: pd.DataFrame) -> list[dict]:
    """Means over seeds of every measure and cost, with an interval from three seeds on."""
    rows = []
    for (_, method), runs in entries.groupby(["wanted", "method"], sort=False):
        found = {"method": method, "labels": int(runs["labels"].iloc[0]), "seeds": len(runs)}
        for name in MEASURES:
            values = runs[name].astype(float).tolist()
            span = {"mean": float(np.mean(values)), "low": None, "high": None}
            if np.isnan(values).any():
                span["mean"] = None  # a method without labels predicts none
            elif len(values) >= 3:
                span = metrics.seed_interval(values)
            found[name] = span
        costs = runs[list(COSTS)].astype(float).mean()
        found |= {name: None if np.isnan(cost) else cost for name, cost in costs.items()}
        rows.append(found)
    return rows


def comparisons(entries: pd.DataFrame) -> list[dict]:
    """Lift@10 of the best method at each number of labels minus that of each other one.

    With intervals over the test queries of all seeds. What needs no label takes part everywhere.
    The best is chosen on these same test queries, and each interval is made for one comparison: so
    a lead is told too large and its interval too narrow, the more so the closer the methods lie.
    Each row says it (`best_chosen_on`), and chapter 7 shows it as a mistake.
    """
    parts: dict[tuple, list[pd.Series]] = {}
    for entry in entries[["wanted", "method", "per_query"]].itertuples(index=False):
        parts.setdefault((entry.wanted, entry.method), []).append(pd.Series(entry.per_query))
    lifts = {key: pd.concat(values) for key, values in parts.items()}
    rows = []
    for wanted in sorted(set(entries["wanted"]) - {0}):
        rivals = {key: values for key, values in lifts.items() if key[0] in (0, wanted)}
        best = max(rivals, key=lambda key: rivals[key].mean())
        labels = int(entries.loc[entries["wanted"] == wanted, "labels"].iloc[0])
        for (own, method), values in rivals.items():
            if (own, method) != best:
                span = metrics.paired_bootstrap(rivals[best], values)
                rows.append(
                    {
                        "labels": labels,
                        "best": best[1],
                        "best_labels": labels if best[0] else 0,
                        "best_chosen_on": "test",
                        "method": method,
                        "method_labels": labels if own else 0,
                        **span,
                    }
                )
    return rows


def per_query(entries: pd.DataFrame) -> list[dict]:
    """The lift of each test query under each run, in the order of its seed's `queries`."""
    found = []
    for seed, runs in entries.groupby("seed"):
        queries = list(runs["per_query"].iloc[0])
        rows = []
        for run in runs[["method", "wanted", "per_query", "per_query sum"]].to_dict("records"):
            row = {"method": run["method"], "wanted": run["wanted"]}
            for name, column in (("lift@10", "per_query"), ("lift@10 sum", "per_query sum")):
                if isinstance(run[column], dict):  # what needs no label is in no sum
                    row[name] = [round(run[column][query], 4) for query in queries]
            rows.append(row)
        found.append({"seed": int(seed), "queries": queries, "runs": rows})
    return found


def merge(folder: Path, out: Path, untimed: Sequence[int] = ()) -> None:
    """Write the recorded result from the files of single seeds, without the times of `untimed`."""
    parts = shared.read(folder, SAME)
    timed = [part for part in parts if part["seed"] not in untimed]
    if not timed:
        raise SystemExit("--untimed: names every seed; leave one whose times are kept.")
    runs = [{(entry["wanted"], entry["method"]) for entry in part["entries"]} for part in parts]
    short = [
        part["seed"] for part, own in zip(parts, runs, strict=True) if own < set().union(*runs)
    ]
    if short:
        raise SystemExit(f"{folder}: seed {short[0]} lacks runs; start it again with --seeds.")
    seeds = sorted(part["seed"] for part in parts)
    entries = pd.DataFrame([entry for part in parts for entry in part["entries"]])
    entries = entries.sort_values(["wanted", "seed"], kind="stable")
    entries.loc[entries["seed"].isin(untimed), entries.columns.intersection(TIMES)] = np.nan
    plain = entries.drop(columns=["per_query", "per_query sum"]).astype(object)
    command = f"python benchmarks/measure_methods.py --pairs {parts[0]['pairs']}"
    command += f" --seeds {' '.join(map(str, seeds))} --merge"
    if untimed:
        command += f" --untimed {' '.join(map(str, untimed))}"
    report.write_recorded(
        out,
        command=command,
        seeds=seeds,
        hardware=timed[0]["hardware"],
        generator=parts[0]["generator"],
        data={
            **{name: parts[0][name] for name in SAME if name != "generator"},
            "timed_seeds": [part["seed"] for part in timed],
            "summary": summary(entries),
            "comparisons": comparisons(entries),
            "entries": plain.where(plain.notna(), None).to_dict("records"),
            "per_query": per_query(entries),
            "adaptation": [row for part in parts for row in part["adaptation"]],
            "distance": [row for part in parts for row in part["distance"]],
        },
        goals=[],
    )
    print(f"{out}: seeds {', '.join(map(str, seeds))}")


def begun(file: Path, result: dict) -> dict:
    """`result`, or what an earlier run of the same settings has left in its file."""
    if not file.exists():
        return result
    found = json.loads(file.read_text(encoding="utf-8"))
    unlike = [name for name in SAME if found.get(name) != result[name]]
    if unlike:
        raise SystemExit(
            f"{file}: made with another {', '.join(unlike)}; remove it or give another --folder."
        )
    return found


def chosen_rates(path: Path) -> dict:
    if not path.exists():
        raise SystemExit(f"{path}: no learning rates yet; run this script with --tune first.")
    return json.loads(path.read_text(encoding="utf-8"))["data"]["chosen"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways of transfer, labels and cost.")
    parser.add_argument("--tune", action="store_true", help=f"rates, on shop {TUNED_ON}")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="seeds of the shop")
    parser.add_argument("--labels", type=int, nargs="*", default=LABELS, help="all is added")
    parser.add_argument("--pairs", type=int, default=6000, help="unlabelled, for the student")
    parser.add_argument("--min-steps", type=int, default=150, help="steps of a network at least")
    parser.add_argument("--folder", type=Path, help="of the single seeds' files")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--untimed", type=int, nargs="*", default=[], help="seeds without times")
    parser.add_argument("--out", type=Path, default=RECORDED, help="where --merge writes")
    arguments = parser.parse_args()
    folder = arguments.folder or Profile.named().artifacts / "methods"
    rates = arguments.out.with_name("methods_rates.json")
    if not (arguments.tune or arguments.seeds or arguments.merge):
        parser.error("give --tune, --seeds, --merge, or several of them")
    if TUNED_ON in arguments.seeds:
        parser.error(f"--seeds: shop {TUNED_ON} chose the learning rates; report another")
    if arguments.tune:
        tune(rates, arguments.min_steps)
    for seed in arguments.seeds:
        file = folder / f"seed{seed}.json"
        fresh = {
            "seed": seed,
            "profile": shared.profile(),
            "generator": shop.generator_hash(),
            "labels": list(arguments.labels),
            "pairs": arguments.pairs,
            "min_steps": arguments.min_steps,
            "rates": chosen_rates(rates),
            "measures": MEASURES,
            "hardware": bench.hardware(),
            "entries": [],
            "adaptation": [],
            "distance": [],
        }
        # As JSON writes it: a tuple comes back as a list.
        result = begun(file, json.loads(json.dumps(fresh)))
        measure(seed, result, lambda result=result, file=file: write_text(file, json.dumps(result)))
    if arguments.merge:
        merge(folder, arguments.out, arguments.untimed)


if __name__ == "__main__":
    main()
