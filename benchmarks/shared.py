"""What several benchmarks share: the files that single seeds leave, one process each, on their way
to a record; goals; clocks; the settings that classical recommenders are tried with; a shop of
another size."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ecomkd import bench, metrics, recommend, report
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data.baskets import Baskets, sample

RECORDED = Path(report.__file__).parent / "recorded"
GRIDS = {
    "buy it again": {"scale": (14, 28, 56, 112, 224)},
    "item-kNN": {"neighbours": (10, 50, 200, 1000)},
    "matrix factorisation": {"width": (32, 128), "weight": (1.0, 10.0)},
}
TIMED = 100
"""Users whose answers are timed."""
SCALES = (0.1, 0.3, 1, 3, 10)
"""Sizes of the shops that costs are measured on, against the one that there is."""


def real_folder(name: str) -> Path:
    """Where the real data of this name lie. Exits with one sentence where there are none."""
    root = os.environ.get("ECOMKD_REAL_DATA")
    if root is None or not (Path(root) / name).exists():
        raise SystemExit(
            f"{name}: not found; set ECOMKD_REAL_DATA to the folder that holds {name}, "
            "as the data cards say."
        )
    return Path(root) / name


# Single seeds, and the record ---------------------------------------------------------------------


def profile() -> dict:
    """The profile in use, but for the seed and the folder: what all seeds have to share."""
    own = asdict(Profile.named())
    return {name: value for name, value in own.items() if name not in ("seed", "artifacts")}


def read(folder: Path, same: Sequence[str]) -> list[dict]:
    """The results `seed*.json` of a folder, in the order of their seeds.

    Exits with one sentence where there are none, or where they differ in an entry of `same`.
    """
    files = sorted(folder.glob("seed*.json"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise SystemExit(f"{folder}: no file of a seed; run this script with --seeds first.")
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    unlike = [name for name in same if any(part[name] != parts[0][name] for part in parts)]
    if unlike:
        raise SystemExit(f"{folder}: the files differ in {', '.join(unlike)}; remove the old ones.")
    return parts


def arguments_of(
    parser: argparse.ArgumentParser,
    name: str,
    kinds: Sequence[str] = (),
    scaled: bool = True,
    once: bool = False,
    data: Sequence[str] = (),
) -> argparse.Namespace:
    """What the command line says, the parser's own arguments and those of each script that measures
    seeds, sizes if `scaled`, and `once` what no seed changes, and merges them. By default `folder`
    is that of `name` among the artefacts, and `out` the recorded result of this name; of several
    `kinds` of measurement, `kind` says which. Of several `data`, `data` says on which: the
    first where none are named; the others' names are added to that of the folder and the record.

    Exits with one sentence where there is nothing to do, or no kind to do.
    """
    if once:
        parser.add_argument("--once", action="store_true", help="what no seed changes")
    if kinds:
        parser.add_argument("kind", nargs="?", choices=kinds, help="what --seeds measures")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to measure, in turn")
    if scaled:
        parser.add_argument("--scale", action="store_true", help="cost against size")
    parser.add_argument("--folder", type=Path, help="of the single seeds' files")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    if data:
        parser.add_argument("data", nargs="?", choices=data, default=data[0], help="measured on")
    parser.add_argument("--out", type=Path, help="where --merge writes")
    parser.set_defaults(scale=False, once=False)
    arguments = parser.parse_args()
    if data and arguments.data != data[0]:
        name += f"_{arguments.data}"
    arguments.out = arguments.out or RECORDED / f"{name}.json"
    if not (arguments.once or arguments.seeds or arguments.scale or arguments.merge):
        parts = ["--once"] * once + ["--seeds"] + ["--scale"] * scaled + ["--merge"]
        parser.error(f"give {', '.join(parts)}, or several of them")
    if kinds and arguments.seeds and not arguments.kind:
        parser.error(f"give {' or '.join(kinds)} with --seeds")
    arguments.folder = arguments.folder or Profile.named().artifacts / name
    return arguments


def resumed(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same without what has left its file in the folder already, so that a run goes on."""
    there = arguments.folder
    arguments.seeds = [k for k in arguments.seeds if not (there / f"seed{k}.json").exists()]
    arguments.once = arguments.once and not (there / "once.json").exists()
    return arguments


def run(
    arguments: argparse.Namespace,
    measure: Callable[[int], dict] | None,
    merge: Callable[[Path, Path], None],
    scale: Callable[[], list[dict]] | None = None,
    part: str = "",
    once: Callable[[], dict] | None = None,
) -> None:
    """Do what the `arguments_of` a script ask for: measure what no seed changes and each seed, into
    files of their own below `part` of the folder, then the sizes, then merge all files."""
    if arguments.once:
        write_text(arguments.folder / part / "once.json", json.dumps(once()))
    for seed in arguments.seeds:
        write(arguments.folder / part, seed, measure(seed))
    if arguments.scale:
        write_text(arguments.folder / "scale.json", json.dumps(scale()))
    if arguments.merge:
        merge(arguments.folder, arguments.out)


def main(
    name: str,
    description: str,
    measure: Callable[[int], dict],
    merge: Callable[[Path, Path], None],
) -> None:
    """What a script does that measures single seeds, goes on where it stopped, and merges."""
    parser = argparse.ArgumentParser(description=description)
    run(resumed(arguments_of(parser, name, scaled=False)), measure, merge)


def command(name: str, parts: dict[str, list[dict]]) -> str:
    """The call that remakes the record of this name from these files, which are given by kind."""
    calls = [f"{kind} --seeds {' '.join(str(one['seed']) for one in own)}"
             for kind, own in parts.items()]  # fmt: skip
    return f"python benchmarks/measure_{name}.py {', '.join(calls)}, --scale, --merge"


def write(folder: Path, seed: int, measured: dict) -> None:
    """The file of one seed, with what `read` compares."""
    shared = {"seed": seed, "profile": profile(), "hardware": bench.hardware()}
    write_text(folder / f"seed{seed}.json", json.dumps({**shared, **measured}))


def sizes(folder: Path, part: str = "scale") -> Any:
    """What --scale or --clock has left in a folder. Exits with one sentence if it did not run."""
    file = folder / f"{part}.json"
    if not file.exists():
        raise SystemExit(f"{file}: not found; run this script with --{part} first.")
    return json.loads(file.read_text(encoding="utf-8"))


def shops(folder: Path, part: str) -> list[Path]:
    """The folders of the shops that were measured. Exits with one sentence, which names the option
    that measures them, if there are none."""
    places = sorted(path for path in folder.iterdir() if path.is_dir())
    if not places:
        raise SystemExit(f"{folder}: no shop was measured; run this script with --{part} first.")
    return places


def kept(out: Path, measured: Collection[str]) -> tuple[dict, list[dict]]:
    """What the record at `out` has of shops that are not among those `measured`: their entries of
    its data, and their goals, whose names begin with "<shop>: ". Nothing where there is no record.

    So the files of a shop may be gone when another one is measured again.
    """
    if not out.exists():
        return {}, []
    record = json.loads(out.read_text(encoding="utf-8"))
    data = {shop: own for shop, own in record["data"].items() if shop not in measured}
    return data, [goal for goal in record["goals"] if goal["name"].partition(": ")[0] in data]


def difference(found: dict) -> dict[str, float]:
    """A mean difference under its name, with its interval."""
    return {"difference": found["value"], "low": found["low"], "high": found["high"]}


def by_pair(differences: Sequence[dict]) -> dict[tuple[str, str], dict]:
    """The differences of a record by the two systems that they compare."""
    return {(one["system"], one["against"]): one for one in differences}


def of_seeds(values: Sequence[float]) -> dict[str, float]:
    """The mean over at least three seeds (S,) as a value, with its interval over them."""
    found = metrics.seed_interval(values)
    return {"value": found["mean"], "low": found["low"], "high": found["high"]}


def means(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Units × systems, the mean over the tables of several seeds."""
    return pd.concat(tables).groupby(level=0).mean()


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """The mean over seeds, and from three seeds on its interval."""
    if len(values) >= 3:
        return metrics.seed_interval(values)
    return {"mean": float(np.mean(values)), "low": None, "high": None}


def over_rounds(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The median, the lowest and the highest of what the rounds found."""
    return {"value": float(np.median(values)), "low": float(min(values)),
            "high": float(max(values))}  # fmt: skip


def by_query(parts: Sequence[dict], column: str) -> pd.DataFrame:
    """Values per query, (seed, query) × systems, of parts with a `seed` and `systems`, in which
    each has under `column` its values by query."""
    tables = [
        pd.DataFrame({name: own[column] for name, own in part["systems"].items()}) for part in parts
    ]
    return pd.concat(tables, keys=[part["seed"] for part in parts], names=["seed", "query_id"])


def one_level(values: pd.DataFrame) -> pd.DataFrame:
    """The same values as `by_query` gives, a row's name being seed and query in one text."""
    return values.set_axis([f"{seed} {query}" for seed, query in values.index])


def kept_by_query(ranking: dict) -> dict[str, dict[str, float]]:
    """What a part keeps of a ranking: by query its nDCG@10, and that of a random order."""
    per_query = ranking["per_query"]
    return {of: per_query[of].to_dict() for of in ("ndcg@10", "random_ndcg@10")}


def origin(name: str, parts: Sequence[dict], of: str = "") -> dict[str, Any]:
    """Where the record of this name comes from, as `report.write_recorded` takes it: from these
    parts of single seeds, all computed in one precision, and `of` these data, where a script has
    several."""
    seeds, precision = [part["seed"] for part in parts], parts[0]["precision"]
    words = ["python", f"benchmarks/measure_{name}.py", *of.split(), "--seeds", *map(str, seeds)]
    return {
        "command": f"ECOMKD_PRECISION={precision} {' '.join(words)} --merge",
        "seeds": seeds,
        "hardware": parts[0]["hardware"] | {"precision": precision},
        "generator": parts[0]["generator"],
    }


def of_shops(values: pd.DataFrame, asked: dict[tuple[str, str], str]) -> tuple[dict, list[dict]]:
    """Means of `by_query`, and the differences between two systems that are `asked`, each with a
    sentence's part that says what it is.

    Each seed is a shop with queries of its own. So there are two intervals, over the queries of all
    shops (`low`, `high`), and over the seeds' means (`seeds`, as `over_seeds` gives it), which
    holds the luck of shops and of training.
    """
    flat = one_level(values)
    means = values.groupby(level=0).mean()
    rows = {}
    for name in values:
        span = metrics.bootstrap_of_means(flat[[name]], lambda of, name=name: of[name])
        rows[name] = {
            "ndcg@10": span["value"],
            "ndcg@10 low": span["low"],
            "ndcg@10 high": span["high"],
            "by_seed": means[name].tolist(),
        }
    differences = []
    for (one, other), what in asked.items():
        apart = means[one] - means[other]
        differences.append(
            {
                "system": one,
                "against": other,
                "what": what,
                **metrics.paired_bootstrap(flat[one], flat[other]),
                "seeds": over_seeds(apart),
                "by_seed": apart.tolist(),
            }
        )
    return rows, differences


def of_judged_shops(
    parts: Sequence[dict], asked: dict[tuple[str, str], str]
) -> tuple[dict, list[dict]]:
    """`of_shops` of the nDCG@10 of all systems, with their lift, and, of those that name classes,
    with macro-F1 and its differences `over_seeds`."""
    order, chance = (by_query(parts, name) for name in ("ndcg@10", "random_ndcg@10"))
    rows, differences = of_shops(order, asked)
    naming = [name for name, own in parts[0]["systems"].items() if "macro_f1" in own]
    f1 = pd.DataFrame(
        {name: [part["systems"][name]["macro_f1"] for part in parts] for name in naming}
    )
    for name, row in rows.items():
        lifts = (order[name] - chance[name]).groupby(level=0).mean()
        row |= {"lift@10": float(lifts.mean()), "lift@10 by_seed": lifts.tolist()}
        if name in f1:
            row |= {"macro_f1": float(f1[name].mean()), "macro_f1 by_seed": f1[name].tolist()}
    for one in differences:
        if {one["system"], one["against"]} <= set(f1):
            one["macro_f1"] = over_seeds(f1[one["system"]] - f1[one["against"]])
    return rows, differences


def kinds_of(parts: Sequence[dict], values: pd.DataFrame) -> pd.Series:
    """The kind of each query of `by_query`'s values, of parts that tell it under `kinds`."""
    told = {(part["seed"], query): of for part in parts for query, of in part["kinds"].items()}
    return pd.Series([told[asked] for asked in values.index], values.index)


def add_lift_by_kind(rows: dict[str, dict], parts: Sequence[dict]) -> dict[str, int]:
    """Put each system's mean lift@10 by kind of query into its row; how many queries are of each
    kind."""
    order, chance = (by_query(parts, name) for name in ("ndcg@10", "random_ndcg@10"))
    kinds = kinds_of(parts, order)
    by_kind = (order - chance).groupby(kinds).mean()
    for name, row in rows.items():
        row["lift@10 by kind"] = by_kind[name].to_dict()
    return kinds.value_counts().to_dict()


def add_search_by_kind(rows: dict[str, dict], parts: Sequence[dict]) -> dict[str, int]:
    """Put the mean recall@100 of each system and its nDCG@10 by kind of query into its row; how
    many queries are of each kind."""
    order, recall = (by_query(parts, name) for name in ("ndcg@10", "recall@100"))
    kinds, recall = kinds_of(parts, order), recall.mean()
    by_kind = order.groupby(kinds).mean()
    for name, row in rows.items():
        row |= {"recall@100": float(recall[name]), "ndcg@10 by kind": by_kind[name].to_dict()}
    return kinds.value_counts().to_dict()


def exact_interval(right: int, of: int) -> dict[str, float]:
    """The exact 95 % interval of a share (Clopper & Pearson 1934)."""
    span = binomtest(right, of).proportion_ci()
    return {"low": float(span.low), "high": float(span.high)}


def over_both(values: np.ndarray) -> dict[str, float]:
    """The mean of (S, U), with an interval over seeds and users, of those who have a value."""
    return metrics.two_way_bootstrap(values[:, ~np.isnan(values).any(axis=0)], resamples=2_000)


def over_known(values: np.ndarray) -> dict[str, float]:
    """The mean of the values (S, U) that are there, with an interval over seeds and users; NaN
    where there is none."""
    there = ~np.isnan(values)
    cells = np.stack([np.where(there, values, 0), there], axis=-1)
    return metrics.two_way_bootstrap(cells, lambda means: means[:, 0] / means[:, 1], 2_000)


# Goals --------------------------------------------------------------------------------------------


def ends(found: dict) -> tuple[float, float, float]:
    """A measured value or difference and the ends of its interval, as `report.goal` takes them."""
    return found["difference" if "difference" in found else "value"], found["low"], found["high"]


def exact(name: str, value: float, wanted: str, met: bool) -> dict:
    """The goal of a value that has no interval."""
    return report.goal(name, value, value, value, wanted, bool(met))


def above(name: str, found: dict) -> dict:
    """The goal that a measured value lies above 0 with its whole interval."""
    return report.goal(name, *ends(found), "above 0, interval excluding 0", bool(found["low"] > 0))


def above_over_seeds(name: str, found: dict) -> dict:
    """The same of a difference that `of_shops` gives, by its interval over seeds."""
    return above(name, {"difference": found["seeds"]["mean"], **found["seeds"]})


def goals_over_seeds(differences: list[dict], wanted: dict[tuple[str, str], str]) -> list[dict]:
    """The goals that nDCG@10 of one system lies above another's, by the interval over seeds, of
    the `differences` that `of_shops` gives; each wanted pair has its name."""
    told = by_pair(differences)
    return [
        above_over_seeds(f"nDCG@10: {name} (interval over seeds)", told[pair])
        for pair, name in wanted.items()
    ]


def at_least(name: str, found: dict, least: float) -> dict:
    """The goal that a measured value reaches `least`, wherever its interval begins."""
    return report.goal(name, *ends(found), f"at least {least}", bool(found["value"] >= least))


def below(name: str, found: dict) -> dict:
    """The goal that a measured value lies below 0 with its whole interval."""
    return report.goal(name, *ends(found), "below 0, interval excluding 0", bool(found["high"] < 0))


# Clocks -------------------------------------------------------------------------------------------


def timed(call: Callable, *given: Any, **options: Any) -> tuple[Any, float]:
    """What a call returns, and the seconds that it takes."""
    started = time.perf_counter()
    found = call(*given, **options)
    return found, time.perf_counter() - started


def waits(rank: recommend.Ranker, users: np.ndarray) -> dict[str, float]:
    """The wait of single users for their items, on one thread: `p50_ms` and `p95_ms`."""
    asked = [np.array([user]) for user in users]
    clock = bench.latency(partial(one_user, rank), asked, repeats=3, threads=1, device="cpu")
    return {name: clock[name] for name in ("p50_ms", "p95_ms")}


def one_user(rank: recommend.Ranker, user: np.ndarray) -> np.ndarray:
    return rank(user, False)


# Recommenders -------------------------------------------------------------------------------------


def best_of(make: Callable[..., recommend.Ranker], grid: dict, baskets: Baskets) -> dict:
    """The settings with the highest recall on the validation days."""
    day = baskets.validation_start
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return max(
        found,
        key=lambda chosen: recommend.evaluate(make(baskets, day, **chosen), baskets, day)["recall"],
    )


def grown(baskets: Baskets, times: float, seed: int = 0) -> Baskets:
    """A shop of so many times the users: a sample of them, or copies that buy copies of items."""
    if times <= 1:
        return sample(baskets, round(times * len(baskets.users)), seed)
    copies = range(int(times))
    users, items = len(baskets.users), len(baskets.items)
    events = pd.concat(
        baskets.events.assign(
            user=baskets.events["user"] + users * copy, item=baskets.events["item"] + items * copy
        )
        for copy in copies
    ).sort_values(["day", "user"], kind="stable", ignore_index=True)
    named, people = (
        pd.concat([table for _ in copies], ignore_index=True)
        for table in (baskets.items, baskets.users)
    )
    return Baskets(events, named, people, baskets.left_out)
