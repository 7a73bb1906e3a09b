"""The old name of `ecomkd.relevance.mining` and, of its encoders, of `ecomkd.features`."""

from ecomkd.features import embed, encode  # noqa: F401
from ecomkd.relevance.mining import catalogue_queries, mine  # noqa: F401
