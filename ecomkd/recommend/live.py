"""Recommendation while the shop is open: the student of chapter 10, with a state kept by event.

A purchase changes three sums and one habit of one user. Nothing is trained again, and an answer is
made of arrays alone, without PyTorch. Time is the events' own, in days, never a clock's. Sizes:
U users, I items, W the student's width, S items of one user, E an encoder's width. Chapter 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import erf

from ecomkd.data.baskets import HORIZON
from ecomkd.recommend.evaluation import DEPTH
from ecomkd.recommend.purchases import BUYERS, HABITS, ONCE, SCALES

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf

RARE = BUYERS
"""An item is explored while it was bought fewer times than this."""

PAIR = np.dtype(
    [("item", "i4"), ("count", "i4"), ("first", "i4"), ("last", "i4"), ("decayed", "f4", (3,))]
)
"""The 28 bytes that are kept of a user and an item. `decayed` are counts as of the day `last`."""

_SCALES = np.array(SCALES)
_BLOCK = 256
_WINDOW = (1 << HORIZON + 1) - 1  # a bit for each age of a visit, from 0 to HORIZON days
_TABLES = ("read", "offers", "demand", "numbers")
_USERS = ("sums", "last", "visits", "recent")


class Live:
    """A student's state of all users, its tables of items, and its answers.

    It is made by `initial_state`, or from the `arrays` of another one. Decay is lazy: a row keeps
    the day of its last change and is aged when it is read, which is exact, for
    exp(-a/τ) · exp(-b/τ) = exp(-(a + b)/τ).

    Attributes:
        items, users: how many there are.
        events: purchases that were learnt.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.weights = {name: part for name, part in arrays.items() if "." in name}
        self.items, self.users = len(arrays["demand"]), len(arrays["last"])
        self.events, self._times = int(arrays["events"]), np.array(arrays["times"])
        self._lay({name: arrays[name] for name in _TABLES})
        for name in _USERS:
            setattr(self, f"_{name}", np.array(arrays[name]))
        self._owned = np.diff(arrays["ends"], prepend=0)
        self._pairs = [part.copy() for part in np.split(arrays["pairs"], arrays["ends"][:-1])]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays that an answer depends on: `Live(live.arrays())` answers alike, to the bit."""
        owned = self._owned[: self.users]
        rows = [pairs[:own] for pairs, own in zip(self._pairs, owned, strict=True)]
        return {
            **self.weights,
            **{name: getattr(self, f"_{name}")[: self.items] for name in (*_TABLES, "times")},
            **{name: getattr(self, f"_{name}")[: self.users] for name in _USERS},
            "pairs": np.concatenate(rows) if rows else np.empty(0, PAIR),
            "ends": np.cumsum(owned),
            "events": np.array(self.events),
        }

    def _lay(self, tables: Mapping[str, np.ndarray]) -> None:
        """Take tables of items (I, ...), with room up to a whole block, which never wins."""
        room = -len(tables["demand"]) % _BLOCK
        for name, table in tables.items():
            fill = -np.inf if name == "demand" else 0
            setattr(self, f"_{name}", _longer(np.asarray(table, np.float32), room, fill))
        times = self._times[: len(self._demand)]
        self._times = _longer(times, len(self._demand) - len(times))
        self._scores = np.empty(len(self._demand), np.float32)

    def refresh(self, shelf: Shelf) -> None:
        """Take the tables of items from a shelf of another day, and make the sums anew.

        The sums hold vectors of the old table. They follow from the new one and the kept counts:
        a sparse product for each scale. Raises ValueError when the shelf has fewer items.
        """
        tables = _tables(shelf)
        if len(tables["demand"]) < self.items:
            raise ValueError(
                f"The shelf has {len(tables['demand'])} items and the state {self.items}: make it "
                "of a shop that has the added ones too."
            )
        self.items = len(tables["demand"])
        self._lay(tables)
        self._sum_up()

    def _sum_up(self) -> None:
        kept = self.arrays()
        pairs, owned = kept["pairs"], self._owned[: self.users]
        age = (np.repeat(kept["last"], owned) - pairs["last"])[:, None]
        weights = pairs["decayed"] * np.exp(-age / _SCALES)
        rows = np.concatenate([[0], kept["ends"]])
        table = np.column_stack([self._read[: self.items], np.ones(self.items)])
        for at in range(len(_SCALES)):
            own = sp.csr_matrix((weights[:, at], pairs["item"], rows), (self.users, self.items))
            self._sums[: self.users, at] = own @ table

    # Learn

    def check(self, user: int, item: int, day: int) -> None:
        """Raises ValueError for a purchase that `update` would not take."""
        self._check_time(user, day, "a purchase of")
        if not 0 <= item < self.items:
            raise ValueError(f"Item {item} is unknown, there are {self.items}: add_item adds one.")

    def _check_time(self, user: int, day: int, what: str) -> None:
        if not 0 <= user < self.users:
            raise ValueError(f"User {user} is unknown, there are {self.users}: add_user adds one.")
        if day < max(0, self._last[user]):
            raise ValueError(
                f"User {user} bought on day {max(0, self._last[user])} already, and {what} day "
                f"{day} comes too late: give the events of a user in the order of time."
            )

    def update(self, user: int, item: int, day: int) -> None:
        """Learn one purchase. Raises ValueError when it is older than the user's last one."""
        self.check(user, item, day)
        gap = day - int(self._last[user])
        if gap > 0:  # a new visit; the last day of who never came is -1
            self._sums[user] *= np.exp(-gap / _SCALES)[:, None]
            self._recent[user] = (int(self._recent[user]) << min(gap, HORIZON + 1) | 1) & _WINDOW
            self._visits[user] += 1
            self._last[user] = day
        self._sums[user, :, :-1] += self._read[item]
        self._sums[user, :, -1] += 1
        self._pair(user, item, day)
        self._times[item] += 1
        self.events += 1

    def check_basket(self, user: int, items: Sequence[int], day: int) -> None:
        """Raises ValueError for a basket that `update_basket` would not take."""
        for item in items:
            self.check(user, item, day)

    def update_basket(self, user: int, items: Sequence[int], day: int) -> None:
        """Learn the items (K,) of one basket in order, or none where one of them is refused."""
        self.check_basket(user, items, day)
        for item in items:
            self.update(user, item, day)

    def _pair(self, user: int, item: int, day: int) -> None:
        own, pairs = self._owned[user], self._pairs[user]
        found = np.flatnonzero(pairs["item"][:own] == item)
        if len(found):
            at = found[0]
            age = day - pairs["last"][at]
            pairs["decayed"][at] = pairs["decayed"][at] * np.exp(-age / _SCALES) + 1
            pairs["count"][at] += 1
            pairs["last"][at] = day
            return
        if own == len(pairs):
            pairs = self._pairs[user] = _longer(pairs, own // 2 + 4)
        pairs[own] = item, 1, day, day, (1, 1, 1)
        self._owned[user] += 1

    def add_user(self) -> int:
        """The row of one more user, who has no past yet."""
        for name in (*_USERS, "owned"):
            table = getattr(self, f"_{name}")
            if len(table) == self.users:
                setattr(self, f"_{name}", _longer(table, self.users // 2 + 4))
        self._last[self.users] = -1
        self._pairs.append(np.empty(0, PAIR))
        self.users += 1
        return self.users - 1

    def add_item(self, vector: np.ndarray) -> int:
        """The row of one more item, known by its text alone, like one that was never sold.

        Args:
            vector: (E,), the encoder's, `aligned` with those of the items that there are.

        Raises ValueError for another shape, and for values that are not finite.
        """
        vector = self.checked(vector)
        if self.items == len(self._demand):
            for name in (*_TABLES, "times"):
                fill = -np.inf if name == "demand" else 0
                table = getattr(self, f"_{name}")
                more = -(-self.items // (2 * _BLOCK)) * _BLOCK  # half as many again, whole blocks
                setattr(self, f"_{name}", _longer(table, more, fill))
            self._scores = np.empty(len(self._demand), np.float32)
        row = self.items
        self._read[row] = _linear(vector, self.weights, "read.0")
        self._offers[row] = _linear(vector, self.weights, "offer.0")
        appeal = _linear(vector, self.weights, "appeal") + self.weights["sales.bias"]
        self._demand[row] = appeal[0]
        self._numbers[row, -1] = 1 / 4  # as `Items` has it where nobody came
        self.items += 1
        return row

    def checked(self, vector: np.ndarray) -> np.ndarray:
        """The vector (E,) as `add_item` takes it, float32, or its ValueError."""
        vector, size = np.asarray(vector, np.float32), self.weights["appeal.weight"].shape[1]
        if vector.shape != (size,) or not np.isfinite(vector).all():
            raise ValueError(
                f"A new item's vector has {size} finite numbers; this one has the shape "
                f"{vector.shape}, {np.isfinite(vector).sum()} of them finite: encode its text."
            )
        return vector

    # Answer

    def scores(self, user: int, day: int) -> np.ndarray:
        """Log-odds (I,) of all items for a user on a day; the next call writes over them.

        They equal those of `Shelf.scores` with the same purchases and tables. A user without a past
        has no taste and no habits: items stand in the order of demand. Raises ValueError for a day
        before the user's last purchase.
        """
        self._check_time(user, day, "a question for")
        return self._all_scores(user, day)[: self.items]

    def _all_scores(self, user: int, day: int) -> np.ndarray:
        if not self._visits[user]:
            np.copyto(self._scores, self._demand)
            return self._scores
        # The decay of a sum and of its weights cancels in each mean: there is nothing to age.
        means = self._sums[user, :, :-1] / self._sums[user, :, -1:]
        hidden = _gelu(_linear(means.astype(np.float32).ravel(), self.weights, "mix.0"))
        taste = _linear(hidden, self.weights, "mix.2")
        np.dot(self._offers, taste, out=self._scores)
        own = self._pairs[user][: self._owned[user]]
        habit = self._habit(user, day, own, self._scores[own["item"]])
        self._scores += self._demand
        self._scores[own["item"]] = habit
        return self._scores

    def _habit(self, user: int, day: int, own: np.ndarray, liking: np.ndarray) -> np.ndarray:
        age = (day - own["last"]).astype(np.float64)
        between = np.where(
            own["count"] > 1,
            (own["last"] - own["first"]) / np.maximum(own["count"] - 1, 1),
            ONCE,
        )
        known = np.empty((len(own), HABITS))
        known[:, :3] = own["decayed"] * np.exp(-age[:, None] / _SCALES)
        known[:, 3], known[:, 4], known[:, 5] = own["count"], age, between
        known[:, 6] = age / np.maximum(between, 1)
        since = min(day - int(self._last[user]), HORIZON + 1)
        known[:, 7] = (int(self._recent[user]) << since & _WINDOW).bit_count()
        known[:, 8] = self._visits[user]
        known = np.hstack([np.log1p(known), self._numbers[own["item"]]]).astype(np.float32)
        known = (known - self.weights["scale.mean"]) / self.weights["scale.spread"]
        known = np.column_stack([known, liking])
        curve = _linear(_gelu(_linear(known, self.weights, "curve.0")), self.weights, "curve.2")
        return (_linear(known, self.weights, "line") + curve)[:, 0]

    def recommend(
        self,
        user: int,
        day: int,
        without: Sequence[int] = (),
        depth: int = DEPTH,
        explore: float = 0.0,
        seed: int = 0,
    ) -> np.ndarray:
        """The `depth` items with the highest scores, best first, `without` those in the basket.

        A share `explore` of the places, the last ones, goes to rare items (bought fewer than RARE
        times by anyone) that the user has not had. They are drawn without replacement with weights
        exp(score): the Gumbel-max trick (Kool, van Hoof & Welling 2019). The draw follows from
        `seed`, the user and the number of events, so that a replay explores as the first run did.
        """
        self._check_time(user, day, "a question for")
        scores = self._all_scores(user, day)
        scores[np.asarray(without, int)] = -np.inf
        top = highest(scores, min(depth, self.items))
        if not explore:
            return top
        rng = np.random.default_rng([seed, user, self.events])
        places = rng.binomial(len(top), explore)
        if not places:
            return top
        scores[top] = -np.inf
        scores[self._pairs[user]["item"][: self._owned[user]]] = -np.inf
        scores[self._times >= RARE] = -np.inf
        rare = np.flatnonzero(scores > -np.inf)
        scores[rare] += _gumbel(rng, len(rare))
        drawn = highest(scores, places)
        return np.concatenate([top[: len(top) - len(drawn)], drawn])

    def times(self, items: np.ndarray) -> np.ndarray:
        """The number of times (N,) that anyone bought each of these items (N,)."""
        return self._times[items]

    def size(self) -> dict[str, int]:
        """The bytes of the users' state and of the tables of items, without the room to grow."""
        users = sum(getattr(self, f"_{name}")[: self.users].nbytes for name in _USERS)
        pairs = int(self._owned.sum()) * PAIR.itemsize
        table = sum(getattr(self, f"_{name}")[: self.items].nbytes for name in _TABLES)
        return {"users_bytes": users + pairs, "table_bytes": table}


def initial_state(shelf: Shelf, end: int | None = None) -> Live:
    """The state after all purchases before day `end`, by default the shelf's own day.

    Raises ValueError unless the shelf's network is a `DecayedMeans`.
    """
    from ecomkd.recommend.networks import DecayedMeans  # answers are made without PyTorch

    model = shelf.model
    if not isinstance(model, DecayedMeans):
        raise ValueError(
            f"A {type(model).__name__} keeps no sums: give the shelf of a DecayedMeans."
        )
    weights = {name: part.numpy(force=True) for name, part in model.state_dict().items()}
    weights["scale.mean"] = weights["scale.running_mean"]
    weights["scale.spread"] = np.sqrt(weights["scale.running_var"] + model.scale.eps)
    baskets = model.items.baskets
    past = baskets.between(0, shelf.day if end is None else end)
    users = len(baskets.users)
    arrays = {
        **weights,
        **_tables(shelf),
        **_visits(past, users),
        **_pairs(past, users, len(baskets.items)),
        "times": np.bincount(past["item"], minlength=len(baskets.items)),
        "sums": np.zeros((users, len(_SCALES), shelf.read.shape[1] + 1)),
        "events": np.array(len(past)),
    }
    live = Live(arrays)
    live._sum_up()
    return live


def _tables(shelf: Shelf) -> dict[str, np.ndarray]:
    numbers = shelf.model.items.on(shelf.day)[1]
    tables = zip(_TABLES, (shelf.read, shelf.offers, shelf.demand, numbers), strict=True)
    return {name: table.numpy(force=True) for name, table in tables}


def _visits(past: pd.DataFrame, users: int) -> dict[str, np.ndarray]:
    """Three tables (U,) of the users' visits: the last day or -1, their number, and a bit for each
    recent one."""
    days = past[["user", "day"]].drop_duplicates()
    user, day = days["user"].to_numpy(), days["day"].to_numpy()
    last, recent = np.full(users, -1, np.int64), np.zeros(users, np.int64)
    np.maximum.at(last, user, day)
    age = last[user] - day
    late = age <= HORIZON
    np.bitwise_or.at(recent, user[late], 1 << age[late])
    return {"last": last, "recent": recent, "visits": np.bincount(user, minlength=users)}


def _pairs(past: pd.DataFrame, users: int, items: int) -> dict[str, np.ndarray]:
    """A `PAIR` for each user and item, in the order of users, and the end (U,) of each user's."""
    key = past["user"].to_numpy(np.int64) * items + past["item"].to_numpy()
    order = np.argsort(key, kind="stable")  # within a pair in the order of time
    key, day = key[order], past["day"].to_numpy()[order]
    distinct, begin, count = np.unique(key, return_index=True, return_counts=True)
    pairs = np.empty(len(distinct), PAIR)
    pairs["item"], pairs["count"] = distinct % items, count
    pairs["first"], pairs["last"] = day[begin], day[begin + count - 1]
    age = np.repeat(pairs["last"], count) - day
    for at, scale in enumerate(_SCALES):
        weight = np.bincount(np.repeat(np.arange(len(distinct)), count), np.exp(-age / scale))
        pairs["decayed"][:, at] = weight
    return {"pairs": pairs, "ends": np.searchsorted(distinct // items, np.arange(users), "right")}


def aligned(vector: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The encoder's vector (E,) of a new text, centred and scaled like those that are known.

    `Items` does the same with `vectors` (T, E), those of all texts that it knows.
    """
    mean = vectors.mean(axis=0)
    return (vector - mean) / (vectors - mean).std()


def highest(scores: np.ndarray, depth: int) -> np.ndarray:
    """The rows of the `depth` highest scores, best first; -inf never.

    Exact: a value among the `depth` highest lies in one of the `depth` blocks with the highest
    maxima, and to find maxima is a tenth of the work of partitioning all.

    Args:
        scores: (N,), N a multiple of 256.
    """
    maxima = scores.reshape(-1, _BLOCK).max(axis=1)
    count = min(depth, len(maxima))
    blocks = np.sort(np.argpartition(maxima, len(maxima) - count)[len(maxima) - count :])
    rows = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    found = scores[rows]
    rows = rows[np.argpartition(found, len(found) - depth)[len(found) - depth :]]
    rows = rows[np.lexsort((rows, -scores[rows]))]
    return rows[scores[rows] > -np.inf]


def _gumbel(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise (size,) that follows the Gumbel distribution, from single-precision uniforms.

    The recorded exploration rests on these draws; `rng.gumbel` would draw others.
    """
    uniform = np.maximum(rng.random(size, np.float32), np.finfo(np.float32).tiny)
    return -np.log(-np.log(uniform))


def _longer(table: np.ndarray, room: int, fill: float = 0) -> np.ndarray:
    more = np.full((room, *table.shape[1:]), fill, table.dtype)
    return np.concatenate([table, more])


def _linear(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.float32(np.sqrt(2)))) / 2
