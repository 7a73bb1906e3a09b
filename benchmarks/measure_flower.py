"""Federated averaging by the protocol of Flower, against the loop of chapter 18, on loopback.

    python benchmarks/measure_flower.py prepare
    FLOWER/bin/python benchmarks/measure_flower.py run
    python benchmarks/measure_flower.py record

Flower does not resolve beside this project's pins, so it has an environment FLOWER of its own:

    python3.11 -m venv FLOWER
    FLOWER/bin/pip install -r benchmarks/flower_constraints.txt

`prepare` writes the moments of four stores and what the chapter's loop makes of them; `run` starts
a server and four clients as processes, and writes the weights that Flower ends with, the seconds,
and the bytes that went over loopback; `record` holds both against each other, in the folder where
`measure_federated.py --merge` finds the result. Chapter 18.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ecomkd.config import Profile
from ecomkd.federated import averaging, stores

FOLDER = Profile.named().artifacts / "federated"
STORES, ROUNDS, RATE = 4, 3, 0.01
ADDRESS = "127.0.0.1:48080"
Arrays = list[np.ndarray]


def client(silo, vectors: torch.Tensor) -> averaging.Client:
    """One epoch of a store, from the server's tensors; the seed is the round."""

    def answer(state: averaging.State, seed: int) -> averaging.State:
        model = stores.StoreModel(vectors)
        model.load_state_dict(state, strict=False)
        stores.train(model, silo.train, 1, RATE, seed=seed)
        return {name: one.detach().clone() for name, one in model.named_parameters()}

    return answer


def prepare() -> None:
    import measure_federated

    found, _, vectors = measure_federated.chain()
    chosen = list(found.values())[:STORES]
    state = first = measure_federated.tensors(measure_federated.fresh(vectors, 0))
    for number in range(1, ROUNDS + 1):
        answers = [client(silo, vectors)(state, number) for silo in chosen]
        state = averaging.mean(state, answers, [silo.size for silo in chosen])
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "flower.pkl").open("wb") as file:
        pickle.dump((chosen, vectors, first, state), file)


def prepared():
    # Written by `prepare` in this folder, and by nobody else.
    with (FOLDER / "flower.pkl").open("rb") as file:
        return pickle.load(file)


def arrays(state: averaging.State) -> Arrays:
    return [one.numpy() for one in state.values()]


def serve() -> None:
    import flwr

    _, _, first, _ = prepared()

    class Kept(flwr.server.strategy.FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            merged, numbers = super().aggregate_fit(server_round, results, failures)
            final = flwr.common.parameters_to_ndarrays(merged)
            np.savez(FOLDER / "flower.npz", *final)
            return merged, numbers

    strategy = Kept(
        fraction_evaluate=0.0,
        min_fit_clients=STORES,
        min_available_clients=STORES,
        on_fit_config_fn=lambda number: {"round": number},
        initial_parameters=flwr.common.ndarrays_to_parameters(arrays(first)),
    )
    config = flwr.server.ServerConfig(num_rounds=ROUNDS)
    flwr.server.start_server(server_address=ADDRESS, config=config, strategy=strategy)


def join(place: int) -> None:
    import flwr

    torch.set_num_threads(1)
    chosen, vectors, first, _ = prepared()
    answer = client(chosen[place], vectors)

    class Store(flwr.client.NumPyClient):
        def fit(self, parameters: Arrays, config: dict):
            state = dict(zip(first, map(torch.from_numpy, parameters), strict=True))
            return arrays(answer(state, config["round"])), chosen[place].size, {}

    flwr.client.start_client(server_address=ADDRESS, client=Store().to_client())


def loopback() -> int:
    """Bytes that have gone over loopback so far."""
    lines = Path("/proc/net/dev").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def run() -> None:
    import flwr

    before, started = loopback(), time.perf_counter()
    calls = [["serve"], *(["join", str(place)] for place in range(STORES))]
    processes = []
    for call in calls:
        processes.append(subprocess.Popen([sys.executable, __file__, *call]))
        if call == ["serve"]:
            time.sleep(8)
    codes = [process.wait(timeout=300) for process in processes]
    found = {
        "version": flwr.__version__,
        "seconds": time.perf_counter() - started,
        "bytes": loopback() - before,
        "codes": codes,
    }
    (FOLDER / "flower_run.json").write_text(json.dumps(found), "utf-8")


def record() -> None:
    _, _, first, ours = prepared()
    theirs = list(np.load(FOLDER / "flower.npz").values())
    found = json.loads((FOLDER / "flower_run.json").read_text("utf-8"))
    away = max(float(np.abs(a - b).max()) for a, b in zip(arrays(ours), theirs, strict=True))
    moved = max(float((ours[name] - first[name]).abs().max()) for name in first)
    counted = 2 * ROUNDS * STORES * averaging.size_of(first)
    extra = {"stores": STORES, "rounds": ROUNDS, "away": away, "moved": moved, "counted": counted}
    (FOLDER / "flower.json").write_text(json.dumps(found | extra), "utf-8")
    print(json.dumps(found | extra))


if __name__ == "__main__":
    call, *given = sys.argv[1:] or [""]
    calls = {"prepare": prepare, "serve": serve, "run": run, "record": record}
    if call == "join":
        join(int(given[0]))
    elif call in calls:
        calls[call]()
    else:
        raise SystemExit("measure_flower: give prepare, run or record.")
