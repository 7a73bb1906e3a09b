"""The folds of a cross-validation, put together as the result of one test. Chapter 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset

from ecomkd import metrics
from ecomkd.artifacts import data_digest

TESTED = ("query_id", "product_id", "query", "label")
"""The columns by which test pairs are known."""


def of_classes(found: Mapping) -> dict:
    """What is kept of `metrics.classification`."""
    means = {key: value for key, value in found.items() if isinstance(value, float)}
    return {"classification": means, "per_class": found["per_class"].to_dict("index")}


def pooled(results: Sequence[dict], pairs: Dataset) -> dict:
    """What `results_of` found for each fold of a seed, as one result of the same shape.

    Every query of `pairs`, which are all the judged ones, is a test query of one fold, by whose
    models it was judged. Scores of different models are not compared: nDCG and the other values of
    a query are of one fold, and their means are over all queries; the predicted classes of all
    pairs are counted together. In `pairs`, `test` is the number of all judged pairs, and the other
    splits have the mean of the folds. An order is judged where every fold judges it.

    Queries of a fold share their models, and the folds share most of what those learnt from. An
    interval over queries knows nothing of that (Bengio & Grandvalet 2004); seeds show a part of it.
    """
    label = [one for result in results for one in result["label"]]
    kinds = [result["kind"] for result in results]
    return {
        "seed": results[0]["seed"],
        "data": data_digest(pairs, TESTED),
        "pairs": {
            name: len(label)
            if name == "test"
            else round(float(np.mean([result["pairs"][name] for result in results])))
            for name in results[0]["pairs"]
        },
        "query_id": [one for result in results for one in result["query_id"]],
        "label": label,
        "kind": None if None in kinds else [one for kind in kinds for one in kind],
        "systems": {
            name: _pooled_system([result["systems"][name] for result in results], label)
            for name in results[0]["systems"]
        },
        "choices": [result["choices"] for result in results],
    }


def _pooled_system(entries: Sequence[dict], label: Sequence[int]) -> dict:
    predicted = [one for entry in entries for one in entry["predicted"]]
    classes = len(entries[0]["per_class"])
    found = metrics.classification(label, np.eye(classes)[predicted])
    found["per_class"].index = found["per_class"].index.astype(str)  # as JSON has it
    whole = {"predicted": predicted, **of_classes(found)}
    if all("ranking" in entry for entry in entries):
        parts = [pd.DataFrame(entry["per_query"]) for entry in entries]
        per_query = pd.concat(parts, ignore_index=True)
        without = sum(entry["ranking"]["n_without_positives"] for entry in entries)
        means = per_query.drop(columns="query_id").mean().to_dict()
        whole["ranking"] = {**means, "n_without_positives": without}
        whole["per_query"] = per_query.to_dict("list")
    return whole
