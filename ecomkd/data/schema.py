"""The data contract: judged query-product pairs, checked before anything is trained on them.

`check` says what is in a folder, `read` gives its tables. Chapter 1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecomkd.data.contract import (
    GAINS,
    GAINS_SWAPPED,
    GRADE_GAINS,
    GRADES,
    LABELS,
    SPLITS,
    TEXT,
    DataError,
    normalise_query,
    order_by_hash,
    product_text,
)
from ecomkd.data.files import TableFile, data_files
from ecomkd.data.pairs import Pairs, Products

if TYPE_CHECKING:
    import datasets

__all__ = [
    "GAINS",
    "GAINS_SWAPPED",
    "GRADES",
    "GRADE_GAINS",
    "LABELS",
    "SPLITS",
    "TEXT",
    "DataError",
    "Tables",
    "check",
    "normalise_query",
    "order_by_hash",
    "product_text",
    "read",
    "to_dataset",
]

_temporary: list[tempfile.TemporaryDirectory] = []


@dataclass(frozen=True)
class Tables:
    """A data set that keeps the contract; every table is memory-mapped.

    `judgments` has the contract's columns with `label` (a ClassLabel) and `split`, then further
    columns. `unlabelled` has the same with label -1, `products` the catalogue; both may be None.
    `report` counts what was read, merged and held out; its `notes` are sentences about what is
    allowed, but may surprise.
    """

    judgments: datasets.Dataset
    products: datasets.Dataset | None
    unlabelled: datasets.Dataset | None
    report: dict = field(compare=False)


def check(path: Path | str) -> dict:
    """The report on a folder or file, as in `Tables`, once it was read and checked as a whole.

    Raises DataError as `read` does.
    """
    with tempfile.TemporaryDirectory(prefix="ecomkd-", ignore_cleanup_errors=True) as scratch:
        return _checked(Path(path), Path(scratch)).report


def read(path: Path | str, scratch: Path | str | None = None) -> Tables:
    """Read and check a folder (`judgments.*`, `products.*`, `unlabelled.*`) or a single file.

    Texts that a pair lacks are filled from `products` by product_id. A pair is a query_id with a
    product_id: repeated with one label it is merged into its first row, with two it is an error.
    Without a validation split, 15 % of the training queries become one; without a split column,
    15 % of all queries become test and 15 % validation. Both are taken in the order of the
    SHA-256 of the normalised query. Further columns are kept; from CSV they come as strings.

    The Arrow files go into `scratch`, or else into a temporary folder that lives until the
    process ends. Raises DataError, each of whose sentences names file, row, column and mend.
    """
    if scratch is None:
        _temporary.append(tempfile.TemporaryDirectory(prefix="ecomkd-", ignore_cleanup_errors=True))
        scratch = _temporary[-1].name
    return _tables(_checked(Path(path), Path(scratch)))


def _checked(path: Path, scratch: Path) -> Pairs:
    judged, catalogue, unjudged = data_files(path)
    products = Products(TableFile(catalogue), scratch) if catalogue else None
    pairs = Pairs(products, scratch)
    pairs.add(TableFile(judged))
    if unjudged:
        pairs.add(TableFile(unjudged), unlabelled=True)
    pairs.settle()
    return pairs


def _tables(pairs: Pairs) -> Tables:
    import datasets

    parts = [writer.dataset(pairs.names) for writer in pairs.writers]
    data = datasets.concatenate_datasets(parts).add_column("split", np.array(SPLITS)[pairs.split])
    labelled = pairs.label[pairs.keep] >= 0
    unlabelled = pairs.keep[~labelled]
    return Tables(
        judgments=data.select(pairs.keep[labelled]),
        products=pairs.products.writer.dataset() if pairs.products else None,
        unlabelled=data.select(unlabelled) if len(unlabelled) else None,
        report=pairs.report,
    )


def to_dataset(tables: Tables) -> datasets.DatasetDict:
    """The splits train, validation, test, and unlabelled where there is any.

    Each has query_id, product_id, query, the five product texts (strings), `label` (ClassLabel,
    -1 in unlabelled), then the further columns.
    """
    import datasets

    splits = np.array(tables.judgments.with_format("arrow")["split"].to_pylist())
    parts = {name: tables.judgments.select(np.flatnonzero(splits == name)) for name in SPLITS[:3]}
    if tables.unlabelled is not None:
        parts["unlabelled"] = tables.unlabelled
    return datasets.DatasetDict(
        {name: part.remove_columns("split") for name, part in parts.items()}
    )
