"""Why a household is shown an item that it never bought: what each purchase adds to the score.

A reason is an item that the household has bought, with all its purchases. The tables of the shop
(sales, prices, buyers) stay as they are. Sizes: S items that the household has bought, M versions
of its history, K items that are scored, W a network's width. Chapter 17.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.explain.purchases", "explain"):
    import torch

from ecomkd.recommend import evaluation, networks
from ecomkd.recommend.purchases import SCALES

_VERSIONS = 64
_RIVALS = 500
"""New items that a set of purchases is sought against; whoever is behind them hardly comes up."""


class Household:
    """One user on a shelf's day: scores of new items with a part of the history alone.

    Args:
        shelf: a network on a day.
        user: a row of `Baskets.users`, who has bought something before the day.

    Attributes:
        seen: the items (S,) that the user has bought, in order.
        new: the items that the user has not bought; `evaluation.DEPTH` of them are shown.
        labels: for each of `seen`, the labels of its purchases in `Baskets.events`.

    Raises ValueError for a user who has not bought two items before the day.
    """

    def __init__(self, shelf: networks.Shelf, user: int):
        self.shelf, self.user = shelf, int(user)
        baskets = shelf.collator.baskets
        past = baskets.between(0, shelf.day)
        own = past[past["user"] == user]
        self.seen = np.unique(own["item"])
        if len(self.seen) < 2:
            raise ValueError(
                f"User {user} has bought {len(self.seen)} items before day {shelf.day}: reasons "
                "need two or more; take another user."
            )
        self.own = own
        self.labels = [own.index[own["item"] == item].to_numpy() for item in self.seen]
        self.new = np.setdiff1d(np.arange(len(baskets.items)), self.seen)
        self.whole = np.ones((1, len(self.seen)), bool)

    def tastes(self, kept: np.ndarray) -> torch.Tensor:
        """The tastes (M, W) of M versions of the history, each with what is true in `kept` (M, S).

        A student of sums answers in closed form, from the sums of what is kept. Any other network
        reads each version anew. Raises ValueError for another shape, or for a version that keeps
        nothing.
        """
        if isinstance(self.shelf.model, networks.DecayedMeans):
            return self._by_sums(self._versions(kept))
        return self.read_anew(kept)

    def _versions(self, kept: np.ndarray) -> np.ndarray:
        kept = np.asarray(kept, bool)
        if kept.ndim != 2 or kept.shape[1] != len(self.seen):
            raise ValueError(
                f"tastes: kept is {kept.shape}; give (versions, {len(self.seen)}), one column an "
                "item of `seen`."
            )
        if not kept.any(axis=1).all():
            raise ValueError("tastes: a version keeps no purchase; leave one in each.")
        return kept

    def _by_sums(self, kept: np.ndarray) -> torch.Tensor:
        """Σ w v / Σ w over what is kept, for each speed of forgetting, through the last layers.

        What is kept is added up. To subtract what is gone from the sums of all is the same, but
        loses all digits where the latest purchases are gone and the others are a year older.
        """
        age = self.shelf.day - self.own["day"].to_numpy()
        age = age - age.min()  # A factor that the quotient does not see.
        place = np.searchsorted(self.seen, self.own["item"])
        vectors = self.shelf.read[torch.from_numpy(self.seen)].cpu().double()
        held, parts = torch.from_numpy(kept).double(), []
        for scale in SCALES:
            weight = torch.from_numpy(np.bincount(place, np.exp(-age / scale), len(self.seen)))
            parts.append((held * weight) @ vectors / (held @ weight)[:, None])
        with networks.at_rest(self.shelf.model) as model:
            return model.mix(torch.cat(parts, dim=1).float().to(model.items.device))

    def read_anew(self, kept: np.ndarray) -> torch.Tensor:
        """The tastes (M, W) as the network itself makes them from each version's purchases.

        Raises as `tastes` does.
        """
        kept, collator, found = self._versions(kept), copy.copy(self.shelf.collator), []
        days, items = (self.own[name].to_numpy() for name in ("day", "item"))
        place = np.searchsorted(self.seen, items)
        for part in np.split(kept, range(_VERSIONS, len(kept), _VERSIONS)):
            there = [version[place] for version in part]
            collator.days = [days[own] for own in there]
            collator.items = [items[own] for own in there]
            row = {"day": self.shelf.day, "users": np.arange(len(part)), "labelled": False}
            with networks.at_rest(self.shelf.model) as model:
                batch = networks.moved(collator([row]), model.items.device)
                found.append(model.taste(batch, self.shelf.read.__getitem__))
        return torch.cat(found)

    def scores(self, kept: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Log-odds (M, K) of new items (K,) for M versions of the history, `kept` (M, S).

        Raises ValueError for an item that the user has bought: its score is a habit's, and for a
        row that is no item.
        """
        items, last = np.asarray(items, int), len(self.shelf.columns) - 1
        if ((items < 0) | (items > last)).any():
            raise ValueError(f"scores: {items.tolist()} are not all items; give rows 0 to {last}.")
        old = np.intersect1d(items, self.seen)
        if len(old):
            raise ValueError(
                f"scores: user {self.user} has bought item {old[0]} before; ask for new items."
            )
        return self._of(self.tastes(kept), items)

    def _of(self, tastes: torch.Tensor, items: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(items)
        found = tastes @ self.shelf.offers[rows].T + self.shelf.demand[rows]
        return found.double().cpu().numpy()

    def shown(self, kept: np.ndarray | None = None, anew: bool = False) -> np.ndarray:
        """The new items that are shown, best first: (DEPTH,), or (M, DEPTH) for versions (M, S)."""
        versions = self.whole if kept is None else np.asarray(kept, bool)
        tastes = self.read_anew(versions) if anew else self.tastes(versions)
        found = self.new[evaluation.best(self._of(tastes, self.new))]
        return found[0] if kept is None else found

    def leave_one_out(self, items: np.ndarray) -> np.ndarray:
        """How much the scores of new items (K,) fall without each item bought, (S, K)."""
        count = len(self.seen)
        found = self.scores(np.vstack([self.whole, ~np.eye(count, dtype=bool)]), items)
        return found[0] - found[1:]


@dataclass(frozen=True)
class Counterfactual:
    """Items without whose purchases a new item would not be shown."""

    item: int
    gone: np.ndarray
    """The items that were bought, of which none can be given back."""
    events: np.ndarray
    """The labels of their purchases in `Baskets.events`: the receipts."""


def counterfactual(household: Household, item: int, most: int = 10) -> Counterfactual | None:
    """A small set of items bought without which `item` is not shown, or None.

    It grows by the item whose purchases hold the place most, one by one, up to `most`; then those
    that are not needed are given back. One that is enough alone is always found; a set of two or
    more may not be the smallest.

    Raises ValueError where the item is not shown in the first place.
    """
    if item not in household.shown():
        raise ValueError(
            f"counterfactual: item {item} is not shown to user {household.user}; take one of "
            "`shown()`."
        )
    others = household.new[household.new != item]
    if len(others) < evaluation.DEPTH:
        return None  # So few are new that it is shown whatever was bought.
    near = evaluation.best(household.scores(household.whole, others), depth=_RIVALS)[0]
    order = np.append(others[near], item)

    def margins(kept: np.ndarray) -> np.ndarray:
        """How far the item is above the last place (M,). Below 0 it is not shown: that some rivals
        are left out can only hide that it is not."""
        found = household.scores(kept, order)
        last = np.partition(found[:, :-1], -evaluation.DEPTH, axis=1)[:, -evaluation.DEPTH]
        return found[:, -1] - last

    kept = household.whole.copy()
    for _ in range(min(most, len(household.seen) - 1)):
        left = np.flatnonzero(kept[0])
        tried = np.repeat(kept, len(left), axis=0)
        tried[np.arange(len(left)), left] = False
        found = margins(tried)
        kept = tried[[found.argmin()]]
        if found.min() < 0:
            break
    else:
        return None
    for place in np.flatnonzero(~kept[0]):
        given = kept.copy()
        given[0, place] = True
        if margins(given)[0] < 0:
            kept = given
    gone = np.flatnonzero(~kept[0])
    events = np.sort(np.concatenate([household.labels[place] for place in gone]))
    return Counterfactual(int(item), household.seen[gone], events)


def still_shown(household: Household, item: int, gone: Sequence[int]) -> bool:
    """Whether `item` is among those shown when the purchases of the items `gone` are not there.

    The network reads the rest of the history anew and ranks all new items: nothing of this is taken
    from the method that found the reason. Raises ValueError for an `item` that is not new to the
    user, for one of `gone` that was never bought, and where nothing would be left.
    """
    if item not in household.new:
        raise ValueError(
            f"still_shown: item {item} is not new to user {household.user}; give one of `new`."
        )
    unknown = np.setdiff1d(gone, household.seen)
    if len(unknown):
        raise ValueError(
            f"still_shown: user {household.user} never bought item {unknown[0]}; give items of "
            "`seen`."
        )
    kept = ~np.isin(household.seen, gone)[None]
    return bool(item in household.shown(kept, anew=True)[0])


def sentence(household: Household, found: Counterfactual, names: pd.Series) -> str:
    """What a shopper can read: `names` has a name for each row of the shop's items.

    Raises ValueError where a name is missing.
    """
    asked = [found.item, *found.gone.tolist()]
    if not names.index.isin(asked).sum() >= len(set(asked)) or names.loc[asked].isna().any():
        raise ValueError("sentence: an item has no name; give `names` for all rows of the items.")
    counts = pd.Series(list(map(len, household.labels)), household.seen)[found.gone]
    counts = counts.groupby(names.loc[found.gone].to_numpy(), sort=False).sum()
    parts = [f"{name} ({count}×)" for name, count in counts.items()]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Had you not bought {listed}, {names[found.item]} would not be shown."


def attention_to_purchases(household: Household) -> np.ndarray:
    """How much attention a `BasketTransformer` pays to each item bought, (S,).

    In the last layer, the mean over heads and over the baskets that ask; a basket's share is parted
    equally among its items. Raises ValueError for a network without attention.
    """
    model, shelf = household.shelf.model, household.shelf
    if not isinstance(model, networks.BasketTransformer):
        raise ValueError(
            f"attention_to_purchases: a {type(model).__name__} has no attention; give a "
            "BasketTransformer's household."
        )
    row = {"day": shelf.day, "users": np.array([household.user]), "labelled": False}
    batch, caught = networks.moved(shelf.collator([row]), model.items.device), {}
    layer = model.encoder.layers[-1]

    def catch(_: object, inputs: tuple) -> None:
        caught["states"] = inputs[0]

    hook, training = layer.register_forward_pre_hook(catch), model.training
    try:
        with torch.no_grad():  # the fast path of inference passes hooks by
            model.eval()
            model.taste(batch, shelf.read.clone().__getitem__)
            states = layer.norm1(caught["states"])
            mask = batch["mask"]
            seen = layer.self_attn(
                states, states, states, key_padding_mask=~mask, need_weights=True
            )[1][0]
    finally:
        hook.remove()
        model.train(training)
    of_basket = seen[mask[0]].mean(dim=0).cpu().double().numpy()
    slots, items = batch["slot"].cpu().numpy(), batch["item"].cpu().numpy()
    share = of_basket[slots] / np.bincount(slots, minlength=len(of_basket))[slots]
    return np.bincount(np.searchsorted(household.seen, items), share, len(household.seen))
