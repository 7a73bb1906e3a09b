"""Classification and ranking metrics; the intervals around them are those of `intervals`.

Nothing here depends on the order of the rows. Sizes: N pairs, C classes. Chapter 5.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
import pandas as pd

from ecomkd.intervals import (  # noqa: F401
    bootstrap_of_means,
    macro_f1_difference,
    paired_bootstrap,
    seed_interval,
    simultaneous_intervals,
    two_way_bootstrap,
)

DEPTH = 10
"""The rank at which `ndcg@10` stops."""


def classification(labels, probabilities) -> dict:
    """Accuracy, precision, recall and F1 of the most probable class.

    The predicted class is the one of the highest probability, the first of them where several
    share it. Macro means run over all C classes; a class for which a value is undefined (never
    predicted, or without a pair) counts as 0. Micro-F1 equals accuracy where each pair has one
    label, as here; it is given because the literature reports it.

    Args:
        labels: (N,) integers in 0..C-1.
        probabilities: (N, C).

    Returns:
        `accuracy`, `macro_f1`, `micro_f1`, `macro_recall`, `macro_precision` as floats in 0..1,
        and `per_class`, a frame indexed by class with precision, recall, f1, support (pairs with
        this label) and predicted (pairs given it).

    Raises:
        ValueError: no pairs, shapes that do not fit, labels outside 0..C-1, NaN.

    Example:
        >>> found = classification([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
        >>> round(found["accuracy"], 4), round(found["macro_f1"], 4)
        (0.6667, 0.6667)
        >>> found["per_class"]["recall"].tolist()
        [0.5, 1.0]
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(
            f"classification: probabilities is {probabilities.shape}; give (pairs, classes), "
            "neither of them 0."
        )
    pairs, classes = probabilities.shape
    if labels.shape != (pairs,):
        raise ValueError(
            f"classification: labels is {labels.shape}; give one per pair, ({pairs},)."
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"classification: labels are {labels.dtype}; give class numbers.")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"classification: label {wrong} is outside 0..{classes - 1}.")
    if np.isnan(probabilities).any():
        row = int(np.isnan(probabilities).any(axis=1).argmax())
        raise ValueError(
            f"classification: the probabilities of row {row} hold NaN; mend the model."
        )
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    accuracy = float((labels == predicted).mean())
    return {
        "accuracy": accuracy,
        "macro_f1": float(f1.mean()),
        "micro_f1": accuracy,
        "macro_recall": float(recall.mean()),
        "macro_precision": float(precision.mean()),
        "per_class": pd.DataFrame(
            {
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "support": support,
                "predicted": np.bincount(predicted, minlength=classes),
            },
            index=pd.RangeIndex(classes, name="class"),
        ),
    }


def expected_gain(probabilities, gains: Sequence[float] | Mapping) -> np.ndarray:
    """The score of a pair by which a classifier ranks: Σ over classes of probability · gain.

    Args:
        probabilities: (N, C).
        gains: C gains in the order of the classes, or a mapping whose values stand in it.

    Returns:
        (N,) float64.

    Raises:
        ValueError: the number of gains is not C.

    Example:
        >>> expected_gain([[0.5, 0.5, 0.0, 0.0]], {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0})
        array([0.55])
    """
    values = list(gains.values()) if isinstance(gains, Mapping) else list(gains)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(values):
        raise ValueError(
            f"expected_gain: probabilities is {probabilities.shape} and there are {len(values)} "
            "gains; give one gain per class."
        )
    return probabilities @ np.asarray(values, dtype=np.float64)


def ranking(frame: pd.DataFrame, gains: Mapping) -> dict:
    """nDCG, whole and at rank 10, and MRR per query, their means, and a random order's score.

    DCG is Σ gain / log₂(rank + 1), divided by the DCG of the best order of the same candidates
    (Järvelin & Kekäläinen 2002; as trec_eval computes it). Candidates with equal scores share the
    mean discount of the ranks that they occupy, which is the expectation over all their orders
    (McSherry & Najork 2008); the reciprocal rank of the first relevant candidate is the same
    expectation. So a constant scorer gets exactly the score of a random order.

    A candidate is relevant, for MRR, if its gain is at least half the largest gain of `gains`; a
    query with positive gains but no relevant candidate has reciprocal rank 0. A query without any
    positive gain has no best order: it is left out of every mean and of `per_query`, and counted.

    Args:
        frame: one row per pair, with `query_id`, `product_id`, `score` (higher is better), and
            `esci_label`, or where there is none, `grade`.
        gains: label or grade -> gain, 0 or more.

    Returns:
        `ndcg@10`, `ndcg`, `mrr`, `random_ndcg@10` (expected over all orders) and `lift@10`, which
        is `ndcg@10` - `random_ndcg@10`, as floats, NaN if no query has a positive gain;
        `n_without_positives`, an integer; `per_query`, a frame of the same five columns, indexed
        and sorted by query_id.

    Raises:
        ValueError: no rows, a missing column or id, a score that is NaN or no number, a pair that
            stands twice, a label without a gain, a negative gain.

    Example:
        >>> pairs = [("q1", "p1", "E", 0.2), ("q1", "p2", "S", 0.9), ("q1", "p3", "I", 0.1)]
        >>> pairs += [("q2", "p1", "I", 0.5), ("q2", "p4", "I", 0.4)]
        >>> frame = pd.DataFrame(pairs, columns=["query_id", "product_id", "esci_label", "score"])
        >>> found = ranking(frame, {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0})
        >>> found["mrr"], found["n_without_positives"]  # q1: E is second; q2 has no gain
        (0.5, 1)
        >>> found["per_query"].loc["q1"].round(3).to_dict()
        {'ndcg@10': 0.688, 'ndcg': 0.688, 'mrr': 0.5, 'random_ndcg@10': 0.735, 'lift@10': -0.047}
    """
    label = _label_column(frame)
    _check_frame(frame, label, gains)
    queries, names = pd.factorize(frame["query_id"], sort=True)
    gain = np.array([gains[x] for x in frame[label]], dtype=np.float64)
    positive = np.bincount(queries, gain) > 0
    keep = positive[queries]
    # Renumbered, so that the queries kept are 0..n-1 in the order of their ids.
    queries = (positive.cumsum() - 1)[queries[keep]]
    gain, score = gain[keep], frame["score"].to_numpy(np.float64)[keep]
    relevant = (gain >= max(gains.values()) / 2).astype(np.int64)
    same = np.zeros_like(score)

    per_query = pd.DataFrame(
        {
            "ndcg@10": _ndcg(queries, score, gain, DEPTH),
            "ndcg": _ndcg(queries, score, gain, None),
            "mrr": _reciprocal_rank(queries, score, relevant),
            "random_ndcg@10": _ndcg(queries, same, gain, DEPTH),
        },
        index=pd.Index(names[positive], name="query_id"),
    )
    per_query["lift@10"] = per_query["ndcg@10"] - per_query["random_ndcg@10"]
    means = {name: float(per_query[name].mean()) for name in per_query}
    means["lift@10"] = means["ndcg@10"] - means["random_ndcg@10"]
    return {**means, "n_without_positives": int((~positive).sum()), "per_query": per_query}


def mean_ndcg(query_ids, scores, gains) -> float:
    """The mean nDCG@10 of scored pairs, and nothing else: for a choice among many scores.

    It is the `ndcg@10` of `ranking`, with ties shared and queries without a positive gain left out,
    in less time. Nothing is checked but the lengths.

    Args:
        query_ids: (N,) the query of each pair.
        scores: (N,) higher is better.
        gains: (N,) the gain of each pair, 0 or more.

    Returns:
        A float in 0..1; NaN if no query has a positive gain.

    Raises:
        ValueError: the three differ in length.

    Example:
        >>> round(mean_ndcg(["q1", "q1", "q2"], [0.2, 0.9, 0.5], [1.0, 0.0, 0.0]), 4)  # 1 / log₂ 3
        0.6309
    """
    scores, gains = np.asarray(scores, np.float64), np.asarray(gains, np.float64)
    if not len(query_ids) == len(scores) == len(gains):
        raise ValueError(
            f"mean_ndcg: {len(query_ids)} query ids, {len(scores)} scores and {len(gains)} gains; "
            "give one of each for every pair."
        )
    queries = pd.factorize(np.asarray(query_ids))[0]
    positive = np.bincount(queries, gains) > 0
    if not positive.any():
        return float("nan")
    keep = positive[queries]
    queries = (positive.cumsum() - 1)[queries[keep]]
    return float(_ndcg(queries, scores[keep], gains[keep], DEPTH).mean())


def retrieval(ranked: pd.DataFrame, judged: pd.DataFrame, gains: Mapping) -> dict:
    """How well rankings over a whole catalogue find what was judged, by `ir-measures`.

    What nobody judged counts as gain 0; `judged@10` says how much of the first ten that concerns.

    Args:
        ranked: columns `query_id`, `product_id`, `score`, in any order; equal scores go by id.
        judged: columns `query_id`, `product_id` and `esci_label` or `grade`.
        gains: label or grade -> gain, 0 or more; relevant is what has half the largest or more.

    Returns:
        `ndcg@10` (the ideal is over all that was judged), `recall@100`, `mrr@10`, `judged@10` as
        means over the queries with a relevant product, where a query without a result counts 0;
        `n_without_relevant`; `per_query`, a frame of the four, indexed by query_id.

    Raises:
        ValueError: a missing column, no query with a relevant product, a label without a gain, a
            gain below 0 or not finite, a score that is NaN or no number, a product that is ranked
            or judged twice for a query.

    Example:
        >>> pairs = [("q1", "p1", "E"), ("q1", "p2", "I")]
        >>> judged = pd.DataFrame(pairs, columns=["query_id", "product_id", "esci_label"])
        >>> found = [("q1", "p7", 2.0), ("q1", "p1", 1.0)]
        >>> ranked = pd.DataFrame(found, columns=["query_id", "product_id", "score"])
        >>> found = retrieval(ranked, judged, {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0})
        >>> found["mrr@10"], found["recall@100"], found["judged@10"]
        (0.5, 1.0, 0.5)
    """
    import ir_measures

    label = _label_column(judged)
    _check_once("retrieval, what is ranked", ranked, "score")
    _check_once("retrieval, what is judged", judged, label)
    _check_gains("retrieval", judged[label], gains)
    _check_scores("retrieval", ranked)
    # ir-measures takes whole numbers alone; times 700 the gains of the book are such.
    worth = judged[label].map(gains).mul(700).round().astype(int)
    half = round(350 * max(gains.values()))
    asked = pd.Index(judged["query_id"].unique(), name="query_id")
    relevant = pd.Index(judged.loc[worth >= half, "query_id"].unique(), name="query_id")
    if relevant.empty:
        raise ValueError("retrieval: no query has a relevant product; judge some, or mend gains.")
    if len(ranked) and not ranked["query_id"].isin(asked).any():
        raise ValueError("retrieval: no ranked query is judged; give both the same query ids.")
    names = {
        ir_measures.nDCG @ 10: "ndcg@10",
        ir_measures.R(rel=half) @ 100: "recall@100",
        ir_measures.RR(rel=half) @ 10: "mrr@10",
        ir_measures.Judged @ 10: "judged@10",
    }
    # By rank, for the libraries behind ir-measures order equal scores unlike, and one rounds them.
    best = ranked.sort_values(["score", "product_id"], ascending=[False, True])
    rank = best.groupby("query_id").cumcount()
    # As mappings, for ir-measures goes through a frame row by row, once for each library it asks.
    qrels, run = _by_query(judged, worth), _by_query(best, -1.0 * rank)
    found = ir_measures.iter_calc(list(names), qrels, run)
    values = [(value.query_id, names[value.measure], value.value) for value in found]
    table = pd.DataFrame(values, columns=["query_id", "name", "value"])
    per_query = table.pivot(index="query_id", columns="name", values="value")
    per_query.index = per_query.index.map({str(query): query for query in asked})
    per_query = per_query.reindex(relevant.sort_values(), columns=list(names.values())).fillna(0.0)
    per_query.columns.name = None
    means = {name: float(per_query[name].mean()) for name in per_query}
    return {**means, "n_without_relevant": len(asked) - len(relevant), "per_query": per_query}


def _by_query(pairs: pd.DataFrame, values: pd.Series) -> dict[str, dict[str, float]]:
    """The value of each pair: query_id to product_id to value. Ids become texts."""
    found: dict[str, dict[str, float]] = {}
    names = [list(map(str, pairs[name].tolist())) for name in ("query_id", "product_id")]
    for query, product, value in zip(*names, values.tolist(), strict=True):
        found.setdefault(query, {})[product] = value
    return found


def ndcg_of_gains(gains, ideal=None, depth: int | None = DEPTH) -> np.ndarray:
    """The nDCG of lists that are ranked already, from the gain of what stands at each rank.

    DCG is Σ gain / log₂(rank + 1) over the first `depth` ranks, divided by the DCG of the best
    order of `ideal` (Järvelin & Kekäläinen 2002). The lists have an order and so no ties; `ranking`
    takes scores, and shares ranks among equals.

    Args:
        gains: (..., K), the best rank first, each 0 or more.
        ideal: (..., M), the gains of all that could have been ranked, in any order; by default the
            same as `gains`. M may be larger than K, where a list shows a part of what there was.
        depth: the last rank that counts; None counts all.

    Returns:
        (...), each in 0..1; NaN where `ideal` holds no positive gain.

    Example:
        >>> float(ndcg_of_gains([0.0, 1.0]).round(4))  # the only good one is second: 1 / log₂ 3
        0.6309
        >>> ndcg_of_gains([[1, 0], [0, 0]], ideal=[[1, 1, 1], [1, 0, 0]], depth=2).round(4).tolist()
        [0.6131, 0.0]
    """
    gains = np.asarray(gains, dtype=np.float64)
    ideal = gains if ideal is None else np.asarray(ideal, dtype=np.float64)

    def dcg(ordered: np.ndarray) -> np.ndarray:
        ordered = ordered[..., :depth]
        return ordered @ _discount(np.arange(1, ordered.shape[-1] + 1))

    found, best = dcg(gains), dcg(-np.sort(-ideal, axis=-1))
    return np.divide(found, best, out=np.full_like(found, np.nan), where=best > 0)


def share_of_gap_closed(student: float, teacher: float, baseline: float) -> float:
    """(student - baseline) / (teacher - baseline): how much of what there was to gain was gained.

    `baseline` is the same small model without distillation. 1 is as good as the teacher, below 0
    is worse than the baseline. NaN where the teacher is not above the baseline: there is no gap.

    Example:
        >>> round(share_of_gap_closed(student=0.85, teacher=0.9, baseline=0.8), 2)
        0.5
    """
    return (student - baseline) / (teacher - baseline) if teacher > baseline else float("nan")


def _label_column(frame: pd.DataFrame) -> str:
    return "grade" if "grade" in frame and "esci_label" not in frame else "esci_label"


def _check_gains(what: str, labels: pd.Series, gains: Mapping) -> None:
    wrong = {k: g for k, g in gains.items() if not (isfinite(g) and g >= 0)}
    if wrong:
        raise ValueError(f"{what}: gains must be finite and 0 or more, not {wrong}.")
    strange = [x for x in labels.unique().tolist() if x not in gains]
    if strange:
        raise ValueError(
            f"{what}: {labels.name} {strange[0]!r} has no gain; gains are given for {list(gains)}."
        )


def _check_scores(what: str, pairs: pd.DataFrame) -> None:
    if len(pairs) and not pd.api.types.is_numeric_dtype(pairs["score"]):
        raise ValueError(f"{what}: score is {pairs['score'].dtype}; give numbers.")
    if pairs["score"].isna().any():
        query, product = pairs.loc[pairs["score"].isna(), ["query_id", "product_id"]].iloc[0]
        raise ValueError(
            f"{what}: the score of query {query}, product {product} is NaN; mend the scorer."
        )


def _check_once(what: str, pairs: pd.DataFrame, *further: str) -> None:
    for column in (needed := ("query_id", "product_id", *further)):
        if column not in pairs:
            names = ", ".join(needed).replace("esci_label", "esci_label (or grade)")
            raise ValueError(f"{what}: no column {column!r}; it needs {names}.")
        if column not in further and (gone := pairs[column].isna()).any():
            raise ValueError(f"{what}: row {int(gone.argmax())} has no {column}.")
    twice = pairs.duplicated(["query_id", "product_id"])
    if twice.any():
        query, product = pairs.loc[twice, ["query_id", "product_id"]].iloc[0]
        raise ValueError(f"{what}: query {query}, product {product} stands twice; keep one row.")


def _check_frame(frame: pd.DataFrame, label: str, gains: Mapping) -> None:
    _check_once("ranking", frame, label, "score")
    if frame.empty:
        raise ValueError("ranking: the frame has no rows; give at least one judged pair.")
    _check_gains("ranking", frame[label], gains)
    _check_scores("ranking", frame)


def _order(queries: np.ndarray, score: np.ndarray, value: np.ndarray):
    """Sorts by query, then score (best first), then value, so that row order leaves no trace.

    Returns the order, each row's rank from 1 within its query, the first row of each query, and
    the first row of each group of equal scores.
    """
    order = np.lexsort((-value, -score, queries))
    queries, score = queries[order], score[order]
    rows = np.arange(len(order))
    new_query = np.diff(queries, prepend=-1) != 0
    new_group = new_query | np.r_[True, score[1:] != score[:-1]][: len(order)]
    first_of_query = np.flatnonzero(new_query)
    rank = rows - first_of_query[queries] + 1
    return order, rank, first_of_query, np.flatnonzero(new_group)


def _discount(rank: np.ndarray) -> np.ndarray:
    return 1 / np.log2(rank + 1)


def _ndcg(
    queries: np.ndarray, score: np.ndarray, gain: np.ndarray, depth: int | None
) -> np.ndarray:
    def dcg(by: np.ndarray) -> np.ndarray:
        order, rank, first, groups = _order(queries, by, gain)
        discount = _discount(rank)
        if depth is not None:
            discount[rank > depth] = 0
        size = np.diff(np.r_[groups, len(rank)])
        shared = np.repeat(np.add.reduceat(discount, groups) / size, size)
        return np.add.reduceat(gain[order] * shared, first)

    # Rounding could lift the quotient of a perfect order above 1 by one unit in the last place.
    return np.minimum(dcg(score) / dcg(gain), 1.0)


def _reciprocal_rank(queries: np.ndarray, score: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    order, rank, first, groups = _order(queries, score, relevant)
    hits = np.add.reduceat(relevant[order], groups)
    size = np.diff(np.r_[groups, len(rank)])
    query, above = queries[order][groups], rank[groups] - 1
    result = np.zeros(len(first))
    found = np.flatnonzero(hits)
    # Of each query the first group of equal scores that holds a relevant candidate.
    for group in found[np.unique(query[found], return_index=True)[1]]:
        result[query[group]] = _expected_reciprocal(above[group], size[group], hits[group])
    return result


def _expected_reciprocal(above: int, size: int, hits: int) -> float:
    """E[1 / rank of the first of `hits` relevant among `size` tied, `above` of others before."""
    position = np.arange(1, size - hits + 2)
    # The first hit stands at j if j-1 misses were drawn, without replacement, and then a hit.
    misses_left, left = size - hits - position[:-1] + 1, size - position[:-1] + 1
    none_before = np.r_[1.0, np.cumprod(misses_left / left)]
    return float((none_before * hits / (size - position + 1) / (above + position)).sum())
