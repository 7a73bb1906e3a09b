"""The stages from a data set to an evaluated student, each made once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
import transformers
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from transformers import (
    AutoConfig,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
)

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
_HIDDEN_SHARE = 0.15
_TEXT_TOKENS = 256


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


def domain_adapted(
    catalogue: Dataset, profile: Profile, *, passes: int = 2, learning_rate: float = 1e-4
) -> Path:
    """The folder of the pretrained encoder, trained on to read a catalogue: no label, no query.

    Masked language modelling on whole product texts, cut at 256 tokens: of their tokens 15 % are
    hidden, and the encoder learns to name them (domain-adaptive pretraining, Gururangan et al.
    2020). In each of `passes` over the catalogue others are hidden. One text in ten is held out to
    choose the checkpoint. What is kept is the encoder; the head that names tokens is not.

    Raises ValueError for a catalogue of fewer than ten products or for fewer than one pass.
    """
    if len(catalogue) < 10 or passes < 1:
        raise ValueError(
            f"domain_adapted: {len(catalogue)} products and passes={passes}: give at least 10 "
            "products and 1 pass."
        )

    def make(folder: Path) -> None:
        tokenizer = models.load_tokenizer(profile.teacher)
        texts = np.array(product_text(catalogue[:]), dtype=object)
        held_out = np.arange(len(texts)) % 10 == 9
        model = models.build_masked(profile.teacher, profile.seed)
        lesson = _hidden_tokens(texts[~held_out], tokenizer, passes, profile.seed)
        trainer = distill.OrderedTrainer(
            model,
            args=distill.arguments(
                profile,
                folder,
                batches(len(lesson), profile),
                learning_rate,
                metric_for_best_model="loss",
                train_sampling_strategy="group_by_length",
                prediction_loss_only=True,
            ),
            train_dataset=lesson,
            eval_dataset=_hidden_tokens(texts[held_out], tokenizer, 1, profile.seed),
            processing_class=tokenizer,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        with models.quiet():
            distill.run_to_end(trainer, folder)
        whole = models.build_teacher(profile.teacher, ("unused",), profile.seed)
        models.take_encoder(whole, model)
        whole.base_model.save_pretrained(folder)

    parts = [
        data_digest(catalogue, ("product_id", *TEXT)),
        settings_of(profile, "teacher"),
        [passes, learning_rate, _HIDDEN_SHARE, _TEXT_TOKENS],
        digest(domain_adapted, _hidden_tokens),
    ]
    return stage("adapted", [*parts, *_code()], make, profile.artifacts)


def _hidden_tokens(texts: Sequence[str], tokenizer, passes: int, seed: int) -> Dataset:
    """The texts `passes` times, each time with other tokens hidden; labels are −100 elsewhere.

    Drawn here and not batch by batch, so that a run which resumes meets the same ones. A text of
    which nothing was drawn is left out: its loss would be a mean over nothing.
    """
    encoded = tokenizer(
        list(texts), truncation=True, max_length=_TEXT_TOKENS, return_special_tokens_mask=True
    )
    hide = DataCollatorForLanguageModeling(tokenizer, mlm_probability=_HIDDEN_SHARE)
    rows = []
    with models.seeded(seed):
        for _ in range(passes):
            for text in range(len(texts)):
                batch = hide([{name: values[text] for name, values in encoded.items()}])
                if bool((batch["labels"] != -100).any()):
                    rows.append({name: values[0].tolist() for name, values in batch.items()})
    return Dataset.from_list(rows)


def teacher(
    data: DatasetDict,
    profile: Profile,
    *,
    train_pairs: int | None = None,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
) -> Path:
    """The folder of the teacher, a cross-encoder fine-tuned on `data["train"]`.

    It starts from `origin`, or from `checkpoint`, a name or a folder such as that of
    `domain_adapted`. Its embeddings and its `profile.frozen_layers` lowest layers stay as they are.

    `train_pairs` takes the first so many training pairs, for a learning curve. With
    `pretrained=False` the same architecture starts from random weights, all of them trained.
    Raises ValueError where that meets a `checkpoint`.
    """
    if checkpoint is not None and not pretrained:
        raise ValueError(
            "teacher: pretrained=False starts from random weights: leave the checkpoint out."
        )
    train = _first(data["train"], train_pairs)
    labels = train.features["label"].names
    start, known_as = profile.teacher, Path(profile.teacher).name
    if pretrained:
        start, known_as = _begin(data, profile, checkpoint)

    def make(folder: Path) -> None:
        if pretrained:
            model = models.build_teacher(start, labels, profile.seed)
            models.freeze(model, profile.frozen_layers)
        else:
            model = models.build_untrained(start, labels, profile.seed)
        tokenizer = models.load_tokenizer(start if checkpoint else profile.teacher)
        _fine_tune(model, train, data, tokenizer, profile, folder, profile.teacher_learning_rate)

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
        known_as,
    ]
    return stage("teacher", [*parts, *_code()], make, profile.artifacts)


def low_rank(
    data: DatasetDict,
    profile: Profile,
    *,
    rank: int = 8,
    learning_rate: float = 2e-3,
    train_pairs: int | None = None,
    checkpoint: str | Path | None = None,
) -> Path:
    """The folder of a teacher of which only a low-rank correction was trained, and the head.

    It starts where `teacher` does and loads like any teacher: the correction is added to the
    weights (see `models.build_low_rank`). What was trained is kept beside it, in `adapter`. The
    learning rate is its own, about ten times that of fine-tuning: a correction starts at zero, and
    a step of Adam moves it by little.

    Raises as `models.build_low_rank` does.
    """
    train = _first(data["train"], train_pairs)
    labels = train.features["label"].names
    start, known_as = _begin(data, profile, checkpoint)

    def make(folder: Path) -> None:
        model = models.build_teacher(start, labels, profile.seed)
        model = models.build_low_rank(model, rank, profile.seed)
        tokenizer = models.load_tokenizer(start if checkpoint else profile.teacher)
        adapter = folder / "adapter"
        _fine_tune(model, train, data, tokenizer, profile, adapter, learning_rate)
        model.merge_and_unload().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (adapter / "training.json").replace(folder / "training.json")

    parts = [
        digests(train, data["validation"]),
        settings_of(profile, "teacher", "teacher_epochs", "teacher_dropout"),
        [rank, learning_rate, metadata.version("peft") if find_spec("peft") else None],
        known_as,
        digest(low_rank),
    ]
    return stage("low_rank", [*parts, *_code()], make, profile.artifacts)


def _first(train: Dataset, pairs: int | None) -> Dataset:
    return train if pairs is None else train.select(range(min(pairs, len(train))))


def _begin(
    data: DatasetDict, profile: Profile, checkpoint: str | Path | None
) -> tuple[str, object]:
    """Where training starts, and what stands for it in a key: of a given folder, its content."""
    if checkpoint is None:
        start = origin(data, profile)
        return start, Path(start).name
    folder = Path(checkpoint)
    return str(checkpoint), identity(folder) if folder.is_dir() else str(checkpoint)


def _fine_tune(
    model: torch.nn.Module,
    train: Dataset,
    data: DatasetDict,
    tokenizer,
    profile: Profile,
    folder: Path,
    learning_rate: float,
) -> None:
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
        learning_rate=learning_rate,
        quality=partial(quality, data["validation"]),
        alpha=0.0,
    )


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
