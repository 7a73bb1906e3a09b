"""What requests and answers of the service hold, as /openapi.json describes it. Chapter 9."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, StringConstraints

NOTHING = {"maxItems": 0}
"""What a list of texts is described by where the engine takes none."""
K = (
    "How many products to give. Fewer come where the catalogue has no more that fit the query and "
    "the filter. The student reads the first ones and puts them into a new order; those beyond "
    "come after them, in the order of words and vectors."
)
OFFSET = "How many of the best products to pass over: k for the second page, 2 k for the third."
FIELDS = "A field of the products to tell, by its name; may be repeated."
FILTER = (
    "What products have to keep, such as price<20 or brand=Acme (= != < <= > >=); may be repeated."
)
ITEMS = "How many items to give. So many come, unless the shop has fewer that may be shown."
NEW = "Whether to leave out what the user has bought before; without it, as validation found best."
_NOT_BLANK = r"[^\s\u001c-\u001f\u0085]"
"""What `str.strip` leaves, as a regular expression of JSON Schema."""


def list_of_texts(description: str, described: dict) -> Any:
    """The type of a list of texts in a request."""
    return Annotated[list[str], Query(description=description, json_schema_extra=described)]


def text_of(longest: int) -> Any:
    """The type of a text in a request: not blank, and of at most so many characters."""
    return Annotated[str, StringConstraints(min_length=1, max_length=longest, pattern=_NOT_BLANK)]


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


class Live(BaseModel):
    """The answer of /live, which comes for as long as the service answers at all."""

    live: bool


class Failure(BaseModel):
    """Every error: one sentence that says what is wrong and how to mend it."""

    error: str
