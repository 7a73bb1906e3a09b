"""Catalogues of any size for benchmarks of engines: products, queries, and vectors of tokens.

Products and queries are the simulated shop's. Vectors are those of a static student that nobody has
trained: the input embeddings of the book's checkpoint on 96 principal components. No trained one is
needed, because what is measured here does not depend on its training: the speed of an engine, its
memory, and its recall against an exact search of the same vectors, as long as the table is one of
real tokens, whose texts lie together or apart as texts of products do. How good the products are
that a search finds is measured elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from tokenizers import Tokenizer

from ecomkd import artifacts, models
from ecomkd.config import artifact_folder
from ecomkd.data import shop

SEED = 900
"""Of the shop, and of what is drawn beside it."""
WIDTH = 96
"""Numbers in the vector of a token, as a static student has them."""
_POOL = 10_000
"""Products that queries are drawn about. So large a shop sells all types, as any larger one."""


def texts(products: int) -> Dataset:
    """The simulated shop's products, memory-mapped: the contract's columns and further ones.

    Further columns are product_type, department, attributes (JSON) and price_cents of the shop,
    `price` (price_cents / 100, float) and `stock` (an integer from 0 to 99, drawn from the seed).
    Memory does not grow with `products`; what was written once is kept in the artefact folder.
    """

    def make(folder: Path) -> None:
        shop.write(folder / "shop", products, SEED, queries=20, unlabelled_pairs=20)
        rng = np.random.default_rng(SEED)
        rows = pq.ParquetFile(folder / "shop" / "products.parquet")
        writer = None
        for batch in rows.iter_batches(shop.CHUNK):
            table = pa.Table.from_batches([batch])
            price = table["price_cents"].to_numpy() / 100
            table = table.append_column("price", pa.array(price, pa.float64()))
            stock = rng.integers(0, 100, len(table))
            table = table.append_column("stock", pa.array(stock, pa.int64()))
            if writer is None:
                writer = pq.ParquetWriter(folder / "products.parquet", table.schema)
            writer.write_table(table)
        writer.close()
        for file in (folder / "shop").iterdir():
            file.unlink()
        (folder / "shop").rmdir()

    parts = [products, SEED, shop.generator_hash()]
    folder = artifacts.stage("engine_catalogue", parts, make, artifact_folder())
    cache = artifact_folder() / "engine_catalogue_arrow"
    return Dataset.from_parquet(str(folder / "products.parquet"), cache_dir=str(cache))


def queries(number: int) -> list[str]:
    """Different queries of the simulated shop, in the order in which they are drawn."""
    found = shop.generate(SEED, _POOL, queries=number, judged_per_query=2, unlabelled_pairs=20)
    return list(dict.fromkeys(found.judgments["query"]))


def static() -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer of the book's checkpoint, and a vector of each token (V, 96), float32.

    They are the rows of its input embeddings on their first principal components, in the order of
    the tokens' numbers. The table is kept in the artefact folder.
    """
    source = Path(models.checkpoint("minilm"))

    def make(folder: Path) -> None:
        rows = load_file(str(source / "model.safetensors"))
        wide = rows["embeddings.word_embeddings.weight"].astype(np.float32)
        table = PCA(WIDTH, random_state=SEED).fit_transform(wide).astype(np.float32)
        save_file({"embedding.weight": table}, str(folder / "model.safetensors"))

    digest = artifacts.file_digest(source / "model.safetensors")
    folder = artifacts.stage("engine_tokens", [WIDTH, SEED, digest], make, artifact_folder())
    pieces = Tokenizer.from_file(str(source / "tokenizer.json"))
    pieces.no_truncation()
    pieces.no_padding()
    return pieces, load_file(str(folder / "model.safetensors"))["embedding.weight"]
