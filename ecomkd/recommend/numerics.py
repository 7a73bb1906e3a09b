"""Arithmetic of an answer on arrays, without PyTorch. Chapter 14."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import erf

from ecomkd import ranks

BLOCK = 256
"""Items of which one maximum is taken."""


def highest(scores: np.ndarray, depth: int) -> np.ndarray:
    """The rows of the `depth` highest scores, best first; -inf never.

    Exact: a value among the `depth` highest lies in one of the `depth` blocks with the highest
    maxima, and to find maxima is a tenth of the work of partitioning all.

    Args:
        scores: (N,), N a multiple of 256.
    """
    maxima = scores.reshape(-1, BLOCK).max(axis=1)
    count = min(depth, len(maxima))
    # By a threshold: which of equals a partition takes hangs on the processor.
    blocks = np.flatnonzero(maxima >= -np.partition(-maxima, count - 1)[count - 1])
    rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    rows = rows[ranks.first(scores[rows][None], depth)[0]]
    return rows[scores[rows] > -np.inf]


def gumbel(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise (size,) that follows the Gumbel distribution, from single-precision uniforms.

    The recorded exploration rests on these draws; `rng.gumbel` would draw others.
    """
    uniform = np.maximum(rng.random(size, np.float32), np.finfo(np.float32).tiny)
    return -np.log(-np.log(uniform))


def longer(table: np.ndarray, room: int, fill: float = 0) -> np.ndarray:
    """The table (N, ...) with so many further rows, all of them `fill`."""
    more = np.full((room, *table.shape[1:]), fill, table.dtype)
    return np.concatenate([table, more])


def linear(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """What `torch.nn.Linear` with the weights of this name makes of x (..., E)."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """x · Φ(x) (Hendrycks & Gimpel 2016), as `torch.nn.GELU` has it."""
    return x * (1 + erf(x / np.float32(np.sqrt(2)))) / 2
