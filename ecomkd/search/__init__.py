"""Chapter 8: search over a whole catalogue, and the engine that serves it.

A ranking of Q queries is a pair (scores, rows), each (Q, k): the k best products as rows of the
catalogue, best first. Where a query has fewer than k, the rest is row −1 with score −inf.

Names are loaded when they are first asked for: whoever only serves an index loads neither torch
nor what trains.
"""

from importlib import import_module

_HOMES = {
    **dict.fromkeys(
        (
            "Exact", "Weights", "approximate", "exact", "fuse", "lexical", "rerank", "token_means",
            "unit", "weighted", "word_scores",
        ),
        "retrieve",
    ),
    **dict.fromkeys(
        (
            "RERANKER", "WORDS", "candidates", "choose_weights", "model_scores", "quality_on",
            "ranked",
        ),
        "tune",
    ),
    **dict.fromkeys(
        ("BI_ENCODERS", "bi_encoder", "encoder", "hard_negatives", "margin_rows", "static_encoder"),
        "encoders",
    ),
    **dict.fromkeys(("Hit", "SearchEngine", "load"), "engine"),
    **dict.fromkeys(("build", "write"), "index"),
}  # fmt: skip
_FORMER = {"Engine": "SearchEngine", "mined": "hard_negatives"}
"""Names of version 0.1.0 that notebooks still use."""


def __getattr__(name: str):
    name = _FORMER.get(name, name)
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
