"""Search over a whole catalogue, stage by stage: quality, latency, memory.

    python benchmarks/measure_search.py --seeds 18       one seed of the shop, into a file
    python benchmarks/measure_search.py ../data/icecat --folds 0 1 2 3 4 --max-length 96
    python benchmarks/measure_search.py --merge          all files of the shop into its record
    python benchmarks/measure_search.py ../data/icecat --merge

A folder of your own is measured in folds: its judged queries are dealt into five, each of which is
the test once, so that all of them are judged on. `--max-length` is for texts that 32 tokens cut.
The profile comes from ECOMKD_PROFILE, the precision from ECOMKD_PRECISION, which is bf16 in both
records. The student learns from its first `live_pairs` unlabelled
pairs, and so do bi-encoders of folds; those of the shop learn from all. Of bi-encoders the one that
is told the teacher's labels and goes no further (`search.BI_ENCODERS`) stands by itself, in no sum.
In the simulated shop every product is labelled for every query. Elsewhere what nobody judged counts
as irrelevant, and beside each score stand judged@10 and nDCG@10 of the condensed list, from which
all that nobody judged is taken out (Sakai 2007, "Alternatives to Bpref"). All numbers are about
test queries. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

import shared
from ecomkd import bench, export, metrics, models, report, search, words
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import folds, shop, sources, truth
from ecomkd.relevance import judge, mining, stages
from ecomkd.score import Scorer

RECORDED = Path(report.__file__).parent / "recorded"
DEPTH = 100
"""Products that each retriever gives; a re-ranker reads as many, or the first of them."""
TEACHER = "BM25 + bi-encoder, teacher reads 100"
TIMED = 40
FOLDS = 5
CONDENSED = "condensed ndcg@10"
_ALONE = 1e6
"""A weight beside which the first stage's score only breaks ties."""
_UNTRAINED, _LABELS, _DISTILLED = (
    f"bi-encoder, {row}" for row in ("untrained", "labels", "distilled")
)
COMPARED = (
    (_UNTRAINED, "BM25"),
    (_LABELS, _UNTRAINED),
    (_DISTILLED, _LABELS),
    (f"BM25 + {_UNTRAINED}", "BM25"),
    ("BM25 + bi-encoder", "BM25"),
    ("BM25 + bi-encoder", f"BM25 + {_UNTRAINED}"),
    ("BM25 + bi-encoder", f"BM25 + {_LABELS}"),
    (f"BM25 + {_LABELS}", f"BM25 + {_UNTRAINED}"),
    ("BM25 + bi-encoder, by rank", "BM25 + bi-encoder"),
    ("BM25 + bi-encoder, by rank", f"BM25 + {_UNTRAINED}"),
    ("BM25 + bi-encoder, by rank", "BM25"),
    ("BM25 + static student", f"BM25 + {_UNTRAINED}"),
    ("BM25 + static student", "BM25"),
    ("BM25 + static student, student reads 20", "BM25 + static student"),
    (TEACHER, "BM25 + bi-encoder"),
)
"""Differences that are recorded where the catalogue is real."""


def measure(source: str | Path, profile: Profile, fold: int | None = None) -> dict:
    """All systems on one seed: per-query values, latency, and what an index takes. Where a `fold`
    is given it is the test, and the next one chooses."""
    catalogue = sources.catalogue(source, profile)
    data = mining.with_unlabelled(sources.load(source, profile), catalogue, profile)
    if fold is not None:
        data = folds.divided(data, FOLDS)[fold]
    test = data["test"]
    judged = truth.judgments(profile) if source == "shop" else judged_pairs(test)
    gains = judge.gains(test)
    shown = test.to_pandas().drop_duplicates("query_id")
    queries = Dataset.from_pandas(shown[["query_id", "query"]], preserve_index=False)
    teacher = stages.teacher(data, profile)
    live = profile.live_pairs
    student = stages.student(data, profile, teacher_folder=teacher, unlabelled=live)
    told = None if fold is None else live
    folders = {
        f"bi-encoder, {row}": search.bi_encoder(data, catalogue, profile, row, teacher, told)
        for row in search.BI_ENCODERS
    }
    folders["static student"] = search.static_encoder(data, catalogue, profile, folders[_DISTILLED])
    systems, weights = rankers(profile, catalogue, data, folders, teacher, student)
    texts = list(queries["query"])
    names = np.asarray(queries["query_id"], dtype=object)
    result: dict = {"systems": {}, "weights": weights}
    found: dict[str, np.ndarray] = {}
    for name, rank in systems.items():
        rows = rank(texts)
        found[name] = rows
        frame = search.ranked(names, catalogue["product_id"], rows)
        values = metrics.retrieval(frame, judged, gains)
        per_query = values.pop("per_query")
        if fold is not None:
            known = metrics.retrieval(condensed(frame, judged), judged, gains)["per_query"]
            per_query[CONDENSED] = known["ndcg@10"]
        result["systems"][name] = {**values, "per_query": per_query.to_dict("list")}
        if not fold:  # one fold is as quick as another
            ask = partial(_one, rank)
            clock = bench.latency(ask, texts[:TIMED], repeats=3, threads=1, device="cpu")
            kept = {key: clock[key] for key in ("p50_ms", "p95_ms", "threads")}
            result["systems"][name] |= kept
        print(f"{name}: {values['ndcg@10']:.3f}")
    result["query_id"] = list(per_query.index)
    kinds = dict(zip(shown["query_id"], shown.get("query_kind", shown["query_id"]), strict=True))
    result["kind"] = [kinds[name] for name in per_query.index] if "query_kind" in shown else None
    empty = {name for name, row in zip(names, found["BM25"], strict=True) if (row < 0).all()}
    result["no_word"] = [name in empty for name in per_query.index]
    result["memory"] = memory(profile, catalogue, folders, teacher, student)
    return result


def _one(rank, text: str):
    return rank([text])


def condensed(frame: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """A ranking without the products that nobody judged for its query."""
    return frame.merge(judged[["query_id", "product_id"]])


def judged_pairs(pairs: Dataset) -> pd.DataFrame:
    return judge.frame(pairs, np.zeros(len(pairs))).drop(columns="score")


def rankers(
    profile, catalogue, data, folders: dict, teacher: Path, student: Path
) -> tuple[dict, dict[str, dict]]:
    """Each system as a function from query texts to rows of the catalogue (queries × 100), and the
    weights of sums, those that are best on validation queries (see `search.choose_weights`).
    """
    texts = sources.product_text(catalogue[:])
    index = words.bm25(texts)
    folders = {_UNTRAINED: models.checkpoint("minilm"), **folders}
    encoders = {name: search.encoder(folder, profile) for name, folder in folders.items()}
    embed = {
        name: partial(model.encode, show_progress_bar=False) for name, model in encoders.items()
    }
    vectors = {
        name: mining.catalogue_vectors(catalogue, profile) if name == _UNTRAINED else encode(texts)
        for name, encode in embed.items()
    }
    exact = {name: search.exact(own) for name, own in vectors.items()}

    def at_random(queries):
        rng = np.random.default_rng(profile.seed)
        return np.stack([rng.permutation(len(texts))[:DEPTH] for _ in queries])

    def by_words(queries):
        return search.lexical(index, queries, DEPTH)[1]

    def by_vectors(queries, name):
        return exact[name].search(embed[name](queries), DEPTH)[1]

    def by_rank(queries, name):
        return search.fuse([by_words(queries), by_vectors(queries, name)], DEPTH)[1]

    def compare(queries, name):
        return embed[name](queries) @ vectors[name].T, search.word_scores(index, queries)

    def by_sum(queries, name, weights):
        return search.weighted(*compare(queries, name), weights.words, DEPTH)[1]

    def read(queries, rows, score):
        asked = [query for query, row in zip(queries, rows, strict=True) for _ in row]
        return score(asked, [texts[row] for row in rows.ravel()])

    def reread(queries, name, weights, score, depth):
        sums, rows = search.weighted(*compare(queries, name), weights.words, DEPTH)
        gains = read(queries, rows[:, :depth], score).reshape(-1, depth)
        sums = sums[:, :depth] + weights.reranker * gains
        return np.hstack([search.rerank(rows[:, :depth], sums.ravel())[1], rows[:, depth:]])

    gains = np.asarray(list(judge.gains(data["test"]).values()))
    tokenizer = models.load_tokenizer(str(teacher))
    model = models.load(teacher)
    file = export.exports(student, profile) / "model.int8.onnx"
    by_student = Scorer(file, profile.max_length, gains)

    def by_teacher(asked, shown):
        scores = []
        for start in range(0, len(asked), DEPTH):
            part = slice(start, start + DEPTH)
            tokens = tokenizer(
                asked[part], shown[part], truncation="longest_first",
                max_length=profile.max_length, padding=True, return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                scores.append(judge.softmax(model(**tokens).logits.numpy()) @ gains)
        return np.concatenate(scores)

    in_sums = {name: name for name in (_UNTRAINED, _LABELS, _DISTILLED, "static student")}
    in_sums[_DISTILLED] = "bi-encoder"
    queries, quality = search.quality_on(data["validation"], catalogue["product_id"])
    compared = {name: compare(queries, name) for name in in_sums}
    kept: dict[str, dict] = {}

    def chosen(name, score, depth):
        weights = search.choose_weights(
            *compared[name], quality, partial(read, queries, score=score), depth
        )
        kept[f"{name}, {depth} read"] = asdict(weights)
        print(f"{name}, {depth} read: {weights}")
        return weights

    systems = {"random": at_random, "BM25": by_words}
    systems |= {name: partial(by_vectors, name=name) for name in embed}
    systems["BM25 + bi-encoder, by rank"] = partial(by_rank, name=_DISTILLED)
    weights = chosen(_DISTILLED, by_teacher, DEPTH)
    own = {"name": _DISTILLED, "weights": weights, "score": by_teacher, "depth": DEPTH}
    systems[TEACHER] = partial(reread, **own)
    alone = search.Weights(weights.words, _ALONE)
    systems["BM25 + bi-encoder, teacher alone orders 100"] = partial(
        reread, **own | {"weights": alone}
    )
    for name, label in in_sums.items():
        for depth in (DEPTH // 5, DEPTH // 2):
            weights = chosen(name, by_student, depth)
            systems[f"BM25 + {label}, student reads {depth}"] = partial(
                reread, name=name, weights=weights, score=by_student, depth=depth
            )
        # The words' weight is chosen first: it is the same whoever reads, and however deep.
        systems[f"BM25 + {label}"] = partial(by_sum, name=name, weights=weights)
    return systems, kept


def memory(profile, catalogue, folders: dict, teacher: Path, student: Path) -> dict:
    """Megabytes of each index, and of the weights of each model."""
    bm25 = words.bm25(sources.product_text(catalogue[:]))
    index = bm25.data.nbytes + bm25.indices.nbytes + bm25.indptr.nbytes
    sizes = {"BM25": {"index_mb": index / 1e6, "weights_mb": 0.0}}
    for name, folder in folders.items():
        width = search.encoder(folder, profile).get_embedding_dimension()
        weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        sizes[name] = {"index_mb": 4 * width * len(catalogue) / 1e6, "weights_mb": weights / 1e6}
    for name, file in (
        ("student, int8", export.exports(student, profile) / "model.int8.onnx"),
        ("teacher", teacher / "model.safetensors"),
    ):
        sizes[name] = {"index_mb": 0.0, "weights_mb": file.stat().st_size / 1e6}
    return sizes


def merge(folder: Path, out: Path, source: str) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator"))
    names = list(parts[0]["systems"])
    simulated = parts[0]["generator"] is not None
    # In a simulated shop all is judged, and truth.judgments leaves out what is irrelevant.
    columns = _COLUMNS if simulated else _COLUMNS + _UNJUDGED
    tables = {column: _per_query(parts, names, column) for column in columns}
    further = {}
    if not simulated:
        further = {
            "differences": _differences(tables),
            "weights": [part["weights"] for part in parts],
        }
    rows = {}
    for name in names:
        row = {column: float(table[name].mean()) for column, table in tables.items()}
        span = metrics.bootstrap_of_means(tables["ndcg@10"], lambda m, name=name: m[name])
        row |= {"ndcg@10 low": span["low"], "ndcg@10 high": span["high"]}
        row["of the teacher's lift"] = _kept(tables["ndcg@10"], name)
        for clock in ("p50_ms", "p95_ms"):
            timed = [part["systems"][name] for part in parts if clock in part["systems"][name]]
            if not timed:
                raise SystemExit(f"{folder}: fold 0, the one that is timed, was not measured.")
            row[clock] = float(np.median([one[clock] for one in timed]))
        rows[name] = row
    precision = parts[0]["profile"]["precision"]
    chosen = "" if precision == "auto" else f"ECOMKD_PRECISION={precision} "
    option, runs = ("--seeds", "seed") if simulated else ("--folds", "fold")
    calls = [option, *(str(part[runs]) for part in parts)]
    if parts[0]["profile"]["max_length"] != Profile.named().max_length:
        calls.append(f"--max-length {parts[0]['profile']['max_length']}")
    report.write_recorded(
        out,
        command=f"{chosen}python benchmarks/measure_search.py {source} {' '.join(calls)} --merge",
        seeds=sorted({part["seed"] for part in parts}),
        hardware=parts[0]["hardware"],
        generator=parts[0]["generator"],
        data={
            "source": source,
            "profile": parts[0]["profile"],
            "products": parts[0]["products"],
            "queries": len(tables["ndcg@10"]),
            "rows": rows,
            "by_kind": _by_kind(parts, names),
            "memory": parts[0]["memory"],
            **further,
        },
        goals=_goals(tables["ndcg@10"], rows, simulated),
    )
    print(f"{out}: {' '.join(calls)}")


_COLUMNS = ("ndcg@10", "recall@100", "mrr@10")
_UNJUDGED = ("judged@10", CONDENSED)
"""Columns of catalogues of which not all is judged."""


def _per_query(parts: list[dict], names: list[str], column: str) -> pd.DataFrame:
    """Queries × systems; each real query is in one fold, each shop has its own."""
    tables = []
    for part in parts:
        values = {name: part["systems"][name]["per_query"][column] for name in names}
        prefix = f"{part['seed']} " if part["generator"] else ""
        index = [f"{prefix}{name}" for name in part["query_id"]]
        tables.append(pd.DataFrame(values, index=index))
    return pd.concat(tables)


def _by_kind(parts: list[dict], names: list[str]) -> dict | None:
    """Mean nDCG@10 per kind of query, and of the queries that share no word with the catalogue."""
    tables = []
    for part in parts:
        values = {name: part["systems"][name]["per_query"]["ndcg@10"] for name in names}
        table = pd.DataFrame(values)
        if part["kind"] is not None:
            tables.append(table.assign(kind=part["kind"]))
        tables.append(table[part["no_word"]].assign(kind="no result by BM25"))
    whole = pd.concat(tables)
    means = whole.groupby("kind").mean()
    return json.loads(means.assign(queries=whole["kind"].value_counts()).to_json(orient="index"))


def _kept(ndcg: pd.DataFrame, name: str) -> dict[str, float]:
    """The share of the teacher's lift over a random order that a system has."""
    span = metrics.bootstrap_of_means(
        ndcg, lambda m: (m[name] - m["random"]) / (m[TEACHER] - m["random"])
    )
    return {end: float(span[end]) for end in ("value", "low", "high")}


def _differences(tables: dict[str, pd.DataFrame]) -> list[dict]:
    """What systems gain over others, on whole lists and on condensed ones."""
    found = []
    for name, other in COMPARED:
        row = {"system": name, "minus": other}
        for column in ("ndcg@10", CONDENSED):
            span = metrics.paired_bootstrap(tables[column][name], tables[column][other])
            row[column] = {"value": span["difference"], "low": span["low"], "high": span["high"]}
        found.append(row)
    return found


def _goals(ndcg: pd.DataFrame, rows: dict, simulated: bool) -> list[dict]:
    name = "nDCG@10: bi-encoder distilled minus one of labels alone, in fewer steps"
    if simulated:  # a shop's models and queries are its own, so the shops are what may differ
        shops = ndcg.groupby([query.split()[0] for query in ndcg.index]).mean()
        span = shared.of_seeds(shops[_DISTILLED] - shops[_LABELS])
        name += " (interval over seeds)"
    else:
        span = metrics.paired_bootstrap(ndcg[_DISTILLED], ndcg[_LABELS])
    goals = [shared.above(name, span)]
    for faster, wanted in ((10, 0.97), (100, 0.85)) if simulated else ():
        quick = [name for name in rows if rows[name]["p50_ms"] <= rows[TEACHER]["p50_ms"] / faster]
        best = max(quick, key=lambda name: rows[name]["ndcg@10"])
        span = rows[best]["of the teacher's lift"]
        goals.append(
            report.goal(
                f"share of the teacher's lift over random, kept by the best system that answers "
                f"{faster} times faster ({best})",
                span["value"],
                span["low"],
                span["high"],
                f"at least {wanted}",
                span["value"] >= wanted,
            )
        )
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description="Search over a whole catalogue, by stages.")
    parser.add_argument("source", nargs="?", default="shop", help="shop, or a path")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="seeds of the shop")
    parser.add_argument(
        "--folds",
        type=int,
        nargs="*",
        default=[],
        choices=range(FOLDS),
        help="of a path; 0 is timed",
    )
    parser.add_argument("--max-length", type=int, help="tokens of a pair; the profile's by default")
    parser.add_argument("--folder", type=Path, help="of the single seeds' or folds' files")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--out", type=Path, help="where --merge writes")
    arguments = parser.parse_args()
    simulated = arguments.source == "shop"
    source = arguments.source if simulated else Path(arguments.source)
    name = Path(arguments.source).name
    folder = arguments.folder or Profile.named().artifacts / f"search_{name}"
    if arguments.folds if simulated else arguments.seeds:
        parser.error("the shop is measured by --seeds, a path by --folds")
    if not (arguments.seeds or arguments.folds or arguments.merge):
        parser.error("give --seeds, --folds, --merge, or two of them")
    length = {} if arguments.max_length is None else {"max_length": arguments.max_length}
    runs = [(Profile.named(seed=seed, **length), None) for seed in arguments.seeds]
    runs += [(Profile.named(**length), fold) for fold in arguments.folds]
    for profile, fold in runs:
        result = {
            "seed": profile.seed,
            "fold": fold,
            "profile": shared.profile() | length,
            "generator": shop.generator_hash() if simulated else None,
            "hardware": bench.hardware(),
            "products": len(sources.catalogue(source, profile)),
            **measure(source, profile, fold),
        }
        part = "" if fold is None else f"fold{fold}"
        write_text(folder / f"seed{profile.seed}{part}.json", json.dumps(result, indent=1))
    if arguments.merge:
        merge(folder, arguments.out or RECORDED / f"search_{name}.json", name)


if __name__ == "__main__":
    main()
