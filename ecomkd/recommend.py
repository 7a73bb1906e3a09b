"""Personalised recommendation: what a household will buy next, from its baskets so far.

A ranker is a function from rows of users (U,) and a flag to rows of items (U, K), the best first.
With the flag, items that a user has bought before are left out. A scorer is a function from rows of
users (U,) and of items (K,) to scores (U, K). Sizes: U users, I items, K shown or asked for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from torch import nn
from transformers import Trainer

from ecomkd import distill, losses, models, pipeline
from ecomkd.artifacts import digest, stage
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets

DEPTH = 10
BUYERS = 5
"""So many people have bought an item that a network is trained on."""
HABITS = 9
FIRST = 84
"""Days that are history alone: the first day that a network learns from comes after them."""
GROUP = 128
"""Users of a batch, all on one day."""
SCALES = (14.0, 56.0, 182.0)
"""Days in which a decayed count falls to 1/e."""
ONCE = 60.0
"""Days between two purchases, for an item that was bought once."""

Ranker = Callable[[np.ndarray, bool], np.ndarray]
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SPANS = (7, 28, 112)  # days, of sales
_BASKETS = 48  # the latest visits, which a transformer reads
_AGES = 36
_PARTS = ("slot", "item", "age", "mask", "user", "seen", "habit", "buyer", "bought")


# What is bought, and how well a ranking foresaw it ------------------------------------------------


def history(baskets: Baskets, day: int, scale: float | None = None) -> sp.csr_matrix:
    """In how many baskets before `day` each user had each item, (U, I), float32.

    With a `scale` in days a basket of age a counts exp(-a / scale).
    """
    past = baskets.between(0, day)
    weight = np.ones(len(past)) if scale is None else np.exp((past["day"] - day) / scale)
    shape = len(baskets.users), len(baskets.items)
    return sp.csr_matrix((weight, (past["user"], past["item"])), shape, dtype=np.float32)


def buyers_of(past: sp.csr_matrix) -> np.ndarray:
    """How many users have bought each item, (I,), from a `history`."""
    return np.bincount(past.indices, minlength=past.shape[1])


def targets(baskets: Baskets, start: int, days: int = HORIZON) -> dict[int, np.ndarray]:
    """The distinct items that each user buys from day `start` on, for as many days, in order."""
    bought = baskets.between(start, start + days).groupby("user")["item"]
    return {int(user): np.unique(items) for user, items in bought}


def first_sold(baskets: Baskets, start: int, days: int = HORIZON) -> np.ndarray:
    """The items whose first purchase by anyone falls into the period: nothing but text is known."""
    first = baskets.events.groupby("item")["day"].min()
    return first.index[first.between(start, start + days - 1)].to_numpy()


def evaluate(rank: Ranker, baskets: Baskets, start: int, depth: int = DEPTH) -> dict:
    """How well a ranker that knows the days before `start` foresees the `HORIZON` days after it.

    All items compete, none is sampled. Users who bought nothing before `start` are left out: there
    is nothing to personalise. `recall` divides by min(depth, number of targets), so that a perfect
    ranking has 1; `ndcg` has gain 1 for each target and the best order of as many.

    Returns:
        `per_user`, a frame indexed by user with `recall`, `ndcg`, `repeats` (the share of what is
        shown that the user has bought before) and, for items new to the user alone, ranked without
        the old ones, `new_recall` and `new_ndcg`, NaN for a user without such a target; the means
        of these five; `coverage`, the share of all items that are shown to anyone; `novelty`, the
        mean of -log2 of the share of users who have bought what is shown; `n_without_history`.
    """
    past = history(baskets, start)
    wanted = targets(baskets, start)
    known = np.diff(past.indptr) > 0
    users = np.array([user for user in wanted if known[user]])
    shown, fresh = rank(users, False)[:, :depth], rank(users, True)[:, :depth]
    buyers = buyers_of(past)
    rows = []
    for user, top, new_top in zip(users, shown, fresh, strict=True):
        old = past.indices[past.indptr[user] : past.indptr[user + 1]]
        new = np.setdiff1d(wanted[user], old)
        recall, ndcg = _hits(top, wanted[user])
        new_recall, new_ndcg = _hits(new_top, new) if len(new) else (np.nan, np.nan)
        rows.append((recall, ndcg, np.isin(top, old).mean(), new_recall, new_ndcg))
    columns = ["recall", "ndcg", "repeats", "new_recall", "new_ndcg"]
    per_user = pd.DataFrame(rows, pd.Index(users, name="user"), columns)
    share = (buyers[shown] + 1) / (len(baskets.users) + 1)
    return {
        "per_user": per_user,
        **per_user.mean().to_dict(),
        "coverage": len(np.unique(shown)) / len(baskets.items),
        "novelty": float(-np.log2(share).mean()),
        "n_without_history": len(wanted) - len(users),
    }


def evaluate_cold(score: Scorer, baskets: Baskets, start: int, depth: int = DEPTH) -> pd.Series:
    """Recall among the items that are first sold in the `HORIZON` days from `start` on, by user.

    These items compete with each other alone, and what is known of them is their text. Items with
    one score share their places, so a constant score gets what chance gives. Users without a
    purchase before `start`, or of such an item after it, are left out.
    """
    cold, known = first_sold(baskets, start), np.diff(history(baskets, start).indptr) > 0
    wanted = {user: np.isin(cold, own) for user, own in targets(baskets, start).items()}
    users = np.array([user for user, own in wanted.items() if known[user] and own.any()], int)
    depth, recall = min(depth, len(cold)), {}
    for user, scores in zip(users, _in_parts(score)(users, cold), strict=True):
        last = np.partition(scores, -depth)[-depth]
        above, level = scores > last, scores == last
        chance = (depth - above.sum()) / level.sum()
        hit = wanted[user][above].sum() + chance * wanted[user][level].sum()
        recall[int(user)] = hit / min(depth, wanted[user].sum())
    return pd.Series(recall, name="recall", dtype=float).rename_axis("user")


def _hits(top: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    hit = np.isin(top, wanted)
    best = min(len(top), len(wanted))
    discount = 1 / np.log2(np.arange(2, len(top) + 2))
    return hit.sum() / best, float(hit @ discount / discount[:best].sum())


def best(
    scores: np.ndarray, without: sp.csr_matrix | None = None, depth: int = DEPTH
) -> np.ndarray:
    """The `depth` items with the highest scores (U, I) of each user, best first.

    Items where `without` (U, I) is not 0 are left out. Among equals the first item comes first.
    A smaller shop gives all that it has.
    """
    depth = min(depth, scores.shape[1])
    if without is not None:
        scores = np.array(scores, np.float32)
        scores[without.nonzero()] = -np.inf
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    order = np.lexsort((top, -np.take_along_axis(scores, top, axis=1)))
    return np.take_along_axis(top, order, axis=1)


# Rankers without a network ------------------------------------------------------------------------


def popularity(baskets: Baskets, day: int, window: int = HORIZON) -> np.ndarray:
    """How many users bought each item in the `window` days before `day`, (I,)."""
    recent = baskets.between(max(day - window, 0), day).drop_duplicates(["user", "item"])
    return np.bincount(recent["item"], minlength=len(baskets.items))


def popular(baskets: Baskets, day: int) -> Ranker:
    """The same for all: what most users bought of late."""
    past, counts = history(baskets, day), popularity(baskets, day)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return best(np.tile(counts, (len(users), 1)), past[users] if new else None)

    return _in_parts(rank)


def buy_again(baskets: Baskets, day: int, scale: float) -> Ranker:
    """What the user bought often and of late; popular items where that ends.

    An item scores the sum of exp(-age / scale) over the baskets that held it, ages in days.
    """
    past, counts = history(baskets, day, scale), popularity(baskets, day)
    filler = tie_break(counts)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return best(past[users].toarray() + filler, past[users] if new else None)

    return _in_parts(rank)


def tie_break(counts: np.ndarray) -> np.ndarray:
    """Scores (I,) from how often items sold, so small that they order only what a user's own
    purchases leave equal: 0 to 1e-6, and 0 for all where nothing was sold."""
    return 1e-6 * counts / max(counts.max(), 1)


def item_knn(baskets: Baskets, day: int, neighbours: int) -> Ranker:
    """Items that were bought by the same people as the user's own: cosine of tf-idf counts."""
    from implicit.nearest_neighbours import TFIDFRecommender

    make = partial(TFIDFRecommender, neighbours, num_threads=1)
    return _implicit(make, history(baskets, day))


def factors(baskets: Baskets, day: int, width: int, weight: float, seed: int) -> Ranker:
    """Matrix factorisation by alternating least squares (Hu, Koren & Volinsky 2008).

    `weight` is theirs: the confidence in a purchase that is made n times is 1 + weight · n.
    """
    from implicit.als import AlternatingLeastSquares

    make = partial(AlternatingLeastSquares, width, alpha=weight, random_state=seed, num_threads=1)
    return _implicit(make, history(baskets, day))


def _implicit(make: Callable, past: sp.csr_matrix) -> Ranker:
    from implicit.utils import ParameterWarning

    # The library warns of a copy in another format that it made itself.
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ParameterWarning)
        model = make()
        model.fit(past, show_progress=False)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return model.recommend(users, past[users], DEPTH, filter_already_liked_items=new)[0]

    return rank


def _in_parts(call: Ranker | Scorer, size: int = 256) -> Callable:
    """A ranker or scorer, for few users at a time: scores of all items take memory."""

    def in_parts(users: np.ndarray, asked: bool | np.ndarray) -> np.ndarray:
        parts = np.split(users, range(size, len(users), size))
        return np.concatenate([call(part, asked) for part in parts])

    return in_parts


# What a network reads -----------------------------------------------------------------------------


def texts(baskets: Baskets) -> tuple[list[str], np.ndarray]:
    """The distinct texts (T,), and for each item (I,) which of them is its own."""
    codes, distinct = pd.factorize(baskets.items["text"], sort=True)
    return distinct.tolist(), codes


class Items:
    """What is known of the items on a day, from texts, prices and past sales. None has weights of
    its own.

    Args:
        vectors: (T, E), an encoder's vectors of the distinct texts, in the order of `texts`.
        first: buyers are told apart by what they bought before this day, in `width` numbers.
        profile: for its seed, and for the device that all tensors stay on.
    """

    def __init__(
        self, baskets: Baskets, vectors: np.ndarray, first: int, width: int, profile: Profile
    ):
        self.baskets, self.device = baskets, models.device(profile)
        codes = texts(baskets)[1]
        self.key = _key(baskets, vectors, codes, first, width, profile.seed)
        self.text_of = torch.from_numpy(codes).to(self.device)
        centred = vectors - vectors.mean(axis=0)
        self.vectors = torch.from_numpy(centred / centred.std()).float().to(self.device)
        self._people = _people(history(baskets, first), width, profile.seed)
        events = baskets.events
        place, shape = (events["day"], events["item"]), (baskets.days, len(baskets.items))
        self._sold = sp.csr_matrix((np.ones(len(events), np.float32), place), shape)
        self._paid = sp.csr_matrix((events["price"].to_numpy(), place), shape)
        self.on = lru_cache(maxsize=64)(self._on)

    def _on(self, day: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Before `day`: (I, width + 1) who bought each item, and its mean price, a logarithm from
        which the mean of all items is taken; (I, 4) its sales of 7, 28 and 112 days, as logarithms,
        and the share of its buyers who came back for it, as if of four more one had. What is not
        known of an item that was never sold is 0."""
        past = history(self.baskets, day)
        buyers = buyers_of(past)
        again = np.bincount(past.indices, past.data > 1, past.shape[1])
        met = (past > 0).T.astype(np.float32) @ self._people / np.sqrt(buyers + 3)[:, None]
        sales = [self._sold[max(0, day - span) : day].sum(axis=0).A1 for span in _SPANS]
        times = self._sold[:day].sum(axis=0).A1
        price = np.log1p(self._paid[:day].sum(axis=0).A1 / np.maximum(times, 1))
        price -= (times > 0) * price.sum() / max((times > 0).sum(), 1)
        met = np.column_stack([met, price])
        numbers = np.stack([*np.log1p(sales), (again + 1) / (buyers + 4)], axis=1)
        # Half precision, for a table of every training day is kept.
        met, numbers = torch.from_numpy(met).half(), torch.from_numpy(numbers).float()
        return met.to(self.device), numbers.to(self.device)


def _key(baskets: Baskets, vectors: np.ndarray, codes: np.ndarray, *settings) -> list:
    """What tells these items from others: purchases, texts' vectors, and settings."""
    columns = (baskets.events[name].to_numpy() for name in ("user", "item", "day", "price"))
    parts = [*columns, vectors, codes]
    return [*(sha256(np.ascontiguousarray(part)).hexdigest() for part in parts), *settings]


def _people(past: sp.csr_matrix, width: int, seed: int) -> np.ndarray:
    """Users by what they bought, (U, width): the first left singular vectors of tf-idf counts."""
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(past)
    left, _, _ = randomized_svd(weights, width, random_state=seed)
    return (left * np.sqrt(past.shape[0])).astype(np.float32)


def occasions(baskets: Baskets, first: int, end: int, size: int, seed: int) -> Dataset:
    """Rows `day`, `users`, `labelled` to learn from: at most `size` users who buy before the day
    and after it.

    The days are a week apart, from `first` to `end` - HORIZON: nothing from `end` on is read.
    """
    days = range(end - HORIZON, first - 1, -7)
    users = [np.intersect1d(_known(baskets, day), list(targets(baskets, day))) for day in days]
    return _in_groups(days, users, size, seed, labelled=True)


def unlabelled(baskets: Baskets, end: int, size: int, seed: int) -> Dataset:
    """Rows as of `occasions`, for the days up to `end` of which too little future is known: what is
    bought after them is not read, and a teacher alone can say what to learn."""
    days = range(end, end - HORIZON, -7)
    users = [_known(baskets, day) for day in days]
    return _in_groups(days, users, size, seed, labelled=False)


def _known(baskets: Baskets, day: int) -> np.ndarray:
    return np.unique(baskets.between(0, day)["user"])


def _with_a_purchase(rows: Dataset, baskets: Baskets, candidates: torch.Tensor) -> Dataset:
    """`rows` without those that are labelled and of which no user buys a candidate: in a small shop
    some buy rare items alone, which have no log-odds to learn."""
    bought = {day: targets(baskets, day) for day in set(rows["day"])}
    wanted = candidates.cpu().numpy()

    def learnable(day: int, users: list[int], labelled: bool) -> bool:
        return not labelled or any(np.isin(bought[day][user], wanted).any() for user in users)

    kept = map(learnable, rows["day"], rows["users"], rows["labelled"])
    return rows.select(np.flatnonzero(list(kept)))


def _in_groups(
    days: range, users: list[np.ndarray], size: int, seed: int, labelled: bool
) -> Dataset:
    rng = np.random.default_rng(seed)
    rows = []
    for day, own in zip(days, users, strict=True):
        parts = np.split(rng.permutation(own), range(size, len(own), size))
        rows += [
            {"day": day, "users": part.tolist(), "labelled": labelled}
            for part in parts
            if len(part)
        ]
    return Dataset.from_list(rows)


class Reader:
    """Turns a row of `day`, `users` (B,) and `labelled` into tensors, from what was bought before
    the day.

    `item` (N,) and `slot` (N,): the items of the latest baskets; basket j of user b is slot
    b · L + j. `age` (B, L), steps of a logarithmic scale, and `mask` (B, L), for those baskets.
    `user` (S,), `seen` (S,), `habit` (S, HABITS): each user's own items and how they were bought.
    `buyer` (P,) and `bought` (P,): the targets, from the day on, none where the row is not
    labelled. What else the row has, a teacher's scores, goes along.
    """

    def __init__(self, baskets: Baskets):
        events = baskets.events.sort_values("user", kind="stable")
        ends = np.searchsorted(events["user"], np.arange(1, len(baskets.users)))
        self.days, self.items = (
            np.split(events[name].to_numpy(), ends) for name in ("day", "item")
        )

    def __call__(self, rows: list[dict]) -> dict:
        (row,) = rows
        day, found = int(row["day"]), {name: [] for name in _PARTS}
        for place, user in enumerate(row["users"]):
            days, items = self.days[user], self.items[user]
            now, then = np.searchsorted(days, (day, day + HORIZON))
            new = np.unique(items[now : then if row["labelled"] else now])
            seen, habit = _habits(day, days[:now], items[:now])
            if now == 0:
                raise ValueError(
                    f"User {user} has bought nothing before day {day}: leave such users out."
                )
            visits = np.unique(days[:now])[-_BASKETS:]
            late = np.searchsorted(days[:now], visits[0])
            slot = place * _BASKETS + np.searchsorted(visits, days[late:now])
            own = {"slot": slot, "item": items[late:now], "seen": seen, "habit": habit}
            own |= {"user": np.full(len(seen), place), "buyer": np.full(len(new), place)}
            age = np.minimum(4 * np.log2(day - visits), _AGES - 1).astype(np.int64)
            room = _BASKETS - len(visits)
            own |= {"bought": new, "age": np.pad(age, (0, room))[None]}
            own["mask"] = np.pad(np.ones(len(visits), bool), (0, room))[None]
            for name, part in own.items():
                found[name].append(part)
        batch = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in found.items()}
        given = {name: torch.as_tensor(row[name]) for name in row if name not in ("day", "users")}
        return {"day": day, **batch, **given}


def _habits(day: int, days: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items of a user, and (S, HABITS) logarithms: three decayed counts, the count,
    days since the last time, days between two times, the ratio of these, and the user's visits of
    late and in all."""
    age = (day - days).astype(np.float32)
    seen, at = np.unique(items, return_inverse=True)
    count = np.bincount(at)
    decayed = [np.bincount(at, np.exp(-age / scale)) for scale in SCALES]
    last, first = np.full(len(seen), np.inf), np.zeros(len(seen))
    np.minimum.at(last, at, age)
    np.maximum.at(first, at, age)
    between = np.where(count > 1, (first - last) / np.maximum(count - 1, 1), ONCE)
    visits = np.unique(days)
    own = [np.full(len(seen), n) for n in ((visits >= day - HORIZON).sum(), len(visits))]
    columns = [*decayed, count, last, between, last / np.maximum(between, 1), *own]
    return seen.astype(np.int64), np.log1p(np.stack(columns, axis=1)).astype(np.float32)


# Networks -----------------------------------------------------------------------------------------


class Recommender(nn.Module):
    """Log-odds that a user buys an item in the next HORIZON days.

    An item that is new to the user is scored by taste, u · v plus what sells; one that the user has
    had, by the habit and the same taste: repeating and exploring are two modes (RepeatNet, Ren et
    al. 2019). `taste` makes u (B, W) from a batch; v (I, W) comes from text, buyers and price.
    Before training, new items stand in the order of sales, old ones in that of decayed counts.
    """

    def __init__(self, items: Items, width: int, hidden: int):
        super().__init__()
        self.items = items
        size, met = items.vectors.shape[1], items.on(0)[0].shape[1]
        self.read = nn.ModuleList([nn.Linear(size, width), nn.Linear(met, width, bias=False)])
        self.offer = nn.ModuleList([nn.Linear(size, width), nn.Linear(met, width, bias=False)])
        self.appeal = nn.Linear(size, 1)
        self.sales = nn.Linear(len(_SPANS), 1)
        self.scale = nn.BatchNorm1d(HABITS + len(_SPANS) + 1, affine=False)
        self.line = nn.Linear(self.scale.num_features + 1, 1)
        self.curve = nn.Sequential(
            nn.Linear(self.scale.num_features + 1, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )
        with torch.no_grad():
            for layer in (self.appeal, self.curve[-1], self.line):
                layer.weight.zero_()
                layer.bias.zero_()
            self.sales.weight.fill_(0.3)
            self.sales.bias.fill_(-6.0)  # an item is bought by few
            self.line.weight[0, 1:3] = 1.0
            self.line.bias.fill_(-3.0)

    def taste(self, batch: dict, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What the users like, (B, W). `read` turns rows of items (N,) into vectors (N, W)."""
        raise NotImplementedError

    def vectors(
        self,
        layers: nn.ModuleList,
        rows: torch.Tensor,
        day: int,
        hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(N, W) from the texts of items, rows (N,), and from who bought them before `day`, and at
        what price; of those that are `hidden` (N,) from the text alone."""
        distinct, own = self.items.text_of[rows].unique(return_inverse=True)
        text, met = layers
        known = _without(self.items.on(day)[0][rows].float(), hidden)
        return text(self.items.vectors[distinct])[own] + met(known)

    def demand(
        self, rows: torch.Tensor, day: int, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N,) how well items, rows (N,), sell to anyone, with the same knowledge of them."""
        sales = _without(self.items.on(day)[1][rows, : len(_SPANS)], hidden)
        appeal = self.appeal(self.items.vectors)[self.items.text_of[rows]]
        return (self.sales(sales) + appeal)[:, 0]

    def forward(
        self, batch: dict, candidates: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log-odds (B, K) of the candidates (K,), rows of items, each once. Of those that are
        `hidden` (K,) the text alone is looked at, as of an item that was never sold."""
        day = batch["day"]
        taste = self.taste(batch, lambda rows: self.vectors(self.read, rows, day))
        offers = self.vectors(self.offer, candidates, day, hidden)
        columns = columns_of(candidates, len(self.items.text_of))
        return self.log_odds(batch, taste @ offers.T, self.demand(candidates, day, hidden), columns)

    def log_odds(
        self, batch: dict, liking: torch.Tensor, demand: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """(B, K) from how well the users like the candidates (B, K), from the demand (K,), and from
        the `columns_of` the candidates (I,)."""
        seen, numbers = batch["seen"], self.items.on(batch["day"])[1]
        asked = columns[seen] >= 0
        user, column = batch["user"][asked], columns[seen[asked]]
        known = self.scale(torch.cat([batch["habit"][asked], numbers[seen[asked]]], dim=1))
        known = torch.cat([known, liking[user, column, None]], dim=1)
        habit = self.line(known) + self.curve(known)
        return (liking + demand).index_put((user, column), habit[:, 0])


def _without(numbers: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
    return numbers if hidden is None else numbers.masked_fill(hidden[:, None], 0)


def columns_of(candidates: torch.Tensor, items: int) -> torch.Tensor:
    """For each item (I,) its column among the candidates, -1 where it is none of them."""
    place = torch.full((items,), -1, device=candidates.device)
    place[candidates] = torch.arange(len(candidates), device=candidates.device)
    return place


class BasketTransformer(Recommender):
    """The teacher: a transformer over the latest baskets. Each is its items' mean, and its age."""

    def __init__(self, items: Items, width: int = 128, layers: int = 2, dropout: float = 0.2):
        super().__init__(items, width, hidden=64)
        self.age = nn.Embedding(_AGES, width)
        nn.init.normal_(self.age.weight, std=0.02)
        self.before = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.after = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def taste(self, batch: dict, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        mask = batch["mask"]
        distinct, own = batch["item"].unique(return_inverse=True)
        vectors = read(distinct)[own]
        sums = vectors.new_zeros(mask.numel(), vectors.shape[1])
        sums = sums.index_add(0, batch["slot"], vectors)
        count = torch.bincount(batch["slot"], minlength=mask.numel()).clamp(min=1)
        baskets = self.before((sums / count[:, None]).view(*mask.shape, -1)) + self.age(
            batch["age"]
        )
        states = self.encoder(self.dropout(baskets), src_key_padding_mask=~mask)
        mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return self.dropout(self.out(self.after(mean)))


class DecayedMeans(Recommender):
    """The student: means of all items so far, weighted by age at three speeds, through one layer.

    A purchase changes three sums and no more, whatever came before it.
    """

    def __init__(self, items: Items, width: int = 16):
        super().__init__(items, width, hidden=16)
        self.mix = nn.Sequential(
            nn.Linear(len(SCALES) * width, 64), nn.GELU(), nn.Linear(64, width)
        )
        nn.init.zeros_(self.mix[-1].weight)
        nn.init.zeros_(self.mix[-1].bias)

    def taste(self, batch: dict, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        user, users = batch["user"], len(batch["mask"])
        distinct, own = batch["seen"].unique(return_inverse=True)
        vectors = read(distinct)[own]
        weights = batch["habit"][:, : len(SCALES)].expm1()
        parts = []
        for weight in weights.T:
            total = weight.new_zeros(users).index_add(0, user, weight)
            sums = vectors.new_zeros(users, vectors.shape[1])
            sums = sums.index_add(0, user, vectors * weight[:, None])
            parts.append(sums / total[:, None])
        return self.mix(torch.cat(parts, dim=1))


class Shelf:
    """A network on one day, with what it needs of every item made beforehand: what is served.

    Args:
        model: what scores.
        reader: of the same shop.
        day: the first day that is not known.
    """

    def __init__(self, model: Recommender, reader: Reader, day: int):
        self.model, self.reader, self.day = model, reader, day
        self.columns = torch.arange(len(model.items.baskets.items), device=model.items.device)
        with _at_rest(model):
            self.read = model.vectors(model.read, self.columns, day)
            self.offers = model.vectors(model.offer, self.columns, day)
            self.demand = model.demand(self.columns, day)

    def scores(self, users: np.ndarray) -> np.ndarray:
        """Log-odds (B, I) of all items, for users (B,) who have bought something before the day."""
        batch = self.reader([{"day": self.day, "users": users, "labelled": False}])
        batch = _moved(batch, self.model.items.device)
        with _at_rest(self.model) as model:
            taste = model.taste(batch, self.read.__getitem__)
            liking = taste @ self.offers.T
            return model.log_odds(batch, liking, self.demand, self.columns).cpu().numpy()

    def size(self) -> dict[str, int]:
        """Bytes of the network's own weights, and of the table of items beside it."""
        own = sum(weight.nbytes for weight in self.model.parameters())
        table = self.read.nbytes + self.offers.nbytes + self.demand.nbytes
        return {"network_bytes": own, "table_bytes": table}


def network(shelf: Shelf) -> Ranker:
    """The ranking of a network on its shelf's day, over all items."""
    past = history(shelf.model.items.baskets, shelf.day)

    def rank(users: np.ndarray, new: bool) -> np.ndarray:
        return best(shelf.scores(users), past[users] if new else None)

    return _in_parts(rank, 128)


@contextmanager
def _at_rest(model: Recommender) -> Iterator[Recommender]:
    """The model in eval mode and without gradients; it goes back to what it was."""
    training = model.training
    if training:  # to set the mode of all layers takes a tenth of an answer
        model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        if training:
            model.train()


def _moved(batch: dict, device: torch.device) -> dict:
    return {name: part if name == "day" else part.to(device) for name, part in batch.items()}


# Training -----------------------------------------------------------------------------------------


def purchase_loss(logits: torch.Tensor, user: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each user with each candidate, bought or not, over the number of purchases.

    Args:
        logits: (B, I) log-odds.
        user, column: (P,) rows and columns of what is bought, each pair once.

    Raises ValueError when nothing is bought.
    """
    if not len(user):
        raise ValueError("No candidate is bought by any user: give users with a purchase.")
    return (nn.functional.softplus(logits).sum() - logits[user, column].sum()) / len(user)


def teacher_scores(
    rows: Dataset, model: Recommender, reader: Reader, candidates: torch.Tensor, depth: int
) -> Dataset:
    """`rows` with the teacher's `depth` best candidates of each user and their log-odds; with all
    candidates where there are fewer.

    Adds `teacher_columns` (B, depth), columns of `candidates`, and `teacher_scores` (B, depth).
    """

    def best_of(row: dict) -> dict:
        with _at_rest(model):
            scores = model(_moved(reader([row]), model.items.device), candidates)
        top = scores.cpu().topk(min(depth, len(candidates)), dim=1)
        return {"teacher_columns": top.indices.tolist(), "teacher_scores": top.values.tolist()}

    return rows.map(best_of, desc="Teacher", load_from_cache_file=False, new_fingerprint="teacher")


class RankingTrainer(Trainer):
    """A Trainer of recommenders, with L = cross entropy of purchases + α · listwise KL.

    The divergence is that of `losses.listwise_kl`, over the teacher's best items for each user
    (ranking distillation, Tang & Wang 2018); with α = 0 no teacher is needed. Rows that are not
    labelled have the divergence alone. A share `hidden` of
    the candidates, drawn anew for each batch, is scored by text alone, so that the text learns to
    stand for an item that was never sold (DropoutNet, Volkovs et al. 2017). Evaluation is recall@10
    over all items from day `start` on.
    """

    def __init__(
        self,
        model: Recommender,
        *,
        reader: Reader,
        candidates: torch.Tensor,
        start: int,
        alpha: float = 0.0,
        temperature: float = 1.0,
        hidden: float = 0.1,
        **options,
    ):
        super().__init__(model, data_collator=reader, **options)
        self.hidden = hidden
        self.reader, self.candidates, self.start = reader, candidates, start
        self.alpha, self.temperature = alpha, temperature
        self._column = columns_of(candidates, len(model.items.baskets.items))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        hidden = torch.rand(len(self.candidates), device=self.candidates.device) < self.hidden
        logits = model(inputs, self.candidates, hidden)
        loss = logits.new_zeros(())
        if inputs["labelled"]:
            column = self._column[inputs["bought"]]
            loss = purchase_loss(logits, inputs["buyer"][column >= 0], column[column >= 0])
        if self.alpha > 0:
            if "teacher_scores" not in inputs:
                raise ValueError("alpha > 0 needs the columns of recommend.teacher_scores.")
            wanted = inputs["teacher_scores"]
            own = logits.gather(1, inputs["teacher_columns"])
            everyone = torch.ones_like(wanted, dtype=torch.bool)
            soft = losses.listwise_kl(own, wanted, everyone, self.temperature)
            loss = loss + self.alpha * soft
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        model = self.accelerator.unwrap_model(self.model)
        shelf = Shelf(model, self.reader, self.start)
        found = evaluate(network(shelf), model.items.baskets, self.start)
        metrics = {f"{metric_key_prefix}_{name}": found[name] for name in ("recall", "new_recall")}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


RECIPES: dict[type[Recommender], dict] = {
    BasketTransformer: {"passes": 1.0, "learning_rate": 2e-3},
    DecayedMeans: {"passes": 0.8, "learning_rate": 4e-3},
}
"""How each kind is trained; chosen on the validation days of The Complete Journey."""


def fitted(items: Items, day: int) -> torch.Tensor:
    """The items with BUYERS buyers or more before `day`: rows, in order."""
    buyers = buyers_of(history(items.baskets, day))
    return torch.from_numpy(np.flatnonzero(buyers >= BUYERS)).to(items.device)


def fit(
    model: Recommender,
    rows: Dataset,
    start: int,
    profile: Profile,
    folder: Path,
    *,
    passes: float,
    learning_rate: float,
    **distillation,
) -> list[dict]:
    """Train `model` on `rows` and save the best of it into `folder`, as `distill.fit` does.

    The best is the one with the highest recall@10 from day `start` on, of five looks. What is
    trained on are the `fitted` items; the others are ranked all the same. Computes in float32
    in all profiles: half precision does not tell the log-odds of thousands of items apart.
    """
    candidates = fitted(model.items, start)
    rows = _with_a_purchase(rows, model.items.baskets, candidates)
    trainer = RankingTrainer(
        model,
        args=distill.arguments(
            replace(profile, batch_size=1, precision="fp32"),
            folder,
            max(1, round(passes * len(rows))),
            learning_rate,
            metric_for_best_model="recall",
        ),
        train_dataset=rows,
        eval_dataset=rows,  # the library asks for one; `evaluate` reads the baskets
        reader=Reader(model.items.baskets),
        candidates=candidates,
        start=start,
        **distillation,
    )
    return distill.run_to_end(trainer, folder)


def train(
    kind: type[Recommender],
    items: Items,
    start: int,
    profile: Profile,
    teacher: Path | None = None,
    *,
    alpha: float = 1.0,
    depth: int = 200,
    further: bool = True,
    **changes,
) -> Path:
    """The folder of a `BasketTransformer` or `DecayedMeans`, fitted to the days before `start`.

    With the folder of a `teacher`, a BasketTransformer of the same items, it is distilled from it:
    from the order of the teacher's `depth` best items, with the weight `alpha`, and if `further`,
    on the `unlabelled` days too. `changes` replace settings of `RECIPES`. Made once, then found
    among the artefacts.
    """
    profile = replace(profile, precision="fp32")  # as `fit` does: one artefact for all precisions
    settings = {**RECIPES[kind], **changes}
    lesson = teacher and [alpha, depth, further, pipeline.identity(teacher)]

    def make(folder: Path) -> None:
        rows = occasions(items.baskets, FIRST, start, GROUP, profile.seed)
        if teacher is not None:
            reader, candidates = Reader(items.baskets), fitted(items, start)
            if further:
                more = unlabelled(items.baskets, start, GROUP, profile.seed)
                rows = concatenate_datasets([rows, more])
            model = load(teacher, BasketTransformer, items)
            rows = teacher_scores(rows, model, reader, candidates, depth)
        weight = 0.0 if teacher is None else alpha
        with models.seeded(profile.seed):
            fit(kind(items), rows, start, profile, folder, alpha=weight, **settings)

    parts = [
        kind.__name__,
        items.key,
        start,
        settings,
        pipeline.settings_of(profile),
        lesson,
        digest(distill, losses, models, sys.modules[__name__]),
    ]
    return stage("recommender", parts, make, profile.artifacts)


def load(folder: Path, kind: type[Recommender], items: Items) -> Recommender:
    """The network that `train` has left in a folder, in eval mode."""
    with models.seeded(0):  # the weights that are drawn are overwritten
        model = kind(items)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(items.device).eval()
