"""What every training of the book shares: its arguments, an order that a seed decides, resuming.

Chapters 3, 4, 7, 8, 10, 12 and 13.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecomkd.extras import needed

with needed("ecomkd.trainer", "run"):
    import torch
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
    from transformers.trainer_utils import get_last_checkpoint

from ecomkd import runtime
from ecomkd.artifacts import write_text
from ecomkd.config import Profile


class _LengthGroups(LengthGroupedSampler):
    """Batches of pairs of like length, in an order that seed and epoch alone decide.

    The library's own draws from the global generator, and so a run that resumes after its first
    epoch would meet its pairs in another order than an unbroken one. Several processes, which take
    batches in turn, meet the same pairs in each step as one does.
    """

    def __init__(self, plain: LengthGroupedSampler, trainer: Trainer):
        # A list: a column is read from its table anew for each of the many comparisons.
        super().__init__(plain.batch_size * trainer.args.world_size, lengths=list(plain.lengths))
        self.trainer = trainer

    def __iter__(self):
        epoch = int(self.trainer.state.epoch or 0)
        args = self.trainer.args
        seed = args.seed if args.data_seed is None else args.data_seed
        order = torch.Generator().manual_seed(seed + epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=order))


class OrderedTrainer(Trainer):
    """A Trainer that meets its rows in an order that seed and epoch alone decide."""

    def __init__(self, model: Any, **options: Any):
        super().__init__(model, **options)
        # A network of one's own has no kinds of attention to choose from.
        chooses = hasattr(model, "set_attn_implementation")
        if chooses and self.args.bf16 and self.args.device.type == "cpu":
            # PyTorch's fused attention spends more time on its backward pass, for short texts in
            # bf16 on a processor, than the matrix products take.
            model.set_attn_implementation("eager")

    # A private name: the library has no public way to give a sampler of one's own.
    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            return _LengthGroups(sampler, self)
        return sampler


class MeasuredTrainer(OrderedTrainer):
    """An OrderedTrainer that is evaluated by numbers of its own, not by its loss."""

    control: TrainerControl

    def measure(self, dataset: Any) -> Mapping[str, float]:
        """Named numbers of the model on an evaluation set; each subclass says which."""
        raise NotImplementedError

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """`measure` of the evaluation set, logged, and handed to the callbacks."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        found = self.measure(dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


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


def arguments(
    profile: Profile,
    folder: Path,
    steps: int,
    learning_rate: float,
    evaluations: int = 5,
    kind: type[TrainingArguments] = TrainingArguments,
    **further: Any,
) -> TrainingArguments:
    """How every model of the book is trained; `further` goes to the arguments, of class `kind`.

    The processes of `accelerate launch` share the pairs of a batch, so that a step is the same step
    whatever their number. Without it one graphics card is used, however many there are. Raises
    ValueError for a batch that the processes cannot share evenly, and for no evaluation.

    The rate rises over the first tenth of the steps and falls to zero. Of some `evaluations` looks
    at the evaluation set, the last of them at the end, the best is kept, by
    `metric_for_best_model` of `further`. Checkpoints go to `folder/checkpoints`.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations}: give 1 or more, for the best look is kept.")
    every = max(1, -(-steps // evaluations))
    precision = runtime.precision(profile)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if profile.batch_size % processes:
        raise ValueError(
            f"batch_size={profile.batch_size}: {processes} processes cannot share it evenly; give "
            "a multiple of their number."
        )
    made = kind(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=max(1, steps // 10) if steps > 1 else 0,  # else a single step had rate 0
        lr_scheduler_type="linear",
        weight_decay=0.01,
        per_device_train_batch_size=profile.batch_size // processes,
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
        use_cpu=runtime.device(profile).type == "cpu",
        report_to=[],
        # Else a projection that is used beside the model's forward pass counts as unused.
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=runtime.device(profile).type == "cuda",
        **further,
    )
    if made.n_gpu > 1:  # The library would hand each card a batch, and multiply the step by them.
        made._n_gpu = 1
    return made


def _no_word_of_mtime(entry: logging.LogRecord) -> bool:
    """Whether it is not the Trainer's warning about checkpoints of the same second.

    A quick run writes several, and the Trainer then orders them by their numbers, which is right.
    """
    return "mtime may not be reliable" not in entry.getMessage()


def run_to_end(trainer: Trainer, folder: Path) -> list[dict]:
    """Train, save into `folder` and return the log, as `distill.fit` says of its own run."""
    logging.getLogger("transformers.trainer_utils").addFilter(_no_word_of_mtime)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.add_callback(_Progress)
    trainer.add_callback(_Clock)
    checkpoints, first = folder / "checkpoints", trainer.is_world_process_zero()
    if first:
        _drop_unfinished(checkpoints)
    trainer.accelerator.wait_for_everyone()
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if first:
        write_text(folder / "training.json", json.dumps(trainer.state.log_history, indent=1))
        for state in checkpoints.glob("*/trainer_state.json"):
            state.unlink()  # If the deletion is cut short, none is taken for whole.
        shutil.rmtree(checkpoints)
    return trainer.state.log_history


def _drop_unfinished(folder: Path) -> None:
    # The Trainer writes trainer_state.json last: a checkpoint without a whole one was cut short.
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
