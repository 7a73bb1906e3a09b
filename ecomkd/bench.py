"""Size, latency, throughput and peak memory of a model, and the hardware they were measured on.

What is timed is a Python call, without gradients; a module, or a bound method of one, in eval mode.
Tokenise beforehand, or time the tokenizer in a call of its own: else its time passes for the
model's. Chapter 5.
"""

import contextlib
import gc
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ecomkd.extras import needed

with needed("ecomkd.bench", "run"):
    import torch


def latency(
    call: Callable[[Any], Any],
    inputs: Sequence,
    warmup: int = 10,
    repeats: int = 5,
    threads: int | None = None,
    device: str | None = None,
) -> dict:
    """Percentiles of the time of one call.

    Args:
        call: takes one of the inputs. On a GPU its clock stops when the device has finished.
        inputs: as varied in length as what will come; each is timed `repeats` times, in turn.
        warmup: calls before the clock starts, over the inputs in turn.
        repeats: rounds over the inputs.
        threads: PyTorch's threads while timing, by default those set. PyTorch's alone: an ONNX
            Runtime session gets its number when it is made, so make it with the same.
        device: where the call runs; by default that of its module, and for a function "cpu".

    Returns:
        `p50_ms`, `p95_ms`, `p99_ms`, `calls` (those timed), `threads`, `device`.

    Raises:
        ValueError: no inputs, warmup below 0, repeats or threads below 1.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> timed = latency(layer, [torch.ones(1, 4), torch.ones(8, 4)], warmup=2, repeats=3)
        >>> timed["calls"], timed["device"], 0 < timed["p50_ms"] <= timed["p99_ms"]
        (6, 'cpu', True)
    """
    _check("latency", inputs, warmup, repeats, threads)
    with _settled(call, threads, device) as setting:
        for i in range(warmup):
            _seconds(call, inputs[i % len(inputs)], setting["device"])
        times = [_seconds(call, one, setting["device"]) for _ in range(repeats) for one in inputs]
    p50, p95, p99 = (float(x) for x in np.percentile(np.array(times) * 1000, [50, 95, 99]))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "calls": len(times), **setting}


def throughput(
    call: Callable[[Any], Any],
    batches: Sequence,
    items: int,
    warmup: int = 2,
    repeats: int = 3,
    threads: int | None = None,
    device: str | None = None,
) -> dict:
    """Items per second over a list of batches, the median of `repeats` rounds.

    Args:
        call: takes one of the batches.
        batches: padded as in production; padding counts as work, not as items.
        items: how many pairs all batches hold together.
        warmup: calls before the clock starts, over the batches in turn.
        repeats: rounds over the batches.
        threads, device: as in `latency`.

    Returns:
        `per_second`, `items`, `threads`, `device`.

    Raises:
        ValueError: no batches, items below 1, warmup below 0, repeats or threads below 1.

    Example:
        >>> batches = [torch.ones(8, 4), torch.ones(3, 4)]
        >>> found = throughput(torch.nn.Linear(4, 2), batches, items=11)
        >>> found["items"], found["per_second"] > 0
        (11, True)
    """
    _check("throughput", batches, warmup, repeats, threads)
    if items < 1:
        raise ValueError(f"throughput: items is {items}; give the number of pairs in the batches.")
    with _settled(call, threads, device) as setting:
        for i in range(warmup):
            _seconds(call, batches[i % len(batches)], setting["device"])
        rounds = [
            sum(_seconds(call, batch, setting["device"]) for batch in batches)
            for _ in range(repeats)
        ]
    return {"per_second": items / float(np.median(rounds)), "items": items, **setting}


def interleaved(
    work: Mapping[Hashable, Sequence[Callable[[], Any]]], repeats: int = 9, warmup: int = 1
) -> dict[Hashable, float]:
    """The median time of a call, in ms, of several ways to do a thing, compared with each other.

    A machine that is busy for a while, or hot, makes whatever it runs then look slow. So the ways
    take turns, each with all its calls, round after round, and each round another one begins.

    Args:
        work: the calls of each way, the same ones in the same order. All run on the CPU, on the
            threads that they were made with.
        repeats: rounds, so that each call is timed so often.
        warmup: rounds before the clock starts.

    Raises:
        ValueError: no way, a way without a call, repeats below 1, warmup below 0.

    Example:
        >>> product, power = (lambda: 3.0 * 3.0), (lambda: 3.0**2)
        >>> times = interleaved({"product": [product], "power": [power]}, repeats=5)
        >>> sorted(times), min(times.values()) > 0
        (['power', 'product'], True)
    """
    ways = list(work)
    for calls in work.values() or [[]]:
        _check("interleaved", calls, warmup, repeats, None)
    times: dict[Hashable, list[float]] = {way: [] for way in ways}
    with _settled(interleaved, None, "cpu"):
        for turn in range(warmup + repeats):
            first = turn % len(ways)
            for way in ways[first:] + ways[:first]:
                taken = [_seconds(lambda one: one(), call, "cpu") for call in work[way]]
                if turn >= warmup:
                    times[way] += taken
    return {way: 1000 * float(np.median(taken)) for way, taken in times.items()}


@contextlib.contextmanager
def peak_memory(process: int | None = None, interval: float = 0.005) -> Iterator[dict]:
    """Peak resident memory of a process while the block runs.

    A thread looks every `interval` seconds, so a peak shorter than that may be missed.

    Args:
        process: the id of another process, whose children are counted with it; by default this
            process, alone.
        interval: in seconds.

    Yields:
        A mapping that is whole when the block has ended: `before_mib`, `peak_mib`, and where CUDA
        is in use by this process, `cuda_peak_mib`, the allocator's own peak.

    Raises:
        ValueError: there is no process of this id.

    Example:
        >>> with peak_memory() as memory:
        ...     block = np.ones(2**20)
        >>> memory["peak_mib"] >= memory["before_mib"]
        True
    """
    try:
        watched = psutil.Process(process)
    except psutil.NoSuchProcess:
        raise ValueError(
            f"peak_memory: there is no process {process}; give the id of one that runs."
        ) from None
    done, mib = threading.Event(), 2**20

    def resident() -> float:
        try:
            family = [watched] if process is None else [watched, *watched.children(recursive=True)]
            return sum(one.memory_info().rss for one in family) / mib
        except psutil.NoSuchProcess:  # it has ended, or a child of it
            return 0.0

    memory = {"before_mib": resident()}
    memory["peak_mib"] = memory["before_mib"]
    cuda = process is None and torch.cuda.is_available() and torch.cuda.is_initialized()
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def look() -> None:
        memory["peak_mib"] = max(memory["peak_mib"], resident())

    def watch() -> None:
        while not done.wait(interval):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        look()
        done.set()
        watcher.join()
        if cuda:
            memory["cuda_peak_mib"] = torch.cuda.max_memory_allocated() / mib


def model_size(path: str | Path) -> dict[str, int]:
    """Parameters and bytes on disk of stored weights.

    Args:
        path: a .safetensors or .onnx file, or a folder with one kind of them. Tokenizer and
            configuration are not counted; an ONNX file's external data are.

    Returns:
        `parameters`: elements of all stored weights (in a quantised ONNX file with their scales and
        zero points); `bytes`.

    Raises:
        FileNotFoundError: there are no weights at `path`.
        ValueError: the folder holds both kinds.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from safetensors.numpy import save_file
        >>> with TemporaryDirectory() as folder:
        ...     save_file({"weight": np.zeros((3, 5))}, f"{folder}/model.safetensors")
        ...     model_size(folder)["parameters"]
        15
    """
    path = Path(path)
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.onnx")]
    kinds = {file.suffix for file in files}
    if not kinds or not kinds <= {".safetensors", ".onnx"}:
        raise FileNotFoundError(f"model_size: {path} holds no .safetensors or .onnx file.")
    if len(kinds) > 1:
        raise ValueError(f"model_size: {path} holds safetensors and ONNX; name the file.")
    count = _count_onnx if kinds == {".onnx"} else _count_safetensors
    parameters, sizes = zip(*map(count, files), strict=True)
    return {"parameters": sum(parameters), "bytes": sum(sizes)}


def hardware() -> dict:
    """What a recorded result says of its machine: no host name, no path.

    `cores` are the logical ones this process may use; `memory_gib` is the machine's, rounded.

    Example:
        >>> sorted(set(hardware()) - {"gpu", "gpu_memory_gib"})
        ['cores', 'cpu', 'instructions', 'memory_gib', 'system', 'threads']
    """
    usable = getattr(os, "sched_getaffinity", None)
    described = {
        "cpu": _cpu_name(),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        described |= {"gpu": card.name, "gpu_memory_gib": round(card.total_memory / 2**30)}
    return described


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _count_safetensors(file: Path) -> tuple[int, int]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes), file.stat().st_size


def _count_onnx(file: Path) -> tuple[int, int]:
    import onnx

    integers = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    weights = onnx.load(file, load_external_data=False).graph.initializer
    outside = {entry.value for w in weights for entry in w.external_data if entry.key == "location"}
    # 64-bit and 32-bit integers are shapes, axes and indices.
    parameters = sum(math.prod(w.dims) for w in weights if w.data_type not in integers)
    return parameters, sum(f.stat().st_size for f in [file, *(file.parent / x for x in outside)])


def _check(function: str, inputs: Sequence, warmup: int, repeats: int, threads: int | None) -> None:
    if len(inputs) == 0:
        raise ValueError(f"{function}: there is nothing to call with; give at least one input.")
    if warmup < 0 or repeats < 1:
        raise ValueError(
            f"{function}: warmup is {warmup} and repeats {repeats}; give at least 0 and 1."
        )
    if threads is not None and threads < 1:
        raise ValueError(f"{function}: threads is {threads}; give at least 1.")


@contextlib.contextmanager
def _settled(call: Callable, threads: int | None, device: str | None) -> Iterator[dict]:
    """Eval mode, no gradients, fixed threads, no garbage collection; all as before afterwards."""
    owner = getattr(call, "__self__", call)
    module = owner if isinstance(owner, torch.nn.Module) else None
    if device is None:
        weight = next(module.parameters(), None) if module is not None else None
        device = "cpu" if weight is None else weight.device.type
    training = [m for m in module.modules() if m.training] if module is not None else []
    threads_before, collecting = torch.get_num_threads(), gc.isenabled()
    if threads is not None:
        torch.set_num_threads(threads)
    if module is not None:
        module.eval()
    gc.disable()
    try:
        with torch.inference_mode():
            yield {"threads": torch.get_num_threads(), "device": device}
    finally:
        torch.set_num_threads(threads_before)
        for m in training:
            m.training = True
        if collecting:
            gc.enable()


def _seconds(call: Callable, one: Any, device: str) -> float:
    wait = (lambda: None) if device == "cpu" else torch.accelerator.synchronize
    wait()
    start = time.perf_counter()
    call(one)
    wait()
    return time.perf_counter() - start
