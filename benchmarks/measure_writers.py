"""Writers of product texts in the demo store: templates, teachers, students, and best of several.

    python benchmarks/measure_writers.py --seeds 20           draws of the store, each its own file
    python benchmarks/measure_writers.py --merge              all files into the record

A student begins with every third layer of the pretrained generator, or of the tuned teacher. It
learns from 400 written texts, or from what the teacher writes: for the same records, and for
600 more. Each row has its own control: as many steps on fewer texts, as many further steps on the
teacher's texts instead of on the student's own. Models and texts are kept as artefacts of their
own, so that a run that was stopped goes on. All of them write greedily, but for best of several.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

import demo_store
import shared
from ecomkd import bench, describe, losses, metrics, models, report, runtime
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.describe import Task, facts, generation

DRAWN, ON_POLICY, RATE = 4, 100, 2e-4
"""Texts among which the checker chooses; steps and rate on the student's own texts."""
UNDESCRIBED = 1_200
"""Products without a text, whose words the generator keeps; the teacher writes for some of them."""
PROMPTED, TEACHER = "prompted, 2 examples", "teacher"
TEMPLATE, PLAIN, WRITTEN = "template", "plain list", "written"
ALONE, ALONE_LONG = "student alone", "student alone, as many steps as the longest"
WORD = "student, word-level"
FIRST = "student, 400 texts of the teacher's, pretrained layers"
STUDENTS = {
    0: "student, 400 texts of the teacher's",
    600: "student, 1,000 texts of the teacher's",
}
LONG = "student, 400 texts of the teacher's, as many steps as the longest"
OWN, FURTHER = "student, then on its own texts", "student, then as long on the teacher's texts"
BEST = STUDENTS[600]
CHOSEN = {TEACHER: "teacher, best of 4", BEST: "student, best of 4"}
CLOCKED = (TEACHER, BEST)


class Run:
    """One draw of the store: its task, and what has been made of it so far, in a folder."""

    def __init__(self, seed: int, folder: Path):
        profile = Profile.named(seed=seed)
        self.of: Task = demo_store.task(profile, undescribed=UNDESCRIBED)
        self.folder, self.profile = folder / f"seed{seed}", self.of.profile
        self.base = describe.base_generator(self.of)
        self.tutor = describe.teacher(self.of)

    def texts(self, name: str, make: Callable[[], list[str]]) -> list[str]:
        """The texts of a writer for the test products, made once."""
        file = self.folder / "texts" / f"{name}.json"
        if not file.exists():
            began = time.time()
            write_text(file, json.dumps(make()))
            print(f"{name}: {time.time() - began:.0f} s", flush=True)
        return json.loads(file.read_text("utf-8"))

    def model(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of a model, trained once."""
        out = self.folder / "models" / name
        if not (out / "config.json").exists():
            began = time.time()
            make(out)
            print(f"{name}: trained in {time.time() - began:.0f} s", flush=True)
        return out

    def write(self, folder: Path, products: Sequence[describe.Product]) -> list[str]:
        return describe.generate_descriptions(folder, products, self.of)

    def layers(self, of: Path) -> tuple[nn.Module, object]:
        """A student with every third layer of the generator in this folder."""
        whole, tokenizer = generation.load(str(of))
        kept = range(0, whole.config.num_hidden_layers, self.of.scale.every)
        return models.build_student(whole, kept), tokenizer

    def fit(
        self, out: Path, start: Path, products, texts: list[str], steps: int, soft: bool = False
    ) -> None:
        model, tokenizer = self.layers(start)
        rows = generation.encode(tokenizer, [one.prompt for one in products], texts)
        if soft:
            known, _ = generation.load(str(self.tutor))
            rows = generation.teacher_tokens(rows, known, tokenizer, self.profile)
        seen = self.of.validation
        asked = [one.prompt for one in seen], [one.written for one in seen]
        generation.fit(
            model,
            rows,
            generation.encode(tokenizer, *asked),
            tokenizer,
            self.profile,
            out,
            steps=steps,
            learning_rate=self.of.scale.student_learning_rate,
            alpha=self.of.scale.alpha * soft,
        )


def steps_of(of: Task, texts: int) -> int:
    """The steps of the usual number of passes over so many texts."""
    return of.scale.student_epochs * -(-texts // of.scale.batch_size)


# The writers --------------------------------------------------------------------------------------


def measured(run: Run) -> dict:
    """What each writer says of the test products."""
    of, began = run.of, time.time()
    asked, told = of.test, of.training_texts
    run.texts(WRITTEN, lambda: [one.written for one in asked])
    run.texts(PLAIN, lambda: [facts.plain(one) for one in asked])
    run.texts(TEMPLATE, lambda: [facts.template(one) for one in asked])
    run.texts(PROMPTED, lambda: describe.prompted(of, examples=2))
    run.texts(TEACHER, lambda: run.write(run.tutor, asked))
    short, longest = steps_of(of, len(of.train)), steps_of(of, len(of.train) + max(STUDENTS))

    def taught(name: str, start: Path, more: int, steps: int, text: str = "teacher", **how):
        products = of.train + of.undescribed[:more]

        def make(out: Path) -> None:
            own = told if text == "reference" else run.write(run.tutor, products)
            run.fit(out, start, products, own, steps, **how)

        folder = run.model(name, make)
        run.texts(name, lambda: run.write(folder, asked))
        return folder

    folders = {ALONE: taught(ALONE, run.base, 0, short, "reference")}
    first = taught(STUDENTS[0], run.tutor, 0, short)
    folders[BEST] = taught(BEST, run.tutor, max(STUDENTS), longest)
    folders[OWN] = run.model(OWN, lambda out: on_policy(run, first, out))
    run.texts(OWN, lambda: run.write(folders[OWN], asked))
    for name, folder in ((TEACHER, run.tutor), (BEST, folders[BEST])):
        run.texts(CHOSEN[name], lambda folder=folder: best_of(run, folder))
    folders[FURTHER] = run.model(FURTHER, lambda out: on_policy(run, first, out, own=False))
    run.texts(FURTHER, lambda: run.write(folders[FURTHER], asked))
    taught(FIRST, run.base, 0, short)
    taught(WORD, run.base, 0, short, "reference", soft=True)
    taught(LONG, run.tutor, 0, longest)
    taught(ALONE_LONG, run.base, 0, longest, "reference")
    names = [TEMPLATE, PLAIN, WRITTEN, PROMPTED, TEACHER, ALONE, ALONE_LONG, FIRST, WORD]
    names += [*STUDENTS.values(), LONG, OWN, FURTHER, *CHOSEN.values()]
    texts = {name: run.texts(name, list) for name in names}
    return {
        "product": [one.product_id for one in asked],
        "records": [one.record for one in asked],
        "texts": texts,
        "speed": speed({TEACHER: run.tutor, BEST: folders[BEST]}, of),
        "seconds": time.time() - began,
        "scale": of.scale.__dict__,
    }


def on_policy(run: Run, start: Path, out: Path, own: bool = True) -> None:
    """Further steps of a student on texts that it writes itself, with the teacher's distribution of
    each of their tokens: generalised knowledge distillation with λ = 1 and the forward divergence
    (Agarwal et al. 2024, arXiv:2306.13649). With `own` False the texts are the teacher's.
    """
    of, device = run.of, runtime.device(run.profile)
    student, tokenizer = generation.load(str(start))
    tutor, _ = generation.load(str(run.tutor))
    student, tutor = student.to(device), tutor.to(device)
    products = of.train + of.undescribed[: max(STUDENTS)]
    rng = np.random.default_rng(of.profile.seed)
    drawn = rng.choice(len(products), (ON_POLICY, of.scale.batch_size))
    texts = None if own else run.write(run.tutor, products)
    optimiser = torch.optim.AdamW(student.parameters(), RATE)
    pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 1 - n / ON_POLICY)
    for step, rows in enumerate(drawn):
        prompts = [products[row].prompt for row in rows]
        if own:
            written, _ = generation.generate(
                student, tokenizer, prompts, run.profile,
                max_new_tokens=of.scale.max_new_tokens, sampled=step,
            )  # fmt: skip
        else:
            written = [texts[row] for row in rows]
        batch = generation.encode(tokenizer, prompts, written)
        optimiser.zero_grad()
        forward_kl(student.train(), tutor, batch, tokenizer).backward()
        clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        pace.step()
        if step % 20 == 0:
            print(f"on policy, own {own}: step {step}", flush=True)
    student.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)


def forward_kl(student: nn.Module, tutor: nn.Module, rows, tokenizer) -> torch.Tensor:
    """KL(p ‖ q) of each token of the texts, teacher p against student q, the mean over tokens."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    inputs = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=losses.IGNORE)
    device = student.device
    given = {"input_ids": inputs.to(device), "attention_mask": mask.to(device)}
    with torch.inference_mode():
        wanted, _ = generation.described(tutor(**given).logits, labels.to(device))
    found, _ = generation.described(student(**given).logits, labels.to(device))
    return losses.soft_kl(found, wanted.clone())


def best_of(run: Run, folder: Path) -> list[str]:
    """Of several drawn texts and the greedy one, that of which the checker finds least wrong, and
    then most facts; of equals the greedy one, then the first."""
    of = run.of
    drawn = [run.write(folder, of.test)]
    for seed in range(DRAWN - 1):
        drawn.append(describe.generate_descriptions(folder, of.test, of, sampled=seed))
    chosen = []
    for product, *texts in zip(of.test, *drawn, strict=True):
        seen = [of.vocabulary.check(text, product) for text in texts]
        keys = [(len(one.wrong), -len(one.named), i) for i, one in enumerate(seen)]
        chosen.append(texts[min(keys)[2]])
    return chosen


def speed(folders: dict[str, Path], of: Task, rounds: int = 5) -> dict:
    """Tokens per second of teacher and student, in turn, one text at a time and 32 together."""
    found: dict = {f"{name}/{n}": [] for name in folders for n in (1, 32)}
    loaded = {name: generation.load(str(folder)) for name, folder in folders.items()}
    for _ in range(rounds):
        for name, (model, tokenizer) in loaded.items():
            for together, texts in ((1, 2), (32, 32)):
                prompts = [product.prompt for product in of.test[:texts]]
                (_, tokens), seconds = shared.timed(
                    generation.generate, model, tokenizer, prompts, of.profile,
                    max_new_tokens=of.scale.max_new_tokens, batch_size=together,
                )  # fmt: skip
                found[f"{name}/{together}"].append(tokens / seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Writers of product texts.")
    arguments = shared.arguments_of(parser, "writers", scaled=False)
    shared.run(
        arguments, lambda seed: measured(Run(seed, arguments.folder)), merge
    )


if __name__ == "__main__":
    main()
