"""The whole book on one catalogue: train, evaluate, compare, export, and say what to serve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecomkd import baselines, bench, export, metrics, models, pipeline, report
from ecomkd.artifacts import data_digest, digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.export import deploy, exports, predict_onnx

STUDENTS = ("none", "kd", "kd_unlabelled", "hard")
DISTILLED = "student, distilled"
SYSTEMS = {
    "random": "random",
    "BM25": "bm25",
    "bi-encoder, untrained": "bi-encoder",
    "boosted trees on words": "bm25",
    "teacher": "teacher",
    "student, labels only": "baseline",
    "student, KD on labels": "student",
    DISTILLED: "student",
    "student, hard pseudo-labels": "baseline",
    "student, distilled, int8": "student",
}
"""The rows of every results table, and the colour role of each (`plots.PALETTE`)."""

UNTRAINED = {"BM25": "BM25", "bi-encoder, untrained": "the untrained bi-encoder"}
"""What ranks without training, and its name in a sentence."""

_NAME_OF_ROW = {
    "none": "student, labels only",
    "kd": "student, KD on labels",
    "kd_unlabelled": DISTILLED,
    "hard": "student, hard pseudo-labels",
}
_SPEED_PAIRS = 50
_THROUGHPUT_BATCH = 32


def one_seed(source: str | Path, profile: Profile, unlabelled: int | None = None) -> dict:
    """Train and evaluate every system once; the result is kept like any other artefact.

    `unlabelled` is how many of the pairs without a label the students learn from; None is all.

    Returns `seed`, `data` (a digest of the test pairs), `query_id`, `label` and `kind` of the test
    pairs, and for each system its predicted classes, `classification` means and, where an order
    matters, `ranking` means and `per_query` values.
    """
    data, catalogue = _data(source, profile)
    teacher = pipeline.teacher(data, profile)
    students = {
        row: pipeline.student(data, profile, row, teacher_folder=teacher, unlabelled=unlabelled)
        for row in STUDENTS
    }

    def make(folder: Path) -> None:
        result = _evaluated(data, catalogue, profile, teacher, students)
        write_text(folder / "result.json", json.dumps(result))

    parts = [
        teacher.name,
        [path.name for path in students.values()],
        data_digest(data["test"], ("query_id", "product_id", "query", "label")),
        digest(one_seed, _evaluated, predict_onnx, baselines, export, metrics, pipeline),
    ]
    folder = stage("result", parts, make, profile.artifacts)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _data(source: str | Path, profile: Profile):
    catalogue = sources.catalogue(source, profile)
    data = pipeline.with_unlabelled(sources.load(source, profile), catalogue, profile)
    return data, catalogue


def _evaluated(data, catalogue, profile: Profile, teacher: Path, students: dict) -> dict:
    test, train = data["test"], data["train"]
    classes = test.features["label"].num_classes
    found = {}

    def add(name: str, probabilities: np.ndarray, scores: np.ndarray | None = None) -> None:
        values = pipeline.evaluate(test, probabilities, scores)
        entry = {
            "predicted": probabilities.argmax(1).tolist(),
            "classification": {
                key: value
                for key, value in values["classification"].items()
                if isinstance(value, float)
            },
            "per_class": values["classification"]["per_class"].to_dict("index"),
        }
        if "ranking" in values:
            per_query = values["ranking"].pop("per_query")
            entry["ranking"] = values["ranking"]
            entry["per_query"] = per_query.to_dict("list") | {"query_id": list(per_query.index)}
        found[name] = entry

    scorers = {
        "random": lambda pairs: baselines.random_scores(pairs, profile.seed),
        "BM25": lambda pairs: baselines.bm25_scores(pairs, catalogue),
        "bi-encoder, untrained": lambda pairs: baselines.bi_encoder_scores(pairs, profile),
    }
    for name, scorer in scorers.items():
        scores = scorer(test)
        chances = baselines.scores_to_probabilities(scorer(train), train["label"], scores, classes)
        add(name, chances, scores)
    add(
        "boosted trees on words",
        baselines.lexical_boosting(train, test, catalogue, profile.seed),
    )
    add("teacher", pipeline.predict(teacher, test, profile))
    for row, folder in students.items():
        add(_NAME_OF_ROW[row], pipeline.predict(folder, test, profile))
    exported = exports(students["kd_unlabelled"], profile)
    add("student, distilled, int8", predict_onnx(exported / "model.int8.onnx", test, profile))
    labels = test["label"]
    return {
        "seed": profile.seed,
        "data": data_digest(test, ("query_id", "product_id", "query", "label")),
        "pairs": {name: len(split) for name, split in data.items()},
        "query_id": list(test["query_id"]),
        "label": list(labels),
        "kind": list(test["query_kind"]) if "query_kind" in test.column_names else None,
        "systems": found,
    }


def speed(teacher: Path, student: Path, pairs, profile: Profile) -> pd.DataFrame:
    """Latency at batch 1, throughput and size of teacher and student, PyTorch fp32 and ONNX.

    One row per model and format: `p50_ms`, `p95_ms`, `pairs_per_second` (batches of 32) and
    `megabytes`, `role`. Tokenisation is a row of its own. All on the CPU, after a warm-up, in eval
    mode: latency on one thread, as where each core answers a request of its own; throughput on
    PyTorch's number of threads.
    """
    threads = torch.get_num_threads()
    rows: dict[str, dict] = {}
    sample = pairs.select(range(min(_SPEED_PAIRS, len(pairs))))
    tokenizer = models.load_tokenizer(str(teacher))
    text = list(zip(sample["query"], sources.product_text(sample[:]), strict=True))

    def tokens(queries, products):
        return dict(
            tokenizer(
                queries,
                products,
                truncation="longest_first",
                max_length=profile.max_length,
                padding=True,
                return_tensors="pt",
            )
        )

    def answers(path, threads):
        onnx = export.OnnxClassifier(path, threads)
        return lambda batch: onnx(**batch)

    single = [tokens([query], [product]) for query, product in text]
    batch = [tokens(*map(list, zip(*text[:_THROUGHPUT_BATCH], strict=True)))]
    items = len(batch[0]["input_ids"])
    clock = bench.latency(lambda pair: tokens([pair[0]], [pair[1]]), text, threads=1)
    rows["tokenisation"] = {"p50_ms": clock["p50_ms"], "p95_ms": clock["p95_ms"]}
    for name, folder in (("teacher", teacher), ("student", student)):
        model = models.load(folder)

        @torch.inference_mode()
        def run(batch, model=model):
            return model(**batch).logits

        exported = exports(folder, profile)
        calls = {"PyTorch fp32": (run, run, folder / "model.safetensors")}
        for kind, file in (("ONNX fp32", "model.onnx"), ("ONNX int8", "model.int8.onnx")):
            path = exported / file
            calls[kind] = (answers(path, 1), answers(path, threads), path)
        for kind, (on_one, on_all, file) in calls.items():
            clock = bench.latency(on_one, single, threads=1)
            flow = bench.throughput(on_all, batch, items, threads=threads)
            rows[f"{name}, {kind}"] = {
                "p50_ms": clock["p50_ms"],
                "p95_ms": clock["p95_ms"],
                "pairs_per_second": flow["per_second"],
                "megabytes": bench.model_size(file)["bytes"] / 1e6,
                "role": name,
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def table(results: Sequence[dict]) -> pd.DataFrame:
    """One row per system: means over seeds, intervals over queries for nDCG@10."""
    rows = {}
    for name, role in SYSTEMS.items():
        first = results[0]["systems"][name]
        row: dict = {"role": role}
        for part in ("ranking", "classification"):
            for key in first.get(part, {}):
                row[key] = _mean(results, name, part, key)
        if "ranking" in first:
            values = _per_query(results, [name])
            span = metrics.bootstrap_of_means(values, lambda means, name=name: means[name])
            row |= {"ndcg@10 low": span["low"], "ndcg@10 high": span["high"]}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(results: Sequence[dict], name: str, part: str, key: str) -> float:
    return float(np.mean([result["systems"][name][part][key] for result in results]))


def goals(results: Sequence[dict], clock: pd.DataFrame) -> list[dict]:
    """What distillation is to show, each with its interval over test queries, met or not.

    Intervals come from 10,000 resamples of the queries of all seeds; a test query that several
    seeds share counts once, with its mean over them.
    """
    teacher, student, plain = "teacher", DISTILLED, "student, labels only"
    hard, int8 = "student, hard pseudo-labels", "student, distilled, int8"
    entries = []
    for other, label in ((plain, "without distillation"), (hard, "on hard pseudo-labels")):
        span = _f1_difference(results, student, other)
        entries.append(
            report.goal(
                f"macro-F1: distilled student minus the student {label}",
                span["difference"],
                span["low"],
                span["high"],
                "above 0, interval excluding 0",
                span["low"] > 0,
            )
        )
    span = _f1_difference(results, int8, student)
    cost = report.goal(
        "macro-F1: what int8 costs the distilled student, in points",
        -100 * span["difference"],
        -100 * span["high"],
        -100 * span["low"],
        "at most 0.5",
        -100 * span["difference"] <= 0.5,
    )
    entries.append(cost)
    if "ranking" in results[0]["systems"][teacher]:
        entries += _ranking_goals(results, teacher, student, plain, hard, int8)
    fast = clock.loc["teacher, PyTorch fp32", "p50_ms"] / clock.loc["student, ONNX int8", "p50_ms"]
    slow, quick = clock.loc["teacher, PyTorch fp32"], clock.loc["student, ONNX int8"]
    entries.append(
        report.goal(
            "latency at batch 1: PyTorch fp32 teacher over int8 ONNX student (p50; low and high "
            "from p50 over p95 and p95 over p50)",
            float(fast),
            float(slow["p50_ms"] / quick["p95_ms"]),
            float(slow["p95_ms"] / quick["p50_ms"]),
            "at least 10",
            bool(fast >= 10),
        )
    )
    return entries


def _ranking_goals(results, teacher, student, plain, hard, int8) -> list[dict]:
    values = _per_query(results, [teacher, student, plain, hard, int8])
    values["random"] = _per_query(results, ["random"], "random_ndcg@10")["random"]

    def entry(name, statistic, wanted, met):
        span = metrics.bootstrap_of_means(values, statistic)
        return report.goal(name, span["value"], span["low"], span["high"], wanted, met(span))

    above = "above 0, interval excluding 0"
    return [
        entry(
            "nDCG@10: distilled student minus the student without distillation",
            lambda m: m[student] - m[plain],
            above,
            lambda span: span["low"] > 0,
        ),
        entry(
            "nDCG@10: distilled student minus the student on hard pseudo-labels",
            lambda m: m[student] - m[hard],
            above,
            lambda span: span["low"] > 0,
        ),
        entry(
            "share of the teacher's nDCG@10 lift over random that the distilled student keeps",
            lambda m: (m[student] - m["random"]) / (m[teacher] - m["random"]),
            "at least 0.97",
            lambda span: span["value"] >= 0.97,
        ),
        entry(
            "share of the gap in nDCG@10 between undistilled student and teacher that is closed",
            lambda m: (m[student] - m[plain]) / (m[teacher] - m[plain]),
            "at least 0.5",
            lambda span: span["value"] >= 0.5,
        ),
        entry(
            "nDCG@10: what int8 costs the distilled student, in points",
            lambda m: 100 * (m[student] - m[int8]),
            "at most 0.5",
            lambda span: span["value"] <= 0.5,
        ),
    ]


def _per_query(results, names: list[str], column: str = "ndcg@10") -> pd.DataFrame:
    """Per-query values (queries × systems); what seeds share is averaged over them."""
    parts = []
    for result in results:
        values = _of_one_seed(result, names, column)
        parts.append(values.set_axis(_units(result, values.index)))
    return pd.concat(parts).groupby(level=0).mean()


def _of_one_seed(result: dict, names: Iterable[str], column: str) -> pd.DataFrame:
    """Per-query values (queries × systems) of one result, indexed by query_id."""
    entries = {name: result["systems"][name]["per_query"] for name in names}
    return pd.DataFrame(
        {
            name: pd.Series(values[column], index=values["query_id"])
            for name, values in entries.items()
        }
    )


def _units(result: dict, query_ids) -> list[str]:
    return [f"{result['data'][:12]} {query}" for query in query_ids]


def _f1_difference(results, a: str, b: str) -> dict:
    labels, first, second, units = [], [], [], []
    for result in results:
        labels += result["label"]
        first += result["systems"][a]["predicted"]
        second += result["systems"][b]["predicted"]
        units += _units(result, result["query_id"])
    classes = len(results[0]["systems"][a]["per_class"])
    return metrics.macro_f1_difference(labels, first, second, units, classes)


def by_kind(results: Sequence[dict]) -> pd.DataFrame | None:
    """Mean lift@10 per kind of query (rows) and system (columns), where the data name kinds."""
    if results[0]["kind"] is None or "ranking" not in results[0]["systems"]["teacher"]:
        return None
    parts = []
    for result in results:
        kinds = dict(zip(result["query_id"], result["kind"], strict=True))
        lift = _of_one_seed(result, SYSTEMS, "lift@10")
        parts.append(lift.assign(kind=[kinds[query] for query in lift.index]))
    return pd.concat(parts).groupby("kind").mean()


def verdict(results: Sequence[dict]) -> str:
    """In words: distil, keep the teacher, or stay with what needs no training, and why.

    The last is BM25 or the untrained bi-encoder, whichever ranks better.
    """
    ranked = "ranking" in results[0]["systems"]["teacher"]
    part, key = ("ranking", "lift@10") if ranked else ("classification", "macro_f1")
    kept = _mean(results, DISTILLED, part, key) / _mean(results, "teacher", part, key)
    if not ranked:
        if kept >= 0.95:
            return f"Distil: the student keeps {kept:.0%} of the teacher's macro-F1."
        return f"Keep the teacher: the student keeps only {kept:.0%} of its macro-F1."
    score = _per_query(results, ["teacher", DISTILLED, *UNTRAINED])
    rival = score[list(UNTRAINED)].mean().idxmax()
    over = metrics.paired_bootstrap(score["teacher"], score[rival])
    if over["low"] <= 0:
        return (
            f"Stay with {UNTRAINED[rival]}: the teacher's nDCG@10 is not clearly above it "
            f"({over['difference']:+.3f}, 95 % interval {over['low']:+.3f} to {over['high']:+.3f})."
        )
    over = metrics.paired_bootstrap(score[DISTILLED], score[rival])
    if kept >= 0.9 and over["low"] > 0:
        return (
            f"Distil: the student keeps {kept:.0%} of the teacher's lift over a random order and "
            f"stands {over['difference']:+.3f} nDCG@10 from {UNTRAINED[rival]} (95 % interval "
            f"{over['low']:+.3f} to {over['high']:+.3f})."
        )
    return (
        f"Keep the teacher: it is above {UNTRAINED[rival]}, and the student keeps only {kept:.0%} "
        "of its lift over a random order; more unlabelled pairs or more layers may change that."
    )


def run(
    source: str | Path,
    profile: Profile,
    seeds: Sequence[int],
    out: Path,
    command: str,
    unlabelled: int | None = None,
) -> str:
    """Everything on one catalogue, over several seeds; returns the verdict.

    Each seed's results go to `out/seed-K.json` as soon as it is done; the report comes at the end.
    What an earlier, killed run finished is not done again. `unlabelled` is as in `one_seed`.
    """
    results = []
    for seed in seeds:
        result = one_seed(source, replace(profile, seed=seed), unlabelled)
        write_text(out / f"seed-{seed}.json", json.dumps(result))
        results.append(result)
    first = replace(profile, seed=seeds[0])
    data, _ = _data(source, first)
    teacher = pipeline.teacher(data, first)
    student = pipeline.student(
        data, first, "kd_unlabelled", teacher_folder=teacher, unlabelled=unlabelled
    )
    clock = speed(teacher, student, data["test"], first)
    rows = table(results)
    kinds = by_kind(results)
    words = verdict(results)
    entries = goals(results, clock)
    report.write_recorded(
        out / "report.json",
        command=command,
        seeds=seeds,
        hardware=bench.hardware() | {"precision": models.precision(profile)},
        generator=shop.generator_hash() if source == "shop" else None,
        data={
            "source": "shop" if source == "shop" else Path(source).name,
            "pairs": results[0]["pairs"],
            "rows": json.loads(rows.to_json(orient="index")),
            "per_seed": {
                result["seed"]: {
                    name: entry["classification"] | entry.get("ranking", {})
                    for name, entry in result["systems"].items()
                }
                for result in results
            },
            "by_kind": None if kinds is None else json.loads(kinds.to_json(orient="index")),
            "speed": json.loads(clock.to_json(orient="index")),
            "verdict": words,
        },
        goals=entries,
    )
    weights = pipeline.gains(data["test"])
    labels = list(map(str, weights))
    deploy(exports(student, first), out / "student", labels, weights.values(), first.max_length)
    write_text(out / "report.html", report.html(rows, clock, entries, words, command))
    return words
