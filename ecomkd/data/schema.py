"""The data contract: judged query-product pairs, checked before anything is trained on them.

`check` says what is in a folder, `read` gives its tables. Chapter 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# Chapters and the simulated shop ask for the words of the contract here.
from ecomkd.data.contract import (  # noqa: F401
    GAINS,
    GAINS_SWAPPED,
    GRADE_GAINS,
    LABELS,
    LEAST_QUERIES,
    SPLITS,
    TEXT,
    DataError,
    normalise_query,
    quoted,
)
from ecomkd.data.files import TableFile, data_files
from ecomkd.data.pairs import Pairs, Products, unlike

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Tables:
    """A data set that keeps the contract; every table is memory-mapped.

    `judgments` has the contract's columns with `label` (a ClassLabel) and `split`, then further
    columns, and last, where the data give folds, `fold` (an integer). `unlabelled` has the same
    with label -1 and fold -1, `products` the catalogue; both may be None. `report` counts what was
    read, merged and held out; its `notes` are sentences about what is allowed, but may surprise.
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
        return _report(_checked(Path(path), Path(scratch)))


def read(path: Path | str, scratch: Path | str) -> Tables:
    """Read and check a folder (`judgments.*`, `products.*`, `unlabelled.*`) or a single file.

    Texts that a pair lacks are filled from `products` by product_id. A pair is a query_id with a
    product_id: repeated with one label it is merged into its first row, with two it is an error.
    Without a validation split, 15 % of the training queries become one; without a split column,
    15 % of all queries become test and 15 % validation. Both are taken in the order of the
    SHA-256 of the normalised query. Where a column `fold` stands in the place of `split`, fold 0 is
    test, fold 1 validation, and the rest training (`folds.divided` makes a test set of each).
    Further columns are kept; from CSV they come as strings.

    The Arrow files go into the folder `scratch`. Raises DataError, each of whose sentences names
    file, row, column and mend.
    """
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
    if pairs.by_fold:
        data = data.add_column("fold", pairs.fold)
    labelled = pairs.label[pairs.keep] >= 0
    unlabelled = pairs.keep[~labelled]
    return Tables(
        judgments=data.select(pairs.keep[labelled]),
        products=pairs.products.writer.dataset() if pairs.products else None,
        unlabelled=data.select(unlabelled) if len(unlabelled) else None,
        report=_report(pairs),
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


def _report(pairs: Pairs) -> dict:
    """What was read, merged and held out, with notes on what is allowed, but may surprise.

    Where the data give folds, `folds` has the number of queries in each.
    """
    names = np.array(SPLITS)[pairs.split[pairs.keep]]
    present = [name for name in SPLITS if (names == name).any()]
    queries, labels = pairs.query_id.codes[pairs.keep], pairs.label[pairs.keep]
    counts = np.bincount(labels[labels >= 0], minlength=len(pairs.names))
    known = pairs.products.row if pairs.products else pairs.product.number
    missing = [name for name in pairs.product.number if name not in known]
    learnt, tested = names == "train", names == "test"
    folds: dict[str, list[int]] = {}
    if pairs.by_fold:  # each query is learnt from, and each is tested
        learnt = tested = labels >= 0
        fold = pairs.fold[pairs.keep]
        folds["folds"] = [len(np.unique(queries[fold == k])) for k in range(fold.max() + 1)]
    return {
        "pairs": {name: int((names == name).sum()) for name in present},
        "queries": {name: len(np.unique(queries[names == name])) for name in present},
        "labels": dict(zip(pairs.names, counts.tolist(), strict=True)),
        "products": len(known),
        "products_not_in_catalogue": len(missing),
        "duplicates_merged": len(pairs.label) - len(names),
        **folds,
        "splits": pairs.how,
        "notes": [
            *_on_size(pairs, labels[learnt], queries[tested]),
            *_on_missing(pairs, missing),
            *_on_titles(pairs),
            *_on_labels(pairs),
        ],
    }


def _on_size(pairs: Pairs, labels: np.ndarray, queries: np.ndarray) -> Iterator[str]:
    """Notes on a single class in training, too few test queries, and titles that say nothing."""
    if len(np.unique(labels)) == 1:
        yield (
            f"all training pairs are labelled {pairs.names[labels[0]]!r}: nothing can be learnt of "
            "the other labels."
        )
    _, sizes = np.unique(queries, return_counts=True)
    if len(sizes) < LEAST_QUERIES:
        are = "queries are" if len(sizes) > 1 else "query is"
        yield (
            f"{len(sizes)} test {are} too few to conclude anything from a comparison; judge "
            f"{LEAST_QUERIES} or more."
        )
    if sizes.max() == 1:
        yield "no test query has two judged products: labels can be compared, rankings cannot."
    if len(set(pairs.titles)) == 1:
        yield "all judged products have the same title: only other texts differ."


def _on_missing(pairs: Pairs, missing: list[str]) -> Iterator[str]:
    """A note on the pairs' products that are not in the catalogue; DataError where no judged one
    is."""
    if not missing or pairs.products is None:
        return
    bare = {name.strip().lstrip("0"): name for name in pairs.products.row}
    alike = [name for name in missing if name.strip().lstrip("0") in bare]
    names, mend = list(pairs.product.number), ""
    judged = {names[code] for code in np.unique(pairs.product.codes[pairs.label >= 0]).tolist()}
    if alike:
        other = quoted(bare[alike[0].strip().lstrip("0")])
        example = f"such as {quoted(alike[0])}, which stands there as {other}"
        mend = "; write ids alike in all files, with the same leading zeros and spaces"
    else:
        example = f"such as {quoted(missing[0])}"
    if judged <= set(missing):
        mend = mend or "; write ids alike in all files, or add what was judged"
        raise DataError(
            f"{pairs.products.file.path}, column 'product_id': none of the {len(judged):,} judged "
            f"products is in it, {example}{mend}."
        )
    many = f"{len(missing):,} of the pairs' {len(names):,} products"
    yield f"{many} are not in the catalogue, {example}{mend}."


def _on_titles(pairs: Pairs) -> Iterator[str]:
    """Notes on products whose title is not the same everywhere."""
    titles, product = np.array(pairs.titles), pairs.product.codes
    rows, first = unlike(titles, product)
    found = [(rows, first, "more than one title")]
    if pairs.products:
        known = pairs.product.each(pairs.products.title)
        rows = np.flatnonzero((known != 0) & (known != titles))
        found.append((rows, rows[:0], "another title than in the products"))
    for rows, first, what in found:
        if len(rows):
            places = " and ".join(map(pairs.place, [*first[:1], rows[0]]))
            yield (
                f"{_have(len(np.unique(product[rows])), 'judged product')} {what}, such as "
                f"{quoted(pairs.product[rows[0]])} in {places}; each pair keeps its own, a "
                "repeated pair the first."
            )


def _on_labels(pairs: Pairs) -> Iterator[str]:
    """A note on a text and a product with two labels, under two query ids."""
    rows, first = unlike(pairs.label, pairs.pair(pairs.seen))
    if len(rows):
        yield (
            f"{_have(len(rows), 'pair')} another label under another query_id with the same text, "
            f"such as {pairs.place(rows[0])} and {pairs.place(first[0])}; they count as different "
            "queries."
        )


def _have(count: int, what: str) -> str:
    return f"{count:,} {what}{'s have' if count > 1 else ' has'}"
