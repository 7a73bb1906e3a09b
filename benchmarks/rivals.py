"""A rival of chapter 10 that a shop would train, and the book does not teach: trees that rank the
candidates of a user (LambdaMART)."""

from __future__ import annotations

import lightgbm
import numpy as np

from ecomkd import recommend
from ecomkd.data.baskets import Baskets


class Trees:
    """LambdaMART (Burges 2010) over the habit, the neighbours and the sales of candidates.

    Candidates of a user are the `own` items with the highest decayed counts, and the `others` that
    most of the user's neighbours bought lately, new to the user.
    """

    def __init__(self, baskets: Baskets, near: dict, own: int = 200, others: int = 100):
        self.baskets, self.near, self.own, self.others = baskets, near, own, others
        self.collator = recommend.BasketCollator(baskets)

    def candidates(self, day: int, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of users (N,), places among `users`, items (N,) and their features (N, F)."""
        share = recommend.neighbours_share(self.baskets, day, **self.near)
        sales = np.log1p([recommend.popularity(self.baskets, day, span) for span in (7, 28, 112)])
        parts = []
        for first in range(0, len(users), 256):
            some = users[first : first + 256]
            batch = self.collator([{"day": day, "users": some, "labelled": False}])
            user, seen, habit = (batch[name].numpy() for name in ("user", "seen", "habit"))
            shares = share(some)
            order = np.lexsort((-habit[:, 1], user))
            rank = np.arange(len(user)) - np.searchsorted(user[order], user[order])
            kept = order[rank < self.own]
            fresh = shares.copy()
            fresh[user, seen] = -1
            others = min(self.others, fresh.shape[1])
            top = np.argpartition(-fresh, others - 1, axis=1)[:, :others]
            rows = np.concatenate([user[kept], np.repeat(np.arange(len(some)), others)])
            items = np.concatenate([seen[kept], top.ravel()])
            habits = np.zeros((len(rows), habit.shape[1]), np.float32)
            habits[: len(kept)] = habit[kept]
            numbers = np.column_stack([habits, shares[rows, items], sales[:, items].T])
            parts.append((rows + first, items, numbers))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def table(self, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels and sizes of groups, of all who bought before the day and after it."""
        wanted = recommend.targets(self.baskets, day)
        users = np.intersect1d(recommend.users_before(self.baskets, day), list(wanted))
        rows, items, numbers = self.candidates(day, users)
        count = len(self.baskets.items)
        right = np.concatenate([place * count + wanted[user] for place, user in enumerate(users)])
        order = np.argsort(rows, kind="stable")
        hit = np.isin(rows * count + items, right)
        return numbers[order], hit[order], np.bincount(rows)

    def fit(self, tables: list[tuple], leaves: int, rate: float, number: int) -> Trees:
        """Learn so many trees from the tables of some days."""
        numbers, hits, sizes = zip(*tables, strict=True)
        self.model = lightgbm.LGBMRanker(
            num_leaves=leaves, learning_rate=rate, n_estimators=number, min_child_samples=100,
            lambdarank_truncation_level=20, n_jobs=1, verbose=-1, random_state=0,
        )  # fmt: skip
        self.model.fit(np.concatenate(numbers), np.concatenate(hits), group=np.concatenate(sizes))
        return self

    def ranker(self, day: int) -> recommend.Ranker:
        filler = recommend.tie_break(recommend.popularity(self.baskets, day)) - 1e6

        def scores(users: np.ndarray) -> np.ndarray:
            rows, items, numbers = self.candidates(day, users)
            found = np.tile(filler, (len(users), 1))
            found[rows, items] = self.model.booster_.predict(numbers)
            return found

        return recommend.rank_by(scores, recommend.history(self.baskets, day))

    def reach(self, day: int) -> float:
        """The share of what is bought from the day on that is among the candidates."""
        wanted = recommend.targets(self.baskets, day)
        users = np.intersect1d(recommend.users_before(self.baskets, day), list(wanted))
        rows, items, _ = self.candidates(day, users)
        hits = [np.isin(wanted[user], items[rows == place]) for place, user in enumerate(users)]
        return float(np.mean([hit.mean() for hit in hits]))
