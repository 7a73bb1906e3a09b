"""The model of a store: what a household will buy, by habit, by what sells and by taste.

Sizes: B households of a batch, I kinds of product, E numbers of a text, W the model's width.
Chapter 18.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.federated.stores", "federated"):
    import torch
    from torch import nn

from ecomkd.federated.silos import Moment

DEPTH = 10
"""How many kinds are shown to a household."""
HABIT = (2.0, 0.75, 0.3, 1.0)
"""The first weights of having had a kind, of its count, and of what sells: old and new kinds."""
_LITTLE = 0.01  # so that the logarithm of a decayed count has a floor


class StoreModel(nn.Module):
    """Scores (B, I) of what households buy next, from decayed counts and what sells.

    A kind that a household has had is scored by habit: the logarithm of its decayed count, and what
    sells. A new one is scored by what sells, by a number of its own, and by taste: the mean text of
    what was bought, through two maps of width W. Before training, taste is 0.

    Args:
        vectors: (I, E), of the texts of all kinds. They are known to every store.
        width: W.

    Raises ValueError unless `vectors` has two axes and only finite numbers.

    Example:
        >>> model = StoreModel(torch.eye(3), width=2)
        >>> past = torch.tensor([[1.0, 0.0, 0.0]])
        >>> model(past, torch.zeros(3)).shape
        torch.Size([1, 3])
    """

    def __init__(self, vectors: torch.Tensor, width: int = 16) -> None:
        if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
            raise ValueError(
                "StoreModel: vectors must be a table (kinds, numbers) of finite numbers; "
                f"got {tuple(vectors.shape)}."
            )
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.read = nn.Linear(vectors.shape[1], width, bias=False)
        self.offer = nn.Linear(vectors.shape[1], width, bias=False)
        nn.init.zeros_(self.offer.weight)
        self.first = nn.Parameter(torch.zeros(len(vectors)))
        self.habit = nn.Parameter(torch.tensor(HABIT))

    def forward(self, past: torch.Tensor, sold: torch.Tensor) -> torch.Tensor:
        """Scores (B, I), from decayed counts (B, I) and log counts of what sells (I,)."""
        share = past / past.sum(dim=1, keepdim=True)
        taste = share @ self.read(self.vectors) @ self.offer(self.vectors).T
        return by_habit(past, sold, self.habit, self.first + taste)


def by_habit(
    past: torch.Tensor, sold: torch.Tensor, weights: torch.Tensor, liking: torch.Tensor
) -> torch.Tensor:
    """Scores (B, I): of old kinds by habit, of new ones by what sells and the `liking` (B, I).

    `weights` (4,) are those of `HABIT`.
    """
    had, count, sells, new = weights
    habit = had + count * torch.log(past + _LITTLE) + sells * sold
    return torch.where(past > 0, habit, new * sold + liking)


def loss_of(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross entropy, mean over households, of scores (B, I) to shares of what was bought (B, I).

    `wanted` is not negative; each row is divided by its sum.
    """
    share = wanted / wanted.sum(dim=1, keepdim=True)
    return -(share * scores.log_softmax(dim=1)).sum(dim=1).mean()


def sold_of(moment: Moment) -> torch.Tensor:
    """The logarithms (I,) of what sells over what sells best, half a household added to each.

    A sum over many stores so stands on the scale of one store's own counts.
    """
    counts = moment.counts + 0.5
    return torch.from_numpy(np.log(counts / counts.max())).float()


def batches(
    moments: Sequence[Moment], size: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """`past`, `sold`, `wanted` of all rows once, at most `size` at a time, in the order of `rng`.

    A batch is of one moment.
    """
    parts = [
        (moment, rows)
        for moment in moments
        for rows in _parts(rng.permutation(len(moment.users)), size)
    ]
    for place in rng.permutation(len(parts)):
        moment, rows = parts[place]
        past, wanted = (
            torch.from_numpy(table[rows].toarray()) for table in (moment.past, moment.wanted)
        )
        yield past, sold_of(moment), wanted


def train(
    model: StoreModel,
    moments: Sequence[Moment],
    epochs: int = 1,
    rate: float = 0.01,
    pull: float = 0.0,
    parts: Sequence[str] | None = None,
    size: int = 64,
    seed: int = 0,
) -> StoreModel:
    """Train `model` in place with Adam and give it back.

    Args:
        moments: what a store learns from.
        pull: the weight of ½ · Σ (w − w₀)², w₀ the weights as they came: towards the server's
            this is FedProx (Li et al. 2020), towards those of another shop L2-SP (Li et al. 2018).
        parts: beginnings of the names of the tensors that move; without it, all of them.
        seed: of the order.

    Raises ValueError for no moment, no tensor of these names, or a rate or count below 0.

    Example:
        >>> import scipy.sparse as sp
        >>> rows = sp.csr_matrix(np.array([[1.0, 0.0]], np.float32))
        >>> moment = Moment(28, np.array([0]), rows, rows, np.array([1, 1]))
        >>> model = train(StoreModel(torch.eye(2)), [moment], epochs=5)
        >>> bool(model.habit[0] > 2)
        True
    """
    own = {
        name: tensor
        for name, tensor in model.named_parameters()
        if parts is None or name.startswith(tuple(parts))
    }
    if not own or not moments or epochs < 0 or rate <= 0:
        raise ValueError(
            f"train: {len(moments)} moments, {len(own)} tensors to move, {epochs} epochs at rate "
            f"{rate}; give at least one moment and one tensor, and a rate above 0."
        )
    before = {name: tensor.detach().clone() for name, tensor in own.items()} if pull else {}
    optimizer = torch.optim.Adam(own.values(), lr=rate)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for past, sold, wanted in batches(moments, size, rng):
            loss = loss_of(model(past, sold), wanted)
            if pull:
                away = [((own[name] - old) ** 2).sum() for name, old in before.items()]
                loss = loss + 0.5 * pull * torch.stack(away).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def scores_of(model: nn.Module, moment: Moment) -> np.ndarray:
    """Scores (N, I) of all kinds for a moment's households."""
    with torch.no_grad():
        past = torch.from_numpy(moment.past.toarray())
        return model(past, sold_of(moment)).numpy()


def quality(scores: np.ndarray, moment: Moment, depth: int = DEPTH) -> pd.DataFrame:
    """How well scores (N, I) foresee what each household of a moment bought.

    Returns a frame indexed by user with `recall`, the share of what was bought among the `depth`
    kinds of the highest scores, over min(depth, number bought); and `new_recall`, the same of the
    kinds that the household never had, ranked among themselves, NaN where it bought none. They are
    those of `recommend.evaluate`.

    Raises ValueError for scores of another shape, or that are not finite.

    Example:
        >>> import scipy.sparse as sp
        >>> rows = sp.csr_matrix(np.array([[1.0, 0.0, 1.0]], np.float32))
        >>> moment = Moment(28, np.array([7]), rows, rows, np.zeros(3))
        >>> quality(np.array([[3.0, 2.0, 1.0]]), moment, depth=1)["recall"].to_dict()
        {7: 1.0}
    """
    if scores.shape != moment.past.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"quality: scores {scores.shape} for {moment.past.shape} households and kinds; give "
            "one finite score for each."
        )
    had, wanted = moment.past.toarray() > 0, moment.wanted.toarray() > 0
    new = np.where(had, -np.inf, scores)
    found = {
        "recall": _recall(scores, wanted, depth),
        "new_recall": _recall(new, wanted & ~had, depth),
    }
    return pd.DataFrame(found, index=pd.Index(moment.users, name="user"))


def _recall(scores: np.ndarray, wanted: np.ndarray, depth: int) -> np.ndarray:
    depth = min(depth, scores.shape[1])
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    hits = np.take_along_axis(wanted, top, axis=1).sum(axis=1)
    count = wanted.sum(axis=1)
    return np.where(count > 0, hits / np.clip(count, 1, depth), np.nan)


def _parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return np.array_split(rows, max(1, -(-len(rows) // size)))
