"""A teacher from another shop, added to what costs nothing: does the sum gain?

    python benchmarks/measure_moved_sum.py --seeds 1 2 3 4 5 6 7 8 9 10    a target shop each
    python benchmarks/measure_moved_sum.py icecat                          a real target
    python benchmarks/measure_moved_sum.py --merge                         all files into the record

The source is the simulated shop of the core, and its recorded teacher is used as it comes. A target
is another simulated shop, with products and queries of its own and titles in shorthand, or
Icecat (needs ECOMKD_REAL_DATA). Of its training and validation queries `FEW` are drawn at random,
`DRAWS` times: they choose the weights of a sum in standard units, and nothing else is learnt. Test
queries are the target's own, and no seed of a target was looked at before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

import shared
from ecomkd import bench, features, load, metrics, report, transfer
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import shop, sources
from ecomkd.relevance import baselines, fusion, judge, stages

FEW, DRAWS = 15, 10
QUERIES, OTHER = 240, 500
"""Queries of a target, and what is added to the seed of the source: as on the chapter's page."""
ICECAT = "icecat"
SIGNALS = ("BM25", "bi-encoder", "teacher from elsewhere")
SUMS = {
    "BM25 + bi-encoder": (0, 1),
    "bi-encoder + teacher": (1, 2),
    "BM25 + bi-encoder + teacher": (0, 1, 2),
}
"""Each sum by the numbers of its signals."""
COMPARED = (
    ("teacher from elsewhere", "bi-encoder"),
    ("bi-encoder + teacher", "bi-encoder"),
    ("BM25 + bi-encoder", "bi-encoder"),
    ("BM25 + bi-encoder + teacher", "BM25 + bi-encoder"),
)


def simulated(seed: int) -> dict:
    """One simulated target."""
    profile = Profile.named()
    own = replace(profile, seed=profile.seed + OTHER + seed, queries=QUERIES, unlabelled_pairs=1)
    return measured(transfer.restyled(load("shop", own)), seed)


def real() -> dict:
    """Icecat."""
    return measured(sources.load(shared.real_folder(ICECAT), Profile.named()), 0)


def measured(target: DatasetDict, seed: int) -> dict:
    """Of one target, nDCG@10 by test query: a value of each signal alone, and of each sum the mean
    over draws, whose weights are told."""
    profile, test = Profile.named(), target["test"]
    known = concatenate_datasets([target["train"], target["validation"]])
    known = known.filter(lambda label: label >= 0, input_columns="label")
    teacher = stages.teacher(load("shop", profile), profile)
    every = concatenate_datasets([known, test])
    scores = np.stack(
        [
            baselines.bm25_scores(every, every),
            features.bi_encoder_scores(every, profile),
            transfer.scores(teacher, every, profile),
        ],
        axis=1,
    )
    of_known, of_test = scores[: len(known)], scores[len(known) :]
    found = {name: ndcg(of_test[:, row], test) for row, name in enumerate(SIGNALS)}
    found["random"] = ndcg(of_test[:, 0], test, "random_ndcg@10")
    weights: dict[str, list] = {}
    for name, own in SUMS.items():
        values = []
        for rows in drawn(known["query_id"], seed):
            chosen = fusion.choose_fusion("z", of_known[np.ix_(rows, own)], known.select(rows))
            values.append(ndcg(chosen.scores(of_test[:, own], test["query_id"]), test))
            weights.setdefault(name, []).append(chosen.weights)
        found[name] = np.mean(values, axis=0)
    print(seed, {name: round(float(own.mean()), 4) for name, own in found.items()}, flush=True)
    return {
        "pairs": len(test),
        "values": {name: own.tolist() for name, own in found.items()},
        "weights": weights,
    }


def drawn(queries: Sequence[str], seed: int) -> list[np.ndarray]:
    """Rows of the pairs of `FEW` queries, for each of `DRAWS` draws."""
    names, number = np.unique(queries, return_inverse=True)
    rng = np.random.default_rng(seed)
    return [
        np.flatnonzero(np.isin(number, rng.permutation(len(names))[:FEW])) for _ in range(DRAWS)
    ]


def ndcg(scores: np.ndarray, pairs: Dataset, of: str = "ndcg@10") -> np.ndarray:
    """Of each query that has a relevant product, in the order of their ids."""
    per_query = metrics.ranking(judge.frame(pairs, scores), judge.gains(pairs))["per_query"]
    return per_query[of].sort_index().to_numpy()


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of the targets."""
    parts = shared.read(folder, ("profile",))
    data = {"simulated": told(parts), ICECAT: told([shared.sizes(folder, ICECAT)])}
    seeds = [part["seed"] for part in parts]
    goals = [
        shared.above(f"{name}: nDCG@10, {one} minus {other}", own["minus"][f"{one} − {other}"])
        for name, own in data.items()
        for one, other in (COMPARED[1], COMPARED[3])
    ]
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_moved_sum.py --seeds {' '.join(map(str, seeds))}, "
        f"{ICECAT}, --merge",
        seeds=seeds,
        hardware=parts[0]["hardware"],
        generator=shop.generator_hash(),
        data=data,
        goals=goals,
    )
    print(out)


def told(parts: list[dict]) -> dict:
    """Means over targets (S) and queries, with intervals over both; and what was chosen."""
    most = max(len(part["values"]["random"]) for part in parts)

    def table(name: str) -> np.ndarray:
        found = np.full((len(parts), most), np.nan)
        for row, part in zip(found, parts, strict=True):
            row[: len(part["values"][name])] = part["values"][name]
        return found

    values = {name: table(name) for name in parts[0]["values"]}
    return {
        "targets": len(parts),
        "queries": int(sum(len(part["values"]["random"]) for part in parts)),
        "pairs": sum(part["pairs"] for part in parts),
        "rows": {
            name: shared.over_known(own) | {"by target": np.nanmean(own, axis=1).tolist()}
            for name, own in values.items()
        },
        "minus": {
            f"{one} − {other}": shared.over_known(values[one] - values[other])
            | {"by target": np.nanmean(values[one] - values[other], axis=1).tolist()}
            for one, other in COMPARED
        },
        "weights": {
            name: np.mean([part["weights"][name] for part in parts], axis=(0, 1)).tolist()
            for name in SUMS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A teacher from elsewhere in a sum.")
    parser.add_argument("real", nargs="?", choices=[ICECAT], help="measure the real target")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="targets to measure")
    parser.add_argument("--folder", type=Path, default=Profile.named().artifacts / "moved_sum")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    parser.add_argument("--out", type=Path, default=shared.RECORDED / "moved_sum.json")
    arguments = parser.parse_args()
    if not (arguments.real or arguments.seeds or arguments.merge):
        parser.error(f"give {ICECAT}, --seeds, --merge, or several of them")
    for seed in arguments.seeds:
        if not (arguments.folder / f"seed{seed}.json").exists():
            shared.write(arguments.folder, seed, simulated(seed))
    if arguments.real:
        found = {"hardware": bench.hardware(), **real()}
        write_text(arguments.folder / f"{ICECAT}.json", json.dumps(found))
    if arguments.merge:
        merge(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
