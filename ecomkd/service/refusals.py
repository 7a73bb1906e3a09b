"""What a service tells a client whose request it refuses, in one sentence. Chapter 9."""

import logging
import re
from decimal import Decimal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from ecomkd.service.bodies import Failure
from ecomkd.service.contract import Settings
from ecomkd.service.limits import ALWAYS, REQUEST, failure

_LOG = logging.getLogger(__name__)

REFUSALS = {
    status: {"model": Failure, "description": description}
    for status, description in {
        400: "The host is not one of this service, or the request is not JSON or not UTF-8.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        422: "A part of the request is missing, empty, too long or too large.",
        429: "Too many requests of one client; Retry-After says when to ask again.",
        500: "The engine failed.",
        503: "Too many requests wait, or the catalogue is away; Retry-After says when to ask.",
        504: "No answer was found in time.",
    }.items()
}
"""The refusals of the paths that make an engine work, as /openapi.json describes them."""


def explain_errors(app: FastAPI, settings: Settings, examples: dict[str, str]) -> None:
    """Have the application tell each error in one sentence, with an example for each path."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if sentence := _beyond(first, settings):
            return failure(422, sentence)
        place = ".".join(str(part) for part in first["loc"][1:])[:100] or "the body"
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

    @app.exception_handler(ConnectionError)
    @app.exception_handler(PermissionError)  # from a store, whose credentials ran out meanwhile
    async def away(request: Request, error: OSError) -> JSONResponse:
        _LOG.error("Request %s: %s", request.scope[REQUEST], error)
        sentence = "The catalogue is out of reach: ask again in a second; the log says why."
        return failure(503, sentence, {"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        # This answer does not pass the door, and the server logs the error after this line.
        own = request.scope[REQUEST]
        _LOG.error("Request %s failed.", own)
        sentence = "The service failed on this request: its log says why."
        return failure(500, sentence, {REQUEST: own})


def _beyond(error: dict, settings: Settings) -> str | None:
    """The sentence for what is beyond a limit; None for another error of pydantic's."""
    place, given, most = error["loc"][1:], error["input"], settings.max_products
    name, mend = "The query", "give what a shopper would type"
    if place == ("user",):
        name, mend = "The user", "give an id"
    if not place:
        name = "The name of a field"
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
            if place == ("offset",):
                return f"offset is {Decimal(given):,}: give 0 to {settings.max_offset:,}."
            return f"k is {Decimal(given):,}: give 1 to {most:,}."
    return None


def _undecodable(cause: BaseException | None) -> str:
    if isinstance(cause, RecursionError):
        return "The body has lists or objects nested too deep"
    if isinstance(cause, ValueError) and not isinstance(cause, UnicodeDecodeError):
        return "The body has a number of too many digits"
    return "The body is not JSON in UTF-8"
