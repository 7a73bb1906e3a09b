"""The stages from a data set to a student, each made once and kept. Chapters 2 to 4."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from ecomkd.extras import needed

with needed("ecomkd.relevance.stages", "run"):
    from transformers import AutoConfig, PreTrainedModel

from ecomkd import checkpoints, distill, features, keys, models
from ecomkd.artifacts import stage
from ecomkd.config import Profile
from ecomkd.data.sources import apart_from_the_data
from ecomkd.relevance import judge

ROWS = ("none", "kd", "kd_unlabelled", "hard", "kd_hidden")
"""How a student learns. `none`: from labels alone. `kd`: also from the teacher's outputs on the
labelled pairs. `kd_unlabelled`: also from its outputs on pairs without a label. `hard`: from labels
and, on the pairs without one, from the teacher's most probable class. `kd_hidden`: `kd_unlabelled`
and the teacher's last hidden state."""

Outputs = Callable[[Dataset, Path, Profile, Path], Dataset]
"""From pairs as `load` gives them, a teacher's folder, a profile and a folder for unfinished work,
to the ids of the pairs and `teacher_logits`, which may be off by a constant for each pair."""

TAUGHT_BY = (
    "teacher", "teacher_epochs", "teacher_learning_rate", "frozen_layers", "teacher_dropout",
)  # fmt: skip
"""Settings of a profile that decide what a teacher becomes; `spread_head` does where it is on."""

WARM_UP_LEAST = 10
"""Fewer unlabelled pairs make no warm-up, of which one in ten is held out."""


def warm_up(data: DatasetDict, profile: Profile) -> Path:
    """The folder of a cross-encoder that was taught to compare as the pretrained bi-encoder does.

    It learns from `profile.warm_up_pairs` pairs of `data["unlabelled"]`, without a label: its two
    classes are to have the odds e^(2z), where z is the pair's cosine under the bi-encoder, in
    standard deviations from the mean. The bi-encoder is the teacher's own checkpoint where that is
    one of the optional sentence encoders, and `minilm` elsewhere. One pair in ten is held out to
    choose the checkpoint.

    Raises ValueError for fewer than WARM_UP_LEAST pairs.
    """
    pairs = first_pairs(data["unlabelled"], profile.warm_up_pairs)
    if len(pairs) < WARM_UP_LEAST:
        raise ValueError(
            f"warm_up: {len(pairs)} unlabelled pairs: give at least {WARM_UP_LEAST}, or set "
            "warm_up_pairs=0."
        )

    def make(folder: Path) -> None:
        own = {"name": profile.teacher} if profile.teacher in checkpoints.OPTIONAL else {}
        cosine = features.bi_encoder_scores(pairs, profile, **own)
        odds = _odds(cosine)
        tokenizer = models.load_tokenizer(profile.teacher)
        encoded = distill.encode(pairs, tokenizer, profile.max_length)
        encoded = encoded.add_column("teacher_logits", [[0.0, value] for value in odds.tolist()])
        held_out = range(len(pairs) - max(2, len(pairs) // 10), len(pairs))

        def agreement(logits: np.ndarray) -> dict[str, float]:
            with np.errstate(invalid="ignore"):  # where one of the two never changes
                found = np.corrcoef(logits[:, 1] - logits[:, 0], odds[held_out])[0, 1]
            return {"quality": float(np.nan_to_num(found))}

        model = models.build_teacher(profile.teacher, models.WARMED, profile.seed)
        models.freeze(model, profile.frozen_layers)
        models.set_dropout(model, profile.student_dropout)
        distill.fit(
            model,
            encoded.select(range(held_out.start)),
            encoded.select(held_out),
            tokenizer,
            profile,
            folder,
            steps=keys.batches(held_out.start, profile),
            learning_rate=profile.student_learning_rate,
            quality=agreement,
            evaluations=2,
        )

    parts = [
        keys.digests(pairs),
        keys.settings_of(
            profile, "teacher", "student_learning_rate", "frozen_layers", "student_dropout"
        ),
    ]
    return stage("warmed", parts, make, profile.artifacts, recipe=1)


def _odds(cosine: np.ndarray) -> np.ndarray:
    """The logarithm of the odds that the warm-up teaches, (N,)."""
    if np.ptp(cosine) < 1e-6:
        warnings.warn(
            f"All {len(cosine)} pairs of the warm-up are equally alike, and it teaches nothing: "
            "give pairs of different texts, or set warm_up_pairs=0.",
            stacklevel=2,
        )
        return np.zeros(len(cosine))
    return 2 * (cosine - cosine.mean()) / cosine.std()


def origin(data: DatasetDict, profile: Profile) -> str:
    """Where fine-tuning starts: the folder of `warm_up`, or the pretrained checkpoint itself.

    It is the checkpoint where the profile or the data have no pairs for a warm-up, and, with a
    warning, where there are fewer than WARM_UP_LEAST.
    """
    if not profile.warm_up_pairs or "unlabelled" not in data:
        return profile.teacher
    pairs = min(profile.warm_up_pairs, len(data["unlabelled"]))
    if pairs < WARM_UP_LEAST:
        warnings.warn(
            f"The warm-up is left out: it needs {WARM_UP_LEAST} unlabelled pairs, and {pairs} are "
            "there.",
            stacklevel=2,
        )
        return profile.teacher
    return str(warm_up(data, profile))


def teacher(
    data: DatasetDict,
    profile: Profile,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
) -> Path:
    """The folder of the teacher, a cross-encoder fine-tuned on `data["train"]`.

    It starts from `origin`, or from `checkpoint`, a name or a folder such as that of
    `domain_adapted`. Its embeddings and its `profile.frozen_layers` lowest layers stay as they are.

    With `pretrained=False` the same architecture starts from random weights, all of them trained.
    Raises ValueError where that meets a `checkpoint`, and ModelError where the profile wants a
    `spread_head` and there is no warm-up to take it from.
    """
    if checkpoint is not None and not pretrained:
        raise ValueError(
            "teacher: pretrained=False starts from random weights: leave the checkpoint out."
        )
    labels = data["train"].features["label"].names
    spread = pretrained and profile.spread_head
    start, known_as = profile.teacher, keys.known_as(profile.teacher)
    if pretrained:
        start, known_as = starting_point(data, profile, checkpoint)

    def make(folder: Path) -> None:
        if pretrained:
            worth = tuple(judge.gains(data["train"]).values()) if spread else None
            model = models.build_teacher(start, labels, profile.seed, worth)
            models.freeze(model, profile.frozen_layers)
        else:
            model = models.build_untrained(start, labels, profile.seed)
        tokenizer = models.load_tokenizer(start if checkpoint else profile.teacher)
        fine_tune(model, data, tokenizer, profile, folder, profile.teacher_learning_rate)

    split_digests = keys.digests(data["train"], data["validation"])
    parts = [split_digests, keys.settings_of(profile, *TAUGHT_BY), pretrained, known_as]
    if spread:
        parts.append("spread_head")
    return stage("teacher", parts, make, profile.artifacts, recipe=1)


def first_pairs(pairs: Dataset, count: int | None) -> Dataset:
    """The first `count` pairs, or all of them."""
    return pairs if count is None else pairs.select(range(min(count, len(pairs))))


def starting_point(
    data: DatasetDict, profile: Profile, checkpoint: str | Path | None = None
) -> tuple[str, str | list[list[str]]]:
    """Where training starts, and what stands for it in a key: of a given folder, its content."""
    if checkpoint is not None:
        return str(checkpoint), keys.known_as(checkpoint)
    start = origin(data, profile)
    return start, keys.known_as(start)


def fine_tune(
    model: PreTrainedModel,
    data: DatasetDict,
    tokenizer: Any,
    profile: Profile,
    folder: Path,
    learning_rate: float,
) -> None:
    """Train a teacher on labelled pairs, with the profile's dropout and epochs, into `folder`."""
    models.set_dropout(model, profile.teacher_dropout)
    pairs = distill.encode(data["train"], tokenizer, profile.max_length)
    distill.fit(
        model,
        pairs,
        distill.encode(data["validation"], tokenizer, profile.max_length),
        tokenizer,
        profile,
        folder,
        steps=profile.teacher_epochs * keys.batches(len(pairs), profile),
        learning_rate=learning_rate,
        quality=partial(judge.quality, data["validation"]),
        alpha=0.0,
    )


def teacher_pairs(
    data: DatasetDict,
    profile: Profile,
    teacher_folder: Path,
    split: str,
    pairs: int | None = None,
    hidden_states: tuple[int, ...] = (),
    outputs_of: Outputs | None = None,
) -> Dataset:
    """The encoded pairs of a split (the first `pairs` of them) with the teacher's outputs.

    `outputs_of` computes logits without hidden states. Who computes them changes no key.
    """
    rows = first_pairs(data[split], pairs)

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(str(teacher_folder))
        encoded = distill.encode(rows, tokenizer, profile.max_length)
        scratch = folder / "scratch"
        if outputs_of is not None and not hidden_states:
            found = outputs_of(rows, teacher_folder, profile, scratch)
            taught = distill.with_teacher(encoded, found)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            taught = distill.teacher_outputs(
                encoded, models.load(teacher_folder), tokenizer, profile, hidden_states, scratch
            )
        taught.save_to_disk(str(folder / "pairs"))
        del taught  # Windows deletes no file that is still read.
        shutil.rmtree(scratch)

    parts = [
        keys.identity(teacher_folder),
        keys.digests(rows),
        keys.settings_of(profile),
        list(hidden_states),
    ]
    folder = stage("teacher_outputs", parts, make, profile.artifacts, recipe=1)
    return load_from_disk(str(folder / "pairs"))


def student(
    data: DatasetDict,
    profile: Profile,
    row: str = "kd_unlabelled",
    *,
    teacher_folder: Path | None = None,
    teacher_profile: Profile | None = None,
    unlabelled: int | Dataset | None = None,
    steps: int | None = None,
    outputs_of: Outputs | None = None,
) -> Path:
    """The folder of a student trained as `row` says (see `ROWS`).

    Every row starts from the same weights and takes the same number of steps: `student_epochs`
    passes over the labelled pairs and those without a label, unless `steps` gives a number. The
    latter are the `unlabelled` first of `data["unlabelled"]` (all of them by default), or, where
    `unlabelled` is a data set, its pairs.

    The teacher in `teacher_folder` may be of another architecture than `profile.teacher`, from
    which the student starts, such as `mpnet` over `minilm`: then each reads the pairs in its own
    tokens. `teacher_profile` is how the teacher reads them, with its length and its batches, which
    is the student's profile by default; its outputs are then the same for all seeds of a student.
    `outputs_of` computes them where they are not there yet, but not those of `kd_hidden`.

    Raises ValueError for an unknown row, and for `kd_hidden` where the two read other tokens.
    """
    if row not in ROWS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(ROWS)}.")
    if teacher_folder is None:
        teacher_folder = teacher(data, profile)
    extended = data
    if isinstance(unlabelled, Dataset):
        extended, unlabelled = DatasetDict({**data, "unlabelled": unlabelled}), None
    available = len(extended["unlabelled"]) if "unlabelled" in extended else 0
    unlabelled = available if unlabelled is None else min(unlabelled, available)
    if steps is None:
        steps = profile.student_epochs * keys.batches(len(data["train"]) + unlabelled, profile)
    used = unlabelled if row in ("kd_unlabelled", "hard", "kd_hidden") else 0

    def make(folder: Path) -> None:
        learner = start(data, profile, teacher_folder)
        tokenizer, other = _tokenizer(profile, teacher_folder)
        pairs, options = _learnt_from(
            extended,
            profile,
            teacher_folder,
            teacher_profile or profile,
            row,
            used,
            learner,
            tokenizer if other or teacher_profile else None,
            outputs_of,
        )
        distill.fit(
            learner,
            pairs,
            distill.encode(data["validation"], tokenizer, profile.max_length),
            tokenizer,
            profile,
            folder,
            steps=steps,
            learning_rate=profile.student_learning_rate,
            quality=partial(judge.quality, data["validation"]),
            **options,
        )

    # The row that no teacher touches is the same whoever the teacher is.
    touched = row != "none" or profile.student_start == "teacher"
    warm = profile.student_start == "warmed"
    parts = [
        row,
        keys.identity(teacher_folder) if touched else None,
        starting_point(data, profile)[1] if warm else None,
        steps,
        keys.digests(data["train"], data["validation"]),
        keys.digests(extended["unlabelled"].select(range(used))) if used else None,
        keys.settings_of(
            profile,
            "teacher",
            "student_layers",
            "student_width",
            "student_start",
            "student_learning_rate",
            "frozen_layers",
            "student_dropout",
            "alpha",
            "temperature",
        ),
    ]
    if touched and teacher_profile is not None:
        parts.append(keys.settings_of(teacher_profile))
    return stage("student", parts, make, profile.artifacts, recipe=1)


def _tokenizer(profile: Profile, teacher_folder: Path) -> tuple[Any, bool]:
    """The student's tokenizer, and whether it cuts texts otherwise than its teacher's."""
    teachers = models.load_tokenizer(str(teacher_folder))
    if profile.student_start == "teacher":
        return teachers, False
    own = models.load_tokenizer(profile.teacher)
    other = _way_of_cutting(own) != _way_of_cutting(teachers)
    return (own if other else teachers), other


def _way_of_cutting(tokenizer: Any) -> dict:
    """What a fast tokenizer does with a text, without how the last batch was cut and padded."""
    known = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in known.items() if name not in ("truncation", "padding")}


def start(data: DatasetDict, profile: Profile, teacher_folder: Path) -> PreTrainedModel:
    """What every row of a profile starts from: its weights, and which of them train."""
    labels = data["train"].features["label"].names
    if profile.student_start == "teacher":
        source = models.load(teacher_folder)
    elif profile.student_start == "warmed":
        source = models.build_teacher(origin(data, profile), labels, profile.seed)
    elif profile.student_start == "checkpoint":
        source = models.build_teacher(profile.teacher, labels, profile.seed)
    else:
        raise ValueError(
            f"student_start={profile.student_start!r}: choose 'checkpoint', 'warmed' or 'teacher'."
        )
    head = None if profile.student_start == "teacher" else profile.seed
    if profile.student_width is not None:
        learner = models.build_narrow_student(
            source, profile.student_width, len(profile.student_layers), profile.seed
        )
    else:
        learner = models.build_student(source, profile.student_layers, head)
        # A narrow student's embeddings are new and must learn; these are the teacher's.
        models.freeze(learner, None if profile.frozen_layers is None else 0)
    models.set_dropout(learner, profile.student_dropout)
    return learner


def training_log(folder: Path) -> pd.DataFrame:
    """The log of a training run: step, loss, learning rate, and quality where it was measured."""
    return pd.DataFrame(json.loads((folder / "training.json").read_text(encoding="utf-8")))


def _learnt_from(
    data: DatasetDict,
    profile: Profile,
    teacher_folder: Path,
    teacher_profile: Profile,
    row: str,
    unlabelled: int,
    learner: PreTrainedModel,
    tokenizer: Any | None,
    outputs_of: Outputs | None,
) -> tuple[Dataset, Mapping]:
    """What a student learns from, and how: in the teacher's tokens, or those of a `tokenizer`."""
    shape = AutoConfig.from_pretrained(str(teacher_folder))
    depth = shape.num_hidden_layers
    hidden = (depth,) if row == "kd_hidden" else ()
    if hidden and tokenizer is not None:
        raise ValueError(
            "student: kd_hidden compares states token by token, and this student reads the pairs "
            "in other tokens than its teacher, or to another length: choose another row."
        )

    def taught(split: str, pairs: int | None = None) -> Dataset:
        own = teacher_pairs(data, teacher_profile, teacher_folder, split, pairs, hidden, outputs_of)
        if tokenizer is None:
            return own
        rows = first_pairs(data[split], pairs)
        return distill.with_teacher(distill.encode(rows, tokenizer, profile.max_length), own)

    parts = [taught("train")]
    if unlabelled:
        extra = taught("unlabelled", pairs=unlabelled)
        if row == "hard":
            best = np.asarray(extra["teacher_logits"]).argmax(axis=1).tolist()
            other = extra.remove_columns("labels").add_column("labels", best)
            with apart_from_the_data():
                extra = other.cast(parts[0].features.copy())
        parts.append(extra)
    pairs = concatenate_datasets([part.select_columns(parts[0].column_names) for part in parts])
    if row in ("none", "hard"):
        return pairs.remove_columns("teacher_logits"), {"alpha": 0.0}
    options: dict[str, Any] = {"alpha": profile.alpha, "temperature": profile.temperature}
    if hidden:
        options["hidden_map"] = {learner.config.num_hidden_layers: depth}
        options["teacher_width"] = shape.hidden_size
    return pairs, options


warmed = warm_up  # the former name, which chapters 2 and 13 use
