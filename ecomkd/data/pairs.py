"""The checks of a data set: each row by itself, then queries, products and splits over all rows.

Ids, queries, labels and splits are compared across all rows and sit in memory; the long texts go
batch by batch into an Arrow file that is memory-mapped, so the disk bounds them. Chapter 1.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecomkd.data.contract import (
    GRADES,
    LABELS,
    LEAST_FOLDS,
    SPLITS,
    TEXT,
    DataError,
    as_seen,
    is_blank,
    is_fold,
    order_by_hash,
    quoted,
    whole_fold,
)
from ecomkd.data.files import ArrowWriter, TableFile

HELD_OUT = 0.15
"""Share of the queries that becomes a split which the data do not give."""

_IDS = ("query_id", "product_id", "query")
_EMPTY = "empty; fill it in or drop the row."


class Column:
    """A column as the number of each row's text among the texts that differ."""

    def __init__(self):
        self.number: dict[str, int] = {}
        self._rows = array("q")

    def extend(self, texts: Iterable[str]) -> None:
        """Append rows."""
        self._rows.extend(self.number.setdefault(text, len(self.number)) for text in texts)

    def __getitem__(self, row: int) -> str:
        return next(islice(self.number, self._rows[row], None))

    @property
    def codes(self) -> np.ndarray:
        """The number of each row's text."""
        return np.array(self._rows)

    def each(self, function: Callable[[str], int]) -> np.ndarray:
        """What a function gives for each row's text; it is asked once for each that differs."""
        return np.array([function(text) for text in self.number])[self.codes]


def unlike(
    values: np.ndarray, keys: np.ndarray, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose value is another than that of the first row with the same key.

    Only rows that are true in `among` count, if it is given. Returns such rows and, for each, the
    first one that it is compared with.
    """
    rows = np.arange(len(keys)) if among is None else np.flatnonzero(among)
    _, index, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    first = rows[index[inverse]]
    other = values[rows] != values[first]
    return rows[other], first[other]


class Faults:
    """What is wrong with the rows of a file: for each kind its first place, and a count."""

    def __init__(self, place: Callable[[int], str]):
        self.place = place
        self._found: list[tuple[int, str]] = []

    def add(self, rows: np.ndarray, column: str, sentence: Callable[[int], str] | str) -> None:
        """Note the rows with one kind of fault, in order, and what is to be said of the first."""
        if len(rows):
            row, more = rows[0], len(rows) - 1
            place = self.place(row)
            place += f" and {more:,} more row{'s' if more > 1 else ''}" if more else ""
            said = sentence if isinstance(sentence, str) else sentence(row)
            self._found.append((row, f"{place}, column {column!r}: {said}"))

    def sentences(self) -> list[str]:
        """A sentence for each kind, in the order of the rows, at most ten."""
        return [sentence for _, sentence in sorted(self._found, key=lambda found: found[0])][:10]


def read_whole(
    file: TableFile,
    take: Callable[[pa.Table], None],
    check: Callable[[Faults], None],
    place: Callable[[int], str],
) -> None:
    """Hand on all batches, then raise DataError with all faults that are found in them.

    What ends the reading before is told after the faults of what was read until then.
    """
    end: tuple[str, ...] = ()
    try:
        for batch in file.batches():
            take(batch)
    except DataError as error:
        end = error.sentences
    faults = Faults(place)
    if file.rows:
        check(faults)
    if told := [*faults.sentences(), *end]:
        raise DataError(*told)


def title_hash(title: str) -> int:
    """A number that is the same, in this process, for titles that differ by spaces alone.

    It is 0 for a title of which nothing can be seen.
    """
    return 0 if is_blank(title) else hash(" ".join(title.split()))


class Products:
    """The catalogue, checked and mapped, and the row of each product_id in it."""

    def __init__(self, file: TableFile, scratch: Path):
        file.require("product_id", "product_title")
        self.file = file
        self.writer = ArrowWriter(scratch / "products.arrow")
        self._ids, self._titles = Column(), array("q")
        read_whole(file, self._take, self._check, file.place)
        self.writer.close()
        self._texts = pa.ipc.open_stream(pa.memory_map(str(self.writer.path))).read_all()
        self.row = self._ids.number  # no id is there twice, so that its number is its row
        if len(self.row) < 2:
            raise DataError(
                f"{file.path}: a single product leaves nothing to search; give at least 2."
            )

    def _take(self, batch: pa.Table) -> None:
        texts = {name: self.file.texts(batch, name) for name in ("product_id", *TEXT)}
        self._ids.extend(texts["product_id"])
        self._titles.extend(map(title_hash, texts["product_title"]))
        self.writer.write(texts, batch.drop_columns([n for n in texts if n in batch.column_names]))

    def _check(self, faults: Faults) -> None:
        blank = self._ids.each(is_blank)
        faults.add(np.flatnonzero(blank), "product_id", _EMPTY)
        faults.add(np.flatnonzero(np.array(self._titles) == 0), "product_title", _EMPTY)
        rows, first = unlike(np.arange(len(blank)), self._ids.codes, ~blank)
        faults.add(
            rows,
            "product_id",
            lambda row: (
                f"{quoted(self._ids[row])} stands in {faults.place(first[0])}, too; "
                "keep one of the two."
            ),
        )

    def title(self, product: str) -> int:
        """The `title_hash` of a product; 0 where it is not in the catalogue."""
        return self._titles[self.row[product]] if product in self.row else 0

    def fill(self, texts: dict[str, list[str]]) -> None:
        """Put the catalogue's text wherever a pair has none."""
        for name in TEXT:
            known, own = self._texts[name], texts[name]
            for row, product in enumerate(texts["product_id"]):
                if product in self.row and is_blank(own[row]):
                    own[row] = known[self.row[product]].as_py()


class Pairs:
    """Rows of judgments and unlabelled pairs, one after the other, and what is checked over all.

    After the files were added, `settle` draws the splits and merges repeated pairs. Then `keep` has
    the numbers of the rows that stay, `split` the number of each row's split in SPLITS, `how` says
    where it is from, and `label` is each row's class or -1. Where the judgments are `by_fold`,
    `fold` has each row's fold, or -1 without a label.
    """

    by_fold = False

    def __init__(self, products: Products | None, scratch: Path):
        self.products, self.scratch = products, scratch
        self.files: list[TableFile] = []
        self.writers: list[ArrowWriter] = []
        self.names: tuple[str, ...] = ()
        self.column = ""
        self.query_id, self.product = Column(), Column()
        self._query, self.seen = Column(), Column()  # as written, and as a reader sees it
        self._split, self._given_label = Column(), Column()
        self.titles, self._labels = array("q"), array("b")

    def add(self, file: TableFile, unlabelled: bool = False) -> None:
        """Check and keep the rows of a file. Raises DataError with up to ten kinds of faults."""
        needed = [*_IDS] if self.products else [*_IDS, "product_title"]
        target = [name for name in ("esci_label", "grade") if name in file.columns]
        file.require(*needed, *([] if target or unlabelled else ["esci_label"]))
        if "label" in file.columns:
            raise DataError(
                f"{file.path}: the column name 'label' is taken; rename the column "
                "(judgments stand in 'esci_label' or 'grade')."
            )
        if len(target) == 2:
            raise DataError(f"{file.path}: has both 'esci_label' and 'grade'; keep one of them.")
        column = target[0] if target else "esci_label"
        if not unlabelled:
            self.column = column
            self.names = LABELS if column == "esci_label" else GRADES
            self.by_fold = file.by_fold
        splits = SPLITS if "split" in file.columns else ("",)
        self.files.append(file)
        self.writers.append(ArrowWriter(self.scratch / f"pairs-{len(self.files)}.arrow"))
        read_whole(
            file,
            lambda batch: self._take(file, batch, column, unlabelled),
            lambda faults: self._check(faults, column, ("unlabelled",) if unlabelled else splits),
            self.place,
        )
        self.writers[-1].close()
        self._same_types()

    def _take(self, file: TableFile, batch: pa.Table, column: str, unlabelled: bool) -> None:
        texts = {name: file.texts(batch, name) for name in (*_IDS, *TEXT)}
        if self.products:
            self.products.fill(texts)
        if self.by_fold and not unlabelled:
            splits = [whole_fold(fold) for fold in file.texts(batch, "fold")]
        else:
            splits = file.texts(batch, "split")
        if unlabelled:
            splits = [split or "unlabelled" for split in splits]
        # As programs write whole numbers beside missing ones.
        given = [label.removesuffix(".0") for label in file.texts(batch, column)]
        labels = [
            self.names.index(label) if label in self.names and split != "unlabelled" else -1
            for label, split in zip(given, splits, strict=True)
        ]
        self.query_id.extend(texts["query_id"])
        self.product.extend(texts["product_id"])
        self._query.extend(texts["query"])
        self.seen.extend(map(as_seen, texts["query"]))
        self.titles.extend(map(title_hash, texts["product_title"]))
        self._split.extend(splits)
        self._given_label.extend(given)
        self._labels.extend(labels)
        used = [*texts, column, "split", *(["fold"] if self.by_fold else [])]
        used = [name for name in used if name in batch.column_names]
        self.writers[-1].write({**texts, "label": labels}, batch.drop_columns(used))

    def _check(self, faults: Faults, column: str, splits: tuple[str, ...]) -> None:
        """Find what is wrong with the rows of the last file; those before are right."""
        last = np.arange(len(self._labels)) >= (self.files[0].rows if len(self.files) > 1 else 0)

        def add(wrong: np.ndarray, column: str, sentence: Callable[[int], str] | str) -> None:
            faults.add(np.flatnonzero(wrong & last), column, sentence)

        no_query_id, no_query = self.query_id.each(is_blank), ~self.seen.each(bool)
        no_product = self.product.each(is_blank)
        add(no_query_id, "query_id", _EMPTY)
        add(no_product, "product_id", _EMPTY)
        add(no_query, "query", _EMPTY)
        also = "empty, also in the products" if self.products else "empty"
        add(np.array(self.titles) == 0, "product_title", _EMPTY.replace("empty", also))

        split, given = self._split, self._given_label
        if self.by_fold and len(self.files) == 1:
            no_split = ~split.each(is_fold)
            use = "use the whole numbers from 0 on, one for each query."
            empty = no_split & ~split.each(bool)
            add(empty, "fold", f"the fold is empty; {use}")
            add(no_split & ~empty, "fold", lambda row: f"unknown fold {quoted(split[row])}; {use}")
        else:
            no_split = ~split.each(lambda name: name in splits) & last
            use = f"use {' or '.join(splits)}."
            add(no_split, "split", lambda row: f"unknown split {quoted(split[row])}; {use}")

        # What is a fault already is to cause no second one, from here on.
        free, filled = split.each(lambda name: name == "unlabelled"), given.each(bool)
        judged, label = ~free & ~no_split, self.label
        mend = "on an unlabelled pair; empty it or change the split."
        add(free & ~no_split & filled, column, lambda row: f"{quoted(given[row])} {mend}")
        one = f"use one of {', '.join(self.names)}."
        unknown = judged & filled & (label < 0)
        add(unknown, column, lambda row: f"unknown label {quoted(given[row])}; {one}")
        add(judged & ~filled, column, f"the label is empty; {one}")

        whole = ~no_query & ~no_query_id
        self._compare(faults, whole & ~no_split, whole & ~no_product & (label >= 0))

    def _compare(self, faults: Faults, whole: np.ndarray, judged: np.ndarray) -> None:
        """Find a query_id with two texts, a text in two splits, and a pair with two labels."""
        query, seen, split = self._query, self.seen, self._split
        rows, texts = unlike(seen.codes, self.query_id.codes, whole)
        faults.add(
            rows,
            "query",
            lambda row: (
                f"{quoted(query[row])} has the query_id {quoted(self.query_id[row])} of "
                f"{quoted(seen[texts[0]])} in {self.place(texts[0])}; give each query its own id."
            ),
        )
        rows, splits = unlike(split.codes, seen.codes, whole)

        def named(row: int) -> str:
            name = split[row] or "a split to be drawn"
            return f"fold {name}" if is_fold(name) else name

        part = "fold" if self.by_fold else "split"
        faults.add(
            rows,
            "query",
            lambda row: (
                f"the query {quoted(query[row])} is in {named(row)}, and in "
                f"{named(splits[0])} at {self.place(splits[0])}; keep each query in one {part}."
            ),
        )
        rows, labels = unlike(self.label, self.pair(self.query_id), judged)
        faults.add(
            rows,
            self.column,
            lambda row: (
                f"this pair is labelled {self.names[self.label[row]]!r}, and "
                f"{self.names[self.label[labels[0]]]!r} in {self.place(labels[0])}; "
                "keep one of the two."
            ),
        )

    @property
    def label(self) -> np.ndarray:
        """The class of each row, or -1."""
        return np.array(self._labels)

    def pair(self, queries: Column) -> np.ndarray:
        """The number of each row's query and product, taken together."""
        return queries.codes * len(self.product.number) + self.product.codes

    def place(self, row: int) -> str:
        """Where a row stands."""
        first = self.files[0]
        if len(self.files) == 1 or row < first.rows:
            return first.place(row)
        return self.files[1].place(row - first.rows)

    def _same_types(self) -> None:
        one, two = self.writers[0].schema, self.writers[-1].schema
        for name in set(one.names) & set(two.names):
            if one.field(name).type != two.field(name).type:
                raise DataError(
                    f"{self.files[1].path}, column {quoted(name)}: another type than in "
                    f"{self.files[0].path}; store both alike."
                )

    def settle(self) -> None:
        """Draw the splits that are not given, and merge repeated pairs."""
        self.how = self._of_folds() if self.by_fold else self._draw()
        if len(self.product.number) < 2:
            raise DataError(
                f"{self.files[0].path}: all pairs are about one product, so that nothing can be "
                "ranked; give at least 2."
            )
        self._relevant()
        _, first = np.unique(self.pair(self.query_id), return_index=True)
        self.keep = np.sort(first)

    def _of_folds(self) -> str:
        """Give every query the split that it has when fold 0 tests, and say so."""
        place = f"{self.files[0].path}, column 'fold'"
        known = {int(name) for name in self._split.number if is_fold(name)}
        if (gap := next(fold for fold in count() if fold not in known)) < max(known):
            raise DataError(
                f"{place}: no query is in fold {gap}, and one is in fold {max(known)}; number the "
                "folds from 0 on, without a gap."
            )
        if len(known) < LEAST_FOLDS:
            raise DataError(
                f"{place}: {_folds(len(known))}, and one is to test, one to validate and the rest "
                f"to be learnt from; make {LEAST_FOLDS} or more, or leave the column out to have "
                "splits drawn."
            )
        self.fold = self._split.each(lambda name: int(name) if is_fold(name) else -1)
        named = {"0": "test", "1": "validation", "unlabelled": "unlabelled"}
        self.split = self._split.each(lambda name: SPLITS.index(named.get(name, "train")))
        return "by fold, for `ecomkd run --folds`; all else takes fold 0 as test, 1 as validation"

    def _draw(self) -> str:
        """Give every query its split, and say how."""
        queries: dict[str, set[str]] = {name: set() for name in ("", *SPLITS)}
        _, first = np.unique(self.seen.codes, return_index=True)
        for query, row in zip(self.seen.number, first, strict=True):
            queries[self._split[row]].add(query)
        pool, held_out = queries["train"], ["validation"]
        how = "as given, with 15 % of the training queries, by hash, as validation"
        if queries[""]:
            pool, held_out = queries[""], ["test", "validation"]
            how = "no split column: 70 % train, 15 % validation, 15 % test, by hash of the query"
        elif queries["validation"]:
            held_out, how = [], "as given"
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
            drawn[query] = held_out[rank // part] if rank // part < len(held_out) else "train"
        chosen = self.seen.each(lambda query: SPLITS.index(drawn[query]) if query in drawn else -1)
        given = self._split.each(lambda name: SPLITS.index(name) if name else -1)
        self.split = np.where(chosen >= 0, chosen, given)
        return how

    def _relevant(self) -> None:
        """Refuse a test or validation split in which every product is irrelevant."""
        worst = "I" if "I" in self.names else "0"
        good = ", ".join(name for name in self.names if name != worst)
        mend = f"judge some products there as one of {good}"
        if self.by_fold:
            parts = {f"fold {fold}": self.fold == fold for fold in range(self.fold.max() + 1)}
        else:
            parts = {name: self.split == SPLITS.index(name) for name in ("test", "validation")}
            if self.how != "as given":
                mend += ", or say in a column 'split' where each query belongs"
        for name, rows in parts.items():
            labels = self.label[rows]
            if (labels == self.names.index(worst)).all():
                raise DataError(
                    f"{self.files[0].path}, column {self.column!r}: no product is relevant in "
                    f"{name}, so that no ranking can be judged; {mend}."
                )


def _folds(number: int) -> str:
    return "there is a single fold" if number == 1 else f"there are {number} folds"
