"""Unlabelled pairs for a shop without a query log: queries from its catalogue, near neighbours.

Chapter 4.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_from_disk

from ecomkd import features
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.contract import as_seen
from ecomkd.data.schema import TEXT, normalise_query
from ecomkd.data.sources import apart_from_the_data, product_text

_NEIGHBOURS = 40
"""Nearest products from which a query's candidates are drawn: the near ones are the hard ones."""


def catalogue_queries(catalogue: Dataset, count: int, seed: int) -> list[str]:
    """Up to `count` distinct queries made of words that the catalogue itself has.

    They are, in equal parts, a product type (where the catalogue has `product_type`), a type with a
    brand or a colour, and a phrase of two to four words of a title that starts near its beginning,
    where sellers say what the thing is. A product without a type gives phrases alone. Duplicates in
    normal form are left out.
    """
    rng = np.random.default_rng(seed)
    titles, brands, colours = (
        list(catalogue[f"product_{name}"]) for name in ("title", "brand", "color")
    )
    types = product_types(catalogue)
    queries: dict[str, None] = {}
    for _ in range(20 * count):
        if len(queries) == count:
            break
        row = int(rng.integers(len(catalogue)))
        words = titles[row].replace(",", " ").replace("|", " ").split()
        brand, colour, product_type = brands[row], colours[row], types[row]
        kind = rng.integers(3)
        if kind == 0 and product_type is not None:
            query = product_type
        elif kind == 1 and product_type is not None:
            query = f"{colour if colour and rng.random() < 0.5 else brand} {product_type}"
        else:
            length = int(rng.integers(2, 5))
            start = int(rng.integers(0, max(1, min(4, len(words) - length + 1))))
            query = " ".join(words[start : start + length])
        if as_seen(query := normalise_query(query)):
            queries[query] = None
    return list(queries)


def product_types(catalogue: Dataset) -> list[str | None]:
    """The type of each product in words; None where it has none, or a number."""
    if "product_type" not in catalogue.column_names:
        return [None] * len(catalogue)
    # Some shops write their types as identifiers: yoga_mat. Some number them: no words to ask for.
    return [
        value.replace("_", " ") if isinstance(value, str) else None
        for value in catalogue["product_type"]
    ]


def catalogue_pairs(
    catalogue: Dataset,
    taken: Collection[str],
    labels: ClassLabel,
    profile: Profile,
    per_query: int = 8,
    random_share: float = 0.25,
    vectors: np.ndarray | None = None,
) -> Dataset:
    """Up to `profile.unlabelled_pairs` pairs of catalogue queries and products, without labels.

    Each query meets `per_query` products: most of them drawn from its nearest by embedding (the
    pretrained bi-encoder), the rest at random. The teacher is less sure of near products than of
    random ones, which are nearly all irrelevant; but on the simulated shop near products did not
    make better students (chapter 4, two seeds). Queries in `taken` (the judged ones) are left out,
    so that no split meets another. Which of the nearest are drawn hangs on the order in which NumPy
    leaves them, and that on the kind of processor. `vectors` (products × H) are the embeddings of
    the catalogue's texts, where they are at hand; without them they are computed.

    Returns columns as `load` gives them, with label −1; no row where every query is taken.
    """
    rng = np.random.default_rng(profile.seed)
    wanted = -(-profile.unlabelled_pairs // per_query)
    taken = {as_seen(query) for query in taken}
    candidates = catalogue_queries(catalogue, wanted + len(taken), profile.seed)
    queries = [query for query in candidates if as_seen(query) not in taken][:wanted]
    products = features.embed(product_text(catalogue[:]), profile) if vectors is None else vectors
    asked = features.embed(queries, profile) if queries else np.empty((0, products.shape[1]))
    near = min(_NEIGHBOURS, len(catalogue))
    rows: list[int] = []
    ids: list[str] = []
    texts: list[str] = []
    for start in range(0, len(queries), 256):
        similarity = asked[start : start + 256] @ products.T
        nearest = np.argpartition(-similarity, near - 1, axis=1)[:, :near]
        for offset, neighbours in enumerate(nearest):
            drawn = rng.choice(
                neighbours, min(near, round(per_query * (1 - random_share))), replace=False
            )
            spare = rng.integers(len(catalogue), size=per_query - len(drawn))
            chosen = dict.fromkeys([*drawn.tolist(), *spare.tolist()])
            rows += chosen
            ids += [f"mined-{start + offset}"] * len(chosen)
            texts += [queries[start + offset]] * len(chosen)
    pairs = catalogue.select_columns(["product_id", *TEXT]).select(rows)
    # Without a row their types would be unknown.
    text, number = Value("string"), Value("int64")
    with apart_from_the_data():
        pairs = pairs.add_column("query_id", ids, feature=text)
        pairs = pairs.add_column("query", texts, feature=text)
        pairs = pairs.add_column("label", [-1] * len(rows), feature=number)
        pairs = pairs.cast_column("label", labels)
    return pairs.select(range(min(len(pairs), profile.unlabelled_pairs)))


def with_unlabelled(data: DatasetDict, catalogue: Dataset, profile: Profile) -> DatasetDict:
    """`data` with unlabelled pairs: its own, or mined from the catalogue where it has none."""
    if "unlabelled" in data:
        return data
    return DatasetDict({**data, "unlabelled": mined_pairs(data, catalogue, profile)})


def mined_pairs(
    data: DatasetDict, catalogue: Dataset, profile: Profile, random_share: float = 0.25
) -> Dataset:
    """The pairs of `catalogue_pairs`, made once and kept, away from all judged queries."""
    judged = [data[split] for split in ("train", "validation", "test")]
    taken = {query for split in judged for query in split["query"]}

    def make(folder: Path) -> None:
        label = data["train"].features["label"]
        pairs = catalogue_pairs(
            catalogue,
            taken,
            label,
            profile,
            random_share=random_share,
            vectors=catalogue_vectors(catalogue, profile),
        )
        # Without a row the library would write no file, and could not read that.
        pairs.save_to_disk(str(folder / "pairs"), num_shards=None if len(pairs) else 1)

    parts = [
        sorted(taken),
        data_digest(catalogue, ("product_id", *TEXT)),
        product_types(catalogue),
        profile.seed,
        profile.unlabelled_pairs,
        random_share,
    ]
    folder = stage("mined", parts, make, profile.artifacts, recipe=2)
    return load_from_disk(str(folder / "pairs"))


def catalogue_vectors(
    catalogue: Dataset, profile: Profile, vectors_of: features.Vectors = features.in_turn
) -> np.ndarray:
    """Embeddings (products × H) of a catalogue, made once for all seeds.

    `vectors_of` computes them, part by part; they are the same whoever does.
    """

    def make(folder: Path) -> None:
        load, texts = partial(features.embedder, profile), product_text(catalogue[:])
        vectors = features.all_vectors(load, texts, folder / "scratch", vectors_of)
        np.save(folder / "vectors.npy", vectors)

    parts = [data_digest(catalogue, ("product_id", *TEXT)), profile.batch_size]
    return np.load(stage("vectors", parts, make, profile.artifacts, recipe=1) / "vectors.npy")


mine = catalogue_pairs  # the former name, which chapter 4 uses
