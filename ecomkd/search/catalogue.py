"""A catalogue on disk, read where it lies: products, and vectors by cells. Chapter 19.

Files are mapped into memory, not read: a search touches the parts that it needs, several processes
share what lies in memory, and the system takes it back where it is short. A folder that takes the
place of another leaves the files of the old one to whoever has mapped them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

READ = 16_384
"""Vectors that a query is compared with; of a larger catalogue, those in the nearest cells."""
_PART = 65_536
"""Rows that are looked at at a time, where all are."""
_SAMPLE = 64
"""Vectors a cell, of which the cells are found."""
_FLOAT = np.dtype(np.float32)
_FIELD = (str, int, float, bool, type(None))
"""What a field of a product may be."""


class Damaged(ValueError):
    """A file of an index that is not what it has to be."""

    def __init__(self, path: Path, fault: str):
        super().__init__(f"{path}: {fault}; write the folder again with `ecomkd index`.")


@dataclass(frozen=True)
class Product:
    """A product of the catalogue."""

    product_id: str
    title: str
    text: str
    """What a model reads of it."""
    fields: dict[str, str | float | None]
    """What else is told of it where somebody asks."""


class Products(Sequence[Product]):
    """N products, one JSON list a line in a file, and where each line begins.

    Raises Damaged where the two do not fit. That a line is a product is seen once it is read, which
    raises the same.
    """

    def __init__(self, path: Path):
        self._path, numbers = path, path.with_suffix(".npy")
        self._starts = table(numbers)
        if self._starts.dtype.kind != "i" or self._starts.ndim != 1 or len(self._starts) < 2:
            raise Damaged(numbers, "tells of no product")
        if not path.is_file() or path.stat().st_size != self._starts[-1]:
            raise Damaged(path, f"is missing, or not as long as {numbers.name} says")
        self._lines, ends = np.memmap(path, np.uint8, "r"), self._starts[1:]
        fit = self._starts[0] == 0 and (np.diff(self._starts) > 0).all()
        if not fit or (self._lines[ends - 1] != ord("\n")).any():
            raise Damaged(path, f"does not fit {numbers.name}")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row):
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self):,} products")
        try:
            line = bytes(self._lines[self._starts[row] : self._starts[row + 1]])
            found = json.loads(line, parse_constant=_refuse)
        except ValueError:
            found = None
        if not _is_product(found):
            raise Damaged(self._path, f"line {row + 1} is no list of three texts and the fields")
        return Product(*found)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _is_product(found) -> bool:
    return (
        isinstance(found, list)
        and [type(part) for part in found] == [str, str, str, dict]
        and all(isinstance(value, _FIELD) for value in found[3].values())
    )


@dataclass(frozen=True)
class Column(Sequence[str]):
    """One text of each product, as a sequence that reads what it is asked for."""

    products: Sequence[Product]
    name: str

    def __len__(self) -> int:
        return len(self.products)

    def __getitem__(self, row):
        return getattr(self.products[row], self.name)

    def __iter__(self) -> Iterator[str]:
        return (getattr(product, self.name) for product in self.products)


def write_products(path: Path, products: Iterable[Product]) -> None:
    """Write the two files that `Products` reads. What `products` gives need not fit into memory."""
    sizes = []
    with path.open("wb") as file:
        for one in products:
            line = json.dumps([one.product_id, one.title, one.text, one.fields])
            sizes.append(file.write(f"{line}\n".encode()))
    save_table(path.with_suffix(".npy"), np.array([0, *accumulate(sizes)], np.int64))


def plain_field(value, kind: str) -> str | float | None:
    """A field, a "number" or a "text", as JSON has it; None where a product has no value.

    Raises ValueError for a text that is no number where there should be one.
    """
    if isinstance(value, bytes):  # some programs write texts to Parquet so
        value = value.decode(errors="replace")
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if kind == "text":
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(eq=False)
class Cells:
    """N vectors of length 1, cell by cell: those near the same centre lie side by side.

    An inverted file (Jégou, Douze & Schmid 2011, section III) without quantisation. A query is
    compared with the cells whose centres are nearest to it, and with all of a catalogue that has no
    more than `READ` products.
    """

    vectors: np.ndarray
    """(N, H), in the order of the cells."""
    rows: np.ndarray
    """(N,): the product that each vector is of."""
    ends: np.ndarray
    """(C + 1,): where each of C cells begins, and where the last one ends."""
    centres: np.ndarray
    """(C, H)."""

    def __post_init__(self):
        self._places = np.empty(len(self.rows), np.int64)
        self._places[self.rows] = np.arange(len(self.rows))

    def near(self, vector: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Products (M,) and cosines (M,) with a vector (H,), and the cells (B,) that they are in.

        M is at least `least` and at least `READ`, or N.
        """
        order = np.argsort(-(self.centres @ vector), kind="stable")
        sizes = np.diff(self.ends)[order].cumsum()
        cells = order[: 1 + int(np.searchsorted(sizes, min(max(least, READ), sizes[-1])))]
        parts = [slice(self.ends[cell], self.ends[cell + 1]) for cell in cells]
        rows = np.concatenate([self.rows[part] for part in parts])
        cosines = [vector[None] @ self.vectors[part].T for part in parts]
        return rows, np.concatenate(cosines, axis=1)[0], cells

    def outside(self, rows: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Those of products (R,) that are in none of the cells (B,)."""
        of_each = np.searchsorted(self.ends, self._places[rows], "right") - 1
        return rows[~np.isin(of_each, cells)]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors (R, H) of products (R,)."""
        return self.vectors[self._places[rows]]

    def cosines(self, vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The cosines (R,) of a vector (H,) with products (R,)."""
        return self.of(rows) @ vector

    def compare(self, vectors: np.ndarray) -> np.ndarray:
        """The cosines (Q, N) of vectors (Q, H) with all products, in the catalogue's order."""
        return (vectors @ self.vectors.T)[:, self._places]


def write_cells(folder: Path, parts: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    """Write the files that `cells` reads, of unit vectors (N, H) that come in parts (_, H).

    The centres are found by k-means on a sample; there are √N of them, or one where all vectors are
    compared anyway.
    """
    path, count = folder / "unordered.npy", shape[0]
    _save(path, parts, shape)
    vectors = table(path)
    number = 1 if count <= READ else round(math.sqrt(count))
    centres, own = _clustered(vectors, number)
    rows = np.argsort(own, kind="stable")
    save_table(folder / "cells.rows.npy", rows.astype(np.int32))
    save_table(folder / "cells.ends.npy", np.searchsorted(own[rows], np.arange(number + 1)))
    save_table(folder / "cells.centres.npy", centres)
    _save(folder / "vectors.npy", (vectors[part] for part in _parts(rows)), shape)
    del vectors  # Windows deletes no file that is mapped.
    path.unlink()


def save_table(path: Path, found: np.ndarray) -> None:
    """Write a table as a .npy file."""
    _save(path, [found], found.shape, found.dtype)


def _save(
    path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype = _FLOAT
) -> None:
    # `np.save` tells of a full disk without a number of the error, and a mapped file kills then.
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


def _clustered(vectors: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (C, H) of so many cells, and the cell (N,) of each vector."""
    if number == 1:
        return vectors.mean(0, keepdims=True), np.zeros(len(vectors), np.int64)
    from sklearn.cluster import MiniBatchKMeans  # what serves loads no scikit-learn

    draw = np.random.default_rng(0)
    some = np.sort(draw.choice(len(vectors), min(len(vectors), _SAMPLE * number), replace=False))
    found = MiniBatchKMeans(number, n_init=1, batch_size=4_096, random_state=0).fit(vectors[some])
    centres = found.cluster_centers_.astype(np.float32)
    norms = (centres * centres).sum(1) / 2
    own = [(part @ centres.T - norms).argmax(1) for part in _parts(vectors)]
    return centres, np.concatenate(own)


def cells(folder: Path) -> Cells:
    """What `write_cells` wrote, mapped. Raises Damaged where its files do not fit together."""
    names = ("vectors", "cells.rows", "cells.ends", "cells.centres")
    vectors, rows, ends, centres = (table(folder / f"{name}.npy") for name in names)
    for name, found in (("vectors", vectors), ("cells.centres", centres)):
        if found.dtype != _FLOAT or found.ndim != 2:
            raise Damaged(folder / f"{name}.npy", "is no table of float32")
        if not all(np.isfinite(part).all() for part in _parts(found)):
            raise Damaged(folder / f"{name}.npy", "holds numbers that are not finite")
    count = len(vectors)
    whole = (
        rows.shape == (count,)
        and rows.dtype.kind == ends.dtype.kind == "i"
        and ends.shape == (len(centres) + 1,)
        and ends[0] == 0
        and ends[-1] == count
        and (np.diff(ends) >= 0).all()
        and centres.shape[1] == vectors.shape[1]
        and ((rows >= 0) & (rows < count)).all()
        and (np.bincount(rows, minlength=count) == 1).all()
    )
    if not whole:
        raise Damaged(folder / "vectors.npy", "does not fit the files of its cells")
    return Cells(vectors, rows, ends, centres)


def _parts(found: np.ndarray) -> Iterator[np.ndarray]:
    return (found[start : start + _PART] for start in range(0, len(found), _PART))


def table(path: Path) -> np.ndarray:
    """The table in a .npy file, mapped; nothing in it can be executed. Raises Damaged."""
    try:
        # As a plain array: each slice of a `memmap` would take care of its file once more.
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except FileNotFoundError as error:
        raise Damaged(path, "is missing") from error
    except Exception as error:  # what its reader raises has no class in common
        raise Damaged(path, "is no table of NumPy's") from error
