"""Chapters 8 and 19: search over a whole catalogue, the engine that serves it, and clicks.

A ranking of Q queries is a pair (scores, rows), each (Q, k): the k best products as rows of the
catalogue, best first. Where a query has fewer than k, the rest is row −1 with score −inf.

Names are loaded when they are first asked for: whoever only serves an index loads neither torch
nor what trains.
"""

from ecomkd import lazy

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".retrieve": (
            "approximate Exact exact fuse lexical rerank token_means unit weighted "
            "Weights word_scores"
        ),
        ".tune": "candidates choose_weights model_scores quality_on ranked RERANKER WORDS",
        ".encoders": "bi_encoder BI_ENCODERS encoder imitation_loss static_encoder",
        ".unjudged": "hard_negatives told",
        ".sparse": "load_sparse sparse_encoder sparse_loss SparseHead SparseStudent",
        ".engine": "Hit load SearchEngine SparseEngine",
        ".index": "build write",
        ".page": "",
        ".clicks": (
            "attraction click credit examined falling propensities searches_needed swap swaps "
            "team_draft"
        ),
    },
)
