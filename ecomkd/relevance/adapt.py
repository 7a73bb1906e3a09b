"""Two more ways to adapt an encoder to a shop: by reading its catalogue, and by few weights.

Chapter 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ecomkd.extras import needed

with needed("ecomkd.relevance.adapt", "run"):
    from transformers import (
        AutoModelForMaskedLM,
        DataCollatorForLanguageModeling,
        DataCollatorForTokenClassification,
        PreTrainedModel,
    )

from ecomkd import keys, models, runtime, trainer
from ecomkd.artifacts import data_digest, stage
from ecomkd.config import Profile
from ecomkd.data.schema import TEXT
from ecomkd.data.sources import product_text
from ecomkd.relevance import stages

_HIDDEN_SHARE = 0.15
_TEXT_TOKENS = 256


def domain_adapted(
    catalogue: Dataset, profile: Profile, *, passes: int = 2, learning_rate: float = 1e-4
) -> Path:
    """The folder of the pretrained encoder, trained on to read a catalogue: no label, no query.

    Masked language modelling on whole product texts, cut at 256 tokens: of their tokens 15 % are
    hidden, and the encoder learns to name them (domain-adaptive pretraining, Gururangan et al.
    2020). In each of `passes` over the catalogue others are hidden. One text in ten is held out to
    choose the checkpoint. What is kept is the encoder; the head that names tokens is not.

    Raises ValueError for a catalogue of fewer than ten products, for fewer than one pass, and where
    the texts are so short that nothing was hidden of those that train or of those that judge.
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
        model = build_masked(profile.teacher, profile.seed)
        masked = _hidden_tokens(texts[~held_out], tokenizer, passes, profile.seed)
        judged = _hidden_tokens(texts[held_out], tokenizer, 1, profile.seed)
        if not (len(masked) and len(judged)):
            raise ValueError(
                f"domain_adapted: of {len(texts)} product texts no token was hidden in those that "
                "train or in those that judge; give more of them, or longer ones."
            )
        run = trainer.OrderedTrainer(
            model,
            args=trainer.arguments(
                profile,
                folder,
                keys.batches(len(masked), profile),
                learning_rate,
                metric_for_best_model="loss",
                train_sampling_strategy="group_by_length",
                prediction_loss_only=True,
            ),
            train_dataset=masked,
            eval_dataset=judged,
            processing_class=tokenizer,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        with runtime.quiet():
            trainer.run_to_end(run, folder)
        whole = models.build_teacher(profile.teacher, ("unused",), profile.seed)
        encoder: Any = whole.base_model
        # A pooler, which the model for hidden tokens has not, stays as it is.
        encoder.load_state_dict(model.base_model.state_dict(), strict=False)
        encoder.save_pretrained(folder)

    parts = [
        data_digest(catalogue, ("product_id", *TEXT)),
        keys.settings_of(profile, "teacher"),
        [passes, learning_rate],
    ]
    return stage("adapted", parts, make, profile.artifacts, recipe=1)


def _hidden_tokens(texts: Sequence[str], tokenizer: Any, passes: int, seed: int) -> Dataset:
    """The texts `passes` times, each time with other tokens hidden; labels are −100 elsewhere.

    They are drawn here and not batch by batch, so that a run which resumes meets the same ones. A
    text of which nothing was drawn is left out: its loss would be a mean over nothing.
    """
    encoded = tokenizer(
        list(texts), truncation=True, max_length=_TEXT_TOKENS, return_special_tokens_mask=True
    )
    hide = DataCollatorForLanguageModeling(tokenizer, mlm_probability=_HIDDEN_SHARE)
    rows = []
    with runtime.seeded(seed):
        for _ in range(passes):
            for text in range(len(texts)):
                batch = hide([{name: values[text] for name, values in encoded.items()}])
                if bool((batch["labels"] != -100).any()):
                    rows.append({name: values[0].tolist() for name, values in batch.items()})
    return Dataset.from_list(rows)


def build_masked(name: str, seed: int = 0) -> PreTrainedModel:
    """A pretrained encoder with the head that names hidden tokens: logits (B, L, V), V tokens.

    The last step of that head is the table of word embeddings itself. What comes before it is the
    checkpoint's, or, where the checkpoint has none, as `minilm`, drawn from `seed`.
    """
    with runtime.seeded(seed):
        return models.from_checkpoint(AutoModelForMaskedLM, name, use_safetensors=True)


def low_rank(
    data: DatasetDict,
    profile: Profile,
    *,
    rank: int = 8,
    learning_rate: float = 2e-3,
) -> Path:
    """The folder of a teacher of which only a low-rank correction was trained, and the head.

    It starts where `teacher` does, but for `spread_head`: its head is drawn. It loads like any
    teacher: the correction is added to the weights (see `models.build_low_rank`). What was trained
    is kept beside it, in `adapter`. The learning rate is its own, about ten times that of
    fine-tuning: a correction starts at zero, and a step of Adam moves it by little.

    Raises as `models.build_low_rank` does.
    """
    labels = data["train"].features["label"].names
    start, known_as = stages.starting_point(data, profile)

    def make(folder: Path) -> None:
        model = models.build_teacher(start, labels, profile.seed)
        model = models.build_low_rank(model, rank, profile.seed)
        tokenizer = models.load_tokenizer(profile.teacher)
        train_corrected(model, data, tokenizer, profile, folder, learning_rate)

    parts = [
        keys.digests(data["train"], data["validation"]),
        keys.settings_of(profile, "teacher", "teacher_epochs", "teacher_dropout"),
        [rank, learning_rate],
        known_as,
    ]
    return stage("low_rank", parts, make, profile.artifacts, recipe=1)


def train_corrected(
    model: Any,
    data: DatasetDict,
    tokenizer: Any,
    profile: Profile,
    folder: Path,
    learning_rate: float,
) -> None:
    """Train what `models.build_low_rank` gave on labelled pairs, into `folder`: a teacher with the
    correction added to its weights, and in `adapter` what was trained."""
    adapter = folder / "adapter"
    stages.fine_tune(model, data, tokenizer, profile, adapter, learning_rate)
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (adapter / "training.json").replace(folder / "training.json")
