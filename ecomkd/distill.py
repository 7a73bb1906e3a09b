"""Teacher outputs as dataset columns, and a `transformers.Trainer` that learns from them."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, Value
from datasets import Sequence as SequenceFeature
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import is_in_notebook

from ecomkd import losses, models
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data.sources import product_text

_TOKENS = ("input_ids", "token_type_ids")


def encode(dataset: Dataset, tokenizer, max_length: int) -> Dataset:
    """Query–product pairs as token ids: `[CLS] query [SEP] product [SEP]`.

    Keeps `query_id` and `product_id`; adds `input_ids`, `length`, `labels` (−100 where a pair has
    no label) and, where the tokenizer has them, `token_type_ids`. The product is cut so that the
    pair fits `max_length` tokens; a query is cut at half of it.
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
    return dataset.map(
        encode_batch,
        batched=True,
        remove_columns=[name for name in dataset.column_names if name not in kept],
        desc="Tokenising",
    )


@dataclass
class PairCollator:
    """Pads a list of encoded pairs to the longest of them; pads cached hidden states alike."""

    tokenizer: object

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


def predict(model: nn.Module, encoded: Dataset, tokenizer, profile: Profile) -> np.ndarray:
    """Logits (N, C), float32, in the order of the rows; the model is left in eval mode."""
    run = _forward(model, tokenizer, profile)
    rows = encoded.select_columns([c for c in encoded.column_names if c in _TOKENS])
    order = _order(encoded)
    result = np.empty((len(encoded), model.config.num_labels), dtype=np.float32)
    for start in range(0, len(order), profile.batch_size):
        indices = order[start : start + profile.batch_size]
        result[indices] = run(rows[indices], ())[0]
    return result


def teacher_outputs(
    encoded: Dataset,
    teacher: nn.Module,
    tokenizer,
    profile: Profile,
    hidden_states: Sequence[int] = (),
) -> Dataset:
    """`encoded` with the teacher's logits, and if asked its hidden states, as columns.

    Adds `teacher_logits` (C floats) and, for each index k in `hidden_states`, `teacher_hidden_k`
    (L × H, half precision): the model's hidden_states[k], where 0 is the embedding layer and i + 1
    the output of layer i. One pass in eval mode without gradients. Batches are formed in an order
    that depends on the pairs alone, so the order of the rows changes no value.
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
    labelled = encoded.select(order).map(
        run_batch,
        batched=True,
        batch_size=profile.batch_size,
        features=features,
        desc="Teacher",
        load_from_cache_file=False,
        # Else `datasets` would serialise the whole teacher to name its cache file.
        new_fingerprint=f"teacher-{id(run):x}",
    )
    labelled = labelled.select(np.argsort(order))
    if hidden_states:
        # As arrays: a hidden state as nested Python lists would cost more than the training step.
        names = [f"teacher_hidden_{index}" for index in hidden_states]
        labelled = labelled.with_format("numpy", columns=names, output_all_columns=True)
    return labelled


def _order(encoded: Dataset) -> np.ndarray:
    """Row indices from the shortest pair to the longest, ties by the ids of the pair."""
    keys = encoded.select_columns(["product_id", "query_id", "length"]).with_format("numpy")[:]
    return np.lexsort((keys["product_id"], keys["query_id"], keys["length"]))


def _forward(model: nn.Module, tokenizer, profile: Profile) -> Callable:
    device = models.device(profile)
    model.to(device).eval()

    @torch.inference_mode()
    def run(columns: dict, hidden_states: Sequence[int]):
        batch = tokenizer.pad(columns, return_tensors="pt").to(device)
        with models.autocast(profile):
            output = model(**batch, output_hidden_states=bool(hidden_states))
        hidden = {
            index: output.hidden_states[index].to("cpu", torch.float16).numpy()
            for index in hidden_states
        }
        return output.logits.float().cpu().numpy(), hidden

    return run


_PER_STEP = ("labelled", "pairs", "tokens")


def _count(batch: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Over what the three parts of the loss are means."""
    labels = batch["labels"]
    counts = (int((labels != -100).sum()), len(labels), int(batch["attention_mask"].sum()))
    return dict(zip(_PER_STEP, counts, strict=True))


class _LengthGroups(LengthGroupedSampler):
    """Batches of pairs of like length, in an order that seed and epoch alone decide.

    The library's own draws from the global generator, and so a run that resumes after its first
    epoch would meet its pairs in another order than an unbroken one.
    """

    def __init__(self, plain: LengthGroupedSampler, trainer: Trainer):
        # A list: a column is read from its table anew for each of the many comparisons.
        super().__init__(plain.batch_size, lengths=list(plain.lengths))
        self.trainer = trainer

    def __iter__(self):
        epoch = int(self.trainer.state.epoch or 0)
        args = self.trainer.args
        seed = args.seed if args.data_seed is None else args.data_seed
        order = torch.Generator().manual_seed(seed + epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=order))


class OrderedTrainer(Trainer):
    """A Trainer that meets its rows in an order that seed and epoch alone decide."""

    def __init__(self, model: nn.Module, **options):
        super().__init__(model, **options)
        if self.args.bf16 and self.args.device.type == "cpu":
            # PyTorch's fused attention spends more time on its backward pass, for short texts in
            # bf16 on a processor, than the matrix products take.
            model.set_attn_implementation("eager")

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            return _LengthGroups(sampler, self)
        return sampler


class DistillationTrainer(OrderedTrainer):
    """A Trainer whose loss is L = CE(y, ŷ_s) + α·T²·KL(p ‖ q) + β·(hidden-state loss).

    In each step cross entropy is the mean over the labelled pairs, the divergence over all pairs
    and the hidden loss over all tokens, whatever the number of accumulation steps. The teacher's
    outputs come as the columns that `teacher_outputs` adds, or, where `teacher` is given, from a
    forward pass in every step.

    Args:
        alpha: weight α of the soft term; 0 is plain fine-tuning and needs no teacher.
        temperature: T, which softens both distributions (Hinton et al. 2015).
        hidden_map: from the student's hidden_states index to the teacher's, for example {2: 6}.
            Each pair of states meets in a mean squared error after a learned projection
            (TinyBERT, Jiao et al. 2020). The projections train with the student, are kept in
            checkpoints so that a run can resume, and are left out of the saved student.
        hidden_weight: weight β of the mean of these errors.
        teacher_width: the teacher's hidden size, needed with `hidden_map`.
        teacher: a model to run online; it is frozen and stays in eval mode.
        quality: maps logits (N, C) of the evaluation set to named numbers.

    Raises ValueError when α > 0 and a batch carries no teacher output, and warns when labels are
    smoothed as well: the teacher softens them already.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 1.0,
        temperature: float = 1.0,
        hidden_map: Mapping[int, int] | None = None,
        hidden_weight: float = 1.0,
        teacher_width: int | None = None,
        teacher: nn.Module | None = None,
        quality: Callable[[np.ndarray], dict[str, float]] | None = None,
        profile: Profile,
        **options,
    ):
        self.hidden_map = dict(hidden_map or {})
        if self.hidden_map:
            if teacher_width is None:
                raise ValueError("hidden_map needs teacher_width, the teacher's hidden size.")
            with models.seeded(profile.seed):
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
        self.hidden_weight = hidden_weight
        self.quality = quality
        self.profile = profile
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False).to(self.args.device).eval()
        # compute_loss normalises over all pairs of a step itself.
        self.loss_is_scaled_for_ga = True
        self._counts: dict[str, int] | None = None

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [_count(batch) for batch in batches]
        self._counts = {name: sum(count[name] for count in counts) for name in _PER_STEP}
        return batches, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        logits = inputs.pop("teacher_logits", None)
        hidden = {
            index: inputs.pop(f"teacher_hidden_{index}", None) for index in self.hidden_map.values()
        }
        if self.teacher is not None:
            with torch.inference_mode():
                output = self.teacher(**inputs, output_hidden_states=bool(hidden))
            logits = output.logits
            hidden = {index: output.hidden_states[index] for index in hidden}
        if self.alpha > 0 and logits is None:
            raise ValueError(
                "alpha > 0 and the batch has no teacher_logits: add them with teacher_outputs(), "
                "or pass teacher=."
            )
        outputs = model(**inputs, output_hidden_states=bool(hidden))
        # This batch's share of its step: a step may be made of several.
        here = _count({**inputs, "labels": labels})
        share = {name: here[name] / max(1, (self._counts or here)[name]) for name in _PER_STEP}
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
            error = self._hidden_loss(outputs, hidden, inputs)
            loss = loss + self.hidden_weight * error * share["tokens"]
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

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """`quality` of the logits on the evaluation set, in the order of its rows."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        logits = predict(self.model, dataset, self.processing_class, self.profile)
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.quality(logits).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_model(self, output_dir=None, _internal_call=False):
        if _internal_call:
            return super().save_model(output_dir, _internal_call=True)
        model = self.accelerator.unwrap_model(self.model)
        state = model.state_dict()
        model.save_pretrained(
            output_dir or self.args.output_dir,
            state_dict={k: v for k, v in state.items() if not k.startswith("hidden_projection.")},
        )
        self.processing_class.save_pretrained(output_dir or self.args.output_dir)


class _Progress(ProgressCallback):
    """The library's bar without the log lines that it prints between."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class _Clock(TrainerCallback):
    """Puts into each entry of the log the seconds so far, those before a kill included."""

    def on_train_begin(self, args, state, control, **kwargs):
        earlier = state.log_history[-1]["seconds"] if state.log_history else 0.0
        self.start = time.perf_counter() - earlier

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.start, 2)


def fit(
    model: nn.Module,
    train: Dataset,
    validation: Dataset,
    tokenizer,
    profile: Profile,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    quality: Callable[[np.ndarray], dict[str, float]],
    evaluations: int = 5,
    callbacks: Sequence[TrainerCallback] = (),
    **distillation,
) -> list[dict]:
    """Train `model` for `steps` optimiser steps and save the best of it into `folder`.

    The best is the checkpoint with the highest `quality(logits)["quality"]` on `validation`,
    looked at `evaluations` times. Further keyword arguments go to `DistillationTrainer`. A run
    that finds checkpoints of its own in `folder` resumes from the last whole one and reaches the
    same weights as an unbroken run on the same machine. Returns the log, also written to
    `training.json` beside the weights; the `seconds` of its last entry are those of the whole run.
    """
    trainer = DistillationTrainer(
        model,
        args=arguments(
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
        callbacks=list(callbacks),
        **distillation,
    )
    return run_to_end(trainer, folder)


def arguments(
    profile: Profile,
    folder: Path,
    steps: int,
    learning_rate: float,
    evaluations: int = 5,
    kind: type[TrainingArguments] = TrainingArguments,
    **further,
) -> TrainingArguments:
    """How every model of the book is trained; `further` goes to the arguments, of class `kind`.

    The rate rises over the first tenth of the steps and falls to zero. Of `evaluations` looks at
    the evaluation set the best is kept, by `metric_for_best_model` of `further`. Checkpoints go to
    `folder/checkpoints`.
    """
    every = max(1, -(-steps // evaluations))
    precision = models.precision(profile)
    return kind(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=max(1, steps // 10),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        per_device_train_batch_size=profile.batch_size,
        per_device_eval_batch_size=profile.batch_size,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, steps // 50),
        load_best_model_at_end=True,
        remove_unused_columns=False,
        seed=profile.seed,
        data_seed=profile.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=models.device(profile).type == "cpu",
        report_to=[],
        dataloader_pin_memory=models.device(profile).type == "cuda",
        **further,
    )


def run_to_end(trainer: Trainer, folder: Path) -> list[dict]:
    """Train, save into `folder` and return the log, as `fit` says of its own run."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if is_in_notebook():
        from transformers.utils.notebook import NotebookProgressCallback

        trainer.remove_callback(NotebookProgressCallback)
    trainer.add_callback(_Progress)
    trainer.add_callback(_Clock)
    checkpoints = folder / "checkpoints"
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(checkpoints))
    trainer.save_model(str(folder))
    write_text(folder / "training.json", json.dumps(trainer.state.log_history, indent=1))
    shutil.rmtree(checkpoints)
    return trainer.state.log_history


def _last_whole_checkpoint(folder: Path) -> str | None:
    # The Trainer writes trainer_state.json last: a checkpoint without it was cut short.
    for path in folder.glob("checkpoint-*"):
        if not (path / "trainer_state.json").exists():
            shutil.rmtree(path)
    return get_last_checkpoint(str(folder)) if folder.exists() else None
