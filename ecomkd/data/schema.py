"""The data contract: judged query-product pairs, checked before anything is trained on them.

Ids, queries, labels and splits are compared across all rows and sit in memory; the long texts go
batch by batch into an Arrow file that is memory-mapped, so the disk bounds them.
"""

from __future__ import annotations

import hashlib
import tempfile
import unicodedata
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from ecomkd.data.files import ArrowWriter, DataError, TableFile, filled, text

LABELS = ("E", "S", "C", "I")
"""Exact, substitute, complement, irrelevant (Reddy et al. 2022, arXiv:2206.06588)."""

GRADES = ("0", "1", "2", "3")

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
"""Gain of each label in nDCG, as published with the Shopping Queries Dataset."""

GAINS_SWAPPED = {"E": 1.0, "S": 0.01, "C": 0.1, "I": 0.0}
"""The gains of the public baseline's other script, which swaps S and C."""

GRADE_GAINS = {grade: (2**grade - 1) / 7 for grade in range(4)}
"""Gain of each grade 0..3 in nDCG: (2^g - 1) / 7 (Burges et al. 2005)."""

SPLITS = ("train", "validation", "test", "unlabelled")
TEXT = (
    "product_title",
    "product_description",
    "product_bullet_point",
    "product_brand",
    "product_color",
)
HELD_OUT = 0.15
"""Share of the queries that becomes a split which the data do not give."""


def normalise_query(text: str) -> str:
    """The form under which two queries count as the same: NFKC, casefold, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def order_by_hash(queries: set[str]) -> list[str]:
    """Normalised queries in an order that is random, yet the same in every run and row order."""
    return sorted(queries, key=lambda query: (hashlib.sha256(query.encode()).digest(), query))


@dataclass(frozen=True)
class Tables:
    """A data set that keeps the contract; every table is memory-mapped.

    `judgments` has the contract's columns with `label` (a ClassLabel) and `split`, then further
    columns. `unlabelled` has the same with label -1, `products` the catalogue; both may be None.
    `report` counts what was read, merged and held out.
    """

    judgments: datasets.Dataset
    products: datasets.Dataset | None
    unlabelled: datasets.Dataset | None
    report: dict = field(compare=False)


def read(path: Path | str, scratch: Path | str | None = None) -> Tables:
    """Read and check a folder (`judgments.*`, `products.*`, `unlabelled.*`) or a single file.

    Texts that a pair lacks are filled from `products` by product_id. A pair is a query_id with a
    product_id: repeated with one label it is merged into its first row, with two it is an error.
    Without a validation split, 15 % of the training queries become one; without a split column,
    15 % of all queries become test and 15 % validation. Both are taken in the order of the
    SHA-256 of the normalised query. Further columns are kept; from CSV they come as strings.

    The Arrow files go into `scratch`, or else into a temporary folder that lives until the
    process ends. Raises DataError, whose one sentence names file, row, column and mend.
    """
    judged, catalogue, unjudged = data_files(Path(path))
    if scratch is None:
        _temporary.append(tempfile.TemporaryDirectory(prefix="ecomkd-", ignore_cleanup_errors=True))
        scratch = _temporary[-1].name
    products = _Products(TableFile(catalogue), Path(scratch)) if catalogue else None
    pairs = _Pairs(products, Path(scratch))
    pairs.add(TableFile(judged))
    if unjudged:
        pairs.add(TableFile(unjudged), unlabelled=True)
    return pairs.tables()


def to_dataset(tables: Tables) -> datasets.DatasetDict:
    """The splits train, validation, test, and unlabelled where there is any.

    Each has query_id, product_id, query, the five product texts (strings), `label` (ClassLabel,
    -1 in unlabelled), then the further columns.
    """
    splits = np.array(tables.judgments.with_format("arrow")["split"].to_pylist())
    parts = {name: tables.judgments.select(np.flatnonzero(splits == name)) for name in SPLITS[:3]}
    if tables.unlabelled is not None:
        parts["unlabelled"] = tables.unlabelled
    return datasets.DatasetDict(
        {name: part.remove_columns("split") for name, part in parts.items()}
    )


_temporary: list[tempfile.TemporaryDirectory] = []


def data_files(path: Path) -> tuple[Path, Path | None, Path | None]:
    """The files of judgments, products and unlabelled pairs that a path stands for."""
    if path.is_file():
        if path.suffix not in (".csv", ".parquet"):
            raise DataError(f"{path}: cannot read this kind of file; give a .csv or a .parquet.")
        return path, None, None
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the path.")
    found = []
    for stem in ("judgments", "products", "unlabelled"):
        names = [path / f"{stem}.{kind}" for kind in ("parquet", "csv")]
        names = [name for name in names if name.is_file()]
        if len(names) == 2:
            raise DataError(f"{path}: both {stem}.parquet and {stem}.csv are here; keep one.")
        found.append(names[0] if names else None)
    if found[0] is None:
        raise DataError(f"{path}: no judgments.parquet or judgments.csv here; add one of them.")
    return tuple(found)


class _Products:
    """The catalogue, checked and mapped, and the row of each product_id in it."""

    def __init__(self, file: TableFile, scratch: Path):
        file.require("product_id", "product_title")
        writer = ArrowWriter(scratch / "products.arrow")
        self.row: dict[str, int] = {}
        for start, batch in file.batches():
            texts = {name: text(file, start, batch, name) for name in ("product_id", *TEXT)}
            filled(file, start, texts["product_id"], "product_id")
            filled(file, start, texts["product_title"], "product_title")
            for row, product in enumerate(texts["product_id"], start):
                if self.row.setdefault(product, row) != row:
                    sentence = f"{product!r} stands in {file.place(self.row[product])}, too"
                    raise file.fault(row, "product_id", f"{sentence}; keep one of the two.")
            writer.write(texts, batch.drop_columns([n for n in texts if n in batch.column_names]))
        self.dataset = writer.dataset()
        self._arrow = self.dataset.select_columns(list(TEXT)).with_format("arrow")

    def fill(self, ids: list[str], texts: dict[str, list[str]]) -> None:
        """Put the catalogue's text wherever a pair has none."""
        blank = {name: [not value.strip() for value in texts[name]] for name in TEXT}
        rows = [
            row
            for row, product in enumerate(ids)
            if product in self.row and any(blank[name][row] for name in TEXT)
        ]
        if not rows:
            return
        known = self._arrow[[self.row[ids[row]] for row in rows]]
        for name in TEXT:
            for row, value in zip(rows, known[name].to_pylist(), strict=True):
                if blank[name][row]:
                    texts[name][row] = value


class _Pairs:
    """Rows of judgments and unlabelled pairs, one after the other, and what is checked over all."""

    def __init__(self, products: _Products | None, scratch: Path):
        self.products, self.scratch = products, scratch
        self.files: list[TableFile] = []
        self.parts: list[datasets.Dataset] = []
        self.names: tuple[str, ...] = ()
        self.product_number: dict[str, int] = {}
        self.query_number: dict[str, int] = {}
        self.query_seen: list[tuple[str, TableFile, int]] = []  # by query number: text, first place
        self.split_seen: dict[str, tuple[str, TableFile, int]] = {}  # by normalised text
        self.query, self.product = array("q"), array("q")
        self.label, self.split = array("b"), array("b")

    def add(self, file: TableFile, unlabelled: bool = False) -> None:
        file.require("query_id", "product_id", "query")
        if self.products is None:
            file.require("product_title")
        if "label" in file.columns:
            raise DataError(
                f"{file.path}: the column name 'label' is taken; rename the column "
                "(judgments stand in 'esci_label' or 'grade')."
            )
        target = [name for name in ("esci_label", "grade") if name in file.columns]
        if len(target) == 2:
            raise DataError(f"{file.path}: has both 'esci_label' and 'grade'; keep one of them.")
        if not unlabelled:
            if not target:
                file.require("esci_label")
            self.names = LABELS if target == ["esci_label"] else GRADES
        self.files.append(file)
        writer = ArrowWriter(self.scratch / f"pairs-{len(self.files)}.arrow")
        for start, batch in file.batches():
            texts = {
                name: text(file, start, batch, name)
                for name in ("query_id", "product_id", "query", *TEXT)
            }
            for name in ("query_id", "product_id", "query"):
                filled(file, start, texts[name], name)
            if self.products:
                self.products.fill(texts["product_id"], texts)
            hint = ", also in the products" if self.products else ""
            filled(file, start, texts["product_title"], "product_title", hint)
            splits = self._splits(file, start, batch, unlabelled)
            column = target[0] if target else "esci_label"
            labels = self._labels(file, start, batch, column, splits)
            self._note(file, start, texts, splits)
            self.label.extend(labels)
            used = [n for n in (*texts, *target, "split") if n in batch.column_names]
            writer.write(texts, batch.drop_columns(used), (self.names, labels))
        self.parts.append(writer.dataset())

    def _splits(self, file: TableFile, start: int, batch: pa.Table, unlabelled: bool) -> list[str]:
        values = text(file, start, batch, "split")
        allowed = SPLITS
        if unlabelled:
            values, allowed = [value or "unlabelled" for value in values], ("unlabelled",)
        elif "split" not in file.columns:
            return values
        for row, value in enumerate(values, start):
            if value not in allowed:
                sentence = f"unknown split {value!r}; use {' or '.join(allowed)}."
                raise file.fault(row, "split", sentence)
        return values

    def _labels(
        self, file: TableFile, start: int, batch: pa.Table, column: str, splits: list[str]
    ) -> list[int]:
        number = {name: index for index, name in enumerate(self.names)}
        labels = []
        for row, value in enumerate(text(file, start, batch, column), start):
            value = value.removesuffix(".0")  # grades beside missing ones are stored as floats
            if splits[row - start] == "unlabelled":
                if value:
                    sentence = f"{value!r} on an unlabelled pair; empty it or change the split."
                    raise file.fault(row, column, sentence)
                labels.append(-1)
            elif value in number:
                labels.append(number[value])
            else:
                what = f"unknown label {value!r}" if value else "the label is empty"
                raise file.fault(row, column, f"{what}; use one of {', '.join(self.names)}.")
        return labels

    def _note(
        self, file: TableFile, start: int, texts: dict[str, list[str]], splits: list[str]
    ) -> None:
        """Remember ids and splits; refuse a query_id with two texts and a text in two splits."""
        ids = zip(texts["query_id"], texts["product_id"], texts["query"], splits, strict=True)
        for row, (query_id, product_id, raw, split) in enumerate(ids, start):
            query = normalise_query(raw)
            number = self.query_number.setdefault(query_id, len(self.query_number))
            if number == len(self.query_seen):
                self.query_seen.append((query, file, row))
            seen, at, first = self.query_seen[number]
            if seen != query:
                raise file.fault(
                    row,
                    "query",
                    f"{raw!r} has the query_id {query_id!r} of {seen!r} in {at.place(first)}; "
                    "give each query its own id.",
                )
            other, at, first = self.split_seen.setdefault(query, (split, file, row))
            if other != split:
                raise file.fault(
                    row,
                    "query",
                    f"the query {raw!r} is in {split or 'a split to be drawn'}, and in "
                    f"{other or 'a split to be drawn'} at {at.place(first)}; "
                    "keep each query in one split.",
                )
            self.query.append(number)
            product = self.product_number.setdefault(product_id, len(self.product_number))
            self.product.append(product)
            self.split.append(SPLITS.index(split) if split else -1)

    def _place(self, row: int) -> str:
        first = self.files[0]
        return first.place(row) if row < first.rows else self.files[1].place(row - first.rows)

    def _merged(self) -> np.ndarray:
        """The rows that stay: the first of each pair."""
        pair = np.array(self.query) * len(self.product_number) + np.array(self.product)
        _, index, inverse = np.unique(pair, return_index=True, return_inverse=True)
        first, label = index[inverse], np.array(self.label)
        for row in np.flatnonzero(label != label[first])[:1]:
            here, there = self.names[label[row]], self.names[label[first[row]]]
            column = "esci_label" if self.names == LABELS else "grade"
            raise DataError(
                f"{self._place(row)}, column {column!r}: this pair is labelled {here!r}, and "
                f"{there!r} in {self._place(first[row])}; keep one of the two."
            )
        return np.flatnonzero(first == np.arange(len(first)))

    def _draw(self) -> str:
        """Give every query its split, and say how."""
        queries = {name: set() for name in ("", *SPLITS)}
        for query, (split, *_) in self.split_seen.items():
            queries[split].add(query)
        if queries[""]:
            pool, held_out = queries[""], ("test", "validation")
            how = "no split column: 70 % train, 15 % validation, 15 % test, by hash of the query"
        elif not queries["validation"]:
            pool, held_out = queries["train"], ("validation",)
            how = "as given, with 15 % of the training queries, by hash, as validation"
        else:
            pool, held_out, how = queries["train"], (), "as given"
        file = self.files[0].path
        for name in ("train", "test"):
            if not queries[name] and not queries[""]:
                raise DataError(
                    f"{file}, column 'split': no pair is in {name}; put some queries there, "
                    "or leave the column out to have them drawn."
                )
        if len(pool) <= len(held_out):
            raise DataError(
                f"{file}: too few queries to hold some out for {' and '.join(held_out)} "
                f"({len(pool)} found); give at least {len(held_out) + 1}."
            )
        part = max(1, round(HELD_OUT * len(pool)))
        drawn = {}
        for rank, query in enumerate(order_by_hash(pool)):
            name = held_out[rank // part] if rank // part < len(held_out) else "train"
            drawn[query] = SPLITS.index(name)
        number = np.array([drawn.get(query, -1) for query, *_ in self.query_seen])
        chosen = number[np.array(self.query)]
        self.split = np.where(chosen >= 0, chosen, np.array(self.split))
        return how

    def tables(self) -> Tables:
        how, keep = self._draw(), self._merged()
        names = np.array(SPLITS)[self.split]
        data = self._together().add_column("split", names)
        labelled = np.array(self.label)[keep] >= 0
        unlabelled = keep[~labelled]
        queries, kept = np.array(self.query)[keep], names[keep]
        present = [name for name in SPLITS if (kept == name).any()]
        counts = np.bincount(np.array(self.label)[keep[labelled]], minlength=len(self.names))
        known = self.products.row if self.products else self.product_number
        report = {
            "pairs": {name: int((kept == name).sum()) for name in present},
            "queries": {name: len(np.unique(queries[kept == name])) for name in present},
            "labels": dict(zip(self.names, counts.tolist(), strict=True)),
            "products": len(known),
            "products_not_in_catalogue": sum(name not in known for name in self.product_number),
            "duplicates_merged": len(self.query) - len(keep),
            "splits": how,
        }
        return Tables(
            judgments=data.select(keep[labelled]),
            products=self.products.dataset if self.products else None,
            unlabelled=data.select(unlabelled) if len(unlabelled) else None,
            report=report,
        )

    def _together(self) -> datasets.Dataset:
        one, *two = self.parts
        for name in one.column_names if two else ():
            if name in two[0].features and one.features[name] != two[0].features[name]:
                raise DataError(
                    f"{self.files[1].path}, column {name!r}: another type than in "
                    f"{self.files[0].path}; store both alike."
                )
        return datasets.concatenate_datasets(self.parts)
