"""Quality against time on real queries, from a base-size teacher down to a table of token vectors.

    python benchmarks/measure_frontier.py --seeds 1        students of one seed, into a file
    python benchmarks/measure_frontier.py --clock          the time of a query
    python benchmarks/measure_frontier.py --merge          all files into one record

needs ECOMKD_REAL_DATA and the packages of `mpnet`. As in `measure_query_side`, on whose parts of
`msrd` this stands, only what reads the query learns, and the vectors of the products stay. They are
those of a base-size encoder here (12 layers of 768), which is also the teacher: fine-tuned once on
400 labelled queries, for it costs half an hour of a core. The students are six, three and two
layers of MiniLM (384), over the product vectors that MiniLM made; a static table, over those of the
teacher; and two layers of width 128, with a linear map into the teacher's space, which starts where
titles agree best. Each is trained on the labels alone, and on these beside the teacher's cosines
with the same products, for the same queries and for others that nobody labelled.

All networks are exported, in float32 and int8, and timed and judged in ONNX Runtime on one thread,
a query at a time: what distillation brings is the ratio within a precision.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

import shared
from ecomkd import bench, export, features, models, report
from ecomkd.artifacts import stage, write_text
from ecomkd.config import Profile
from measure_query_side import (
    BATCH,
    LABELLED,
    LAYERS,
    PASSES,
    Ground,
    Judged,
    Lists,
    Network,
    Static,
    arguments_of,
    cosines,
    fit,
    ground,
    in_order,
    joined,
    of_pairs,
    passes_over,
    summary,
    tuned,
    unit,
)

TEACHER = "mpnet"
TEACHER_SEED = 1
TEACHER_RATES = (2e-5, 5e-5, 1e-4, 2e-4)
NARROW = "two layers of 128"
SIZES = {"six layers": tuple(range(6)), "three layers": LAYERS, "two layers": (2, 5)}
STUDENTS = (*SIZES, NARROW, "static")
RATES = dict.fromkeys(SIZES, (5e-5, 1e-4, 2e-4))
RATES |= {NARROW: (3e-4, 1e-3, 3e-3), "static": (1e-4, 3e-4, 1e-3, 3e-3)}
LOG = 200_000
"""Pairs without a label, of which a model reads the first SHOWN, or those of a step of CURVE."""
SHOWN = 72_000
CURVE = (2_000, 8_000, 32_000, 72_000, 200_000)
CURVED = ("three layers", "static")
RIDGE = 1.0
TIMED = 300


# Encoders -----------------------------------------------------------------------------------------


class Mapped(nn.Module):
    """A small encoder, and a linear map (H, h) into the space of another one's vectors."""

    def __init__(self, make: Callable[[], nn.Module], start: torch.Tensor):
        super().__init__()
        self.small = make()
        self.out = nn.Linear(start.shape[1], start.shape[0], bias=False)
        self.out.weight.data = start.clone()

    @property
    def tokenizer(self):
        return self.small.tokenizer

    def forward(self, queries: list[str]) -> torch.Tensor:
        return nn.functional.normalize(self.out(self.small(queries)), dim=1)


class Narrow(Network):
    """Two layers of 128 over MiniLM's word vectors on their first directions."""

    def __init__(self, seed: int):
        super().__init__()
        whole = models.build_teacher("minilm", ("unused",))
        self.body = models.build_narrow_student(whole, seed=seed).base_model
        self.body.embeddings.requires_grad_(False)


def map_between(small: nn.Module, titles: Sequence[str], wanted: np.ndarray) -> torch.Tensor:
    """(H, h): by ridge regression, from a small encoder's vectors of titles to those wanted."""
    x, y = encoded(small, titles), torch.from_numpy(wanted)
    return torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y).T.contiguous()


def encoded(model: nn.Module, texts: Sequence[str]) -> torch.Tensor:
    """(N, H), in eval mode and without a gradient."""
    model.eval()
    with torch.inference_mode():
        parts = [model(list(texts[i : i + 64])) for i in range(0, len(texts), 64)]
    return torch.cat(parts).clone()


class Exported(nn.Module):
    """An encoder of queries as the exporter takes it: tokens in, `logits` out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        mapped = isinstance(model, Mapped)
        self.body = model.small.body if mapped else model.body
        self.out = model.out if mapped else nn.Identity()

    def forward(self, **tokens: torch.Tensor) -> SimpleNamespace:
        states = self.body(**tokens).last_hidden_state
        vectors = self.out(features.pool(states, tokens["attention_mask"]))
        return SimpleNamespace(logits=nn.functional.normalize(vectors, dim=1))


class Served:
    """A query's unit vector (H,) as a shop computes it, one query at a time on one thread."""

    def __init__(self, path: Path):
        self.tokens = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
        self.tokens.enable_truncation(32)
        self.tokens.no_padding()
        self.network = export.OnnxClassifier(path, threads=1)

    def __call__(self, query: str) -> np.ndarray:
        found = self.tokens.encode(query)
        known = {
            "input_ids": found.ids,
            "attention_mask": found.attention_mask,
            "token_type_ids": found.type_ids,
        }
        return self.network(**{name: [ids] for name, ids in known.items()})[0]


class ServedTable:
    """The same of a static encoder."""

    def __init__(self, model: Static):
        self.tokens = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
        self.tokens.no_padding()
        self.unknown = model.tokenizer.unk_token_id
        with torch.inference_mode():
            self.table = (model.table.weight + model.moved.weight[model.row]).numpy()

    def __call__(self, query: str) -> np.ndarray:
        ids = self.tokens.encode(query, add_special_tokens=False).ids
        vector = self.table[ids or [self.unknown]].sum(axis=0)
        return vector / np.sqrt(vector @ vector)


def written(model: nn.Module, folder: Path) -> tuple[Path, Path]:
    """The exported network in float32 and in int8."""
    path = export.to_onnx(Exported(model), model.tokenizer, folder / "model.onnx")
    return path, export.quantize(path)


def served_cosines(
    encode: Callable[[str], np.ndarray], asked: Lists, vectors: torch.Tensor
) -> torch.Tensor:
    """(Q, K), as `cosines` gives them."""
    queries = torch.from_numpy(np.stack([encode(query) for query in asked.queries]))
    return torch.einsum("qh,qkh->qk", queries, vectors[asked.rows])


# The teacher --------------------------------------------------------------------------------------


def taught_by(
    base: Ground,
    some: Lists,
    validation: Lists,
    profile: Profile,
    rates: Sequence[float],
) -> tuple[Network, dict]:
    """The base-size encoder, fine-tuned on labelled queries once, and what was chosen."""

    def make(folder: Path) -> None:
        model, chosen = tuned(
            partial(Network, None, TEACHER),
            rates,
            some,
            base.vectors,
            validation,
            passes=passes_over(some),
            seed=TEACHER_SEED,
        )
        save_file(model.state_dict(), folder / "weights.safetensors")
        write_text(folder / "chosen.json", json.dumps(chosen))

    parts = [
        TEACHER,
        TEACHER_SEED,
        rates,
        BATCH,
        some.queries,
        some.rows.tolist(),
        some.gains.tolist(),
    ]
    folder = stage("frontier_teacher", parts, make, profile.artifacts, recipe=1)
    model = Network(None, TEACHER)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model, json.loads((folder / "chosen.json").read_text(encoding="utf-8"))


def answers_of(
    model: Network, chosen: dict, asked: Lists, base: Ground, profile: Profile
) -> torch.Tensor:
    """The teacher's cosines (Q, K), computed once."""

    def make(folder: Path) -> None:
        save_file({"cosines": cosines(model, asked, base.vectors)}, folder / "answers.safetensors")

    parts = [chosen, asked.queries, asked.rows.tolist()]
    folder = stage("frontier_answers", parts, make, profile.artifacts, recipe=1)
    return load_file(folder / "answers.safetensors")["cosines"]


# One seed -----------------------------------------------------------------------------------------


def queries_within(log: Lists, pairs: int) -> int:
    """How many queries have together at least so many pairs."""
    totals = log.mask.sum(1).cumsum(0)
    return min(int((totals < pairs).sum()) + 1, len(totals))


def measured(base: Ground, own: Ground, profile: Profile, seed: int) -> dict:
    """All systems with the students of one seed: nDCG@10 of each test query, alone and in the sum
    with words. `own` are MiniLM's product vectors."""
    data = base.parts[0]
    train, validation, test = (
        of_pairs(data[split], base.place) for split in ("train", "validation", "test")
    )
    some = train.labelled().first(LABELLED)
    seen, at_home = (Judged(one, data, validation, test) for one in (base, own))
    values: dict[str, dict[str, float]] = {}
    values["random"] = seen.ranked(np.zeros(len(seen.pairs["test"])))
    seen.add(values, "words", None)
    seen.add(values, "base size, untrained", Network(None, TEACHER))
    at_home.add(values, "six layers, untrained", Network())
    teacher, chosen = taught_by(base, some, validation, profile, TEACHER_RATES)
    choices: dict[str, dict] = {"teacher": chosen}
    seen.add(values, "teacher", teacher)
    judge_int8(values, seen, "teacher", teacher)

    wanted = unit(features.last_layer(base.titles, profile, TEACHER))
    start = map_between(Narrow(seed), base.titles, wanted)
    fixed: dict[str, Callable[[], nn.Module]] = {
        name: partial(Network, layers) for name, layers in SIZES.items()
    }
    fixed[NARROW] = partial(Mapped, partial(Narrow, seed), start)

    def maker(name: str, asked: Lists) -> Callable[[], nn.Module]:
        return fixed.get(name) or partial(Static, base.table, asked.queries, TEACHER)

    log = answers_of(teacher, chosen, joined(some, base.log), base, profile)
    asked = joined(some, base.log.first(queries_within(base.log, SHOWN)))
    for name in STUDENTS:
        rates, judge = RATES[name], at_home if name in SIZES else seen
        given = {"vectors": judge.vectors, "validation": validation, "seed": seed}
        judge.add(values, f"{name}, start", maker(name, asked)())
        model, choices[f"{name}, labels"] = tuned(
            maker(name, some), rates, some, passes=passes_over(some), **given
        )
        judge.add(values, f"{name}, labels", model)
        taught = log[: len(asked.queries)]
        model, choices[name] = tuned(
            maker(name, asked), rates, asked, passes=PASSES, taught=taught, **given
        )
        judge.add(values, name, model)
        if name in fixed:
            judge_int8(values, judge, name, model)
        for pairs in CURVE if name in CURVED else ():
            part = joined(some, base.log.first(queries_within(base.log, pairs)))
            model, rate = maker(name, part)(), choices[name]["rate"]
            taught = log[: len(part.queries)]
            looks = fit(model, part, rate=rate, passes=PASSES, taught=taught, **given)
            judge.add(values, f"{name}, {pairs} pairs", model)
            choices[f"{name}, {pairs} pairs"] = {"rate": rate, "looks": looks}
    weights = {**seen.weights, **at_home.weights}
    return {"values": values, "choices": choices | {"weights": weights}}


def judge_int8(values: dict, seen: Judged, name: str, model: nn.Module) -> None:
    """Add the row of a network's int8 form."""
    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        encode = Served(written(model, Path(scratch))[1])
        seen.add_scores(
            values,
            f"{name}, int8",
            {
                split: in_order(served_cosines(encode, asked, seen.vectors), asked)
                for split, asked in seen.lists.items()
            },
        )


# Clock --------------------------------------------------------------------------------------------


def clock(base: Ground, own: Ground) -> dict[str, dict[str, float]]:
    """The median milliseconds and the bytes of each network, before it learnt anything.

    The clock runs from a query's text to the scores of its candidates.
    """
    test = of_pairs(base.parts[0]["test"], base.place).first(TIMED)
    candidates = {
        (query, vectors.shape[1]): vectors[rows[mask]].numpy()
        for query, rows, mask in zip(test.queries, test.rows, test.mask, strict=True)
        for vectors in (base.vectors, own.vectors)
    }
    networks: dict[str, nn.Module] = {"teacher": Network(None, TEACHER)}
    networks |= {name: Network(layers) for name, layers in SIZES.items()}
    narrow = Narrow(1)
    start = torch.randn(base.vectors.shape[1], narrow.body.config.hidden_size)
    networks[NARROW] = Mapped(lambda: narrow, start)
    encoders: dict[str, Callable[[str], np.ndarray]] = {}
    sizes, found = {}, {}

    def answer(name: str, query: str) -> np.ndarray:
        vector = encoders[name](query)
        return candidates[query, len(vector)] @ vector

    with tempfile.TemporaryDirectory(prefix="ecomkd-") as scratch:
        for name, network in networks.items():
            paths = written(network, Path(scratch) / name)
            for path, end in zip(paths, ("", ", int8"), strict=True):
                encoders[name + end], sizes[name + end] = Served(path), path.stat().st_size
        table = ServedTable(Static(base.table, name=TEACHER))
        encoders["static"], sizes["static"] = table, table.table.nbytes
        for name in encoders:
            timed = bench.latency(partial(answer, name), test.queries, threads=1, device="cpu")
            found[name] = {key: timed[key] for key in ("p50_ms", "p95_ms")}
            found[name]["bytes"] = sizes[name]
    return found


# The record ---------------------------------------------------------------------------------------

FREE = ("words + base size, untrained", "words + six layers, untrained")
FINE_TUNED = "words + teacher"
UNTAUGHT = (
    "words",
    "base size, untrained",
    "six layers, untrained",
    *(f"{name}, labels" for name in STUDENTS),
)
NETWORKS = (*SIZES, NARROW)
"""Students that run where the teacher runs; the static one is a table, read in NumPy."""
INT8 = tuple(f"{name}, int8" for name in NETWORKS)


def both(name: str) -> tuple[str, str]:
    """A system alone, and in the sum with words."""
    return name, f"words + {name}"


def compared() -> list[tuple[str, str]]:
    pairs = [(FINE_TUNED, free) for free in FREE]
    pairs += [("teacher", "base size, untrained"), ("teacher", "teacher, int8")]
    pairs += [(name, FREE[0]) for name in ("teacher", *STUDENTS)]
    for name in STUDENTS:
        pairs += zip(both(name), both(f"{name}, labels"), strict=True)
        pairs += [(f"words + {name}", free) for free in FREE]
        pairs += zip(both(name), both("teacher"), strict=True)
        pairs.append((name, "base size, untrained"))
    for name in CURVED:
        pairs += [(f"{name}, {count} pairs", "teacher") for count in CURVE]
        pairs.append((f"{name}, {CURVE[-1]} pairs", f"{name}, {CURVE[0]} pairs"))
    pairs += [(f"{name}, int8", name) for name in (*SIZES, NARROW)]
    return pairs


def kept() -> list[tuple[str, str]]:
    """Shares of what the teacher in float32 adds to a random order: the students', and of what no
    teacher taught."""
    pairs = [("teacher, int8", "teacher"), ("words + teacher, int8", FINE_TUNED)]
    pairs += [(name, "teacher") for name in UNTAUGHT]
    for name in (*STUDENTS, *INT8):
        pairs += zip(both(name), both("teacher"), strict=True)
    return pairs


def goals(found: dict, times: dict[str, dict[str, float]]) -> list[dict]:
    rows = found["rows"]
    differences = shared.by_pair(found["comparisons"])
    # A share is kept where its whole interval lies above what is asked, for test queries choose.
    shares = {one["system"]: one["low"] for one in found["kept"]}
    speeds = {name: times["teacher"]["p50_ms"] / one["p50_ms"] for name, one in times.items()}

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: rows[name]["ndcg@10"])

    start, entries = "base-size teacher, film queries: ", []
    free = differences[FINE_TUNED, best(FREE)]
    entries.append(shared.above(f"{start}nDCG@10, words and teacher minus what is free", free))
    for name in ("three layers", "static"):
        what = f"{start}nDCG@10, {name} distilled minus on labels alone"
        entries.append(shared.above(what, differences[name, f"{name}, labels"]))
    for names, least, share in (
        (NETWORKS, 8, 0.97),
        (NETWORKS, 20, 0.95),
        (INT8, 30, 0.97),
        (INT8, 80, 0.95),
    ):
        fastest = max((speeds[name] for name in names if shares[name] >= share), default=0.0)
        of = (
            "in float32, as its teacher" if names is NETWORKS else "in int8, its teacher in float32"
        )
        who = f"the fastest student that keeps {share:.0%} of the lift, its whole interval"
        what = f"{start}times as fast in ONNX Runtime, {who}, {of}"
        entries.append(shared.exact(what, fastest, f"at least {least}", fastest >= least))
    static = speeds["static"] if shares["static"] >= 0.9 else 0.0
    what = f"{start}times as fast, a static student that keeps 90% of the lift, its whole interval"
    return [*entries, shared.exact(what, static, "at least 300", static >= 300)]


def merge(folder: Path) -> None:
    """Write the record from the files of all seeds."""
    seeds = shared.read(folder, ["profile"])
    times = shared.sizes(folder, "clock")
    found = summary(seeds, compared(), kept())
    numbers = [one["seed"] for one in seeds]
    script = "python benchmarks/measure_frontier.py"
    report.write_recorded(
        shared.RECORDED / "frontier.json",
        command=f"{script} --seeds {' '.join(map(str, numbers))} --clock --merge",
        seeds=numbers,
        hardware=seeds[0]["hardware"],
        generator=None,
        data={"msrd": found, "clock": times, "choices": [one["choices"] for one in seeds]},
        goals=goals(found, times),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality against time, on real film queries.")
    profile = Profile.named("book")
    arguments = arguments_of(parser, profile.artifacts / "frontier")
    folder = arguments.folder
    if arguments.seeds or arguments.clock:
        base = ground("msrd", profile, LOG, TEACHER)
        own = ground("msrd", profile, LOG)
        for seed in arguments.seeds:
            shared.write(folder, seed, measured(base, own, profile, seed))
        if arguments.clock:
            write_text(folder / "clock.json", json.dumps(clock(base, own)))
    if arguments.merge:
        merge(folder)


if __name__ == "__main__":
    main()
