"""What pretraining is worth, and what a warm-up: two by two starts of one network, on the simulated
shop.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_pretraining.py --once
    ECOMKD_PRECISION=bf16 python benchmarks/measure_pretraining.py --seeds 18 19 20 21 22
    ECOMKD_PRECISION=bf16 python benchmarks/measure_pretraining.py --merge

The weights are the pretrained ones or random, and they have a warm-up or none. Its pairs, answers
and steps are the same for both: in one pass over pairs without a label, `stages.warm_up` teaches a
network what the pretrained bi-encoder says of them, so that some of what pretraining knows reaches
random weights too. Then all labels of the shop, as many passes as the book's teacher makes. No
weight is frozen, and all heads are drawn from a seed that nothing else had. `--once` chooses for
each start the learning rate of its warm-up, by how its logits agree with the bi-encoder's on pairs
held out, and that of fine-tuning, by the mean of macro-F1 and nDCG@10 on validation queries, in one
run a rate on shop TUNED_ON, which is not reported: it tries RATES, and goes on where the best lies
at an end. Each seed is a shop of its own. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from datasets import DatasetDict

import measure_new_head
import measure_whole_lists
import shared
from ecomkd import features, load, metrics, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.relevance import judge, stages

TUNED_ON = 901
RATES = (1e-4, 2e-4, 4e-4)
FURTHEST = 2
"""So many times a rate is halved or doubled beyond RATES at most."""
FREE = measure_new_head.FREE


class Start(NamedTuple):
    """Where fine-tuning begins."""

    pretrained: bool
    warmed: bool


STARTS = {
    "pretrained": Start(pretrained=True, warmed=False),
    "pretrained, warmed up": Start(pretrained=True, warmed=True),
    "random weights": Start(pretrained=False, warmed=False),
    "random weights, warmed up": Start(pretrained=False, warmed=True),
}
PLAIN, WARMED, RANDOM, RANDOM_WARMED = STARTS
UNTAUGHT = {name: f"{name}, no label" for name, start in STARTS.items() if start.warmed}


def first(profile: Profile, start: Start, place: Path) -> Profile:
    """A profile whose `teacher` is the network before any warm-up; no weight of it is frozen."""
    own = replace(profile, frozen_layers=None)
    if start.pretrained:
        return own
    network = models.build_untrained(profile.teacher, models.WARMED, profile.seed)
    return replace(own, teacher=str(measure_new_head.saved(network, profile, place / "random")))


def settled(profile: Profile, name: str, rates: dict, place: Path) -> Profile:
    """The profile of one of STARTS, with the rates that were chosen for it."""
    return replace(
        first(profile, STARTS[name], place),
        student_learning_rate=rates.get("warm-up", profile.student_learning_rate),
        teacher_learning_rate=rates["rate"],
    )


def fine_tuned(data: DatasetDict, profile: Profile, start: Start, place: Path) -> Path:
    """The folder of a network that all labels taught, from the warm-up of `profile` or without."""
    own = profile if start.warmed else replace(profile, warm_up_pairs=0)
    begun = measure_new_head.another_seed(data, own, place / "begun")
    return stages.teacher(data, own, checkpoint=begun)


def best_rate(quality: Callable[[float], float], name: str = "quality") -> tuple[float, list[dict]]:
    """The rate of the highest quality, and all that were tried, with their quality under a name:
    RATES, and then on beyond the end at which the best lies, FURTHEST times at most."""
    tried: dict[float, float] = {}
    rates = list(RATES)
    for _ in range(FURTHEST + 1):
        tried |= {rate: quality(rate) for rate in rates if rate not in tried}
        best = max(tried, key=tried.__getitem__)
        rates = [best / 2] if best == min(tried) else [2 * best] if best == max(tried) else []
    return best, [{"rate": rate, name: tried[rate]} for rate in sorted(tried)]


def tuned(name: str) -> dict:
    """The learning rates of a start, and what was tried."""
    profile, start, found = Profile.named(seed=TUNED_ON), STARTS[name], {}
    data = load("shop", profile)

    def quality(folder: Path) -> float:
        return float(stages.training_log(folder)["eval_quality"].max())

    with TemporaryDirectory(prefix="ecomkd-") as place:
        own = first(profile, start, Path(place))
        if start.warmed:
            rate, found["tried warm-up"] = best_rate(
                lambda rate: quality(
                    stages.warm_up(data, replace(own, student_learning_rate=rate))
                ),
                "agreement",
            )
            own = replace(own, student_learning_rate=rate)
            found["warm-up"] = rate
        found["rate"], found["tried"] = best_rate(
            lambda rate: quality(
                fine_tuned(data, replace(own, teacher_learning_rate=rate), start, Path(place))
            )
        )
    print(f"{name}: {found}", flush=True)
    return found


def measured(seed: int, folder: Path) -> dict:
    """All systems of a seed on its test queries: per query, by kind of query, and in classes."""
    profile = Profile.named(seed=seed)
    once = shared.sizes(folder, "once")
    made_of = {"precision": runtime.precision(profile), "generator": shop.generator_hash()}
    if any(once[name] != made_of[name] for name in made_of):
        raise SystemExit(f"{folder}/once.json: of another precision or shop; remove it.")
    rates, data = once["rates"], load("shop", profile)
    test, systems = data["test"], {}
    kinds = dict(zip(test["query_id"], test["query_kind"], strict=True))

    def keep(name: str, ranking: dict, **further: object) -> None:
        systems[name] = shared.kept_by_query(ranking) | further
        print(f"seed {seed}, {name}: lift {ranking['lift@10']:.3f}", flush=True)

    def ordered(name: str, scores: np.ndarray) -> None:
        keep(name, metrics.ranking(judge.frame(test, scores), judge.gains(test)))

    ordered(FREE, features.bi_encoder_scores(test, profile))
    for name, start in STARTS.items():
        with TemporaryDirectory(prefix="ecomkd-") as place:
            own = settled(profile, name, rates[name], Path(place))
            if start.warmed:
                ordered(UNTAUGHT[name], measure_whole_lists.warm_start(data, own))
            network = fine_tuned(data, own, start, Path(place))
        found = judge.evaluate(test, judge.predict(network, test, profile))
        classes = found["classification"]
        f1 = classes["per_class"]["f1"].tolist()
        keep(name, found["ranking"], macro_f1=classes["macro_f1"], f1=f1)
    return made_of | {"rates": rates, "kinds": kinds, "systems": systems}


COMPARED = {
    (PLAIN, RANDOM): "pretraining, without a warm-up",
    (WARMED, RANDOM_WARMED): "pretraining, with the same warm-up",
    (WARMED, PLAIN): "the warm-up, of pretrained weights",
    (RANDOM_WARMED, RANDOM): "the warm-up, of random weights",
    (RANDOM_WARMED, PLAIN): "the warm-up alone, against pretraining alone",
    **{(name, no_label): "what labels add" for name, no_label in UNTAUGHT.items()},
    **{(name, FREE): "against the untrained bi-encoder" for name in STARTS},
}
WANTED = ((PLAIN, RANDOM), (WARMED, RANDOM_WARMED), (WARMED, PLAIN), (RANDOM_WARMED, RANDOM))


def summary(parts: Sequence[dict]) -> dict:
    """Rows and differences, as `shared.of_judged_shops` has them, lifts by kind of query with the
    number of such queries in all shops, and the rates."""
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    counts = shared.add_lift_by_kind(rows, parts)
    for name, row in rows.items():
        if "f1" in parts[0]["systems"][name]:
            f1 = [part["systems"][name]["f1"] for part in parts]
            row["f1"] = np.mean(f1, axis=0).tolist()
    return {
        "rows": rows,
        "differences": differences,
        "queries by kind": counts,
        "rates": parts[0]["rates"],
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision", "rates"))
    found = summary(parts)
    told = shared.by_pair(found["differences"])
    goals = [
        shared.above_over_seeds(f"nDCG@10: {one['what']} (interval over seeds)", one)
        for one in map(told.get, WANTED)
    ]
    origin = shared.origin("pretraining", parts)
    origin["command"] = origin["command"].replace("--seeds", "--once --seeds")
    report.write_recorded(out, **origin, data=found, goals=goals)
    print(f"Wrote {out}.")


def rates() -> dict:
    """The learning rates of all starts, and what they were chosen in."""
    return {
        "precision": runtime.precision(Profile.named(seed=TUNED_ON)),
        "generator": shop.generator_hash(),
        "rates": {name: tuned(name) for name in STARTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What pretraining is worth, and a warm-up.")
    arguments = shared.arguments_of(parser, "pretraining", scaled=False, once=True)
    shared.run(
        shared.resumed(arguments),
        partial(measured, folder=arguments.folder),
        merge,
        once=rates,
    )


if __name__ == "__main__":
    main()
