"""What `ecomkd score` does in a second: in one process, over Ray, and after a worker was killed.

    pip install "ecomkd[scale]"
    python benchmarks/measure_scoring.py --once --seeds 0 1 2 --merge

The profile comes from ECOMKD_PROFILE, the pairs from the simulated shop. The teacher is the cross-
encoder that the profile names, in PyTorch; the student has its layers and is deployed as `ecomkd
run` does it, in int8. Neither is trained: weights do not change the speed.

Each way to score (`WAYS`) runs in a process of its own, on one thread, and so does each of Ray's
workers; the teacher runs on two threads of one process, too, for that is what a machine of two
cores does without Ray. In a round all ways score the same pairs, each round another one begins, and
ratios are taken within a round. A round is what `--seeds` names. Rounds that are there are kept, so
that a stopped run goes on: remove the folder to measure anew. It runs on Linux alone.

Two rates are told. *Whole* is all pairs over the time of the call, in which Ray starts and models
are loaded. *Running* leaves out the first part of each worker: of the parts' files, by the time at
which they were written, the first W are not counted, nor the time until then.

What is killed is the worker that has the part in the middle, before it begins with it, by SIGKILL.
`--once` measures the most memory that a process held, for so many pairs and for ten times as many,
with a model so small that what a pair leaves behind would be seen beside it.
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
from typing import NamedTuple

ROWS = 128
"""Pairs of a part, but for memory: enough parts for two workers at the largest sizes."""
SIZES = {"teacher": (1_024,), "student": (64, 4_096)}
"""How many pairs each model scores, from few to many."""
KEPT, TIMES = 10_000, 10
"""Pairs for memory, and how many times as many there are in the other run."""
SAME = ("profile", "hardware", "sizes", "rows", "precision")


class Way(NamedTuple):
    """A way to score, with so many workers, 0 without Ray, and so many threads in each process."""

    name: str
    workers: int
    threads: int = 1
    killed: bool = False
    models: tuple[str, ...] = ("teacher", "student")
    small: bool = True
    """Whether it is measured below a model's largest size, too."""


LOCAL, TWO_THREADS = "local", "local, two threads"
ONE, TWO, KILLED = "Ray, one worker", "Ray, two workers", "Ray, two workers, one killed"
WAYS = (
    Way(LOCAL, 0),
    Way(ONE, 1),
    Way(TWO, 2, small=False),
    # A deployed student has one thread, whatever the machine has.
    Way(TWO_THREADS, 0, threads=2, models=("teacher",), small=False),
    Way(KILLED, 2, killed=True, models=("student",), small=False),
)


# In the process that scores -----------------------------------------------------------------------


def one(plan: dict) -> dict:
    """Score as the plan says, in this process; times in seconds, of which the first are from the
    start of the process on, and its most resident memory."""
    import psutil

    from ecomkd.config import Profile
    from ecomkd.scale import engines, scoring

    started, times = psutil.Process().create_time(), {}
    if plan["workers"]:
        import ray

        init = ray.init

        def timed(*given, **options):
            began = time.time()
            found = init(*given, num_cpus=plan["workers"], **options)
            times["ray_seconds"] = time.time() - began
            return found

        ray.init = timed
    if plan["killed"]:
        engines.OfRay = mortal(engines.OfRay, plan["killed"], Path(plan["out"]).parent / "struck")
    began = time.time()
    found = scoring.score(
        Path(plan["data"]),
        Path(plan["model"]),
        Path(plan["out"]),
        Profile.named(device="cpu"),
        "ray" if plan["workers"] else "local",
        rows=plan["rows"],
        max_length=plan["max_length"],
    )
    ended, workers = time.time(), max(1, plan["workers"])
    written = sorted(path.stat().st_mtime for path in Path(plan["out"]).glob("*.parquet"))
    running = None
    if found.parts > workers:
        running = (found.parts - workers) * plan["rows"] / (written[-1] - written[workers - 1])
    return {
        **times,
        "scored": found.new,
        "import_seconds": began - started,
        "first_part_seconds": written[0] - started,
        "seconds": ended - began,
        "whole": found.pairs / (ended - began),
        "running": running,
        "peak_mib": peak(),
    }


def peak() -> float:
    """The most resident memory of this process so far, in MiB. What `getrusage` gives would be that
    of the process that started it, where it was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 1024


def mortal(kind: type, start: int, struck: Path) -> type:
    """A worker that kills itself before the part that begins at `start`, the first time."""

    class Mortal(kind):
        def __call__(self, batch):
            if batch["start"][0] == start and not struck.exists():
                struck.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    return Mortal


def apart(plan: dict, threads: int) -> dict:
    """What `one` finds in a process of its own. Exits with its last lines where it fails."""
    names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    call = [sys.executable, __file__, "--one", json.dumps(plan)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"A run failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# Models and pairs ---------------------------------------------------------------------------------


def prepare(scratch: Path, profile) -> dict[str, Path]:
    """The folders of the teacher and of the deployed student, and the file `pool` of all pairs."""
    from ecomkd import load, models
    from ecomkd.data.contract import GAINS

    teacher = models.build_teacher(profile.teacher, list(GAINS), profile.seed)
    student = models.build_student(teacher, profile.student_layers)
    pool = scratch / "pool.parquet"
    load("shop", profile)["unlabelled"].remove_columns("label").to_parquet(pool)
    return {
        "teacher": saved(teacher, scratch / "teacher", profile),
        "student": deployed(student, scratch / "student", profile),
        "pool": pool,
    }


def saved(model, folder: Path, profile) -> Path:
    from ecomkd import models

    model.save_pretrained(folder)
    models.load_tokenizer(profile.teacher).save_pretrained(folder)
    return folder


def deployed(model, folder: Path, profile) -> Path:
    """The folder of a student, as `ecomkd run` deploys it."""
    from ecomkd import export, models
    from ecomkd.data.contract import GAINS

    onnx = folder.with_name(f"{folder.name}-onnx")
    tokenizer = models.load_tokenizer(profile.teacher)
    export.quantize(export.to_onnx(model, tokenizer, onnx / "model.onnx"))
    export.deploy(onnx, folder, GAINS, profile.max_length)
    return folder


def smallest(profile):
    """A classifier of one narrow layer, which costs next to no time and no memory."""
    from transformers import BertConfig, BertForSequenceClassification

    from ecomkd import models

    words = len(models.load_tokenizer(profile.teacher))
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    settings = BertConfig(vocab_size=words, num_hidden_layers=1, num_labels=4, **narrow)
    return BertForSequenceClassification(settings)


def drawn(pool: Path, count: int, seed: int, file: Path) -> Path:
    """So many pairs of the pool, drawn with a seed, in a file of their own; where they are more
    than there are, the pool is drawn several times."""
    import numpy as np
    import pyarrow.parquet as pq

    table, draw = pq.read_table(pool), np.random.default_rng(seed)
    rounds = [draw.permutation(len(table)) for _ in range(-(-count // len(table)))]
    pq.write_table(table.take(np.concatenate(rounds)[:count]), file)
    return file


# Rounds -------------------------------------------------------------------------------------------


def one_round(sizes: dict[str, list[int]], seed: int) -> dict:
    """What each way finds for each model and size, and how far its scores are from local ones."""
    import numpy as np

    from ecomkd import runtime, scale
    from ecomkd.config import Profile

    profile, runs, told = Profile.named(device="cpu"), [], {}
    turn = seed % len(WAYS)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        made = prepare(scratch, profile)
        for model, way, size in [
            (model, way, size)
            for model, own in sizes.items()
            for size in own
            for way in [*WAYS[turn:], *WAYS[:turn]]
            if model in way.models and (way.small or size == max(own))
        ]:
            place = scratch / f"{model} {size} {way.name}"
            place.mkdir()
            plan = {
                "data": str(drawn(made["pool"], size, seed, place / "pairs.parquet")),
                "model": str(made[model]),
                "out": str(place / "out"),
                "workers": way.workers,
                "rows": ROWS,
                "max_length": profile.max_length,
                "killed": size // 2 // ROWS * ROWS if way.killed else 0,
            }
            found = apart(plan, way.threads)
            if way.killed and not (place / "struck").exists():
                raise SystemExit(f"{size} pairs: no worker was killed; give more pairs.")
            runs.append({"model": model, "way": way.name, "pairs": size, **found})
            print(json.dumps(runs[-1]), flush=True)
            scores = scale.scored(place / "out")["log_probabilities"]
            told[model, size, way.name] = np.array(scores)
    for run in runs:
        model, size = run["model"], run["pairs"]
        off = told[model, size, run["way"]] - told[model, size, LOCAL]
        run["off"] = float(np.abs(off).max())
    precision = runtime.precision(profile)
    return {"sizes": sizes, "rows": ROWS, "precision": precision, "runs": runs}


def memory(kept: int) -> dict:
    """Peaks of a process that scores so many pairs, and `TIMES` as many, in MiB."""
    from ecomkd.config import Profile
    from ecomkd.scale.scoring import ROWS as rows

    profile, peaks = Profile.named(device="cpu"), {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pool = prepare(scratch, profile)["pool"]
        model = deployed(smallest(profile), scratch / "small", profile)
        for count in (kept, TIMES * kept):
            data = drawn(pool, count, 0, scratch / f"{count}.parquet")
            plan = {"data": str(data), "model": str(model), "out": str(scratch / f"{count}")}
            plan |= {"workers": 0, "rows": rows, "killed": 0, "max_length": profile.max_length}
            peaks[count] = apart(plan, 1)["peak_mib"]
            print(f"{count:,} pairs: {peaks[count]:.0f} MiB", flush=True)
    once, more = peaks.values()
    return {"pairs": list(peaks), "peak_mib": [once, more], "rows": rows, "ratio": more / once}


# The record ---------------------------------------------------------------------------------------


def table(parts: list[dict]) -> list[dict]:
    """A row for each model, way and size, each number over the rounds."""
    import shared

    names = ("seconds", "first_part_seconds", "import_seconds", "ray_seconds", "whole", "running")
    rows = []
    for run in parts[0]["runs"]:
        key = {name: run[name] for name in ("model", "way", "pairs")}
        own = [find(part, **key) for part in parts]
        told = [name for name in names if run.get(name) is not None]
        rows.append(key | {name: shared.over_rounds([one[name] for one in own]) for name in told})
    return rows


def find(part: dict, **key) -> dict:
    """The run of a round that has this model, way and size."""
    (found,) = (run for run in part["runs"] if key.items() <= run.items())
    return found


def ratio(parts: list[dict], rate: str, way: str, over: str, model: str, pairs: int) -> dict:
    """The rate of a way over that of another one, each within one round."""
    import shared

    key = {"model": model, "pairs": pairs}
    own, other = ([find(part, way=name, **key)[rate] for part in parts] for name in (way, over))
    found = shared.over_rounds([a / b for a, b in zip(own, other, strict=True)])
    return {"rate": rate, "way": way, "over": over, **key, **found}


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of the rounds and of the memory."""
    import shared
    from ecomkd import report
    from ecomkd.data import shop

    parts, kept = shared.read(folder, SAME), shared.sizes(folder, "once")
    sizes = parts[0]["sizes"]
    most = {model: max(own) for model, own in sizes.items()}
    compared = [("running", TWO, ONE), ("running", ONE, LOCAL), ("whole", ONE, LOCAL)]
    every = [(model, *names) for names in compared for model in ("teacher", "student")]
    every.append(("teacher", "running", TWO, TWO_THREADS))
    ratios = [ratio(parts, *names, model, most[model]) for model, *names in every]
    goals = []
    for found in ratios[:-1]:
        wanted = 1.7 if found["way"] == TWO else 0.9
        how = "parts after the first" if found["rate"] == "running" else "the whole call"
        name = f"pairs a second, {found['way']} over {found['over']}: {found['model']}, {how}"
        values = (found[end] for end in ("value", "low", "high"))
        met = found["value"] >= wanted
        name += f", {found['pairs']:,} pairs"
        goals.append(report.goal(name, *values, f"at least {wanted}", met))
    goals.append(
        shared.exact(
            f"most memory of a process at {kept['pairs'][1]:,} pairs over {kept['pairs'][0]:,}",
            kept["ratio"],
            "at most 1.1",
            kept["ratio"] <= 1.1,
        )
    )
    off = max(run["off"] for part in parts for run in part["runs"])
    name = "largest difference of a log-probability from that of one process"
    goals.append(shared.exact(name, off, "at most 0.00001", off <= 1e-5))
    dead, alive = (
        [find(part, way=way, model="student", pairs=most["student"])["seconds"] for part in parts]
        for way in (KILLED, TWO)
    )
    lost = shared.over_rounds([a - b for a, b in zip(dead, alive, strict=True)])
    report.write_recorded(
        out,
        command="python benchmarks/measure_scoring.py --once --seeds "
        f"{' '.join(str(part['seed']) for part in parts)} "
        + "".join(f"--{model} {' '.join(map(str, own))} " for model, own in sizes.items())
        + f"--kept {kept['pairs'][0]} --merge",
        seeds=[part["seed"] for part in parts],
        hardware=parts[0]["hardware"],
        generator=shop.generator_hash(),
        data={
            **{name: parts[0][name] for name in ("sizes", "rows", "precision")},
            "max_length": parts[0]["profile"]["max_length"],
            "table": table(parts),
            "ratios": ratios,
            "killed_seconds": lost,
            "memory": kept,
        },
        goals=goals,
    )


def main() -> None:
    import shared

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for model, few in SIZES.items():
        told = f"pairs that the {model} scores"
        parser.add_argument(f"--{model}", type=int, nargs="+", default=few, help=told)
    parser.add_argument("--kept", type=int, default=KEPT, help="pairs for memory")
    own = shared.resumed(shared.arguments_of(parser, "scoring_scale", scaled=False, once=True))
    sizes, kept = {model: sorted(getattr(own, model)) for model in SIZES}, own.kept
    shared.run(own, lambda seed: one_round(sizes, seed), merge, once=lambda: memory(kept))


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(one(json.loads(sys.argv[2]))))
    else:
        main()
