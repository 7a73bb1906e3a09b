"""The former name of `ecomkd.relevance.baselines` and `ecomkd.words`."""

from ecomkd.features import bi_encoder_scores
from ecomkd.relevance.baselines import (
    bm25_scores,
    lexical_boosting,
    random_scores,
    scores_to_probabilities,
)
from ecomkd.words import bm25, bm25_of

__all__ = [
    "bi_encoder_scores",
    "bm25",
    "bm25_of",
    "bm25_scores",
    "lexical_boosting",
    "random_scores",
    "scores_to_probabilities",
]
