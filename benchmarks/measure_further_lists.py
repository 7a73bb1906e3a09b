"""Further ways to fine-tune on whole candidate lists of few judged queries.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_further_lists.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_further_lists.py --merge

needs ECOMKD_REAL_DATA with `esci_150`, whose queries are each tested once, in five folds, and with
`msrd`, and the package `peft`. In `measure_whole_lists` no recipe is shown to beat what nobody
trained. The one with the highest mean there, all layers gently under a spread head, is what these
are held against; the test queries had been seen when it was taken. The further ways were named
before anything was measured with them: a low-rank correction of the attention, with pooler and head
trained whole, at ten times the rate and all else left still; the spread head alone for three
passes, and from there three passes of the same; rankings trained as rankings, a query a step, under
the warm-up's own head; these after the rankings of 400 film queries; and the mean of what all five
say. Beside them stands the network that has seen the film queries alone. Folds, pairs and tokens
are as in `measure_whole_lists`. Within a run validation chooses the look: by the mean of macro-F1
and nDCG@10 for networks of classes, by nDCG@10 alone for rankings, and on film queries for the
training on films. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict

import measure_untrained
import measure_whole_lists
import shared
from ecomkd import distill, keys, metrics, models, trainer
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.relevance import adapt, judge, rivals, stages
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_whole_lists import (
    CHOSEN,
    FREE,
    GENTLE,
    START,
    Found,
    added,
    ranked,
    warm_start,
    with_teacher,
)

SPREAD = GENTLE | {"spread_head": True}
ONCE = "all layers, gently, head spread"
LOW_RANK = "a low-rank correction, head spread"
HEAD_FIRST = "the head first, then all layers gently"
LISTS = "all layers gently, rankings as rankings"
FILMS_FIRST = "film queries first, then these, rankings as rankings"
FILMS = "film queries alone, rankings as rankings"
TOGETHER = "the mean of the five recipes' answers"
LOW_RANK_RATE, HEAD_RATE = 10 * GENTLE["teacher_learning_rate"], 1e-3
FILM_QUERIES = 400
SPLITS = ("validation", "test")

Answers = dict[str, np.ndarray]
"""By split, the class probabilities (N, C) of its pairs."""


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of one query, from u and the gains of its D products, both (D,). u is the logit of *alike* minus
that of *apart*."""


def as_a_ranking(u: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """L = −Σ_d g_d / Σ g · log softmax(u)_d (Bruch et al. 2019,
    https://doi.org/10.1145/3341981.3344221)."""
    return -(gains / gains.sum() * u.log_softmax(0)).sum()


class ListTrainer(trainer.MeasuredTrainer):
    """Trains on all products of a query at a time."""

    def __init__(
        self, model: Any, loss: Loss, measure: Callable[[Any], dict[str, float]], **options: Any
    ):
        super().__init__(model, **options)
        self._loss, self._measure = loss, measure

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        gains = inputs.pop("gains")
        apart, alike = model(**inputs).logits.float().T
        return self._loss(alike - apart, gains)

    def measure(self, dataset):
        return self._measure(self.model)


def alike(model: Any, encoded: Dataset, tokenizer: Any, profile: Profile) -> np.ndarray:
    """u of each encoded pair, (N,)."""
    apart, alike = distill.predict(model, encoded, tokenizer, profile).T
    return alike - apart


def lists(
    data: DatasetDict,
    profile: Profile,
    start: str,
    loss: Loss = as_a_ranking,
    name: str = "lists",
) -> Path:
    """The folder of a network that has learnt from `data["train"]`, a query a step, for as many
    passes and at the rate that a teacher has. Queries without a product of any worth are left out.
    A stage of this `name`, which says the loss."""

    def make(folder: Path) -> None:
        train, held = data["train"], data["validation"]
        model, tokenizer = models.load(Path(start)), models.load_tokenizer(start)
        models.set_dropout(model, profile.teacher_dropout)
        worth = np.array(list(judge.gains(train).values()), np.float32)[np.asarray(train["label"])]
        rows = worthy(train, worth)
        encoded = distill.encode(train, tokenizer, profile.max_length).remove_columns("labels")
        asked = distill.encode(held, tokenizer, profile.max_length)
        pad = distill.PairCollator(tokenizer)

        def batch(queries: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
            (own,) = queries
            return pad(encoded.select(own).to_list()) | {"gains": torch.from_numpy(worth[own])}

        def quality(model: Any) -> dict[str, float]:
            frame = judge.frame(held, alike(model, asked, tokenizer, profile))
            found = metrics.ranking(frame, judge.gains(held))["ndcg@10"]
            return {"ndcg@10": found, "quality": found}

        one = replace(profile, batch_size=1)
        run = ListTrainer(
            model,
            loss,
            quality,
            args=trainer.arguments(
                one,
                folder,
                profile.teacher_epochs * len(rows),
                profile.teacher_learning_rate,
                metric_for_best_model="quality",
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tokenizer,
            data_collator=batch,
        )
        trainer.run_to_end(run, folder)

    return stage(name, known_by(data, profile, start), make, profile.artifacts, recipe=1)


def known_by(data: DatasetDict, profile: Profile, start: str) -> list:
    """What decides the network of each recipe, but for the recipe itself."""
    return [
        keys.digests(data["train"], data["validation"]),
        keys.settings_of(profile, *stages.TAUGHT_BY),
        keys.known_as(start),
    ]


def worthy(pairs: Dataset, worth: np.ndarray) -> list[np.ndarray]:
    """The rows of each query that has a product of some worth."""
    queries = np.asarray(pairs["query_id"])
    rows = [np.flatnonzero(queries == query) for query in dict.fromkeys(queries)]
    return [own for own in rows if worth[own].any()]


def low_rank(data: DatasetDict, profile: Profile, start: str) -> Path:
    """The folder of a teacher of which a low-rank correction of the attention was trained, and the
    pooler and the spread head whole, all at LOW_RANK_RATE."""

    def train(model: Any, tokenizer: Any, folder: Path) -> None:
        corrected = models.build_low_rank(model, seed=profile.seed)
        adapt.train_corrected(corrected, data, tokenizer, profile, folder, LOW_RANK_RATE)

    return in_turn("low_rank_lists", data, profile, start, train, LOW_RANK_RATE)


def head_first(data: DatasetDict, profile: Profile, start: str) -> Path:
    """The folder of a teacher whose spread head was trained alone, and then all of it."""

    def train(model: Any, tokenizer: Any, folder: Path) -> None:
        model.base_model.requires_grad_(False)
        stages.fine_tune(model, data, tokenizer, profile, folder / "head", HEAD_RATE)
        model.requires_grad_(True)
        stages.fine_tune(model, data, tokenizer, profile, folder, profile.teacher_learning_rate)
        shutil.rmtree(folder / "head")

    return in_turn("head_first", data, profile, start, train, HEAD_RATE)


def in_turn(
    name: str,
    data: DatasetDict,
    profile: Profile,
    start: str,
    train: Callable[[Any, Any, Path], None],
    rate: float,
) -> Path:
    """A stage of this name, which trains the warmed-up network under a spread head."""

    def make(folder: Path) -> None:
        classes = data["train"].features["label"].names
        worth = tuple(judge.gains(data["train"]).values())
        model = models.build_teacher(start, classes, profile.seed, worth)
        train(model, models.load_tokenizer(start), folder)

    parts = [*known_by(data, profile, start), rate]
    return stage(name, parts, make, profile.artifacts, recipe=1)


@cache
def film_queries(profile: Profile) -> DatasetDict:
    """The judged pairs of the film queries; they are the same in each fold."""
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        (films,), _ = measure_untrained.parts_of("msrd", profile, Path(scratch), FILM_QUERIES, 0)
    return films


def u_of(folder: Path, data: DatasetDict, profile: Profile) -> dict[str, np.ndarray]:
    """u of each pair of validation and test, (N,), by the network of a folder."""
    model, tokenizer = models.load(folder), models.load_tokenizer(str(folder))
    encoded = {
        split: distill.encode(data[split], tokenizer, profile.max_length) for split in SPLITS
    }
    return {split: alike(model, own, tokenizer, profile) for split, own in encoded.items()}


def of_rankings(folder: Path, data: DatasetDict, profile: Profile) -> Answers:
    """What a network of rankings says, as if its head were spread: p_c ~ e^(g_c u), whose expected
    gain keeps the order of u. The loss leaves the level of u within a query open, so u is taken
    from the query's mean."""
    worth, answers = np.array(list(judge.gains(data["train"]).values())), {}
    for split, level in u_of(folder, data, profile).items():
        u = pd.Series(level)
        u -= u.groupby(np.asarray(data[split]["query_id"])).transform("mean")
        answers[split] = judge.softmax(u.to_numpy()[:, None] * worth)
    return answers


def recipe(name: str, data: DatasetDict, profile: Profile) -> tuple[Answers, Path]:
    """What the network of a recipe says, and its folder."""
    gentle, start = replace(profile, **SPREAD), str(stages.origin(data, profile))
    if name in OF_CLASSES:
        if name == ONCE:
            folder = stages.teacher(data, gentle, checkpoint=start)
        else:
            folder = {LOW_RANK: low_rank, HEAD_FIRST: head_first}[name](data, gentle, start)
        return {split: judge.predict(folder, data[split], profile) for split in SPLITS}, folder
    if name != LISTS:
        start = str(lists(film_queries(gentle), gentle, start))
    folder = Path(start) if name == FILMS else lists(data, gentle, start)
    return of_rankings(folder, data, profile), folder


def looks(folder: Path) -> list[dict[str, float]]:
    """nDCG@10 at each look on a training's own validation queries, which are film queries where it
    learnt from these, and the quality that chose among them; of two trainings those of the last."""
    seen = stages.training_log(folder).dropna(subset="eval_quality")
    names = {"eval_ndcg@10": "ndcg@10", "eval_quality": "quality"}
    return seen[list(names)].rename(columns=names).to_dict("records")


OF_CLASSES = (ONCE, LOW_RANK, HEAD_FIRST)
RECIPES = (*OF_CLASSES, LISTS, FILMS_FIRST)
SYSTEMS = (*RECIPES, TOGETHER, FILMS)
COMPARED = (
    *((name, FREE) for name in SYSTEMS),
    *((name, START) for name in SYSTEMS),
    *((name, ONCE) for name in SYSTEMS[1:]),
    (FILMS_FIRST, LISTS),
    (FILMS_FIRST, FILMS),
    *((name, "random") for name in SYSTEMS),
    (CHOSEN, FREE),
    (added(CHOSEN), UNTRAINED_SUM),
    (added(CHOSEN), FREE),
)


def fold(case: measure_untrained.Case, profile: Profile) -> tuple[Found, dict[str, Any]]:
    """By system, nDCG@10 by test query with its chance, and what validation says of each recipe,
    with the macro-F1 on the test pairs of those that have classes."""
    data, _, seen = case
    found: Found = {}
    told, keep = {}, partial(ranked, found, data["test"])
    keep(FREE, seen["test"].cosine)
    keep(START, warm_start(data, profile))
    ((_, _, scores, _),) = rivals.sums(data, seen, [UNTRAINED_SUM])
    keep(UNTRAINED_SUM, scores)
    made = {name: recipe(name, data, profile) for name in (*RECIPES, FILMS)}
    every = {split: np.mean([made[name][0][split] for name in RECIPES], axis=0) for split in SPLITS}
    for name in SYSTEMS:
        said = every if name == TOGETHER else made[name][0]
        held, asked = (judge.evaluate(data[split], said[split]) for split in SPLITS)
        keep(name, metrics.expected_gain(said["test"], judge.gains(data["test"])))
        scores, weights = with_teacher(data, seen, said)
        keep(added(name), scores)
        told[name] = {"validation ndcg@10": held["ranking"]["ndcg@10"], "weights": weights}
        if name in OF_CLASSES:
            told[name]["macro_f1"] = asked["classification"]["macro_f1"]
        if name in made:
            told[name]["looks"] = looks(made[name][1])
    best = max(told, key=lambda name: told[name]["validation ndcg@10"])
    found[CHOSEN], found[added(CHOSEN)] = found[best], found[added(best)]
    return found, told | {"chosen": best}


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, fold)


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    chosen = "the teacher chosen on validation, added to what is free, minus"
    goals = {
        f"{chosen} the bi-encoder": (added(CHOSEN), FREE),
        f"{chosen} the sum without it": (added(CHOSEN), UNTRAINED_SUM),
    }
    measure_whole_lists.merged("further_lists", COMPARED, goals, folder, out)


if __name__ == "__main__":
    shared.main("further_lists", "Further ways to fine-tune on whole lists.", measured, merge)
