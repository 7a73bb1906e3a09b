"""What n-grams of letters add to a search by words over a whole catalogue, on the simulated shop.

    python benchmarks/measure_letters.py --seeds 21 22 23
    python benchmarks/measure_letters.py --merge

On the shops of `measure_search_controls.py`, with the same queries and judgments. The letters are
the cosine of query and title under TF-IDF over character 3- to 5-grams, as `relevance.lexical` has
it for judged pairs; they read a query as it was typed. They are added to BM25 with mended spelling,
and to the sum of that and the untrained bi-encoder, with weights that validation chooses. No
network is trained. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

import shared
from ecomkd import features, metrics, report, runtime, search, words
from ecomkd.config import Profile
from ecomkd.data import shop, sources, truth
from ecomkd.relevance import judge, lexical
from ecomkd.search.tune import WORDS
from measure_search_controls import DEPTH, FREE_MENDED, MENDED, READ, UNTRAINED

PLAIN, LETTERS = "BM25", "n-grams of letters"
WORDED, ALL = f"{MENDED} + {LETTERS}", f"{FREE_MENDED} + {LETTERS}"
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Weights of the letters that are tried, beside a cosine of weight 1."""
COMPARED = {
    (MENDED, PLAIN): "spelling that is mended",
    (LETTERS, MENDED): "letters in the place of words",
    (WORDED, MENDED): "letters, added to words",
    (FREE_MENDED, WORDED): "the untrained bi-encoder in the place of letters",
    (ALL, FREE_MENDED): "letters, added to words and the untrained bi-encoder",
}


def best(
    cosines: np.ndarray,
    letters: np.ndarray,
    of_words: np.ndarray,
    quality: Callable[[np.ndarray], float],
    shares: tuple[float, ...],
) -> tuple[float, float]:
    """The weights of letters and of words with the highest quality, the first of equals.

    All scores are (Q, N), of validation queries and the catalogue.
    """

    def reached(weights: tuple[float, float]) -> float:
        share, strength = weights
        sums = cosines + share * letters
        return quality(search.weighted(sums, of_words, strength, READ)[1])

    return max(itertools.product(shares, WORDS), key=reached)


def measured(seed: int) -> dict:
    """All systems of one shop: nDCG@10 by query, and the weights that validation chose."""
    profile = Profile.named(seed=seed)
    catalogue, data = sources.catalogue("shop", profile), sources.load("shop", profile)
    texts, labels = sources.product_text(catalogue[:]), truth.judgments(profile)
    shown = data["test"].to_pandas().drop_duplicates("query_id")
    names, queries = shown["query_id"].tolist(), shown["query"].tolist()
    held, quality = search.quality_on(data["validation"], catalogue["product_id"])
    gains = judge.gains(data["test"])
    result: dict = {"systems": {}, "weights": {}}

    def keep(name: str, scores: np.ndarray) -> None:
        best_scores, rows = search.weighted(scores, scores, 0.0, DEPTH)
        rows = np.where(best_scores > 0, rows, -1)  # what shares nothing with a query is not found
        frame = search.ranked(names, catalogue["product_id"], rows)
        values = metrics.retrieval(frame, labels, gains)["per_query"]
        columns = {of: values[of].to_dict() for of in ("ndcg@10", "recall@100")}
        result["systems"][name] = columns

    index, lexicon = words.bm25(texts), words.spelling(texts)
    grams = lexical.ngrams()
    titles = grams.fit_transform(catalogue["product_title"])
    vectors = features.embed(texts, profile)

    def scored(asked: list[str]) -> tuple[np.ndarray, ...]:
        """Cosines of vectors, and of letters, and BM25 with spelling mended, (Q, N) each."""
        cosines = features.embed(asked, profile, role="query") @ vectors.T
        letters = (grams.transform(asked) @ titles.T).toarray()
        right = [words.mended(lexicon, query) for query in asked]
        return cosines, letters, search.word_scores(index, right)

    keep(PLAIN, search.word_scores(index, queries))
    (cosines, letters, of_words), known = scored(queries), scored(held)
    keep(MENDED, of_words)
    keep(LETTERS, letters)
    keep(UNTRAINED, cosines)
    for name, used, shares in (
        (WORDED, False, (1.0,)),
        (FREE_MENDED, True, (0.0,)),
        (ALL, True, SHARES),
    ):
        share, strength = best(used * known[0], *known[1:], quality, shares)
        keep(name, used * cosines + share * letters + strength * of_words)
        result["weights"][name] = {"letters": share, "words": strength}
    result["kinds"] = dict(zip(names, shown["query_kind"], strict=True))
    return result | {
        "generator": shop.generator_hash(),
        "precision": runtime.precision(profile),
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    order = shared.by_query(parts, "ndcg@10")
    rows, differences = shared.of_shops(order, COMPARED)
    kinds = shared.add_search_by_kind(rows, parts)
    apart = shared.by_pair(differences)
    what = {
        WORDED: (MENDED, "words with n-grams of titles' letters minus words"),
        ALL: (
            FREE_MENDED,
            "words, untrained bi-encoder and n-grams of titles' letters minus the "
            "same without letters",
        ),
    }
    report.write_recorded(
        out,
        **shared.origin("letters", parts),
        data={
            "rows": rows,
            "differences": differences,
            "queries by kind": kinds,
            "weights": {part["seed"]: part["weights"] for part in parts},
        },
        goals=[
            shared.above_over_seeds(
                f"nDCG@10 over the catalogue: {said} (interval over seeds)", apart[one, other]
            )
            for one, (other, said) in what.items()
        ],
    )
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("letters", "What n-grams of letters add to a search.", measured, merge)
