"""How rounds of scoring and of training become a record: ratios within rounds, and goals."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import measure_scoring as scoring
import measure_training as training
import shared

SIZES = {"teacher": [1_024], "student": [64, 4_096]}
SPEED = {scoring.LOCAL: 10, scoring.ONE: 9, scoring.TWO: 18, scoring.TWO_THREADS: 15}


def scoring_round(busy: float, start: float) -> dict:
    """A machine that is slower in some rounds: ratios see nothing of it, but for Ray's start."""
    runs = []
    for way, (model, sizes) in product(scoring.WAYS, SIZES.items()):
        for pairs in sizes if model in way.models else ():
            rate = SPEED.get(way.name, 12) * busy * (1 if model == "teacher" else 10)
            seconds = pairs / rate + start * bool(way.workers)
            runs.append({"model": model, "way": way.name, "pairs": pairs, "seconds": seconds})
            runs[-1] |= {"whole": pairs / seconds, "running": rate, "off": 1e-7}
            runs[-1] |= {"first_part_seconds": 1.0, "import_seconds": 0.5}
    return {"sizes": SIZES, "rows": scoring.ROWS, "precision": "fp32", "runs": runs}


@pytest.fixture
def merged(tmp_path):
    def merge(script, rounds, once) -> dict:
        for seed, measured in enumerate(rounds):
            shared.write(tmp_path, seed, measured)
        (tmp_path / "once.json").write_text(json.dumps(once), encoding="utf-8")
        script.merge(tmp_path, tmp_path / "out" / "record.json")
        return json.loads((tmp_path / "out" / "record.json").read_text("utf-8"))

    return merge


def test_ratios_are_taken_within_a_round(merged):
    kept = {"pairs": [20, 200], "peak_mib": [500.0, 600.0], "rows": 4_096, "ratio": 1.2}
    rounds = [scoring_round(busy, start=10.0) for busy in (1.0, 0.3, 0.8)]
    record = merged(scoring, rounds, kept)
    goals = {goal["name"]: goal for goal in record["goals"]}
    two = next(goal for name, goal in goals.items() if "teacher, parts after" in name)
    assert two["value"] == pytest.approx(2) and two["low"] == pytest.approx(two["high"])
    whole = [goal for name, goal in goals.items() if "the whole call" in name]
    assert len(whole) == 2 and not any(goal["met"] for goal in whole)  # Ray's start is in it
    assert not next(goal for name, goal in goals.items() if "most memory" in name)["met"]
    assert record["seeds"] == [0, 1, 2] and "--student 64 4096" in record["command"]
    beside = record["data"]["ratios"][-1]
    assert (beside["over"], beside["value"]) == (scoring.TWO_THREADS, pytest.approx(18 / 15))
    small = [row for row in record["data"]["table"] if row["pairs"] == 64]
    own = {way.name for way in scoring.WAYS if "student" in way.models}
    assert {row["way"] for row in small} == own and len(small) == len(own)


def training_round(busy: float, off: float) -> dict:
    speed = {training.ONE: 100, training.TWO: 150, training.THREADS: 140}
    ways = {way: {"per_second": busy * rate, "seconds": 9.0} for way, rate in speed.items()}
    for way in (training.TWO, training.THREADS):
        ways[way]["off"] = {"loss": off, "weights": off}
    counts = {"parameters": 17, "trained": 5, "precision": "fp32"}
    return {"steps": 60, "batch_size": 32, **counts, "ways": ways}


def test_the_largest_difference_of_all_rounds_counts(merged):
    kill = {"steps": 60, "killed_after": 45, "seconds": [9, 9], "off": {"loss": 1e-6, "weights": 0}}
    rounds = [training_round(1.0, 1e-6), training_round(0.5, 3e-4), training_round(0.9, 1e-6)]
    record = merged(training, rounds, kill)
    assert record["data"]["ways"][training.TWO]["over_one"]["value"] == 1.5
    assert record["data"]["off"]["loss"] == 3e-4
    assert [goal["met"] for goal in record["goals"]] == [False, False, True]


def written(folder: Path, seconds: list[float], shift: float) -> Path:
    folder.mkdir()
    log = [{"loss": 1.0 + shift, "seconds": second} for second in seconds]
    log.insert(3, {"eval_quality": 0.5, "seconds": 99.0})
    (folder / "training.json").write_text(json.dumps(log), encoding="utf-8")
    names = {"attention.self.key.bias": 5 * shift, "attention.self.key.weight": shift / 2}
    weights = {name: np.full(3, value, np.float32) for name, value in names.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_rate_leaves_out_the_warm_up_and_the_step_after_the_evaluation(tmp_path):
    steps = [5.0] * training.WARM + [2.0, 40.0, 2.0, 2.0, 2.0, 2.0, 2.0]  # evaluated after six
    own = written(tmp_path / "own", np.cumsum(steps).tolist(), 0.0)
    assert len(steps) == 12
    assert training.rate(own, len(steps), batch=8) == pytest.approx(4)


def test_differences_leave_out_what_learns_from_roundings(tmp_path):
    own, other = (written(tmp_path / name, [1.0], x) for name, x in (("a", 0.0), ("b", 0.01)))
    found = training.differences(own, other)
    assert found == {"loss": pytest.approx(0.01), "weights": pytest.approx(0.005)}
