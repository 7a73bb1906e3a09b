"""What a shop has before it fine-tunes anything, on judged queries of real catalogues, and of the
simulated shop.

    python benchmarks/measure_untrained.py [shop esci_150 icecat msrd]

needs ECOMKD_REAL_DATA for all but `shop`; the record keeps what is not named. Of each catalogue: a
random order, BM25, words at their best, the untrained bi-encoder, the sum of words and bi-encoder,
the same signals joined in other ways, and LambdaMART, which learns from labels, over them. The
bi-encoder reads a product whole, up to 256 tokens, and once more only what a network sees that
reads query and product together in 32 tokens, or in 96. Weights, constants and trees are chosen on
validation queries. Of `shop` it is the test queries of the three
seeds of `core_shop`. `esci_150` has so few queries that each is tested once, in five folds; of
`msrd` all test queries are read, and 400 training queries by LambdaMART. No network is trained, and
nothing else is drawn at random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

import msrd_part
import shared
from ecomkd import bench, features, metrics, models, report
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.data.contract import product_text
from ecomkd.data.folds import divided, judged
from ecomkd.data.schema import TEXT
from ecomkd.relevance import baselines, judge, rivals
from ecomkd.relevance.fusion import Fusion, choose_fusion
from ecomkd.relevance.lexical import LEXICAL
from ecomkd.relevance.tables import BEST_WORDS, LAMBDAMART, SYSTEMS, UNTRAINED, UNTRAINED_SUM

SPLITS = ("train", "validation", "test")
SHOP, SEEDS = "shop", (18, 19, 20)
NAMES = (SHOP, "esci_150", "icecat", "msrd")
PLAIN_RANKS = "the same signals by ranks, nothing chosen"
"""Reciprocal ranks of all signals with the constant 60, all alike, as search engines have them."""
JOINED = {"min-max": "the same signals, min–max", "rrf": "the same signals by ranks"}
"""Ways to join the signals of UNTRAINED_SUM, in `fusion.FUSIONS`, and their rows."""
SHORT = {tokens: f"bi-encoder, untrained, {tokens} tokens a pair" for tokens in (32, 96)}
"""As many as the book's networks read of query and product together in the shop and on Icecat, and
on the ESCI lists."""
ROWS = (
    "random",
    "BM25",
    BEST_WORDS,
    "bi-encoder, untrained",
    *SHORT.values(),
    UNTRAINED_SUM,
    *JOINED.values(),
    PLAIN_RANKS,
    LAMBDAMART,
)
LABELLED, VALIDATION, TESTED = 400, 150, 2_064
"""Queries of `msrd`."""
COMPARED = (
    (BEST_WORDS, "BM25"),
    ("bi-encoder, untrained", "BM25"),
    ("bi-encoder, untrained", BEST_WORDS),
    (UNTRAINED_SUM, "bi-encoder, untrained"),
    (UNTRAINED_SUM, BEST_WORDS),
    (LAMBDAMART, UNTRAINED_SUM),
    *((name, UNTRAINED_SUM) for name in (*JOINED.values(), PLAIN_RANKS)),
    *((name, "bi-encoder, untrained") for name in SHORT.values()),
)


def parts_of(
    name: str, profile: Profile, scratch: Path, labelled: int, unlabelled: int
) -> tuple[list[DatasetDict], Dataset]:
    """The data sets to test on, one for each fold, and the catalogue.

    Of `msrd` they hold so many labelled training queries, and so many pairs without a label.
    """
    source = shared.real_folder(name)
    if name == "msrd":
        source = scratch / "msrd"
        msrd_part.write(source, labelled, VALIDATION, TESTED, unlabelled)
    data = sources.load(source, profile)
    folds = "fold" in data["train"].column_names
    return divided(data) if folds else [data], sources.catalogue(source, profile)


Case = tuple[DatasetDict, Dataset, dict[str, rivals.Signals]]
"""Judged pairs, their catalogue, and the signals of each split."""


def folds(parts: Sequence[DatasetDict], catalogue: Dataset, profile: Profile) -> Iterator[Case]:
    """The case of each fold; the signals of a pair are computed once."""
    whole = judged(parts[0])
    known = rivals.signals(DatasetDict(test=whole), catalogue, profile, {})["test"]
    place = {pair: row for row, pair in enumerate(_names(whole))}
    for data in parts:
        rows = {split: [place[pair] for pair in _names(data[split])] for split in SPLITS}
        seen = {
            split: rivals.Signals(known.words[own], known.features[own], known.cosine[own], {})
            for split, own in rows.items()
        }
        yield data, catalogue, seen


def shops() -> Iterator[Case]:
    """The case of each seed of the simulated shop."""
    for seed in SEEDS:
        profile = Profile.named("book", seed=seed)
        data, catalogue = sources.load(SHOP, profile), sources.catalogue(SHOP, profile)
        yield data, catalogue, rivals.signals(data, catalogue, profile, {})


def joined(
    data: DatasetDict, seen: dict[str, rivals.Signals]
) -> Iterator[tuple[str, np.ndarray, dict | None]]:
    """Further ways to join words and cosine: names, scores of the test pairs, and what validation
    chose, if anything."""
    used = {split: seen[split] for split in ("validation", "test")}
    signals = {split: np.column_stack([own.words, own.cosine]) for split, own in used.items()}
    held, test = data["validation"], data["test"]["query_id"]
    for kind, name in JOINED.items():
        chosen = choose_fusion(kind, signals["validation"], held)
        how = dict(zip((*LEXICAL, rivals.COSINE), chosen.weights, strict=True))
        if kind == "rrf":
            how["constant"] = chosen.constant
        yield name, chosen.scores(signals["test"], test), how
    ones = (1.0,) * signals["test"].shape[1]
    yield PLAIN_RANKS, Fusion("rrf", ones, ones, ones).scores(signals["test"], test), None


def cut(pairs: Dataset, tokens: int) -> Dataset:
    """The pairs, with query and product as far as a network sees them that reads so many tokens of
    both together. What is left of a product's text stands in its title."""
    texts = list(pairs["query"]), product_text(pairs[:])
    read = models.load_tokenizer("minilm")(
        *texts, truncation="longest_first", max_length=tokens, return_offsets_mapping=True
    )
    ends = np.zeros((2, len(pairs)), int)
    for row, offsets in enumerate(read["offset_mapping"]):
        for of, (_, end) in zip(read.sequence_ids(row), offsets, strict=True):
            if of is not None:
                ends[of, row] = end
    queries, products = (
        [text[:end] for text, end in zip(*both, strict=True)]
        for both in zip(texts, ends, strict=True)
    )
    title, *rest = TEXT
    columns = {"query": queries, title: products} | {name: [""] * len(pairs) for name in rest}
    left = pairs.remove_columns(list(columns))
    for name, texts in columns.items():
        left = left.add_column(name, texts)
    return left


def measured(cases: Iterable[Case], profile: Profile) -> dict:
    """Of one catalogue: its sizes, a row for each system, comparisons, and what was chosen."""
    values, choices, pairs, queries = [], [], 0, []
    for part, (data, catalogue, seen) in enumerate(cases):
        test = data["test"]
        pairs += len(test)
        queries.append(len(set(data["train"]["query_id"])))
        scores = {
            "BM25": baselines.bm25_scores(test, catalogue),
            "bi-encoder, untrained": seen["test"].cosine,
            **{
                name: features.bi_encoder_scores(cut(test, tokens), profile)
                for tokens, name in SHORT.items()
            },
        }
        chosen = {}
        for name, _, scored, how in rivals.rivals(data, seen):
            scores[name], chosen[name] = scored, how
        for name, scored, how in joined(data, seen):
            scores[name] = scored
            if how:
                chosen[name] = how
        choices.append(chosen)
        ranked = {
            name: metrics.ranking(judge.frame(test, one), judge.gains(test))["per_query"]
            for name, one in scores.items()
        }
        table = pd.DataFrame({name: found["ndcg@10"] for name, found in ranked.items()})
        table = table.assign(random=ranked["BM25"]["random_ndcg@10"])
        values.append(table.set_index(f"{part}: " + table.index.astype(str)))
    values = pd.concat(values)
    rows = {}
    for name in ROWS:
        span = metrics.bootstrap_of_means(values[[name]], lambda means, name=name: means[name])
        lift = float((values[name] - values["random"]).mean())
        rows[name] = {
            "role": SYSTEMS.get(name, "bi-encoder"),
            "ndcg@10": span["value"],
            "lift@10": lift,
        }
        rows[name] |= {"ndcg@10 low": span["low"], "ndcg@10 high": span["high"]}
    return {
        "queries": len(values),
        "pairs": pairs,
        "training_queries": queries,
        "rows": rows,
        "best": max(UNTRAINED, key=lambda name: rows[name]["ndcg@10"]),
        "comparisons": [
            {"system": a, "against": b, **metrics.paired_bootstrap(values[a], values[b])}
            for a, b in COMPARED
        ],
        "choices": choices,
    }


def _names(pairs: Dataset) -> list[tuple[str, str]]:
    return list(zip(pairs["query_id"], pairs["product_id"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="What ranks real products without a network.")
    out = shared.RECORDED / "untrained.json"
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what to measure; all of it by default"
    )
    parser.add_argument("--out", type=Path, default=out, help="where the record goes")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: not known; give some of {', '.join(NAMES)}")
    profile = Profile.named("book")
    found, _ = shared.kept(arguments.out, names)
    generator = shop.generator_hash()
    if SHOP in found:  # a shop that is kept may be of an earlier generator
        generator = json.loads(arguments.out.read_text(encoding="utf-8"))["generator"]
    for name in names:
        if name == SHOP:
            found[name] = measured(shops(), profile)
            continue
        with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
            parts = parts_of(name, profile, Path(scratch), LABELLED, 0)
            found[name] = measured(folds(*parts, profile), profile)
    report.write_recorded(
        arguments.out,
        command="python benchmarks/measure_untrained.py",
        seeds=list(SEEDS) if SHOP in found else [],
        hardware=bench.hardware(),
        generator=generator if SHOP in found else None,
        data={name: found[name] for name in NAMES if name in found},
        goals=[],
    )
    print(f"Wrote {arguments.out}.")


if __name__ == "__main__":
    main()
