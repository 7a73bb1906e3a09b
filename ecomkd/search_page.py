"""The former name of `ecomkd.search.page`, which notebooks still use. Chapter 8."""

from ecomkd.search.page import bm25_scores, quantise, static_scores, token_ids, write

__all__ = ["bm25_scores", "quantise", "static_scores", "token_ids", "write"]
