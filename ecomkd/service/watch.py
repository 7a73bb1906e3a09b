"""What goes on beside the answers: a teacher in the shadow, and an alarm for drift. Chapter 9."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from ecomkd.service.contract import Engine

_LOG = logging.getLogger(__name__)
_SHADOW_WAITING = 32
_SHADOW_MEAN = 200
LEAST_REFERENCE = 100
"""The fewest queries that drift can be told from."""


def agreement(student: np.ndarray, teacher: np.ndarray) -> tuple[float, bool]:
    """Return Kendall's tau-b of two models' scores (N,), and whether both agree on the first.

    Both score the same products. Where a model gives all of them one score, tau is 0.
    """
    # Here and below: SciPy's statistics take longer to load than all the rest of a service.
    from scipy.stats import kendalltau

    tau = float(kendalltau(student, teacher).statistic)
    same = bool(np.argmax(student) == np.argmax(teacher))
    return 0.0 if math.isnan(tau) else tau, same


class Shadow:
    """Has the teacher judge a share of the answers, after they were given.

    Student and teacher score the same pairs; after a search these are the query with each title.
    A thread of its own does that, one answer at a time. Where samples come faster than the teacher
    judges, they are dropped and counted. The teacher takes its time from the same processor, which
    bounds the share.
    """

    def __init__(self, engine: Engine, share: float, registry: CollectorRegistry):
        self._engine, self._share, self._draw = engine, share, random.Random(0)
        self._waiting: asyncio.Queue = asyncio.Queue(_SHADOW_WAITING)
        self._recent: deque[float] = deque(maxlen=_SHADOW_MEAN)
        self._pool = ThreadPoolExecutor(1, "shadow")
        self._counts = {
            name: Counter(f"ecomkd_shadow_{name}", text, registry=registry)
            for name, text in {
                "compared": "Answers that student and teacher were compared on.",
                "same_first": "Of these, answers where both put the same product first.",
                "dropped": "Sampled answers that were not compared, for lack of time.",
                "failed": "Sampled answers on which the teacher failed.",
            }.items()
        }
        self._tau = Gauge(
            "ecomkd_shadow_tau",
            f"Kendall's tau between student and teacher, mean of the last {_SHADOW_MEAN} answers.",
            registry=registry,
        )
        self._open = 0
        waiting = Gauge(
            "ecomkd_shadow_waiting", "Sampled answers not yet compared.", registry=registry
        )
        waiting.set_function(lambda: self._open)
        self._task = asyncio.create_task(self._work())

    def offer(self, query: str, texts: Sequence[str]) -> None:
        """Sample an answer, or not; returns at once."""
        if len(texts) < 2 or self._draw.random() >= self._share:
            return
        try:
            self._waiting.put_nowait((query, list(texts)))
        except asyncio.QueueFull:
            self._counts["dropped"].inc()
        else:
            self._open += 1

    def stop(self) -> None:
        """End the comparison; what waits is not compared."""
        self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            query, texts = await self._waiting.get()
            try:
                tau, same = await loop.run_in_executor(self._pool, self._compare, query, texts)
            except Exception:  # a teacher that fails must not end the comparison, nor the service
                self._counts["failed"].inc()
                _LOG.exception("The shadow comparison failed.")
                continue
            finally:
                self._open -= 1
            self._recent.append(tau)
            self._tau.set(sum(self._recent) / len(self._recent))
            self._counts["compared"].inc()
            self._counts["same_first"].inc(same)

    def _compare(self, query: str, texts: list[str]) -> tuple[float, bool]:
        queries = [query] * len(texts)
        student = np.asarray(self._engine.score(queries, texts))
        return agreement(student, np.asarray(self._engine.shadow(queries, texts)))


class Drift:
    """Compares windows of live queries with a reference: have the queries changed?

    Three numbers of a query are compared, each by a two-sample Kolmogorov–Smirnov test with the
    level split over the three (Bonferroni), as in Rabanser et al. (2019): `length` in words;
    `unknown`, the share of its words that no reference query has; `score`, that of its best answer.
    For a reference query, `unknown` is counted against the other reference queries.

    Args:
        queries: the reference. All their words are known.
        scores: scores (M,) of the best answer to the first M of them, with which live queries are
            compared; −inf for a query without an answer.
        window: live queries in one comparison. The smaller, the larger a change must be to be seen.
        level: share of windows that may raise the alarm although nothing has changed.

    Raises:
        ValueError: fewer than 100 queries or scores, or more scores than queries.
    """

    FEATURES = ("length", "unknown", "score")

    def __init__(self, queries: Sequence[str], scores: Sequence[float], window: int, level: float):
        if len(queries) < LEAST_REFERENCE:
            raise ValueError(
                f"Drift needs at least {LEAST_REFERENCE} reference queries, and there are "
                f"{len(queries)}: give more, or none."
            )
        if not LEAST_REFERENCE <= len(scores) <= len(queries):
            raise ValueError(
                f"Drift got {len(scores)} scores for {len(queries)} reference queries: give one "
                f"for each, or for the first {LEAST_REFERENCE} or more."
            )
        from scipy.stats import ks_2samp

        self._test = ks_2samp
        self._seen = Tally(word for query in queries for word in set(_words(query)))
        compared = zip(queries[: len(scores)], scores, strict=True)
        self._reference = np.array([self._features(*one, own=1) for one in compared])
        self._live: list[tuple[float, float, float]] = []
        self._window, self._level = window, level
        self.windows = 0
        self.statistic: dict[str, float] = {}
        """The largest distance of the two distribution functions, 0 to 1, in the last window."""
        self.drifting: list[str] = []
        """The features whose change in the last window is too large for chance."""

    def see(self, query: str, score: float) -> bool:
        """Add a live query; True where it completes a window, which is then compared."""
        self._live.append(self._features(query, score, own=0))
        if len(self._live) < self._window:
            return False
        self.drifting = []
        live = np.array(self._live)
        for column, name in enumerate(self.FEATURES):
            test = self._test(self._reference[:, column], live[:, column], method="asymp")
            self.statistic[name] = float(test.statistic)
            if test.pvalue < self._level / len(self.FEATURES):
                self.drifting.append(name)
        self._live = []
        self.windows += 1
        return True

    def _features(self, query: str, score: float, own: int) -> tuple[float, float, float]:
        words = _words(query)
        unknown = sum(self._seen[word] <= own for word in words)
        return len(words), unknown / len(words), score


def _words(query: str) -> list[str]:
    return query.casefold().split()
