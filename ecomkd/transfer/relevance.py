"""Models of relevance in another shop, whose titles and labels are of another style. Chapter 13."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from ecomkd.extras import needed

with needed("ecomkd.transfer.relevance", "run"):
    import torch

from ecomkd import distill, metrics, models
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.contract import GAINS, gains_of
from ecomkd.data.sources import apart_from_the_data
from ecomkd.keys import batches, digests, identity, settings_of
from ecomkd.relevance import judge, stages


def terse(title: str) -> str:
    """The title in another shop's shorthand.

    Its words stand in reverse order, and those of five letters and more lose the vowels inside.
    """
    return " ".join(
        word[0] + re.sub("[aeiou]", "", word[1:-1]) + word[-1] if len(word) > 4 else word
        for word in reversed(title.lower().split())
    )


def restyled(data: DatasetDict) -> DatasetDict:
    """The pairs of a simulated shop as another shop would show and rate them.

    Titles are `terse`, further texts are empty, and labels are grades: E is 3, S is 2, C is 1 and I
    is 0. Queries stay, since people type the same words everywhere.
    """
    grades = ClassLabel(names=[str(grade) for grade in range(len(GAINS))])
    texts = ("product_description", "product_bullet_point", "product_brand", "product_color")

    def other(row: dict) -> dict:
        told = dict.fromkeys(texts, "") | {"product_title": terse(row["product_title"])}
        return told | {"label": row["label"] if row["label"] < 0 else len(GAINS) - 1 - row["label"]}

    with apart_from_the_data():
        return DatasetDict(
            {
                split: pairs.map(other, desc="Style").cast_column("label", grades)
                for split, pairs in data.items()
            }
        )


def first_queries(pairs: Dataset, queries: int) -> Dataset:
    """The pairs of the first so many `queries` that have a relevant and a less relevant product."""
    gains = np.asarray(list(judge.gains(pairs).values()))[pairs["label"]]
    frame = pd.DataFrame({"query": pairs["query_id"], "gain": gains})
    spread = frame.groupby("query", sort=False)["gain"].agg(["max", "nunique"])
    kept = spread.index[(spread["max"] > 0) & (spread["nunique"] > 1)][:queries]
    return pairs.select(np.flatnonzero(frame["query"].isin(kept)))


def few_queries(data: DatasetDict, queries: int) -> DatasetDict:
    """The data set with the training pairs of `queries` queries and no more.

    Half as many queries, and one at least, stay for validation; fewer where no more have a relevant
    and a less relevant product.
    """
    kept = {"train": queries, "validation": max(1, queries // 2)}
    return DatasetDict(
        {**data, **{split: first_queries(data[split], size) for split, size in kept.items()}}
    )


def scores(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """The expected gain of each of N pairs, (N,), by a saved cross-encoder.

    Gains are those of the classes that the model itself has learnt, whatever classes the pairs
    have.
    """
    model = models.load(folder)
    tokenizer = models.load_tokenizer(str(folder))
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    found = judge.softmax(distill.predict(model, encoded, tokenizer, profile))
    return metrics.expected_gain(found, own_gains(model))


def own_gains(model: torch.nn.Module) -> list[float]:
    """The gain of each class of a cross-encoder, as `contract.gains_of` has it."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return list(gains_of(names).values())


def flip_head(folder: Path, profile: Profile) -> Path:
    """The folder of the same cross-encoder with the classes of its head in the opposite order.

    ESCI's classes begin with the best one, grades with the worst. A head of four classes fits four
    other classes in shape, so that it loads without a warning and says the opposite.
    """

    def make(into: Path) -> None:
        model = models.load(folder)
        last = models.head(model)
        with torch.no_grad():
            for weight in (last.weight, last.bias):
                weight.copy_(weight.flip(0))
        model.save_pretrained(into)
        models.load_tokenizer(str(folder)).save_pretrained(into)

    parts = [identity(folder)]
    return stage("flipped_head", parts, make, profile.artifacts, recipe=1)


def fine_tune(
    data: DatasetDict, profile: Profile, begin: Path, steps: int, turn: bool = False
) -> Path:
    """The folder of a teacher that begins as another one and learns from `data`.

    It takes as many passes over the training pairs as make `steps` steps or more. With `turn`, it
    begins with the head of the other one turned round (`flip_head`). Raises ValueError without any.
    """
    if not len(data["train"]):
        raise ValueError(
            "fine_tune: there are no training pairs; give queries with a relevant and a less "
            "relevant product."
        )
    begin = flip_head(begin, profile) if turn else begin
    passes = -(-steps // batches(len(data["train"]), profile))
    settings = replace(profile, teacher_epochs=max(1, passes))
    return stages.teacher(data, settings, checkpoint=begin)


def teacher_odds(pairs: Dataset, teacher: Path, profile: Profile, tokenizer: Any = None) -> Dataset:
    """The encoded pairs with `teacher_logits` (N, 2), on a scale that all teachers share.

    The pairs are in the tokens of `tokenizer`, by default the teacher's own. The log-odds of the
    expected gain, in standard deviations z from the mean of these pairs, become two classes with
    the odds e^(2z). This takes away how high and how far apart a shop's labels lie, and keeps how
    its teacher orders products. Raises ValueError for a teacher that tells no pair from another.
    """
    gain = scores(teacher, pairs, profile).clip(0.001, 0.999)
    odds = np.log(gain / (1 - gain))
    if np.ptp(odds) < 1e-6:
        raise ValueError(
            f"{teacher}: this teacher gives all {len(odds)} pairs the same score, and has no order "
            "to teach: train it on more labels."
        )
    z = (odds - odds.mean()) / odds.std()
    tokenizer = tokenizer or models.load_tokenizer(str(teacher))
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    unlabelled = encoded.remove_columns("labels").add_column("labels", [-100] * len(encoded))
    return unlabelled.add_column("teacher_logits", [[0.0, 2 * value] for value in z.tolist()])


def joint_student(
    taught: Sequence[tuple[Dataset, Path]], begin: Path, profile: Profile, steps: int
) -> Path:
    """The folder of a student of one or several teachers, each with pairs of its own shop.

    The student begins with layers of `begin`, a model of two classes, and learns the `teacher_odds`
    of each teacher (several teachers of one student: You et al. 2017). One pair in ten is held out,
    to choose the checkpoint that agrees best with the teachers.

    Args:
        taught: for each teacher, pairs and the folder of the teacher that scores them.
        steps: how many steps of training the student takes.
    """

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(str(begin))
        parts = [teacher_odds(pairs, teacher, profile, tokenizer) for pairs, teacher in taught]
        held = [part.select(range(9, len(part), 10)) for part in parts]
        kept = [part.select([i for i in range(len(part)) if i % 10 < 9]) for part in parts]
        wanted = [np.asarray(part["teacher_logits"])[:, 1] for part in held]
        ends = np.cumsum([len(part) for part in held])[:-1]

        def agreement(logits: np.ndarray) -> dict[str, float]:
            found = np.split(logits[:, 1] - logits[:, 0], ends)
            own = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)]
            return {"quality": float(np.mean(np.nan_to_num(own)))}

        student = models.build_student(models.load(begin, 2), profile.student_layers)
        models.freeze(student, None if profile.frozen_layers is None else 0)
        models.set_dropout(student, profile.student_dropout)
        distill.fit(
            student,
            concatenate_datasets(kept),
            concatenate_datasets(held),
            tokenizer,
            profile,
            folder,
            steps=steps,
            learning_rate=profile.student_learning_rate,
            quality=agreement,
            temperature=profile.temperature,
        )

    parts = [
        [[digests(pairs), identity(teacher)] for pairs, teacher in taught],
        identity(begin),
        steps,
        settings_of(profile, "student_layers", "student_learning_rate", "frozen_layers"),
        [profile.student_dropout, profile.temperature],
    ]
    return stage("joint_student", parts, make, profile.artifacts, recipe=1)
