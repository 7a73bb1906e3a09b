"""Pairs that nobody judged and encoders learn from: mined ones, and what a teacher says of them.

What is compared here are all products of a catalogue: memory grows with their number. Chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict

from ecomkd import features, keys
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import apart_from_the_data
from ecomkd.relevance import mining, stages
from ecomkd.relevance.bi_encoders import COLUMNS
from ecomkd.search.retrieve import exact
from ecomkd.search.tune import candidates

NEAREST = 50
"""Products nearest to a query, from which its hard negatives are drawn."""
_MINED = 4
"""Hard negatives of each query."""


def hard_negatives(data: DatasetDict, catalogue: Dataset, profile: Profile) -> Dataset:
    """Pairs of each training and unlabelled query with a few of its nearest products.

    They are drawn from the 50 nearest by the pretrained bi-encoder, away from the pairs that the
    query has already. Columns are as `load` gives them, with label −1. Vectors of all products are
    held in memory, and every query is compared with each.
    """
    splits = [data[name] for name in ("train", "unlabelled") if name in data]

    def make(folder: Path) -> None:
        pairs = _near(splits, catalogue, profile)
        with apart_from_the_data():
            pairs = pairs.cast_column("label", data["train"].features["label"])
        # Without a row the library would write no file, and could not read that.
        pairs.save_to_disk(str(folder / "pairs"), num_shards=None if len(pairs) else 1)

    parts = [
        keys.digests(*splits),
        data_digest(catalogue, ("product_id", *TEXT)),
        keys.settings_of(profile),
        [_MINED, NEAREST],
    ]
    folder = stage("hard_negatives", parts, make, profile.artifacts, recipe=1)
    return datasets.load_from_disk(str(folder / "pairs"))


def _near(splits: Sequence[Dataset], catalogue: Dataset, profile: Profile) -> Dataset:
    known: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for split in splits:
        for query_id, query, product in zip(
            split["query_id"], split["query"], split["product_id"], strict=True
        ):
            texts[query_id] = query
            known.setdefault(query_id, set()).add(product)
    queries = Dataset.from_dict({"query_id": list(texts), "query": list(texts.values())})
    ids = np.asarray(catalogue["product_id"], dtype=object)
    vectors = mining.catalogue_vectors(catalogue, profile)
    _, nearest = exact(vectors).search(
        features.embed(queries["query"], profile), min(NEAREST, len(ids))
    )
    rng = np.random.default_rng(profile.seed)
    rows = np.full((len(texts), _MINED), -1)
    for number, query_id in enumerate(texts):
        new = [row for row in nearest[number] if ids[row] not in known[query_id]]
        drawn = rng.permutation(new)[:_MINED]
        rows[number, : len(drawn)] = drawn
    return candidates(queries, catalogue, rows)


def told(
    data: DatasetDict,
    catalogue: Dataset,
    profile: Profile,
    teacher_folder: Path,
    unlabelled: int | None = None,
    outputs_of: stages.Outputs | None = None,
) -> Dataset:
    """The first `unlabelled` pairs without a label (all by default), and those that are mined for
    their queries and the training ones, each with the label that the teacher takes for likeliest.

    From these a bi-encoder can learn by contrast (`bi_encoders.contrastive`), and then from the
    judged pairs, for the teacher errs. `outputs_of` computes its outputs, as `stages.student` has
    it.
    """
    taught = _with_mined(data, catalogue, profile, unlabelled)
    parts = [data["train"].select([])]
    for name in ("unlabelled", "mined"):
        # Of a tiny catalogue a query may have all products already, and nothing is mined.
        if len(pairs := taught[name]):
            answers = stages.teacher_pairs(
                taught, profile, teacher_folder, name, outputs_of=outputs_of
            )
            likeliest = np.asarray(answers["teacher_logits"]).argmax(axis=1).tolist()
            with apart_from_the_data():
                pairs = pairs.remove_columns("label").add_column("label", likeliest)
                parts.append(pairs.cast_column("label", data["train"].features["label"]))
    return datasets.concatenate_datasets([part.select_columns(COLUMNS) for part in parts])


def _with_mined(
    data: DatasetDict, catalogue: Dataset, profile: Profile, unlabelled: int | None
) -> DatasetDict:
    """The data with the first `unlabelled` pairs of that split, and what is mined for both."""
    pairs = data["unlabelled"]
    if unlabelled is not None:
        pairs = pairs.select(range(min(unlabelled, len(pairs))))
    part = DatasetDict({**data, "unlabelled": pairs})
    return DatasetDict({**part, "mined": hard_negatives(part, catalogue, profile)})
