"""The bodies of the service's answers, as /openapi.json describes them. Chapter 9."""

from pydantic import BaseModel


class Order(BaseModel):
    """The answer to /rerank: a score for each product, and their places, the best first."""

    scores: list[float]
    order: list[int]


class Product(BaseModel):
    """A product that was found."""

    product_id: str
    title: str
    score: float
    fields: dict[str, str | float | None] | None = None
    """What was asked for with `fields`; missing where nothing was."""


class Found(BaseModel):
    """The answer to /search, the best product first."""

    query: str
    hits: list[Product]


class Bought(BaseModel):
    """An item that is recommended."""

    item_id: str
    text: str
    score: float


class Recommended(BaseModel):
    """The answer to /recommend, the best item first. Who is not known is shown what sells."""

    user: str
    known: bool
    hits: list[Bought]


class Health(BaseModel):
    """The answer of /health."""

    live: bool
    ready: bool
    loaded: str
    index: str | None
    version: str
    seconds: float
    waiting: int
    shadow: bool
    drift: str
    drifting: list[str]


class Failure(BaseModel):
    """Every error: one sentence that says what is wrong and how to mend it."""

    error: str
