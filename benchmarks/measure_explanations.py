"""Why this product, and are the student's reasons its teacher's? Chapter 17.

    python benchmarks/measure_explanations.py --once
    python benchmarks/measure_explanations.py --seeds 1 2 3 4 5
    python benchmarks/measure_explanations.py --merge

About eight minutes of one core once, then five a seed. `--once` measures the recorded teacher of
the simulated shop and its two recorded students, which no seed changes. A seed trains the student
that has seen labels alone further, on the same pairs and in the same steps, once with the teacher's
soft targets and once without, and three recommenders of 400 real households. The queries and the
households that are looked at are the same for all seeds.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from sklearn.preprocessing import normalize

import ecomkd
import shared
from ecomkd import bench, distill, explain, features, keys, metrics, models, recommend, report
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data import journey, shop
from ecomkd.data.baskets import Baskets, sample
from ecomkd.data.sources import product_text
from ecomkd.relevance import judge, lexical, stages

PRECISION = {"precision": "fp32"}
QUERIES, EXPLAINED, PLANTED = 100, 50, 30
LOOKED = 40
"""Pairs of these on which students are looked at."""
STEPS = 100
"""Of further training, in batches of 32."""
STEPS_OF_IG = 32
NOTICED = 1.0
"""An exchange that lowers the log-odds by more is noticed by the model."""
COMPLETE = (4, 8, 16, 32, 64, 128)
COMPLETE_PAIRS = 8
SHUFFLED = 20
"""Pairs on which the teacher's reasons are held against those of a model with random weights."""
HOUSEHOLDS = 30
RANKS = (0, 3, 6, 9)
REMOVED = (1, 2, 4, 8, 16)
FIXED = 5
"""New items that sell best, whose reasons are compared from seed to seed."""
TOP = 3
RESAMPLES = 2_000
LENGTHS = (4, 8, 16, 32, 64)
BOUGHT = (50, 100, 200, 400, 800)
"""Items that a household has bought, about."""
CLOCKED = 5

Reasons = Callable[[Any, explain.Pair], np.ndarray]


def of_random(model: Any, pair: explain.Pair) -> np.ndarray:
    """Shares without any reason, the same for a pair whoever the model is."""
    seed = [len(pair.words), int(pair.ids.sum())]
    return np.random.default_rng(seed).permutation(len(pair.words)).astype(float)


METHODS: dict[str, Reasons] = {
    "random": of_random,
    "words in common": lambda model, pair: explain.in_common(pair),
    "attention, last layer": explain.attention,
    "attention rollout": explain.rollout,
    "gradient × input": explain.gradient_input,
    "integrated gradients": functools.partial(explain.integrated_gradients, steps=STEPS_OF_IG),
    "leave one out": explain.leave_one_out,
    "Shapley, sampled": explain.shapley,
}
OF_STUDENTS = tuple(name for name in METHODS if name != "Shapley, sampled")
KEPT = ("leave one out",)
"""The methods in which all students' reasons are held against their teacher's."""


# Words --------------------------------------------------------------------------------------------


class Asked:
    """The judged pairs of some test queries of the book's shop, and the pairs to explain.

    Of each of the first `EXPLAINED` queries that is the pair which the teacher puts first.
    """

    def __init__(self) -> None:
        self.profile = Profile.named(**PRECISION)
        self.data: DatasetDict = ecomkd.load("shop", self.profile)
        self.teacher = stages.teacher(self.data, self.profile)
        self.tokenizer = models.load_tokenizer(str(self.teacher))
        test = self.data["test"]
        queries = np.asarray(test["query_id"])
        self.queries = np.random.default_rng(0).permutation(np.unique(queries))[:QUERIES]
        self.rows = [np.flatnonzero(queries == query) for query in self.queries]
        self.pairs = test.select(np.concatenate(self.rows))
        self.texts = product_text(self.pairs[:])

    def read(self, row: int) -> explain.Pair:
        return explain.read(self.pairs[row]["query"], self.texts[row], self.tokenizer)

    def quality(self, folder: Path) -> dict:
        """The gains that a model expects (pairs,), and nDCG@10 of its order, by query."""
        found = judge.predict(folder, self.pairs, self.profile)
        gains = metrics.expected_gain(found, judge.gains(self.pairs))
        order = metrics.ranking(judge.frame(self.pairs, gains), judge.gains(self.pairs))
        by_query = order["per_query"].reindex(self.queries)
        return {
            "gains": gains.tolist(),
            "ndcg": by_query["ndcg@10"].tolist(),
            "random": by_query["random_ndcg@10"].tolist(),
        }

    def first(self, gains: Sequence[float]) -> list[int]:
        """The row of the pair that comes first, for each query that is explained."""
        ends = np.cumsum([0, *map(len, self.rows)])[: EXPLAINED + 1]
        return [int(start + np.argmax(gains[start:end])) for start, end in pairwise(ends)]


def probability(model: Any, pair: explain.Pair, kept: np.ndarray) -> np.ndarray:
    """Of Exact, for versions of a pair."""
    return 1 / (1 + np.exp(-explain.scores(model, pair, kept)))


def reasons_of(model: Any, pairs: Sequence[explain.Pair], methods: Sequence[str]) -> dict:
    """Shares of all words, by method and pair."""
    return {name: [METHODS[name](model, pair).tolist() for pair in pairs] for name in methods}


def curves_of(model: Any, pairs: Sequence[explain.Pair], reasons: Mapping) -> dict:
    """Deletion and insertion, by method: (pairs, 7) probabilities of Exact each."""
    found: dict = {}
    for name, shares in reasons.items():
        found[name] = {"deletion": [], "insertion": []}
        for pair, own in zip(pairs, shares, strict=True):
            score = functools.partial(probability, model, pair)
            found[name]["deletion"].append(explain.deletion(score, np.array(own)).tolist())
            found[name]["insertion"].append(explain.insertion(score, np.array(own)).tolist())
    return found


def planted(asked: Asked) -> list[tuple[explain.Pair, explain.Pair, list[int]]]:
    """Exact pairs, the same with one attribute's word exchanged, and where that word stands.

    The query asks for the attribute, the product has it, in one word; with another value's word in
    its place, everywhere in the text that is read, the shop's rule says Substitute.
    """
    book = asked.profile
    made = shop.generate(book.seed, book.products, book.queries, 10, book.unlabelled_pairs)
    wanted = made.queries.set_index("query_id")["asked"].map(json.loads)
    truth = made.products.set_index("product_id")["attributes"].map(json.loads)
    kinds = {kind.key: kind for kind in shop.vocabulary().types}
    kind_of = made.products.set_index("product_id")["product_type"]
    rng, found = np.random.default_rng(0), []
    test = asked.data["test"]
    texts, taken = product_text(test[:]), set()
    for row in rng.permutation(np.flatnonzero(np.asarray(test["label"]) == 0)):
        pair = test[int(row)]
        own = {name: value for name, value in wanted[pair["query_id"]].items() if name != "brand"}
        if len(own) != 1 or pair["query_id"] in taken:
            continue
        ((name, value),) = own.items()
        forms = shop.vocabulary().forms
        if truth[pair["product_id"]].get(name) != value:
            continue
        words = texts[row].split()
        old = {form for form in forms[name, value][0] if " " not in form}
        others = [other for other in kinds[kind_of[pair["product_id"]]].attributes[name]
                  if other != value and " " not in forms[name, other][0][0]]  # fmt: skip
        whole = explain.read(pair["query"], texts[row], asked.tokenizer)
        places = [at for at, word in enumerate(words) if word.strip(",./") in old]
        if not others or not places or places[0] >= len(whole.words):
            continue
        new = forms[name, str(rng.choice(others))][0][0]
        for at in places:
            words[at] = words[at].replace(words[at].strip(",./"), new)
        other = explain.read(pair["query"], " ".join(words), asked.tokenizer)
        taken.add(pair["query_id"])
        shortest = min(len(whole.words), len(other.words))
        found.append((whole, other, [at for at in places if at < shortest]))
        if len(found) == PLANTED:
            break
    return found


def pointed(model: Any, cases: Sequence, methods: Sequence[str]) -> dict:
    """Whether a method points at the word that was exchanged: at the right one as a reason for, and
    at the wrong one as a reason against; first, or among the first three.

    `fell` is how much the exchange lowers the log-odds; `chance` is what random shares find.
    """
    found: dict = {"fell": [], "chance": {"first": [], "three": []}}
    sides = {name: {f"{side}, {depth}": [] for side in ("for", "against")
                    for depth in ("first", "three")} for name in methods}  # fmt: skip
    for whole, other, places in cases:
        scores = [explain.scores(model, one, np.ones((1, len(one.words))))[0]
                  for one in (whole, other)]  # fmt: skip
        found["fell"].append(scores[0] - scores[1])
        count, right = len(whole.words), len(places)
        found["chance"]["first"].append(right / count)
        found["chance"]["three"].append(1 - comb(count - right, 3) / comb(count, 3))
        for name in methods:
            for side, pair, sign in (("for", whole, 1), ("against", other, -1)):
                shares = METHODS[name](model, pair)
                # Attention has no sign: what it looks at most is what it says decides.
                shares = shares if "attention" in name else sign * shares
                best = np.argsort(-shares, kind="stable")
                sides[name][f"{side}, first"].append(float(best[0] in places))
                sides[name][f"{side}, three"].append(float(np.isin(places, best[:3]).any()))
    return found | {"found": sides}


def once() -> dict:
    """The recorded teacher: its reasons, their tests, what they cost; and boosted trees."""
    asked = Asked()
    quality = asked.quality(asked.teacher)
    first = asked.first(quality["gains"])
    pairs = [asked.read(row) for row in first]
    model = models.load(asked.teacher)
    reasons = reasons_of(model, pairs, list(METHODS))
    print("teacher's reasons", flush=True)
    errors = {}
    for steps in COMPLETE:
        gaps = []
        for pair in pairs[:COMPLETE_PAIRS]:
            ends = explain.scores(model, pair, np.outer([1, 0], np.ones(len(pair.words))))
            shares = explain.integrated_gradients(model, pair, steps)
            gaps.append(abs(shares.sum() - (ends[0] - ends[1])) / abs(ends[0] - ends[1]))
        errors[steps] = float(np.median(gaps))
    labels = asked.data["train"].features["label"].names
    noise = models.build_untrained("minilm", labels, 1).eval()
    sane = {}
    for name in METHODS:
        if name in ("random", "Shapley, sampled"):
            continue
        of_noise = [METHODS[name](noise, pair) for pair in pairs[:SHUFFLED]]
        both = zip(of_noise, reasons[name], strict=False)
        sane[name] = [explain.rank_correlation(*own) for own in both]
    cases = planted(asked)
    return {
        "hardware": bench.hardware(),
        "quality": quality,
        "first": first,
        "words": [len(pair.words) for pair in pairs],
        "reasons": reasons,
        "curves": curves_of(model, pairs, reasons),
        "nothing": nothing(asked, model, pairs),
        "errors": errors,
        "sane": sane,
        "planted": pointed(model, cases, list(METHODS)),
        "costs": costs(asked, model),
        "purchase_costs": purchase_costs(),
        "students": {
            name: {
                "quality": asked.quality(folder),
                "reasons": reasons_of(models.load(folder), pairs[:LOOKED], KEPT),
            }
            for name, folder in recorded_students(asked).items()
        },
    }


def nothing(asked: Asked, model: Any, pairs: Sequence[explain.Pair]) -> dict:
    """The probability of Exact when all words are replaced by something that means nothing."""
    import torch

    found: dict = {name: [] for name in ("whole", "mask", "unknown", "padding", "zeros",
                                         "mask, the query too")}  # fmt: skip
    marks = torch.tensor([asked.tokenizer.cls_token_id, asked.tokenizer.sep_token_id])
    table = model.get_input_embeddings()
    for pair in pairs:
        inside = torch.from_numpy(pair.word >= 0)
        swaps = {
            "whole": pair.ids,
            "mask": pair.masked,
            "unknown": torch.where(inside, asked.tokenizer.unk_token_id, pair.ids),
            "padding": torch.where(inside, asked.tokenizer.pad_token_id, pair.ids),
            "mask, the query too": torch.where(torch.isin(pair.ids, marks), pair.ids, pair.mask),
        }
        embedded = {name: table(ids) for name, ids in swaps.items()}
        embedded["zeros"] = table(pair.ids) * ~inside[:, None]
        with torch.inference_mode():
            for name, inputs in embedded.items():
                logits = model(inputs_embeds=inputs[None], token_type_ids=pair.types[None]).logits
                odds = logits[:, 0] - logits[:, 1:].logsumexp(dim=1)
                found[name].append(float(torch.sigmoid(odds)[0]))
    return found


def costs(asked: Asked, model: Any) -> list[dict]:
    """Milliseconds and MiB of one explanation against the number of words, teacher alone."""
    rows = []
    words = " ".join(asked.texts).split()
    for count in LENGTHS:
        pairs = [
            explain.read(
                "red mug", " ".join(words[at * 64 : at * 64 + count]), asked.tokenizer, 256
            )
            for at in range(CLOCKED)
        ]
        for name, method in METHODS.items():
            if name in ("random", "words in common"):
                continue
            method(model, pairs[0])
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, and counts anew
            with bench.peak_memory() as memory:
                seconds = [shared.timed(method, model, pair)[1] for pair in pairs]
            rows.append(
                {
                    "words": count,
                    "method": name,
                    "ms": 1000 * float(np.median(seconds)),
                    "mib": memory["peak_mib"] - memory["before_mib"],
                }
            )
    return rows


def recorded_students(asked: Asked) -> dict[str, Path]:
    """The students of chapter 4."""
    book = Profile.named()
    rows = {"distilled": "kd_unlabelled", "alone": "none"}
    return {
        name: stages.student(asked.data, book, row, unlabelled=book.live_pairs)
        for name, row in rows.items()
    }


def students(asked: Asked, seed: int) -> dict[str, Path]:
    """The recorded student of labels, trained further: `distilled`, or on labels `alone`."""
    profile = Profile.named(seed=seed)
    book = Profile.named()
    taught = stages.teacher_pairs(asked.data, book, asked.teacher, "train")
    held = asked.data["validation"].select(range(200))
    start = recorded_students(asked)["alone"]

    def trained(name: str, pairs: Dataset, alpha: float) -> Path:
        def make(folder: Path) -> None:
            learner = models.load(start)
            models.freeze(learner, 0)
            models.set_dropout(learner, profile.student_dropout)
            distill.fit(
                learner,
                pairs,
                distill.encode(held, asked.tokenizer, profile.max_length),
                asked.tokenizer,
                profile,
                folder,
                steps=STEPS,
                learning_rate=profile.student_learning_rate,
                quality=functools.partial(judge.quality, held),
                evaluations=1,
                alpha=alpha,
            )

        return stage(
            "explained_student",
            [name, seed, STEPS, alpha, keys.identity(start)],
            make,
            profile.artifacts,
        )

    return {
        "distilled": trained("distilled", taught, profile.alpha),
        "alone": trained("alone", taught.remove_columns("teacher_logits"), 0.0),
    }


def searched(seed: int, first: Sequence[int]) -> dict:
    """Two students, their quality, and their reasons for what their teacher puts first."""
    asked = Asked()
    pairs = [asked.read(row) for row in first[:LOOKED]]
    found = {}
    for name, folder in students(asked, seed).items():
        model = models.load(folder)
        own = {"quality": asked.quality(folder)}
        if name == "distilled":
            own["reasons"] = reasons_of(model, pairs, OF_STUDENTS)
            own["curves"] = curves_of(model, pairs, own["reasons"])
        else:
            own["reasons"] = reasons_of(model, pairs, KEPT)
        found[name] = own
        print(f"seed {seed}: {name}: {np.mean(own['quality']['ndcg']):.4f}", flush=True)
    return found


# Purchases ----------------------------------------------------------------------------------------


def households(baskets: Baskets, day: int) -> np.ndarray:
    """Users with 20 items or more before the day who buy something from it on."""
    past, wanted = recommend.history(baskets, day), recommend.targets(baskets, day)
    enough = [user for user in wanted if np.diff(past.indptr)[user] >= 20]
    return np.random.default_rng(0).permutation(enough)[:HOUSEHOLDS]


def rules(baskets: Baskets, household: explain.Household, near: np.ndarray, item: int) -> dict:
    """What would sound plausible: shares (S,) of the items bought, without asking the network."""
    own, seen = household.own, household.seen
    last = own.groupby("item")["day"].max()[seen].to_numpy()
    rng = np.random.default_rng([household.user, item])
    return {
        "random": rng.permutation(len(seen)).astype(float),
        "most similar text": near[seen] @ near[item],
        "bought most often": np.array(list(map(len, household.labels)), float),
        "bought last": last.astype(float),
    }


def shopped(seed: int) -> dict:
    """A teacher and two students over purchases: quality, reasons, sentences."""
    profile = Profile.named(seed=seed, **PRECISION)
    book = Profile.named()
    baskets = sample(journey.load(), book.households, book.seed)
    texts, text_of = recommend.texts(baskets)
    vectors = features.last_layer(texts, profile)
    items = recommend.Items(baskets, vectors, recommend.FIRST, 64, profile)
    day, start = baskets.test_start, baskets.validation_start
    collator = recommend.BasketCollator(baskets)
    large, small = recommend.BasketTransformer, recommend.DecayedMeans
    teacher = recommend.train(large, items, start, profile)
    folders = {
        "teacher": (large, teacher),
        "distilled": (small, recommend.train(small, items, start, profile, teacher=teacher)),
        "alone": (small, recommend.train(small, items, start, profile)),
    }
    shelves = {
        name: recommend.Shelf(recommend.load(folder, kind, items), collator, day)
        for name, (kind, folder) in folders.items()
    }
    found: dict = {"quality": {}, "users": []}
    for name, shelf in shelves.items():
        per_user = recommend.evaluate(recommend.network(shelf), baskets, day)["per_user"]
        found["quality"][name] = {
            column: per_user[column].astype(object).where(per_user[column].notna(), None).tolist()
            for column in ("recall", "new_recall")
        }
    near = normalize(vectors - vectors.mean(axis=0))[text_of]
    for user in households(baskets, day):
        own = {name: explain.Household(shelf, user) for name, shelf in shelves.items()}
        found["users"].append(one_household(baskets, own, near))
    print(f"seed {seed}: households", flush=True)
    return found


def one_household(baskets: Baskets, own: dict, near: np.ndarray) -> dict:
    """Reasons of the three networks for the teacher's new items, and tests of sentences."""
    teacher, student = own["teacher"], own["distilled"]
    shown = teacher.shown()
    sold = recommend.popularity(baskets, teacher.shelf.day)[teacher.new]
    fixed = teacher.new[np.argsort(-sold, kind="stable")[:FIXED]]
    asked = np.concatenate([shown, fixed])
    every = {name: household.leave_one_out(asked) for name, household in own.items()}
    reasons = {name: shares[:, : len(shown)] for name, shares in every.items()}
    told: dict = {"seen": len(teacher.seen), "kept": {}, "shown": {}}
    told["fixed"] = {
        name: np.argsort(-shares[:, len(shown) :], axis=0, kind="stable")[:TOP].T.tolist()
        for name, shares in every.items()
    }
    others = {name: reasons[name] for name in ("distilled", "alone")}
    looked = explain.attention_to_purchases(teacher)
    others["attention"] = np.repeat(looked[:, None], len(shown), axis=1)
    ruled = [rules(baskets, teacher, near, item) for item in shown]
    for name in ruled[0]:
        others[name] = np.stack([one[name] for one in ruled], axis=1)
    others["distilled and alone"] = reasons["distilled"]
    for name, shares in others.items():
        against = reasons["alone" if name == "distilled and alone" else "teacher"]
        both = list(zip(against.T, shares.T, strict=True))
        told["kept"][name] = {
            "rank": float(np.mean([explain.rank_correlation(*pair) for pair in both])),
            "top": float(np.mean([explain.overlap(*pair, TOP) for pair in both])),
            "top 10": float(np.mean([explain.overlap(*pair, 10) for pair in both])),
        }
    for name in ("distilled", "alone"):
        told["shown"][name] = float(np.isin(own[name].shown(), shown).mean())
    told["deletion"] = {
        "teacher": removed(teacher, baskets, near, {"attention": looked}),
        "distilled": removed(student, baskets, near, {}),
    }
    told["sentences"] = sentences(student, baskets, near)
    return told


def removed(household: explain.Household, baskets: Baskets, near: np.ndarray, more: dict) -> dict:
    """Which part of the items shown is gone when the first reasons are, and by how much the scores
    have fallen, (2, REMOVED) by method."""
    shown = household.shown()
    loo, found = household.leave_one_out(shown), {}
    whole = household.scores(household.whole, shown)[0]
    for rank in RANKS:
        item = shown[rank]
        column = int(np.searchsorted(household.new, item))
        ways = {**rules(baskets, household, near, item), **more, "leave one out": loo[:, rank]}
        for name, shares in ways.items():
            order = np.argsort(-shares, kind="stable")
            kept = np.ones((len(REMOVED), len(order)), bool)
            for row, count in enumerate(REMOVED):
                kept[row, order[: min(count, len(order) - 1)]] = False
            scores = household.scores(kept, household.new)
            own = scores[:, [column]]
            gone = (scores > own).sum(axis=1) >= recommend.DEPTH
            falls = whole[rank] - own[:, 0]
            found.setdefault(name, []).append([gone.astype(float).tolist(), falls.tolist()])
    return {name: np.mean(values, axis=0).tolist() for name, values in found.items()}


def sentences(household: explain.Household, baskets: Baskets, near: np.ndarray) -> dict:
    """How often plausible sentences fail, and what true ones take."""
    shown = household.shown()
    loo = household.leave_one_out(shown)
    found: dict = {}
    for rank, item in enumerate(shown):
        ways = {**rules(baskets, household, near, item), "leave one out": loo[:, rank]}
        for name, shares in ways.items():
            best = int(shares.argmax())
            kept = household.whole.copy()
            kept[0, best] = False
            still = bool((household.shown(kept)[0] == item).any())
            found.setdefault(name, []).append([float(loo[best, rank] <= 0), float(still)])
    told: dict = {name: np.mean(values, axis=0).tolist() for name, values in found.items()}
    true = []
    for rank in RANKS:
        item = int(shown[rank])
        one = explain.counterfactual(household, item)
        if one is None:
            true.append([rank + 1, None, None])
        else:
            fails = explain.still_shown(household, item, one.gone)
            true.append([rank + 1, len(one.gone), float(not fails)])
    return {"plausible": told, "true": true}


def purchase_costs() -> list[dict]:
    """Milliseconds of one leave-one-out against the number of items bought, by three ways."""
    book = Profile.named(**PRECISION)
    baskets = sample(journey.load(), book.households, book.seed)
    vectors = features.last_layer(recommend.texts(baskets)[0], book)
    items = recommend.Items(baskets, vectors, recommend.FIRST, 64, book)
    day, start = baskets.test_start, baskets.validation_start
    collator = recommend.BasketCollator(baskets)
    large, small = recommend.BasketTransformer, recommend.DecayedMeans
    teacher = recommend.train(large, items, start, book)
    student = recommend.train(small, items, start, book, teacher=teacher)
    shelves = [
        recommend.Shelf(recommend.load(folder, kind, items), collator, day)
        for kind, folder in ((large, teacher), (small, student))
    ]
    sizes, rows = np.diff(recommend.history(baskets, day).indptr), []
    for wanted in BOUGHT:
        user = int(np.argmin(np.abs(sizes - wanted)))
        told, taught = (explain.Household(shelf, user) for shelf in shelves)
        without = ~np.eye(len(told.seen), dtype=bool)
        ways = {
            "student": lambda own=taught, kept=without: own.tastes(kept),
            "student, anew": lambda own=taught, kept=without: own.read_anew(kept),
            "teacher": lambda own=told, kept=without: own.read_anew(kept),
        }
        row: dict = {"items": len(told.seen)}
        for name, way in ways.items():
            way()
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            with bench.peak_memory() as memory:
                row[name] = 1000 * min(shared.timed(way)[1] for _ in range(CLOCKED))
        rows.append({**row, "mib": memory["peak_mib"] - memory["before_mib"]})
    return rows


# Trees --------------------------------------------------------------------------------------------

SIGNALS = (*lexical.LEXICAL, "words of the title", "words of the query", "noise")


def grown(seed: int) -> dict:
    """LambdaMART over words and noise: exactness of its Shapley values, and what noise gets."""
    asked = Asked()
    read = lexical.lexical_signals(asked.data["train"])
    rng = np.random.default_rng(seed)

    def signals(pairs: Dataset) -> np.ndarray:
        sizes = [[len(text.split()) for text in pairs[column]]
                 for column in ("product_title", "query")]  # fmt: skip
        return np.column_stack([read(pairs), *sizes, rng.normal(size=len(pairs))])

    train = asked.data["train"]
    queries = pd.factorize(np.asarray(train["query_id"]))[0]
    order = np.argsort(queries, kind="stable")
    seen = signals(train)[order]
    worth = np.round(100 * judge.worth(train)).astype(int)[order]
    gains = sorted(set(worth.tolist()))
    booster = lightgbm.train(
        {"objective": "lambdarank", "label_gain": gains, "num_leaves": 8, "verbosity": -1,
         "min_child_samples": 20, "learning_rate": 0.1, "seed": 0, "num_threads": 1},
        lightgbm.Dataset(seen, np.searchsorted(gains, worth), group=np.bincount(queries)),
        num_boost_round=100,
    )  # fmt: skip
    background, rows = seen[rng.permutation(len(seen))[:50]], signals(asked.pairs)[:200]
    shares, seconds = shared.timed(explain.tree_shap, booster, rows, background)
    score = booster.predict
    sums = score(rows) - score(background).mean()
    brute, slow = shared.timed(
        lambda: np.array([explain.coalitions(score, row, background) for row in rows[:3]])
    )
    parts = {
        "splits": booster.feature_importance("split"),
        "gain": booster.feature_importance("gain"),
        "Shapley": np.abs(shares).mean(axis=0),
    }
    return {
        "shares": {name: (one / one.sum()).tolist() for name, one in parts.items()},
        "additive": float(np.abs(shares.sum(axis=1) - sums).max()),
        "brute": float(np.abs(shares[:3] - brute).max()),
        "ms": {"trees": 1000 * seconds / len(rows), "coalitions": 1000 * slow / 3},
    }


def measure(seed: int, folder: Path) -> dict:
    common = shared.sizes(folder, "once")
    return {
        "search": searched(seed, common["first"]),
        "baskets": shopped(seed),
        "trees": grown(seed),
    }


# The record ---------------------------------------------------------------------------------------

Table = Sequence[Sequence[float]]


def spread(table: Table, statistic: Callable | None = None) -> dict:
    """The mean of (seeds, units), or a statistic of (seeds, units, quantities), and its ends."""
    return metrics.two_way_bootstrap(np.asarray(table, float), statistic, resamples=RESAMPLES)


def differ(a: Table, b: Table) -> dict:
    found = spread(np.asarray(a, float) - np.asarray(b, float))
    return {"difference": found.pop("value"), **found}


def noted(rows: Mapping[str, Table], against: str) -> dict:
    """Each row's mean, and how it differs from the row `against`."""
    return {
        name: {**spread(table), "minus": differ(table, rows[against])}
        for name, table in rows.items()
    }


def of_curves(curves: Sequence[Mapping]) -> dict:
    """Mean curves and areas of each method, from one mapping of curves a seed."""
    found: dict = {}
    for kind in ("deletion", "insertion"):
        areas = {
            name: [[explain.area(np.array(one)) for one in seed[name][kind]] for seed in curves]
            for name in curves[0]
        }
        for name, row in noted(areas, "random").items():
            mean = np.mean([seed[name][kind] for seed in curves], axis=(0, 1))
            beyond = differ(areas[name], areas["words in common"])
            found.setdefault(name, {})[kind] = {**row, "beyond": beyond, "curve": mean.tolist()}
    return found


def compared(
    measure: Callable[[np.ndarray, np.ndarray], float], ours: Sequence, theirs: Sequence
) -> list[list[float]]:
    """(seeds, pairs) of what `measure` says of two models' reasons, seed by seed."""
    return [
        [measure(np.array(a), np.array(b)) for a, b in zip(one, other, strict=True)]
        for one, other in zip(ours, theirs, strict=True)
    ]


MEASURES = {
    "rank": explain.rank_correlation,
    "top": functools.partial(explain.overlap, top=TOP),
}


def of_kept(seeds: Sequence[Mapping], once: Mapping) -> dict:
    """How far students' reasons agree with their teacher's, and with other students'."""
    found: dict = {}
    for method in (*KEPT, "integrated gradients"):
        told = [once["reasons"][method][:LOOKED]] * len(seeds)
        names = ("distilled", "alone") if method in KEPT else ("distilled",)
        own = {name: [seed[name]["reasons"][method] for seed in seeds] for name in names}
        for kind, measure in MEASURES.items():
            rows = {name: compared(measure, own[name], told) for name in own}
            for name in ("random", "words in common"):
                same = [once["reasons"][name][:LOOKED]] * len(seeds)
                rows[name] = compared(measure, same, told)
            row = noted(rows, "alone" if method in KEPT else "random")
            if method in KEPT:
                of_book = {
                    f"recorded, {name}": compared(measure, [student["reasons"][method]], told[:1])
                    for name, student in once["students"].items()
                }
                row |= noted(of_book, "recorded, alone")
            for name in own:
                pairs = list(combinations(own[name], 2))
                # Ten pairs of five seeds are not independent: each seed's mean over the others.
                values = np.array(compared(measure, *zip(*pairs, strict=True)))
                of_seed = [
                    values[[seed in pair for pair in combinations(range(len(seeds)), 2)]].mean(0)
                    for seed in range(len(seeds))
                ]
                row[f"{name}, other seeds"] = spread(of_seed)
            found.setdefault(method, {})[kind] = row
    found["chance"] = float(np.mean([TOP / count for count in once["words"]]))
    return found


def of_quality(seeds: Sequence[Mapping], once: Mapping) -> dict:
    """What students keep of the teacher's lift over random, and of its order."""
    told = once["quality"]
    found: dict = {"teacher": spread([told["ndcg"]]), "random": spread([told["random"]])}
    queries = len(told["ndcg"])
    models_of = {name: [seed[name]["quality"] for seed in seeds] for name in ("distilled", "alone")}
    models_of |= {f"recorded, {name}": [one["quality"]] for name, one in once["students"].items()}
    for name, own in models_of.items():
        table = np.array(
            [np.column_stack([one["ndcg"], told["ndcg"], told["random"]]) for one in own]
        )
        orders = [
            [explain.rank_correlation(a, b) for a, b in zip(
                np.array_split(one["gains"], queries), np.array_split(told["gains"], queries),
                strict=True)]
            for one in own
        ]  # fmt: skip
        found[name] = {
            "ndcg": spread(table[:, :, 0]),
            "share": spread(table, lambda m: (m[:, 0] - m[:, 2]) / (m[:, 1] - m[:, 2])),
            "order": spread(orders),
        }
    for start in ("", "recorded, "):
        both = [[one["ndcg"] for one in models_of[start + name]] for name in ("distilled", "alone")]
        found[f"{start}distilled"]["minus"] = differ(*both)
    return found


def of_planted(rows: Sequence[Mapping]) -> dict:
    """How often the exchanged word is found, of all pairs and of those where it is noticed."""
    fell = np.array([one["fell"] for one in rows])
    noticed = (fell > NOTICED).astype(float)
    found: dict = {"fell": spread(fell), "noticed": spread(noticed), "rows": {}}
    chance = {depth: [one["chance"][depth] for one in rows] for depth in ("first", "three")}
    found["chance"] = {depth: spread(table) for depth, table in chance.items()}
    for name, sides in rows[-1]["found"].items():
        found["rows"][name] = {}
        for side in sides:
            hits = np.array([one["found"][name][side] for one in rows])
            of_noticed = np.stack([hits * noticed, noticed], axis=2)
            found["rows"][name][side] = {
                **spread(hits),
                "minus": differ(hits, chance[side.split(", ")[1]]),
                "noticed": spread(of_noticed, lambda m: m[:, 0] / np.maximum(m[:, 1], 1e-9)),
            }
    return found


def first_pairs(curves: Mapping) -> dict:
    """The curves of the pairs on which students are looked at."""
    return {
        name: {kind: rows[:LOOKED] for kind, rows in own.items()} for name, own in curves.items()
    }


def of_words(seeds: Sequence[Mapping], once: Mapping) -> dict:
    return {
        "curves": {
            "teacher": of_curves([first_pairs(once["curves"])]),
            "distilled": of_curves([seed["distilled"]["curves"] for seed in seeds]),
        },
        "shares": explain.SHARES.tolist(),
        "kept": of_kept(seeds, once),
        "quality": of_quality(seeds, once),
        "planted": of_planted([once["planted"]]),
        "sane": {name: spread([values]) for name, values in once["sane"].items()},
        "nothing": {name: spread([values]) for name, values in once["nothing"].items()},
        "errors": once["errors"],
        "costs": once["costs"],
        "words": float(np.mean(once["words"])),
    }


def of_baskets(seeds: Sequence[Mapping]) -> dict:
    users = [seed["users"][:HOUSEHOLDS] for seed in seeds]

    def table(read: Callable[[Mapping], float]) -> list[list[float]]:
        return [[read(user) for user in own] for own in users]

    first = users[0][0]
    found: dict = {"kept": {}, "deletion": {}, "plausible": {}, "true": {}}
    for kind in ("rank", "top", "top 10"):
        rows = {name: table(lambda user, n=name, k=kind: user["kept"][n][k])
                for name in first["kept"]}  # fmt: skip
        found["kept"][kind] = noted(rows, "alone")
    found["chance"] = {
        "top": float(np.mean(table(lambda user: TOP / user["seen"]))),
        "top 10": float(np.mean(table(lambda user: 10 / user["seen"]))),
    }
    found["seen"] = float(np.mean(table(lambda user: user["seen"])))
    found["shown"] = {name: spread(table(lambda user, n=name: user["shown"][n]))
                      for name in ("distilled", "alone")}  # fmt: skip
    for name, methods in first["deletion"].items():
        found["deletion"][name] = {"removed": list(REMOVED)}
        for place, kind in enumerate(("gone", "falls")):
            every = np.array(
                [[[user["deletion"][name][m][place] for m in methods] for user in own]
                 for own in users]
            )  # fmt: skip
            rows = {m: every[:, :, at].mean(axis=2) for at, m in enumerate(methods)}
            row = noted(rows, "random")
            for at, m in enumerate(methods):
                row[m]["curve"] = every[:, :, at].mean(axis=(0, 1)).tolist()
            found["deletion"][name][kind] = row
    for name in first["sentences"]["plausible"]:
        found["plausible"][name] = {
            kind: spread(table(lambda user, n=name, p=place: user["sentences"]["plausible"][n][p]))
            for place, kind in enumerate(("speaks against", "still shown"))
        }
    for place, rank in enumerate(RANKS):
        own = [user["sentences"]["true"][place] for seed in users for user in seed]
        sizes = [one[1] for one in own if one[1] is not None]
        found["true"][rank + 1] = {
            "found": spread(
                table(lambda user, p=place: float(user["sentences"]["true"][p][1] is not None))
            ),
            "median size": float(np.median(sizes)),
            "alone": float(np.mean([size == 1 for size in sizes])),
            "true": float(np.mean([one[2] for one in own if one[1] is not None])),
            "sentences": len(sizes),
        }
    found["stable"] = of_stable(users)
    found["quality"] = of_recall(seeds)
    return found


def of_stable(users: Sequence[Sequence[Mapping]]) -> dict:
    """Which part of a network's first reasons another seed's network names too, for fixed items."""
    found = {}
    for name in users[0][0]["fixed"]:
        values = []
        for mine, seed in enumerate(users):
            others = [own for at, own in enumerate(users) if at != mine]
            values.append(
                [
                    np.mean(
                        [
                            len(set(a) & set(b)) / TOP
                            for other in others
                            for a, b in zip(
                                user["fixed"][name], other[row]["fixed"][name], strict=True
                            )
                        ]
                    )
                    for row, user in enumerate(seed)
                ]
            )
        found[name] = spread(values)
    return found


def of_recall(seeds: Sequence[Mapping]) -> dict:
    """Recall of each network, and the share of the teacher's that a student keeps."""
    found: dict = {}
    for column in ("recall", "new_recall"):
        tables = {}
        for name in seeds[0]["quality"]:
            rows = np.array([seed["quality"][name][column] for seed in seeds], float)
            tables[name] = rows[:, ~np.isnan(rows).any(axis=0)]
        for name, own in tables.items():
            both = np.stack([own, tables["teacher"]], axis=2)
            found.setdefault(name, {})[column] = {
                **spread(own), "share": spread(both, lambda m: m[:, 0] / m[:, 1]),
            }  # fmt: skip
    return found


def of_trees(seeds: Sequence[Mapping]) -> dict:
    return {
        "signals": list(SIGNALS),
        "shares": {
            kind: {
                signal: metrics.seed_interval([seed["shares"][kind][at] for seed in seeds])
                for at, signal in enumerate(SIGNALS)
            }
            for kind in seeds[0]["shares"]
        },
        **{name: max(seed[name] for seed in seeds) for name in ("additive", "brute")},
        "ms": {name: float(np.median([seed["ms"][name] for seed in seeds]))
               for name in seeds[0]["ms"]},
    }  # fmt: skip


def goals(data: Mapping) -> list[dict]:
    words, baskets, trees = data["words"], data["baskets"], data["trees"]
    found = []
    for name in ("leave one out", "integrated gradients", "attention, last layer"):
        row = words["curves"]["distilled"][name]["deletion"]
        found.append(
            shared.below(f"Words, student: area of deletion, {name} minus random", row["minus"])
        )
    row = words["curves"]["distilled"]["leave one out"]["insertion"]
    found.append(
        shared.above("Words, student: area of insertion, leave one out minus random", row["minus"])
    )
    for side in ("for", "against"):
        row = words["planted"]["rows"]["leave one out"][f"{side}, three"]["minus"]
        name = f"Words, teacher: planted reason {side} found by leave one out, minus chance"
        found.append(shared.above(name, row))
    for kind, name in (("top", "first three reasons"), ("rank", "order of the reasons")):
        row = words["kept"]["leave one out"][kind]["distilled"]["minus"]
        found.append(
            shared.above(f"Words: agreement with the teacher, {name}, distilled minus not", row)
        )
        row = baskets["kept"][kind]["distilled"]["minus"]
        found.append(
            shared.above(f"Purchases: agreement with the teacher, {name}, distilled minus not", row)
        )
    row = baskets["deletion"]["distilled"]["falls"]["leave one out"]["minus"]
    found.append(
        shared.above("Purchases, student: fall without the reasons, exact minus random", row)
    )
    true = min(row["true"] for row in baskets["true"].values())
    found.append(shared.exact("Purchases: share of sentences that are true", true, "1", true == 1))
    for kind, name in (("additive", "adds up to the score"), ("brute", "all coalitions")):
        wanted, value = "≤ 0.000001", trees[kind]
        found.append(
            shared.exact(f"Trees: Shapley values, error against {name}", value, wanted,
                         value <= 1e-6)
        )  # fmt: skip
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds."""
    seeds, common = shared.read(folder, ["profile"]), shared.sizes(folder, "once")
    data = {
        "words": of_words([one["search"] for one in seeds], common),
        "baskets": {
            **of_baskets([one["baskets"] for one in seeds]),
            "costs": common["purchase_costs"],
        },
        "trees": of_trees([one["trees"] for one in seeds]),
        "students": {"steps": STEPS, "queries": QUERIES, "explained": EXPLAINED, "looked": LOOKED,
                     "planted": len(common["planted"]["fell"]),
                     "households": HOUSEHOLDS},
    }  # fmt: skip
    numbers = [one["seed"] for one in seeds]
    report.write_recorded(
        out,
        command="python benchmarks/measure_explanations.py --once, "
        f"--seeds {' '.join(map(str, numbers))}, --merge",
        seeds=numbers,
        hardware=common["hardware"],
        generator=shop.generator_hash(),
        data=data,
        goals=goals(data),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Why this product, and whose reasons?")
    arguments = shared.arguments_of(parser, "explanations", scaled=False, once=True)
    shared.run(arguments, functools.partial(measure, folder=arguments.folder), merge, once=once)


if __name__ == "__main__":
    main()
