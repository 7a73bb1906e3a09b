"""Every way to load data: the simulated shop, ESCI from the hub, or the reader's own files.

Chapter 1.
"""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ecomkd.artifacts import known_digest, stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.contract import LABELS, TEXT, DataError, as_seen, is_blank
from ecomkd.data.contract import product_text as product_text
from ecomkd.data.files import MAX_CHARACTERS, STEMS, TableFile, data_files
from ecomkd.data.schema import Tables, read, to_dataset

ESCI = "tasksource/esci"
"""The Shopping Queries Dataset on the hub: examples and products joined, splits train and test."""

ESCI_REVISION = "8113b17a5d4099e20243282c926f1bc1a08a4d13"
"""The commit of 9 August 2023, the last one of that copy when this was written."""

_ESCI_LABELS = dict(zip(("Exact", "Substitute", "Complement", "Irrelevant"), LABELS, strict=True))
_ESCI_FURTHER = ("product_locale", "small_version", "large_version")
_REPORT = "report.json"
_BATCH = 2_000


@contextmanager
def apart_from_the_data() -> Iterator[None]:
    """Inside, `datasets` keeps what it computes in a temporary folder, not beside the data: these
    are an artefact, to which nothing is added."""
    before = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if before:
            datasets.enable_caching()


def load(source: str | Path = "shop", profile: Profile | None = None) -> datasets.DatasetDict:
    """The splits train, validation, test and, where there are any pairs, unlabelled.

    `source` is "shop" (simulated, from the profile's seed and sizes), "esci" (from the hub, US
    locale) or the path of a folder or file that keeps the data contract. Columns: query_id,
    product_id, query, product_title, product_description, product_bullet_point, product_brand,
    product_color, `label` (ClassLabel; -1 in unlabelled), then further ones. Checked once, then
    memory-mapped from the profile's artifact folder. What `ecomkd check` notes of the reader's own
    data is told as a warning when they are read for the first time.

    Where the data give each query a fold and no split, these are the splits in which fold 0 is
    tested; `ecomkd.data.folds.divided` gives those of every fold.

    Raises DataError for an unknown source or for data that break the contract, ConnectionError
    where the hub is out of reach.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ecomkd import Profile, load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load("shop", Profile.named("smoke", artifacts=Path(folder)))
        ...     {split: len(pairs) for split, pairs in data.items()}
        {'train': 180, 'validation': 48, 'test': 132, 'unlabelled': 200}
        >>> data["train"].features["label"].names
        ['E', 'S', 'C', 'I']
    """
    return datasets.load_from_disk(str(_prepared(source, profile) / "splits"))


def catalogue(source: str | Path = "shop", profile: Profile | None = None) -> datasets.Dataset:
    """The products of a source: product_id, the five texts, then further columns.

    Without a `products` file these are the distinct products of the pairs, each with the text of
    the first pair that names it. Raises as `load` does.
    """
    return datasets.load_from_disk(str(_prepared(source, profile) / "products"))


def report(source: str | Path = "shop", profile: Profile | None = None) -> dict:
    """What was read, merged and held out of a source, once it was loaded. Raises as `load` does."""
    return json.loads((_prepared(source, profile) / _REPORT).read_text("utf-8"))


def map_esci(batch: dict[str, list], split: str, locale: str = "us") -> dict[str, list]:
    """Rows of ESCI in the contract's columns; those of other locales or without a title left out.

    `batch` maps the published columns to lists. Labels come as words or as letters, ids as
    integers, missing texts as None. `split` holds for the whole batch, as on the hub; the
    original file's own `split` column goes before it. Texts are cut at the contract's limit.
    """
    size = len(batch["query_id"])
    keep = [
        row
        for row in range(size)
        if batch["product_locale"][row] == locale
        and not is_blank(batch["product_title"][row] or "")
    ]
    mapped = {name: [str(batch[name][row]) for row in keep] for name in ("query_id", "product_id")}
    for name in ("query", *TEXT):
        mapped[name] = [(batch[name][row] or "")[:MAX_CHARACTERS] for row in keep]
    labels = batch["esci_label"]
    mapped["esci_label"] = [_ESCI_LABELS.get(labels[row], labels[row]) for row in keep]
    splits = batch.get("split") or [split] * size
    mapped["split"] = [splits[row] for row in keep]
    for name in _ESCI_FURTHER:
        mapped[name] = [batch[name][row] for row in keep]
    return mapped


def _prepared(source: str | Path, profile: Profile | None) -> Path:
    """The artefact of a source: `splits` and `products`, each written by `save_to_disk`."""
    profile = profile or Profile.named()
    root = profile.artifacts
    if source == "shop":
        names = ("seed", "products", "queries", "judged_per_query", "unlabelled_pairs")
        size = {name: getattr(profile, name) for name in names}

        def simulate(scratch: Path) -> Path:
            shop.write(scratch / "shop", **size)
            if not profile.unlabelled_pairs:
                (scratch / "shop" / "unlabelled.parquet").unlink()
            return scratch / "shop"

        return _stage(simulate, [source, shop.generator_hash(), size], root)
    if source == "esci":

        def fetch(scratch: Path) -> Path:
            return _write_esci(_esci_batches(profile.streaming), scratch / "judgments.parquet")

        return _stage(fetch, [source, ESCI_REVISION], root)
    if not Path(source).exists():
        raise DataError(
            f"Unknown source {str(source)!r}: give 'shop', 'esci', or the path of a folder or a "
            "CSV or Parquet file that exists."
        )
    path = Path(source)
    files = data_files(path)
    found = zip(STEMS, files, strict=True)
    contents: list = [[stem, file.suffix, known_digest(file)] for stem, file in found if file]
    if TableFile(files[0]).by_fold:
        contents.append("by fold")
    return _stage(lambda scratch: path, contents, root, own=True)


def _stage(tables: Callable[[Path], Path], parts: list, root: Path, own: bool = False) -> Path:
    def make(folder: Path) -> None:
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        found = read(tables(scratch), scratch)
        for note in found.report["notes"] if own else ():
            warnings.warn(note, stacklevel=2)
        _save(found, folder)
        shutil.rmtree(scratch)

    return stage("data", parts, make, root, recipe=1)


def _save(tables: Tables, folder: Path) -> None:
    write_text(folder / _REPORT, json.dumps(tables.report, indent=1))
    with without_bars():
        to_dataset(tables).save_to_disk(folder / "splits")
        (tables.products or _distinct_products(tables)).save_to_disk(folder / "products")


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, `datasets` draws no bar."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _distinct_products(tables: Tables) -> datasets.Dataset:
    parts = [part for part in (tables.judgments, tables.unlabelled) if part is not None]
    pairs = datasets.concatenate_datasets(
        [part.select_columns(["product_id", *TEXT]) for part in parts]
    )
    rows: dict[str, int] = {}
    for row, product in enumerate(pairs.with_format("arrow")["product_id"].to_pylist()):
        rows.setdefault(product, row)
    return pairs.select(np.array(list(rows.values())))


def _esci_batches(streaming: bool) -> Iterator[tuple[str, dict[str, list]]]:
    try:
        for split in ("test", "train"):
            rows = datasets.load_dataset(
                ESCI, split=split, streaming=streaming, revision=ESCI_REVISION
            )
            for batch in rows.iter(batch_size=_BATCH):
                yield split, batch
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ConnectionError(
            f"{ESCI} cannot be read from the hub ({error}): connect to the network, or give the "
            "path of a copy that keeps the data contract."
        ) from error


def _write_esci(batches: Iterator[tuple[str, dict[str, list]]], path: Path) -> Path:
    """Write the batches, test first, without the training pairs whose query test has too."""
    held_out: set[str] = set()
    dropped = 0
    texts = ("query_id", "product_id", "query", *TEXT, "esci_label", "split", "product_locale")
    columns = [(name, pa.string()) for name in texts]
    columns += [(name, pa.int64()) for name in ("small_version", "large_version")]
    with pq.ParquetWriter(path, pa.schema(columns)) as writer:
        for split, batch in tqdm(batches, desc="ESCI", unit=f" × {_BATCH} rows"):
            table = pa.table(map_esci(batch, split), schema=writer.schema)
            queries = [as_seen(query) for query in table["query"].to_pylist()]
            if split == "test":
                held_out.update(queries)
            else:
                fresh = [query not in held_out for query in queries]
                dropped += len(fresh) - sum(fresh)
                table = table.filter(pa.array(fresh, pa.bool_()))
            writer.write_table(table)
    if dropped:
        warnings.warn(
            f"ESCI: {dropped} training pairs are left out, for their query is also in test.",
            stacklevel=2,
        )
    return path
