"""Teacher outputs as dataset columns, and a `transformers.Trainer` that learns from them.

Chapters 3 and 4.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, Dataset, Features, Value, concatenate_datasets
from datasets import Sequence as SequenceFeature

from ecomkd.extras import needed

with needed("ecomkd.distill", "run"):
    import torch
    from torch import nn
    from transformers import PreTrainedModel

from ecomkd import losses, runtime, trainer
from ecomkd.config import Profile
from ecomkd.data.sources import apart_from_the_data, product_text

_TOKENS = ("input_ids", "token_type_ids")


def encode(dataset: Dataset, tokenizer: Any, max_length: int) -> Dataset:
    """Query–product pairs as token ids, as in `[CLS] query [SEP] product [SEP]`.

    Keeps `query_id` and `product_id`; adds `input_ids`, `length`, `labels` (−100 where a pair has
    no label) and, where the tokenizer has them, `token_type_ids`. Of a pair that is longer than
    `max_length` tokens the longer text is cut first, so that a query loses nothing unless it takes
    more than half.
    """

    def encode_batch(batch: dict) -> dict:
        pairs = tokenizer(
            batch["query"], product_text(batch), truncation="longest_first", max_length=max_length
        )
        columns = {name: pairs[name] for name in _TOKENS if name in pairs}
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["labels"] = [-100 if label == -1 else label for label in batch["label"]]
        return columns

    kept = {"query_id", "product_id"}
    with apart_from_the_data():
        return dataset.map(
            encode_batch,
            batched=True,
            remove_columns=[name for name in dataset.column_names if name not in kept],
            desc="Tokenising",
        )


@dataclass
class PairCollator:
    """Pads a list of encoded pairs to the longest of them; pads cached hidden states alike."""

    tokenizer: Any

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        tokens = [{name: row[name] for name in _TOKENS if name in row} for row in rows]
        batch = dict(self.tokenizer.pad(tokens, return_tensors="pt"))
        longest = batch["input_ids"].shape[1]
        for name in rows[0]:
            if name == "labels":
                batch[name] = torch.tensor([row[name] for row in rows])
            elif name == "teacher_logits":
                batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
            elif name.startswith("teacher_hidden_"):
                states = [torch.as_tensor(np.asarray(row[name], np.float32)) for row in rows]
                batch[name] = torch.stack(
                    [nn.functional.pad(h, (0, 0, 0, longest - len(h))) for h in states]
                )
        return batch


def predict(
    model: PreTrainedModel, encoded: Dataset, tokenizer: Any, profile: Profile
) -> np.ndarray:
    """Logits (N, C), float32, in the order of the rows; the model is left in eval mode."""
    run = _forward(model, tokenizer, profile)
    rows = encoded.select_columns([c for c in encoded.column_names if c in _TOKENS])
    order = _order(encoded)
    classes: Any = model.config.num_labels
    result = np.empty((len(encoded), classes), dtype=np.float32)
    for start in range(0, len(order), profile.batch_size):
        indices = order[start : start + profile.batch_size]
        result[indices] = run(rows[indices], ())[0]
    return result


def teacher_outputs(
    encoded: Dataset,
    teacher: PreTrainedModel,
    tokenizer: Any,
    profile: Profile,
    hidden_states: Sequence[int] = (),
    scratch: Path | None = None,
) -> Dataset:
    """`encoded` with the teacher's logits, and if asked its hidden states, as columns.

    Adds `teacher_logits` (C floats) and, for each index k in `hidden_states`, `teacher_hidden_k`
    (L × H, half precision): the model's hidden_states[k], where 0 is the embedding layer and i + 1
    the output of layer i. One pass in eval mode without gradients. Batches are formed in an order
    that depends on the pairs alone, so the order of the rows changes no value.

    The columns lie in a file: in the folder `scratch`, or, without it, in a temporary folder that
    lives as long as the process.
    """
    run = _forward(teacher, tokenizer, profile)
    width = teacher.config.hidden_size

    def run_batch(batch: dict) -> dict:
        logits, hidden = run(
            {name: batch[name] for name in _TOKENS if name in batch}, hidden_states
        )
        columns = {"teacher_logits": logits.tolist()}
        for index, states in hidden.items():
            columns[f"teacher_hidden_{index}"] = [
                row[:length] for row, length in zip(states, batch["length"], strict=True)
            ]
        return columns

    features = Features(
        encoded.features
        | {"teacher_logits": SequenceFeature(Value("float32"))}
        | {f"teacher_hidden_{index}": Array2D((None, width), "float16") for index in hidden_states}
    )
    order = _order(encoded)
    with apart_from_the_data():
        labelled = encoded.select(order).map(
            run_batch,
            batched=True,
            batch_size=profile.batch_size,
            features=features,
            desc="Teacher",
            cache_file_name=None if scratch is None else str(scratch / "teacher.arrow"),
            # Else `datasets` would serialise the whole teacher to name its result.
            new_fingerprint=f"teacher-{uuid.uuid4().hex}",
        )
    labelled = labelled.select(np.argsort(order))
    if hidden_states:
        # As arrays: a hidden state as nested Python lists would cost more than the training step.
        names = [f"teacher_hidden_{index}" for index in hidden_states]
        labelled = labelled.with_format("numpy", columns=names, output_all_columns=True)
    return labelled


def with_teacher(encoded: Dataset, taught: Dataset) -> Dataset:
    """`encoded` with the `teacher_logits` that `taught` has of the same pairs.

    So a student learns from a teacher that cuts texts into other tokens: `encoded` comes from the
    student's tokenizer, `taught` from `teacher_outputs` with the teacher's. Pairs are matched by
    `query_id` and `product_id`; both may stand in another order, and `taught` may hold more. Only
    logits cross over: a hidden state belongs to a token that the other tokenizer has not.

    Raises ValueError for a pair that `taught` lacks, or has with two different outputs.
    """
    wanted, known = _ids(encoded), _ids(taught)
    if wanted == known:
        rows = np.arange(len(known))
    else:
        first: dict[tuple[str, str], int] = {}
        logits = np.asarray(taught["teacher_logits"], np.float32)
        for row, pair in enumerate(known):
            before = first.setdefault(pair, row)
            if before != row and not np.array_equal(logits[before], logits[row]):
                raise ValueError(
                    f"with_teacher: the teacher says two things of query_id={pair[0]!r}, "
                    f"product_id={pair[1]!r}: give each pair one text."
                )
        missing = [pair for pair in wanted if pair not in first]
        if missing:
            raise ValueError(
                f"with_teacher: the teacher has not seen {len(missing)} of {len(wanted)} pairs, "
                f"such as query_id={missing[0][0]!r}, product_id={missing[0][1]!r}: run it on them."
            )
        rows = np.array([first[pair] for pair in wanted])
    column = taught.select_columns(["teacher_logits"]).with_format(None).select(rows)
    with apart_from_the_data():
        return concatenate_datasets([encoded, column], axis=1)


def _ids(pairs: Dataset) -> list[tuple[str, str]]:
    return list(zip(pairs["query_id"][:], pairs["product_id"][:], strict=True))


def _order(encoded: Dataset) -> np.ndarray:
    """Row indices from the shortest pair to the longest, ties by the ids of the pair."""
    keys = encoded.select_columns(["product_id", "query_id", "length"]).with_format("numpy")[:]
    return np.lexsort((keys["product_id"], keys["query_id"], keys["length"]))


def _forward(model: Any, tokenizer: Any, profile: Profile) -> Callable:
    device = runtime.device(profile)
    model.to(device).eval()

    @torch.inference_mode()
    def run(columns: dict, hidden_states: Sequence[int]):
        batch = tokenizer.pad(columns, return_tensors="pt").to(device)
        with runtime.autocast(profile):
            output = model(**batch, output_hidden_states=bool(hidden_states))
        hidden = {
            index: output.hidden_states[index].to("cpu", torch.float16).numpy()
            for index in hidden_states
        }
        return output.logits.float().cpu().numpy(), hidden

    return run


_PER_STEP = ("labelled", "pairs", "tokens")


def _count(batch: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The numbers of labelled pairs, of pairs and of tokens in a batch.

    Each is what one of the three parts of the loss is a mean over.
    """
    labels = batch["labels"]
    counts = (int((labels != -100).sum()), len(labels), int(batch["attention_mask"].sum()))
    return dict(zip(_PER_STEP, counts, strict=True))


class DistillationTrainer(trainer.MeasuredTrainer):
    """A Trainer whose loss is L = CE(y, ŷ_s) + α·T²·KL(p ‖ q) + the hidden-state loss.

    In each step cross entropy is the mean over the labelled pairs, the divergence over all pairs
    and the hidden loss over all tokens, whatever the number of accumulation steps and of processes.
    The teacher's outputs come as the columns that `teacher_outputs` adds, or, where `teacher` is
    given, from a forward pass in every step.

    Args:
        alpha: weight α of the soft term; 0 is plain fine-tuning and needs no teacher.
        temperature: T, which softens both distributions (Hinton et al. 2015).
        hidden_map: from the student's hidden_states index to the teacher's, for example {2: 6}.
            Each pair of states meets in a mean squared error after a learned projection
            (TinyBERT, Jiao et al. 2020). The projections train with the student, are kept in
            checkpoints so that a run can resume, and are left out of the saved student.
        teacher_width: the teacher's hidden size, needed with `hidden_map`.
        teacher: a model to run online; it is frozen and stays in eval mode.
        quality: maps logits (N, C) of the evaluation set to named numbers.

    Raises ValueError when α > 0 and a batch carries no teacher output, and warns when labels are
    smoothed as well: the teacher softens them already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        alpha: float = 1.0,
        temperature: float = 1.0,
        hidden_map: Mapping[int, int] | None = None,
        teacher_width: int | None = None,
        teacher: PreTrainedModel | None = None,
        quality: Callable[[np.ndarray], dict[str, float]] | None = None,
        profile: Profile,
        **options: Any,
    ):
        self.hidden_map = dict(hidden_map or {})
        if self.hidden_map:
            if teacher_width is None:
                raise ValueError("hidden_map needs teacher_width, the teacher's hidden size.")
            with runtime.seeded(profile.seed):
                model.hidden_projection = nn.ModuleDict(
                    {
                        str(student): nn.Linear(model.config.hidden_size, teacher_width)
                        for student in self.hidden_map
                    }
                )
        super().__init__(model, **options)
        if alpha > 0 and self.args.label_smoothing_factor > 0:
            warnings.warn(
                "label_smoothing_factor and a teacher soften the labels twice: set one of them "
                "to 0.",
                stacklevel=2,
            )
        self.alpha = alpha
        self.temperature = temperature
        self.quality = quality
        self.profile = profile
        self.teacher = teacher
        if teacher is not None:
            online: Any = teacher.requires_grad_(False)
            online.to(self.args.device).eval()
        # compute_loss takes means over whole steps: the library must not divide by the number of
        # batches in a step once more. It heeds this attribute in the versions that are allowed; in
        # 5.2 it had no effect.
        self.model_accepts_loss_kwargs = True
        self._counts: dict[str, int] | None = None

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [_count(batch) for batch in batches]
        totals = [sum(count[name] for count in counts) for name in _PER_STEP]
        if self.args.world_size > 1:
            own = torch.tensor(totals, device=self.args.device)
            totals = self.accelerator.reduce(own, "sum").tolist()
        self._counts = dict(zip(_PER_STEP, totals, strict=True))
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        logits = inputs.pop("teacher_logits", None)
        hidden = {
            index: inputs.pop(f"teacher_hidden_{index}", None) for index in self.hidden_map.values()
        }
        if self.teacher is not None:
            with torch.inference_mode(), runtime.autocast(self.profile):
                output = self.teacher(**inputs, output_hidden_states=bool(hidden))
            logits = output.logits
            hidden = {index: output.hidden_states[index] for index in hidden}
        if self.alpha > 0 and logits is None:
            raise ValueError(
                "alpha > 0 and the batch has no teacher_logits: add them with teacher_outputs(), "
                "or pass teacher=."
            )
        outputs = model(**inputs, output_hidden_states=bool(hidden))
        # This batch's share of its step: a step may be made of several. Gradients of several
        # processes are averaged, where a sum is wanted.
        here = _count({**inputs, "labels": labels})
        whole, processes = (self._counts, self.args.world_size) if self._counts else (here, 1)
        share = {name: processes * here[name] / max(1, whole[name]) for name in _PER_STEP}
        student = outputs.logits
        loss = student.float().sum() * 0.0
        if here["labelled"]:
            smoothing = self.args.label_smoothing_factor
            cross_entropy = nn.functional.cross_entropy(
                student.float(), labels, ignore_index=-100, label_smoothing=smoothing
            )
            loss = loss + cross_entropy * share["labelled"]
        if self.alpha > 0:
            soft = losses.soft_kl(student, logits, self.temperature)
            loss = loss + self.alpha * soft * share["pairs"]
        if hidden:
            loss = loss + self._hidden_loss(outputs, hidden, inputs) * share["tokens"]
        return (loss, outputs) if return_outputs else loss

    def _hidden_loss(self, outputs, hidden: dict, inputs: dict) -> torch.Tensor:
        projections = self.accelerator.unwrap_model(self.model).hidden_projection
        terms = []
        for student, teacher in self.hidden_map.items():
            if hidden[teacher] is None:
                raise ValueError(
                    f"The batch has no teacher_hidden_{teacher}: name {teacher} in "
                    "teacher_outputs(hidden_states=…)."
                )
            terms.append(
                losses.hidden_mse(
                    outputs.hidden_states[student],
                    hidden[teacher],
                    inputs["attention_mask"],
                    projections[str(student)],
                )
            )
        return torch.stack(terms).mean()

    def measure(self, dataset: Dataset) -> Mapping[str, float]:
        """`quality` of the logits on an evaluation set, in the order of its rows."""
        if self.quality is None:
            raise ValueError("An evaluation needs quality=, which tells what the logits are worth.")
        model: Any = self.model
        return self.quality(predict(model, dataset, self.processing_class, self.profile))

    def save_model(self, output_dir=None, _internal_call=False):
        if _internal_call:
            return super().save_model(output_dir, _internal_call=True)
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model)
        state = model.state_dict()
        model.save_pretrained(
            output_dir or self.args.output_dir,
            state_dict={k: v for k, v in state.items() if not k.startswith("hidden_projection.")},
        )
        self.processing_class.save_pretrained(output_dir or self.args.output_dir)


def fit(
    model: PreTrainedModel,
    train: Dataset,
    validation: Dataset,
    tokenizer: Any,
    profile: Profile,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    quality: Callable[[np.ndarray], dict[str, float]],
    evaluations: int = 5,
    **distillation: Any,
) -> list[dict]:
    """Train `model` for `steps` optimiser steps and save the best of it into `folder`.

    The best is the checkpoint with the highest `quality(logits)["quality"]` on `validation`,
    looked at about `evaluations` times, and at the end. Further keyword arguments go to
    `DistillationTrainer`. A run that finds checkpoints of its own in `folder` resumes from the last
    whole one and reaches the same weights as an unbroken run on the same machine. Returns the log,
    also written to `training.json` beside the weights; the `seconds` of its last entry are those of
    the whole run.
    """
    run = DistillationTrainer(
        model,
        args=trainer.arguments(
            profile,
            folder,
            steps,
            learning_rate,
            evaluations,
            metric_for_best_model="quality",
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer),
        quality=quality,
        profile=profile,
        **distillation,
    )
    return trainer.run_to_end(run, folder)
