"""Profile cards: sentences about a person that lead back to the purchases behind them.

Chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecomkd.data.baskets import Baskets
from ecomkd.people import habits
from ecomkd.people.goods import called, no_goods
from ecomkd.people.habits import CERTAIN, LEAST, RECENT


@dataclass(frozen=True)
class Statement:
    """A sentence about a user, and what it rests on."""

    topic: str
    text: str
    value: float
    usual: float
    """The `value` of an average user."""
    about: int | None
    """The number of the group of items that the statement is about, None where it is no group."""
    events: np.ndarray
    """The labels, in `Baskets.events`, of the purchases that the statement rests on."""


class Cards:
    """Makes the card of a user: the statements for which there is enough evidence.

    Items that are `sensitive`, or `no_goods`, are not read. A statement needs `LEAST` clusters of
    observations (see `against`) or `LEAST` days; for a group of items, a quarter of that many
    purchases are enough. It also has to lie `CERTAIN` standard errors away from what is usual. The
    card of a user without such evidence is empty. A group is called by what the user bought of it,
    see `named`.

    Args:
        baskets: with `type`, `category`, `brand`, `size` and `maker` of items.
        day: the first day that is not known.
        groups: (I,), for each item the number of its group.
        first_day: the date of day 0.
    """

    def __init__(self, baskets: Baskets, day: int, groups: np.ndarray, first_day: str):
        unread = (habits.sensitive(baskets.items) != "") | no_goods(baskets.items)
        baskets = habits.without(baskets, unread.to_numpy())
        users, start = len(baskets.users), max(0, day - RECENT)
        self.day, self.groups = day, groups
        self.kind, self.kinds = pd.factorize(called(baskets.items))
        self.past = baskets.between(0, day)
        self.rows = self.past.groupby("user").indices
        self.counts = habits.group_counts(baskets, day, groups)
        sold = np.bincount(self.kind[self.past["item"]], minlength=len(self.kinds))
        self.kind_share = sold / sold.sum()
        self.lift, self.surprise = habits.lift(self.counts), habits.surprise(self.counts)
        before = habits.group_counts(baskets, start, groups)
        self.recent = self.counts - before
        self.trend = habits.trend(before, self.recent)
        self.seen = {
            "price level": habits.price_places(baskets, day),
            "own brands": habits.own_brands(baskets, day),
            "loyalty": habits.repeats(baskets, day),
        }
        self.habits = {topic: habits.against(seen, users) for topic, seen in self.seen.items()}
        self.rhythm = habits.rhythm(baskets, day, first_day)
        came = self.rhythm["visits"] >= LEAST
        self.usual_a_week = self.rhythm.loc[came, "a_week"].median()
        self._labels = {topic: seen.groupby("user").groups for topic, seen in self.seen.items()}

    def __call__(self, user: int) -> list[Statement]:
        """The statements about a user (a row of `Baskets.users`).

        Interests come first, then those that rise and fall, habits, and the rhythm of visits.
        Raises ValueError for a row that is not there.
        """
        users = self.counts.shape[0]
        if not 0 <= user < users:
            raise ValueError(
                f"Cards: there is no user {user}; give a row of `users`, 0 to {users - 1}."
            )
        if user not in self.rows:
            return []
        own = self.past.iloc[self.rows[user]]
        return [*self._interests(user, own), *self._habits(user), *self._rhythm(user, own)]

    def _interests(self, user: int, own: pd.DataFrame) -> list[Statement]:
        group, bought = self.groups[own["item"]], self.counts[[user]].toarray()[0]
        late = own["day"].to_numpy() >= self.day - RECENT
        found = []
        firm = (bought >= LEAST / 4) & (self.surprise[user] >= CERTAIN)
        for g in np.flatnonzero(firm)[np.argsort(-self.surprise[user][firm])]:
            times, receipt = self.lift[user, g], own[group == g]
            goods, part = self.said(receipt, len(own))
            text = (
                f"Buys {goods} {times:.1f} times as much as usual: "
                f"{bought[g]:.0f} of {len(own)} purchases{part}."
            )
            labels = receipt.index.to_numpy()
            found.append(Statement("interest", text, times, 1.0, int(g), labels))
        of_late = self.recent[[user]].toarray()[0]
        for sign, topic in ((1, "rising"), (-1, "falling")):
            moved = sign * self.trend[user]
            enough = (of_late if sign > 0 else bought - of_late) >= LEAST / 4
            for g in np.flatnonzero(enough & (moved >= CERTAIN)):
                receipt = own[(group == g) & (late | (sign < 0))]
                goods, part = self.said(receipt, len(own))
                all_of_them = part.replace("them", f"all {len(receipt)} were", 1)
                recent, earlier = (part, "") if sign > 0 else ("", all_of_them)
                text = (
                    f"Of late buys {'more' if sign > 0 else 'less'} {goods}: "
                    f"{of_late[g]:.0f} purchases in {RECENT} days{recent}, "
                    f"{bought[g] - of_late[g]:.0f} before{earlier}."
                )
                labels = receipt.index.to_numpy()
                found.append(Statement(topic, text, self.trend[user, g], 0.0, int(g), labels))
        return found

    def named(self, receipt: pd.DataFrame, purchases: int) -> np.ndarray:
        """The kinds of goods by which a receipt is called: codes of `kinds`, one or two.

        They are those of which the user bought most beyond the shop's share. A second one is named
        only where the first is less than half of the receipt, and the second too is bought more
        than usual.

        Args:
            receipt: events of one user, those behind a statement.
            purchases: the number of all the user's events.
        """
        kinds, counts = np.unique(self.kind[receipt["item"]], return_counts=True)
        more = counts - purchases * self.kind_share[kinds]
        order = np.argsort(-more, kind="stable")[:2]
        alone = 2 * counts[order[0]] >= len(receipt) or more[order[-1]] <= 0
        return kinds[order[: 1 if alone else 2]]

    def said(self, receipt: pd.DataFrame, purchases: int) -> tuple[str, str]:
        """The goods of a receipt in words, and how many of its purchases are of the kinds named."""
        named = self.named(receipt, purchases)
        words = [self.kinds[kind] for kind in named]
        of_them = int(np.isin(self.kind[receipt["item"]], named).sum())
        if of_them == len(receipt):
            return " and ".join(words), ""
        return ", ".join(words) + " and the like", f", {of_them} of them {' or '.join(words)}"

    def _habits(self, user: int) -> list[Statement]:
        texts = {
            "price level": "Pays {} than usual for the same type and size: place {:.2f} from the "
            "cheapest (0) to the dearest (1), usual {:.2f}; {} purchases.",
            "own brands": "Buys the shop's own brands {} than usual: {:.0%} of purchases, "
            "usual {:.0%} for these types; {} purchases.",
            "loyalty": "Comes back to the same maker {} than usual: {:.0%} of the times, "
            "usual {:.0%} for these types; {} purchases.",
        }
        words = {"price level": ("more", "less"), "loyalty": ("more often", "less often")}
        found = []
        for topic, text in texts.items():
            row = self.habits[topic].loc[user]
            if not (row["clusters"] >= LEAST and abs(row["z"]) >= CERTAIN):
                continue
            word = words.get(topic, ("more", "less"))[int(row["z"] < 0)]
            text = text.format(word, row["value"], row["expected"], int(row["n"]))
            labels = self._labels[topic][user].to_numpy()
            found.append(Statement(topic, text, row["value"], row["expected"], None, labels))
        return found

    def _rhythm(self, user: int, own: pd.DataFrame) -> list[Statement]:
        row, found = self.rhythm.loc[user], []
        if row["visits"] < LEAST:
            return found
        labels = own.index.to_numpy()
        if abs(row["pace"]) >= CERTAIN:
            usual = self.usual_a_week
            text = (
                f"Comes {'more' if row['pace'] > 0 else 'less'} often than usual: "
                f"{row['a_week']:.1f} times a week, usual {usual:.1f}; {row['visits']:.0f} days."
            )
            found.append(Statement("rhythm", text, row["a_week"], usual, None, labels))
        if row["z"] >= CERTAIN:
            text = (
                f"Comes on {row['weekday']} more than usual: {row['share']:.0%} of "
                f"{row['visits']:.0f} days, usual {row['expected']:.0%}."
            )
            found.append(Statement("weekday", text, row["share"], row["expected"], None, labels))
        return found
