"""What few labels and a teacher's answers are worth where only the query's encoder learns.

    python benchmarks/measure_query_side.py msrd --seeds 1       one seed, into a file
    python benchmarks/measure_query_side.py esci_150 --seeds 1
    python benchmarks/measure_query_side.py msrd --clock         the time of a query
    python benchmarks/measure_query_side.py --merge              all files into one record

needs ECOMKD_REAL_DATA. The vectors of the products stay as the pretrained encoder made them, so
that a training step reads queries alone, and no product is encoded again when a model changes. The
teacher is that encoder of six layers, fine-tuned on the labels of few queries. The student has
three of its pretrained layers. It is trained on the labels alone; on these and the teacher's
cosines for the same queries; on those for queries that nobody labelled, too; and there on its first
product alone: each time at the rate, and kept at the pass, that validation prefers. All are judged
on test queries, by themselves and in a sum with words, whose weights validation chooses, and so is
what nobody trained, among it a static encoder: a vector for each token, whose mean is the query's.
`esci_150` is tested in five folds; its unlabelled queries are made from the catalogue. A learning
curve says how many labelled queries of `msrd` the teacher needs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import AutoModel, AutoTokenizer

import shared
from ecomkd import bench, features, losses, metrics, models, report, runtime
from ecomkd.artifacts import stage, write_text
from ecomkd.config import Profile
from ecomkd.data import sources
from ecomkd.data.folds import judged
from ecomkd.data.schema import normalise_query
from ecomkd.keys import digests
from ecomkd.relevance import judge, lexical, mining
from ecomkd.relevance.fusion import choose_fusion
from ecomkd.relevance.tables import LEAST_SEEDS
from measure_untrained import parts_of

TEMPERATURE = 0.05
"""Of the softmax over the cosines of a query's candidates."""
ALPHA = 1.0
LABELLED = 400
"""Labelled queries of `msrd`."""
CURVE = (25, 50, 100, 200, 400, 800, 1_600, 3_200)
LOG = 72_000
MINED, NEAR = 1_000, 24
"""Queries made from a catalogue that has no log, and how many nearest products each meets."""
BATCH = 16
VISITS = 4_000
"""A model of labels sees its queries so often all in all, or each of them MOST times."""
MOST = 20
PASSES = 4
"""Over labelled and unlabelled queries together."""
RATES = (5e-5, 1e-4, 2e-4, 4e-4)
LAYERS = (1, 3, 5)
ROWS = ("labels", "kd", "kd_unlabelled", "hard")
TIMED = 200
RESAMPLES = 4_000


@dataclass(frozen=True)
class Lists:
    """Q queries, each with up to K candidates."""

    queries: list[str]
    rows: torch.Tensor
    """(Q, K), the candidates' rows in the products' vectors; 0 where `mask` is False."""
    mask: torch.Tensor
    """(Q, K)."""
    gains: torch.Tensor
    """(Q, K), 0 where nobody labelled."""

    def part(self, places: Sequence[int]) -> Lists:
        kept = torch.as_tensor(np.asarray(places), dtype=torch.long)
        queries = [self.queries[place] for place in kept.tolist()]
        return Lists(queries, self.rows[kept], self.mask[kept], self.gains[kept])

    def first(self, count: int) -> Lists:
        return self.part(range(min(count, len(self.queries))))

    def labelled(self) -> Lists:
        """Those with a relevant candidate: others say nothing of an order."""
        return self.part(np.flatnonzero(self.gains.sum(1) > 0))


def lists(queries: Sequence[str], rows: Sequence[Sequence[int]], gains=None) -> Lists:
    """The lists of queries from the rows and, where there are labels, the gains of candidates."""
    most = max(map(len, rows))
    table, mask = np.zeros((len(rows), most), int), np.zeros((len(rows), most), bool)
    worth = np.zeros((len(rows), most), np.float32)
    for place, own in enumerate(rows):
        table[place, : len(own)], mask[place, : len(own)] = own, True
        if gains is not None:
            worth[place, : len(own)] = gains[place]
    return Lists(list(queries), *map(torch.from_numpy, (table, mask, worth)))


def of_pairs(pairs: Dataset, place: dict[str, int]) -> Lists:
    """The lists of judged or unlabelled pairs, in the order in which their queries come."""
    groups: dict[str, list[int]] = {}
    for row, query in enumerate(pairs["query_id"]):
        groups.setdefault(query, []).append(row)
    texts, ids = list(pairs["query"]), list(pairs["product_id"])
    rows = [[place[ids[row]] for row in own] for own in groups.values()]
    known = -1 not in set(pairs["label"])
    worth = judge.worth(pairs) if known else None
    gains = [worth[own] for own in groups.values()] if known else None
    return lists([texts[own[0]] for own in groups.values()], rows, gains)


# Encoders of queries ------------------------------------------------------------------------------


class Network(nn.Module):
    """Some layers of a pretrained encoder; a query's vector is the mean of its tokens' states."""

    def __init__(self, layers: Sequence[int] | None = None, name: str = "minilm"):
        super().__init__()
        source = models.checkpoint(name)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.body = AutoModel.from_pretrained(source)
        if layers is not None:
            kept = [self.body.encoder.layer[layer] for layer in layers]
            self.body.encoder.layer = nn.ModuleList(kept)
        self.body.embeddings.requires_grad_(False)

    def forward(self, queries: list[str]) -> torch.Tensor:
        batch = self.tokenizer(
            queries, padding=True, truncation=True, max_length=32, return_tensors="pt"
        )
        states = self.body(**batch).last_hidden_state
        return nn.functional.normalize(features.pool(states, batch["attention_mask"]), dim=1)


class Static(nn.Module):
    """A vector for each token; a query's vector has the direction of their sum.

    At first a token's vector is what the pretrained encoder makes of the token by itself. A step
    of Adam costs as much as there are vectors to learn, so only those of `learnt` texts move.
    """

    def __init__(self, table: np.ndarray, learnt: Sequence[str] = (), name: str = "minilm"):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(models.checkpoint(name))
        self.table = nn.EmbeddingBag.from_pretrained(torch.from_numpy(table), mode="sum")
        tokens = sorted(set(itertools.chain(*self.tokens(learnt))))
        row = torch.full((len(table),), len(tokens))
        row[tokens] = torch.arange(len(tokens))
        self.register_buffer("row", row)
        self.moved = nn.EmbeddingBag(
            len(tokens) + 1, table.shape[1], mode="sum", padding_idx=len(tokens)
        )
        nn.init.zeros_(self.moved.weight)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [own or [self.tokenizer.unk_token_id] for own in found]

    def forward(self, queries: list[str]) -> torch.Tensor:
        found = self.tokens(queries)
        starts = torch.from_numpy(np.cumsum([0, *map(len, found)])[:-1])
        ids = torch.tensor(list(itertools.chain(*found)))
        sums = self.table(ids, starts) + self.moved(self.row[ids], starts)
        return nn.functional.normalize(sums, dim=1)


def cosines(model: nn.Module, asked: Lists, vectors: torch.Tensor) -> torch.Tensor:
    """(Q, K), of each query with its candidates, in eval mode and without a gradient."""
    model.eval()
    with torch.inference_mode():
        parts = [
            torch.einsum(
                "qh,qkh->qk", model(asked.queries[i : i + 64]), vectors[asked.rows[i : i + 64]]
            )
            for i in range(0, len(asked.queries), 64)
        ]
    return torch.cat(parts).clone()  # what inference mode made may not enter a loss


def in_order(scores: torch.Tensor, asked: Lists) -> np.ndarray:
    """One score for each pair, query by query."""
    return scores[asked.mask].numpy().astype(float)


def quality(scores: torch.Tensor, asked: Lists) -> float:
    """nDCG@10 of labelled lists."""
    queries = torch.arange(len(asked.queries)).unsqueeze(1).expand_as(asked.rows)[asked.mask]
    return metrics.mean_ndcg(queries.numpy(), in_order(scores, asked), asked.gains[asked.mask])


def from_labels(found: torch.Tensor, asked: Lists) -> torch.Tensor:
    """Cross entropy between the candidates' gains, as shares, and the softmax of the cosines."""
    scores = (found / TEMPERATURE).masked_fill(~asked.mask, -1e4)
    shares = asked.gains / asked.gains.sum(1, keepdim=True)
    return -(shares * scores.log_softmax(1)).sum(1).mean()


def fit(
    model: nn.Module,
    asked: Lists,
    vectors: torch.Tensor,
    validation: Lists,
    rate: float,
    passes: int,
    seed: int,
    taught: torch.Tensor | None = None,
) -> list[float]:
    """Train; keep the weights of the pass that ranks validation best, the untrained ones included.

    Lists without a label are learnt from `taught`, the teacher's cosines (Q, K), alone; with a
    label from both, where `taught` is given. Returns validation's nDCG@10 after each pass.
    """
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=rate, weight_decay=0.0)
    steps = passes * -(-len(asked.queries) // BATCH)
    plan = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * (1 - step / steps)
    )
    draw = np.random.default_rng(seed)
    found = [quality(cosines(model, validation, vectors), validation)]
    best = copy.deepcopy(model.state_dict())
    with runtime.seeded(seed):
        for _ in range(passes):
            model.train()
            order = draw.permutation(len(asked.queries))
            for places in np.array_split(order, -(-len(order) // BATCH)):
                some = asked.part(places)
                near = torch.einsum("qh,qkh->qk", model(some.queries), vectors[some.rows])
                known, loss = some.gains.sum(1) > 0, near.sum() * 0
                if known.any():
                    own = some.part(np.flatnonzero(known))
                    loss = loss + from_labels(near[known], own)
                if taught is not None:
                    answers = taught[places] / TEMPERATURE
                    loss = loss + ALPHA * losses.listwise_kl(near / TEMPERATURE, answers, some.mask)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(learnt, 1.0)
                optimiser.step()
                plan.step()
            found.append(quality(cosines(model, validation, vectors), validation))
            if found[-1] > max(found[:-1]):
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return found


def tuned(
    make: Callable[[], nn.Module], rates: Sequence[float], *given, **options
) -> tuple[nn.Module, dict]:
    """The model of the rate that ranks validation best, and what each rate reached."""
    tried = {}
    for rate in rates:
        model = make()
        looks = fit(model, *given, rate=rate, **options)
        tried[rate] = max(looks), looks, model
    rate = max(tried, key=lambda one: tried[one][0])
    chosen = {"rate": rate, "looks": tried[rate][1]}
    return tried[rate][2], chosen | {"tried": {str(one): tried[one][0] for one in tried}}


# One data set -------------------------------------------------------------------------------------


def passes_over(asked: Lists) -> int:
    """As many as give VISITS visits, from 2 to MOST."""
    return int(np.clip(VISITS // len(asked.queries), 2, MOST))


def students(
    train: Lists,
    log: Lists,
    vectors: torch.Tensor,
    validation: Lists,
    teacher: nn.Module,
    seed: int,
) -> Iterator[tuple[str, nn.Module, dict]]:
    """The small model in each way to learn: its row, itself, and what was chosen."""
    both = joined(train, log)
    given = {"vectors": vectors, "validation": validation, "seed": seed}
    answers = {
        "kd": cosines(teacher, train, vectors),
        "kd_unlabelled": cosines(teacher, both, vectors),
    }
    first = answers["kd_unlabelled"].masked_fill(~both.mask, -2).argmax(1, keepdim=True)
    named = torch.zeros_like(both.gains).scatter_(1, first, 1.0)
    named[: len(train.queries)] = both.gains[: len(train.queries)]
    hard = Lists(both.queries, both.rows, both.mask, named)
    for row in ROWS:
        asked = {"labels": train, "kd": train, "kd_unlabelled": both, "hard": hard}[row]
        passes = PASSES if asked is not train else passes_over(train)
        options = {"passes": passes, "taught": answers.get(row)}
        model, chosen = tuned(lambda: Network(LAYERS), RATES, asked, **options, **given)
        yield f"three layers, {row}", model, chosen


def joined(a: Lists, b: Lists) -> Lists:
    """The lists of both, padded to one number of candidates."""
    most = max(a.rows.shape[1], b.rows.shape[1])

    def wide(one: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(one, (0, most - one.shape[1]))

    pairs = zip((a.rows, a.mask, a.gains), (b.rows, b.mask, b.gains), strict=True)
    return Lists([*a.queries, *b.queries], *(torch.cat([wide(x), wide(y)]) for x, y in pairs))


@dataclass(frozen=True)
class Ground:
    """What all seeds of a data set share: its parts, one for each fold, and what was computed."""

    parts: list[DatasetDict]
    place: dict[str, int]
    """The row of each product in the vectors."""
    vectors: torch.Tensor
    """(N, H), of the products, under the pretrained encoder."""
    words: dict[tuple[str, str], np.ndarray]
    """The signals of each judged pair, without a model."""
    log: Lists
    table: np.ndarray
    """(V, H), what the pretrained encoder makes of each token by itself."""
    titles: list[str]


def ground(name: str, profile: Profile, log: int = LOG, encoder: str = "minilm") -> Ground:
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        parts, catalogue = parts_of(name, profile, Path(scratch), max(CURVE), log)
    pairs = judged(parts[0])
    texts = dict(zip(catalogue["product_id"], sources.product_text(catalogue[:]), strict=True))
    texts |= dict(zip(pairs["product_id"], sources.product_text(pairs[:]), strict=True))
    place = {product: row for row, product in enumerate(texts)}
    vectors = unit(features.last_layer(list(texts.values()), profile, encoder))
    tokens = AutoTokenizer.from_pretrained(models.checkpoint(encoder))
    names = tokens.convert_ids_to_tokens(range(len(tokens)))
    table = features.last_layer([one.removeprefix("##") for one in names], profile, encoder)

    def measure(folder: Path) -> None:
        np.save(folder / "words.npy", lexical.lexical_signals(catalogue)(pairs))

    known = stage("query_side_words", [name, digests(pairs)], measure, profile.artifacts, recipe=1)
    signals = np.load(known / "words.npy")
    ids = zip(pairs["query_id"], pairs["product_id"], strict=True)
    words = dict(zip(ids, signals, strict=True))
    if "unlabelled" in parts[0]:
        shown = of_pairs(parts[0]["unlabelled"], place)
    else:
        taken = set(map(normalise_query, pairs["query"]))
        made = mining.catalogue_queries(catalogue, MINED, seed=0)
        made = [query for query in made if query not in taken]
        asked = torch.from_numpy(unit(features.last_layer(made, profile, encoder)))
        near = (asked @ torch.from_numpy(vectors).T).topk(NEAR, dim=1).indices
        shown = lists(made, near.tolist())
    return Ground(
        parts,
        place,
        torch.from_numpy(vectors),
        words,
        shown,
        unit(table),
        list(catalogue["product_title"]),
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def of_products(
    catalogue: Dataset, profile: Profile, encoder: str = "minilm"
) -> tuple[dict[str, int], np.ndarray]:
    """The row of each product, and the vectors (P, H) of length 1 that an encoder as it came
    makes of the products."""
    texts = dict(zip(catalogue["product_id"], sources.product_text(catalogue[:]), strict=True))
    place = {product: row for row, product in enumerate(texts)}
    return place, unit(features.last_layer(list(texts.values()), profile, encoder))


def measured(base: Ground, seed: int, curve: bool) -> dict:
    """All systems of one seed: nDCG@10 of each test query, alone and in the sum with words."""
    values: dict[str, dict[str, float]] = {}
    choices: list[dict] = []
    for data in base.parts:
        chosen: dict[str, dict] = {}
        train, validation, test = (
            of_pairs(data[split], base.place) for split in ("train", "validation", "test")
        )
        train, seen = train.labelled(), Judged(base, data, validation, test)
        some = train.first(LABELLED) if curve else train
        given = {"vectors": base.vectors, "validation": validation, "seed": seed}
        flat = np.zeros(len(seen.pairs["test"]))
        values.setdefault("random", {}).update(seen.ranked(flat))  # ties share their places
        seen.add(values, "words", None)
        seen.add(values, "untrained", Network())
        seen.add(values, "static, untrained", Static(base.table))
        teacher, chosen["teacher"] = tuned(Network, RATES, some, passes=passes_over(some), **given)
        seen.add(values, "teacher", teacher)
        ways = students(some, base.log, base.vectors, validation, teacher, seed)
        for row, model, found in ways:
            seen.add(values, row, model)
            chosen[row] = found
        if curve:
            rate = chosen["teacher"]["rate"]
            for count in CURVE:
                few, model = train.first(count), Network()
                looks = fit(model, few, rate=rate, passes=passes_over(few), **given)
                seen.add(values, f"teacher of {count}", model)
                chosen[f"teacher of {count}"] = {"rate": rate, "looks": looks}
        chosen["weights"] = seen.weights
        choices.append(chosen)
    return {"values": values, "choices": choices}


class Judged:
    """The test queries of a part, and the sum of a model with words that validation chooses."""

    def __init__(self, base: Ground, data: DatasetDict, validation: Lists, test: Lists):
        self.vectors, self.lists = base.vectors, {"validation": validation, "test": test}
        self.pairs = {split: by_query(data[split]) for split in self.lists}
        self.words = {
            split: np.stack(
                [base.words[pair] for pair in zip(p["query_id"], p["product_id"], strict=True)]
            )
            for split, p in self.pairs.items()
        }
        self.weights: dict[str, list[float]] = {}

    def add(self, values: dict, name: str, model: nn.Module | None) -> None:
        """Put nDCG@10 of each test query under `name`, and under its sum with words."""
        if model is not None:
            self.add_scores(values, name, self.scores(model))
        else:
            self._add_sum(values, name, self.words)

    def add_scores(self, values: dict, name: str, found: dict[str, np.ndarray]) -> None:
        """The same from the scores of each part's pairs, query by query."""
        values.setdefault(name, {}).update(self.ranked(found["test"]))
        self._add_sum(values, f"words + {name}", self.columns(found))

    def scores(self, model: nn.Module) -> dict[str, np.ndarray]:
        """The model's cosines (N,) for each part's pairs, query by query."""
        return {
            split: in_order(cosines(model, asked, self.vectors), asked)
            for split, asked in self.lists.items()
        }

    def columns(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """(N, S): the signals of words, and last the scores found, of each part's pairs."""
        return {split: np.column_stack([self.words[split], own]) for split, own in found.items()}

    def _add_sum(self, values: dict, name: str, columns: dict[str, np.ndarray]) -> None:
        fused = choose_fusion("z", columns["validation"], self.pairs["validation"])
        self.weights[name] = list(fused.weights)
        scores = fused.scores(columns["test"], self.pairs["test"]["query_id"])
        values.setdefault(name, {}).update(self.ranked(scores))

    def ranked(self, scores: np.ndarray) -> dict[str, float]:
        pairs = self.pairs["test"]
        found = metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs))
        return found["per_query"]["ndcg@10"].to_dict()


def by_query(pairs: Dataset) -> Dataset:
    """Pairs with those of a query side by side, queries in the order in which they come first."""
    order: dict[str, int] = {}
    ranks = [order.setdefault(query, len(order)) for query in pairs["query_id"]]
    return pairs.select(np.argsort(ranks, kind="stable"))


# Clock, and the record ----------------------------------------------------------------------------


def clock(base: Ground) -> dict[str, float]:
    """The median milliseconds in which each encoder reads a test query, in PyTorch on one thread.

    Tokenisation counts, for the static encoder does little else.
    """
    queries = [[one] for one in of_pairs(base.parts[0]["test"], base.place).queries[:TIMED]]
    encoders = {
        "teacher": Network(),
        "three layers": Network(LAYERS),
        "static": Static(base.table),
    }
    found = {}
    with torch.inference_mode():
        for name, encoder in encoders.items():
            found[name] = bench.latency(encoder.eval(), queries, threads=1)["p50_ms"]
    return found


BEST_FREE = "words + untrained"
DISTILLED, PLAIN = "three layers, kd_unlabelled", "three layers, labels"
COMPARED = (
    ("teacher", "untrained"),
    ("words + teacher", BEST_FREE),
    *(
        (f"{before}{DISTILLED}", f"{before}three layers, {other}")
        for before in ("", "words + ")
        for other in ("labels", "kd", "hard")
    ),
    (f"words + {DISTILLED}", BEST_FREE),
    (f"words + {PLAIN}", BEST_FREE),
)
KEPT = ((DISTILLED, "teacher"), (f"words + {DISTILLED}", "words + teacher"))
DATA = {"msrd": "film queries", "esci_150": "ESCI lists"}


def table_of(seeds: Sequence[dict]) -> tuple[list[str], np.ndarray]:
    """The systems, and nDCG@10 of each seed, query and system (S, Q, M)."""
    names = list(seeds[0]["values"])
    queries = list(seeds[0]["values"][names[0]])
    return names, np.array(
        [[[one["values"][name][query] for name in names] for query in queries] for one in seeds]
    )


def summary(
    seeds: Sequence[dict],
    compared: Sequence[tuple[str, str]] = COMPARED,
    kept: Sequence[tuple[str, str]] = KEPT,
) -> dict:
    """The rows, comparisons and shares of one data set.

    Each sum with words of a teacher of the learning curve is compared with what is free, too.

    Intervals are over seeds and queries together from LEAST_SEEDS seeds on, and over queries, each
    with its mean over the seeds, where there are fewer.
    """
    names, table = table_of(seeds)
    if len(seeds) < LEAST_SEEDS:
        table = table.mean(axis=0, keepdims=True)
    column = {name: table[..., place] for place, name in enumerate(names)}

    def interval(values: np.ndarray, statistic: Callable | None = None) -> dict:
        return metrics.two_way_bootstrap(values, statistic, resamples=RESAMPLES)

    rows = {}
    for name in names:
        span = interval(column[name])
        lift = span["value"] - float(column["random"].mean())
        rows[name] = {"ndcg@10": span["value"], "lift@10": lift}
        rows[name] |= {"ndcg@10 low": span["low"], "ndcg@10 high": span["high"]}
    few = [(name, BEST_FREE) for name in names if name.startswith("words + teacher of ")]
    differences = [
        {"system": a, "against": b, **interval(column[a] - column[b])} for a, b in (*compared, *few)
    ]

    def share(means: np.ndarray) -> np.ndarray:
        small, large, chance = means.T
        return (small - chance) / (large - chance)

    shares = []
    for small, large in kept:
        three = np.stack([column[name] for name in (small, large, "random")], axis=-1)
        shares.append({"system": small, "of": large, **interval(three, share)})
    known = {"queries": table.shape[1], "seeds": len(seeds)}
    return known | {"rows": rows, "comparisons": differences, "kept": shares}


def goals(found: dict[str, dict]) -> list[dict]:
    """What fine-tuning and distillation are to show, on each data set."""
    asked = {
        ("words + teacher", BEST_FREE): "words and the fine-tuned teacher minus what is free",
        (DISTILLED, PLAIN): "student distilled minus student on labels alone",
        (f"words + {DISTILLED}", f"words + {PLAIN}"): "the same, each added to words",
    }
    shares = dict(zip(KEPT, ("student keeps", "student keeps, both added to words"), strict=True))
    entries = []
    for name, one in found.items():
        for pair in one["comparisons"]:
            if what := asked.get((pair["system"], pair["against"])):
                entries.append(shared.above(f"{DATA[name]}, nDCG@10: {what}", pair))
        for share in one["kept"]:
            what = f"{DATA[name]}: share of its teacher's lift over random that the "
            what += shares[share["system"], share["of"]]
            entries.append(shared.at_least(what, share, 0.97))
    return entries


def arguments_of(parser: argparse.ArgumentParser, folder: Path) -> argparse.Namespace:
    """What the command line says: the parser's own arguments, and what is to be measured where."""
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to measure, in turn")
    parser.add_argument("--clock", action="store_true", help="time the encoders")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--folder", type=Path, default=folder, help="of the single seeds' files")
    return parser.parse_args()


def main() -> None:
    parser = argparse.ArgumentParser(description="Query encoders, from labels and from a teacher.")
    parser.add_argument("data", nargs="?", choices=tuple(DATA))
    profile = Profile.named("book")
    arguments = arguments_of(parser, profile.artifacts / "query_side")
    folder = arguments.folder
    if arguments.seeds or arguments.clock:
        if arguments.data is None:
            parser.error("say which data: msrd or esci_150")
        base = ground(arguments.data, profile)
        for seed in arguments.seeds:
            curve = arguments.data == "msrd"
            shared.write(folder / arguments.data, seed, measured(base, seed, curve))
        if arguments.clock:
            write_text(folder / "clock.json", json.dumps(clock(base)))
    if arguments.merge:
        merge(folder)


def merge(folder: Path, out: Path = shared.RECORDED / "query_side.json") -> None:
    """Write the record from the files of all seeds. Of data without files, and of the times without
    theirs, `out` keeps what it has."""
    seeds = {
        name: shared.read(folder / name, ["profile"]) for name in DATA if (folder / name).exists()
    }
    before = {"data": {}, "goals": [], "seeds": [], "hardware": None}
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
    old = before["data"]
    known = [name for name in DATA if name in old and name not in seeds]
    clocked = (folder / "clock.json").exists() or "p50_ms" not in old
    times = shared.sizes(folder, "clock") if clocked else old["p50_ms"]
    found = {name: summary(own) for name, own in seeds.items()}
    choices = {name: [one["choices"] for one in own] for name, own in seeds.items()}
    numbers = {name: before["seeds"] for name in known}
    numbers |= {name: [one["seed"] for one in own] for name, own in seeds.items()}
    calls = [
        f"{name} --seeds {' '.join(map(str, numbers[name]))}" for name in DATA if name in numbers
    ]
    told = tuple(DATA[name] for name in known)
    script = "python benchmarks/measure_query_side.py"
    report.write_recorded(
        out,
        command=f"{script} {', '.join(calls)}, msrd --clock, --merge",
        seeds=sorted({seed for own in numbers.values() for seed in own}),
        # The times alone depend on it.
        hardware=next(iter(seeds.values()))[0]["hardware"] if clocked else before["hardware"],
        generator=None,
        data={
            **{name: (old | found)[name] for name in DATA if name in numbers},
            "p50_ms": times,
            "choices": {name: (old.get("choices", {}) | choices)[name] for name in numbers},
        },
        goals=[goal for goal in before["goals"] if goal["name"].startswith(told)] + goals(found),
    )


if __name__ == "__main__":
    main()
