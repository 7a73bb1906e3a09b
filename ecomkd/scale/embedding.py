"""Vectors of any number of texts from the workers of a Ray cluster: `ecomkd index --cluster`.

Texts come in parts, and so do vectors. In between they lie in files, which the workers read and
write: neither memory nor what travels through the cluster grows with their number. Chapter 19.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ecomkd.config import Profile
from ecomkd.features import Encode
from ecomkd.scale import engines
from ecomkd.scale.engines import Part, is_made

_TEXT = pa.schema([("text", pa.string())])


def vectors(
    address: str,
    profile: Profile,
    load: Callable[[], Encode],
    parts: Iterable[Sequence[str]],
    scratch: Path,
) -> Iterator[np.ndarray]:
    """Vectors (_, H) of each part of texts, in their order: `features.in_turn` by a cluster.

    Each worker calls `load`, a function of a module, once. A part is encoded by one call, as it is
    in one process. Files lie in the folder `scratch`, which all machines see under the same path,
    as they see the model; a run that was stopped and comes with the same folder finds there what it
    had, and once the last vectors were taken the folder is gone. Raises as `engines.cluster` does,
    and what a worker raises.
    """
    scratch = scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    planned = list(_written(parts, scratch))
    left = [part for part in planned if not is_made(part)]
    if left:
        work = engines.over_ray(left, Embedder(load, profile), address)
        for _ in tqdm(work, "Parts of the catalogue", len(left)):
            pass
    for part in planned:
        yield _read(Path(part.out))
    shutil.rmtree(scratch)


def _written(parts: Iterable[Sequence[str]], scratch: Path) -> Iterator[Part]:
    """Write texts into one file, a row group for each part."""
    source, start = scratch / "texts.parquet", 0
    with pq.ParquetWriter(source, _TEXT) as file:
        for texts in parts:
            file.write_table(pa.table({"text": pa.array(texts, pa.string())}), len(texts))
            stop = start + len(texts)
            yield Part(str(source), start, stop, str(scratch / f"{start:012}.parquet"))
            start = stop


def _read(path: Path) -> np.ndarray:
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


class Embedder:
    """A model that encodes parts of texts: Ray has one a process.

    Args:
        load: gives a function from texts to vectors (N, H).
        profile: says whether the workers have cards.
    """

    def __init__(self, load: Callable[[], Encode], profile: Profile):
        self.load, self.profile = load, profile

    @cached_property
    def _encode(self) -> Encode:
        return self.load()

    def __call__(self, part: Part, /) -> str:
        """Encode a part and write its file; one that is there is left as it is."""
        if not is_made(part):
            with engines.opened(Path(part.source)) as file:
                texts = engines.rows_of(file, part, ["text"])["text"].to_pylist()
            found = self._encode(texts)
            column = pa.FixedSizeListArray.from_arrays(found.reshape(-1), found.shape[1])
            engines.write(pa.table({"vector": column}), Path(part.out))
        return ""
