"""Pairs per second of distillation in two processes over one, and whether they learn the same.

    python benchmarks/measure_training.py --once --seeds 0 1 2 --merge

`accelerate launch` starts the same script with one process and with two, on one thread each, over
gloo; and with one process on two threads, for that is what a machine of two cores does by itself.
The student is the profile's, in float32, without dropout and with word embeddings that stay; one
pair in three has a label. Each step takes the profile's batch, whatever the number of processes.

A round is what `--seeds` names: a seed draws the pairs and decides their order, and turns the order
of the ways. Rounds that are there are kept, so that a stopped run goes on: remove the folder to
measure anew. The rate leaves out the first steps, and the one after an evaluation, in which a
checkpoint is written too. `--once` kills both processes in the second half (SIGKILL), starts them
again, and compares with one process that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

import shared
from ecomkd import distill, load, models, report
from ecomkd.config import Profile
from ecomkd.data import shop

STEPS = 60
WARM = 5
"""Steps that no rate counts."""
VALIDATION = 64
SAME = ("profile", "hardware", "steps", "batch_size")
ONE, TWO, THREADS = "one process", "two processes", "one process, two threads"
WAYS = {ONE: (1, 1), TWO: (2, 1), THREADS: (1, 2)}
"""Processes, and the threads of each."""


def settings(seed: int, artifacts: Path) -> Profile:
    """The profile that all ways share: rates in float32, for that is where curves are compared."""
    return Profile.named(device="cpu", precision="fp32", seed=seed, artifacts=artifacts)


# In the processes of accelerate -------------------------------------------------------------------


class Kill(TrainerCallback):
    """Ends the process after so many steps."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(place: Path, out: Path, seed: int, steps: int, killed: int) -> None:
    """Distil the student of `place` on its pairs into `out`; with `killed`, die after that step."""
    # One text is one write, which another process cannot break.
    print(f"world size {os.environ.get('WORLD_SIZE', 1)}")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if killed:
        own = distill.DistillationTrainer.train

        def mortal(self, *given, **options):
            self.add_callback(Kill(killed))
            return own(self, *given, **options)

        distill.DistillationTrainer.train = mortal
    profile = settings(seed, place / "artifacts")
    student = models.load(place / "student")
    models.freeze(student, 0)
    models.set_dropout(student, 0.0)
    rows = datasets.load_from_disk(str(place / "rows"))
    distill.fit(
        student,
        rows,
        rows.select(range(min(VALIDATION, len(rows)))),
        models.load_tokenizer(profile.teacher),
        profile,
        out,
        steps=steps,
        learning_rate=profile.student_learning_rate,
        # The later, the better: so the weights that are kept and compared are those of the end.
        quality=lambda logits: {"quality": time.time()},
        evaluations=2,
        alpha=profile.alpha,
    )


def launched(
    place: Path, name: str, way: str, seed: int, steps: int, killed: int = 0
) -> tuple[Path, float]:
    """The folder that a training fills, and its seconds with the start of its processes.

    Exits with the last lines of what it said where it fails, or where it was to die and did not.
    """
    (processes, threads), out = WAYS[way], place / name
    call = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    call += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]
    # On processors alone `accelerate` would ask for MPI; over GPUs it starts processes as here.
    call += [str(processes), "--main_process_port", "0", *["--multi_gpu"] * (processes > 1)]
    call += [__file__, "--train", *map(str, (place, out, seed, steps, killed))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    started = done.stdout.count(f"world size {processes}") == processes
    if not started or bool(done.returncode) != bool(killed):
        raise SystemExit(f"{way}: a training did not do what it was to do:\n{done.stderr[-3000:]}")
    return out, seconds


# Rounds -------------------------------------------------------------------------------------------


def prepare(place: Path, seed: int, pairs: int) -> Profile:
    """A student, and pairs with the outputs of a teacher; neither is trained."""
    profile = settings(seed, Profile.named().artifacts)
    data = load("shop", Profile.named())
    third = pairs // 3
    parts = (("train", third), ("unlabelled", pairs - third))
    drawn = [data[name].shuffle(seed=seed).select(range(count)) for name, count in parts]
    drawn = datasets.concatenate_datasets(drawn)
    tokenizer = models.load_tokenizer(profile.teacher)
    labels = data["train"].features["label"].names
    teacher = models.build_teacher(profile.teacher, labels, profile.seed)
    rows = distill.encode(drawn.shuffle(seed=seed), tokenizer, profile.max_length)
    rows = distill.teacher_outputs(rows, teacher, tokenizer, profile)
    rows.flatten_indices().save_to_disk(str(place / "rows"))
    models.build_student(teacher, profile.student_layers).save_pretrained(place / "student")
    return profile


def curve(out: Path) -> list[float]:
    return [entry["loss"] for entry in log(out)]


def log(out: Path) -> list[dict]:
    """The entries of the training's log that have a loss: one for each step."""
    entries = json.loads((out / "training.json").read_text(encoding="utf-8"))
    return [entry for entry in entries if "loss" in entry]


def rate(out: Path, steps: int, batch: int) -> float:
    """Pairs per second, without the first steps and the one after the evaluation in the middle."""
    seconds = [entry["seconds"] for entry in log(out)]
    taken = {step: seconds[step] - seconds[step - 1] for step in range(WARM, len(seconds))}
    del taken[-(-steps // 2)]
    return batch * len(taken) / sum(taken.values())


def differences(own: Path, other: Path) -> dict[str, float]:
    """The largest difference of the losses, and of the weights but for the keys' biases, which no
    softmax sees, so that they learn from roundings alone."""
    from safetensors.numpy import load_file

    a, b = (load_file(folder / "model.safetensors") for folder in (own, other))
    off = {name: float(np.abs(a[name] - b[name]).max()) for name in a}
    seen = max(value for name, value in off.items() if not name.endswith("key.bias"))
    losses = np.abs(np.subtract(curve(own), curve(other)))
    return {"loss": float(losses.max()), "weights": seen}


def one_round(seed: int, steps: int) -> dict:
    """Rates of all ways, and how far the others are from one process."""
    ways, found, folders = list(WAYS), {}, {}
    turn = seed % len(ways)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        profile = prepare(place, seed, steps * Profile.named().batch_size // 2)
        for way in ways[turn:] + ways[:turn]:
            folders[way], seconds = launched(place, f"made-{way}", way, seed, steps)
            per_second = rate(folders[way], steps, profile.batch_size)
            found[way] = {"per_second": per_second, "seconds": seconds}
            print(way, json.dumps(found[way]), flush=True)
        for way in (TWO, THREADS):
            found[way]["off"] = differences(folders[way], folders[ONE])
        print(json.dumps(found[TWO]["off"]), flush=True)
        student = models.load(place / "student")
        models.freeze(student, 0)
        counts = {"parameters": student.num_parameters()}
        counts["trained"] = student.num_parameters(only_trainable=True)
    sizes = {"steps": steps, "batch_size": profile.batch_size}
    return {**sizes, **counts, "precision": profile.precision, "ways": found}


def interrupted(steps: int, seed: int = 0) -> dict:
    """How far two processes that were killed and started again are from one that was not."""
    killed = steps * 3 // 4
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(place, seed, steps * Profile.named().batch_size // 2)
        alone, _ = launched(place, "alone", ONE, seed, steps)
        out, before = launched(place, "killed", TWO, seed, steps, killed)
        if (out / "model.safetensors").exists():
            raise SystemExit("The training was over before it was killed: give more --steps.")
        out, after = launched(place, "killed", TWO, seed, steps)
        found = {"steps": steps, "killed_after": killed, "seconds": [before, after]}
        return {**found, "off": differences(out, alone)}


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of the rounds and of the kill."""
    parts, kill = shared.read(folder, SAME), shared.sizes(folder, "once")
    rates = {way: [part["ways"][way]["per_second"] for part in parts] for way in WAYS}
    rows = {
        way: {
            "processes": WAYS[way][0],
            "threads": WAYS[way][1],
            "per_second": shared.over_rounds(rates[way]),
            "seconds": shared.over_rounds([part["ways"][way]["seconds"] for part in parts]),
            "over_one": shared.over_rounds(
                [a / b for a, b in zip(rates[way], rates[ONE], strict=True)]
            ),
        }
        for way in WAYS
    }
    off = {
        name: max(part["ways"][TWO]["off"][name] for part in parts) for name in ("loss", "weights")
    }
    gain = rows[TWO]["over_one"]
    name = "pairs a second in training, two processes over one"
    goals = [report.goal(name, *gain.values(), "at least 1.6", gain["value"] >= 1.6)]
    for when, found in (("", off), (", killed and started again", kill["off"])):
        name = f"largest difference of the loss curve, two processes{when}, from one process"
        met = found["loss"] <= 2e-4
        goals.append(shared.exact(name, found["loss"], "at most 0.0002", met))
    first = parts[0]
    seeds = " ".join(str(part["seed"]) for part in parts)
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_training.py --once --seeds {seeds} "
        f"--steps {first['steps']} --merge",
        seeds=[part["seed"] for part in parts],
        hardware=first["hardware"],
        generator=shop.generator_hash(),
        data={
            **{name: first[name] for name in (*SAME[2:], "precision", "parameters", "trained")},
            "ways": rows,
            "off": off,
            "killed": kill,
        },
        goals=goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    own = shared.resumed(shared.arguments_of(parser, "training_scale", scaled=False, once=True))
    steps = own.steps
    shared.run(own, lambda seed: one_round(seed, steps), merge, once=lambda: interrupted(steps))


if __name__ == "__main__":
    if "--train" in sys.argv:
        place, out, *numbers = sys.argv[2:]
        train(Path(place), Path(out), *map(int, numbers))
    else:
        main()
