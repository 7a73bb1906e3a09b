"""Parts of a table, and who works on them: this process, or a Ray cluster. Chapters 5 and 19.

A part is some rows of a file, and the file that comes of them. It gets its name once it is whole,
so that it does not matter who works on which part, how often it is begun, or in which order.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecomkd.config import Profile
from ecomkd.data.contract import DataError, shown
from ecomkd.extras import needed

LOCAL = "local"
"""The address that stands for a cluster of this machine, which Ray starts and ends."""
_WAIT = 10
"""Seconds in which a cluster has to answer."""


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a Parquet file, and the one that is made of them."""

    source: str
    start: int
    stop: int
    out: str

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Worker(Protocol):
    """What makes the file of a part; "", or a sentence about what is wrong with the part.

    It travels to a cluster's processes, each of which works on many parts.
    """

    profile: Profile

    def __call__(self, part: Part, /) -> str: ...


# Parts --------------------------------------------------------------------------------------------


@contextmanager
def opened(file: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file. Raises DataError for one that is not whole."""
    try:
        found = pq.ParquetFile(file)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: not a whole Parquet file; write it as Parquet, or copy it again."
        ) from error
    with found:
        yield found


def is_made(part: Part) -> bool:
    """Whether the file of a part is there, with a row for each of its rows."""
    path = Path(part.out)
    try:
        return path.exists() and pq.read_metadata(path).num_rows == part.rows
    # Not written by us as it is now, for a part gets its name once it is whole.
    except (pa.ArrowException, OSError):
        return False


def rows_of(file: pq.ParquetFile, part: Part, names: list[str]) -> pa.Table:
    """Columns of the rows of a part, from the row groups that hold them alone.

    Row groups are decoded in batches, and no further than the part. Raises DataError where one is
    damaged.
    """
    ends = np.cumsum(
        [0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
    )
    first = int(np.searchsorted(ends, part.start, "right")) - 1
    last = int(np.searchsorted(ends, part.stop, "left"))
    groups, at, found = list(range(first, last)), int(ends[first]), []
    try:
        for batch in file.iter_batches(part.rows, row_groups=groups, columns=names):
            if at + len(batch) > part.start:
                found.append(batch.slice(max(0, part.start - at)))
            at += len(batch)
            if at >= part.stop:
                break
    except (MemoryError, NotImplementedError):  # the file may be whole
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{part.source}: damaged among the rows {part.start + 1:,} to {part.stop:,}; copy it "
            "again."
        ) from error
    return pa.Table.from_batches(found).slice(0, part.rows)


def write(table: pa.Table, path: Path) -> None:
    """Write a file that gets its name once it is whole; of two that write it at once, one stays."""
    # Not the number of the process: workers on two machines may share one.
    beside = path.with_name(f".{path.name}.{secrets.randbits(64)}")
    try:
        pq.write_table(table, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# Engines ------------------------------------------------------------------------------------------


def one_by_one(parts: Iterable[Part], worker: Worker, address: str | None) -> Iterator[str]:
    """Work on parts in this process; the fault of each, or ""."""
    yield from map(worker, parts)


def over_ray(parts: Sequence[Part], worker: Worker, address: str | None) -> Iterator[str]:
    """Work on parts with a worker on each core of a Ray cluster, or on each GPU; the fault of each,
    or "", as they come. A worker that dies is replaced, and its part is given to another one.

    Raises as `cluster` does, and what a worker raises.
    """
    with cluster(address) as ray:
        cards = worker.profile.device != "cpu" and int(ray.cluster_resources().get("GPU", 0))
        workers = cards or int(ray.cluster_resources()["CPU"])
        size = min(workers, len(parts))
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = ray.data.from_items(
            [asdict(part) for part in parts], override_num_blocks=len(parts)
        )
        found = items.map_batches(
            OfRay,
            fn_constructor_args=(worker,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=None if cards else 1,
            num_gpus=1 if cards else None,
        )
        try:
            yield from (row["fault"] for row in found.iter_rows())
        except ray.exceptions.RayError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise cause from error


ENGINES = {"local": one_by_one, "ray": over_ray}
"""In this process, or with the workers of a Ray cluster."""


class OfRay:
    """A worker as Ray Data calls it: with a batch of one part, given as columns."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        texts = {name: str(batch[name][0]) for name in ("source", "out")}
        part = Part(start=int(batch["start"][0]), stop=int(batch["stop"][0]), **texts)
        return {"fault": [self.worker(part)]}


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Inside, the Ray cluster at an address, such as 10.0.0.1:6379; gives the module `ray`.

    Without an address, or with LOCAL, it is one of this machine. Raises ConnectionError where none
    answers, and ModuleNotFoundError without Ray.
    """
    with needed("a Ray cluster", "scale"):
        import ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = address in (None, LOCAL)
    options: dict[str, Any] = {"include_dashboard": False} if own else {}
    try:
        if address is not None and not own:
            # Ray itself ends the whole process, minutes later, where nobody answers.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_WAIT).close()
        ray.init(LOCAL if own else address, configure_logging=False, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise ConnectionError(
            f"{'this machine' if own else address}: no Ray cluster answers ({reason}); start one "
            "with `ray start --head` under the same versions of Python and Ray, or check the "
            "address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Find out, before any work, whether a cluster can be used. Raises as `cluster` does."""
    with cluster(address):
        pass
