"""The engine that answers from a store: candidates, their exact sum, and a student that re-ranks.

It answers as `SearchEngine` does, but for products that the store does not find. Its own memory
holds the table of tokens, the words and the models, and does not grow with the catalogue.
Chapter 19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from ecomkd import words
from ecomkd.search.engine import DEPTH, Hit
from ecomkd.search.retrieve import Weights, rerank, token_means, weighted
from ecomkd.search.stores import Condition, Store

CANDIDATES = 100
"""Products that a store is asked for by vector, and as many by words."""


@dataclass(eq=False)
class StoreEngine:
    """A catalogue in a store that can be searched. All methods are safe from several threads."""

    store: Store
    known: words.Statistics
    """By which the words of the store's products were counted."""
    pieces: Tokenizer
    table: np.ndarray
    """The static student: its tokenizer, and a vector for each token (V, H)."""
    student: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    """Gives the expected gains of queries and texts."""
    weights: Weights
    shadow: Callable[[Sequence[str], Sequence[str]], np.ndarray] | None = None
    """Like `student`, from the teacher."""
    depth: int = DEPTH
    """How many products the student reads; with 0, the order is that of words and vectors."""
    candidates: int = CANDIDATES

    def __post_init__(self):
        unknown = getattr(self.pieces.model, "unk_token", None)
        self._unknown = self.pieces.token_to_id(unknown or "")

    @property
    def version(self) -> str:
        """That of the store. Raises as the store's `version` does."""
        return self.store.version()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, H) of texts under the static student; without tokens it is zero."""
        return token_means(self._tokens(texts), self.table).astype(np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = self.pieces.encode_batch(list(texts), add_special_tokens=False)
        return [text.ids for text in pieces]

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """The student's expected gain (N,) of query–product pairs, each by itself."""
        return self.student(queries, texts)

    def search(self, query: str, k: int = 10, where: Iterable[Condition] = ()) -> list[Hit]:
        """The k best products for a query that keep all conditions, or all where there are fewer.

        As `SearchEngine.search` has it: the student puts the first `depth` into a new order, and a
        query of which neither words nor vectors know anything has no hits. Raises ValueError for k
        below 1, and as the store's `candidates` does.
        """
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        ids = self._tokens([query])
        known = any(token != self._unknown for token in ids[0])
        terms = words.asked(self.known, query)
        number = max(self.candidates, k, self.depth)
        vector = token_means(ids, self.table)[0].astype(np.float32)
        found = self.store.candidates(vector, terms, number, where)
        if not found.ids or not (known or found.words.any()):
            return []
        deepest = max(k, self.depth)
        sums, rows = weighted(found.cosines[None], found.words[None], self.weights.words, deepest)
        first, scores = rows[:, : self.depth], sums[0]
        if first.size:
            texts = [found.texts[row] for row in first[0]]
            gains = self.weights.reranker * self.score([query] * len(texts), texts)
            # No gain is below 0, so that nothing read falls behind what was not.
            read, first = rerank(first, sums[0, : self.depth] + gains)
            scores = np.concatenate([read[0], sums[0, self.depth :]])
        order = np.concatenate([first[0], rows[0, self.depth :]])[:k]
        hits = []
        for row, score in zip(order, scores, strict=False):
            fields = {name: own[row] for name, own in found.fields.items()}
            hits.append(
                Hit(found.ids[row], found.titles[row], float(score), found.texts[row], fields)
            )
        return hits
