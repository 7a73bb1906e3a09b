"""Intervals around metrics: over queries by resampling, over seeds by Student's t, or over both.

`metrics` has all of these names too. Chapter 5.
"""

import warnings
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import pandas as pd

_CELLS = 2_000_000  # of a table of draws


def paired_bootstrap(
    a: pd.Series, b: pd.Series, resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Mean difference between two systems on the same queries, with a 95 % interval.

    Queries are drawn with replacement and the mean of their differences is taken, `resamples`
    times; the interval runs from the 2.5th to the 97.5th percentile (Efron & Tibshirani 1993,
    chapter 13). It speaks of other queries of the same kind, not of other training runs: for those
    see `seed_interval`.

    Args:
        a, b: one value per query, indexed by query_id, in any order.
        resamples: how many times to draw.
        seed: of the draws.

    Returns:
        `difference` = mean(a - b), `low`, `high`.

    Raises:
        ValueError: not the same queries in both, a query twice, NaN, fewer than two queries.

    Example:
        >>> queries = [f"q{i}" for i in range(40)]
        >>> old = pd.Series(np.linspace(0.2, 0.8, 40), queries)
        >>> new = old + np.tile([0.1, 0.3], 20)  # better on every query, by 0.1 or by 0.3
        >>> found = paired_bootstrap(new, old)
        >>> round(found["difference"], 2), 0.1 < found["low"] < 0.2 < found["high"] < 0.3
        (0.2, True)
    """
    for name, series in (("a", a), ("b", b)):
        if not isinstance(series, pd.Series):
            raise ValueError(f"paired_bootstrap: {name} must be a Series indexed by query_id.")
        if not series.index.is_unique:
            twice = series.index[series.index.duplicated()][0]
            raise ValueError(f"paired_bootstrap: query {twice!r} stands twice in {name}.")
        if series.isna().any():
            raise ValueError(
                f"paired_bootstrap: {name} is NaN for query {series.index[series.isna()][0]!r}; "
                "leave it out of both."
            )
    odd = a.index.symmetric_difference(b.index)
    if len(odd):
        raise ValueError(
            f"paired_bootstrap: {len(odd)} queries stand in one series only, the first {odd[0]!r}; "
            "give the same queries to both."
        )
    if len(a) < 2:
        raise ValueError(f"paired_bootstrap: {len(a)} queries; give at least 2.")
    a = a.sort_index()
    difference = a.to_numpy(np.float64) - b.loc[a.index].to_numpy(np.float64)

    def mean(rng: np.random.Generator, rows: int) -> np.ndarray:
        return difference[rng.integers(len(a), size=(rows, len(a)))].mean(axis=1)

    return {"difference": float(difference.mean()), **_bootstrap(mean, len(a), resamples, seed)}


def bootstrap_of_means(
    per_query: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], pd.Series],
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic of per-query means, such as a ratio of two, with a 95 % interval.

    Queries are drawn with replacement, all columns together; `statistic` is computed from the
    column means of each draw (Efron & Tibshirani 1993, chapter 13).

    Args:
        per_query: one row per query, one column per quantity.
        statistic: maps a frame of column means, one row per draw, to one value per row.

    Returns:
        `value` on the queries as they are, `low`, `high`.

    Raises ValueError for no query, and for NaN.

    Example:
        >>> lifts = pd.DataFrame({"student": [0.1, 0.2, 0.3], "teacher": [0.2, 0.2, 0.4]})
        >>> found = bootstrap_of_means(lifts, lambda means: means["student"] / means["teacher"])
        >>> round(found["value"], 4), round(found["low"], 4), round(found["high"], 4)
        (0.75, 0.5, 1.0)
    """
    queries, table = len(per_query), per_query.to_numpy(np.float64)
    if not queries or np.isnan(table).any():
        raise ValueError(
            f"bootstrap_of_means: {queries} queries, {int(np.isnan(table).any(axis=1).sum())} of "
            "them with NaN; give at least 1, and leave out those with NaN."
        )

    def of_means(rng: np.random.Generator, rows: int) -> np.ndarray:
        means = _counts(rng, rows, queries) / queries @ table
        return np.asarray(statistic(pd.DataFrame(means, columns=per_query.columns)))

    value = statistic(per_query.mean().to_frame().T).iloc[0]
    return {"value": float(value), **_bootstrap(of_means, queries, resamples, seed)}


def macro_f1_difference(
    labels: Sequence[int],
    a: Sequence[int],
    b: Sequence[int],
    query_ids: Sequence,
    classes: int,
    resamples: int = 10_000,
    seed: int = 0,
    seeds: Sequence | None = None,
) -> dict[str, float]:
    """Macro-F1 of predictions `a` minus that of `b`, with a 95 % interval over queries.

    Pairs of one query are not independent, so whole queries are drawn, and, where `seeds` are
    given, seeds with them, as `two_way_bootstrap` does.

    Args:
        labels, a, b: class numbers of each pair, (N,): the truth and two predictions.
        query_ids: the query of each pair, (N,).
        classes: C.
        seeds: the seed whose predictions each pair has, (N,), where all seeds have all queries.

    Returns:
        `difference`, `low`, `high`.

    Raises ValueError for no pair, for arrays of unlike length, for an unknown class, and for a seed
    that lacks a query.

    Example:
        >>> labels, right, wrong = [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]
        >>> found = macro_f1_difference(labels, right, wrong, ["q1", "q1", "q2", "q2"], classes=2)
        >>> round(found["difference"], 4)  # 1 - (2/3 + 0) / 2
        0.6667
    """
    lengths = {len(part) for part in (labels, a, b, query_ids, *([] if seeds is None else [seeds]))}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(
            f"macro_f1_difference: arrays of {sorted(lengths)} values; give one of each for every "
            "pair, and at least one pair."
        )
    for given in map(np.asarray, (labels, a, b)):
        if given.min() < 0 or given.max() >= classes:
            raise ValueError(
                f"macro_f1_difference: a class is {given.min()} or {given.max()}; with {classes} "
                f"classes they are 0 to {classes - 1}."
            )
    codes, names = pd.factorize(np.asarray(query_ids))
    of_seed, several = (0, [0]) if seeds is None else pd.factorize(np.asarray(seeds))
    met = np.bincount(of_seed * len(names) + codes, minlength=len(several) * len(names))
    if not met.all():
        seed_at, query_at = divmod(int(met.argmin()), len(names))
        raise ValueError(
            f"macro_f1_difference: seed {several[seed_at]} lacks query {names[query_at]}; give "
            "all seeds the same queries."
        )
    tables = []
    for predicted in (a, b):
        cell = of_seed * len(names) + codes
        for part in (labels, predicted):
            cell = cell * classes + np.asarray(part)
        counts = np.bincount(cell, minlength=len(several) * len(names) * classes**2)
        tables.append(counts.reshape(len(several), len(names), -1))

    def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return _macro_f1(ours, classes) - _macro_f1(theirs, classes)

    if seeds is not None:

        def of_means(means: np.ndarray) -> np.ndarray:
            return difference(*np.split(len(several) * len(names) * means, 2, axis=1))

        found = two_way_bootstrap(np.concatenate(tables, axis=2), of_means, resamples, seed)
        return {"difference": found.pop("value"), **found}

    def of_queries(weights: np.ndarray) -> np.ndarray:
        return difference(*(weights @ table[0] for table in tables))

    return {
        "difference": float(of_queries(np.ones((1, len(names))))[0]),
        **_bootstrap(
            lambda rng, rows: of_queries(_counts(rng, rows, len(names))),
            len(names),
            resamples,
            seed,
        ),
    }


def two_way_bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """A mean over seeds and queries, with a 95 % interval for other seeds and other queries.

    Where every seed is tested on the same queries, its values are a table of two crossed factors.
    Seeds are drawn with replacement, queries are drawn with replacement, and the mean is taken over
    the cells where the two meet: the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122). No
    bootstrap of such a table is exact (McCullagh 2000): this one counts the variance of single
    cells up to three times, which makes the interval wider, and the variance between seeds by a
    share of 1/S too low, a fifth for five seeds, which makes it narrower.

    Args:
        values: (S, Q), a row per seed and a column per query; or (S, Q, M), of M quantities each.
        statistic: maps means (R, M), a row per draw, to (R,) values; needed where there are M.
        resamples: how many times to draw.
        seed: of the draws.

    Returns:
        `value` on the table as it is, `low`, `high`.

    Raises:
        ValueError: a table of another shape, without a row or a column, or with NaN or infinity.

    Example:
        >>> seeds = np.array([[-0.1], [0.0], [0.1]])
        >>> found = two_way_bootstrap(seeds + np.linspace(0, 1, 50))
        >>> of_queries = two_way_bootstrap(0 * seeds + np.linspace(0, 1, 50))
        >>> round(found["value"], 3), round(of_queries["value"], 3)
        (0.5, 0.5)
        >>> found["high"] - found["low"] > of_queries["high"] - of_queries["low"]
        True
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != (2 if statistic is None else 3) or not table.size:
        wanted = "(seeds, queries)" if statistic is None else "(seeds, queries, quantities)"
        raise ValueError(
            f"two_way_bootstrap: values is {table.shape}; give {wanted}, none of them 0."
        )
    if not np.isfinite(table).all():
        raise ValueError("two_way_bootstrap: a value is NaN or infinite; leave its query out.")
    seeds, queries = table.shape[:2]
    table = table.reshape(seeds, queries, -1)
    # Of its own, so that it does not matter in how many parts the draws are made.
    of_seeds = np.random.default_rng([seed, 1])

    def of_means(means: np.ndarray) -> np.ndarray:
        return means[:, 0] if statistic is None else np.asarray(statistic(means))

    def draw(rng: np.random.Generator, rows: int) -> np.ndarray:
        by_query = _counts(rng, rows, queries) / queries
        by_seed = _counts(of_seeds, rows, seeds) / seeds
        means = np.zeros((rows, table.shape[2]))
        for row, part in enumerate(table):
            means += by_seed[:, [row]] * (by_query @ part)
        return of_means(means)

    value = of_means(table.mean(axis=(0, 1))[None])[0]
    return {"value": float(value), **_bootstrap(draw, queries, resamples, seed)}


def seed_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds with a 95 % interval of Student's t: it speaks of other training runs.

    Args:
        values: one per seed, at least 3.

    Returns:
        `mean`, `low`, `high`.

    Raises:
        ValueError: fewer than 3 values, or one that is not finite.

    Example:
        >>> found = seed_interval([0.80, 0.81, 0.82])
        >>> {name: round(value, 3) for name, value in found.items()}
        {'mean': 0.81, 'low': 0.785, 'high': 0.835}
    """
    from scipy.stats import ttest_1samp

    of_seeds = np.asarray(values, dtype=np.float64)
    if of_seeds.ndim != 1 or len(of_seeds) < 3 or not np.isfinite(of_seeds).all():
        raise ValueError(
            f"seed_interval: got {of_seeds.tolist()}; give at least 3 finite values, one per seed."
        )
    with warnings.catch_warnings():
        # Equal values have an interval of no width, and SciPy warns that it may be imprecise.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        low, high = ttest_1samp(of_seeds, 0).confidence_interval()
    return {"mean": float(of_seeds.mean()), "low": float(low), "high": float(high)}


def simultaneous_intervals(differences: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of several differences, with intervals that all hold together.

    Of twenty intervals at 95 %, one is expected to miss. So each of M differences gets Student's t
    interval over seeds at the level 1 − 0.05/M: then all M hold together with at least 95 %,
    whatever the differences have in common (Bonferroni's inequality; Dunn 1961,
    doi:10.1080/01621459.1961.10482090).

    Args:
        differences: (S, M), a row for each seed and a column for each comparison; at least 3 rows.

    Returns:
        A row for each comparison, with `mean`, `low`, `high`.

    Raises:
        ValueError: fewer than 3 seeds, no comparison, or a value that is not finite.

    Example:
        >>> gains = pd.DataFrame({"one": [0.09, 0.10, 0.11], "other": [0.00, 0.10, 0.20]})
        >>> simultaneous_intervals(gains).round(3).loc["one"].tolist()
        [0.1, 0.064, 0.136]
        >>> {name: round(end, 3) for name, end in seed_interval(gains["one"]).items()}
        {'mean': 0.1, 'low': 0.075, 'high': 0.125}
    """
    from scipy.stats import t

    table = differences.astype(np.float64)
    seeds, comparisons = table.shape
    if seeds < 3 or not comparisons or not np.isfinite(table.to_numpy()).all():
        raise ValueError(
            f"simultaneous_intervals: got {seeds} seeds of {comparisons} comparisons; give at "
            "least 3 seeds, 1 comparison, and finite values only."
        )
    half = t.ppf(1 - 0.025 / comparisons, seeds - 1) * table.std(axis=0) / np.sqrt(seeds)
    mean = table.mean(axis=0)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})


def _bootstrap(
    draw: Callable[[np.random.Generator, int], np.ndarray], units: int, resamples: int, seed: int
) -> dict[str, float]:
    """The 95 % interval of what `draw(rng, rows)` gives, one value for each of its resamples.

    They are drawn in parts, so that a table of draws stays near 16 MB; the generator gives the same
    numbers as in one piece.
    """
    if resamples < 1:
        raise ValueError(f"An interval takes at least 1 resample, and {resamples} were asked for.")
    rng = np.random.default_rng(seed)
    # A matrix product rounds alike, cut or whole, if its parts are whole numbers of the blocks that
    # BLAS works in, of 4 to 24 rows, and none is so small that BLAS takes another way for it.
    blocks = ceil(resamples / 48)
    parts = min(blocks, ceil(resamples * units / _CELLS))
    ends = np.minimum(np.arange(1, parts + 1) * blocks // parts * 48, resamples)
    values = np.concatenate([draw(rng, int(rows)) for rows in np.diff(ends, prepend=0)])
    # A ratio of two means has no value where the lower one is 0: such a draw is left out.
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _counts(rng: np.random.Generator, rows: int, units: int) -> np.ndarray:
    """How often each unit is drawn in each resample, (rows, units)."""
    return rng.multinomial(units, np.full(units, 1 / units), size=rows).astype(float)


def _macro_f1(confusion: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 of flattened confusion matrices (R, C·C) with the truth in rows, (R,)."""
    tables = confusion.reshape(-1, classes, classes)
    hits = np.einsum("rcc->rc", tables)
    named = tables.sum(axis=1) + tables.sum(axis=2)
    return np.where(named > 0, 2 * hits / np.maximum(named, 1), 0.0).mean(axis=1)
