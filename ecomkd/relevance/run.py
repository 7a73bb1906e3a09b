"""All of `ecomkd run` on one catalogue, from training to a report with a verdict. Chapter 5."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from ecomkd.extras import needed

with needed("ecomkd.relevance.run", "run"):
    import torch

from ecomkd import bench, keys, models, outputs, report, runtime, words
from ecomkd.artifacts import data_digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.data.contract import named
from ecomkd.data.folds import divided, judged
from ecomkd.data.schema import TEXT, DataError
from ecomkd.export import OnnxClassifier, deploy, exports, predict_onnx
from ecomkd.relevance import baselines, judge, mining, stages
from ecomkd.relevance.page import html
from ecomkd.relevance.pooling import TESTED, of_classes, pooled
from ecomkd.relevance.rivals import rivals, signals
from ecomkd.relevance.tables import (
    INT8,
    NAME_OF_ROW,
    STUDENTS,
    SUM_OF,
    SYSTEMS,
    TEACHER,
    by_kind,
    table,
)
from ecomkd.relevance.verdict import LEAST_QUERIES, comparisons, verdict

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
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    unlabelled: int | None = None,
    outputs_of: stages.Outputs | None = None,
) -> Trained:
    """The teacher and all students, trained where they are not there yet.

    `unlabelled` is how many of the pairs without a label the students learn from; None is all.
    `outputs_of` computes the teacher's outputs that they learn from, as `stages.student` has it.
    """
    data = mining.with_unlabelled(data, catalogue, profile)
    teacher = stages.teacher(data, profile)
    students = {
        row: stages.student(
            data,
            profile,
            row,
            teacher_folder=teacher,
            unlabelled=unlabelled,
            outputs_of=outputs_of,
        )
        for row in STUDENTS
    }
    exported = exports(students["kd_unlabelled"], profile)
    return Trained(profile, data, catalogue, teacher, students, exported)


def results_of(made: Trained) -> dict:
    """The evaluation of every system on the test pairs, kept like any other artefact.

    Returns `seed`, `data` (a digest of the test pairs), `pairs` (a number for each split),
    `query_id`, `label` and `kind` of the test pairs, for each system its predicted classes,
    `classification` means and, where an order can be judged, `ranking` means and `per_query`
    values, and what validation chose for each of the `rivals`.
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
    folder = stage("result", parts, make, made.profile.artifacts, recipe=4)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _evaluated(made: Trained) -> dict:
    profile, catalogue = made.profile, made.catalogue
    test, train = made.data["test"], made.data["train"]
    classes = test.features["label"].num_classes
    found = {}

    def add(name: str, probabilities: np.ndarray, scores: np.ndarray | None = None) -> None:
        values = judge.evaluate(test, probabilities, scores)
        found[name] = {
            "predicted": probabilities.argmax(1).tolist(),
            **of_classes(values["classification"]),
        }
        # It is empty where no query has a relevant product: there is no order to judge then.
        if "ranking" in values:
            per_query = values["ranking"].pop("per_query")
            found[name]["ranking"] = values["ranking"]
            found[name]["per_query"] = per_query.to_dict("list") | {
                "query_id": list(per_query.index)
            }

    def add_scorer(name: str, on_train: np.ndarray, on_test: np.ndarray) -> None:
        fitted_on = on_train, train["label"]
        add(name, baselines.scores_to_probabilities(*fitted_on, on_test, classes), on_test)

    students = {NAME_OF_ROW[row]: folder for row, folder in made.students.items()}
    networks = {TEACHER: made.teacher, **students}
    seen = signals(made.data, catalogue, profile, {name: networks[name] for name in SUM_OF})
    at_random = (baselines.random_scores(pairs, profile.seed) for pairs in (train, test))
    by_words = (seen[name].features[:, 0] for name in ("train", "test"))  # BM25 comes first.
    add_scorer("random", *at_random)
    add_scorer("BM25", *by_words)
    add_scorer("bi-encoder, untrained", seen["train"].cosine, seen["test"].cosine)
    shown, asked = seen["train"].features, seen["test"].features
    trees = baselines.boosted_trees(shown, train["label"], asked, classes, profile.seed)
    add("boosted trees on words", trees)
    choices = {}
    for name, *answers, chosen in rivals(made.data, seen):
        add(name, *answers)
        choices[name] = chosen
    for name, folder in networks.items():
        answers = seen["test"].answers.get(name)
        add(name, judge.predict(folder, test, profile) if answers is None else answers)
    add(INT8, predict_onnx(made.exported / "model.int8.onnx", test, profile))
    return {
        "seed": profile.seed,
        "data": data_digest(test, TESTED),
        "pairs": _sizes(made.data),
        "query_id": list(test["query_id"]),
        "label": list(test["label"]),
        "kind": _kinds(test),
        "systems": {name: found[name] for name in SYSTEMS},
        "choices": choices,
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
    folds: int | Literal["given"] | None = None,
    outputs_of: stages.Outputs | None = None,
) -> str:
    """Everything on one catalogue, over several seeds; returns the verdict.

    Each seed's results go to `out/seed-K.json` as soon as it is done; the report comes at the end.
    What an earlier, killed run finished is not done again. `unlabelled` and `outputs_of` are as in
    `trained`. Files that an earlier run wrote into `out` and this one did not are deleted at the
    end.

    With `folds` each seed trains everything once for each fold of a cross-validation by query, as
    `folds.divided` makes them: those that the data give, or so many as are asked for, which each
    seed draws anew. The results of a fold go to `out/seed-K-fold-F.json`, and those of its seed are
    pooled. Nothing learns from a test query, not even without its label: unlabelled pairs are the
    data's own, none of which has a judged query, or are mined with queries that are not judged.
    Speed is measured on the models of fold 0 of the first seed, whose student is the one to deploy.

    Raises OSError before any work where `out` holds something that the program did not write, or
    cannot be written to, ModuleNotFoundError where a package is missing, and DataError where the
    data have folds and `folds` is None, or the other way round.
    """
    out = outputs.claim(out, "run")
    # Else one would be found missing only after hours of training.
    with needed("`ecomkd run`", "run"):
        for name in ("lightgbm", "onnx", "bm25s"):
            import_module(name)
    _agree(source, replace(profile, seed=seeds[0]), folds)
    if isinstance(folds, int):  # else a later seed's could be refused after hours of training
        for seed in seeds:
            divided(sources.load(source, replace(profile, seed=seed)), folds, seed)
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
        parts, pairs = [data], judged(data)
        if folds is not None:
            parts = divided(data, None if folds == "given" else folds, seed)
            data = DatasetDict(train=pairs, test=pairs)  # each is learnt from, and each is tested
        told = cautions(data, catalogue)
        if folds is not None:
            told += _on_folds(pairs, parts)
        for sentence in told:
            if sentence not in notes:
                warnings.warn(sentence, stacklevel=2)
                notes.append(sentence)
        found = []
        for fold, part in enumerate(parts):
            made = trained(part, catalogue, own, unlabelled, outputs_of)
            first = first or made
            found.append(results_of(made))
            if folds is not None:
                keep(f"seed-{seed}-fold-{fold}.json", report.to_json(found[-1]))
        results.append(found[0] if folds is None else pooled(found, pairs))
        keep(f"seed-{seed}.json", report.to_json(results[-1]))
    if folds is not None:
        notes.append(
            f"Cross-validation in {len(parts)} folds: each query was tested once by each seed, by "
            "models that learnt from other folds. Speed was measured on the models of fold 0 of "
            f"seed {seeds[0]}, and the student to deploy is one of them: it learnt from the labels "
            f"of {len(parts) - 2} of the {len(parts)} folds."
        )
    test = first.data["test"]
    clock = speed(
        first.teacher, first.students["kd_unlabelled"], test, first.profile, first.exported
    )
    rows = table(results)
    kinds = by_kind(results)
    said, compared = verdict(results), comparisons(results)
    outputs.expect(out, "run", ["report.json"])
    report.write_recorded(
        out / "report.json",
        command=command,
        seeds=seeds,
        hardware=machine,
        generator=shop.generator_hash() if source == "shop" else None,
        data={
            "source": named(source),
            "pairs": results[0]["pairs"],
            "rows": json.loads(rows.to_json(orient="index")),
            "per_seed": {
                result["seed"]: {
                    name: entry["classification"] | entry.get("ranking", {})
                    for name, entry in result["systems"].items()
                }
                for result in results
            },
            "choices": {result["seed"]: result["choices"] for result in results},
            "by_kind": None if kinds is None else json.loads(kinds.to_json(orient="index")),
            "speed": json.loads(clock.to_json(orient="index")),
            "notes": notes,
            "comparisons": compared.to_dict("records"),
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
    keep("report.html", html(rows, clock, compared, said, notes, command))
    outputs.prune(out, "run", written)
    return said


def _on_folds(pairs: Dataset, parts: Sequence[DatasetDict]) -> list[str]:
    """A caution where an order can be judged over all pairs, but not in each fold."""
    if not judge.rankable(pairs) or all(judge.rankable(part["test"]) for part in parts):
        return []
    return [
        "In a fold or more, most queries have a single judged product: an order cannot be judged "
        "there, so the report goes by classes alone; judge several products for each query, or ask "
        "for fewer folds."
    ]


def _agree(source: str | Path, profile: Profile, folds: int | Literal["given"] | None) -> None:
    """Refuse data with folds for a run without, and the other way round."""
    given = "folds" in sources.report(source, profile)
    if given and folds is None:
        raise DataError(
            f"{source}: the queries have folds and no split: add --folds, and each query is tested "
            "once."
        )
    if folds == "given" and not given:
        raise DataError(
            f"{source}: no column 'fold' stands in the place of 'split': add one, or give a number "
            "of folds to be drawn, as in --folds 5."
        )
