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

from ecomkd.data.baskets import HORIZON
from ecomkd.recommend.evaluation import DEPTH
from ecomkd.recommend.numerics import BLOCK, gelu, gumbel, highest, linear, longer
from ecomkd.recommend.purchases import BUYERS, HABITS, ONCE, SCALES

if TYPE_CHECKING:
    from ecomkd.recommend.networks import Shelf

RARE = BUYERS
"""An item is explored while it was bought fewer times than this."""
PRIOR = 1.0
"""How many purchases the demand counts for beside a user's own, where nothing was chosen."""

PAIR = np.dtype(
    [("item", "i4"), ("count", "i4"), ("first", "i4"), ("last", "i4"), ("decayed", "f4", (3,))]
)
"""The 28 bytes that are kept of a user and an item. `decayed` are counts as of the day `last`."""

_SCALES = np.array(SCALES)
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
        prior, front: see `initial_state`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        # States of older versions have neither, and answer as they did.
        self.prior, self.front = float(arrays.get("prior", 0)), int(arrays.get("front", 0))
        self.weights = {name: part for name, part in arrays.items() if "." in name}
        self.items, self.users = len(arrays["demand"]), len(arrays["last"])
        self.events, self._times = int(arrays["events"]), np.array(arrays["times"])
        self._lay({name: arrays[name] for name in _TABLES}, arrays.get("front_rows"))
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
            "prior": np.array(self.prior),
            "front": np.array(self.front),
            "front_rows": self._front_rows,  # an added item may sell better than one of them
        }

    def _lay(self, tables: Mapping[str, np.ndarray], front: np.ndarray | None = None) -> None:
        """Take tables of items (I, ...), with room up to a whole block, which never wins.

        `front` has the rows of the front; without it they are chosen by these tables.
        """
        room = -len(tables["demand"]) % BLOCK
        for name, table in tables.items():
            fill = -np.inf if name == "demand" else 0
            setattr(self, f"_{name}", longer(np.asarray(table, np.float32), room, fill))
        times = self._times[: len(self._demand)]
        self._times = longer(times, len(self._demand) - len(times))
        self._scores = np.empty(len(self._demand), np.float32)
        rows = front
        if rows is None:
            rows = np.argsort(-self._demand[: self.items], kind="stable")[: self.front]
        self._front_rows = rows.astype(np.int32)
        self._front_offers, self._front_demand = self._offers[rows], self._demand[rows]
        self._place = np.full(len(self._demand), -1, np.int32)
        self._place[rows] = np.arange(len(rows))

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
            pairs = self._pairs[user] = longer(pairs, own // 2 + 4)
        pairs[own] = item, 1, day, day, (1, 1, 1)
        self._owned[user] += 1

    def add_user(self) -> int:
        """The row of one more user, who has no past yet."""
        for name in (*_USERS, "owned"):
            table = getattr(self, f"_{name}")
            if len(table) == self.users:
                setattr(self, f"_{name}", longer(table, self.users // 2 + 4))
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
                more = -(-self.items // (2 * BLOCK)) * BLOCK  # half as many again, whole blocks
                setattr(self, f"_{name}", longer(table, more, fill))
            self._scores = np.empty(len(self._demand), np.float32)
            self._place = longer(self._place, len(self._demand) - len(self._place), -1)
        row = self.items
        self._read[row] = linear(vector, self.weights, "read.0")
        self._offers[row] = linear(vector, self.weights, "offer.0")
        appeal = linear(vector, self.weights, "appeal") + self.weights["sales.bias"]
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

        They equal those of `Shelf.scores` with the same purchases and tables, where `prior` is 0
        and the user bought in the last three years (a network's float32 forgets what is older). A
        user without a past has no taste and no habits: items stand in the order of demand. Raises
        ValueError for a day before the user's last purchase.
        """
        self._check_time(user, day, "a question for")
        return self._all_scores(user, day)[: self.items]

    def _all_scores(self, user: int, day: int) -> np.ndarray:
        if not self._visits[user]:
            np.copyto(self._scores, self._demand)
            return self._scores
        taste, share = self._taste(user)
        np.dot(self._offers, share * taste, out=self._scores)
        self._scores += self._demand
        rows, old = self._old(user, day, taste, share)
        self._scores[rows] = old
        return self._scores

    def _taste(self, user: int) -> tuple[np.ndarray, np.float32]:
        """The taste (W,) of a user with a past, and the weight of what is known of the user."""
        # The decay of a sum and of its weights cancels in each mean: there is nothing to age.
        means = self._sums[user, :, :-1] / self._sums[user, :, -1:]
        hidden = gelu(linear(means.astype(np.float32).ravel(), self.weights, "mix.0"))
        bought = self._pairs[user]["count"][: self._owned[user]].sum()
        share = np.float32(bought / (bought + self.prior))
        return linear(hidden, self.weights, "mix.2"), share

    def _old(self, user: int, day: int, taste: np.ndarray, share: np.float32):
        """The items (S,) that a user has bought, and their scores (S,)."""
        own = self._pairs[user][: self._owned[user]]
        habit = self._habit(user, day, own, self._offers[own["item"]] @ taste)
        return own["item"], share * habit + (1 - share) * self._demand[own["item"]]

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
        curve = linear(gelu(linear(known, self.weights, "curve.0")), self.weights, "curve.2")
        return (linear(known, self.weights, "line") + curve)[:, 0]

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
        if self.front and not explore and self._visits[user]:
            return self._from_front(user, day, without, depth)
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
        scores[rare] += gumbel(rng, len(rare))
        drawn = highest(scores, places)
        return np.concatenate([top[: len(top) - len(drawn)], drawn])

    def _from_front(self, user: int, day: int, without: Sequence[int], depth: int) -> np.ndarray:
        taste, share = self._taste(user)
        rows, old = self._old(user, day, taste, share)
        new = self._front_offers @ (share * taste) + self._front_demand
        place = self._place[np.concatenate([rows, np.asarray(without, int)])]
        new[place[place >= 0]] = -np.inf
        old = np.where(np.isin(rows, without), -np.inf, old)
        scores, rows = np.concatenate([new, old]), np.concatenate([self._front_rows, rows])
        depth = min(depth, len(scores))
        found = np.flatnonzero(scores >= -np.partition(-scores, depth - 1)[depth - 1])
        found = found[np.lexsort((rows[found], -scores[found]))][:depth]
        return rows[found[scores[found] > -np.inf]]

    def bought(self, user: int) -> np.ndarray:
        """The items (S,) that a user has bought, in the order of their first purchase."""
        return self._pairs[user]["item"][: self._owned[user]].copy()

    def times(self, items: np.ndarray) -> np.ndarray:
        """The number of times (N,) that anyone bought each of these items (N,)."""
        return self._times[items]

    def size(self) -> dict[str, int]:
        """The bytes of the users' state and of the tables of items, without the room to grow."""
        users = sum(getattr(self, f"_{name}")[: self.users].nbytes for name in _USERS)
        pairs = int(self._owned.sum()) * PAIR.itemsize
        table = sum(getattr(self, f"_{name}")[: self.items].nbytes for name in _TABLES)
        return {"users_bytes": users + pairs, "table_bytes": table}


def initial_state(
    shelf: Shelf, end: int | None = None, prior: float = PRIOR, front: int = 0
) -> Live:
    """The state after all purchases before day `end`, by default the shelf's own day.

    A network that learnt from people with a long past takes a first purchase for a whole taste. So
    scores are shrunk to the demand, what sells: of a user with n purchases they are
    n / (n + prior) · score + prior / (n + prior) · demand. With 0 they are the network's own, as
    `Shelf.scores` gives them; after the first item of a newcomer these found less in chapter 14
    than what sells. There, in The Complete Journey and for each of five seeds, 1 found more than 0
    on the first two visits in the validation days. Another shop may ask for another one, or for
    none: `tuned_prior` chooses.

    A large catalogue need not be read whole: with `front`, `Live.recommend` looks among so many
    items of the highest demand, and among the user's own. That is not exact. An item that is added
    is among them after the next `Live.refresh` at the earliest.

    Raises ValueError unless the shelf's network is a `DecayedMeans`, and for a prior or a front
    below 0.
    """
    if prior < 0 or front < 0:
        raise ValueError(f"prior={prior}, front={front}: give 0 or more.")
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
        "prior": np.array(float(prior)),
        "front": np.array(front),
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
    return (vector - mean) / ((vectors - mean).std() or 1.0)
