"""The stages from a data set to an evaluated student, each made once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
import transformers
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from transformers import AutoConfig

from ecomkd import baselines, distill, losses, metrics, mining, models
from ecomkd.artifacts import data_digest, digest, file_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import GAINS, GRADE_GAINS, TEXT
from ecomkd.data.sources import product_text

ROWS = ("none", "kd", "kd_unlabelled", "hard", "kd_hidden")
"""How a student learns. `none`: from labels alone. `kd`: also from the teacher's outputs on the
labelled pairs. `kd_unlabelled`: also from its outputs on pairs without a label. `hard`: from labels
and, on the pairs without one, from the teacher's most probable class. `kd_hidden`: `kd_unlabelled`
and the teacher's last hidden state."""

_COLUMNS = ("query_id", "product_id", "query", *TEXT, "label")


def gains(dataset: Dataset) -> dict:
    """The gain of each label, in the order of the classes: ESCI's, or (2^g − 1)/7 for grades."""
    names = dataset.features["label"].names
    return dict(GAINS) if names == list(GAINS) else dict(GRADE_GAINS)


def warmed(data: DatasetDict, profile: Profile) -> Path:
    """The folder of a cross-encoder that compares as the pretrained bi-encoder does.

    It learns from `profile.warm_up_pairs` pairs of `data["unlabelled"]`, without a label: its two
    classes are to have the odds e^(2z), where z is the pair's cosine under the bi-encoder, in
    standard deviations from the mean. One pair in ten is held out to choose the checkpoint.
    """
    pairs = data["unlabelled"].select(range(min(profile.warm_up_pairs, len(data["unlabelled"]))))

    def make(folder: Path) -> None:
        cosine = baselines.bi_encoder_scores(pairs, profile)
        odds = 2 * (cosine - cosine.mean()) / cosine.std()
        tokenizer = models.load_tokenizer(profile.teacher)
        encoded = distill.encode(pairs, tokenizer, profile.max_length)
        encoded = encoded.add_column("teacher_logits", [[0.0, value] for value in odds.tolist()])
        held_out = range(len(pairs) - max(2, len(pairs) // 10), len(pairs))

        def agreement(logits: np.ndarray) -> dict[str, float]:
            found = np.corrcoef(logits[:, 1] - logits[:, 0], odds[held_out])[0, 1]
            return {"quality": float(np.nan_to_num(found))}

        model = models.build_teacher(profile.teacher, ("apart", "alike"), profile.seed)
        models.freeze(model, profile.frozen_layers)
        models.set_dropout(model, profile.student_dropout)
        distill.fit(
            model,
            encoded.select(range(held_out.start)),
            encoded.select(held_out),
            tokenizer,
            profile,
            folder,
            steps=batches(held_out.start, profile),
            learning_rate=profile.student_learning_rate,
            quality=agreement,
            evaluations=2,
        )

    settings = ("teacher", "student_learning_rate", "frozen_layers", "student_dropout")
    parts = [digests(pairs), settings_of(profile, *settings), digest(baselines, mining), *_code()]
    return stage("warmed", parts, make, profile.artifacts)


def origin(data: DatasetDict, profile: Profile) -> str:
    """Where fine-tuning starts: the folder of `warmed`, or, where the profile or the data have no
    pairs for a warm-up, the pretrained checkpoint itself."""
    if profile.warm_up_pairs and "unlabelled" in data:
        return str(warmed(data, profile))
    return profile.teacher


def teacher(
    data: DatasetDict,
    profile: Profile,
    *,
    train_pairs: int | None = None,
    pretrained: bool = True,
) -> Path:
    """The folder of the teacher, a cross-encoder fine-tuned on `data["train"]`.

    It starts from `origin`. Its embeddings and its `profile.frozen_layers` lowest layers stay as
    they are.

    `train_pairs` takes the first so many training pairs, for a learning curve. With
    `pretrained=False` the same architecture starts from random weights, all of them trained.
    """
    train = data["train"]
    if train_pairs is not None:
        train = train.select(range(min(train_pairs, len(train))))
    labels = train.features["label"].names
    tokenizer = models.load_tokenizer(profile.teacher)
    checkpoint = origin(data, profile) if pretrained else profile.teacher

    def make(folder: Path) -> None:
        if pretrained:
            model = models.build_teacher(checkpoint, labels, profile.seed)
            models.freeze(model, profile.frozen_layers)
        else:
            model = models.build_untrained(profile.teacher, labels, profile.seed)
        models.set_dropout(model, profile.teacher_dropout)
        pairs = distill.encode(train, tokenizer, profile.max_length)
        distill.fit(
            model,
            pairs,
            distill.encode(data["validation"], tokenizer, profile.max_length),
            tokenizer,
            profile,
            folder,
            steps=profile.teacher_epochs * batches(len(pairs), profile),
            learning_rate=profile.teacher_learning_rate,
            quality=partial(quality, data["validation"]),
            alpha=0.0,
        )

    parts = [
        digests(train, data["validation"]),
        settings_of(
            profile,
            "teacher",
            "teacher_epochs",
            "teacher_learning_rate",
            "frozen_layers",
            "teacher_dropout",
        ),
        pretrained,
        Path(checkpoint).name,
    ]
    return stage("teacher", [*parts, *_code()], make, profile.artifacts)


def with_unlabelled(data: DatasetDict, catalogue: Dataset, profile: Profile) -> DatasetDict:
    """`data` with unlabelled pairs: its own, or mined from the catalogue where it has none."""
    if "unlabelled" in data:
        return data
    return DatasetDict({**data, "unlabelled": mined(data, catalogue, profile)})


def mined(
    data: DatasetDict, catalogue: Dataset, profile: Profile, random_share: float = 0.25
) -> Dataset:
    """Unlabelled pairs from the catalogue alone (see `mining.mine`), away from judged queries."""
    judged = [data[split] for split in ("train", "validation", "test")]
    taken = {query for split in judged for query in split["query"]}

    def make(folder: Path) -> None:
        label = data["train"].features["label"]
        pairs = mining.mine(
            catalogue,
            taken,
            label,
            profile,
            random_share=random_share,
            vectors=catalogue_vectors(catalogue, profile),
        )
        pairs.save_to_disk(str(folder / "pairs"))

    parts = [
        sorted(taken),
        data_digest(catalogue, ("product_id", *TEXT)),
        profile.seed,
        profile.unlabelled_pairs,
        random_share,
        digest(mining),
    ]
    folder = stage("mined", parts, make, profile.artifacts)
    return load_from_disk(str(folder / "pairs"))


def catalogue_vectors(catalogue: Dataset, profile: Profile) -> np.ndarray:
    """Embeddings (products × H) of a catalogue, made once for all seeds."""

    def make(folder: Path) -> None:
        np.save(folder / "vectors.npy", mining.embed(product_text(catalogue[:]), profile))

    settings = {name: value for name, value in settings_of(profile).items() if name != "seed"}
    parts = [data_digest(catalogue, ("product_id", *TEXT)), settings, digest(mining)]
    return np.load(stage("vectors", parts, make, profile.artifacts) / "vectors.npy")


def teacher_pairs(
    data: DatasetDict,
    profile: Profile,
    teacher_folder: Path,
    split: str,
    pairs: int | None = None,
    hidden_states: tuple[int, ...] = (),
) -> Dataset:
    """The encoded pairs of a split (the first `pairs` of them) with the teacher's outputs."""
    rows = data[split] if pairs is None else data[split].select(range(min(pairs, len(data[split]))))

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(str(teacher_folder))
        encoded = distill.encode(rows, tokenizer, profile.max_length)
        model = models.load(teacher_folder)
        distill.teacher_outputs(encoded, model, tokenizer, profile, hidden_states).save_to_disk(
            str(folder / "pairs")
        )

    parts = [identity(teacher_folder), digests(rows), settings_of(profile), list(hidden_states)]
    folder = stage("teacher_outputs", [*parts, *_code()], make, profile.artifacts)
    return load_from_disk(str(folder / "pairs"))


def student(
    data: DatasetDict,
    profile: Profile,
    row: str = "kd_unlabelled",
    *,
    teacher_folder: Path | None = None,
    unlabelled: int | Dataset | None = None,
    steps: int | None = None,
) -> Path:
    """The folder of a student trained as `row` says (see `ROWS`).

    Every row starts from the same weights and takes the same number of steps: `student_epochs`
    passes over the labelled pairs and those without a label, unless `steps` gives a number. The
    latter are the `unlabelled` first of `data["unlabelled"]` (all of them by default), or, where
    `unlabelled` is a data set, its pairs. Raises ValueError for an unknown row.
    """
    if row not in ROWS:
        raise ValueError(f"Unknown row {row!r}: choose one of {', '.join(ROWS)}.")
    if teacher_folder is None:
        teacher_folder = teacher(data, profile)
    lesson = data
    if isinstance(unlabelled, Dataset):
        lesson, unlabelled = DatasetDict({**data, "unlabelled": unlabelled}), None
    available = len(lesson["unlabelled"]) if "unlabelled" in lesson else 0
    unlabelled = available if unlabelled is None else min(unlabelled, available)
    if steps is None:
        steps = profile.student_epochs * batches(len(data["train"]) + unlabelled, profile)
    used = unlabelled if row in ("kd_unlabelled", "hard", "kd_hidden") else 0

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(str(teacher_folder))
        learner = start(data, profile, teacher_folder)
        pairs, options = _lesson(lesson, profile, teacher_folder, row, used, learner)
        distill.fit(
            learner,
            pairs,
            distill.encode(data["validation"], tokenizer, profile.max_length),
            tokenizer,
            profile,
            folder,
            steps=steps,
            learning_rate=profile.student_learning_rate,
            quality=partial(quality, data["validation"]),
            **options,
        )

    # The row that no teacher touches is the same whoever the teacher is.
    touched = row != "none" or profile.student_start == "teacher"
    warm = profile.student_start == "warmed"
    parts = [
        row,
        identity(teacher_folder) if touched else None,
        Path(origin(data, profile)).name if warm else None,
        steps,
        digests(data["train"], data["validation"]),
        digests(lesson["unlabelled"].select(range(used))) if used else None,
        settings_of(
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
    return stage("student", [*parts, *_code()], make, profile.artifacts)


def start(data: DatasetDict, profile: Profile, teacher_folder: Path) -> torch.nn.Module:
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


def predict(folder: Path, pairs: Dataset, profile: Profile) -> np.ndarray:
    """Class probabilities (N, C) of a saved teacher or student on pairs as `load` gives them."""
    tokenizer = models.load_tokenizer(str(folder))
    model = models.load(folder, pairs.features["label"].num_classes)
    encoded = distill.encode(pairs, tokenizer, profile.max_length)
    return softmax(distill.predict(model, encoded, tokenizer, profile))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C), float64, of logits (N, C)."""
    return torch.from_numpy(logits).double().softmax(-1).numpy()


def frame(pairs: Dataset, scores: np.ndarray) -> pd.DataFrame:
    """What `metrics.ranking` reads: ids, label or grade, and the score of each pair."""
    names = pairs.features["label"].names
    graded = names != list(GAINS)
    labels = [names[label] for label in pairs["label"]]
    return pd.DataFrame(
        {
            "query_id": pairs["query_id"],
            "product_id": pairs["product_id"],
            "grade" if graded else "esci_label": [int(x) for x in labels] if graded else labels,
            "score": scores,
        }
    )


def rankable(pairs: Dataset) -> bool:
    """Whether an order can be judged: the median query has two candidates or more.

    Where most queries have a single candidate, nDCG is 1 whatever the model says.
    """
    return bool(pd.Series(pairs["query_id"]).value_counts().median() >= 2)


def evaluate(pairs: Dataset, probabilities: np.ndarray, scores: np.ndarray | None = None) -> dict:
    """`classification` and, where an order matters, `ranking` on labelled pairs.

    The ranking goes by the expected gain of the probabilities (N, C), or by `scores` (N,).
    """
    result = {"classification": metrics.classification(pairs["label"], probabilities)}
    if rankable(pairs):
        weights = gains(pairs)
        if scores is None:
            scores = metrics.expected_gain(probabilities, weights)
        result["ranking"] = metrics.ranking(frame(pairs, scores), weights)
    return result


def quality(pairs: Dataset, logits: np.ndarray) -> dict[str, float]:
    """What picks a checkpoint: the mean of macro-F1 and, where an order matters, nDCG@10."""
    result = evaluate(pairs, softmax(logits))
    found = {"macro_f1": result["classification"]["macro_f1"]}
    if "ranking" in result:
        found["ndcg@10"] = result["ranking"]["ndcg@10"]
    return found | {"quality": float(np.mean(list(found.values())))}


def training_log(folder: Path) -> pd.DataFrame:
    """The log of a training run: step, loss, learning rate, and quality where it was measured."""
    return pd.DataFrame(json.loads((folder / "training.json").read_text(encoding="utf-8")))


def _lesson(
    data: DatasetDict,
    profile: Profile,
    teacher_folder: Path,
    row: str,
    unlabelled: int,
    learner: torch.nn.Module,
) -> tuple[Dataset, Mapping]:
    shape = AutoConfig.from_pretrained(str(teacher_folder))
    depth = shape.num_hidden_layers
    hidden = (depth,) if row == "kd_hidden" else ()
    taught: Callable = partial(teacher_pairs, data, profile, teacher_folder, hidden_states=hidden)
    parts = [taught("train")]
    if unlabelled:
        extra = taught("unlabelled", pairs=unlabelled)
        if row == "hard":
            best = np.argmax(np.asarray(extra["teacher_logits"]), axis=1).tolist()
            extra = extra.remove_columns("labels").add_column("labels", best)
            extra = extra.cast(parts[0].features.copy())
        parts.append(extra)
    pairs = concatenate_datasets([part.select_columns(parts[0].column_names) for part in parts])
    if hidden:
        names = [f"teacher_hidden_{depth}"]
        pairs = pairs.with_format("numpy", columns=names, output_all_columns=True)
    if row in ("none", "hard"):
        return pairs.remove_columns("teacher_logits"), {"alpha": 0.0}
    options: dict = {"alpha": profile.alpha, "temperature": profile.temperature}
    if hidden:
        options["hidden_map"] = {learner.config.num_hidden_layers: depth}
        options["teacher_width"] = shape.hidden_size
    return pairs, options


def batches(pairs: int, profile: Profile) -> int:
    """How many batches so many pairs make."""
    return -(-pairs // profile.batch_size)


def digests(*parts: Dataset) -> list[str]:
    """What each set of pairs adds to the key of an artefact: its ids, texts and labels."""
    return [data_digest(part, _COLUMNS) for part in parts]


def identity(folder: Path) -> list:
    """What makes a saved model itself: its weights, shape and tokenizer, not its folder's name."""
    return [
        [path.name, file_digest(path)]
        for path in sorted(folder.iterdir())
        if path.suffix == ".safetensors"
        or path.name == "config.json"
        or path.name.startswith("tokenizer")
    ]


def settings_of(profile: Profile, *names: str) -> dict:
    """What a profile adds to the key of an artefact: these fields, hardware and versions."""
    common = ("seed", "batch_size", "max_length")
    chosen = {name: getattr(profile, name) for name in (*common, *names)}
    return chosen | {
        "precision": models.precision(profile),
        "device": models.device(profile).type,
        "versions": [torch.__version__, transformers.__version__, datasets.__version__],
    }


def _code() -> list[str]:
    return [digest(distill, losses, models)]
