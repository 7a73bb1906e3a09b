"""Small recommenders whose unit of learning is a household, so that one can be taken out or hidden.

What is recommended are types of products that are new to a household; the names of all types are
public. Sizes: N households, R occasions each, T types, E numbers of a type's vector. Chapter 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ecomkd.extras import needed

with needed("ecomkd.privacy.tastes", "privacy"):
    import torch
    from torch import nn

from ecomkd import losses, ranks, runtime
from ecomkd.data.baskets import HORIZON, Baskets

SCALE = 112.0
"""Days after which a purchase counts for 1/e, as chapter 10 chose it."""
OLD = -1e4
"""The score of a type that a household has had before: it is not to be found."""
DEPTH = 10
"""How many types are shown."""


@dataclass(frozen=True)
class Records:
    """What is known of N households on R days each, and what new they bought in the weeks after.

    `decayed` (N, R, T), in half precision: the logarithm of one plus the decayed purchases of each
    type before the day, 0 for a type that the household never had. `bought` (N, R, T): equal
    shares for the new types that it buys in the `HORIZON` days from the day on, all 0 where there
    are none.
    """

    decayed: torch.Tensor
    bought: torch.Tensor

    def __len__(self) -> int:
        return len(self.decayed)

    def of(self, rows: Sequence[int] | np.ndarray, days: Sequence[int] | None = None) -> Records:
        """Those of some households (B,) on some of the R days, in single precision."""
        own = torch.as_tensor(rows)
        some = slice(None) if days is None else torch.as_tensor(days)
        return Records(self.decayed[own][:, some].float(), self.bought[own][:, some].float())


def types_of(baskets: Baskets) -> tuple[list[str], np.ndarray]:
    """What names all types of products (T,), sorted, and the type (I,) of each item.

    A name is the type, and the category and department of the first item that is of it. Raises
    ValueError where the items have no such columns.
    """
    columns = ["type", "category", "department"]
    missing = [name for name in columns if name not in baskets.items]
    if missing:
        raise ValueError(
            f"types_of: the items have no column {missing[0]!r}; take those of data.journey."
        )
    _, first, codes = np.unique(
        baskets.items["type"].to_numpy(str), return_index=True, return_inverse=True
    )
    names = baskets.items[columns].iloc[first].agg(" . ".join, axis=1).str.lower()
    return list(names), codes


def table(
    baskets: Baskets, codes: np.ndarray, first: int, end: int, scale: float | None = None
) -> sp.csr_matrix:
    """What users bought of each type (U, T) on the days `first` to `end` - 1.

    Without a `scale` it is 1 where a user bought any; with one, in days, it is the sum of
    exp(-age / scale) on the day `end`.
    """
    events = baskets.between(first, end)
    weight = np.ones(len(events))
    if scale is not None:
        weight = np.exp((events["day"].to_numpy() - end) / scale)
    place = (events["user"].to_numpy(), codes[events["item"].to_numpy()])
    shape = (len(baskets.users), int(codes.max()) + 1)
    found = sp.csr_matrix((weight.astype(np.float32), place), shape)
    if scale is None:
        found.data[:] = 1
    return found


def records(baskets: Baskets, codes: np.ndarray, days: Sequence[int]) -> Records:
    """What all users of a shop did before these days (R,), and what is new from each of them on.

    Raises ValueError for a day without a purchase before it, or without `HORIZON` days after it.
    """
    for day in days:
        if not 0 < day <= baskets.days - HORIZON:
            raise ValueError(
                f"records: day {day} has no past, or no {HORIZON} days after it; take one from 1 "
                f"to {baskets.days - HORIZON}."
            )
    decayed, bought = [], []
    for day in days:
        before = table(baskets, codes, 0, day, SCALE).log1p()
        after = table(baskets, codes, day, day + HORIZON)
        new = after - after.multiply(before > 0)
        share = new.multiply(1 / np.maximum(np.asarray(new.sum(axis=1)), 1))
        decayed.append(torch.from_numpy(before.toarray()).half())
        bought.append(torch.from_numpy(share.toarray()).half())
    return Records(torch.stack(decayed, dim=1), torch.stack(bought, dim=1))


class Student(nn.Module):
    """Scores (B, R, T) of types: what sells, and a household's taste u · v.

    v (T, E) is public and stays as it is; u is a linear map of the mean of what a household bought.
    There are E² + E + 1 weights, none for a single type, and no layer that mixes the households of
    a batch.

    Args:
        vectors: (T, E), of the types.
        sales: (T,), logarithms of how many households buy a type.
    """

    def __init__(self, vectors: np.ndarray, sales: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.as_tensor(vectors, dtype=torch.float32))
        self.register_buffer("sales", torch.as_tensor(sales, dtype=torch.float32))
        width = self.vectors.shape[1]
        self.demand = nn.Linear(1, 1, bias=False)
        self.taste = nn.Linear(width, width)
        with torch.no_grad():
            self.demand.weight.fill_(1.0)
            self.taste.weight.zero_()
            self.taste.bias.zero_()

    def forward(self, decayed: torch.Tensor) -> torch.Tensor:
        share = decayed / decayed.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        taste = self.taste(share @ self.vectors) @ self.vectors.T
        demand = self.demand(self.sales.expand_as(decayed)[..., None])[..., 0]
        return (demand + taste).masked_fill(decayed > 0, OLD)


class Teacher(nn.Module):
    """Scores (B, R, T) of types: what sells, and an autoencoder T → H → T of what was bought.

    It has weights of its own for each type, some 2 T · H in all (Liang et al. 2018, with one hidden
    layer and without its variational part). `sales` is as in `Student`.
    """

    def __init__(self, sales: np.ndarray, hidden: int = 128, dropout: float = 0.8) -> None:
        super().__init__()
        self.register_buffer("sales", torch.as_tensor(sales, dtype=torch.float32))
        self.demand = nn.Linear(1, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.into = nn.Linear(len(sales), hidden)
        self.out = nn.Linear(hidden, len(sales))
        with torch.no_grad():
            self.demand.weight.fill_(1.0)
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, decayed: torch.Tensor) -> torch.Tensor:
        hidden = self.into(self.dropout(nn.functional.normalize(decayed, dim=-1)))
        demand = self.demand(self.sales.expand_as(decayed)[..., None])[..., 0]
        return (demand + self.out(torch.tanh(hidden))).masked_fill(decayed > 0, OLD)


def ease(bought: np.ndarray, penalty: float) -> np.ndarray:
    """The weights (T, T) of a linear autoencoder without a diagonal, from a table of pairs.

    `bought` (T, T) counts the households that bought both of two types. In closed form (EASE, Steck
    2019). Raises ValueError unless the penalty is above 0.
    """
    if not penalty > 0:
        raise ValueError(f"ease: a penalty of {penalty} leaves the table singular; give above 0.")
    inverse = np.linalg.inv(bought + penalty * np.eye(len(bought), dtype=bought.dtype))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def household_loss(logits: torch.Tensor, bought: torch.Tensor) -> torch.Tensor:
    """Cross entropy (B,) of each household: of what it bought (B, R, T) under softmax(logits).

    It is the mean over its occasions; one without a new type counts as 0.
    """
    return -(bought * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)


def fit(
    model: nn.Module,
    seen: Records,
    rows: np.ndarray,
    steps: int,
    rate: float,
    teacher: nn.Module | None = None,
    alpha: float = 1.0,
    labelled: bool = True,
    batch_size: int = 100,
    picks: int = 1,
    seed: int = 0,
) -> nn.Module:
    """Train `model` in place on the households `rows` (B,) of `seen`, and return it in eval mode.

    Each step looks at `picks` of the occasions. With a `teacher` the loss is cross entropy + alpha
    · KL to the teacher's scores (chapter 3), and where they are not `labelled`, the second alone.
    Raises ValueError where nothing says what to learn.
    """
    own = np.asarray(rows)
    if not len(own) or (teacher is None and not labelled):
        raise ValueError("fit: there are neither purchases nor a teacher to learn from; give one.")
    with runtime.seeded(seed):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        queue = own[:0]
        model.train()
        for _ in range(steps):
            if len(queue) < min(batch_size, len(own)):
                queue = own[torch.randperm(len(own)).numpy()]
            batch, queue = queue[:batch_size], queue[batch_size:]
            part = seen.of(batch, some_days(seen, picks))
            logits = model(part.decayed)
            loss = logits.new_zeros(())
            if labelled:
                loss = household_loss(logits, part.bought).mean()
            if teacher is not None:
                with torch.no_grad():
                    wanted = teacher(part.decayed)
                soft = losses.soft_kl(logits.flatten(0, 1), wanted.flatten(0, 1))
                loss = loss + alpha * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def some_days(seen: Records, picks: int) -> torch.Tensor:
    """The places of `picks` of the R occasions, drawn by PyTorch's generator."""
    return torch.randperm(seen.decayed.shape[1])[:picks]


def scores_of(model: nn.Module, seen: Records, rows: np.ndarray, size: int = 200) -> np.ndarray:
    """Scores (B, R, T) of the households `rows` (B,) under `model`, in eval mode."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(seen.of(rows[first : first + size]).decayed)
            for first in range(0, len(rows), size)
        ]
    return torch.cat(parts).numpy()


def losses_of(model: nn.Module, seen: Records, rows: np.ndarray, size: int = 200) -> np.ndarray:
    """The loss (B,) of the households `rows`: what whoever sees the scores of `model` can see."""
    model.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(rows), size):
            part = seen.of(rows[first : first + size])
            found.append(household_loss(model(part.decayed), part.bought))
    return torch.cat(found).numpy()


def hits(scores: np.ndarray, seen: Records, rows: np.ndarray) -> np.ndarray:
    """The recall (B,) of each household's new types among the ten best, NaN where it buys none.

    `scores` (B, T) are those of the one occasion of `seen`; types that a household had before are
    not shown. It divides by the smaller of ten and the number of its new types, as chapter 10 does.
    """
    part = seen.of(rows)
    wanted = part.bought[:, 0].numpy() > 0
    shown = np.where(part.decayed[:, 0].numpy() > 0, -np.inf, scores)
    top = ranks.first(shown, min(DEPTH, shown.shape[1]))
    found = np.take_along_axis(wanted, top, axis=1).sum(axis=1)
    count = wanted.sum(axis=1)
    return np.where(count > 0, found / np.clip(count, 1, DEPTH), np.nan)
