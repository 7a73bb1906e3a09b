"""What each word of a product adds to a cross-encoder's score for a query, by several methods.

The score is the log-odds of the first class, Exact, against all others. The query stays; a word
that is taken away is replaced by the tokenizer's mask token, piece by piece. Sizes: N words of the
product, L tokens, H the model's width, M versions of a pair. Chapter 17.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.explain.words", "explain"):
    import torch
    from transformers import PreTrainedModel

_BATCH = 64


@dataclass(frozen=True)
class Pair:
    """A query and a product in tokens, and the product's word that each token is part of."""

    query: str
    words: tuple[str, ...]
    """The N words of the product that the model reads."""
    ids: torch.Tensor
    """Token ids (L,)."""
    types: torch.Tensor
    """Which side a token is on, 0 or 1, (L,)."""
    word: np.ndarray
    """The word of each token (L,), -1 for the query and for the marks between the two."""
    mask: int
    """The id of the mask token."""

    @property
    def masked(self) -> torch.Tensor:
        """The ids (L,) with all words of the product taken away."""
        return torch.where(torch.from_numpy(self.word >= 0), self.mask, self.ids)


def read(query: str, product: str, tokenizer: Any, max_length: int = 32) -> Pair:
    """The pair as the model reads it. Words are what blanks part; what is cut off is left out.

    Raises ValueError for a text without a word, where no token of the product is left, or for a
    tokenizer without a mask token.

    Example:
        >>> from ecomkd import models
        >>> pair = read("red mug", "Stoneware mug, red", models.load_tokenizer("minilm"))
        >>> pair.words
        ('Stoneware', 'mug,', 'red')
    """
    for name, text in (("query", query), ("product", product)):
        if not text.split():
            raise ValueError(f"read: the {name} has no word; give a text.")
    if tokenizer.mask_token_id is None:
        raise ValueError("read: the tokenizer has no mask token; take one of an encoder.")
    words = product.split()
    # Texts are given whole: words by themselves are cut otherwise by a tokenizer that reads blanks.
    cut = tokenizer(
        query,
        product,
        truncation="longest_first",
        max_length=max_length,
        return_offsets_mapping=True,
    )
    ends = [one.end() for one in re.finditer(r"\S+", product)]
    first = np.array(cut["offset_mapping"])[:, 0]
    # The first word that ends behind where a token begins: a blank belongs to the word after it.
    own = np.minimum(np.searchsorted(ends, first, "right"), len(words) - 1)
    word = np.where(np.array(cut.sequence_ids()) == 1, own, -1)
    if word.max() < 0:
        raise ValueError(
            f"read: no token of the product is left in {max_length}; give a longer max_length, or "
            "a text that the tokenizer can read."
        )
    ids = torch.tensor(cut["input_ids"])
    types = torch.tensor(cut.get("token_type_ids", [0] * len(ids)))
    return Pair(query, tuple(words[: word.max() + 1]), ids, types, word, tokenizer.mask_token_id)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds (M,) of the first class against all others, from logits (M, C)."""
    return logits[:, 0] - logits[:, 1:].logsumexp(dim=1)


def scores(model: PreTrainedModel, pair: Pair, kept: np.ndarray) -> np.ndarray:
    """The log-odds (M,) of M versions of a pair, of which each keeps the words that are true.

    Args:
        kept: boolean, (M, N).

    Raises ValueError for another shape.
    """
    kept = np.asarray(kept, bool)
    if kept.ndim != 2 or kept.shape[1] != len(pair.words):
        raise ValueError(
            f"scores: kept is {kept.shape}; give (versions, {len(pair.words)}), one column a word."
        )
    there = torch.from_numpy(np.where(pair.word < 0, True, kept[:, pair.word]))
    ids, found = torch.where(there, pair.ids, pair.mask), []
    with torch.inference_mode():
        for part in ids.to(model.device).split(_BATCH):
            sides = pair.types.to(model.device).expand_as(part)
            found.append(log_odds(model(input_ids=part, token_type_ids=sides).logits))
    return torch.cat(found).cpu().double().numpy()


def by_word(pair: Pair, of_tokens: np.ndarray) -> np.ndarray:
    """Sums (N,) over the tokens (L,) of each word."""
    inside = pair.word >= 0
    return np.bincount(pair.word[inside], of_tokens[inside], len(pair.words))


def _gradients(
    model: PreTrainedModel, pair: Pair, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The way from masked to whole embeddings (L, H), and the score's gradients (S, L, H) at the
    `places` (S,) along it, from 0 to 1."""
    table = model.get_input_embeddings()
    with torch.no_grad():
        start, end = table(pair.masked.to(model.device)), table(pair.ids.to(model.device))
    found = []
    for part in places.to(model.device).split(_BATCH // 2):
        inputs = (start + part[:, None, None] * (end - start)).requires_grad_()
        sides = pair.types.to(model.device).expand(len(part), -1)
        score = log_odds(model(inputs_embeds=inputs, token_type_ids=sides).logits).sum()
        found.append(torch.autograd.grad(score, inputs)[0])
    return (end - start).cpu(), torch.cat(found).cpu()


def integrated_gradients(model: PreTrainedModel, pair: Pair, steps: int = 16) -> np.ndarray:
    """Integrated gradients (N,), from the product masked to the whole one.

    They add up to the difference of the two scores, but for the error of the integral, which is
    taken at `steps` places by the Gauss-Legendre rule (Sundararajan et al. 2017, equation 1,
    arXiv:1703.01365). Raises ValueError for no step.
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients: {steps} steps; give 1 or more.")
    places, weights = (
        torch.from_numpy(part).float() / 2 for part in np.polynomial.legendre.leggauss(steps)
    )
    way, gradients = _gradients(model, pair, places + 0.5)
    mean = (weights[:, None, None] * gradients).sum(dim=0)
    return by_word(pair, (way * mean).sum(dim=1).double().numpy())


def gradient_input(model: PreTrainedModel, pair: Pair) -> np.ndarray:
    """The gradient at the whole pair, times the way from the masked product to it, (N,)."""
    way, gradients = _gradients(model, pair, torch.ones(1))
    return by_word(pair, (way * gradients[0]).sum(dim=1).double().numpy())


def leave_one_out(model: PreTrainedModel, pair: Pair) -> np.ndarray:
    """How much the score falls when a word alone is taken away, (N,)."""
    count = len(pair.words)
    found = scores(model, pair, np.vstack([np.ones(count, bool), ~np.eye(count, dtype=bool)]))
    return found[0] - found[1:]


def shapley(model: PreTrainedModel, pair: Pair, orders: int = 8, seed: int = 0) -> np.ndarray:
    """Shapley values (N,), estimated from random orders in which the words come in.

    Each order and its reverse are used. The values add up to the difference between the whole
    pair's score and the masked one's, whatever the number of orders (Castro et al. 2009,
    doi:10.1016/j.cor.2008.04.004). Raises ValueError for an odd number of orders.
    """
    if orders < 2 or orders % 2:
        raise ValueError(f"shapley: {orders} orders; give an even number, 2 or more.")
    rng, count = np.random.default_rng(seed), len(pair.words)
    drawn = [rng.permutation(count) for _ in range(orders // 2)]
    drawn += [order[::-1] for order in drawn]
    ranks = np.argsort(drawn, axis=1)
    kept = ranks[:, None, :] < np.arange(count + 1)[None, :, None]
    found = scores(model, pair, kept.reshape(-1, count)).reshape(orders, count + 1)
    gains = np.diff(found, axis=1)
    return np.take_along_axis(gains, ranks, axis=1).mean(axis=0)


def _attentions(model: PreTrainedModel, pair: Pair) -> torch.Tensor:
    """Attention (layers, L, L), the mean over heads: each row adds up to 1."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not tell what they attend to
    try:
        with torch.inference_mode():
            sides = [part[None].to(model.device) for part in (pair.ids, pair.types)]
            seen = model(
                input_ids=sides[0], token_type_ids=sides[1], output_attentions=True
            ).attentions
    finally:
        model.set_attn_implementation(before)
    return torch.cat(seen).mean(dim=1).cpu()


def attention(model: PreTrainedModel, pair: Pair) -> np.ndarray:
    """How much of its attention the first token pays to each word in the last layer, (N,)."""
    return by_word(pair, _attentions(model, pair)[-1, 0].double().numpy())


def rollout(model: PreTrainedModel, pair: Pair) -> np.ndarray:
    """Attention of the first token to each word through all layers, (N,).

    Each layer passes on half of what it attends to and half of what it got (attention rollout,
    Abnar & Zuidema 2020, arXiv:2005.00928).
    """
    through = torch.eye(len(pair.ids))
    for layer in _attentions(model, pair):
        through = (layer + torch.eye(len(layer))) / 2 @ through
    return by_word(pair, through[0].double().numpy())


def in_common(pair: Pair) -> np.ndarray:
    """1 for each word that the query has too, else 0, (N,): what costs nothing.

    A word without a letter or digit is none.
    """
    asked = {_letters(word) for word in pair.query.split()} - {""}
    return np.array([float(_letters(word) in asked) for word in pair.words])


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))
