"""Rivals of chapter 10 that a shop would train, and the book does not teach: networks over the
sequence of items (SASRec, gSASRec), and trees that rank the candidates of a user (LambdaMART).

Sizes: U users, I items, B users of a batch, L places of a sequence, W a network's width.
"""

from __future__ import annotations

import copy

import lightgbm
import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

from ecomkd import recommend
from ecomkd.data.baskets import Baskets

# Sequences of items -------------------------------------------------------------------------------


SHORT = 50
"""The places of a sequence up to which attention has dropout."""


class Sequence(nn.Module):
    """A causal transformer over item ids; an item scores by the product with its own embedding."""

    def __init__(self, items: int, length: int, width: int, dropout: float):
        super().__init__()
        self.items = nn.Embedding(items + 1, width, padding_idx=items)  # the last one pads
        # PyTorch has no fast attention with dropout, which in long sequences is most of the time.
        attention = dropout if length <= SHORT else 0.0
        rates = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": attention}
        own = GPT2Config(
            vocab_size=1, n_positions=length, n_embd=width, n_layer=2, n_head=2,
            bos_token_id=None, eos_token_id=None, **rates,
        )  # fmt: skip
        self.body = GPT2Model(own)
        nn.init.normal_(self.items.weight[:-1], std=0.02)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """States (B, L, W) after each item of the sequences (B, L), which are padded at the end."""
        return self.body(inputs_embeds=self.items(items)).last_hidden_state


class SASRec:
    """SASRec (Kang & McAuley 2018), with the cross entropy among all items in the place of its
    authors' binary loss, for it ranks better (Klenitskiy & Vasilev 2023).

    One training is kept for each choice of the other settings, with a copy of the network after
    each number of `passes`; `length` items of a user are read at once. It is fitted to the days
    before the validation days of the first shop that it is called with, and is for that shop alone.
    Items that fewer than `least` users bought by then have no embedding, and come last in the order
    of what sells. The items that a user bought on one day have no order: they are shuffled.
    """

    PASSES = (1, 2, 4, 8, 12, 16, 24, 32)

    def __init__(self, seed: int, length: int = 10, least: int = 1, passes: tuple = ()):
        self.seed, self.length, self.least = seed, length, least
        self.passes = passes or self.PASSES
        self.trained: dict[tuple, dict[int, Sequence]] = {}

    def __call__(
        self, baskets: Baskets, day: int, passes: int, **chosen: float
    ) -> recommend.Ranker:
        model, own = self.after(baskets, passes, **chosen), self.histories(baskets, day)
        filler = recommend.tie_break(recommend.popularity(baskets, day)) - 1e6

        def scores(users: np.ndarray) -> np.ndarray:
            found = np.tile(filler, (len(users), 1))
            found[:, self.kept] = self.logits(model, [own[user] for user in users])
            return found

        return recommend.rank_by(scores, recommend.history(baskets, day))

    def after(self, baskets: Baskets, passes: int, **chosen: float) -> Sequence:
        """The network after so many passes."""
        if not self.trained:
            buyers = recommend.buyers_of(recommend.history(baskets, baskets.validation_start))
            self.kept = np.flatnonzero(buyers >= self.least)
            self.place = np.full(len(baskets.items), -1)
            self.place[self.kept] = np.arange(len(self.kept))
        if (key := tuple(sorted(chosen.items()))) not in self.trained:
            self.trained[key] = self._train(baskets, **chosen)
        return self.trained[key][passes]

    def logits(self, model: Sequence, histories: list[np.ndarray]) -> np.ndarray:
        """Of the items that are kept (B, K), to come next after each of these histories."""
        rows = torch.from_numpy(np.stack([self._padded(own) for own in histories]))
        last = (rows < len(self.kept)).sum(dim=1).clamp(min=1) - 1
        with recommend.networks.at_rest(model):
            states = model(rows)[torch.arange(len(rows)), last]
            return (states @ model.items.weight[:-1].T).numpy()

    def histories(self, baskets: Baskets, day: int) -> list[np.ndarray]:
        """Each user's items before a day, oldest first, as places among those that are kept."""
        past = baskets.between(0, day)
        chance = np.random.default_rng(self.seed).random(len(past))
        order = np.lexsort((chance, past["day"], past["user"]))
        users, items = past["user"].to_numpy()[order], self.place[past["item"].to_numpy()[order]]
        users, items = users[items >= 0], items[items >= 0]
        return np.split(items, np.searchsorted(users, np.arange(1, len(baskets.users))))

    def _padded(self, items: np.ndarray, more: int = 0) -> np.ndarray:
        """The last items (L + more,), padded at the end."""
        row = np.full(self.length + more, len(self.kept))
        latest = items[-len(row) :]
        row[: len(latest)] = latest
        return row

    def _train(
        self, baskets: Baskets, width: int, dropout: float, **chosen: float
    ) -> dict[int, Sequence]:
        torch.manual_seed(self.seed)
        model = Sequence(len(self.kept), self.length, width, dropout)
        pieces = [
            self._padded(own[:end], more=1)
            for own in self.histories(baskets, baskets.validation_start)
            for end in range(len(own), 1, -self.length)
        ]
        windows, size = torch.from_numpy(np.stack(pieces)), max(16, 1024 // self.length)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        found = {}
        for number in range(1, self.passes[-1] + 1):
            for batch in windows[torch.randperm(len(windows))].split(size):
                states, wanted = model.train()(batch[:, :-1]), batch[:, 1:]
                loss = self._loss(model.items.weight[:-1], states, wanted, **chosen)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if number in self.passes:
                found[number] = copy.deepcopy(model).eval()
        return found

    def _loss(
        self, items: torch.Tensor, states: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Of states (B, L, W) and the items (B, L) that came next, padding left out."""
        there = wanted < len(items)
        return nn.functional.cross_entropy(states[there] @ items.T, wanted[there])


class GSASRec(SASRec):
    """gSASRec (Petrov & Macdonald 2023): the same network, taught to tell what came next from
    `NEGATIVES` items at random, which costs the same in a shop of any size.

    Items drawn at random make a network too sure of what is sold most. In the loss (gBCE) the
    probability of what came next is therefore raised to a power, which the share of the items that
    are drawn decides, and the setting `calibration`: 0 leaves the binary cross entropy as it is, 1
    undoes all of the overconfidence. A batch's users have negatives of their own, each user's
    places share them.
    """

    NEGATIVES = 256

    def _loss(
        self,
        items: torch.Tensor,
        states: torch.Tensor,
        wanted: torch.Tensor,
        calibration: float = 0.75,
    ) -> torch.Tensor:
        count, there = len(items), wanted < len(items)
        drawn = torch.randint(count, (len(states), self.NEGATIVES))
        rate = min(1.0, self.NEGATIVES / (count - 1))
        power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
        right = (states * items[wanted.clamp(max=count - 1)]).sum(dim=-1)[there]
        wrong = (states @ items[drawn].transpose(1, 2))[there]
        softplus = nn.functional.softplus
        return (power * softplus(-right) + softplus(wrong).sum(dim=-1)).mean()


# Trees over candidates ----------------------------------------------------------------------------


class Trees:
    """LambdaMART (Burges 2010) over the habit, the neighbours and the sales of candidates.

    Candidates of a user are the `own` items with the highest decayed counts, and the `others` that
    most of the user's neighbours bought lately, new to the user; of equals those that sell most.
    """

    def __init__(self, baskets: Baskets, near: dict, own: int = 200, others: int = 100):
        self.baskets, self.near, self.own, self.others = baskets, near, own, others
        self.collator = recommend.BasketCollator(baskets)
        self.known: dict[tuple[int, bytes], tuple] = {}

    def candidates(self, day: int, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of users (N,), places among `users`, items (N,) and their features (N, F).

        They are kept, for all settings of the trees rank the same ones.
        """
        if (key := (day, users.tobytes())) not in self.known:
            self.known[key] = self._candidates(day, users)
        return self.known[key]

    def _candidates(self, day: int, users: np.ndarray) -> tuple:
        share = recommend.neighbours_share(self.baskets, day, **self.near)
        sales = np.log1p([recommend.popularity(self.baskets, day, span) for span in (7, 28, 112)])
        ties = recommend.tie_break(recommend.popularity(self.baskets, day, 28))
        parts = []
        for first in range(0, len(users), 256):
            some = users[first : first + 256]
            batch = self.collator([{"day": day, "users": some, "labelled": False}])
            user, seen, habit = (batch[name].numpy() for name in ("user", "seen", "habit"))
            shares = share(some)
            order = np.lexsort((-habit[:, 1], user))
            rank = np.arange(len(user)) - np.searchsorted(user[order], user[order])
            kept = order[rank < self.own]
            fresh = shares + ties
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

    def table(
        self, day: int, asked: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels and sizes of groups, of all who bought before the day and after it, or
        of those among them who are `asked`."""
        wanted = recommend.targets(self.baskets, day)
        users = np.intersect1d(recommend.users_before(self.baskets, day), list(wanted))
        users = users if asked is None else np.intersect1d(users, asked)
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

    def ranker(self, day: int, number: int | None = None) -> recommend.Ranker:
        """A ranker by the trees, or by the first `number` of them."""
        filler = recommend.tie_break(recommend.popularity(self.baskets, day)) - 1e6

        def scores(users: np.ndarray) -> np.ndarray:
            rows, items, numbers = self.candidates(day, users)
            found = np.tile(filler, (len(users), 1))
            found[rows, items] = self.model.booster_.predict(numbers, num_iteration=number)
            return found

        return recommend.rank_by(scores, recommend.history(self.baskets, day))

    def asking(self, day: int, score: recommend.Scores) -> recommend.Ranker:
        """A ranker that scores all items of a user, and shows those alone that are candidates."""

        def scores(users: np.ndarray) -> np.ndarray:
            rows, items, _ = self.candidates(day, users)
            found = np.full((len(users), len(self.baskets.items)), -np.inf)
            found[rows, items] = score(users)[rows, items]
            return found

        return recommend.rank_by(scores, recommend.history(self.baskets, day))

    def perfect(self, day: int) -> recommend.Ranker:
        """Who ranks the candidates with the knowledge of what is bought from the day on."""
        wanted = recommend.targets(self.baskets, day)

        def bought(users: np.ndarray) -> np.ndarray:
            found = np.zeros((len(users), len(self.baskets.items)))
            for place, user in enumerate(users):
                found[place, wanted.get(user, [])] = 1
            return found

        return self.asking(day, bought)

    def reach(self, day: int) -> float:
        """The share of what is bought from the day on that is among the candidates."""
        wanted = recommend.targets(self.baskets, day)
        users = np.intersect1d(recommend.users_before(self.baskets, day), list(wanted))
        rows, items, _ = self.candidates(day, users)
        hits = [np.isin(wanted[user], items[rows == place]) for place, user in enumerate(users)]
        return float(np.mean([hit.mean() for hit in hits]))
