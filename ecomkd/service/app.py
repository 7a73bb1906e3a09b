"""The service around an engine as an ASGI application: paths, refusals, metrics. Chapter 9."""

import asyncio
import contextlib
import logging
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException as StarletteHTTPException

import ecomkd
from ecomkd.service.bodies import Failure, Found, Health, Order, Recommended
from ecomkd.service.contract import Engine, Hit, Item, Recommender, Settings
from ecomkd.service.limits import ALWAYS, RECOMMEND, SEARCH, Door, Room, failure
from ecomkd.service.watch import LEAST_REFERENCE, Drift, Shadow

_LOG = logging.getLogger(__name__)
_NOT_BLANK = r"[^\s\u001c-\u001f\u0085]"
"""What `str.strip` leaves, as a regular expression of JSON Schema."""

_K = (
    "How many products to give. So many come, unless the catalogue has fewer, or nothing of the "
    "query is known. The student reads the first ones and puts them into a new order; those beyond "
    "come after them, in the order of words and vectors."
)
_ITEMS = "How many items to give. So many come, unless the shop has fewer."
_NEW = "Whether to leave out what the user has bought before; without it, as validation found best."


_REFUSALS = {
    status: {"model": Failure, "description": description}
    for status, description in {
        400: "The host is not one of this service, or the request is not JSON or not UTF-8.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "A part of the request is missing, empty, too long or too large.",
        429: "Too many requests of one client; Retry-After says when to ask again.",
        500: "The engine failed.",
        503: "Too many requests wait already; Retry-After says when to ask again.",
        504: "No answer was found in time.",
    }.items()
}
_UNKNOWN_HOST = {400: _REFUSALS[400]}


class _Service:
    """An engine, and what goes on around it."""

    def __init__(
        self,
        engine: Any,  # an Engine or a Recommender
        settings: Settings,
        name: str,
        reference: list[str] | None,
    ):
        self.engine, self.settings, self.name = engine, settings, name
        self.index: str | None = getattr(engine, "version", None)
        self.reference = reference
        self.ready, self.begin = False, time.monotonic()
        self.room = Room(settings)
        self.pool = ThreadPoolExecutor(settings.workers, "engine")
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
        waiting = Gauge("ecomkd_waiting", "Requests in work or waiting.", **held)
        waiting.set_function(lambda: self.room.waiting)
        self.drifts = Gauge(
            "ecomkd_drift",
            "Kolmogorov–Smirnov distance of the last window from the reference.",
            ("feature",),
            **held,
        )
        self.alarm = Gauge("ecomkd_drift_alarm", "1 while the last window had drifted.", **held)

    async def start(self) -> None:
        """Try the engine once, then start what runs beside the requests."""
        if hasattr(self.engine, "recommend"):
            await self.recommend("warm up", 1, None)
        else:
            await self.score("warm up", ["warm up"])
        if getattr(self.engine, "shadow", None) is not None:
            self.shadow = Shadow(self.engine, self.settings.shadow_share, self.registry)
        if self.reference is None:
            self.ready = True
        else:
            self._learning = asyncio.create_task(self._learn(self.reference))

    async def _learn(self, queries: list[str]) -> None:
        """Ask the reference queries; meanwhile requests are answered."""
        queries = random.Random(0).sample(queries, len(queries))
        window, level = self.settings.drift_window, self.settings.drift_level
        try:
            scores = [_best(await self.search(query, 10)) for query in queries[:window]]
        except Exception:  # nobody awaits this task, so it would fail in silence
            _LOG.exception("The engine failed on a reference query: the service stays not ready.")
            return
        loop = asyncio.get_running_loop()
        self.drift = await loop.run_in_executor(self.pool, Drift, queries, scores, window, level)
        self.ready = True

    def stop(self) -> None:
        if self.shadow is not None:
            self.shadow.stop()
        if self._learning is not None:
            self._learning.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def note(self, path: str, status: int, seconds: float) -> None:
        """Count a request and its time."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    async def search(self, query: str, k: int) -> list[Hit]:
        loop = asyncio.get_running_loop()
        return list(await loop.run_in_executor(self.pool, self.engine.search, query, k))

    async def recommend(self, user: str, k: int, new: bool | None) -> tuple[bool, list[Item]]:
        loop = asyncio.get_running_loop()
        known, hits = await loop.run_in_executor(self.pool, self.engine.recommend, user, k, new)
        return bool(known), list(hits)

    async def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Scores (N,), float64, of one query and the texts of N products.

        A request has at most as many pairs in the queue of the pool as there are workers. So a
        large one uses all of them, and a small one that comes later waits for a few pairs of each
        request before it, not for all.
        """
        loop = asyncio.get_running_loop()
        scores, left = np.empty(len(texts)), iter(enumerate(texts))

        async def take() -> None:
            for place, text in left:
                scores[place] = await loop.run_in_executor(self.pool, self._one, query, text)

        try:
            await asyncio.gather(*(take() for _ in range(min(self.settings.workers, len(texts)))))
        finally:
            for _ in left:  # of a request that has failed or was given up, no more is scored
                pass
        return scores

    def _one(self, query: str, text: str) -> float:
        scores = np.asarray(self.engine.score([query], [text]), np.float64)
        if scores.shape != (1,) or not np.isfinite(scores[0]):
            raise RuntimeError(
                f"The engine gave {scores.tolist()} as the scores of one pair: it has to give one "
                "finite number for each pair."
            )
        return scores[0]

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


def _best(hits: Sequence[Hit]) -> float:
    return max((float(hit.score) for hit in hits), default=-math.inf)


def create_app(
    engine: Engine | Recommender,
    settings: Settings | None = None,
    *,
    name: str = "engine",
    reference: Sequence[str] | None = None,
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
        clock: seconds, for the limit on each client's rate.

    Raises:
        ValueError: fewer than 100 reference queries, or any for a recommender.

    Every error is `{"error": sentence}`.
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
    service = _Service(engine, settings, name, reference)

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
        index=service.index,
        clock=clock,
    )
    _explain_errors(app, settings, examples)
    (_recommend_paths if recommends else _search_paths)(app, service)

    @app.get("/health", responses={503: {"model": Health}, **_UNKNOWN_HOST})
    async def health(response: Response) -> Health:
        response.status_code = 200 if service.ready else 503
        return service.health()

    @app.get("/metrics", response_class=PlainTextResponse, responses=_UNKNOWN_HOST)
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _search_paths(app: FastAPI, service: _Service) -> None:
    settings = service.settings
    # Types that depend on the settings: FastAPI could not look these up if annotations were text.
    query_text, product_text = _text(settings.max_query), _text(settings.max_text)
    most = settings.max_products

    class Rerank(BaseModel):
        """The body of a request to /rerank."""

        model_config = ConfigDict(extra="forbid")

        query: query_text
        products: Annotated[list[product_text], Field(min_length=1, max_length=most)]

    @app.get("/search", response_model=Found, responses=_REFUSALS)
    async def search(
        q: query_text, k: Annotated[int, Query(ge=1, le=most, description=_K)] = min(10, most)
    ) -> JSONResponse:
        with service.room.work():
            hits = await service.search(q, k)
        shown = [
            {"product_id": hit.product_id, "title": hit.title, "score": float(hit.score)}
            for hit in hits
        ]
        service.answered(q, [getattr(hit, "text", hit.title) for hit in hits], _best(hits))
        return JSONResponse({"query": q, "hits": shown})

    @app.post("/rerank", response_model=Order, responses=_REFUSALS)
    async def rerank(request: Rerank) -> JSONResponse:
        query, products = request.query, request.products
        with service.room.work():
            scores = await service.score(query, products)
        order = np.argsort(-scores, kind="stable")
        service.answered(query, [products[place] for place in order])
        return JSONResponse({"scores": scores.tolist(), "order": order.tolist()})


def _recommend_paths(app: FastAPI, service: _Service) -> None:
    user_id, most = _text(service.settings.max_query), service.settings.max_products

    @app.get("/recommend", response_model=Recommended, responses=_REFUSALS)
    async def recommend(
        user: user_id,
        k: Annotated[int, Query(ge=1, le=most, description=_ITEMS)] = min(10, most),
        new: Annotated[bool | None, Query(description=_NEW)] = None,
    ) -> JSONResponse:
        with service.room.work():
            known, hits = await service.recommend(user, k, new)
        shown = [
            {"item_id": hit.item_id, "text": hit.text, "score": float(hit.score)} for hit in hits
        ]
        return JSONResponse({"user": user, "known": known, "hits": shown})


def _text(longest: int) -> Any:
    """The type of a text in a request: not blank, and of at most so many characters."""
    return Annotated[str, StringConstraints(min_length=1, max_length=longest, pattern=_NOT_BLANK)]


def _explain_errors(app: FastAPI, settings: Settings, examples: dict[str, str]) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if sentence := _beyond(first, settings):
            return failure(422, sentence)
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        example = f"ask like this: {examples[request.url.path]}"
        if first["type"] == "json_invalid":
            return failure(400, f"The body is not valid JSON at character {place}; {example}")
        if first["type"] == "missing":
            return failure(422, f"{place} is missing; {example}")
        reason = first["msg"][0].lower() + first["msg"][1:]
        return failure(422, f"{place}: {reason}; {example}")

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        sentence = error.detail
        if error.status_code == 400:  # FastAPI's word for a body that it cannot decode
            sentence = (
                f"{_undecodable(error.__cause__)}; ask like this: {examples[request.url.path]}"
            )
        elif error.status_code == 404:
            sentence = f"There is nothing at this path: ask {', '.join((*examples, *ALWAYS))}."
        elif error.status_code == 405:
            sentence = f"This path does not take {request.method}: see /openapi.json."
        return failure(error.status_code, sentence, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return failure(500, "The service failed on this request: its log says why.")


def _beyond(error: dict, settings: Settings) -> str | None:
    """The sentence for what is beyond a limit; None for another error of pydantic's."""
    place, given, most = error["loc"][1:], error["input"], settings.max_products
    name, mend = "The query", "give what a shopper would type"
    if place == ("user",):
        name, mend = "The user", "give an id"
    if "products" in place:
        name, mend = f"products[{place[-1]}]", "give its text"
    match error["type"]:
        case "string_too_short" | "string_pattern_mismatch":
            return f"{name} is empty: {mend}."
        case "string_too_long":
            longest = error["ctx"]["max_length"]
            return f"{name} has {len(given):,} characters: give at most {longest:,}."
        case "string_unicode":
            half = re.search("[\ud800-\udfff]", given).start()
            return f"{name} has half a character at {half} (a lone surrogate): send it whole."
        case "too_short" | "too_long":
            return f"The request has {len(given):,} products: give 1 to {most:,}."
        case "greater_than_equal" | "less_than_equal":
            return f"k is {Decimal(given):,}: give 1 to {most:,}."
    return None


def _undecodable(cause: BaseException | None) -> str:
    if isinstance(cause, RecursionError):
        return "The body has lists or objects nested too deep"
    if isinstance(cause, ValueError) and not isinstance(cause, UnicodeDecodeError):
        return "The body has a number of too many digits"
    return "The body is not JSON in UTF-8"
