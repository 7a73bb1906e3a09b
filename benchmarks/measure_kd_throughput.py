"""Pairs per second of distillation on the processor: ecomkd beside four others, in one run.

    pip install textbrewer torchdistill tensorboard torchvision
    python benchmarks/measure_kd_throughput.py

Rows in bf16 are measured where the processor has AMX, or with ECOMKD_PRECISION=bf16. The record has
them, though its command does not say so.

The profile comes from ECOMKD_PROFILE. Pairs are cut where the profile cuts them, which makes nearly
all of them equally long, and in a second run at 128 tokens, which leaves them whole. All learn from
the logits of one teacher on unlabelled pairs, with copies of one student, with the profile's
dropout and with word embeddings that stay, the same fused AdamW, gradients clipped at norm 1, and
batches padded to their longest pair. A round draws pairs and gives each of them once to every
system, in an order that turns from round to round. The clock runs from the first batch asked for to
the last optimiser step. Weights do not change the speed, so the teacher is not fine-tuned.
Attention is computed as each does by default: ecomkd's trainer leaves PyTorch's fused kernel in
bf16, whose backward pass is slow; all others go through it.

- The plain loop runs the teacher in every step; in bf16 too, for which no goal is set.
- TextBrewer: `GeneralDistiller` as in its quick start, and with cached outputs as in its manual
  (`teacher_cache`). Its mixed precision needs apex, so fp32.
- torchdistill: `DistillationBox` as in its GLUE configurations. Its mixed precision asks
  accelerate for `use_fp16`, which version 1 no longer has, so fp32.
- Sentence Transformers: `CrossEncoderTrainer` and `MSELoss` on the teacher's cached score, one
  number a pair, as in its example of distillation. It tokenises in every step.

Cached outputs cost one pass of the teacher. It is left out, or counted in over one epoch and over
the profile's `student_epochs`: for all who read them at the speed of `distill.teacher_outputs`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, RandomSampler

from ecomkd import bench, distill, load, losses, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.sources import product_text

try:
    import sentence_transformers.cross_encoder as cross
    import textbrewer
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
except ImportError as error:
    need = "pip install textbrewer torchdistill tensorboard torchvision"
    raise SystemExit(f"{error}: {need}") from error

RECORDED = Path(report.__file__).parent / "recorded" / "kd_throughput.json"
PACKAGES = ("textbrewer", "torchdistill", "sentence-transformers", "accelerate")
TOKENS = ("input_ids", "token_type_ids")
ADAMW = {"lr": 1e-4, "fused": True}
TRAINER = {"num_train_epochs": 1, "optim": "adamw_torch_fused", "use_cpu": True}
QUIET = {"save_strategy": "no", "report_to": [], "disable_tqdm": True}
TIMES: list[float] = []
"""When the clock was started, and when each optimiser step since then was done."""


class Clock(transformers.TrainerCallback):
    def on_epoch_begin(self, *args, **kwargs):
        TIMES[:] = [time.perf_counter()]


def ecomkd(work: SimpleNamespace, precision: str) -> None:
    buckets = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    trainer = distill.DistillationTrainer(
        copy.deepcopy(work.student),
        args=transformers.TrainingArguments(**options(work, precision), **buckets),
        train_dataset=work.pairs,
        processing_class=work.tokenizer,
        data_collator=distill.PairCollator(work.tokenizer),
        profile=work.profile,
    )
    train(trainer)


def cross_encoder(work: SimpleNamespace, precision: str) -> None:
    length = work.profile.max_length
    model = cross.CrossEncoder(work.scorer, num_labels=1, max_length=length, device="cpu")
    models.freeze(model.transformers_model, 0)
    models.set_dropout(model.transformers_model, work.profile.student_dropout)
    trainer = cross.CrossEncoderTrainer(
        model,
        cross.CrossEncoderTrainingArguments(**options(work, precision)),
        train_dataset=work.texts,
        loss=cross.losses.MSELoss(model),
    )
    train(trainer)


def options(work: SimpleNamespace, precision: str) -> dict:
    own = {"output_dir": work.folder, "per_device_train_batch_size": work.profile.batch_size}
    return {**TRAINER, **QUIET, **own, "bf16": precision == "bf16"}


def train(trainer: transformers.Trainer) -> None:
    trainer.add_callback(Clock)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def plain_loop(work: SimpleNamespace, precision: str) -> None:
    student = copy.deepcopy(work.student).train()
    optimizer, batches = torch.optim.AdamW(student.parameters(), **ADAMW), loader(work, work.pad)
    Clock().on_epoch_begin()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                target = work.teacher(**batch).logits
            logits = student(**batch).logits
        losses.soft_kl(logits, target).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def loader(work: SimpleNamespace, collate: Callable, *columns: str) -> DataLoader:
    rows = work.pairs.select_columns([*TOKENS, *columns])
    return DataLoader(rows, work.profile.batch_size, shuffle=True, collate_fn=collate)


def brew(work: SimpleNamespace, precision: str, cached: bool = False) -> None:
    def plain(rows: list[dict]) -> dict:
        return dict(work.pad(rows))

    def with_cache(rows: list[dict]) -> dict:
        cache = {"logits": torch.tensor([row.pop("teacher_logits") for row in rows])}
        return {"teacher": {}, "student": plain(rows), "teacher_cache": cache}

    def adaptor(batch: dict, outputs: dict) -> dict:
        return {"logits": outputs["logits"]}

    student = copy.deepcopy(work.student)
    distiller = textbrewer.GeneralDistiller(
        textbrewer.TrainingConfig(device="cpu", output_dir=work.folder, ckpt_steps=work.steps),
        textbrewer.DistillationConfig(temperature=1),
        *(work.teacher, student, adaptor, adaptor),
    )
    optimizer = torch.optim.AdamW(student.parameters(), **ADAMW)
    batches = loader(work, with_cache, "teacher_logits") if cached else loader(work, plain)
    with distiller:
        Clock().on_epoch_begin()
        distiller.train(optimizer, batches, num_steps=work.steps, max_grad_norm=1.0)


def box(work: SimpleNamespace, precision: str) -> None:
    register_collate_func(work.pad, key="pad")
    ends = {"module_path": "classifier", "module_io": "output"}
    term = {f"{side}_{key}": ends[key] for side in ("student", "teacher") for key in ends}
    kd = {"key": "KDLoss", "kwargs": {**term, "temperature": 1, "alpha": 0}}
    terms = {"kd": {"criterion": kd, "weight": 1}}
    hooks = {"output": ["classifier"]}
    model = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": hooks}
    batches = {"dataset_id": "pairs", "collate_fn": "pad", "requires_supp": False}
    batches["sampler"] = {"class_or_func": RandomSampler}
    batches["kwargs"] = {"batch_size": work.profile.batch_size}
    settings = {
        "num_epochs": 1,
        "train_data_loader": batches,
        "teacher": {**model, "requires_grad": False},
        "student": model,
        "optimizer": {"key": "AdamW", "kwargs": dict(ADAMW), "max_grad_norm": 1.0},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    # Copies, for the box leaves its hooks on the models.
    pair = copy.deepcopy((work.teacher, work.student))
    data = {"pairs": work.pairs.select_columns(list(TOKENS))}
    training = get_distillation_box(*pair, data, settings, torch.device("cpu"), None, False, 1)
    training.pre_epoch_process(epoch=0)
    Clock().on_epoch_begin()
    for batch in training.train_data_loader:
        loss = training.forward_process(batch, targets=None, supp_dict=None)
        training.post_forward_process(loss=loss)


class System(NamedTuple):
    name: str
    precision: str
    cached: bool
    goal: int | None
    """How many times its rate ecomkd is to reach."""
    train: Callable[[SimpleNamespace, str], None]

    @property
    def title(self) -> str:
        teacher = "cached teacher" if self.cached else "teacher in every step"
        return f"{self.name} ({self.precision}, {teacher})"


SYSTEMS = (
    System("plain loop", "fp32", False, 4, plain_loop),
    System("plain loop", "bf16", False, None, plain_loop),
    System("TextBrewer", "fp32", False, 4, brew),
    System("TextBrewer", "fp32", True, 4, partial(brew, cached=True)),
    System("torchdistill", "fp32", False, 4, box),
    System("Sentence Transformers", "fp32", True, 2, cross_encoder),
    System("Sentence Transformers", "bf16", True, 2, cross_encoder),
)


def prepare(profile: Profile, pairs: int | None, folder: str) -> SimpleNamespace:
    """The models, and the pool of pairs as tokens and as texts."""
    pool = load("shop", profile)["unlabelled"].shuffle(seed=profile.seed)
    pool = pool.select(range(len(pool))[:pairs])
    texts = pool.map(lambda row: {"text": product_text(row)})
    tokenizer = models.load_tokenizer(profile.teacher)
    labels = pool.features["label"].names
    teacher = models.build_teacher(profile.teacher, labels, profile.seed).eval()
    student = models.build_student(teacher, profile.student_layers)
    models.freeze(student, 0)
    models.set_dropout(student, profile.student_dropout)
    scorer = models.build_teacher(profile.teacher, ["score"], profile.seed)
    for part in (models.build_student(scorer, profile.student_layers), tokenizer):
        part.save_pretrained(f"{folder}/scorer")
    return SimpleNamespace(
        profile=profile,
        folder=folder,
        scorer=f"{folder}/scorer",
        tokenizer=tokenizer,
        pad=transformers.DataCollatorWithPadding(tokenizer),
        teacher=teacher.requires_grad_(False),
        student=student,
        pool=distill.encode(pool, tokenizer, profile.max_length),
        pool_texts=texts.select_columns(["query", "text"]),
    )


def one_round(work: SimpleNamespace, order: list[System], steps: int, seed: int) -> dict:
    """Pairs per second of each system and of the teacher's pass, on pairs drawn with `seed`."""
    wanted = steps * work.profile.batch_size
    drawn = np.random.default_rng(seed).choice(len(work.pool), wanted, replace=False)
    encoded = work.pool.select(drawn).flatten_indices()
    began = time.perf_counter()
    pairs = distill.teacher_outputs(encoded, work.teacher, work.tokenizer, work.profile)
    rates = {"teacher's pass": wanted / (time.perf_counter() - began)}
    work.steps, work.pairs = steps, pairs.flatten_indices()
    # The teacher's first logit stands for its score.
    scores = [logits[0] for logits in pairs["teacher_logits"]]
    work.texts = work.pool_texts.select(drawn).flatten_indices().add_column("label", scores)
    for system in order:
        gc.collect()
        system.train(work, system.precision)
        if len(TIMES) != steps + 1:
            raise RuntimeError(f"{system.name} made {len(TIMES) - 1} steps in place of {steps}.")
        rates[system.title] = wanted / (TIMES[-1] - TIMES[0])
    print("   ".join(f"{name}: {rate:.0f} pairs/s" for name, rate in rates.items()), flush=True)
    return rates


def summary(
    found: list[System], rates: pd.DataFrame, student_epochs: int, max_length: int
) -> tuple[list, list]:
    """Rows of medians, lowest and highest: of each rate, and of ecomkd's over it; and the goals.

    Goals are for the teacher's pass left out, and counted in over the epochs of a student.
    """
    rows, goals = [], []
    for epochs in (None, *sorted({1, student_epochs})):
        once = 0 if epochs is None else 1 / epochs / rates["teacher's pass"]
        rate = {s: 1 / (1 / rates[s.title] + s.cached * once) for s in found}
        for system in found:
            ratio = rate[found[0]] / rate[system]
            row = {"max_length": max_length, "system": system.title, "pass_over_epochs": epochs}
            for key, values in {"pairs_per_second": rate[system], "ratio": ratio}.items():
                row[key] = float(values.median())
                row |= {f"{key}_low": float(values.min()), f"{key}_high": float(values.max())}
            rows.append(row)
            if system.goal and epochs in (None, student_epochs):
                how = f"counted in over {epochs} epochs" if epochs else "left out"
                name = f"ecomkd's pairs per second over {system.title}; pairs of up to "
                name += f"{max_length} tokens; teacher's pass {how}"
                values = (row["ratio"], row["ratio_low"], row["ratio_high"])
                met = row["ratio"] >= system.goal
                goals.append(report.goal(name, *values, wanted=f"≥ {system.goal}", met=met))
    return rows, goals


def measure(
    profile: Profile, found: list[System], rounds: int, steps: int, pairs: int | None
) -> tuple[list[dict], float]:
    """The rates of every round at the profile's `max_length`, and the mean tokens of a pair."""
    with TemporaryDirectory() as folder:
        work = prepare(profile, pairs, folder)
        pool, most = len(work.pool), len(work.pool) // profile.batch_size
        if rounds < 1 or not 1 <= steps <= most:
            raise SystemExit(f"{pool} pairs: give --rounds of 1 or more and 1 to {most} --steps.")
        one_round(work, found, min(5, steps), seed=0)  # warm-up
        rates = []
        for number in range(1, rounds + 1):
            turn = number % len(found)
            rates.append(one_round(work, found[turn:] + found[:turn], steps, seed=number))
        return rates, float(np.mean(work.pool["length"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Pairs per second of distillation.")
    parser.add_argument("--rounds", type=int, default=5, help="over which medians are taken")
    parser.add_argument("--steps", type=int, default=100, help="of each system in a round")
    parser.add_argument("--pairs", type=int, help="pool that rounds draw from (all unlabelled)")
    parser.add_argument(
        "--max-length", type=int, nargs="+", help="where pairs are cut (the profile's, and 128)"
    )
    parser.add_argument("--out", type=Path, default=RECORDED, help="JSON file to write")
    arguments = parser.parse_args()
    profile = Profile.named(device="cpu")
    lengths = arguments.max_length or [profile.max_length, 128]
    best = runtime.precision(profile)
    found = [System("ecomkd", best, True, None, ecomkd)]
    found += [system for system in SYSTEMS if system.precision in ("fp32", best)]
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    register_optimizer_step_post_hook(lambda *_: TIMES.append(time.perf_counter()))
    rows, goals, rounds, tokens = [], [], {}, {}
    for length in lengths:
        cut = replace(profile, max_length=length)
        print(f"Pairs of up to {length} tokens")
        counts = (arguments.rounds, arguments.steps, arguments.pairs)
        rounds[length], tokens[length] = measure(cut, found, *counts)
        table, met = summary(found, pd.DataFrame(rounds[length]), cut.student_epochs, length)
        rows += table
        goals += met
    pairs = f" --pairs {arguments.pairs}" if arguments.pairs else ""
    report.write_recorded(
        arguments.out,
        command=f"python benchmarks/measure_kd_throughput.py --rounds {arguments.rounds} "
        f"--steps {arguments.steps}{pairs} --max-length {' '.join(map(str, lengths))}",
        seeds=[profile.seed],
        hardware=bench.hardware(),
        generator=shop.generator_hash(),
        data={
            "profile": profile.name,
            "batch_size": profile.batch_size,
            "mean_tokens": tokens,
            "student_layers": profile.student_layers,
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "rounds": rounds,
            "table": rows,
        },
        goals=goals,
    )
    print(pd.DataFrame(rows).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
