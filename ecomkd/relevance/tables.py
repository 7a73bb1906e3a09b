"""The systems that `ecomkd run` compares, and tables of what its seeds found. Chapter 5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ecomkd import metrics

STUDENTS = ("none", "kd", "kd_unlabelled", "hard")
"""The rows of `stages.ROWS` that `ecomkd run` trains."""

TEACHER = "teacher"
PLAIN = "student, labels only"
DISTILLED = "student, distilled"
INT8 = "student, distilled, int8"
HARD = "student, hard pseudo-labels"
SYSTEMS = {
    "random": "random",
    "BM25": "bm25",
    "bi-encoder, untrained": "bi-encoder",
    "boosted trees on words": "bm25",
    TEACHER: "teacher",
    PLAIN: "baseline",
    "student, KD on labels": "student",
    DISTILLED: "student",
    HARD: "baseline",
    INT8: "student",
}
"""The rows of every results table, and the colour role of each (`plots.PALETTE`)."""

UNTRAINED = {"BM25": "BM25", "bi-encoder, untrained": "the untrained bi-encoder"}
"""The systems that rank without training, each with its name in a sentence."""

NAME_OF_ROW = dict(zip(STUDENTS, (PLAIN, "student, KD on labels", DISTILLED, HARD), strict=True))


def ranked(results: Sequence[dict]) -> bool:
    """Whether the results of all seeds judge an order, and not classes alone."""
    return all("ranking" in result["systems"][TEACHER] for result in results)


def table(results: Sequence[dict]) -> pd.DataFrame:
    """One row per system: means over seeds, intervals over queries for nDCG@10."""
    rows = {}
    parts = ("ranking", "classification") if ranked(results) else ("classification",)
    for name, role in SYSTEMS.items():
        row: dict = {"role": role}
        for part in parts:
            for key in results[0]["systems"][name][part]:
                row[key] = mean(results, name, part, key)
        if "ranking" in parts:
            values = per_query(results, [name])
            span = metrics.bootstrap_of_means(values, lambda means, name=name: means[name])
            row |= {"ndcg@10 low": span["low"], "ndcg@10 high": span["high"]}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def by_kind(results: Sequence[dict]) -> pd.DataFrame | None:
    """Mean lift@10 per kind of query (rows) and system (columns), where the data name kinds."""
    if results[0]["kind"] is None or not ranked(results):
        return None
    parts = []
    for result in results:
        kinds = dict(zip(result["query_id"], result["kind"], strict=True))
        lift = _of_one_seed(result, SYSTEMS, "lift@10")
        parts.append(lift.assign(kind=[kinds[query] for query in lift.index]))
    return pd.concat(parts).groupby("kind").mean()


def per_query(results: Sequence[dict], names: list[str], column: str = "ndcg@10") -> pd.DataFrame:
    """Per-query values (queries × systems); what seeds share is averaged over them."""
    parts = []
    for result in results:
        values = _of_one_seed(result, names, column)
        parts.append(values.set_axis(query_keys(result, values.index)))
    return pd.concat(parts).groupby(level=0).mean()


def f1_difference(results: Sequence[dict], a: str, b: str) -> dict:
    """Macro-F1 of system `a` minus that of `b`, as `metrics.macro_f1_difference` gives it."""
    labels, first, second, units = [], [], [], []
    for result in results:
        labels += result["label"]
        first += result["systems"][a]["predicted"]
        second += result["systems"][b]["predicted"]
        units += query_keys(result, result["query_id"])
    classes = len(results[0]["systems"][a]["per_class"])
    return metrics.macro_f1_difference(labels, first, second, units, classes)


def mean(results: Sequence[dict], name: str, part: str, key: str) -> float:
    """The mean over seeds of one number of a system, such as its "ranking", "lift@10"."""
    return float(np.mean([result["systems"][name][part][key] for result in results]))


def _of_one_seed(result: dict, names: Iterable[str], column: str) -> pd.DataFrame:
    """Per-query values (queries × systems) of one result, indexed by query_id."""
    entries = {name: result["systems"][name]["per_query"] for name in names}
    return pd.DataFrame(
        {
            name: pd.Series(values[column], index=values["query_id"])
            for name, values in entries.items()
        }
    )


def query_keys(result: dict, query_ids: Iterable[str]) -> list[str]:
    """A name for each query that tells apart queries of different data with equal ids."""
    return [f"{result['data'][:12]} {query}" for query in query_ids]
