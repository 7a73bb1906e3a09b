"""How long answers take, for processes whose memory is measured: nothing else is loaded here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

WARM = 20
"""Queries that are asked before the clock runs."""


def clocked(ask: Callable[[str], object], queries: Sequence[str]) -> dict[str, float]:
    """Percentiles of the milliseconds of an answer, one query after the other."""
    for query in queries[:WARM]:
        ask(query)
    times = []
    for query in queries:
        begin = time.perf_counter()
        ask(query)
        times.append(1e3 * (time.perf_counter() - begin))
    return {f"p{share}_ms": float(np.percentile(times, share)) for share in (50, 95)}
