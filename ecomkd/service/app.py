"""The service around an engine as an ASGI application: paths, refusals, metrics. Chapter 9."""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

import ecomkd
from ecomkd.service import bodies
from ecomkd.service.bodies import (
    NOTHING,
    Found,
    Health,
    Live,
    Order,
    Recommended,
    list_of_texts,
    text_of,
)
from ecomkd.service.contract import Engine, Hit, Item, Recommender, Settings
from ecomkd.service.kept import Kept
from ecomkd.service.limits import RECOMMEND, SEARCH, Door, Room, failure, index_header
from ecomkd.service.refusals import REFUSALS, explain_errors
from ecomkd.service.watch import LEAST_REFERENCE, Drift, Shadow

_LOG = logging.getLogger(__name__)
_PAUSE = 10
"""So many times longer is the wait for the next look, where a newer engine was not taken."""

_AGAIN = 1.0, 5.0, 25.0
"""Seconds after which a reference query is asked again whose catalogue was out of reach."""

_UNKNOWN_HOST = {400: REFUSALS[400]}


class _Service:
    """An engine, and what goes on around it."""

    def __init__(
        self,
        engine: Any,  # an Engine or a Recommender
        settings: Settings,
        name: str,
        reference: list[str] | None,
        newer: Callable[[], Any] | None,
    ):
        self.engine, self.settings, self.name = engine, settings, name
        self.newer = newer
        self.reference = reference
        self.ready, self.failed, self.begin = False, False, time.monotonic()
        self.room = Room(settings)
        self.pool = ThreadPoolExecutor(settings.workers, "engine")
        self.shadow: Shadow | None = None
        self.drift: Drift | None = None
        self._learning: asyncio.Task | None = None
        self._looking: asyncio.Task | None = None
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
        waiting = Gauge("ecomkd_waiting", "Requests in work or waiting.", **held)
        waiting.set_function(lambda: self.room.waiting)
        self.drifts = Gauge(
            "ecomkd_drift",
            "Kolmogorov–Smirnov distance of the last window from the reference.",
            ("feature",),
            **held,
        )
        self.swaps = Counter("ecomkd_swaps", "Engines that took an older one's place.", **held)
        self.alarm = Gauge("ecomkd_drift_alarm", "1 while the last windows had drifted.", **held)
        self.kept = Kept(settings.keep, settings.max_products, self.registry)

    @property
    def index(self) -> str | None:
        """The version of the engine that answers now."""
        return _version(self.engine)

    async def start(self) -> None:
        """Try the engine once, then start what runs beside the requests."""
        await asyncio.to_thread(_try, self.engine)
        if getattr(self.engine, "shadow", None) is not None:
            self.shadow = Shadow(self.engine, self.settings.shadow_share, self.registry)
        if self.newer is not None:
            self._looking = asyncio.create_task(self._look(self.newer))
        if self.reference is None:
            self.ready = True
        else:
            self._learning = asyncio.create_task(self._learn(self.reference))

    async def _look(self, newer: Callable[[], Any]) -> None:
        """Put each newer engine into the place of the older one, whose requests it still answers.

        One that cannot be read, or that fails, is told of in the log, and the older one stays.
        """
        loop, pause = asyncio.get_running_loop(), self.settings.look
        while True:
            await asyncio.sleep(pause)
            engine, pause = None, self.settings.look
            try:
                engine = await asyncio.to_thread(newer)
                if engine is None:
                    continue
                await asyncio.to_thread(_try, engine)
                if self.shadow is not None and getattr(engine, "shadow", None) is None:
                    raise ValueError("it holds no teacher, and this service compares with one")
            except Exception as error:  # nobody awaits this task, and the older engine is well
                _LOG.error("The new engine is not taken, and the old one answers on: %s", error)
                pause = _PAUSE * self.settings.look
                _close(engine)
                continue
            old, self.engine = self.engine, engine
            # Once whoever began with it has been answered, or given up.
            loop.call_later(2 * self.settings.timeout, _close, old)
            self.swaps.inc()
            if self.shadow is not None:
                self.shadow.take(engine)
            if self.reference is not None:  # scores of another index are other scores
                if self._learning is not None:
                    self._learning.cancel()
                self.alarm.set(0)
                self.drift, self.failed = None, False
                self._learning = asyncio.create_task(self._learn(self.reference))

    async def _learn(self, queries: list[str]) -> None:
        """Ask the reference queries; meanwhile requests are answered."""
        queries, own = random.Random(0).sample(queries, len(queries)), self.settings
        how = own.drift_window, own.drift_level, own.drift_in_a_row
        try:
            engine, some = self.engine, queries[: own.drift_window]
            scores = [await self._best(engine, query) for query in some]
        except Exception:  # nobody awaits this task, so it would fail in silence
            state = "drift is not watched" if self.ready else "the service stays not ready"
            _LOG.exception("The engine failed on a reference query: %s.", state)
            self.failed = True
            return
        loop = asyncio.get_running_loop()
        self.drift = await loop.run_in_executor(self.pool, Drift, queries, scores, *how)
        self.ready = True

    async def _best(self, engine: Any, query: str) -> float:
        for pause in _AGAIN:
            with contextlib.suppress(ConnectionError):
                return _best(await self.search(engine, query, 10))
            await asyncio.sleep(pause)
        return _best(await self.search(engine, query, 10))

    def stop(self) -> None:
        if self.shadow is not None:
            self.shadow.stop()
        for task in (self._learning, self._looking):
            if task is not None:
                task.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def note(self, path: str, status: int, seconds: float) -> None:
        """Count a request and its time."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    async def search(self, engine: Any, query: str, k: int, *where: Any) -> Sequence[Hit]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, engine.search, query, k, *where)

    async def recommend(
        self, engine: Recommender, user: str, k: int, new: bool | None
    ) -> tuple[bool, list[Item]]:
        loop = asyncio.get_running_loop()
        known, hits = await loop.run_in_executor(self.pool, engine.recommend, user, k, new)
        return bool(known), list(hits)

    async def score(self, engine: Engine, query: str, texts: Sequence[str]) -> np.ndarray:
        """Scores (N,), float64, of one query and the texts of N products.

        A request has at most as many pairs in the queue of the pool as there are workers. So a
        large one uses all of them, and a small one that comes later waits for a few pairs of each
        request before it, not for all.
        """
        loop = asyncio.get_running_loop()
        scores, left = np.empty(len(texts)), iter(enumerate(texts))

        async def take() -> None:
            for place, text in left:
                scores[place] = await loop.run_in_executor(self.pool, _one, engine, query, text)

        try:
            await asyncio.gather(*(take() for _ in range(min(self.settings.workers, len(texts)))))
        finally:
            for _ in left:  # of a request that has failed or was given up, no more is scored
                pass
        return scores

    def answered(self, query: str, texts: list[str], best: float | None = None) -> None:
        """Keep an answer in view, its products as served; with `best`, drift sees its query."""
        if self.shadow is not None:
            self.shadow.offer(query, texts)
        if best is not None and self.drift is not None and self.drift.see(query, best):
            for feature, value in self.drift.statistic.items():
                self.drifts.labels(feature).set(value)
            self.alarm.set(bool(self.drift.drifting))

    def health(self) -> Health:
        if self.drift is None:
            state = "no reference" if self.reference is None else "reading the reference"
            state = "the reference failed" if self.failed else state
        elif not self.drift.windows:
            state = "collecting"
        else:
            state = "alarm" if self.drift.drifting else "none"
        return Health(
            live=True,
            ready=self.ready,
            loaded=self.name,
            index=self.index,
            version=ecomkd.__version__,
            seconds=round(time.monotonic() - self.begin, 1),
            waiting=self.room.waiting,
            shadow=self.shadow is not None,
            drift=state,
            drifting=self.drift.drifting if self.drift else [],
        )


def _close(engine: Any) -> None:
    try:
        getattr(engine, "close", lambda: None)()
    except Exception as error:  # else nobody would look for newer engines any more
        _LOG.warning("An engine could not be closed: %s", error)


def _try(engine: Any) -> None:
    """Ask an engine once; raises what it raises."""
    if hasattr(engine, "recommend"):
        engine.recommend("warm up", 1)
    else:
        _one(engine, "warm up", "warm up")


def _one(engine: Engine, query: str, text: str) -> float:
    scores = np.asarray(engine.score([query], [text]), np.float64)
    if scores.shape != (1,) or not np.isfinite(scores[0]):
        raise RuntimeError(
            f"The engine gave {scores.tolist()} as the scores of one pair: it has to give one "
            "finite number for each pair."
        )
    return scores[0]


def _version(engine: Any) -> str | None:
    return getattr(engine, "version", None)


def _best(hits: Sequence[Hit]) -> float:
    return max((float(hit.score) for hit in hits), default=-math.inf)


def create_app(
    engine: Engine | Recommender,
    settings: Settings | None = None,
    *,
    name: str = "engine",
    reference: Sequence[str] | None = None,
    newer: Callable[[], Engine | Recommender | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """Build the service around an engine, as an ASGI application.

    Args:
        engine: finds and scores products, or recommends items; it is asked once before the service
            starts.
        settings: limits and sizes; the defaults are for two cores.
        name: what /health calls the engine.
        reference: queries that live ones are compared with (see `Drift`); None for no comparison.
            At the start `settings.drift_window` of them, drawn at random, are searched for.
        newer: gives an engine that is to take the place of the one before, or None where there is
            none; called each `settings.look` seconds, in a thread of its own. A request is
            answered by the engine that it began with.
        clock: seconds, for the limit on each client's rate.

    Raises ValueError for fewer than 100 reference queries, or any for a recommender. Every error
    that a client gets is `{"error": sentence}`.
    """
    settings = settings or Settings()
    recommends = hasattr(engine, "recommend")
    examples = RECOMMEND if recommends else SEARCH
    if recommends and reference is not None:
        raise ValueError("A recommender has no queries: leave out the reference ones.")
    if reference is not None:
        reference = [query for query in reference if query.strip()]
        if min(len(reference), settings.drift_window) < LEAST_REFERENCE:
            raise ValueError(
                f"{len(reference)} reference queries and a window of {settings.drift_window}: "
                f"drift needs at least {LEAST_REFERENCE} of each."
            )
    service = _Service(engine, settings, name, reference, newer)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        await service.start()
        yield
        service.stop()

    # The interactive pages would load their scripts from the network. A path with a slash too many
    # is not redirected, for the redirection would lead to whatever host the request names.
    app = FastAPI(
        title="ecomkd",
        version=ecomkd.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.add_middleware(
        Door,
        working=examples,
        settings=settings,
        room=service.room,
        note=service.note,
        index=lambda: service.index,
        clock=clock,
    )
    explain_errors(app, settings, examples)
    (_recommend_paths if recommends else _search_paths)(app, service)

    @app.get("/health", responses={503: {"model": Health}, **_UNKNOWN_HOST})
    async def health(response: Response) -> Health:
        response.status_code = 200 if service.ready else 503
        return service.health()

    @app.get("/live", responses=_UNKNOWN_HOST)
    async def live() -> Live:
        return Live(live=True)

    @app.get("/metrics", response_class=PlainTextResponse, responses=_UNKNOWN_HOST)
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _search_paths(app: FastAPI, service: _Service) -> None:
    settings = service.settings
    # Types that depend on the settings: FastAPI could not look these up if annotations were text.
    query_text, product_text = text_of(settings.max_query), text_of(settings.max_text)
    most, engine = settings.max_products, service.engine
    # As they are described, for a newer index may have other fields.
    fields = list(getattr(engine, "fields", ()))
    field_names = list_of_texts(
        bodies.FIELDS, {"items": {"type": "string", "enum": fields}} if fields else NOTHING
    )
    filters = list_of_texts(bodies.FILTER, {} if hasattr(engine, "conditions") else NOTHING)

    class Rerank(BaseModel):
        """The body of a request to /rerank."""

        model_config = ConfigDict(extra="forbid")

        query: query_text
        products: Annotated[list[product_text], Field(min_length=1, max_length=most)]

    @app.get("/search", response_model=Found, responses=REFUSALS)
    async def search(
        q: query_text,
        k: Annotated[int, Query(ge=1, le=most, description=bodies.K)] = min(10, most),
        offset: Annotated[int, Query(ge=0, le=settings.max_offset, description=bodies.OFFSET)] = 0,
        fields: field_names = [],  # noqa: B006
        filter: filters = [],  # noqa: B006
    ) -> JSONResponse:
        engine: Any = service.engine
        there = getattr(engine, "fields", ())
        for name in fields:
            if name not in there:
                told = f"has {', '.join(there)}" if there else "has none"
                return failure(422, f"There is no field {name[:100]!r}: this index {told}.")
        where = []
        if filter:
            if not hasattr(engine, "conditions"):
                return failure(422, "This index takes no filter: `ecomkd index --engine` does.")
            try:
                where = [engine.conditions(filter)]
            except ValueError as error:
                return failure(422, str(error))
        last, reach = offset + k, getattr(engine, "reach", offset + k)
        if last > reach:
            return failure(422, f"offset and k are {last:,} together: give {reach:,} or less.")
        asked, version = (q, last, *filter), _version(engine)
        found = service.kept.find(engine, version, asked)
        if found is None:
            with service.room.work():
                found = await service.search(engine, q, last, *where)
            service.kept.keep(engine, version, asked, found)
        hits, version = found[offset:], getattr(found, "version", version)
        shown = [
            {"product_id": hit.product_id, "title": hit.title, "score": float(hit.score)}
            | ({"fields": {name: hit.fields.get(name) for name in fields}} if fields else {})
            for hit in hits
        ]
        # Drift sees first pages without a filter: elsewhere the best score is another quantity.
        best = None if offset or filter or engine is not service.engine else _best(hits)
        service.answered(q, [getattr(hit, "text", hit.title) for hit in hits], best)
        return JSONResponse({"query": q, "hits": shown}, headers=index_header(version))

    @app.post("/rerank", response_model=Order, responses=REFUSALS)
    async def rerank(request: Rerank) -> JSONResponse:
        query, products, engine = request.query, request.products, service.engine
        with service.room.work():
            scores = await service.score(engine, query, products)
        order = np.argsort(-scores, kind="stable")
        service.answered(query, [products[place] for place in order])
        found = {"scores": scores.tolist(), "order": order.tolist()}
        return JSONResponse(found, headers=index_header(_version(engine)))


def _recommend_paths(app: FastAPI, service: _Service) -> None:
    user_id, most = text_of(service.settings.max_query), service.settings.max_products

    @app.get("/recommend", response_model=Recommended, responses=REFUSALS)
    async def recommend(
        user: user_id,
        k: Annotated[int, Query(ge=1, le=most, description=bodies.ITEMS)] = min(10, most),
        new: Annotated[bool | None, Query(description=bodies.NEW)] = None,
    ) -> JSONResponse:
        engine = service.engine
        with service.room.work():
            known, hits = await service.recommend(engine, user, k, new)
        shown = [
            {"item_id": hit.item_id, "text": hit.text, "score": float(hit.score)} for hit in hits
        ]
        found = {"user": user, "known": known, "hits": shown}
        return JSONResponse(found, headers=index_header(_version(engine)))
