"""All of `ecomkd run` on one catalogue, from training to a report with a verdict. Chapter 5."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from ecomkd.extras import needed

with needed("ecomkd.relevance.run", "run"):
    import torch

from ecomkd import bench, features, keys, models, outputs, report, runtime, words
from ecomkd.artifacts import data_digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.data.schema import TEXT
from ecomkd.export import OnnxClassifier, deploy, exports, predict_onnx
from ecomkd.relevance import baselines, judge, mining, stages
from ecomkd.relevance.tables import INT8, NAME_OF_ROW, STUDENTS, TEACHER, by_kind, table
from ecomkd.relevance.verdict import LEAST_QUERIES, verdict

_SPEED_PAIRS = 50
_THROUGHPUT_BATCH = 32


@dataclass(frozen=True)
class Trained:
    """What one seed has loaded and trained, handed on from step to step.

    `data` hold the unlabelled pairs that students learn from, `students` a folder for each of
    STUDENTS, `exported` the ONNX files of the distilled one.
    """

    profile: Profile
    data: DatasetDict
    catalogue: Dataset
    teacher: Path
    students: Mapping[str, Path]
    exported: Path


def trained(
    data: DatasetDict, catalogue: Dataset, profile: Profile, unlabelled: int | None = None
) -> Trained:
    """The teacher and all students, trained where they are not there yet.

    `unlabelled` is how many of the pairs without a label the students learn from; None is all.
    """
    data = mining.with_unlabelled(data, catalogue, profile)
    teacher = stages.teacher(data, profile)
    students = {
        row: stages.student(data, profile, row, teacher_folder=teacher, unlabelled=unlabelled)
        for row in STUDENTS
    }
    exported = exports(students["kd_unlabelled"], profile)
    return Trained(profile, data, catalogue, teacher, students, exported)


def results_of(made: Trained) -> dict:
    """The evaluation of every system on the test pairs, kept like any other artefact.

    Returns `seed`, `data` (a digest of the test pairs), `pairs` (a number for each split),
    `query_id`, `label` and `kind` of the test pairs, and for each system its predicted classes,
    `classification` means and, where an order can be judged, `ranking` means and `per_query`
    values.
    """
    test = made.data["test"]

    def make(folder: Path) -> None:
        write_text(folder / "result.json", json.dumps(_evaluated(made)))

    parts = [
        made.teacher.name,
        [path.name for path in made.students.values()],
        made.exported.name,
        keys.digests(made.data["train"], test),
        data_digest(made.catalogue, ("product_id", *TEXT)),
        _kinds(test),
        _sizes(made.data),
        keys.settings_of(made.profile),
    ]
    folder = stage("result", parts, make, made.profile.artifacts, recipe=1)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _evaluated(made: Trained) -> dict:
    profile, catalogue = made.profile, made.catalogue
    test, train = made.data["test"], made.data["train"]
    classes = test.features["label"].num_classes
    found = {}

    def add(name: str, probabilities: np.ndarray, scores: np.ndarray | None = None) -> None:
        values = judge.evaluate(test, probabilities, scores)
        entry = {
            "predicted": probabilities.argmax(1).tolist(),
            "classification": {
                key: value
                for key, value in values["classification"].items()
                if isinstance(value, float)
            },
            "per_class": values["classification"]["per_class"].to_dict("index"),
        }
        ranking = values.get("ranking")
        # It is empty where no query has a relevant product: there is no order to judge then.
        if ranking is not None:
            per_query = ranking.pop("per_query")
            entry["ranking"] = ranking
            entry["per_query"] = per_query.to_dict("list") | {"query_id": list(per_query.index)}
        found[name] = entry

    scorers = {
        "random": lambda pairs: baselines.random_scores(pairs, profile.seed),
        "BM25": lambda pairs: baselines.bm25_scores(pairs, catalogue),
        "bi-encoder, untrained": lambda pairs: features.bi_encoder_scores(pairs, profile),
    }
    for name, scorer in scorers.items():
        scores = scorer(test)
        chances = baselines.scores_to_probabilities(scorer(train), train["label"], scores, classes)
        add(name, chances, scores)
    add(
        "boosted trees on words",
        baselines.lexical_boosting(train, test, catalogue, profile.seed),
    )
    add(TEACHER, judge.predict(made.teacher, test, profile))
    for row, folder in made.students.items():
        add(NAME_OF_ROW[row], judge.predict(folder, test, profile))
    add(INT8, predict_onnx(made.exported / "model.int8.onnx", test, profile))
    return {
        "seed": profile.seed,
        "data": data_digest(test, ("query_id", "product_id", "query", "label")),
        "pairs": _sizes(made.data),
        "query_id": list(test["query_id"]),
        "label": list(test["label"]),
        "kind": _kinds(test),
        "systems": found,
    }


def _sizes(data: DatasetDict) -> dict[str, int]:
    return {name: len(split) for name, split in data.items()}


def _kinds(pairs: Dataset) -> list[str] | None:
    """The kind of each pair's query, in a column of texts that the simulated shop has."""
    kinds = list(pairs["query_kind"]) if "query_kind" in pairs.column_names else [None]
    return kinds if all(isinstance(kind, str) for kind in kinds) else None


def cautions(data: DatasetDict, catalogue: Dataset) -> list[str]:
    """Sentences on what a report on these data cannot say; none for most data. No training yet."""
    train, test = data["train"], data["test"]
    found = []
    if len(set(train["label"])) == 1:
        name = train.features["label"].names[train["label"][0]]
        found.append(
            f"All training pairs have the label {name}: there is nothing to tell apart, and every "
            "system that learns from labels predicts it always; judge some pairs of other labels."
        )
    worth = list(judge.gains(test).values())
    asked = {
        query
        for query, label in zip(test["query_id"], test["label"], strict=True)
        if worth[label] > 0
    }
    if not asked:
        found.append(
            "No test query has a relevant product: an order of products cannot be judged, and the "
            "report goes by classes alone; judge products that answer the test queries."
        )
    elif not judge.rankable(test):
        found.append(
            "Most test queries have a single judged product: an order of products cannot be "
            "judged, and the report goes by classes alone; judge several products a query."
        )
    elif len(asked) < LEAST_QUERIES:
        found.append(
            f"Only {len(asked)} of the test queries have a relevant product: the report gives no "
            f"verdict on fewer than {LEAST_QUERIES}; judge more queries."
        )
    texts = catalogue.select_columns(list(TEXT)).iter(1_000)
    if not any(words.any_word(sources.product_text(batch)) for batch in texts):
        found.append(
            "The catalogue's texts are stop words alone: BM25 scores every product 0; look whether "
            "the titles are the right column."
        )
    return found


def speed(
    teacher: Path, student: Path, pairs: Dataset, profile: Profile, exported: Path | None = None
) -> pd.DataFrame:
    """Latency at batch 1, throughput and size of teacher and student, PyTorch fp32 and ONNX.

    One row per model and format: `p50_ms`, `p95_ms`, `pairs_per_second` (batches of 32) and
    `megabytes`, `role`. Tokenisation is a row of its own. All on the CPU, after a warm-up, in eval
    mode: latency on one thread, as where each core answers a request of its own; throughput on
    PyTorch's number of threads. `exported` is what `exports` gave for the student, where it is at
    hand.
    """
    threads = torch.get_num_threads()
    rows: dict[str, dict] = {}
    sample = stages.first_pairs(pairs, _SPEED_PAIRS)
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
        classifier = OnnxClassifier(path, threads)
        return lambda batch: classifier(**batch)

    single = [tokens([query], [product]) for query, product in text]
    batch = [tokens(*map(list, zip(*text[:_THROUGHPUT_BATCH], strict=True)))]
    items = len(batch[0]["input_ids"])
    clock = bench.latency(lambda pair: tokens([pair[0]], [pair[1]]), text, threads=1)
    rows["tokenisation"] = {"p50_ms": clock["p50_ms"], "p95_ms": clock["p95_ms"]}
    onnx = {"teacher": exports(teacher, profile), "student": exported or exports(student, profile)}
    for name, folder in (("teacher", teacher), ("student", student)):
        model = models.load(folder)

        @torch.inference_mode()
        def run(batch, model=model):
            return model(**batch).logits

        calls = {"PyTorch fp32": (run, run, folder / "model.safetensors")}
        for kind, file in (("ONNX fp32", "model.onnx"), ("ONNX int8", "model.int8.onnx")):
            path = onnx[name] / file
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
    What an earlier, killed run finished is not done again. `unlabelled` is as in `trained`. Files
    that an earlier run wrote into `out` and this one did not are deleted at the end.

    Raises OSError before any work where `out` holds something that the program did not write, or
    cannot be written to, and ModuleNotFoundError where a package is missing.
    """
    out = outputs.claim(out, "run")
    # Else one would be found missing only after hours of training.
    with needed("`ecomkd run`", "run"):
        for name in ("lightgbm", "onnx"):
            import_module(name)
    machine = bench.hardware() | {"precision": runtime.precision(profile)}
    written: list[str] = []

    def keep(name: str, text: str) -> None:
        outputs.expect(out, "run", [name])
        write_text(out / name, text)
        note([name])

    def note(names: Iterable[str]) -> None:
        outputs.add(out, "run", names)
        written.extend(names)

    results: list[dict] = []
    notes: list[str] = []
    first: Trained | None = None
    for seed in seeds:
        own = replace(profile, seed=seed)
        data, catalogue = sources.load(source, own), sources.catalogue(source, own)
        for sentence in cautions(data, catalogue):
            if sentence not in notes:
                warnings.warn(sentence, stacklevel=2)
                notes.append(sentence)
        made = trained(data, catalogue, own, unlabelled)
        first = first or made
        results.append(results_of(made))
        keep(f"seed-{seed}.json", report.to_json(results[-1]))
    test = first.data["test"]
    clock = speed(
        first.teacher, first.students["kd_unlabelled"], test, first.profile, first.exported
    )
    rows = table(results)
    kinds = by_kind(results)
    said = verdict(results)
    outputs.expect(out, "run", ["report.json"])
    report.write_recorded(
        out / "report.json",
        command=command,
        seeds=seeds,
        hardware=machine,
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
            "notes": notes,
            "verdict": said,
        },
        goals=[],
    )
    note(["report.json"])
    student = [*(path.name for path in first.exported.iterdir()), "labels.json", "score.py"]
    outputs.expect(out, "run", [f"student/{name}" for name in student])
    gains, max_length = judge.gains(test), first.profile.max_length
    names = deploy(first.exported, out / "student", gains, max_length)
    note([f"student/{name}" for name in names])
    keep("report.html", html(rows, clock, said, notes, command))
    outputs.prune(out, "run", written)
    return said


def html(
    rows: pd.DataFrame, clock: pd.DataFrame, said: str, notes: Sequence[str], command: str
) -> str:
    """A self-contained page with the verdict, what it cannot say, the systems and their speed."""
    columns = ["ndcg@10", "ndcg@10 low", "ndcg@10 high", "lift@10", "mrr"]
    columns += ["accuracy", "macro_precision", "macro_recall", "macro_f1"]
    shown = rows[[column for column in columns if column in rows]]
    parts = [
        f"<p><strong>{escape(said)}</strong></p>",
        *(f"<p>{escape(sentence)}</p>" for sentence in notes),
        "<h2>Quality on held-out queries</h2>",
        shown.to_html(float_format="{:.3f}".format, border=0),
        "<h2>Speed and size</h2>",
        clock.drop(columns="role").to_html(float_format="{:.2f}".format, na_rep="", border=0),
        f"<p>Made by <code>{escape(command)}</code>.</p>",
    ]
    return _PAGE.replace("BODY", "\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Distillation report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child { text-align: left; }
</style></head><body><h1>Distillation report</h1>
BODY
</body></html>
"""
