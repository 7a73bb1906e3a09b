"""What is counted and under which settings. No test asserts how long a computation takes."""

import contextlib
import gc
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from ecomkd import bench


class Clock:
    """Stands in for time.perf_counter; the calls under test move it."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", clock)
    return clock


class Probe(nn.Module):
    """Notes how it was called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.inner = nn.Dropout()
        self.seen = []

    def forward(self, x):
        out = self.weight * x
        state = (self.training, self.inner.training, out.requires_grad, torch.get_num_threads())
        self.seen.append(state)
        return out


def test_latency_counts_neither_warmup_nor_anything_twice(clock):
    calls = []

    def call(seconds):
        calls.append(seconds)
        clock.now += 100.0 if len(calls) <= 3 else seconds  # slow until warm

    inputs = [i / 1000 for i in range(1, 102)]
    result = bench.latency(call, inputs, warmup=3, repeats=2)
    assert calls == inputs[:3] + inputs + inputs
    assert result["calls"] == 202
    milliseconds = np.repeat(np.arange(1, 102), 2)
    for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
        assert result[name] == pytest.approx(np.percentile(milliseconds, percent))
    assert result["threads"] == torch.get_num_threads() and result["device"] == "cpu"
    assert json.dumps(result)


def test_without_warmup_the_first_call_is_in_the_numbers(clock):
    def call(first):
        clock.now += 100.0 if first else 0.001

    cold = bench.latency(call, [True, False], warmup=0, repeats=1)
    assert cold["p99_ms"] > 90_000


def test_throughput_is_items_over_the_median_round(clock):
    rounds = iter([9.0, 1.0, 1.0, 2.0, 2.0, 50.0, 50.0])  # one to warm up, then three of two

    def call(_):
        clock.now += next(rounds)

    result = bench.throughput(call, ["a", "b"], items=10, warmup=1, repeats=3)
    assert result["per_second"] == pytest.approx(10 / 4)


@pytest.mark.parametrize("pick", [lambda m: m, lambda m: m.forward], ids=["module", "method"])
def test_eval_mode_no_gradients_fixed_threads_and_all_restored(pick):
    probe = Probe().train()
    probe.inner.eval()
    before = torch.get_num_threads()
    other = 2 if before == 1 else 1
    result = bench.latency(pick(probe), [torch.ones(1)], warmup=1, repeats=2, threads=other)
    assert probe.seen == [(False, False, False, other)] * 3
    assert result["threads"] == other
    assert torch.get_num_threads() == before
    assert probe.training and not probe.inner.training
    assert gc.isenabled()


def test_settings_are_restored_after_an_error():
    class Failing(Probe):
        def forward(self, x):
            raise RuntimeError("no")

    probe = Failing()
    with pytest.raises(RuntimeError):
        bench.latency(probe, [1])
    assert probe.training and gc.isenabled()


def test_interleaved_ways_take_turns_and_each_begins_a_round(clock):
    """So that what a machine does beside them falls on all of them."""
    seen = []

    def call(name, seconds):
        def timed():
            seen.append(name)
            clock.now += seconds

        return timed

    work = {"a": [call("a", 1), call("a", 3), call("a", 3)], "b": [call("b", 2)]}
    assert bench.interleaved(work, repeats=3, warmup=1) == {"a": 3000, "b": 2000}
    assert "".join(seen) == "aaab" + "baaa" + "aaab" + "baaa"


def test_interleaved_leaves_warmup_out(clock):
    times = iter([100, 1, 1, 1])

    def call():
        clock.now += next(times)

    assert bench.interleaved({"a": [call]}, repeats=3, warmup=1) == {"a": 1000}


BAD = {
    "no ways": (lambda: bench.interleaved({}), "interleaved: there is nothing to call with"),
    "a way without calls": (lambda: bench.interleaved({"a": []}), "nothing to call with"),
    "rounds": (lambda: bench.interleaved({"a": [list]}, repeats=0), "repeats 0"),
    "no inputs": (lambda: bench.latency(len, []), "nothing to call with"),
    "warmup": (lambda: bench.latency(len, [""], warmup=-1), "warmup is -1"),
    "repeats": (lambda: bench.latency(len, [""], repeats=0), "repeats 0"),
    "threads": (lambda: bench.latency(len, [""], threads=0), "threads is 0"),
    "no batches": (lambda: bench.throughput(len, [], 1), "nothing to call with"),
    "no items": (lambda: bench.throughput(len, [""], 0), "items is 0"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_peak_memory_sees_what_was_freed_again():
    with bench.peak_memory(interval=0.001) as memory:
        # Pages of its own: an array might be given memory that the process holds already.
        block = mmap.mmap(-1, 64 * 2**20)
        block.write(b"1" * len(block))
        bench.time.sleep(0.2)
        block.close()
    assert memory["peak_mib"] - memory["before_mib"] > 50


def test_peak_memory_of_another_process_counts_its_children():
    child = "import time; block = bytearray(64 * 2**20); print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    code = [sys.executable, "-c", parent]
    with subprocess.Popen(code, stdout=subprocess.PIPE, start_new_session=True) as other:
        try:
            assert other.stdout.readline() == b"ready\n"
            with bench.peak_memory(other.pid, interval=0.01) as memory:
                alone = psutil.Process(other.pid).memory_info().rss / 2**20
            assert memory["peak_mib"] >= memory["before_mib"] > alone + 60
            with bench.peak_memory(other.pid, interval=0.01) as memory:
                os.killpg(other.pid, signal.SIGKILL)
                other.wait()
                bench.time.sleep(0.1)
            assert memory["peak_mib"] == memory["before_mib"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(other.pid, signal.SIGKILL)
    with pytest.raises(ValueError, match=f"there is no process {other.pid}"):
        bench.peak_memory(other.pid).__enter__()


def test_size_of_safetensors(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}, file)
    (tmp_path / "tokenizer.json").write_text("{}" * 999)
    expected = {"parameters": 22, "bytes": file.stat().st_size}
    assert bench.model_size(file) == bench.model_size(tmp_path) == expected
    save_file({"c": torch.zeros(8)}, tmp_path / "second.safetensors")
    assert bench.model_size(tmp_path)["parameters"] == 30


def onnx_model(weights):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        initializer=[numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize("outside", [False, True])
def test_size_of_onnx(tmp_path, outside):
    weights = {
        "w": np.zeros((40, 50), np.int8),
        "scale": np.ones(1, np.float32),
        "shape": np.array([1, 2, 3]),
    }
    file = tmp_path / "model.onnx"
    onnx.save_model(
        onnx_model(weights), file, save_as_external_data=outside, location="w.data",
        size_threshold=100,
    )  # fmt: skip
    total = sum(f.stat().st_size for f in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 1 + outside
    assert bench.model_size(tmp_path) == {"parameters": 2001, "bytes": total}


def test_size_of_nothing_and_of_both(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors or \.onnx"):
            bench.model_size(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    onnx.save(onnx_model({}), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="name the file"):
        bench.model_size(tmp_path)


def test_hardware_tells_of_the_machine_but_not_whose_it_is():
    described = bench.hardware()
    assert described["cpu"] and described["cores"] >= 1 and described["memory_gib"] >= 1
    assert described["threads"] == torch.get_num_threads()
    text = json.dumps(described)
    assert socket.gethostname() not in text and str(Path.home()) not in text
