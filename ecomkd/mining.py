"""Unlabelled pairs for a shop without a query log: queries from its catalogue, near neighbours."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from datasets import ClassLabel, Dataset
from sentence_transformers import SentenceTransformer

from ecomkd import models
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT, normalise_query
from ecomkd.data.sources import product_text

_NEIGHBOURS = 40
"""Nearest products from which a query's candidates are drawn: the near ones are the hard ones."""


def embed(texts: Sequence[str], profile: Profile, name: str = "minilm") -> np.ndarray:
    """Unit vectors (N, H) of texts under a pretrained sentence encoder, untrained here.

    A text that stands twice is encoded once.
    """
    encoder = SentenceTransformer(
        models.checkpoint(name), device=str(models.device(profile)), local_files_only=True
    )
    return encode(encoder, texts, batch_size=profile.batch_size, normalize_embeddings=True)


def encode(encoder: SentenceTransformer, texts: Sequence[str], **options) -> np.ndarray:
    """Vectors (N, H) of texts, each encoded once however often it stands there.

    `options` go to `SentenceTransformer.encode`.
    """
    distinct = list(dict.fromkeys(texts))
    vectors = encoder.encode(distinct, show_progress_bar=False, **options)
    row = {text: index for index, text in enumerate(distinct)}
    return vectors[[row[text] for text in texts]]


def catalogue_queries(catalogue: Dataset, count: int, seed: int) -> list[str]:
    """Up to `count` distinct queries made of words that the catalogue itself has.

    In equal parts: a product type (where the catalogue has `product_type`), a type with a brand or
    a colour, and a phrase of two to four words of a title that starts near its beginning, where
    sellers say what the thing is. Duplicates in normal form are left out.
    """
    rng = np.random.default_rng(seed)
    columns = {name: list(catalogue[name]) for name in catalogue.column_names}
    # Some shops write their types as identifiers: yoga_mat.
    types = [kind.replace("_", " ") for kind in columns.get("product_type", [])]
    queries: dict[str, None] = {}
    for _ in range(20 * count):
        if len(queries) == count:
            break
        row = int(rng.integers(len(catalogue)))
        words = columns["product_title"][row].replace(",", " ").replace("|", " ").split()
        brand, colour = columns["product_brand"][row], columns["product_color"][row]
        kind = rng.integers(3)
        if kind == 0 and types:
            query = types[row]
        elif kind == 1 and types:
            query = f"{colour if colour and rng.random() < 0.5 else brand} {types[row]}"
        else:
            length = int(rng.integers(2, 5))
            start = int(rng.integers(0, max(1, min(4, len(words) - length + 1))))
            query = " ".join(words[start : start + length])
        if query := normalise_query(query):
            queries[query] = None
    return list(queries)


def mine(
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
    pretrained bi-encoder), the rest at random. Random products are nearly all irrelevant, and the
    teacher's certainty about them teaches little. Queries in `taken` (the judged ones) are left
    out, so that no split meets another. `vectors` (products × H) are the embeddings of the
    catalogue's texts, where they are at hand; without them they are computed.

    Returns columns as `load` gives them, with label −1.
    """
    rng = np.random.default_rng(profile.seed)
    wanted = -(-profile.unlabelled_pairs // per_query)
    taken = {normalise_query(query) for query in taken}
    candidates = catalogue_queries(catalogue, wanted + len(taken), profile.seed)
    queries = [query for query in candidates if query not in taken][:wanted]
    products = embed(product_text(catalogue[:]), profile) if vectors is None else vectors
    asked = embed(queries, profile)
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
    pairs = pairs.add_column("query_id", ids).add_column("query", texts)
    pairs = pairs.add_column("label", [-1] * len(rows)).cast_column("label", labels)
    return pairs.select(range(min(len(pairs), profile.unlabelled_pairs)))
