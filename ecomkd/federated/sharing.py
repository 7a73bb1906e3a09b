"""Distillation between stores: scores of shared households travel, and no weights.

Each store scores the same unlabelled histories and sends its best of what is new to each; the
server averages, and a student learns from the mean (FedMD, Li and Wang 2019; FedDF, Lin et al.
2020). Sizes: N shared histories, I kinds, K of them sent. Chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.federated.sharing", "federated"):
    import torch

from ecomkd.federated.silos import Moment
from ecomkd.federated.stores import StoreModel, loss_of, sold_of

_NEVER = -1e4  # the score of what a household has had already: no probability is left


def news(scores: np.ndarray, moment: Moment) -> np.ndarray:
    """Scores (N, I) that leave a probability to what is new to each household alone.

    What a household buys again its own store knows best; the others are asked for the rest.

    Example:
        >>> import scipy.sparse as sp
        >>> past = sp.csr_matrix(np.array([[1.0, 0.0]], np.float32))
        >>> moment = Moment(28, np.array([0]), past, past, np.zeros(2))
        >>> news(np.array([[5.0, 1.0]]), moment).tolist()
        [[-10000.0, 1.0]]
    """
    return np.where(moment.past.toarray() > 0, _NEVER, scores)


def message(scores: np.ndarray, top: int) -> bytes:
    """What a store sends: the `top` kinds of each shared history, and how probable each is.

    A history takes 3 · top bytes: a kind's row as a whole number of 16 bits, and 255 times its
    probability over that of the first, to the next whole number of 8 bits, after one number of 32
    bits for the first.

    Args:
        scores: (N, I), log-odds up to a constant for each history.

    Raises ValueError for more than 65,536 kinds, for `top` outside 1 to I, or scores that are not
    finite.

    Example:
        >>> kinds, odds = received(message(np.log([[0.5, 0.3, 0.2]]), top=2), top=2)
        >>> kinds.tolist(), odds.round(2).tolist()
        ([[0, 1]], [[0.5, 0.3]])
    """
    count = scores.shape[1]
    if count > 2**16 or not 1 <= top <= count or not np.isfinite(scores).all():
        raise ValueError(
            f"message: {count} kinds and top {top}; give finite scores of at most 65,536 kinds, "
            "and a top from 1 to their number."
        )
    odds = torch.from_numpy(np.asarray(scores)).double().softmax(dim=1).numpy()
    kinds = np.argsort(-odds, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(odds, kinds, axis=1)
    first = best[:, :1]
    steps = np.rint(255 * best / first).astype(np.uint8)
    return b"".join([kinds.astype("<u2").tobytes(), first.astype("<f4").tobytes(), steps.tobytes()])


def received(sent: bytes, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The kinds (N, top) and their probabilities (N, top) of a `message`.

    Raises ValueError where the bytes are not those of whole histories.
    """
    width = 3 * top + 4
    if not sent or len(sent) % width:
        raise ValueError(
            f"received: {len(sent)} bytes, which are no histories of {width}; give the `top` that "
            "they were sent with."
        )
    count = len(sent) // width
    kinds = np.frombuffer(sent, "<u2", count * top).reshape(count, top)
    first = np.frombuffer(sent, "<f4", count, 2 * count * top)
    steps = np.frombuffer(sent, np.uint8, count * top, (2 * top + 4) * count)
    return kinds.astype(np.int64), first[:, None] * steps.reshape(count, top) / 255


def ensemble(
    messages: Sequence[bytes], weights: Sequence[float], top: int, kinds: int
) -> np.ndarray:
    """The mean probabilities (N, kinds) of all stores' messages, weighed. What is not sent is 0.

    Example:
        >>> sent = [message(np.log([[0.5, 0.3, 0.2]]), 1), message(np.log([[0.1, 0.8, 0.1]]), 1)]
        >>> ensemble(sent, [1, 1], top=1, kinds=3).round(2).tolist()
        [[0.25, 0.4, 0.0]]
    """
    if not messages or len(messages) != len(weights) or sum(weights) <= 0:
        raise ValueError(
            f"ensemble: {len(messages)} messages and {len(weights)} weights; give as many, one at "
            "least, with a sum above 0."
        )
    found = np.zeros((len(received(messages[0], top)[0]), kinds), np.float32)
    for sent, weight in zip(messages, weights, strict=True):
        own, odds = received(sent, top)
        if len(own) != len(found) or own.max() >= kinds:
            raise ValueError(
                f"ensemble: a message has {len(own)} histories and kinds up to {own.max()}, where "
                f"{len(found)} and fewer than {kinds} are expected; let all stores score the same."
            )
        found[np.arange(len(own))[:, None], own] += weight / sum(weights) * odds
    return found


def learn(
    model: StoreModel,
    moments: Sequence[Moment],
    taught: Sequence[np.ndarray],
    epochs: int,
    rate: float = 0.01,
    size: int = 64,
    seed: int = 0,
) -> StoreModel:
    """Train a student in place on the shared histories with the stores' mean, and give it back.

    It learns what is new to a household, as the lessons tell; what habit it has it keeps.

    Args:
        moments: the shared histories; what they bought afterwards is not looked at.
        taught: for each moment the `ensemble`'s probabilities (N, I), none of a row's all 0.

    Raises ValueError where moments and lessons do not fit together.
    """
    if len(moments) != len(taught) or any(
        moment.past.shape != lesson.shape for moment, lesson in zip(moments, taught, strict=False)
    ):
        raise ValueError(
            f"learn: {len(taught)} lessons for {len(moments)} moments; give one for each, with as "
            "many rows and kinds."
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        parts = [
            (moment, lesson, rows)
            for moment, lesson in zip(moments, taught, strict=True)
            for rows in np.array_split(
                rng.permutation(len(lesson)), max(1, -(-len(lesson) // size))
            )
        ]
        for place in rng.permutation(len(parts)):
            moment, lesson, rows = parts[place]
            past = torch.from_numpy(moment.past[rows].toarray())
            scores = model(past, sold_of(moment)).masked_fill(past > 0, _NEVER)
            loss = loss_of(scores, torch.from_numpy(lesson[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model
