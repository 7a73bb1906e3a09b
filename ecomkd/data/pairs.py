"""The checks of a data set: each row by itself, then queries, products and splits over all rows.

Ids, queries, labels and splits are compared across all rows and sit in memory; the long texts go
batch by batch into an Arrow file that is memory-mapped, so the disk bounds them. Chapter 1.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecomkd.data.contract import (
    GRADES,
    LABELS,
    SPLITS,
    TEXT,
    as_seen,
    order_by_hash,
)
from ecomkd.data.files import DataError, quoted
from ecomkd.data.products import Products, title_hash
from ecomkd.data.tables import ArrowWriter, Faults, TableFile, text

HELD_OUT = 0.15
"""Share of the queries that becomes a split which the data do not give."""

FEW = 30
"""With fewer test queries than these, `check` says that nothing can be concluded."""

_NONE = "?"  # in place of a split that there is not, so that its row causes no second fault


class Pairs:
    """Rows of judgments and unlabelled pairs, one after the other, and what is checked over all.

    After the files were added, `settle` draws the splits and merges repeated pairs. Then `keep` has
    the numbers of the rows that stay, `split` the number of each row's split in SPLITS, `label` its
    class or -1, and `report` counts what was read, merged and held out.
    """

    def __init__(self, products: Products | None, scratch: Path):
        self.products, self.scratch = products, scratch
        self.files: list[TableFile] = []
        self.writers: list[ArrowWriter] = []
        self.names: tuple[str, ...] = ()
        self.column = ""
        self.product_number: dict[str, int] = {}
        self.query_number: dict[str, int] = {}
        self.query_seen: list[tuple[str, int]] = []  # by query number: text as seen, first row
        self.split_seen: dict[str, tuple[str, int]] = {}  # by text as seen: split, first row
        self.title, self.title_row = array("q"), array("q")  # by product number: hash, first row
        self.retitled: dict[int, int] = {}  # product number: the first row with another title
        self.unlike_catalogue: dict[int, int] = {}
        self.query, self.product = array("q"), array("q")
        self._label, self._split = array("b"), array("b")  # as the files have them

    def add(self, file: TableFile, unlabelled: bool = False) -> None:
        """Check and keep the rows of a file. Raises DataError with up to ten kinds of faults."""
        needed = ["query_id", "product_id", "query"]
        needed += [] if self.products else ["product_title"]
        target = [name for name in ("esci_label", "grade") if name in file.columns]
        file.require(*needed, *([] if target or unlabelled else ["esci_label"]))
        if "label" in file.columns:
            raise DataError(
                f"{file.path}: the column name 'label' is taken; rename the column "
                "(judgments stand in 'esci_label' or 'grade')."
            )
        if len(target) == 2:
            raise DataError(f"{file.path}: has both 'esci_label' and 'grade'; keep one of them.")
        if not unlabelled:
            self.column = target[0]
            self.names = LABELS if self.column == "esci_label" else GRADES
        self.files.append(file)
        self.writers.append(ArrowWriter(self.scratch / f"pairs-{len(self.files)}.arrow"))
        faults = Faults(file)
        try:
            for start, batch in file.batches():
                self._read(file, start, batch, target, unlabelled, faults)
        except DataError as error:
            raise DataError(*faults.sentences(), *error.sentences) from error
        faults.settle()
        self.writers[-1].close()
        self._same_types()

    def _read(
        self,
        file: TableFile,
        start: int,
        batch: pa.Table,
        target: list[str],
        unlabelled: bool,
        faults: Faults,
    ) -> None:
        texts = {
            name: text(file, start, batch, name)
            for name in ("query_id", "product_id", "query", *TEXT)
        }
        for name in ("query_id", "product_id", "query"):
            faults.add_blanks(start, texts[name], name)
        if self.products:
            self.products.fill(texts["product_id"], texts)
        hint = ", also in the products" if self.products else ""
        faults.add_blanks(start, texts["product_title"], "product_title", hint)
        splits = self._splits(file, start, batch, unlabelled, faults)
        column = target[0] if target else "esci_label"
        labels = self._labels(file, start, batch, column, splits, faults)
        self._note(start, texts, splits, faults)
        self._label.extend(labels)
        used = [n for n in (*texts, *target, "split") if n in batch.column_names]
        self.writers[-1].write(texts, batch.drop_columns(used), labels)

    def _splits(
        self, file: TableFile, start: int, batch: pa.Table, unlabelled: bool, faults: Faults
    ) -> list[str]:
        values = text(file, start, batch, "split")
        allowed: tuple[str, ...] = SPLITS
        if unlabelled:
            values, allowed = [value or "unlabelled" for value in values], ("unlabelled",)
        elif "split" not in file.columns:
            return values
        for row, value in enumerate(values, start):
            if value not in allowed:
                values[row - start] = _NONE
                sentence = f"unknown split {quoted(value)}; use {' or '.join(allowed)}."
                faults.add(row, "split", "unknown", sentence)
        return values

    def _labels(
        self,
        file: TableFile,
        start: int,
        batch: pa.Table,
        column: str,
        splits: list[str],
        faults: Faults,
    ) -> list[int]:
        number = {name: index for index, name in enumerate(self.names)}
        use = f"use one of {', '.join(self.names)}."
        labels = []
        for row, value in enumerate(text(file, start, batch, column), start):
            value = value.removesuffix(".0")  # as programs write whole numbers beside missing ones
            labels.append(-1)
            if splits[row - start] == _NONE:
                continue
            if splits[row - start] == "unlabelled":
                if value:
                    sentence = f"{quoted(value)} on an unlabelled pair"
                    mend = "empty it or change the split."
                    faults.add(row, column, "unlabelled", f"{sentence}; {mend}")
            elif value in number:
                labels[-1] = number[value]
            elif value:
                faults.add(row, column, "unknown", f"unknown label {quoted(value)}; {use}")
            else:
                faults.add(row, column, "empty", f"the label is empty; {use}")
        return labels

    def _note(
        self, start: int, texts: dict[str, list[str]], splits: list[str], faults: Faults
    ) -> None:
        """Remember ids and splits; find a query_id with two texts and a text in two splits."""
        names = ("query_id", "product_id", "query", "product_title")
        rows = zip(*(texts[name] for name in names), splits, strict=True)
        for row, (query_id, product_id, raw, title, split) in enumerate(rows, start):
            here = len(self.query)  # the row's number over all files
            query = as_seen(raw)
            if not query or not query_id:  # a fault already, which is to cause no second one
                for column in (self.query, self.product, self._split):
                    column.append(-1)
                continue
            number = self.query_number.setdefault(query_id, len(self.query_number))
            if number == len(self.query_seen):
                self.query_seen.append((query, here))
            seen, first = self.query_seen[number]
            if seen != query:
                faults.add(
                    row,
                    "query",
                    "two texts",
                    f"{quoted(raw)} has the query_id {quoted(query_id)} of {quoted(seen)} in "
                    f"{self._place(first)}; give each query its own id.",
                )
            other, first = self.split_seen.setdefault(query, (split, here))
            if other != split and _NONE not in (other, split):
                drawn = "a split to be drawn"
                faults.add(
                    row,
                    "query",
                    "two splits",
                    f"the query {quoted(raw)} is in {split or drawn}, and in {other or drawn} at "
                    f"{self._place(first)}; keep each query in one split.",
                )
            self.query.append(number)
            self.product.append(self._product(product_id, title_hash(title), here))
            self._split.append(SPLITS.index(split) if split in SPLITS else -1)

    def _product(self, product_id: str, title: int, row: int) -> int:
        """The number of a product, once it is noted whether its title is always the same."""
        number = self.product_number.setdefault(product_id, len(self.product_number))
        if number == len(self.title):
            self.title.append(title)
            self.title_row.append(row)
        if self.title[number] != title:
            self.retitled.setdefault(number, row)
        if self.products and product_id in self.products.row:
            known = self.products.row[product_id]
            if self.products.titles[known] != title:
                self.unlike_catalogue.setdefault(number, row)
        return number

    def _place(self, row: int) -> str:
        first = self.files[0]
        # While the first file is read, its `rows` are those of the batches before.
        if len(self.files) == 1 or row < first.rows:
            return first.place(row)
        return self.files[1].place(row - first.rows)

    def _same_types(self) -> None:
        if len(self.writers) < 2:
            return
        one, two = (writer.schema for writer in self.writers)
        for name in one.names:
            if name in two.names and one.field(name).type != two.field(name).type:
                raise DataError(
                    f"{self.files[1].path}, column {quoted(name)}: another type than in "
                    f"{self.files[0].path}; store both alike."
                )

    def settle(self) -> None:
        """Draw the splits that are not given, and merge repeated pairs."""
        how, self.label = self._draw(), np.array(self._label)
        self.keep = self._merged()
        if len(self.product_number) < 2:
            raise DataError(
                f"{self.files[0].path}: all pairs are about one product, so that nothing can be "
                "ranked; give at least 2."
            )
        self._relevant(how)
        names = np.array(SPLITS)[self.split[self.keep]]
        present = [name for name in SPLITS if (names == name).any()]
        queries = np.array(self.query)[self.keep]
        labels = self.label[self.keep]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.names))
        known = self.products.row if self.products else self.product_number
        missing = [name for name in self.product_number if name not in known]
        self.report = {
            "pairs": {name: int((names == name).sum()) for name in present},
            "queries": {name: len(np.unique(queries[names == name])) for name in present},
            "labels": dict(zip(self.names, counts.tolist(), strict=True)),
            "products": len(known),
            "products_not_in_catalogue": len(missing),
            "duplicates_merged": len(self.query) - len(self.keep),
            "splits": how,
            "notes": [*self._few(), *self._ids(missing), *self._titles(), *self._two_labels()],
        }

    def _merged(self) -> np.ndarray:
        """The rows that stay: the first of each pair."""
        first, label = self._first_alike(np.array(self.query)), self.label
        twice = np.flatnonzero(label != label[first])
        if len(twice):
            row = twice[0]
            here, there = self.names[label[row]], self.names[label[first[row]]]
            more = f" and {len(twice) - 1:,} more" if len(twice) > 1 else ""
            raise DataError(
                f"{self._place(row)}{more}, column {self.column!r}: this pair is labelled "
                f"{here!r}, and {there!r} in {self._place(first[row])}; keep one of the two."
            )
        return np.flatnonzero(first == np.arange(len(first)))

    def _first_alike(self, queries: np.ndarray) -> np.ndarray:
        """For each row the number of the first with the same query, by `queries`, and product."""
        pair = queries * len(self.product_number) + np.array(self.product)
        _, index, inverse = np.unique(pair, return_index=True, return_inverse=True)
        return index[inverse]

    def _draw(self) -> str:
        """Give every query its split, and say how."""
        queries: dict[str, set[str]] = {name: set() for name in ("", *SPLITS)}
        for query, (split, _) in self.split_seen.items():
            queries[split].add(query)
        held_out: tuple[str, ...]
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
        number = np.array([drawn.get(query, -1) for query, _ in self.query_seen])
        chosen = number[np.array(self.query)]
        self.split = np.where(chosen >= 0, chosen, np.array(self._split))
        return how

    def _relevant(self, how: str) -> None:
        """Refuse a test or validation split in which every product is irrelevant."""
        worst = self.names.index("I") if "I" in self.names else 0
        good = ", ".join(name for name in self.names if name != self.names[worst])
        for name in ("test", "validation"):
            labels = self.label[self.split == SPLITS.index(name)]
            if (labels == worst).all():
                mend = f"judge some products there as one of {good}"
                if how != "as given":
                    mend += ", or say in a column 'split' where each query belongs"
                raise DataError(
                    f"{self.files[0].path}, column {self.column!r}: no product is relevant in "
                    f"{name}, so that no ranking can be judged; {mend}."
                )

    def _few(self) -> list[str]:
        """Notes on a single class and on too few queries."""
        notes = []
        chosen = {
            name: self.keep[self.split[self.keep] == SPLITS.index(name)]
            for name in ("train", "test")
        }
        classes = np.unique(self.label[chosen["train"]])
        if len(classes) == 1:
            notes.append(
                f"all training pairs are labelled {self.names[classes[0]]!r}: nothing can be "
                "learnt of the other labels."
            )
        _, sizes = np.unique(np.array(self.query)[chosen["test"]], return_counts=True)
        if len(sizes) < FEW:
            plural = "queries are" if len(sizes) > 1 else "query is"
            notes.append(
                f"{len(sizes)} test {plural} too few to conclude anything from a comparison; "
                f"judge {FEW} or more."
            )
        if sizes.max() == 1:
            notes.append(
                "no test query has two judged products: labels can be compared, rankings cannot."
            )
        if all(title == self.title[0] for title in self.title):
            notes.append("all judged products have the same title: only other texts differ.")
        return notes

    def _ids(self, missing: list[str]) -> list[str]:
        """A note on judged products that are not in the catalogue; DataError where none is."""
        if not missing or self.products is None:
            return []
        known = {name.strip().lstrip("0"): name for name in self.products.row}
        alike = [name for name in missing if name.strip().lstrip("0") in known]
        example = f"such as {quoted(alike[0] if alike else missing[0])}"
        if alike:
            other = known[alike[0].strip().lstrip("0")]
            example += f", which stands there as {quoted(other)}"
        mend = "write ids alike in all files, with the same leading zeros and spaces"
        if not alike:
            mend = "write ids alike in all files, or add what was judged"
        if len(missing) == len(self.product_number):
            raise DataError(
                f"{self.products.file.path}, column 'product_id': none of the {len(missing):,} "
                f"judged products is in it, {example}; {mend}."
            )
        note = f"{len(missing):,} of {len(self.product_number):,} judged products are not in the "
        return [f"{note}products, {example}{f'; {mend}' if alike else ''}."]

    def _titles(self) -> list[str]:
        """Notes on products whose title is not the same everywhere."""
        notes, ids = [], list(self.product_number)
        for other, what in (
            (self.retitled, "more than one title"),
            (self.unlike_catalogue, "another title than in the products"),
        ):
            if other:
                number, row = next(iter(other.items()))
                there = self._place(self.title_row[number])
                places = self._place(row)
                if other is self.retitled:
                    places = f"{there} and {places}"
                notes.append(
                    f"{len(other):,} judged product{'s have' if len(other) > 1 else ' has'} "
                    f"{what}, such as {quoted(ids[number])} in {places}; each pair keeps its own, "
                    "a repeated pair the first."
                )
        return notes

    def _two_labels(self) -> list[str]:
        """A note on a text and a product with two labels, under two query ids."""
        number: dict[str, int] = {}
        texts = [number.setdefault(query, len(number)) for query, _ in self.query_seen]
        if len(number) == len(texts):
            return []
        first = self._first_alike(np.array(texts)[np.array(self.query)])
        twice = np.flatnonzero(self.label != self.label[first])
        if not len(twice):
            return []
        row = twice[0]
        return [
            f"{len(twice):,} pair{'s have' if len(twice) > 1 else ' has'} another label under "
            f"another query_id with the same text, such as {self._place(row)} and "
            f"{self._place(first[row])}; they count as different queries."
        ]
