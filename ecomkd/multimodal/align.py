"""From one encoder's vectors to another's: search for pictures by text, learnt from pairs.

Both encoders stay as they are; a map between them is learnt. Chapter 15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.multimodal.align", "multimodal"):
    import torch
    from torch import nn

from ecomkd import runtime

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Vectors of texts (Q, Ht) and of pictures (N, Hp) → scores (Q, N)."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row over its length; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def ridge(texts: np.ndarray, pictures: np.ndarray, penalty: float = 100.0) -> Scorer:
    """A linear map of texts (N, Ht) to their pictures (N, Hp), by least squares with a penalty.

    W = (TᵀT + penalty · I)⁻¹ TᵀP on centred unit vectors (Hoerl and Kennard 1970); a text's score
    of a picture is the cosine of its image under W with the picture. Raises ValueError unless each
    text has one picture.

    Example:
        >>> known = np.eye(3)
        >>> ridge(known, known, penalty=0.01)(known, known).argmax(axis=1)
        array([0, 1, 2])
    """
    _paired(texts, pictures)
    text_mean, picture_mean = unit(texts).mean(axis=0), unit(pictures).mean(axis=0)
    t, p = unit(texts) - text_mean, unit(pictures) - picture_mean
    if len(t) < t.shape[1]:  # the same map, by the smaller of the two matrices
        weights = t.T @ np.linalg.solve(t @ t.T + penalty * np.eye(len(t)), p)
    else:
        weights = np.linalg.solve(t.T @ t + penalty * np.eye(t.shape[1]), t.T @ p)
    return lambda query, found: (
        unit((unit(query) - text_mean) @ weights) @ unit(unit(found) - picture_mean).T
    )


def contrastive(
    texts: np.ndarray,
    pictures: np.ndarray,
    width: int = 128,
    steps: int = 500,
    batch_size: int = 256,
    temperature: float = 0.05,
    rate: float = 1e-3,
    decay: float = 1e-1,
    seed: int = 0,
) -> Scorer:
    """Two linear maps into one space, in which a text lies next to its own picture.

    Loss: cross entropy over the pictures of the batch, by cosine over `temperature`, and the same
    from pictures to texts (CLIP, Radford et al. 2021, on frozen encoders as in LiT, Zhai et al.
    2022). Raises ValueError unless each text has one picture.
    """
    _paired(texts, pictures)
    text_mean, picture_mean = unit(texts).mean(axis=0), unit(pictures).mean(axis=0)
    t = torch.from_numpy((unit(texts) - text_mean).astype(np.float32))
    p = torch.from_numpy((unit(pictures) - picture_mean).astype(np.float32))
    with runtime.seeded(seed):
        maps = nn.ModuleList(nn.Linear(one.shape[1], width, bias=False) for one in (t, p))
        optimizer = torch.optim.AdamW(maps.parameters(), lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randperm(len(t))[:batch_size]
            a, b = (
                nn.functional.normalize(one(seen[rows]), dim=1)
                for one, seen in zip(maps, (t, p), strict=True)
            )
            close = a @ b.T / temperature
            own = torch.arange(len(rows))
            loss = nn.functional.cross_entropy(close, own) + nn.functional.cross_entropy(
                close.T, own
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    text_map, picture_map = (one.weight.detach().numpy().T for one in maps)
    return lambda query, found: (
        unit((unit(query) - text_mean) @ text_map)
        @ unit((unit(found) - picture_mean) @ picture_map).T
    )


def recall(scores: np.ndarray, relevant: Sequence[np.ndarray], k: int = 10) -> np.ndarray:
    """For each query (Q,), whether one of its relevant columns is among the k of highest score.

    `scores` (Q, N); `relevant[q]` holds columns. Ties go to the earlier column. Raises ValueError
    where a query has no relevant column.
    """
    if any(len(one) == 0 for one in relevant):
        raise ValueError("recall: a query has nothing to find; leave it out.")
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.array([np.isin(found, own).any() for found, own in zip(top, relevant, strict=True)])


def _paired(texts: np.ndarray, pictures: np.ndarray) -> None:
    if len(texts) != len(pictures) or not len(texts):
        raise ValueError(
            f"{len(texts)} texts and {len(pictures)} pictures: each text needs its picture."
        )
