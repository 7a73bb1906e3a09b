"""Writers of product texts in the demo store: templates, teachers, students, and best of several.

    python benchmarks/measure_writers.py --seeds 20           draws of the store, each its own file
    python benchmarks/measure_writers.py --merge              all files into the record

needs ECOMKD_REAL_DATA, whose folder has the demo store (`demo_store/products.parquet`).

A student begins with every third layer of the pretrained generator, or of the tuned teacher. It
learns from 400 written texts, or from what the teacher writes: for the same records, and for 600
more. All take as many steps, but for the rows that say otherwise: one student takes more of them on
the same texts, one goes on with texts that it writes itself, beside one that goes on as long with
the teacher's. All writers are greedy, but for best of several. Models and texts are kept, so that a
run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

import demo_store
import shared
from ecomkd import describe, losses, metrics, models, report, runtime
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.describe import Task, facts, generation
from measure_descriptions import differences, told

DRAWN, ON_POLICY, RATE = 4, 100, 2e-4
"""Texts among which the checker chooses; steps and rate on the student's own texts."""
SHOWN = 4
"""Products of which the texts are kept."""
UNDESCRIBED = 1_200
"""Products without a text, whose words the generator keeps; the teacher writes for some of them."""
PROMPTED, TEACHER = "prompted, 2 examples", "teacher"
TEMPLATE, PLAIN, WRITTEN = "template", "plain list", "written"
ALONE, FIRST = "student alone", "student, 400 texts of the teacher's, pretrained layers"
TUNED = "student, 400 texts of the teacher's"
MORE = "student, 1,000 texts of the teacher's"
LONG = "student, 1,000 texts of the teacher's, 500 steps"
MOST = "student, 1,600 texts of the teacher's, 500 steps"
OWN, FURTHER = "student, then on its own texts", "student, then as long on the teacher's texts"
CHOSEN = {LONG: "student, best of 4", TEACHER: "teacher, best of 4"}
MEASURES = ("contradicted", "invented", "clean", "reading_ease")
FURTHER_RECORDS, LONG_STEPS = 600, 500
"""Records beside the 400, of which the teacher writes a part at a time."""
ROWS = (WRITTEN, PLAIN, TEMPLATE, PROMPTED, TEACHER, ALONE, FIRST, TUNED, MORE, LONG, MOST, OWN,
        FURTHER, *CHOSEN.values())  # fmt: skip
COMPARED = ((TEACHER, PROMPTED), (FIRST, ALONE), (TUNED, FIRST), (MORE, TUNED), (LONG, MORE),
            (MOST, LONG), (OWN, MORE), (OWN, FURTHER), (LONG, TEACHER), (CHOSEN[LONG], LONG),
            (CHOSEN[TEACHER], TEACHER), (LONG, ALONE))  # fmt: skip


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

    def lesson(self, more: int) -> tuple[Sequence[describe.Product], list[str]]:
        """The teacher's texts of the records for training, and of so many more."""
        ends = range(FURTHER_RECORDS, more + 1, FURTHER_RECORDS)
        first = self.of.train + self.of.undescribed[: min(more, FURTHER_RECORDS)]
        parts = [first, *(self.of.undescribed[end - FURTHER_RECORDS : end] for end in ends[1:])]
        texts = [text for part in parts for text in self.write(self.tutor, part)]
        return [one for part in parts for one in part], texts

    def layers(self, of: Path) -> tuple[nn.Module, object]:
        """A student with every third layer of the generator in this folder."""
        whole, tokenizer = generation.load(str(of))
        kept = range(0, whole.config.num_hidden_layers, self.of.scale.every)
        return models.build_student(whole, kept), tokenizer

    def fit(self, out: Path, start: Path, products, texts: list[str], steps: int) -> None:
        model, tokenizer = self.layers(start)
        rows = generation.encode(tokenizer, [one.prompt for one in products], texts)
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
        )


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
    steps = of.scale.student_epochs * -(-len(of.train) // of.scale.batch_size)

    def taught(name: str, start: Path, more: int, steps: int, written: bool = False) -> Path:
        def make(out: Path) -> None:
            own = (of.train, told) if written else run.lesson(more)
            run.fit(out, start, *own, steps)

        folder = run.model(name, make)
        run.texts(name, lambda: run.write(folder, asked))
        return folder

    taught(ALONE, run.base, 0, steps, written=True)
    taught(TUNED, run.tutor, 0, steps)
    middle = taught(MORE, run.tutor, FURTHER_RECORDS, steps)
    longest = taught(LONG, run.tutor, FURTHER_RECORDS, LONG_STEPS)
    taught(MOST, run.tutor, 2 * FURTHER_RECORDS, LONG_STEPS)
    run.texts(CHOSEN[LONG], lambda: best_of(run, longest))
    for name, own in ((OWN, True), (FURTHER, False)):
        folder = run.model(name, lambda out, own=own: on_policy(run, middle, out, own))
        run.texts(name, lambda folder=folder: run.write(folder, asked))
    taught(FIRST, run.base, 0, steps)
    run.texts(CHOSEN[TEACHER], lambda: best_of(run, run.tutor))
    texts = {name: run.texts(name, list) for name in ROWS}
    known = (of.test, of.vocabulary, of.training_texts)
    return {
        "catalogue": len(demo_store.catalogue()),
        "product": [one.product_id for one in asked],
        "rows": {name: facts.measure(own, *known).to_dict("list") for name, own in texts.items()},
        "guarded": {name: guarded(own, of) for name, own in texts.items()},
        "shown": [
            {"record": one.record, **{name: own[i] for name, own in texts.items()}}
            for i, one in enumerate(asked[:SHOWN])
        ],
        "sizes": {
            name: generation.parameters(generation.load(str(folder))[0])
            for name, folder in ((TEACHER, run.tutor), (LONG, longest))
        },
        "speed": speed({TEACHER: run.tutor, LONG: longest}, of),
        "seconds": time.time() - began,
        "scale": of.scale.__dict__,
    }


def guarded(texts: list[str], of: Task) -> dict:
    """The measures of the texts behind the guard; what it refuses is the template."""
    safe = [
        facts.mend(text, product, of.vocabulary) or facts.template(product)
        for text, product in zip(texts, of.test, strict=True)
    ]
    known = (of.test, of.vocabulary, of.training_texts)
    return facts.measure(safe, *known).to_dict("list")


def on_policy(run: Run, start: Path, out: Path, own: bool = True) -> None:
    """Further steps of a student on texts that it writes itself, with the teacher's distribution of
    each of their tokens: generalised knowledge distillation with λ = 1 and the forward divergence
    (Agarwal et al. 2024, arXiv:2306.13649). With `own` False the texts are the teacher's.
    """
    of, device = run.of, runtime.device(run.profile)
    student, tokenizer = generation.load(str(start))
    tutor, _ = generation.load(str(run.tutor))
    student, tutor = student.to(device), tutor.to(device)
    products, texts = run.lesson(FURTHER_RECORDS)
    rng = np.random.default_rng(of.profile.seed)
    drawn = rng.choice(len(products), (ON_POLICY, of.scale.batch_size))
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


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single draws."""
    parts = shared.read(folder, ("profile", "scale", "catalogue"))
    tables = {name: table(parts, "rows", name) for name in ROWS}
    safe = {name: table(parts, "guarded", name) for name in ROWS}
    data = {
        "catalogue": parts[0]["catalogue"],
        "products": len(tables[TEACHER]),
        "rows": {name: told(own) | {"guarded": told(safe[name])} for name, own in tables.items()},
        "minus": {f"{a} − {b}": differences(tables[a], tables[b], MEASURES) for a, b in COMPARED},
        "clean, student over teacher": ratio(tables[LONG], tables[TEACHER], "clean"),
        "speed": {n: faster(parts, n) for n in (1, 32)},
        "sizes": parts[0]["sizes"],
        "shown": parts[0]["shown"],
        "scale": parts[0]["scale"],
    }
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_writers.py --seeds "
        f"{' '.join(str(part['seed']) for part in parts)}, --merge",
        seeds=[part["seed"] for part in parts],
        hardware=parts[0]["hardware"],
        generator=None,
        data=data,
        goals=goals_of(data),
    )
    print(out)


def table(parts: list[dict], kind: str, name: str) -> pd.DataFrame:
    """The measures of each product, means over the draws that tested it."""
    own = [pd.DataFrame(part[kind][name]).assign(product=part["product"]) for part in parts]
    return pd.concat(own).groupby("product").mean()


def ratio(a: pd.DataFrame, b: pd.DataFrame, name: str) -> dict:
    both = pd.DataFrame({"a": a[name], "b": b[name]})
    return metrics.bootstrap_of_means(both, lambda means: means["a"] / means["b"].clip(1e-9))


def faster(parts: list[dict], together: int) -> dict[str, float]:
    """How many times as many tokens a second the student writes: the median over rounds in which
    both took their turn, with the least and the most."""
    found = [
        student / teacher
        for part in parts
        for student, teacher in zip(
            part["speed"][f"{LONG}/{together}"], part["speed"][f"{TEACHER}/{together}"],
            strict=True,
        )
    ]  # fmt: skip
    return shared.over_rounds(found)


def goals_of(data: dict) -> list[dict]:
    rows, clean = data["rows"], data["clean, student over teacher"]
    ease = rows[LONG]["guarded"]["reading_ease"]["value"] - rows[TEMPLATE]["reading_ease"]["value"]
    return [
        report.goal(
            "clean texts of the student, as a share of its teacher's", *shared.ends(clean),
            "at least 0.8", clean["value"] >= 0.8,
        ),
        shared.exact(
            "reading ease of the guarded student, minus the template's", ease, "above 0", ease > 0
        ),
        *(
            shared.above(f"clean texts, {a} minus {b}", data["minus"][f"{a} − {b}"]["clean"])
            for a, b in ((TUNED, FIRST), (MORE, TUNED), (LONG, MORE), (MOST, LONG), (OWN, FURTHER))
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Writers of product texts.")
    arguments = shared.arguments_of(parser, "writers", scaled=False)
    shared.run(arguments, lambda seed: measured(Run(seed, arguments.folder)), merge)


if __name__ == "__main__":
    main()
