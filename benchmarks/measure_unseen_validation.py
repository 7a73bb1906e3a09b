"""Would validation queries with words that no label has seen choose otherwise? On simulated shops.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_unseen_validation.py --seeds 18 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_unseen_validation.py --merge

In the shop, three test queries in ten have an everyday word that no training query and no product
text has; of its validation queries none has. So what `labels_only` chose, for labels alone and for
the distilled student, was chosen blind to them. Here each shop asks 504 more queries, four times as
many as its validation has. They are drawn as its test is, with unseen words of their own: each
type's unseen words are divided between these queries and the test, of which those queries are left
out that have a word of the other side. Every student that `labels_only` tried is judged on both,
and is trained where it is gone. So each validation chooses among the settings that the shop's own
led the search to, and none can ask for more steps than were tried there; and what a student's own
checkpoint was chosen by stays the shop's validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

import measure_labels_only
import shared
from ecomkd import load, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.schema import TEXT, normalise_query
from ecomkd.relevance import judge, stages
from measure_labels_only import LABELS, MORE, ROWS, SEARCHED, SETTINGS, UNSEEN

TIMES = 4
"""So many times as many queries as validation has."""
SHOP, ALIKE, LARGER, DRAWN = (
    "the shop's validation",
    "as many, drawn like test",
    "those of the four times as many without an unseen word",
    "four times as many, drawn like test",
)
TEST = "the test itself"
"""Nobody may choose so; it says how much better a choice could have been."""
VALIDATIONS = SHOP, ALIKE, LARGER, DRAWN, TEST
MEASURES = ("quality", "ndcg@10")
"""What settings are chosen by: the book's mean of macro-F1 and nDCG@10, or the order alone."""


def divided(types: Sequence[shop.ProductType], rng: np.random.Generator) -> dict[str, list[str]]:
    """By type, a half of its unseen words, drawn at random; of an odd number the larger half or
    the smaller one."""
    own = {}
    for kind in types:
        count = (len(kind.unseen) + rng.integers(2)) // 2
        own[kind.key] = rng.permutation(list(kind.unseen)).tolist()[:count]
    return own


def word_of(query: str, words: Iterable[str]) -> str | None:
    """The longest of these words that the query has, singular or plural."""
    asked = query.lower()
    forms = [(form, word) for word in words for form in (word, shop._plural(word))]
    found = [(len(form), word) for form, word in forms if form in asked]
    return max(found)[1] if found else None


def drawn(data: Dataset, profile: Profile) -> tuple[Dataset, set[str]]:
    """More queries with their judged candidates, as labelled pairs like `data`, the test; and the
    ids of the test queries whose unseen word these queries have, too."""
    sizes = profile.queries, profile.judged_per_query, profile.unlabelled_pairs
    made = shop.generate(profile.seed, profile.products, *sizes)
    # The generator is frozen by its hash, so its own rules are used from where they stand.
    sold = shop._assortment(profile.seed, profile.products)
    rng = shop._stream(profile.seed, shop.QUERIES, 1)
    chooser = shop._stream(profile.seed, shop.CANDIDATES, 1)
    own = divided(sold.types, rng)
    stock = sold.stock * [bool(own[kind.key]) for kind in sold.types]
    types = [replace(kind, unseen=tuple(own[kind.key])) for kind in sold.types]
    asking = replace(sold, types=types, stock=stock / stock.sum())
    pool = shop._Pool(made.products[: shop.POOL], asking)
    taken = {normalise_query(text) for text in made.queries["query"]}
    count = TIMES * round(shop.SPLITS["validation"] * profile.queries)
    names, rows = data.features["label"].names, []
    for number in range(count):
        query = shop._new_query(rng, True, pool, taken)
        if query is None:
            raise SystemExit(f"seed {profile.seed}: the shop has no {count} more queries to ask.")
        mix, judged = shop.JUDGED_MIX, profile.judged_per_query
        for row, label in shop._candidates(chooser, query, judged, mix, pool):
            product = made.products.iloc[row][["product_id", *TEXT]].to_dict()
            asked = {"query_id": f"V{number:06d}", "query": query.text, "query_kind": query.kind}
            rows.append(product | asked | {"label": names.index(label)})
    columns = {name: data.features[name] for name in rows[0]}
    pairs = Dataset.from_list(rows).cast(type(data.features)(columns))
    words = {kind.key: kind.unseen for kind in sold.types}
    theirs = {word for some in own.values() for word in some}
    asked = made.queries[made.queries["split"].eq("test") & made.queries["query_kind"].eq(UNSEEN)]
    both = {
        one.query_id
        for one in asked.itertuples()
        if word_of(one.query, words[one.product_type]) in theirs
    }
    return pairs, both


def kept(pairs: Dataset, rows: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """MEASURES on some rows of the pairs, from probabilities (N, C) of all."""
    found = judge.evaluate(pairs.select(np.flatnonzero(rows)), said[rows])
    order, f1 = found["ranking"]["ndcg@10"], found["classification"]["macro_f1"]
    return dict(zip(MEASURES, ((order + f1) / 2, order), strict=True))


def measured(seed: int) -> dict:
    """Of a shop, what each tried student has on all validations, and on the test queries whose
    unseen word, if they have one, is the test's alone."""
    profile = Profile.named(seed=seed)
    data = load("shop", profile)
    teacher, test = stages.teacher(data, profile), data["test"]
    more, both = drawn(test, profile)
    names = np.array(more["query_id"])
    few = len(set(names)) // TIMES
    number = np.array([int(name[1:]) for name in names])
    seen = np.array([kind != UNSEEN for kind in more["query_kind"]])
    parts = {ALIKE: number < few, LARGER: seen, DRAWN: number >= 0}
    alone = np.array([query not in both for query in test["query_id"]])
    rest = test.select(np.flatnonzero(alone))
    found: dict[str, list[dict]] = {name: [] for name in SEARCHED}
    for name, runs in report.recorded("labels_only")["data"]["tried"][str(seed)].items():
        for run in runs:
            settings = {of: run[of] for of in SETTINGS}
            folder = measure_labels_only.trained(data, profile, teacher, ROWS[name], settings)
            said, told = (judge.predict(folder, pairs, profile) for pairs in (more, test))
            held = {part: kept(more, rows, said) for part, rows in parts.items()}
            held |= {SHOP: {of: run[of] for of in MEASURES}, TEST: kept(test, alone, told)}
            tested = shared.kept_by_query(judge.evaluate(rest, told[alone])["ranking"])
            found[name].append({"settings": settings, "validation": held, "test": tested})
            print(f"seed {seed}, {name}: {settings} {held}", flush=True)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "queries": {part: len(set(names[rows])) for part, rows in parts.items()},
        "unseen": {part: float((~seen)[rows].mean()) for part, rows in parts.items()},
        "left out": len(both),
        "kinds": dict(zip(test["query_id"], test["query_kind"], strict=True)),
        "runs": found,
    }


def chosen(parts: Sequence[dict], validation: str, measure: str) -> tuple[dict, pd.DataFrame]:
    """What a validation takes on each shop, of equals the one that was tried first, and what that
    is worth on the test; and nDCG@10 by query, (seed, query) × kinds of student."""
    named = []
    for part in parts:
        picks = {
            name: max(runs, key=lambda run: run["validation"][validation][measure])
            for name, runs in part["runs"].items()
        }
        settings = {name: run["settings"] for name, run in picks.items()}
        systems = {name: run["test"] for name, run in picks.items()}
        named.append({"seed": part["seed"], "systems": systems, "settings": settings})
    order = shared.by_query(named, "ndcg@10")
    rows, (added,) = shared.of_shops(order, {(MORE, LABELS): "what distillation adds"})
    settings = {part["seed"]: part["settings"] for part in named}
    return {"rows": rows, "added": added, "settings": settings}, order


def moved(order: pd.DataFrame, before: pd.DataFrame) -> dict:
    """What distillation adds by one choice, minus what it adds by the other: over queries (`low`,
    `high`) and over shops (`seeds`)."""
    gains = pd.DataFrame(
        {name: of[MORE] - of[LABELS] for name, of in (("now", order), ("before", before))}
    )
    _, (apart,) = shared.of_shops(gains, {("now", "before"): "what another choice moves"})
    return apart


def summary(parts: Sequence[dict]) -> dict:
    """By validation and measure, what is `chosen`, and how far that has `moved` what distillation
    adds from where the shop's validation puts it, on all queries and on the UNSEEN ones alone."""
    found: dict[str, dict] = {}
    for measure in MEASURES:
        _, before = chosen(parts, SHOP, measure)
        unseen = (shared.kinds_of(parts, before) == UNSEEN).to_numpy()
        for validation in VALIDATIONS:
            own, order = chosen(parts, validation, measure)
            if validation != SHOP:
                own["moved"] = moved(order, before)
                own["moved on unseen"] = moved(order[unseen], before[unseen])
            found.setdefault(validation, {})[measure] = own
    return {
        "chosen by": found,
        "unseen queries left": int(unseen.sum()),
        **{
            what: {part["seed"]: part[what] for part in parts}
            for what in ("queries", "unseen", "left out")
        },
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    found = summary(parts)
    goal = shared.above_over_seeds(
        "nDCG@10: distilled minus labels alone, settings chosen by validation queries drawn like "
        "the test (interval over seeds)",
        found["chosen by"][DRAWN]["quality"]["added"],
    )
    origin = shared.origin("unseen_validation", parts)
    report.write_recorded(out, **origin, data=found, goals=[goal])
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("unseen_validation", "Validation with unseen words of its own.", measured, merge)
