"""A sparse student beside BM25, the table of token vectors and the bi-encoder that teaches it.

    python benchmarks/measure_sparse.py --grid                   the penalty, on validation queries
    python benchmarks/measure_sparse.py shop --seeds 1 2 3 4 5   students of the shop, a file each
    python benchmarks/measure_sparse.py msrd --seeds 1 2 3       the same on real film queries
    python benchmarks/measure_sparse.py --clock                  the index, and the time of a query
    python benchmarks/measure_sparse.py --merge                  all files into one record

`msrd` needs ECOMKD_REAL_DATA. The shop is the book's, with the recorded bi-encoder and static
student of chapter 8; there only the sparse student varies with the seed. Films stand on the ground
of `measure_query_side`: the teacher is the six-layer encoder, fine-tuned once on 400 labelled
queries, to which BM25 is added. A student learns how this sum ranks all films, for queries that
nobody labelled, and is judged on the lists of the test queries, as in `measure_frontier`. *No
expansion* is the same student with the pieces of a product's own text alone, as uniCOIL has it
(Lin & Ma 2021).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from scipy import sparse as matrices
from tokenizers import Tokenizer

import shared
from ecomkd import bench, features, metrics, models, report, search, words
from ecomkd.artifacts import stage, write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources, truth
from ecomkd.relevance import judge, stages
from ecomkd.search import sparse
from ecomkd.search.tune import WORDS
from measure_query_side import (
    LABELLED,
    Ground,
    Judged,
    Network,
    fit,
    ground,
    in_order,
    joined,
    of_pairs,
    passes_over,
    quality,
    summary,
    unit,
)

KINDS = ("shop", "msrd")
PENALTIES = (0.003, 0.03, 0.3, 3.0, 30.0)
GRID_SEED = 0
DEPTH = 100
"""Products that each system gives."""
TEACHER_SEED, TEACHER_RATE = 1, 2e-4
"""Of the teacher of films: the rate that `measure_query_side` chose with most of its seeds."""
FILM_TOKENS = 48
"""Tokens of a film that are read: the states of 9,750 films take a third of a gigabyte."""
TIMED = 60
PLAIN, START, NONE = "sparse student", "sparse, before training", "sparse, no expansion"
TABLE, TEACHER, UNTRAINED = "static student", "bi-encoder", "bi-encoder, untrained"
LONGER = f"{TEACHER}, {sparse.TOKENS} tokens"
BM25, PIECES = "BM25", "BM25 on pieces"


# The shop -----------------------------------------------------------------------------------------


class Shop:
    """The book's shop with its recorded models, and what all students start from."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.catalogue = sources.catalogue("shop", profile)
        self.data = search_data = sources.load("shop", profile)
        self.texts = sources.product_text(self.catalogue[:])
        teacher = stages.teacher(search_data, profile)
        given = search_data, self.catalogue, profile
        self.folder = search.bi_encoder(*given, "distilled", teacher, profile.live_pairs)
        self.model = search.encoder(self.folder, profile)
        self.table = search.encoder(search.static_encoder(*given, self.folder), profile)
        asked = [*search_data["train"]["query"], *search_data["unlabelled"]["query"]]
        self.asked = list(dict.fromkeys(asked))
        self.tests = self.asked_of("test")
        self.counts = sparse.piece_counts(self.model, self.asked)

    def asked_of(self, split: str) -> Dataset:
        """The distinct queries of a split."""
        shown = self.data[split].to_pandas().drop_duplicates("query_id")
        names = ["query_id", "query", "query_kind"]
        return Dataset.from_pandas(shown[names], preserve_index=False)

    @cached_property
    def start(self) -> dict[str, torch.Tensor]:
        """Token states of the products, and the vectors and the idf of the pieces."""

        def make(folder: Path) -> None:
            head = sparse.untrained_head(self.model, self.texts)
            states = sparse.token_states(self.model, self.texts)
            found = {"pieces": head.pieces, "idf": head.idf, "states": states}
            save_file(found, folder / "start.safetensors")

        parts = [self.folder.name, self.texts, sparse.TOKENS]
        folder = stage("sparse_start", parts, make, self.profile.artifacts)
        return load_file(folder / "start.safetensors")

    @cached_property
    def answers(self) -> Callable[[np.ndarray], np.ndarray]:
        validation = self.data["validation"]
        return sparse.whole_search(self.model, validation, self.catalogue, self.asked)

    @cached_property
    def own(self) -> matrices.csr_matrix:
        return sparse.own_pieces(self.model, self.texts)

    def trained(
        self, seed: int, penalty: float = sparse.PENALTY, kept: matrices.csr_matrix | None = None
    ) -> sparse.SparseHead:
        head = sparse.SparseHead(self.start["pieces"], self.start["idf"])
        sparse.fit(head, self.start["states"], self.counts, self.answers, seed, penalty, kept)
        return head

    def scores(
        self,
        head: sparse.SparseHead,
        queries: Sequence[str],
        kept: matrices.csr_matrix | None = None,
    ) -> tuple[np.ndarray, float]:
        """Scores (Q, N) as cosines are scaled, and the postings that a query meets in the mean."""
        asked = sparse.SparseStudent(self.model, head).queries(queries)
        products = sparse.expanded(head, self.start["states"], np.unique(asked.indices), kept)
        met = (asked > 0).astype(int) @ (products > 0).sum(axis=0).A1
        return sparse.TEMPERATURE * (asked @ products.T).toarray(), float(met.mean())

    def pieces(self, head: sparse.SparseHead, kept: matrices.csr_matrix | None = None) -> float:
        """How many pieces a product holds, in the mean over a hundred of them."""
        some = np.arange(0, len(self.texts), len(self.texts) // 100)
        terms = sparse.SparseStudent(self.model, head).terms
        own = None if kept is None else kept[some]
        held = sparse.expanded(head, self.start["states"][some], terms, own)
        return float(held.getnnz(axis=1).mean())

    @cached_property
    def encoders(self) -> dict[str, Callable[[Sequence[str]], np.ndarray]]:
        """Of each system of vectors, the cosines (Q, N) of queries with all products."""
        longer = search.encoder(self.folder, self.profile)
        longer.max_seq_length = sparse.TOKENS
        known = {
            UNTRAINED: search.encoder(models.checkpoint("minilm"), self.profile),
            TEACHER: self.model,
            LONGER: longer,
            TABLE: self.table,
        }

        def make(folder: Path) -> None:
            found = {name: features.encode(model, self.texts) for name, model in known.items()}
            save_file(
                {n: torch.from_numpy(v) for n, v in found.items()}, folder / "all.safetensors"
            )

        parts = [self.folder.name, self.texts, sparse.TOKENS]
        folder = stage("sparse_vectors", parts, make, self.profile.artifacts)
        vectors = {n: v.numpy() for n, v in load_file(folder / "all.safetensors").items()}

        def cosines(name: str, some: Sequence[str]) -> np.ndarray:
            return features.encode(known[name], some) @ vectors[name].T

        return {name: partial(cosines, name) for name in known}

    def judged(self, split: str) -> Callable[[np.ndarray], dict]:
        """A function from rows (Q, 100) to their values, by the rule behind the labels."""
        labels, gains = truth.judgments(self.profile, split), judge.gains(self.data[split])
        names = self.asked_of(split)["query_id"]

        def values(rows: np.ndarray) -> dict:
            found = search.ranked(names, self.catalogue["product_id"], rows)
            return metrics.retrieval(found, labels, gains)

        return values


def first(scores: np.ndarray) -> np.ndarray:
    """Rows (Q, 100), best first."""
    return search.weighted(scores, np.zeros((1, 1)), 0.0, DEPTH)[1]


def by_pieces(base: Shop, queries: Sequence[str]) -> np.ndarray:
    """BM25 (Q, N) over the pieces of the tokenizer, with the constants of `words.bm25`."""
    counts = sparse.piece_counts(base.model, base.texts)
    long = np.asarray(counts.sum(axis=1))
    adds = counts.tocoo()
    damped = adds.data + 1.5 * (0.25 + 0.75 * long[adds.row, 0] / long.mean())
    adds.data = adds.data * base.start["idf"].numpy()[adds.col] / damped
    return (sparse.piece_counts(base.model, queries) @ adds.tocsr().T).toarray()


def grid(base: Shop, known: Sequence[dict] = ()) -> list[dict]:
    """Of each penalty, and before training, what validation queries say; some may be known."""
    judged, queries = base.judged("validation"), list(base.asked_of("validation")["query"])
    untrained = sparse.SparseHead(base.start["pieces"], base.start["idf"])
    found = list(known)
    for penalty in {None, *PENALTIES} - {row["penalty"] for row in known}:
        head = untrained if penalty is None else base.trained(GRID_SEED, penalty)
        scores, met = base.scores(head, queries)
        values = judged(first(scores))
        row = {"penalty": penalty, "pieces": base.pieces(head), "postings": met}
        found.append(row | {name: values[name] for name in ("ndcg@10", "recall@100")})
        print(found[-1], flush=True)
    return sorted(found, key=lambda row: row["penalty"] or 0.0)


def measured_shop(base: Shop, seed: int, heads: Path) -> dict:
    """nDCG@10 and recall@100 of each test query under each system; the student is kept."""
    judged, queries = base.judged("test"), list(base.tests["query"])
    tuned_on, quality = search.quality_on(base.data["validation"], base.catalogue["product_id"])
    index = words.bm25(base.texts)
    by_words = [search.word_scores(index, asked) for asked in (queries, tuned_on)]
    values: dict[str, dict] = {}
    recalls: dict[str, dict] = {}
    weights: dict[str, float] = {}

    def add(name: str, rows: np.ndarray) -> None:
        found = judged(rows)["per_query"]
        values[name] = found["ndcg@10"].to_dict()
        recalls[name] = found["recall@100"].to_dict()

    def add_both(name: str, tests: np.ndarray, tuned: np.ndarray) -> None:
        """By itself, and in the sum with BM25 whose weight validation chooses."""
        add(name, first(tests))
        sums = {w: quality(search.weighted(tuned, by_words[1], w, DEPTH)[1]) for w in WORDS}
        weights[name] = best = max(sums, key=sums.get)
        add(f"{BM25} + {name}", search.weighted(tests, by_words[0], best, DEPTH)[1])

    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(len(base.texts))[:DEPTH] for _ in queries]
    add("random", np.stack(drawn))
    add(BM25, search.lexical(index, queries, DEPTH)[1])
    add(PIECES, first(by_pieces(base, queries)))
    for name, cosines in base.encoders.items():
        add_both(name, cosines(queries), cosines(tuned_on))
    sizes = {}
    start = sparse.SparseHead(base.start["pieces"], base.start["idf"])
    learnt = base.trained(seed)
    heads.mkdir(parents=True, exist_ok=True)
    kept_of = {key: one for key, one in learnt.state_dict().items() if key != "pieces"}
    save_file(kept_of, heads / f"head{seed}.safetensors")
    plain = base.trained(seed, kept=base.own)
    for name, head, kept in ((START, start, None), (PLAIN, learnt, None), (NONE, plain, base.own)):
        tests, met = base.scores(head, queries, kept)
        add_both(name, tests, base.scores(head, tuned_on, kept)[0])
        sizes[name] = {"pieces": base.pieces(head, kept), "postings": met}
    for name, one in values.items():
        print(f"seed {seed}: {name}: {np.mean(list(one.values())):.4f}", sizes.get(name, ""))
    kinds = dict(zip(base.tests["query_id"], base.tests["query_kind"], strict=True))
    return {
        "values": values,
        "recalls": recalls,
        "kinds": kinds,
        "weights": weights,
        "sizes": sizes,
        "generator": shop.generator_hash(),
    }


def clock(base: Shop, head: sparse.SparseHead) -> dict[str, dict[str, float]]:
    """The median milliseconds from a query's text to a hundred rows, one query at a time on one
    thread, and the bytes of the index and of what reads the query."""
    queries = list(base.tests["query"])[:TIMED]
    index = words.bm25(base.texts)
    student = sparse.SparseStudent(base.model, head)
    products = sparse.expanded(head, base.start["states"], student.terms)
    postings = student.postings(products)
    pieces = Tokenizer.from_str(base.model.tokenizer.backend_tokenizer.to_str())
    pieces.no_padding()
    vectors = {TEACHER: base.model, TABLE: base.table}
    exact = {
        name: search.exact(features.encode(model, base.texts)) for name, model in vectors.items()
    }

    def by_sums(query: str) -> np.ndarray:
        cut = pieces.encode(query, add_special_tokens=False).tokens
        return first(words.term_sums(postings, cut)[None])

    def by_teacher(query: str) -> np.ndarray:
        asked = base.model.encode([query], show_progress_bar=False)
        return exact[TEACHER].search(asked, DEPTH)[1]

    rows = base.table[0].embedding.weight.detach().numpy()

    def by_table(query: str) -> np.ndarray:
        cut = base.table[0].tokenizer.encode(query, add_special_tokens=False).ids
        return exact[TABLE].search(search.token_means([cut], rows), DEPTH)[1]

    # Each as an engine calls it.
    systems = {BM25: lambda query: search.lexical(index, [query], DEPTH)[1], PLAIN: by_sums}
    systems |= {TEACHER: by_teacher, TABLE: by_table}
    weights = {TEACHER: base.folder / "model.safetensors"}
    bytes_of = {name: (size(one), 0) for name, one in ((BM25, index), (PLAIN, postings))}
    for name, one in exact.items():
        file = weights.get(name)
        read = base.table[0].embedding.weight.nbytes if file is None else file.stat().st_size
        bytes_of[name] = one.vectors.nbytes, read
    found = {}
    for name, ask in systems.items():
        timed = bench.latency(ask, queries, repeats=3, threads=1, device="cpu")
        found[name] = {key: timed[key] for key in ("p50_ms", "p95_ms")}
        found[name] |= dict(zip(("index_bytes", "query_bytes"), bytes_of[name], strict=True))
    # A student that is served gives the scores that were judged.
    chosen = student.queries(queries)
    served = np.stack(
        [
            words.term_sums(postings, pieces.encode(q, add_special_tokens=False).tokens)
            for q in queries
        ]
    )
    np.testing.assert_allclose(served, (chosen @ products.T).toarray(), atol=1e-3)
    found[PLAIN]["pieces"] = products.nnz / len(base.texts)
    found[BM25]["pieces"] = len(index.data) / len(base.texts)
    return found


def size(index: words.Words) -> int:
    return index.data.nbytes + index.indices.nbytes + index.indptr.nbytes


# Films --------------------------------------------------------------------------------------------


class Films:
    """The film catalogue under the pretrained encoder, and a teacher of queries."""

    def __init__(self, profile: Profile):
        self.base: Ground = ground("msrd", profile)
        data = self.base.parts[0]
        lists = (of_pairs(data[s], self.base.place) for s in ("train", "validation", "test"))
        train, self.validation, self.test = lists
        self.some = train.labelled().first(LABELLED)
        self.seen = Judged(self.base, data, self.validation, self.test)
        self.profile = profile
        self.texts = self._texts()
        self.model = search.encoder(models.checkpoint("minilm"), profile)
        self.queries = joined(self.some, self.base.log).queries
        self.teacher = self._taught()

    def _texts(self) -> list[str]:
        known: dict[str, str] = {}
        with_texts = sources.product_text
        catalogue = sources.catalogue(shared.real_folder("msrd"), self.profile)
        known |= dict(zip(catalogue["product_id"], with_texts(catalogue[:]), strict=True))
        return [known[product] for product in self.base.place]

    def _taught(self) -> Network:
        def make(folder: Path) -> None:
            model = Network()
            given = self.some, self.base.vectors, self.validation, TEACHER_RATE
            fit(model, *given, passes=passes_over(self.some), seed=TEACHER_SEED)
            save_file(model.state_dict(), folder / "weights.safetensors")

        parts = [TEACHER_SEED, TEACHER_RATE, self.some.queries]
        folder = stage("sparse_teacher", parts, make, self.profile.artifacts)
        model = Network()
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        return model.eval()

    @cached_property
    def states(self) -> torch.Tensor:
        def make(folder: Path) -> None:
            found = {"states": sparse.token_states(self.model, self.texts, FILM_TOKENS)}
            save_file(found, folder / "states.safetensors")

        parts = [self.texts, FILM_TOKENS]
        folder = stage("sparse_states", parts, make, self.profile.artifacts)
        return load_file(folder / "states.safetensors")["states"]

    @cached_property
    def idf(self) -> torch.Tensor:
        return torch.from_numpy(sparse.piece_idf(self.model, self.texts))

    def start(self) -> sparse.SparseHead:
        return sparse.SparseHead(torch.from_numpy(unit(self.base.table)), self.idf)

    def asked(self, queries: list[str]) -> torch.Tensor:
        """The teacher's vectors (Q, H) of queries."""
        with torch.inference_mode():
            parts = [self.teacher(queries[i : i + 64]) for i in range(0, len(queries), 64)]
        return torch.cat(parts)

    @cached_property
    def answers(self) -> Callable[[np.ndarray], np.ndarray]:
        """The sum of the teacher's cosine and BM25, whose weight validation lists choose."""
        index, own = words.bm25(self.texts), self.validation
        near = self.asked(own.queries) @ self.base.vectors.T
        by_words = torch.from_numpy(search.word_scores(index, own.queries))
        found = {w: quality((near + w * by_words).gather(1, own.rows), own) for w in WORDS}
        weight, asked = max(found, key=found.get), self.asked(self.queries).numpy()

        def sums(rows: np.ndarray) -> np.ndarray:
            cosines = asked[rows] @ self.base.vectors.numpy().T
            return cosines + weight * search.word_scores(index, [self.queries[r] for r in rows])

        return sums

    def trained(self, seed: int) -> sparse.SparseHead:
        head = self.start()
        counts = sparse.piece_counts(self.model, self.queries)
        sparse.fit(head, self.states, counts, self.answers, seed)
        return head

    def add(self, values: dict, name: str, head: sparse.SparseHead) -> None:
        """The nDCG@10 of each test query, alone and in the sum with words."""
        student = sparse.SparseStudent(self.model, head)
        lists = {"validation": self.validation, "test": self.test}
        asked = {split: student.queries(own.queries) for split, own in lists.items()}
        chosen = np.unique(np.concatenate([one.indices for one in asked.values()]))
        products = sparse.expanded(head, self.states, chosen)
        found = {}
        for split, own in lists.items():
            scores = torch.from_numpy((asked[split] @ products.T).toarray())
            found[split] = in_order(scores.gather(1, own.rows), own)
        self.seen.add_scores(values, name, found)


def measured_films(films: Films, seed: int) -> dict:
    """nDCG@10 of each test query, alone and in the sum with words."""
    values: dict[str, dict[str, float]] = {}
    values["random"] = films.seen.ranked(np.zeros(len(films.seen.pairs["test"])))
    films.seen.add(values, "words", None)
    films.seen.add(values, "untrained", Network())
    films.seen.add(values, "teacher", films.teacher)
    films.add(values, START, films.start())
    films.add(values, PLAIN, films.trained(seed))
    for name in values:
        print(f"seed {seed}: {name}: {np.mean(list(values[name].values())):.4f}", flush=True)
    return {"values": values, "weights": films.seen.weights}


# The record ---------------------------------------------------------------------------------------

LEAST, SLOWEST = 0.97, 10
"""The share of the bi-encoder's lift that a sparse student is to keep, and how many times as long
as BM25 it may take."""
COMPARED = {
    "shop": (
        (PLAIN, BM25),
        (PLAIN, PIECES),
        (PLAIN, UNTRAINED),
        (PLAIN, TEACHER),
        (PLAIN, LONGER),
        (PLAIN, TABLE),
        (PLAIN, START),
        (PLAIN, NONE),
        (f"{BM25} + {PLAIN}", f"{BM25} + {TABLE}"),
        (f"{BM25} + {PLAIN}", f"{BM25} + {TEACHER}"),
        (f"{BM25} + {PLAIN}", PLAIN),
    ),
    "msrd": (
        (PLAIN, "words"),
        (PLAIN, "untrained"),
        (PLAIN, "teacher"),
        (PLAIN, START),
        (f"words + {PLAIN}", "words + untrained"),
        (f"words + {PLAIN}", "words + teacher"),
    ),
}
KEPT = {
    "shop": (
        *((name, TEACHER) for name in (PLAIN, NONE, TABLE, START)),
        (PLAIN, f"{BM25} + {TEACHER}"),
    ),
    "msrd": ((PLAIN, "teacher"), (START, "teacher"), (f"words + {PLAIN}", "words + teacher")),
}


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds. Films, which no model of the shop changes, stay
    as they were recorded where they have no file."""
    shops = shared.read(folder / "shop", ["profile"])
    times, tried = shared.sizes(folder, "clock"), shared.sizes(folder, "grid")
    found = {"shop": summary(shops, COMPARED["shop"], KEPT["shop"])}
    for name, row in found["shop"]["rows"].items():
        means = [np.mean(list(one["recalls"][name].values())) for one in shops]
        row["recall@100"] = float(np.mean(means))
    if (folder / "msrd").exists():
        films = shared.read(folder / "msrd", ["profile"])
        found["msrd"] = summary(films, COMPARED["msrd"], KEPT["msrd"])
        told = {"seeds": [one["seed"] for one in films], "penalty": sparse.PENALTY}
        told["created"] = f"{datetime.now(UTC):%Y-%m-%d}"
        weights = [one["weights"] for one in films]
    else:
        before = json.loads(out.read_text(encoding="utf-8"))
        found["msrd"], told = before["data"]["msrd"], before["data"]["films"]
        weights = before["data"]["weights"]["msrd"]
        print(f"msrd: no file in {folder}; kept as recorded on {told['created']}")
    seeds = {"shop": [one["seed"] for one in shops], "msrd": told["seeds"]}
    calls = [f"{name} --seeds {' '.join(map(str, own))}" for name, own in seeds.items()]
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_sparse.py --grid, {', '.join(calls)}, --clock, --merge",
        seeds=sorted({seed for own in seeds.values() for seed in own}),
        hardware=shops[0]["hardware"],
        generator=shops[0]["generator"],
        data={
            "shop": found["shop"] | {"by_kind": by_kind(shops), "sizes": mean_sizes(shops)},
            "msrd": found["msrd"],
            "films": told,
            "clock": times,
            "penalty": sparse.PENALTY,
            "grid": tried,
            "weights": {"shop": [one["weights"] for one in shops], "msrd": weights},
        },
        goals=goals(found, times),
    )


def by_kind(seeds: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Mean nDCG@10 of each kind of query under each system, and the number of its queries."""
    kinds = seeds[0]["kinds"]
    found: dict[str, dict[str, float]] = {}
    for kind in sorted(set(kinds.values())):
        own = [query for query, one in kinds.items() if one == kind]
        found[kind] = {
            name: float(np.mean([[one["values"][name][q] for q in own] for one in seeds]))
            for name in seeds[0]["values"]
        } | {"queries": len(own)}
    return found


def mean_sizes(seeds: Sequence[dict]) -> dict[str, dict[str, float]]:
    names = seeds[0]["sizes"]
    return {
        name: {key: float(np.mean([one["sizes"][name][key] for one in seeds])) for key in own}
        for name, own in names.items()
    }


def goals(found: dict[str, dict], times: dict[str, dict[str, float]]) -> list[dict]:
    """What was set before the run: better than BM25, near the bi-encoder, and not slow."""
    pairs = {name: shared.by_pair(own["comparisons"]) for name, own in found.items()}
    shares = {
        name: {(one["system"], one["of"]): one for one in own["kept"]}
        for name, own in found.items()
    }

    times_as_long = times[PLAIN]["p50_ms"] / times[BM25]["p50_ms"]
    start = "sparse student, simulated shop: "
    films = "sparse student, film queries: "
    return [
        shared.above(f"{start}nDCG@10 minus BM25's", pairs["shop"][PLAIN, BM25]),
        shared.at_least(
            f"{start}share of the bi-encoder's lift over random",
            shares["shop"][PLAIN, TEACHER],
            LEAST,
        ),
        shared.exact(
            f"{start}time of a query, in times of BM25's",
            times_as_long,
            f"at most {SLOWEST}",
            times_as_long <= SLOWEST,
        ),
        shared.above(f"{start}nDCG@10 minus no expansion's", pairs["shop"][PLAIN, NONE]),
        shared.above(f"{films}nDCG@10 minus that of words", pairs["msrd"][PLAIN, "words"]),
        shared.at_least(
            f"{films}share of its teacher's lift over random",
            shares["msrd"][PLAIN, "teacher"],
            LEAST,
        ),
        shared.above(
            f"{films}nDCG@10, added to words, minus words and the untrained encoder",
            pairs["msrd"][f"words + {PLAIN}", "words + untrained"],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A sparse student beside what it learns from.")
    parser.add_argument("kind", nargs="?", choices=KINDS, help="what --seeds measures")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to measure, in turn")
    for name, help_of in (
        ("grid", "try the penalties"),
        ("clock", "time the systems"),
        ("merge", "write the recorded result"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=help_of)
    profile = Profile.named("book")
    parser.add_argument("--folder", type=Path, default=profile.artifacts / "sparse")
    parser.add_argument("--out", type=Path, default=shared.RECORDED / "sparse_student.json")
    arguments = parser.parse_args()
    if arguments.seeds and not arguments.kind:
        parser.error(f"give {' or '.join(KINDS)} with --seeds")
    folder = arguments.folder
    ours = arguments.seeds if arguments.kind == "shop" else []
    if ours or arguments.grid or arguments.clock:
        base = Shop(profile)
        if arguments.grid:
            there = (folder / "grid.json").exists()
            known = shared.sizes(folder, "grid") if there else []
            write_text(folder / "grid.json", json.dumps(grid(base, known)))
        for seed in ours:
            shared.write(folder / "shop", seed, measured_shop(base, seed, folder / "heads"))
        if arguments.clock:
            write_text(folder / "clock.json", json.dumps(clock(base, kept_head(base, folder))))
    if arguments.kind == "msrd":
        films = Films(profile)
        for seed in arguments.seeds:
            shared.write(folder / "msrd", seed, measured_films(films, seed))
    if arguments.merge:
        merge(folder, arguments.out)


def kept_head(base: Shop, folder: Path) -> sparse.SparseHead:
    """The student of the first seed that was measured."""
    files = sorted((folder / "heads").glob("head*.safetensors"))
    if not files:
        raise SystemExit(f"{folder}: no student is kept; run this script with --seeds first.")
    head = sparse.SparseHead(base.start["pieces"], base.start["idf"])
    head.load_state_dict({"pieces": base.start["pieces"], **load_file(files[0])})
    return head


if __name__ == "__main__":
    main()
