"""Searches of simulated shoppers, ranked with and without what each of them bought.

Sizes: S shoppers of a simulated shop, P its products, Q queries, K candidates of each. Chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecomkd import metrics
from ecomkd.data.schema import GAINS
from ecomkd.data.shop import Shop


def tastes(shop: Shop) -> np.ndarray:
    """The true degree, from 0 to 1, to which each product suits each shopper, (S, P)."""
    return np.stack([shop.taste(name).to_numpy() for name in shop.shoppers["shopper_id"]])


@dataclass(frozen=True)
class Searches:
    """Queries and their judged products.

    Where a query has fewer than K of them, the last columns have gain 0 and score -inf.
    """

    products: np.ndarray
    """(Q, K) rows of the shop's products."""
    gains: np.ndarray
    """(Q, K), the gains of the labels."""
    scores: np.ndarray
    """(Q, K), the scores of a model that knows no shopper."""


def searches(shop: Shop, pairs: pd.DataFrame) -> Searches:
    """The searches of a table of judged pairs: `query_id`, `product_id`, `esci_label`, `score`.

    Queries of which no product has a gain are left out: no order of them is better than another.
    Raises ValueError for no pair, and for a pair without a query or with another label.
    """
    wrong = pairs["query_id"].isna() | ~pairs["esci_label"].isin(list(GAINS))
    if pairs.empty or wrong.any():
        raise ValueError(
            f"searches: {int(wrong.sum())} of {len(pairs)} pairs have no query or another label "
            f"than {', '.join(GAINS)}; give judged pairs."
        )
    row = pd.Series(range(len(shop.products)), shop.products["product_id"])
    query = pd.factorize(pairs["query_id"])[0]
    place = pairs.groupby(query).cumcount().to_numpy()
    shape = query.max() + 1, place.max() + 1
    products, gains, scores = np.zeros(shape, int), np.zeros(shape), np.full(shape, -np.inf)
    products[query, place] = row.loc[pairs["product_id"]]
    gains[query, place] = pairs["esci_label"].map(GAINS)
    scores[query, place] = pairs["score"]
    kept = gains.sum(axis=1) > 0
    return Searches(products[kept], gains[kept], scores[kept])


def personal(asked: Searches, taste: np.ndarray) -> np.ndarray:
    """The worth of each candidate to each shopper, (S, Q, K), as by `Shop.personal_relevance`."""
    return asked.gains * (1 + taste[:, asked.products]) / 2


def draw(
    asked: Searches, taste: np.ndarray, purchases: int, seed: int, clarity: float = 4.0
) -> np.ndarray:
    """The products that each shopper buys, (S, purchases), as rows of the shop's products.

    A candidate of any query is bought with a chance proportional to its worth to the shopper, to
    the power of `clarity`: with 1 a favourite is bought at most twice as often as a product that
    suits nobody, with 4 up to 16 times as often.
    """
    rng = np.random.default_rng(seed)
    worth = personal(asked, taste).reshape(len(taste), -1) ** clarity
    chance = worth / worth.sum(axis=1, keepdims=True)
    place = [rng.choice(worth.shape[1], size=purchases, p=own) for own in chance]
    return asked.products.ravel()[np.array(place).reshape(len(taste), purchases)]


def match(products: pd.DataFrame, bought: np.ndarray, prior: float) -> np.ndarray:
    """The degree to which each product fits the purchases of each shopper, (S, P).

    It is the sum of the logarithms of the lift of the product's department and, within that
    department, of its brand, and of how much nearer its price is to the shopper's level than to the
    middle, where prices are places among those of a type. Shares and level are shrunk by `prior`
    average purchases. Where nothing was bought it is 0.

    Args:
        products: `department`, `product_brand`, `product_type` and `price_cents`.
        bought: (S, n) rows of `products`.
    """
    department, brand = (
        pd.factorize(products[name])[0] for name in ("department", "product_brand")
    )
    prices = products.groupby("product_type")["price_cents"]
    place = ((prices.rank() - 0.5) / prices.transform("size")).to_numpy()
    sold, sold_brands = np.bincount(department), np.bincount(brand)
    home = np.zeros(len(sold_brands), int)
    home[brand] = department
    share, brand_share = sold / sold.sum(), sold_brands / sold[home]
    shoppers, n = bought.shape
    row = np.repeat(np.arange(shoppers), n)
    counts = np.zeros((shoppers, len(sold)))
    np.add.at(counts, (row, department[bought].ravel()), 1)
    brands = np.zeros((shoppers, len(sold_brands)))
    np.add.at(brands, (row, brand[bought].ravel()), 1)
    by_department = np.log((counts / share + prior) / (n + prior))
    by_brand = np.log((brands / brand_share + prior) / (counts[:, home] + prior))
    level = (place[bought].sum(axis=1) + prior / 2) / (n + prior)
    nearer = np.abs(place - 0.5) - np.abs(place - level[:, None])
    return by_department[:, department] + by_brand[:, brand] + nearer


def per_shopper(asked: Searches, taste: np.ndarray, fit: np.ndarray, weight: float) -> np.ndarray:
    """The mean nDCG@10 of each shopper over all queries, (S,), with `personal` worth as the gain.

    Candidates are ordered by score + `weight` · `fit`, where `fit` (S, P) is what `match` gives.
    """
    order = np.argsort(-(asked.scores + weight * fit[:, asked.products]), axis=-1, kind="stable")
    worth = personal(asked, taste)
    ranked = np.take_along_axis(worth, order, axis=-1)
    return metrics.ndcg_of_gains(ranked, worth).mean(axis=1)
