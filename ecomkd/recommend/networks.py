"""Networks that score what a household will buy, from what is known of users and items on a day.

The teacher is a transformer over the last purchases, the student a network over decayed means.

Sizes: U users, I items, B users of a batch, K candidates, E an encoder's width, W a network's.
Chapters 10 and 14.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.utils.extmath import randomized_svd

from ecomkd.extras import needed

with needed("ecomkd.recommend.networks", "recommend"):
    import torch
    from safetensors.torch import load_file
    from torch import nn

from ecomkd import runtime
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend.evaluation import Ranker, rank_by
from ecomkd.recommend.purchases import HABITS, ONCE, SCALES, buyers_of, history, texts

_SPANS = (7, 28, 112)  # days, of sales
_BASKETS = 48  # the latest visits, which a transformer reads
_AGES = 36
_DROPOUT = 0.2


class Items:
    """Tables of what is known of all items on a day, from texts, prices and past sales.

    No item has weights of its own.

    Args:
        vectors: (T, E), an encoder's vectors of the distinct texts, in the order of `texts`.
        first: buyers are told apart by what they bought before this day, in `width` numbers.
        profile: for its seed, and for the device that all tensors stay on.
    """

    def __init__(
        self, baskets: Baskets, vectors: np.ndarray, first: int, width: int, profile: Profile
    ):
        self.baskets, self.device = baskets, runtime.device(profile)
        codes = texts(baskets)[1]
        self.key = _key(baskets, vectors, codes, first, width, profile.seed)
        self.text_of = torch.from_numpy(codes).to(self.device)
        centred = vectors - vectors.mean(axis=0)
        spread = centred.std() or 1.0  # one text for all items tells nothing
        self.vectors = torch.from_numpy(centred / spread).float().to(self.device)
        self._people = _people(history(baskets, first), width, profile.seed)
        events = baskets.events
        place, shape = (events["day"], events["item"]), (baskets.days, len(baskets.items))
        self._sold = sp.csr_matrix((np.ones(len(events), np.float32), place), shape)
        self._paid = sp.csr_matrix((events["price"].to_numpy(), place), shape)
        # A day a week is learnt from, and some more are asked for.
        self.on = lru_cache(maxsize=max(64, baskets.days // 7 + 8))(self._on)

    def _on(self, day: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tables of what was known before `day`.

        The first, (I, width + 1), says who bought each item, and the logarithm of its mean price
        less the mean of all items. The second, (I, 4), has the logarithms of its sales in 7, 28 and
        112 days, and the share of its buyers who came back for it, where four more buyers are
        assumed of whom one did. What is not known of an item that was never sold is 0.
        """
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
    """The part of a key that stands for the items: purchases, texts' vectors, and settings."""
    columns = (baskets.events[name].to_numpy() for name in ("user", "item", "day", "price"))
    parts = [*columns, vectors, codes]
    return [*(sha256(np.ascontiguousarray(part)).hexdigest() for part in parts), *settings]


def _people(past: sp.csr_matrix, width: int, seed: int) -> np.ndarray:
    """Vectors (U, width) of users by what they bought: left singular vectors of tf-idf counts."""
    weights = TfidfTransformer(sublinear_tf=True).fit_transform(past)
    left, _, _ = randomized_svd(weights, width, random_state=seed)
    return (left * np.sqrt(past.shape[0])).astype(np.float32)


class BasketCollator:
    """A collator that makes the tensors of a row from what its users bought before its day.

    A row has `day`, `users` (B,) and `labelled`. Of the tensors,
    `item` (N,) and `slot` (N,): the items of the latest baskets; basket j of user b is slot
    b · L + j. `age` (B, L), steps of a logarithmic scale, and `mask` (B, L), for those baskets.
    `user` (S,), `seen` (S,), `habit` (S, HABITS): each user's own items and how they were bought.
    `buyer` (P,) and `bought` (P,): the targets, from the day on, none where the row is not
    labelled. Whatever else the row has, such as a teacher's scores, goes along. Raises ValueError
    for a user who has bought nothing before the day.
    """

    def __init__(self, baskets: Baskets):
        self.baskets = baskets
        events = baskets.events.sort_values("user", kind="stable")
        ends = np.searchsorted(events["user"], np.arange(1, len(baskets.users)))
        self.days, self.items = (
            np.split(events[name].to_numpy(), ends) for name in ("day", "item")
        )

    def __call__(self, rows: list[dict]) -> dict:
        (row,) = rows
        day, found = int(row["day"]), defaultdict(list)
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
            age = np.minimum(4 * np.log2(day - visits), _AGES - 1).astype(np.int64)
            room = _BASKETS - len(visits)
            own = {
                "slot": place * _BASKETS + np.searchsorted(visits, days[late:now]),
                "item": items[late:now],
                "age": np.pad(age, (0, room))[None],
                "mask": np.pad(np.ones(len(visits), bool), (0, room))[None],
                "user": np.full(len(seen), place),
                "seen": seen,
                "habit": habit,
                "buyer": np.full(len(new), place),
                "bought": new,
            }
            for name, part in own.items():
                found[name].append(part)
        batch = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in found.items()}
        given = {name: torch.as_tensor(row[name]) for name in row if name not in ("day", "users")}
        return {"day": day, **batch, **given}


Reader = BasketCollator  # the former name, which chapters 10 and 14 use


def _habits(day: int, days: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items (S,) of a user, and (S, HABITS) logarithms that tell the habit with each.

    They are of three decayed counts, the count, the days since the last time, the days between two
    times, the ratio of these two, and the number of the user's visits, lately and in all.
    """
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


class Recommender(nn.Module):
    """A network that gives the log-odds that a user buys an item in the next `HORIZON` days.

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
        """The users' tastes (B, W). `read` turns rows of items (N,) into vectors (N, W)."""
        raise NotImplementedError

    def vectors(
        self,
        layers: nn.ModuleList,
        rows: torch.Tensor,
        day: int,
        hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Vectors (N, W) of items, rows (N,), from their texts, prices and buyers before `day`.

        Of those that are `hidden` (N,) the text alone is looked at.
        """
        distinct, own = self.items.text_of[rows].unique(return_inverse=True)
        text, met = layers
        known = _without(self.items.on(day)[0][rows].float(), hidden)
        return text(self.items.vectors[distinct])[own] + met(known)

    def demand(
        self, rows: torch.Tensor, day: int, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log-odds (N,) that anyone buys the items, rows (N,), from what `vectors` reads."""
        sales = _without(self.items.on(day)[1][rows, : len(_SPANS)], hidden)
        appeal = self.appeal(self.items.vectors)[self.items.text_of[rows]]
        return (self.sales(sales) + appeal)[:, 0]

    def forward(
        self, batch: dict, candidates: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log-odds (B, K) of the candidates (K,), rows of items, each once.

        Of those that are `hidden` (K,) the text alone is looked at, as of an item that was never
        sold.
        """
        day = batch["day"]
        taste = self.taste(batch, lambda rows: self.vectors(self.read, rows, day))
        offers = self.vectors(self.offer, candidates, day, hidden)
        columns = columns_of(candidates, len(self.items.text_of))
        return self.log_odds(batch, taste @ offers.T, self.demand(candidates, day, hidden), columns)

    def log_odds(
        self, batch: dict, liking: torch.Tensor, demand: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Log-odds (B, K) of the candidates, by habit where a user has had the item.

        They are made of how well the users like the candidates (B, K), of the `demand` (K,), and
        of the `columns_of` the candidates (I,).
        """
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
    """The column of each item (I,) among the candidates, -1 where it is none of them."""
    place = torch.full((items,), -1, device=candidates.device)
    place[candidates] = torch.arange(len(candidates), device=candidates.device)
    return place


class BasketTransformer(Recommender):
    """The teacher: a transformer over the latest baskets. Each is its items' mean, and its age."""

    def __init__(self, items: Items, width: int = 128):
        super().__init__(items, width, hidden=64)
        self.age = nn.Embedding(_AGES, width)
        nn.init.normal_(self.age.weight, std=0.02)
        self.before = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, _DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.dropout = nn.Dropout(_DROPOUT)
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
            # After some four years nothing is left of the shortest scale.
            least = torch.finfo(total.dtype).tiny
            parts.append(sums / total.clamp_min(least)[:, None])
        return self.mix(torch.cat(parts, dim=1))


class Shelf:
    """A network on one day, with its tables of all items made beforehand, ready to serve.

    Args:
        model: what scores.
        collator: the collator of the same shop.
        day: the first day that is not known.
    """

    def __init__(self, model: Recommender, collator: BasketCollator, day: int):
        self.model, self.collator, self.day = model, collator, day
        self.columns = torch.arange(len(model.items.baskets.items), device=model.items.device)
        with at_rest(model):
            self.read = model.vectors(model.read, self.columns, day)
            self.offers = model.vectors(model.offer, self.columns, day)
            self.demand = model.demand(self.columns, day)

    def scores(self, users: np.ndarray) -> np.ndarray:
        """Log-odds (B, I) of all items, for users (B,) who have bought something before the day."""
        batch = self.collator([{"day": self.day, "users": users, "labelled": False}])
        batch = moved(batch, self.model.items.device)
        with at_rest(self.model) as model:
            taste = model.taste(batch, self.read.__getitem__)
            liking = taste @ self.offers.T
            return model.log_odds(batch, liking, self.demand, self.columns).cpu().numpy()


def network(shelf: Shelf) -> Ranker:
    """A ranker of all items by a network on its shelf's day, for users whom its collator knows."""
    return rank_by(shelf.scores, history(shelf.collator.baskets, shelf.day), size=128)


@contextmanager
def at_rest(model: Recommender) -> Iterator[Recommender]:
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


def moved(batch: dict, device: torch.device) -> dict:
    return {name: part if name == "day" else part.to(device) for name, part in batch.items()}


def load(folder: Path, kind: type[Recommender], items: Items) -> Recommender:
    """The network that `train` left in a folder, in eval mode."""
    with runtime.seeded(0):  # the weights that are drawn are overwritten
        model = kind(items)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(items.device).eval()
