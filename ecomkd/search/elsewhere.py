"""The same search in the shop's own engine: OpenSearch, Elasticsearch or Vespa. Chapter 19.

What `ecomkd export` writes is files alone: a schema, the products in parts of a size that one
request takes, a query with two places to fill, and a README. The sum is that of the folder which
`ecomkd index` wrote, cosine + weight · BM25; the schemas are in `ecomkd.search.dialects`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecomkd import outputs
from ecomkd.search import dialects
from ecomkd.search.engine import SearchEngine

ENGINES = ("opensearch", "elasticsearch", "vespa")
KIND = "export"
"""The command that writes such a folder, as its manifest names it."""
PART = 10_000_000
"""Bytes of a file of products. A product that is larger by itself has a file of its own."""
_ROWS = 1_024
"""Products that are read at a time."""
_ID = 512
"""Bytes of a product's id, which the first two engines limit."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_STRANGE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufdd0-\ufddf\ufffe\uffff]")
"""What Vespa refuses in a text. None of it is a part of a word."""


def write(engine: SearchEngine, name: str, folder: Path | str) -> Path:
    """Write what `name`, one of `ENGINES`, needs to search like the engine; return the folder.

    The engine's fields, texts or numbers, go with the products, for a shop to filter by. They take
    no part in the sum. Products are read and written one after the other, so memory does not grow
    with N, and none of the files of products is larger than `PART` bytes.

    Raises ValueError with one sentence for an unknown engine and for fields or ids that the engine
    would refuse, and OSError as `outputs.claim` does where something else stands in `folder`.

    Example:
        >>> write(load("search/"), "opensearch", "opensearch/")
        PosixPath('opensearch')
    """
    if name not in ENGINES:
        raise ValueError(f"{name}: no such engine; give one of {', '.join(ENGINES)}.")
    for field in engine.fields:
        if not _NAME.fullmatch(field) or field in dialects.OWN:
            raise ValueError(
                f"{field!r:.60}: a field's name is of letters, digits and _, and none of "
                f"{', '.join(dialects.OWN)}; give it another name."
            )
    shape = dialects.Shape(
        products=len(engine.ids),
        width=int(engine.cells.vectors.shape[1]),
        weight=float(engine.weights.words),
        fields=dict(engine.fields),
    )
    with outputs.replaced(folder, KIND) as working:
        for path, text in dialects.FILES[name](shape).items():
            (working / path).parent.mkdir(parents=True, exist_ok=True)
            (working / path).write_text(text, encoding="utf-8")
        stem, suffix = ("feed", "jsonl") if name == "vespa" else ("bulk", "ndjson")
        record = _fed if name == "vespa" else _bulk
        _in_parts(working, stem, suffix, (record(*one) for one in _products(engine)))
    return Path(folder)


def fill(query: Any, text: str, vector: np.ndarray) -> Any:
    """An exported query with the shopper's text and its vector (H,) in their places.

    `query` is what `query.json` holds, and `vector` is `engine.embed([text])[0]`. Raises ValueError
    for a vector of zeros, of which no engine knows a cosine.

    Example:
        >>> fill({"match": {"text": "{{text}}"}, "v": "{{vector}}"}, "lamp", np.array([0.6, 0.8]))
        {'match': {'text': 'lamp'}, 'v': [0.6, 0.8]}
    """
    if not np.any(vector):
        raise ValueError(
            f"{text!r:.60} has no token that the static student knows, so its vector is zero: "
            "ask for its words alone."
        )
    numbers = [float(number) for number in vector]

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: filled(own) for key, own in part.items()}
        if isinstance(part, list):
            return [filled(own) for own in part]
        if part == dialects.TEXT:
            return text
        return numbers if part == dialects.VECTOR else part

    return filled(query)


def _products(engine: SearchEngine) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """The id, the texts and fields, and the vector as JSON of each product, in the order of ids.

    A product without tokens has a vector of zeros, which the engines refuse: it has none there, and
    the queries count its cosine as 0, as it is.
    """
    for start in range(0, len(engine.products), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(engine.products)))
        for row, vector in zip(rows, engine.cells.of(rows), strict=True):
            found = engine.products[row]
            own = found.product_id
            if not 0 < len(own.encode()) <= _ID or _STRANGE.search(own):
                raise ValueError(
                    f"product {row:,} has the id {own!r:.60}: an engine takes ids of 1 to {_ID} "
                    "bytes without control characters; give it a shorter or plainer one."
                )
            product = {"id": own, "title": found.title, "text": found.text}
            product |= {name: value for name, value in found.fields.items() if value is not None}
            plain = {
                name: _STRANGE.sub(" ", value) if isinstance(value, str) else value
                for name, value in product.items()
            }
            yield own, plain, _numbers(vector) if vector.any() else None


def _numbers(vector: np.ndarray) -> str:
    """A vector as JSON, with the nine digits that give each float32 back."""
    return "[" + ",".join(map("%.9g".__mod__, vector.tolist())) + "]"


def _with(product: dict[str, Any], vector: str | None, name: str) -> str:
    """The JSON of a product, with its vector's JSON put in: to parse that would cost most."""
    line = json.dumps(product)
    return line if vector is None else f'{line[:-1]}, "{name}": {vector}}}'


def _bulk(own: str, product: dict[str, Any], vector: str | None) -> str:
    action = json.dumps({"index": {"_id": own}})
    return f"{action}\n{_with(product, vector, 'vector')}\n"


def _fed(own: str, product: dict[str, Any], vector: str | None) -> str:
    put = json.dumps(f"id:shop:product::{own}")
    return f'{{"put": {put}, "fields": {_with(product, vector, "vector")}}}\n'


def _in_parts(folder: Path, stem: str, suffix: str, records: Iterator[str]) -> None:
    """Write records, which are ASCII, into files of at most `PART` bytes each."""
    number, size, file = 0, 0, None
    try:
        for record in records:
            if file is None or size + len(record) > PART:
                if file is not None:
                    file.close()
                file = (folder / f"{stem}-{number:05}.{suffix}").open("w", encoding="ascii")
                number, size = number + 1, 0
            file.write(record)
            size += len(record)
    finally:
        if file is not None:
            file.close()
