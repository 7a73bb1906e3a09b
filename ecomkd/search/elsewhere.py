"""The same search in the shop's own engine: OpenSearch, Elasticsearch or Vespa. Chapter 19.

What `ecomkd export` writes is files alone: a schema, the products in parts of a size that one
request takes, a query with places to fill, and a README. The sum is that of the folder which
`ecomkd index` wrote, cosine or sum of pieces + weight · BM25; the schemas are in
`ecomkd.search.dialects`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecomkd import outputs
from ecomkd.search import dialects
from ecomkd.search.engine import SearchEngine, SparseEngine
from ecomkd.words import Words, entries

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


def write(engine: SearchEngine | SparseEngine, name: str, folder: Path | str) -> Path:
    """Write what `name`, one of `ENGINES`, needs to search like the engine; return the folder.

    The engine's fields, texts or numbers, go with the products, for a shop to filter by. They take
    no part in the sum. Products are read and written one after the other, so memory does not grow
    with N, but for a byte for each entry of posting lists (`words.entries`). None of the files of
    products is larger than `PART` bytes.

    Raises ValueError with one sentence for an unknown engine and for fields or ids that the engine
    would refuse, and OSError as `outputs.claim` does where something else stands in `folder`.

    Example:
        >>> write(load("search/"), "opensearch", "opensearch/")
        PosixPath('opensearch')
    """
    if name not in ENGINES:
        raise ValueError(f"{name}: no such engine; give one of {', '.join(ENGINES)}.")
    if isinstance(engine, SparseEngine):
        own, files, width = dialects.SPARSE_OWN, dialects.SPARSE_FILES, 0
        members = _pieces(engine.postings, name == "vespa")
    else:
        own, files, width = dialects.OWN, dialects.FILES, int(engine.cells.vectors.shape[1])
        members = _vectors(engine)
    for field in engine.fields:
        if not _NAME.fullmatch(field) or field in own:
            raise ValueError(
                f"{field!r:.60}: a field's name is of letters, digits and _, and none of "
                f"{', '.join(own)}; give it another name."
            )
    shape = dialects.Shape(width, float(engine.weights.words), dict(engine.fields))
    with outputs.replaced(folder, KIND) as working:
        for path, text in files[name](shape).items():
            (working / path).parent.mkdir(parents=True, exist_ok=True)
            (working / path).write_text(text, encoding="utf-8")
        stem, suffix = ("feed", "jsonl") if name == "vespa" else ("bulk", "ndjson")
        record = _fed if name == "vespa" else _bulk
        _in_parts(working, stem, suffix, (record(*one) for one in _products(engine, members)))
    return Path(folder)


def fill(query: Any, text: str, found: np.ndarray | Mapping[str, int]) -> Any:
    """An exported query with the shopper's text and what was found for it in their places.

    `query` is what `query.json` holds. `found` is the vector (H,) of the text,
    `engine.embed([text])[0]`, or, with a sparse first stage, its pieces, `engine.asked(text)`.
    Raises ValueError for a vector of zeros, of which no engine knows a cosine, and for no piece.

    Example:
        >>> fill({"match": {"text": "{{text}}"}, "v": "{{vector}}"}, "lamp", np.array([0.6, 0.8]))
        {'match': {'text': 'lamp'}, 'v': [0.6, 0.8]}
    """
    places: dict[str, Any] = {dialects.TEXT: text}
    if isinstance(found, Mapping):
        if not found:
            raise ValueError(f"{text!r:.60} has no piece of a product: ask for its words alone.")
        places |= {dialects.PIECES: dict(found), dialects.NUMBERS: ",".join(found)}
    else:
        if not np.any(found):
            raise ValueError(
                f"{text!r:.60} has no token that the static student knows, so its vector is zero: "
                "ask for its words alone."
            )
        places[dialects.VECTOR] = [float(number) for number in found]

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: filled(own) for key, own in part.items()}
        if isinstance(part, list):
            return [filled(own) for own in part]
        return places.get(part, part) if isinstance(part, str) else part

    return filled(query)


def _products(
    engine: SearchEngine | SparseEngine, members: Iterator[str]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The id, the texts and fields, and what `members` gives of each product, in their order."""
    for row, more in enumerate(members):
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
        yield own, plain, more


def _vectors(engine: SearchEngine) -> Iterator[str]:
    """The vector of each product as a member of its JSON.

    A product without tokens has a vector of zeros, which the engines refuse: it has none there, and
    the queries count its cosine as 0, as it is.
    """
    for start in range(0, len(engine.products), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(engine.products)))
        for vector in engine.cells.of(rows):
            numbers = ",".join(map(_NINE, vector.tolist()))
            yield f', "vector": [{numbers}]' if vector.any() else ""


def _pieces(index: Words, listed: bool) -> Iterator[str]:
    """The pieces of each product by number, as members of its JSON; `listed` without adds, too.

    A name of a piece may hold a dot, which the first two engines refuse, and a number does not.
    """
    for own, data in entries(index):
        numbers, adds = own.tolist(), map(_NINE, data.tolist())
        both = ",".join(f'"{number}":{add}' for number, add in zip(numbers, adds, strict=True))
        named = f', "numbers": {json.dumps(numbers)}' if listed else ""
        yield f', "pieces": {{{both}}}{named}' if numbers else ""


_NINE = "%.9g".__mod__
"""A number as JSON, with the nine digits that give each float32 back."""


def _with(product: dict[str, Any], more: str) -> str:
    """The JSON of a product, with further members put in: to parse those would cost most."""
    return f"{json.dumps(product)[:-1]}{more}}}"


def _bulk(own: str, product: dict[str, Any], more: str) -> str:
    action = json.dumps({"index": {"_id": own}})
    return f"{action}\n{_with(product, more)}\n"


def _fed(own: str, product: dict[str, Any], more: str) -> str:
    put = json.dumps(f"id:shop:product::{own}")
    return f'{{"put": {put}, "fields": {_with(product, more)}}}\n'


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
