"""Sessions of clicks in the simulated shop, with a stated model of shoppers. Chapter 14.

Nothing here is real: what a shopper wants, and how lasting that is, are settings. Sizes: I
products, K places of a page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ecomkd.data.baskets import Baskets

VISITS = 1 / 7
"""The chance that a shopper comes on a day, once."""
FAVOURITES = 5
"""How many product types a shopper comes back for."""
LIKED = 0.3
"""The chance that a shopper likes a brand."""
OTHER_BRAND = 0.5
"""The gain of a wanted type from a brand that is not liked; with a liked brand it is 1."""
PAGE, WANTED = 10, 5
"""Places of a page, and how many of them have products of the wanted type while there are some."""
BUYS, LEAVES = 0.2, 0.2
"""The chance to buy, after a page with a click on the wanted type, and to leave after any page."""

STEP, REST = 7, 28
"""Days that a click, and the break before a session, take on a clock of clicks."""

Click = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""From the gains (K,) of a page, best place first, to which of its products are clicked (K,)."""


@dataclass
class _Shopper:
    favourites: np.ndarray
    liked: np.ndarray


def simulate(
    products: pd.DataFrame, click: Click, shoppers: int, days: int, lasting: float, seed: int
) -> Baskets:
    """The clicks of all sessions, in their order; a basket is a session, a day has whole ones.

    A shopper's lasting taste is FAVOURITES product types and the brands that he or she likes. A
    session wants one type: with the chance `lasting` a favourite, else any, each as often as the
    shop has products of it. The shopper walks to that type's department and is shown pages. Their
    products are drawn evenly, WANTED of the type and the rest of the department, in a drawn order,
    each once a session: no recommender has a part in them. A session ends with a purchase, when
    the shopper has had enough, or with the department's products.

    Args:
        products: those of the simulated shop, with `product_id`, `product_title`, `product_type`,
            `department` and `product_brand`.
        click: how a page is clicked, such as the position-based model of chapter 19.
        lasting: 0 to 1.

    Returns:
        Baskets whose events have a further column, `bought`. Of one seed, shoppers have the same
        tastes whatever else is asked.

    Raises ValueError for a share outside 0 to 1, and where nobody clicked anything.
    """
    if not 0 <= lasting <= 1:
        raise ValueError(f"lasting={lasting} is no share: give a number from 0 to 1.")
    kinds, brands, departments = (
        pd.factorize(products[name])[0] for name in ("product_type", "product_brand", "department")
    )
    of_kind = [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]
    beside = [
        np.flatnonzero((departments == departments[own[0]]) & (kinds != kind))
        for kind, own in enumerate(of_kind)
    ]
    people = _shoppers(kinds, brands.max() + 1, shoppers, seed)
    rng, rows, number = np.random.default_rng([seed, 1]), [], 0
    for day in range(days):
        for user in np.flatnonzero(rng.random(shoppers) < VISITS):
            own = people[user].favourites if rng.random() < lasting else kinds
            kind = rng.choice(own)
            gains = np.where(people[user].liked[brands], 1.0, OTHER_BRAND) * (kinds == kind)
            clicked = _session(gains, of_kind[kind], beside[kind], click, rng)
            rows += [(user, item, number, day, bought) for item, bought in clicked]
            number += 1
    if not rows:
        raise ValueError("Nobody clicked anything: give more shoppers or more days.")
    columns = ["user", "item", "basket", "day", "bought"]
    return _baskets(pd.DataFrame(rows, columns=columns), products)


def _shoppers(kinds: np.ndarray, brands: int, shoppers: int, seed: int) -> list[_Shopper]:
    """Lasting tastes; a type is as likely to be a favourite as the shop has products of it."""
    rng, share = np.random.default_rng([seed, 0]), np.bincount(kinds) / len(kinds)
    people = []
    for _ in range(shoppers):
        favourites = rng.choice(len(share), FAVOURITES, replace=False, p=share)
        people.append(_Shopper(favourites, rng.random(brands) < LIKED))
    return people


def _session(
    gains: np.ndarray, wanted: np.ndarray, beside: np.ndarray, click: Click, rng
) -> list[tuple[int, bool]]:
    """The products that are clicked, in order, and whether each is bought."""
    wanted, beside = rng.permutation(wanted), rng.permutation(beside)
    clicked: list[tuple[int, bool]] = []
    while (few := min(WANTED, len(wanted))) + len(beside) >= PAGE:
        page = rng.permutation(np.concatenate([wanted[:few], beside[: PAGE - few]]))
        wanted, beside = wanted[few:], beside[PAGE - few :]
        chosen = page[click(gains[page], rng)]
        good = chosen[gains[chosen] > 0]
        bought = int(rng.choice(good)) if len(good) and rng.random() < BUYS else None
        clicked += [(int(item), item == bought) for item in chosen]
        if bought is not None or rng.random() < LEAVES:
            break
    return clicked


def _baskets(events: pd.DataFrame, products: pd.DataFrame) -> Baskets:
    """The clicks with rows of those products and shoppers that have any."""
    known, item = np.unique(events["item"], return_inverse=True)
    people, user = np.unique(events["user"], return_inverse=True)
    events = events.assign(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        basket=pd.factorize(events["basket"])[0].astype(np.int32),
        day=events["day"].astype(np.int32),
        quantity=np.float32(1),
        price=(products["price_cents"].to_numpy(np.float32) / 100)[events["item"]],
    )
    items = products.iloc[known].reset_index(drop=True)
    items = items.assign(item_id=items["product_id"], text=items["product_title"])
    return Baskets(events, items, pd.DataFrame({"user_id": people}), {})


def on_clicks(log: Baskets) -> Baskets:
    """The same clicks on each shopper's own clock: a click takes STEP days, a break REST.

    A student with scales of weeks reads such a session as it reads weeks of groceries, and the
    `HORIZON` days that it learns to foresee are the next few clicks. Shoppers begin on days that
    differ by up to six steps. What comes after the day that four of five shoppers reach is left
    out. Shoppers are drawn independently of each other, so who clicks first means nothing.
    """
    events = log.events.sort_values(["user", "basket"], kind="stable")
    step = pd.Series(np.where(events.duplicated("basket"), STEP, REST), events.index)
    day = step.groupby(events["user"]).cumsum() - REST + STEP * (events["user"] % 7)
    end = day.groupby(events["user"]).max().quantile(0.2)
    events = events.assign(day=day.astype(np.int32))[day < end]
    events = events.sort_values(["day", "user"], kind="stable", ignore_index=True)
    return replace(log, events=events)
