"""A search service over HTTP: limits, time-outs, metrics, a shadow teacher and a drift alarm.

The engine is handed in: whatever finds and scores products (see `Engine`). Nothing here reaches out
to the network; by default only this machine can reach in.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import random
import socket
import threading
import time
from collections import Counter as Tally
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.stats import kendalltau, ks_2samp

import ecomkd

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from pydantic import BaseModel, ConfigDict
    from starlette.exceptions import HTTPException as StarletteHTTPException
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'{error.name} is not installed, and a service needs it: pip install "ecomkd[serve]".',
        name=error.name,
    ) from error

_LOG = logging.getLogger(__name__)
_EXAMPLES = {
    "/search": "GET /search?q=red+sofa&k=10",
    "/rerank": 'POST /rerank {"query": "red sofa", "products": ["Couch, crimson", "Floor lamp"]}',
}
"""The paths that make the engine work, and so have limits."""
_PATHS = (*_EXAMPLES, "/health", "/metrics")
_SHADOW_WAITING = 32
_SHADOW_MEAN = 200
_CLIENTS = 10_000
_LEAST_REFERENCE = 100
_RANGES = {
    "timeout": (0.001, math.inf),
    "rate": (0, math.inf),
    "max_wait_ms": (0, math.inf),
    "shadow_share": (0, 1),
    "drift_level": (0, 1),
}
"""The settings that may be below 1 or have an upper end."""


class Hit(Protocol):
    """A product that a search has found."""

    product_id: str
    title: str
    score: float


class Engine(Protocol):
    """What a service is built around. Both methods are called from several threads at once.

    An engine may also have `shadow`, a callable like `score` that gives the teacher's scores.
    """

    def search(self, query: str, k: int) -> Sequence[Hit]:
        """The best `k` products or fewer, retrieved and re-ranked, the best first."""

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The student's scores (N,) of N pairs of a query and a product's text.

        A pair's score must not depend on the other pairs of the call.
        """


@dataclass(frozen=True)
class Settings:
    """Limits and sizes of a service. Raises ValueError for a value that makes no sense."""

    max_query: int = 256
    """Characters of a query."""
    max_products: int = 100
    """Products of one request to /rerank, and the most that /search gives."""
    max_body: int = 262_144
    """Bytes of a request's body."""
    timeout: float = 2.0
    """Seconds after which a request is given up."""
    max_waiting: int = 32
    """Requests that are in work or wait for it; the next one is turned away. So it is before that
    where, by the pace of the last requests, it would take more than half of `timeout`: otherwise a
    crowd would have all its answers computed just too late."""
    rate: float = 50.0
    """Requests a second of one client, in bursts of up to twice as many; 0 sets no limit."""
    workers: int = os.cpu_count() or 1
    """Threads that call the engine."""
    max_batch: int = 8
    """Pairs that one call of `Engine.score` gets."""
    max_wait_ms: float = 0.0
    """Milliseconds that a call waits for more pairs once it has one."""
    shadow_share: float = 0.05
    """Share of the answers that the teacher judges too, where the engine has one."""
    drift_window: int = 500
    """Queries that are compared with the reference at a time."""
    drift_level: float = 0.001
    """Share of windows that may raise the alarm although nothing has changed."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = _RANGES.get(field.name, (1, math.inf))
            if not low <= value <= high:
                wanted = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
                raise ValueError(f"{field.name} is {value}: give {wanted}.")


class Batcher:
    """Scores the pairs of all requests in worker threads, a few at a time.

    A worker takes the pairs that have waited longest, whosever they are, up to `max_batch` of them.
    So the pairs of one large request are spread over the workers, and a small request waits for the
    pairs before it. Pairs of a request that was given up are not scored.

    Args:
        score: as `Engine.score`.
        pool: where it is called.
        settings: `workers`, `max_batch` and `max_wait_ms` are used.
        note: is told the number of pairs of each call.
    """

    def __init__(
        self,
        score: Callable[[Sequence[str], Sequence[str]], np.ndarray],
        pool: Executor,
        settings: Settings,
        note: Callable[[int], None],
    ):
        self._call, self._pool, self._note = score, pool, note
        self._most, self._wait = settings.max_batch, settings.max_wait_ms / 1000
        self._waiting: asyncio.Queue = asyncio.Queue()
        self._workers = [asyncio.create_task(self._work()) for _ in range(settings.workers)]

    async def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Scores (N,), float64, of one query and the texts of N ≥ 1 products."""
        done = asyncio.get_running_loop().create_future()
        job = _Job(np.empty(len(texts)), len(texts), done)
        for place, text in enumerate(texts):
            self._waiting.put_nowait((job, place, query, text))
        return await done

    def stop(self) -> None:
        """End the workers; what waits is not scored."""
        for worker in self._workers:
            worker.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._batch()
            if not batch:
                continue
            jobs, places, queries, texts = zip(*batch, strict=True)
            self._note(len(batch))
            try:
                scores = await loop.run_in_executor(self._pool, self._checked, queries, texts)
            except Exception as error:  # whatever the engine raises is the answer of these requests
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)
                continue
            for job, place, score in zip(jobs, places, scores, strict=True):
                job.scores[place] = score
                job.left -= 1
                if not job.left and not job.done.done():
                    job.done.set_result(job.scores)

    async def _batch(self) -> list[tuple]:
        batch = [await self._waiting.get()]
        until = asyncio.get_running_loop().time() + self._wait
        with contextlib.suppress(TimeoutError):
            while len(batch) < self._most:
                async with asyncio.timeout_at(until):
                    batch.append(await self._waiting.get())
        return [entry for entry in batch if not entry[0].done.done()]

    def _checked(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        scores = np.asarray(self._call(queries, texts), np.float64)
        if scores.shape != (len(texts),) or not np.isfinite(scores).all():
            raise RuntimeError(
                f"The engine gave scores of shape {scores.shape} for {len(texts)} pairs, or some "
                "that are no finite numbers."
            )
        return scores


@dataclass(eq=False)
class _Job:
    """The pairs of one request."""

    scores: np.ndarray
    left: int
    done: asyncio.Future


class RateLimit:
    """How often each client may ask: `rate` times a second, in bursts of up to twice as many.

    The generic cell rate algorithm (ITU-T I.371): one number a client, the time at which all that
    it has asked would be paid off. Of 10,000 clients the one that has been silent longest is
    forgotten.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self._each = 1 / rate if rate else 0.0
        self._burst = max(1.0, 2 * rate)
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()

    def wait(self, client: str) -> float:
        """0 where the client may ask, which is then counted; else the seconds until it may."""
        now = self._clock()
        paid = max(self._paid.get(client, now), now)
        early = paid - now - (self._burst - 1) * self._each
        if early > 1e-9:
            return early
        self._paid[client] = paid + self._each
        self._paid.move_to_end(client)
        if len(self._paid) > _CLIENTS:
            self._paid.popitem(last=False)
        return 0.0


def agreement(student: np.ndarray, teacher: np.ndarray) -> tuple[float, bool]:
    """Kendall's tau-b of two models' scores (N,) of the same products, and whether both put the
    same product first. Where a model gives all products one score, tau is 0."""
    tau = float(kendalltau(student, teacher).statistic)
    same = bool(np.argmax(student) == np.argmax(teacher))
    return 0.0 if math.isnan(tau) else tau, same


class Shadow:
    """Has the teacher judge a share of the answers, after they were given.

    Student and teacher score the same pairs, of a search those with the titles, one answer at a
    time in a thread of its own. Where samples come faster than the teacher judges, they are dropped
    and counted. What the teacher computes is taken from the processor: that bounds the share.
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
        if len(queries) < _LEAST_REFERENCE:
            raise ValueError(
                f"Drift needs at least {_LEAST_REFERENCE} reference queries, and there are "
                f"{len(queries)}: give more, or none."
            )
        if not _LEAST_REFERENCE <= len(scores) <= len(queries):
            raise ValueError(
                f"Drift got {len(scores)} scores for {len(queries)} reference queries: give one "
                f"for each, or for the first {_LEAST_REFERENCE} or more."
            )
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
            test = ks_2samp(self._reference[:, column], live[:, column], method="asymp")
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


class Rerank(BaseModel):
    """The body of a request to /rerank."""

    model_config = ConfigDict(extra="forbid")

    query: str
    products: list[str]


class _Service:
    """An engine, and what goes on around it."""

    def __init__(self, engine: Engine, settings: Settings, name: str, reference: list[str] | None):
        self.engine, self.settings, self.name = engine, settings, name
        self.reference = reference
        self.waiting, self.ready, self.begin = 0, False, time.monotonic()
        self.pace = 0.0
        """Seconds of work for each request that waits, a moving mean."""
        self.pool = ThreadPoolExecutor(settings.workers, "engine")
        self.batcher: Batcher | None = None
        self.shadow: Shadow | None = None
        self.drift: Drift | None = None
        self._learning: asyncio.Task | None = None
        self.registry = CollectorRegistry()
        held = {"registry": self.registry}
        self.requests = Counter(
            "ecomkd_requests", "Requests by path and status.", ("path", "status"), **held
        )
        self.seconds = Histogram(
            "ecomkd_request_seconds",
            "Time from a request's head to its answer.",
            ("path",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            **held,
        )
        self.batches = Histogram(
            "ecomkd_batch_pairs", "Pairs in a call of the student.",
            buckets=(1, 2, 4, 8, 16, 32, 64), **held,
        )  # fmt: skip
        waiting = Gauge("ecomkd_waiting", "Requests in work or waiting.", **held)
        waiting.set_function(lambda: self.waiting)
        self.drifts = Gauge(
            "ecomkd_drift",
            "Kolmogorov–Smirnov distance of the last window from the reference.",
            ("feature",),
            **held,
        )
        self.alarm = Gauge("ecomkd_drift_alarm", "1 while the last window had drifted.", **held)

    async def start(self) -> None:
        """Try the engine once, then start what runs beside the requests."""
        loop = asyncio.get_running_loop()
        self.batcher = Batcher(self.engine.score, self.pool, self.settings, self.batches.observe)
        await self.batcher.score("warm up", ["warm up"])
        if getattr(self.engine, "shadow", None) is not None:
            self.shadow = Shadow(self.engine, self.settings.shadow_share, self.registry)
        if self.reference is None:
            self.ready = True
        else:
            self._learning = loop.create_task(self._learn(self.reference))

    async def _learn(self, queries: list[str]) -> None:
        """Ask the reference queries; meanwhile requests are answered."""
        queries = random.Random(0).sample(queries, len(queries))
        window, level = self.settings.drift_window, self.settings.drift_level
        try:
            scores = [_best(await self.search(query, 10)) for query in queries[:window]]
        except Exception:  # nobody awaits this task, so it would fail in silence
            _LOG.exception("The engine failed on a reference query: the service stays not ready.")
            return
        self.drift = Drift(queries, scores, window, level)
        self.ready = True

    def stop(self) -> None:
        for part in (self.batcher, self.shadow):
            if part is not None:
                part.stop()
        if self._learning is not None:
            self._learning.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def full(self) -> bool:
        """Whether a further request would have to wait too long."""
        soon = (self.waiting + 1) * self.pace <= self.settings.timeout / 2
        return self.waiting >= (self.settings.max_waiting if soon else self.settings.workers)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Around the work for one request: takes its time."""
        begin, ahead = time.perf_counter(), self.waiting
        try:
            yield
        finally:
            self.pace += 0.2 * ((time.perf_counter() - begin) / ahead - self.pace)

    async def search(self, query: str, k: int) -> list[Hit]:
        loop = asyncio.get_running_loop()
        return list(await loop.run_in_executor(self.pool, self.engine.search, query, k))

    def answered(self, query: str, texts: list[str], best: float | None = None) -> None:
        """Keep an answer in view; with `best`, its query counts for drift."""
        if self.shadow is not None:
            self.shadow.offer(query, texts)
        if best is not None and self.drift is not None and self.drift.see(query, best):
            for feature, value in self.drift.statistic.items():
                self.drifts.labels(feature).set(value)
            self.alarm.set(bool(self.drift.drifting))

    def health(self) -> dict:
        if self.drift is None:
            state = "no reference" if self.reference is None else "reading the reference"
        elif not self.drift.windows:
            state = "collecting"
        else:
            state = "alarm" if self.drift.drifting else "none"
        return {
            "live": True,
            "ready": self.ready,
            "loaded": self.name,
            "version": ecomkd.__version__,
            "seconds": round(time.monotonic() - self.begin, 1),
            "waiting": self.waiting,
            "shadow": self.shadow is not None,
            "drift": state,
            "drifting": self.drift.drifting if self.drift else [],
        }


def _best(hits: Sequence[Hit]) -> float:
    return max((float(hit.score) for hit in hits), default=-math.inf)


class _Door:
    """What a request passes before anything is computed: rate, size, room, time."""

    def __init__(self, app, service: _Service, clock: Callable[[], float]):
        self.app, self.service = app, service
        self.limit = RateLimit(service.settings.rate, clock)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _PATHS else "other"
        begin, status = time.perf_counter(), 500

        async def noting(message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        enter = self._admit if path in _EXAMPLES else self.app
        try:
            await enter(scope, receive, noting)
        finally:
            self.service.requests.labels(path, status).inc()
            self.service.seconds.labels(path).observe(time.perf_counter() - begin)

    async def _admit(self, scope, receive, send) -> None:
        settings, service = self.service.settings, self.service
        refusal = None
        size = int(dict(scope["headers"]).get(b"content-length", 0))
        if wait := self.limit.wait(scope["client"][0]):
            refusal = _failure(
                429,
                f"More than {settings.rate:g} requests a second from one client: ask again in "
                f"{math.ceil(wait)} s.",
                {"Retry-After": str(math.ceil(wait))},
            )
        elif size > settings.max_body:
            refusal = _failure(413, _too_large(settings))
        elif service.full():
            refusal = _failure(
                503,
                f"{service.waiting} requests wait already: ask again in a second.",
                {"Retry-After": "1"},
            )
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        read, started = 0, False

        async def limited():
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > settings.max_body:
                raise HTTPException(413, _too_large(settings))
            return message

        async def starting(message) -> None:
            nonlocal started
            started = True
            await send(message)

        service.waiting += 1
        try:
            async with asyncio.timeout(settings.timeout) as deadline:
                await self.app(scope, limited, starting)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            late = _failure(
                504,
                f"No answer within {settings.timeout:g} s: ask for fewer products, or again later.",
            )
            await late(scope, receive, send)
        finally:
            service.waiting -= 1


def _too_large(settings: Settings) -> str:
    return f"The body has more than {settings.max_body:,} bytes: send fewer or shorter products."


def _failure(status: int, sentence: str, headers: dict | None = None) -> JSONResponse:
    """The one form of every error."""
    return JSONResponse({"error": sentence}, status, headers)


def create_app(
    engine: Engine,
    settings: Settings | None = None,
    *,
    name: str = "engine",
    reference: Sequence[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The service around an engine, as an ASGI application.

    Args:
        engine: finds and scores products. One pair is scored before the service starts.
        settings: limits and sizes; the defaults are for two cores.
        name: what /health calls the engine.
        reference: queries that live ones are compared with (see `Drift`); None for no comparison.
            At the start `settings.drift_window` of them, drawn at random, are searched for.
        clock: seconds, for the limit on each client's rate.

    Raises:
        ValueError: fewer than 100 reference queries.

    Every error is `{"error": sentence}`.
    """
    settings = settings or Settings()
    if reference is not None:
        reference = [query for query in reference if query.strip()]
        if min(len(reference), settings.drift_window) < _LEAST_REFERENCE:
            raise ValueError(
                f"{len(reference)} reference queries and a window of {settings.drift_window}: "
                f"drift needs at least {_LEAST_REFERENCE} of each."
            )
    service = _Service(engine, settings, name, reference)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        await service.start()
        yield
        service.stop()

    # The interactive pages would load their scripts from the network.
    app = FastAPI(
        title="ecomkd", version=ecomkd.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(_Door, service=service, clock=clock)
    _explain_errors(app)

    def checked(query: str) -> str:
        _check_text("The query", query, "give what a shopper would type")
        if len(query) > settings.max_query:
            raise HTTPException(
                422,
                f"The query has {len(query):,} characters: give at most {settings.max_query:,}.",
            )
        return query

    @app.get("/search")
    async def search(q: str, k: int = 10) -> JSONResponse:
        query = checked(q)
        if not 1 <= k <= settings.max_products:
            raise HTTPException(422, f"k is {k:,}: give 1 to {settings.max_products:,}.")
        with service.work():
            hits = await service.search(query, k)
        shown = [
            {"product_id": hit.product_id, "title": hit.title, "score": float(hit.score)}
            for hit in hits
        ]
        service.answered(query, [hit.title for hit in hits], _best(hits))
        return JSONResponse({"query": query, "hits": shown})

    @app.post("/rerank")
    async def rerank(request: Rerank) -> JSONResponse:
        query, products = checked(request.query), request.products
        if not 1 <= len(products) <= settings.max_products:
            raise HTTPException(
                422,
                f"The request has {len(products):,} products: give 1 to {settings.max_products:,}.",
            )
        for place, text in enumerate(products):
            _check_text(f"products[{place}]", text, "give its text")
        with service.work():
            scores = await service.batcher.score(query, products)
        service.answered(query, products)
        order = np.argsort(-scores, kind="stable")
        return JSONResponse({"scores": scores.tolist(), "order": order.tolist()})

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse(service.health(), 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _check_text(name: str, text: str, mend: str) -> None:
    if not text.strip():
        raise HTTPException(422, f"{name} is empty: {mend}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        sentence = (
            f"{name} has half a character at {error.start} (a lone surrogate): send it whole."
        )
        raise HTTPException(422, sentence) from error


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        example = f"ask like this: {_EXAMPLES[request.url.path]}"
        if first["type"] == "json_invalid":
            return _failure(400, f"The body is not valid JSON at character {place}; {example}")
        if first["type"] == "missing":
            return _failure(422, f"{place} is missing; {example}")
        reason = first["msg"][0].lower() + first["msg"][1:]
        return _failure(422, f"{place}: {reason}; {example}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        sentence = error.detail
        if error.status_code == 400:  # FastAPI's word for a body that it cannot decode
            sentence = f"The body is not JSON in UTF-8; ask like this: {_EXAMPLES['/rerank']}"
        elif error.status_code == 404:
            sentence = f"There is nothing at this path: ask {', '.join(_PATHS)}."
        elif error.status_code == 405:
            sentence = f"This path does not take {request.method}: see /openapi.json."
        return _failure(error.status_code, sentence, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return _failure(500, "The service failed on this request: its log says why.")


def read_queries(path: Path | str) -> list[str]:
    """Queries from a UTF-8 text file, one a line. Raises ValueError for other bytes."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8.") from error
    return [line for line in lines if line.strip()]


def run(app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until the process is told to stop (Ctrl+C or SIGTERM); running requests are finished.

    Says on stdout where it listens. Raises OSError where it cannot, and RuntimeError where the
    engine fails at the start.
    """
    listener = _listen(host, port)
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"Listening on http://{shown}:{port} (stop with Ctrl+C).", flush=True)
    if not ipaddress.ip_address(address).is_loopback:
        print(
            "Other machines can reach this service, without encryption and without a password: "
            "put a proxy with both before it.",
            flush=True,
        )
    server = _server(app)
    with contextlib.suppress(KeyboardInterrupt):
        _serve(server, listener)
    if not server.started:
        raise RuntimeError("The service did not start: the lines above say why.")


@contextlib.contextmanager
def background(app: FastAPI) -> Iterator[int]:
    """Serve in a thread of this process while the block runs; gives the port on 127.0.0.1.

    The port is one that was free. Raises RuntimeError where the engine fails at the start.
    """
    listener, server = _listen("127.0.0.1", 0), _server(app)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=_serve, args=(server, listener), daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("The service did not start: the lines above say why.")
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # What it accepts inherits this. Head and body of an answer are sent apart; else the body
        # would wait for the client to confirm the head, which a client may delay by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot listen on {host}, port {port} ({getattr(error, 'strerror', None) or error}): "
            "choose another with --host or --port."
        ) from error


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # Where the engine fails at the start, uvicorn logs that and leaves with SystemExit.
    with listener, contextlib.suppress(SystemExit):
        server.run(sockets=[listener])


def _server(app: FastAPI) -> uvicorn.Server:
    # No access log: it would hold what shoppers type. No forwarded addresses: who asks is who
    # has connected, for a header can be forged.
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)
