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
from dataclasses import astuple, dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from ecomkd.service.contract import Engine

_LOG = logging.getLogger(__name__)
_SHADOW_WAITING = 32
_SHADOW_MEAN = 200
_FIRST = 10
"""The ranks that count where an order is judged from its top."""
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


@dataclass(frozen=True)
class Judged:
    """How a teacher finds an order that was served."""

    ndcg: float
    """nDCG@10 of the order served, in 0..1: what it loses of the teacher's own order."""
    random: float
    """What a random order of the same products would have, in the mean."""
    overlap: float
    """Shared products of both orders, top-weighted: the mean of their shares in the first 1 to 10.
    A random order of N has (N + 1) / 2N, where N is at most 10."""
    tau: float
    """Kendall's tau-b of the order served and the teacher's gains, which counts every pair alike,
    at the top, at the end, and where it makes no difference."""
    same_first: bool
    """Whether what was served first is the first of the teacher's order, too."""


def judge_served(gains: Sequence[float]) -> Judged:
    """How the teacher finds an order that was served, from its gains (N,) in that order.

    A gain below 0 counts as 0. Where no product has one, every order is worth as much as the best:
    nDCG and its random order are 1. Products of equal gain stand in the teacher's order as they
    were served. The overlap is the average overlap of Webber, Moffat and Zobel (2010), section 3.
    Raises ValueError for fewer than two products, or a gain that is not finite.

    Example:
        >>> found = judge_served([0.5, 0.8, 0.1])
        >>> round(found.ndcg, 3), round(found.overlap, 3), round(found.tau, 3), found.same_first
        (0.905, 0.667, 0.333, False)
    """
    given = np.asarray(gains, np.float64)
    if given.ndim != 1 or len(given) < 2:
        raise ValueError(f"judge_served: the gains are {given.shape}; give two or more, (N,).")
    if not np.isfinite(given).all():
        place = int(np.flatnonzero(~np.isfinite(given))[0])
        raise ValueError(f"judge_served: gain {place} is {given[place]}; mend the teacher.")
    order = np.argsort(-given, kind="stable")
    depths = np.arange(1, min(_FIRST, len(given)) + 1)
    worth, discount = np.maximum(given, 0), 1 / np.log2(depths + 1)
    best = worth[order[: len(depths)]] @ discount
    ndcg, chance = 1.0, 1.0
    if best > 0:
        ndcg = float(worth[: len(depths)] @ discount / best)
        chance = float(worth.mean() * discount.sum() / best)
    overlap = np.mean([(order[:depth] < depth).mean() for depth in depths])
    tau, _ = agreement(-np.arange(len(given)), given)
    return Judged(ndcg, chance, float(overlap), tau, bool(order[0] == 0))


class Shadow:
    """Has the teacher judge a share of the answers, after they were given.

    The teacher gives each product that was shown its gain for the query, and the order in which
    they were served is held against these (see `Judged`). A thread of its own does that, one answer
    at a time. Where samples come faster than the teacher judges, they are dropped and counted. The
    teacher takes its time from the same processor, which bounds the share.
    """

    def __init__(self, engine: Engine, share: float, registry: CollectorRegistry):
        self._engine, self._share, self._draw = engine, share, random.Random(0)
        self._waiting: asyncio.Queue = asyncio.Queue(_SHADOW_WAITING)
        self._recent: deque[Judged] = deque(maxlen=_SHADOW_MEAN)
        self._pool = ThreadPoolExecutor(1, "shadow")
        self._counts = {
            name: Counter(f"ecomkd_shadow_{name}", text, registry=registry)
            for name, text in {
                "compared": "Answers that the teacher has judged.",
                "same_first": "Of these, answers where the teacher, too, puts the first one first.",
                "dropped": "Sampled answers that were not judged, for lack of time.",
                "failed": "Sampled answers on which the teacher failed.",
            }.items()
        }
        self._means = {
            name: Gauge(
                f"ecomkd_shadow_{name}",
                f"{text}, mean of the last {_SHADOW_MEAN} answers.",
                registry=registry,
            )
            for name, text in {
                "ndcg": "nDCG@10 of the order served, by the teacher's gains",
                "random_ndcg": "nDCG@10 of a random order of the same products",
                "overlap": "Top-weighted overlap of the order served with the teacher's",
                "tau": "Kendall's tau of the order served with the teacher's gains",
            }.items()
        }
        self._open = 0
        waiting = Gauge(
            "ecomkd_shadow_waiting", "Sampled answers not yet compared.", registry=registry
        )
        waiting.set_function(lambda: self._open)
        self._task = asyncio.create_task(self._work())

    def offer(self, query: str, texts: Sequence[str]) -> None:
        """Sample an answer, whose products stand as they were served, or not; returns at once."""
        if len(texts) < 2 or self._draw.random() >= self._share:
            return
        try:
            self._waiting.put_nowait((query, list(texts)))
        except asyncio.QueueFull:
            self._counts["dropped"].inc()
        else:
            self._open += 1

    def take(self, engine: Engine) -> None:
        """Let another engine's teacher judge from now on."""
        self._engine = engine

    def stop(self) -> None:
        """End the comparison; what waits is not compared."""
        self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            query, texts = await self._waiting.get()
            try:
                judged = await loop.run_in_executor(self._pool, self._judge, query, texts)
            except Exception:  # a teacher that fails must not end the comparison, nor the service
                self._counts["failed"].inc()
                _LOG.exception("The shadow comparison failed.")
                continue
            finally:
                self._open -= 1
            self._recent.append(judged)
            means = np.mean([astuple(each) for each in self._recent], axis=0)
            # The last number is whether both put the same product first, which is counted.
            for gauge, mean in zip(self._means.values(), means[:-1], strict=True):
                gauge.set(mean)
            self._counts["compared"].inc()
            self._counts["same_first"].inc(judged.same_first)

    def _judge(self, query: str, texts: list[str]) -> Judged:
        gains = self._engine.shadow([query] * len(texts), texts)
        if len(gains) != len(texts):
            raise ValueError(f"The teacher gave {len(gains)} gains for {len(texts)} products.")
        return judge_served(gains)


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
        level: share of windows in which some number is found changed although nothing has changed,
            in the mean over references.
        in_a_row: windows, one after the other, in which the same number has to have changed before
            it counts as drifting; at least 1.

    Raises:
        ValueError: fewer than 100 queries or scores, or more scores than queries.
    """

    FEATURES = ("length", "unknown", "score")

    def __init__(
        self,
        queries: Sequence[str],
        scores: Sequence[float],
        window: int,
        level: float,
        in_a_row: int,
    ):
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
        self._window, self._level, self._in_a_row = window, level, in_a_row
        self._changed = dict.fromkeys(self.FEATURES, 0)
        self.windows = 0
        self.statistic: dict[str, float] = {}
        """The largest distance of the two distribution functions, 0 to 1, in the last window."""
        self.drifting: list[str] = []
        """The features whose change was too large for chance in each of the last windows, as many
        as have to come in a row."""

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
            changed = test.pvalue < self._level / len(self.FEATURES)
            self._changed[name] = self._changed[name] + 1 if changed else 0
            if self._changed[name] >= self._in_a_row:
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
