"""`accelerate launch`: two processes take the steps that one takes, and go on after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ecomkd import trainer
from ecomkd.config import Profile

STEPS, PAIRS = 12, 64
SCRIPT = f"""
import os, signal, sys
from pathlib import Path

import numpy as np
import tiny_models
import torch
from transformers import TrainerCallback

from ecomkd import distill

folder, killed = Path(sys.argv[1]), len(sys.argv) > 2
# One text is one write, which the other process cannot break.
print("world size " + os.environ.get("WORLD_SIZE", "1"))
torch.set_num_threads(1)
profile = tiny_models.profile(folder / "artifacts")
tokenizer = tiny_models.tokenizer()
pairs = tiny_models.pairs({PAIRS}, seed=1)
# Labels on a few of the pairs: the two processes meet unlike numbers of them in a step.
labels = [label if i % 3 == 0 else -1 for i, label in enumerate(pairs["label"])]
pairs = pairs.remove_columns("label").add_column("label", labels)
rows = distill.encode(pairs, tokenizer, 24)
rows = distill.teacher_outputs(rows, tiny_models.bert(seed=3), tokenizer, profile, (2,))

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if killed and state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

train = distill.DistillationTrainer.train
distill.DistillationTrainer.train = lambda self, *given, **named: (
    self.add_callback(Kill()), train(self, *given, **named)
)[1]
distill.fit(
    tiny_models.bert(dropout=0.0, seed=2),
    rows,
    rows.select(range(8)),
    tokenizer,
    profile,
    folder / "student",
    steps={STEPS},
    learning_rate=1e-3,
    quality=lambda logits: {{"quality": float(-np.abs(logits).mean())}},
    evaluations=3,
    alpha=2.0,
    hidden_map={{1: 2}},
    teacher_width=32,
)
"""


def run(folder: Path, processes: int, *further: str, check: bool = True) -> int:
    """The script in a folder, in this environment, by `accelerate launch`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]
    # On processors alone `accelerate` would ask for MPI; over GPUs it starts processes as here.
    launch += [str(processes), "--main_process_port", "0", *["--multi_gpu"] * (processes > 1)]
    places = [str(Path(__file__).parent), str(Path(trainer.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [*launch, str(folder / "train.py"), str(folder), *further]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"world size {processes}") == processes
    return done.returncode


def weights(folder: Path) -> dict[str, np.ndarray]:
    """All but the keys' biases: no softmax sees them, so that they learn from roundings alone."""
    found = load_file(folder / "student" / "model.safetensors")
    return {name: value for name, value in found.items() if not name.endswith("key.bias")}


def curve(folder: Path) -> list[float]:
    log = json.loads((folder / "student" / "training.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "one"
    run(folder, 1)
    return folder


def test_two_processes_take_the_steps_of_one(alone, tmp_path):
    run(tmp_path / "two", 2)
    assert len(curve(alone)) == STEPS
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(alone), atol=2e-4)
    own, other = weights(alone), weights(tmp_path / "two")
    assert own.keys() == other.keys()
    for name, value in own.items():
        np.testing.assert_allclose(other[name], value, atol=1e-4, err_msg=name)


def test_two_processes_go_on_after_a_kill(alone, tmp_path):
    folder = tmp_path / "two"
    assert run(folder, 2, "killed", check=False) != 0
    assert not (folder / "student" / "model.safetensors").exists()
    assert sorted(path.name for path in (folder / "student" / "checkpoints").iterdir())
    run(folder, 2)
    assert len(curve(folder)) == STEPS
    for name, value in weights(alone).items():
        np.testing.assert_allclose(weights(folder)[name], value, atol=1e-4, err_msg=name)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="batch_size=32: 3 processes cannot share it"):
        trainer.arguments(Profile.named("smoke"), tmp_path, 10, 1e-3)


def test_without_a_launcher_one_card_is_used(monkeypatch, tmp_path):
    """The library would give each of four cards a batch, and so take steps of four times as many
    pairs."""
    monkeypatch.setattr(trainer.TrainingArguments, "_setup_devices", torch.device("cuda", 0))
    made = []

    def four(self) -> None:
        made.append(self)
        self._n_gpu = 4

    monkeypatch.setattr(trainer.TrainingArguments, "__post_init__", four)
    profile = Profile.named("smoke", device="cpu", precision="fp32")
    found = trainer.arguments(profile, tmp_path, 10, 1e-3)
    assert made == [found]
    assert found.train_batch_size == profile.batch_size


def test_no_look_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluations=0: give 1 or more"):
        trainer.arguments(Profile.named("smoke"), tmp_path, 10, 1e-3, evaluations=0)
