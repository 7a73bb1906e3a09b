"""Cross-validation by query: each query is tested once, by what never saw it. Chapter 5."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ecomkd.data.contract import LEAST_FOLDS, DataError, as_seen


def judged(data: DatasetDict) -> Dataset:
    """All judged pairs of a data set, whatever their split."""
    return concatenate_datasets([data[name] for name in ("train", "validation", "test")])


def drawn(pairs: Dataset, folds: int, seed: int) -> np.ndarray:
    """The fold of each pair, (N,), from 0 to `folds` - 1, drawn with a seed.

    Queries of the same text, as a reader sees it, share a fold, and no fold has two of such texts
    more than another. The order of the pairs does not matter.

    Raises DataError for fewer than three folds, for fewer queries than folds, and where no product
    is relevant in a fold.
    """
    seen = [as_seen(query) for query in pairs["query"]]
    queries = sorted(set(seen))
    if not LEAST_FOLDS <= folds <= len(queries):
        raise DataError(
            f"{len(queries)} queries cannot be divided into {folds} folds: ask for {LEAST_FOLDS} "
            "or more, and for no more than there are queries."
        )
    order = np.random.default_rng(seed).permutation(len(queries))
    place = dict(zip(queries, (order % folds).tolist(), strict=True))
    fold = np.array([place[query] for query in seen])
    names = pairs.features["label"].names
    worst = names.index("I" if "I" in names else "0")
    barren = set(range(folds)) - set(fold[np.array(pairs["label"]) != worst].tolist())
    if barren:
        raise DataError(
            f"No product is relevant in fold {min(barren)} of the {folds} that were drawn with "
            f"seed {seed}, so that no ranking can be judged there: ask for fewer folds."
        )
    return fold


def divided(data: DatasetDict, folds: int | None = None, seed: int = 0) -> list[DatasetDict]:
    """A data set for each of K folds: its test split is that fold, and the next one validation.

    After the last fold comes the first. All other judged pairs are the training split. Pairs
    without a label stay what they are: the contract lets none of them have the query of a judged
    one. `folds` draws so many folds, as `drawn` does; without it they stand in the column `fold`.

    Raises DataError as `drawn` does, and where there is no such column.
    """
    pairs = judged(data)
    if folds is None and "fold" not in pairs.column_names:
        raise DataError(
            "No column 'fold' says to which fold each query belongs: give one in the place of "
            "'split', or say how many folds are to be drawn."
        )
    fold = np.array(pairs["fold"]) if folds is None else drawn(pairs, folds, seed)
    count = int(fold.max()) + 1
    rest = {name: split for name, split in data.items() if name == "unlabelled"}
    found = []
    for tested in range(count):
        test, validation = fold == tested, fold == (tested + 1) % count
        rows = {"train": ~(test | validation), "validation": validation, "test": test}
        parts = {name: pairs.select(np.flatnonzero(chosen)) for name, chosen in rows.items()}
        found.append(DatasetDict(parts | rest))
    return found
