"""The page that searches, with its own data: are its scores Python's, and how soon do they stand?

    python benchmarks/measure_search_page.py [--page _build/html/book/search_page.html]

Takes the page as `make book` has rendered it, and opens it in headless Chromium. The queries are
test queries of the profile's shop (ECOMKD_PROFILE), some with Chinese or an emoji added. The time
is from a keystroke to the lists, as the page itself measures it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import bm25s
import numpy as np

from browser import chromium
from ecomkd import bench, load, models, report, search
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.search import page
from ecomkd.search.retrieve import token_means, unit

ROOT = Path(__file__).resolve().parent.parent
RECORDED = Path(report.__file__).parent / "recorded" / "search_page.json"
QUERIES, TYPED = 200, 40
ADDED = ("", "", "沙发", "", "🛋️")
SCORES = """texts => {
  const ranker = window.ecomkdRanker, index = ranker.open(window.ecomkdSearch);
  return texts.map(text => {
    const ids = ranker.tokenise(index, text);
    return [[...ranker.cosines(index, ranker.embed(index, ids))], [...ranker.bm25(index, ids)]];
  });
}"""


def best_weight(profile: Profile, table: np.ndarray) -> float:
    """The weight of BM25 beside the static student, both as in the page, on validation queries."""
    catalogue, tokenizer = sources.catalogue("shop", profile), models.load_tokenizer("minilm")
    validation = load("shop", profile)["validation"]
    queries, quality = search.quality_on(validation, catalogue["product_id"])
    texts = sources.product_text(catalogue[:])
    near = static_scores(queries, texts, tokenizer, table)
    shared = bm25_scores(queries, texts, tokenizer)
    tried = {w: quality(search.weighted(near, shared, w, 100)[1]) for w in search.WORDS}
    return max(tried, key=tried.get)


def asked(profile: Profile) -> list[str]:
    found = dict.fromkeys(load("shop", profile)["test"]["query"])
    mixed = (f"{query} {word}".strip() for query, word in zip(found, cycle(ADDED), strict=False))
    return list(mixed)[:QUERIES]


def token_vectors(profile: Profile) -> np.ndarray:
    """The table (V, d) of the static student that chapter 8 puts in the page."""
    data, catalogue = load("shop", profile), sources.catalogue("shop", profile)
    wide = search.bi_encoder(data, catalogue, profile, unlabelled=profile.live_pairs)
    static = search.encoder(search.static_encoder(data, catalogue, profile, wide), profile)
    return static[0].embedding.weight.detach().numpy()


def by_python(
    profile: Profile, queries: list[str], table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, P) of static student and BM25."""
    catalogue = sources.catalogue("shop", profile)
    tokenizer, texts = models.load_tokenizer("minilm"), sources.product_text(catalogue[:])
    return (
        static_scores(queries, texts, tokenizer, table),
        bm25_scores(queries, texts, tokenizer),
    )


def static_scores(
    queries: Sequence[str], products: Sequence[str], tokenizer, vectors: np.ndarray
) -> np.ndarray:
    """Cosines (Q, P) of a static student, with token and product vectors in int8 as in the page.

    `vectors` (V, d) holds one row per token of the vocabulary. A text without tokens scores 0.
    """
    table = page.dequantised(vectors)
    product_rows, _ = page.quantise(token_means(page.token_ids(products, tokenizer), table))
    asked = token_means(page.token_ids(queries, tokenizer), table)
    return asked @ unit(product_rows.astype(np.float64)).T


def bm25_scores(queries: Sequence[str], products: Sequence[str], tokenizer) -> np.ndarray:
    """BM25 (Q, P) over WordPiece ids; a token that a query repeats counts each time.

    Lucene's variant, the default of `bm25s` (Robertson & Zaragoza 2009; Kamphuis et al. 2020).
    """
    index = bm25s.BM25(k1=page.K1, b=page.B, method="lucene", dtype="float64")
    index.index((page.token_ids(products, tokenizer), tokenizer.get_vocab()), show_progress=False)
    scores = np.zeros((len(queries), len(products)))
    for row, ids in enumerate(page.token_ids(queries, tokenizer)):
        if ids:
            scores[row] = index.get_scores_from_ids(ids)
    return scores


def in_the_page(shown: Path, queries: list[str]) -> tuple[list, list[float]]:
    """Scores of all queries, and milliseconds of each keystroke of the first of them."""
    with chromium() as browser:
        tab = browser.new_context(offline=True).new_page()
        tab.goto(shown.resolve().as_uri(), wait_until="load")
        scores = tab.evaluate(SCORES, queries)
        field, clock, times = tab.get_by_label("Query"), tab.locator(".time"), []
        for query in queries[:TYPED]:
            field.fill("")
            for letter in query:
                field.press_sequentially(letter)
                if found := re.search(r"([\d.]+) ms from your input", clock.inner_text()):
                    times.append(float(found[1]))
    return scores, times


def main() -> None:
    parser = argparse.ArgumentParser(description="The page that searches: scores and times.")
    default = ROOT / "_build" / "html" / "book" / "search_page.html"
    parser.add_argument("--page", type=Path, default=default, help="the rendered page")
    parser.add_argument("--out", type=Path, default=RECORDED, help="where the result is written")
    arguments = parser.parse_args()
    profile = Profile.named()
    queries = asked(profile)
    table = token_vectors(profile)
    wanted = by_python(profile, queries, table)
    scores, times = in_the_page(arguments.page, queries)
    apart = [
        float(np.abs(np.array(found) - own).max())
        for found, own in zip(zip(*scores, strict=True), wanted, strict=True)
    ]
    p50, p95 = (float(value) for value in np.percentile(times, [50, 95]))
    data_file = arguments.page.parent.parent / "_static" / "search_data.js"
    megabytes = data_file.stat().st_size / 1e6
    report.write_recorded(
        arguments.out,
        command="python benchmarks/measure_search_page.py",
        seeds=[profile.seed],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={
            "profile": profile.name,
            "queries": len(queries),
            "keystrokes": len(times),
            "p50_ms": p50,
            "p95_ms": p95,
            "largest_difference": dict(zip(("static student", "BM25"), apart, strict=True)),
            "data_mb": megabytes,
            "words": best_weight(profile, table),
        },
        goals=[
            report.goal(
                f"the page's scores: largest difference from Python's, {len(queries)} queries",
                max(apart),
                None,
                None,
                "≤ 0.001",
                max(apart) <= 1e-3,
            ),
            report.goal(
                f"the page: ms from a keystroke to the lists, p95 of {len(times):,}",
                p95,
                None,
                None,
                "≤ 50",
                p95 <= 50,
            ),
            report.goal("the page's data, MB", megabytes, None, None, "≤ 6", megabytes <= 6),
        ],
    )


if __name__ == "__main__":
    main()
