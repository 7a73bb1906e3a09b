"""The systems that `ecomkd run` compares, and tables of what its seeds found. Chapter 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
BEST_WORDS = "words at their best"
UNTRAINED_SUM = "words and bi-encoder, added up"
LAMBDAMART = "LambdaMART on words and bi-encoder"
TEACHER_SUM = "teacher, words and bi-encoder, added up"
PLAIN_SUM = "student, labels only, words and bi-encoder, added up"
DISTILLED_SUM = "student, distilled, words and bi-encoder, added up"
SYSTEMS = {
    "random": "random",
    "BM25": "bm25",
    BEST_WORDS: "bm25",
    "bi-encoder, untrained": "bi-encoder",
    UNTRAINED_SUM: "bi-encoder",
    "boosted trees on words": "bm25",
    LAMBDAMART: "baseline",
    TEACHER: "teacher",
    TEACHER_SUM: "teacher",
    PLAIN: "baseline",
    PLAIN_SUM: "baseline",
    "student, KD on labels": "student",
    DISTILLED: "student",
    DISTILLED_SUM: "student",
    HARD: "baseline",
    INT8: "student",
}
"""The rows of every results table, and the colour role of each (`plots.PALETTE`)."""

SUM_OF = {TEACHER: TEACHER_SUM, PLAIN: PLAIN_SUM, DISTILLED: DISTILLED_SUM}
"""The models that are served in a sum with words and bi-encoder, too, and the row of each sum."""

LEAST_SEEDS = 3
"""From so many seeds on, intervals are not over queries alone, but over seeds too."""

UNTRAINED = {
    "BM25": "BM25",
    BEST_WORDS: "search by words at its best",
    "bi-encoder, untrained": "the untrained bi-encoder",
    UNTRAINED_SUM: "the untrained sum of words and bi-encoder",
}
"""The systems that rank without training, each with its name in a sentence. Validation queries
choose the weights of the sums among them."""

NAME_OF_ROW = dict(zip(STUDENTS, (PLAIN, "student, KD on labels", DISTILLED, HARD), strict=True))


def ranked(results: Sequence[dict]) -> bool:
    """Whether the results of all seeds judge an order, and not classes alone."""
    return all("ranking" in result["systems"][TEACHER] for result in results)


def table(results: Sequence[dict]) -> pd.DataFrame:
    """One row per system: means over seeds, and for nDCG@10 intervals as `interval` gives them."""
    rows = {}
    parts = ("ranking", "classification") if ranked(results) else ("classification",)
    values = by_seed(results, SYSTEMS) if "ranking" in parts else None
    for name, role in SYSTEMS.items():
        row: dict = {"role": role}
        for part in parts:
            for key in results[0]["systems"][name][part]:
                row[key] = mean(results, name, part, key)
        if "ranking" in parts:
            span = interval(values[[name]], lambda means, name=name: means[name])
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


def by_seed(results: Sequence[dict], names: Iterable[str], column: str = "ndcg@10") -> pd.DataFrame:
    """Per-query values (seeds and queries × systems), with two levels of rows."""
    parts = []
    for result in results:
        values = _of_one_seed(result, names, column)
        parts.append(values.set_axis(query_keys(result, values.index)))
    return pd.concat(parts, keys=range(len(results)))


def interval(values: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series]) -> dict:
    """A statistic of the mean values of `by_seed`, with a 95 % interval: `value`, `low`, `high`.

    With LEAST_SEEDS or more it is over seeds and queries together, as `metrics.two_way_bootstrap`,
    where all of them have the same queries, and over the seeds, as `over_seeds`, where each has
    queries of its own, as the simulated shops have. Otherwise it is over queries, as
    `metrics.bootstrap_of_means`, each of them with its mean over the seeds that share it.
    """
    if _apart(values.index):
        return over_seeds(values.groupby(level=0).mean(), statistic)
    if not _crossed(values.index):
        return metrics.bootstrap_of_means(values.groupby(level=1).mean(), statistic)
    queries = values.index.get_level_values(1).unique()
    table = np.stack([part.droplevel(0).loc[queries] for _, part in values.groupby(level=0)])
    return metrics.two_way_bootstrap(
        table, lambda means: np.asarray(statistic(pd.DataFrame(means, columns=values.columns)))
    )


def over_seeds(means: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series]) -> dict:
    """A statistic of the mean of `means` (seeds × systems), with Student's interval over the seeds:
    `value`, `low`, `high`.

    It is that of the jackknife's pseudo-values (Tukey 1958), one a seed: of a mean or a difference
    these are the seeds' own, and a ratio stays one of means, and is none of single seeds' ratios.
    """
    seeds = len(means)
    left_out = pd.DataFrame([means.drop(seed).mean() for seed in means.index])
    value = float(np.asarray(statistic(means.mean().to_frame().T))[0])
    found = metrics.seed_interval(seeds * value - (seeds - 1) * np.asarray(statistic(left_out)))
    return {"value": value, "low": found["low"], "high": found["high"]}


def _crossed(units: pd.MultiIndex) -> bool:
    """Whether there are LEAST_SEEDS seeds or more, and each has all queries; of seeds, queries."""
    seeds, queries = (units.unique(level) for level in (0, 1))
    return len(seeds) >= LEAST_SEEDS and len(units.unique()) == len(seeds) * len(queries)


def _apart(units: pd.MultiIndex) -> bool:
    """Whether there are LEAST_SEEDS seeds or more, and no two share a query; of seeds, queries."""
    seeds, queries = (units.unique(level) for level in (0, 1))
    return len(seeds) >= LEAST_SEEDS and len(units.unique()) == len(queries)


def difference(values: pd.DataFrame, a: str, b: str) -> dict:
    """System `a` minus system `b` in `by_seed`'s values, with an interval as `interval` gives it.

    Over queries alone it is that of `metrics.paired_bootstrap`.
    """
    if _crossed(values.index) or _apart(values.index):
        found = interval(values, lambda means: means[a] - means[b])
        return {"difference": found.pop("value"), **found}
    means = values.groupby(level=1).mean()
    return metrics.paired_bootstrap(means[a], means[b])


def f1_difference(results: Sequence[dict], a: str, b: str) -> dict:
    """Macro-F1 of system `a` minus that of `b`: `difference`, `low`, `high`.

    The interval is over what `interval` takes. Over seeds it is `metrics.seed_interval` of each
    seed's own macro-F1; otherwise the pairs of all seeds are counted at once, as
    `metrics.macro_f1_difference` does.
    """
    labels, first, second, units, seeds = [], [], [], [], []
    for seed, result in enumerate(results):
        labels += result["label"]
        first += result["systems"][a]["predicted"]
        second += result["systems"][b]["predicted"]
        units += query_keys(result, result["query_id"])
        seeds += [seed] * len(result["label"])
    index = pd.MultiIndex.from_arrays([seeds, units])
    if _apart(index):
        f1 = [{name: mean([result], name, "classification", "macro_f1") for name in (a, b)}
              for result in results]  # fmt: skip
        found = metrics.seed_interval(pd.Series([own[a] - own[b] for own in f1]))
        return {"difference": found.pop("mean"), **found}
    classes = len(results[0]["systems"][a]["per_class"])
    return metrics.macro_f1_difference(
        labels, first, second, units, classes, seeds=seeds if _crossed(index) else None
    )


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
