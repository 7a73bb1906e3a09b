"""What every query of a simulated shop finds in the whole catalogue, not among its candidates only.

Real judgments are few; in a simulated shop the rule behind them labels any pair. Chapter 8.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from ecomkd.config import Profile
from ecomkd.data import shop


def judgments(profile: Profile, split: str = "test") -> pd.DataFrame:
    """All products of the profile's shop that are E, S or C for a query of a split.

    The columns are `query_id`, `product_id` and `esci_label`; a pair that is not in it is I. It is
    about the first 20,000 products, from which the shop draws its judgments. Raises ValueError
    where the split has no query.
    """
    made = shop.generate(
        profile.seed,
        profile.products,
        profile.queries,
        profile.judged_per_query,
        profile.unlabelled_pairs,
    )
    queries = made.queries[made.queries["split"] == split]
    if queries.empty:
        there = ", ".join(made.queries["split"].unique())
        raise ValueError(f"The shop has no queries in split {split!r}: choose one of {there}.")
    # The generator is frozen by its hash, so its own rule is used from where it stands.
    assortment = shop._assortment(profile.seed, profile.products)
    pool = shop._Pool(made.products[: shop.POOL], assortment)
    index = {kind.key: number for number, kind in enumerate(assortment.types)}
    ids = made.products["product_id"].to_numpy()
    rows = []
    for query in queries.itertuples():
        kind = index[str(query.product_type)]
        asked = shop._Query(
            str(query.query), str(query.query_kind), kind, json.loads(str(query.asked))
        )
        near = assortment.relation[kind][pool.type_index] != shop.UNRELATED
        for product in np.flatnonzero(near):
            label = pool.label(asked, int(product))
            if label != "I":
                rows.append((query.query_id, ids[product], label))
    return pd.DataFrame(rows, columns=["query_id", "product_id", "esci_label"])
