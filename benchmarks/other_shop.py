"""A recommender that learns in another shop, of which few baskets are known.

Sizes: U users, I items, E the width of an encoder's vectors, T distinct texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ecomkd import recommend, transfer
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.keys import identity, settings_of
from ecomkd.runtime import seeded

RATES = (4e-3, 1e-3)
"""The learning rates that a recommender tries in a shop of which it may know little."""
STEPS = 100
"""The number of steps that a recommender takes at least, however few its baskets are."""


def told_by(baskets: Baskets, users: np.ndarray) -> Baskets:
    """The shop with the purchases of `users` (rows of `Baskets.users`) alone.

    The tables of users and items stay what they were.
    """
    return replace(baskets, events=baskets.events[baskets.events["user"].isin(users)])


def items_of(
    baskets: Baskets, users: np.ndarray, vectors: np.ndarray, profile: Profile, width: int = 64
) -> recommend.Items:
    """All items of the shop, with what the baskets of `users` tell of sales, prices and buyers.

    Without a user, nothing but the items' texts is known.

    Args:
        users: rows of `Baskets.users`.
        vectors: (T, E), an encoder's vectors of the distinct texts.
        width: in how many numbers the items tell their buyers apart.
    """
    if len(users):
        known = told_by(baskets, users)
        return recommend.Items(known, vectors, recommend.FIRST, width, profile)
    return _UnsoldItems(baskets, vectors, recommend.FIRST, width, profile)


class _UnsoldItems(recommend.Items):
    """The items of a shop without a known basket: nothing but their texts is known."""

    def __init__(
        self, baskets: Baskets, vectors: np.ndarray, first: int, width: int, profile: Profile
    ):
        super().__init__(baskets, vectors, first, width, profile)
        self.key = [*self.key, "unsold"]
        self.baskets = replace(baskets, events=baskets.events[:0])
        nothing = tuple(torch.zeros_like(table) for table in self.on(0))
        self.on = lambda day: nothing


def learn(
    kind: type[recommend.Recommender],
    items: recommend.Items,
    start: int,
    profile: Profile,
    source: Path | None = None,
    rates: Sequence[float] = RATES,
) -> Path:
    """The folder of a recommender that is fitted to the baskets of `items` before day `start`.

    Given the folder of a `source`, another shop's recommender of the same kind, it begins with the
    `transfer.PARTS` of that. It is trained as `recommend.HYPERPARAMETERS` say, but on all items
    that were sold, for `STEPS` steps or more, and once with each of the learning `rates`. The one
    with the highest recall@10 from day `start` on is kept, and that may be what training began
    with, for few baskets can spoil more than they teach. Training is in float32, as that of
    `recommend.train`. The recommender is made once and then found among the artefacts.

    Raises ValueError where no customer is known to have bought both before and after a day.
    """
    profile = replace(profile, precision="fp32")
    passes = recommend.HYPERPARAMETERS[kind]["passes"]
    moved = source and [list(transfer.PARTS), identity(source)]

    def make(folder: Path) -> None:
        known = items.baskets
        rows = recommend.occasions(known, recommend.FIRST, start, recommend.GROUP, profile.seed)
        if not len(rows):
            raise ValueError(
                f"There is no customer who bought before and after a day from {recommend.FIRST} "
                f"to {start - HORIZON}, so nothing can be learnt: add baskets, or use `untrained`."
            )
        sold = torch.from_numpy(np.unique(known.between(0, start)["item"])).to(items.device)
        best = untrained(kind, items, profile, source)
        shelf = recommend.Shelf(best, recommend.BasketCollator(known), start)
        rank = recommend.network(shelf)
        highest = recommend.evaluate(rank, known, start)["recall"]
        for rate in rates:
            model = untrained(kind, items, profile, source).train()
            log = recommend.fit(
                model,
                rows,
                sold,
                start,
                profile,
                folder / f"{rate}",
                passes=passes,
                learning_rate=rate,
                least=STEPS,
            )
            found = max(entry.get("eval_recall", 0.0) for entry in log)
            if found > highest:
                best, highest = model, found
        save_file(best.state_dict(), folder / "model.safetensors")

    key = [
        kind.__name__,
        items.key,
        start,
        [passes, list(rates), STEPS],
        settings_of(profile),
        moved,
    ]
    return stage("moved_recommender", key, make, profile.artifacts, recipe=1)


def untrained(
    kind: type[recommend.Recommender],
    items: recommend.Items,
    profile: Profile,
    source: Path | None = None,
    parts: Sequence[str] = transfer.PARTS,
) -> recommend.Recommender:
    """A recommender in eval mode that has learnt nothing in this shop.

    Its weights are drawn from the profile's seed. Given the folder of a `source`, another shop's
    recommender of the same kind, the `parts` of that replace them.
    """
    with seeded(profile.seed):
        model = kind(items)
    if source is not None:
        transfer.move(model, load_file(source / "model.safetensors"), parts)
    return model.to(items.device).eval()
