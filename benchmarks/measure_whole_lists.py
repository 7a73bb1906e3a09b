"""Teachers that read query and product together, on whole candidate lists of few judged queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_whole_lists.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_whole_lists.py --merge
    ECOMKD_PRECISION=bf16 python benchmarks/measure_whole_lists.py icecat --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_whole_lists.py icecat --merge

needs ECOMKD_REAL_DATA with `esci_150`, or `icecat`, whose queries are each tested once, in five
folds. On the ESCI lists the book's recipe, which keeps the lower layers still, has no order that is
told from chance: the record `core_esci_150` has it. Has another one more? Three were named before
anything was measured with them: the last layer and the head alone; all layers at a quarter of the
rate and in half as many passes; and the same from the checkpoint as it came. Beside them stands the
network from which the first two start, which saw no label, read by the head of its warm-up and by
the new one that fine-tuning draws for it. The new one turned out to lose the order before any label
does, so the first two recipes were then trained once more under a head that is spread between the
rows of the warm-up's (`Profile.spread_head`). These two, which validation took on the ESCI lists,
are what is tried on Icecat, beside the book's own recipe on as many tokens.
Within a run, validation queries choose the checkpoint, by the mean of macro-F1 and nDCG@10. They
choose among the recipes too, by nDCG@10, and the weights with which each is added to words and bi-
encoder: some 21 queries for all of it. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

import measure_untrained
import shared
from ecomkd import distill, metrics, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data.folds import divided
from ecomkd.relevance import judge, mining, rivals, stages
from ecomkd.relevance.tables import TEACHER, TEACHER_SUM, UNTRAINED_SUM, interval

TOKENS, FOLDS = 96, 5
LAST: dict = {"frozen_layers": 5}
GENTLE: dict = {"frozen_layers": None, "teacher_learning_rate": 5e-5, "teacher_epochs": 3}
RECIPES: dict[str, dict] = {
    "the last layer and the head": LAST,
    "all layers, gently": GENTLE,
    "all layers, gently, no warm-up": GENTLE | {"warm_up_pairs": 0},
    "the last layer, head spread": LAST | {"spread_head": True},
    "all layers, gently, head spread": GENTLE | {"spread_head": True},
}
BOOK = "the book's recipe"
TRIED: dict[str, dict[str, dict]] = {
    "esci_150": RECIPES,
    "icecat": {BOOK: {}, **dict(list(RECIPES.items())[3:])},
}
"""The recipes, by the data on which they are tried."""
CHOSEN = "the best on validation"
START = "the warm start, no label"
HEAD = "the warm start under a new head, no label"
FREE = "bi-encoder, untrained"


def added(recipe: str) -> str:
    """The row in which a recipe's teacher is added to words and bi-encoder."""
    return f"{recipe}, with words and bi-encoder"


def logits(model: PreTrainedModel, data: DatasetDict, profile: Profile) -> np.ndarray:
    """What a network made of the warmed-up one says of the test pairs, (N, classes)."""
    tokenizer = models.load_tokenizer(str(stages.origin(data, profile)))
    encoded = distill.encode(data["test"], tokenizer, profile.max_length)
    return distill.predict(model, encoded, tokenizer, profile)


def warm_start(data: DatasetDict, profile: Profile) -> np.ndarray:
    """How much alike the warmed-up network, before any label, finds query and product, (N,)."""
    network = models.load(Path(stages.origin(data, profile)))
    apart, alike = logits(network, data, profile).T
    return alike - apart


def untaught(data: DatasetDict, profile: Profile, spread: bool = False) -> np.ndarray:
    """Class probabilities (N, C) of the test pairs by the warmed-up network, before any label,
    under the head of classes that fine-tuning draws for it, or under a `spread` one."""
    start, classes = str(stages.origin(data, profile)), data["test"].features["label"].names
    gains = [tuple(judge.gains(data["test"]).values())] if spread else []
    network = models.build_teacher(start, classes, profile.seed, *gains)
    return judge.softmax(logits(network, data, profile))


def new_head(data: DatasetDict, profile: Profile) -> np.ndarray:
    """Expected gains, (N,), by the warmed-up network under the head that fine-tuning draws."""
    return metrics.expected_gain(untaught(data, profile), judge.gains(data["test"]))


def looks(folder: Path) -> list[dict[str, float]]:
    """What validation said during a training, at each look."""
    seen = stages.training_log(folder).dropna(subset="eval_quality")
    names = {"eval_macro_f1": "macro_f1", "eval_ndcg@10": "ndcg@10"}
    return seen[list(names)].rename(columns=names).to_dict("records")


Found = dict[str, dict[str, dict[str, float]]]
"""By system and column, a value for each test query."""


def ranked(found: Found, test: Dataset, name: str, scores: np.ndarray) -> None:
    """Keep nDCG@10 of a system's scores by test query, and the mean over all orders as `random`."""
    per_query = metrics.ranking(judge.frame(test, scores), judge.gains(test))["per_query"]
    found[name] = {"ndcg@10": per_query["ndcg@10"].to_dict()}
    found["random"] = {"ndcg@10": per_query["random_ndcg@10"].to_dict()}


def with_teacher(
    data: DatasetDict, seen: dict[str, rivals.Signals], said: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, float]]:
    """The scores of the test pairs by words, cosine and what a teacher has `said` of both splits,
    and the weights that validation chose for them."""
    read = {split: replace(seen[split], answers={TEACHER: answers})
            for split, answers in said.items()}  # fmt: skip
    ((_, _, scores, weights),) = rivals.sums(data, read, [TEACHER_SUM])
    return scores, weights


def fold(
    data: DatasetDict,
    seen: dict[str, rivals.Signals],
    profile: Profile,
    recipes: dict[str, dict] = RECIPES,
) -> tuple[Found, dict[str, Any]]:
    """nDCG@10 of each system by test query, and what validation says of each recipe, with its
    macro-F1 on the test pairs."""
    found: Found = {}
    told, keep = {}, partial(ranked, found, data["test"])
    keep(FREE, seen["test"].cosine)
    keep(START, warm_start(data, profile))
    keep(HEAD, new_head(data, profile))
    for name, _, scores, _ in rivals.sums(data, seen):
        keep(name, scores)
    for recipe, changed in recipes.items():
        own = replace(profile, **changed)
        # The warm-up is the book's, whatever layers are trained after it.
        warmed = replace(profile, warm_up_pairs=own.warm_up_pairs)
        folder = stages.teacher(data, own, checkpoint=stages.origin(data, warmed))
        answers = {split: judge.predict(folder, data[split], profile)
                   for split in ("validation", "test")}  # fmt: skip
        held, asked = (judge.evaluate(data[split], said) for split, said in answers.items())
        found[recipe] = {"ndcg@10": asked["ranking"]["per_query"]["ndcg@10"].to_dict()}
        scores, weights = with_teacher(data, seen, answers)
        keep(added(recipe), scores)
        told[recipe] = {
            "validation ndcg@10": held["ranking"]["ndcg@10"],
            "macro_f1": asked["classification"]["macro_f1"],
            "weights": weights,
            "looks": looks(folder),
        }
    best = max(told, key=lambda recipe: told[recipe]["validation ndcg@10"])
    found[CHOSEN], found[added(CHOSEN)] = found[best], found[added(best)]
    return found, told | {"chosen": best}


def folds(profile: Profile, name: str = "esci_150") -> Iterator[measure_untrained.Case]:
    """The case of each fold, with the unlabelled pairs mined for it. Where the data do not say
    which fold a query belongs to, they are drawn."""
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        parts, catalogue = measure_untrained.parts_of(name, profile, Path(scratch), 0, 0)
        if len(parts) == 1:
            parts = divided(parts[0], FOLDS)
        for data, _, seen in measure_untrained.folds(parts, catalogue, profile):
            yield mining.with_unlabelled(data, catalogue, profile), catalogue, seen


def over_folds(
    seed: int,
    judged: Callable[[measure_untrained.Case, Profile], tuple[dict[str, dict], Any]],
    name: str = "esci_150",
) -> dict:
    """All systems of a seed on the test queries of all folds of the data of this name.

    Of a fold `judged` gives, by system, columns of values by query, and what was chosen.
    """
    profile = Profile.named("book", seed=seed, max_length=TOKENS)
    systems: dict[str, dict[str, dict[str, float]]] = {}
    choices = []
    for number, case in enumerate(folds(profile, name)):
        found, told = judged(case, profile)
        choices.append(told)
        print(f"seed {seed}, fold {number}: {told}", flush=True)
        for system, columns in found.items():
            for of, values in columns.items():
                systems.setdefault(system, {}).setdefault(of, {}).update(
                    {f"{number}: {query}": value for query, value in values.items()}
                )
    return {
        "precision": runtime.precision(profile),
        "generator": None,
        "systems": systems,
        "choices": choices,
    }


def measured(seed: int, name: str = "esci_150") -> dict:
    """`over_folds`, of the recipes that are tried on these data."""

    def judged(case: measure_untrained.Case, profile: Profile) -> tuple[Found, Any]:
        data, _, seen = case
        return fold(data, seen, profile, TRIED[name])

    return over_folds(seed, judged, name)


def compared(recipes: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of systems whose difference is asked, where these recipes were tried."""
    drawn, spread = list(RECIPES)[:2], list(RECIPES)[3:]
    both = [pair for pair in zip(spread, drawn, strict=True) if set(pair) <= set(recipes)]
    return [
        *((recipe, FREE) for recipe in recipes),
        *((recipe, START) for recipe in recipes),
        (START, FREE),
        *((recipe, HEAD) for recipe in recipes if recipe in drawn),
        *both,
        *((recipe, BOOK) for recipe in recipes if BOOK in recipes and recipe != BOOK),
        (HEAD, START),
        *((recipe, "random") for recipe in (START, HEAD, *recipes)),
        (UNTRAINED_SUM, FREE),
        (CHOSEN, FREE),
        (added(CHOSEN), UNTRAINED_SUM),
        (added(CHOSEN), FREE),
    ]


def summary(parts: Sequence[dict], asked: Sequence[tuple[str, str]]) -> dict:
    """A row for each system, the differences that are asked, and what was chosen.

    Intervals are over queries, and from three seeds on over seeds too. Fewer leave out the luck of
    training, and that the queries of a fold are judged by the same models. Each interval is read by
    itself; the one that decides is the goal.
    """
    values = shared.by_query(parts, "ndcg@10")
    rows = {}
    for name in values:
        span = interval(values[[name]], lambda means, name=name: means[name])
        rows[name] = {
            "ndcg@10": span["value"],
            "ndcg@10 low": span["low"],
            "ndcg@10 high": span["high"],
        }
    differences = []
    for one, other in asked:
        span = interval(values[[one, other]], lambda m, a=one, b=other: m[a] - m[b])
        differences.append({"system": one, "against": other, **shared.difference(span)})
    return {
        "queries": len(values.index.unique("query_id")),
        "rows": rows,
        "comparisons": differences,
        "choices": {part["seed"]: part["choices"] for part in parts},
    }


def merged(
    name: str,
    asked: Sequence[tuple[str, str]],
    goals: Mapping[str, tuple[str, str]],
    folder: Path,
    out: Path,
    of: str = "",
) -> None:
    """Write the recorded result of a script from the files of single seeds. Each of its `goals`, by
    what it is called, is that one system ends above another. `of` is as in `shared.origin`."""
    parts = shared.read(folder, ("profile", "precision"))
    found = summary(parts, asked)
    told = shared.by_pair(found["comparisons"])
    report.write_recorded(
        out,
        **shared.origin(name, parts, of),
        data=found,
        goals=[shared.above(f"nDCG@10: {goal}", told[pair]) for goal, pair in goals.items()],
    )
    print(f"Wrote {out}.")


def merge(folder: Path, out: Path, data: str = "esci_150") -> None:
    """Write the recorded result from the files of single seeds."""
    goal = "the teacher chosen on validation, added to what is free, minus the bi-encoder"
    asked, goals = compared(list(TRIED[data])), {goal: (added(CHOSEN), FREE)}
    merged("whole_lists", asked, goals, folder, out, "" if data == "esci_150" else data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Teachers on whole lists of few judged queries.")
    arguments = shared.arguments_of(parser, "whole_lists", scaled=False, data=list(TRIED))
    measure, join = partial(measured, name=arguments.data), partial(merge, data=arguments.data)
    shared.run(shared.resumed(arguments), measure, join)


if __name__ == "__main__":
    main()
