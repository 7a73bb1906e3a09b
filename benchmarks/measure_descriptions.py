"""Product descriptions: facts named and invented, of models prompted, fine-tuned and distilled.

    python benchmarks/measure_descriptions.py shop --seeds 18 19 20   simulated shops of these seeds
    python benchmarks/measure_descriptions.py store --seeds 18 19     draws of the demo store
    python benchmarks/measure_descriptions.py --scale                 cost, to ten times the data
    python benchmarks/measure_descriptions.py --merge                 all files into the record

`store` needs ECOMKD_REAL_DATA, whose folder has the demo store. Settings were chosen on validation
products of seeds 0 to 2. What is measured is about test products
that no model has seen; all models write greedily. `--scale` needs the models of the profile's seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

import demo_store
import shared
from ecomkd import bench, describe, metrics, report
from ecomkd.config import Profile
from ecomkd.data import shop as simulated
from ecomkd.describe import Task, facts, generation

STUDENTS = {
    "student": {},
    "student, word-level": {"soft": True},
    "student, teacher's text": {"text": "teacher"},
    "student, teacher's text, more products": {"text": "teacher", "more": True},
}
BEYOND = "teacher, text beyond the record"
SHOWN = 4  # products of which the texts are kept
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the shop's own size
WRITTEN = (16, 64, 256)  # texts that are written for the clock


# One seed -----------------------------------------------------------------------------------------


def shop(seed: int) -> dict:
    profile = Profile.named(seed=seed)
    return measured(describe.shop_task(profile), describe.shop_task(profile, promises=True))


def store(seed: int) -> dict:
    profile = Profile.named(seed=seed)
    return measured(demo_store.task(profile), demo_store.task(profile, withheld=True))


def measured(task: Task, beyond: Task) -> dict:
    """What each model writes for the test products, before and after the guard.

    `beyond` is the same task with descriptions that say more than its records; what its teacher
    writes is held against its own records.
    """
    began, texts = time.time(), {}

    def keep(name: str, own: list[str]) -> None:
        texts[name] = own
        print(f"{name}: {time.time() - began:.0f} s", flush=True)

    keep("written", [product.written for product in task.test])
    keep("record", [facts.plain(product) for product in task.test])
    keep("template", [facts.template(product) for product in task.test])
    keep("prompted", describe.prompted(task))
    keep("prompted, 2 examples", describe.prompted(task, examples=2))
    folders = {"teacher": describe.teacher(task)}
    keep("teacher", describe.generate_descriptions(folders["teacher"], task.test, task))
    for name, how in STUDENTS.items():
        folders[name] = describe.student(task, **how)
        keep(name, describe.generate_descriptions(folders[name], task.test, task))
    tasks = dict.fromkeys(texts, task) | {BEYOND: beyond, "written, beyond the record": beyond}
    keep("written, beyond the record", [product.written for product in beyond.test])
    keep(BEYOND, describe.generate_descriptions(describe.teacher(beyond), beyond.test, beyond))
    rows = {name: row(own, tasks[name]) for name, own in texts.items()}
    # What it said beyond its own record, held against the record that has more.
    rows[f"{BEYOND}, whole record"] = row(texts[BEYOND], task)
    return {
        "product": [product.product_id for product in task.test],
        "rows": rows,
        "planted": planted(task),
        "sizes": {name: size(folder) for name, folder in folders.items()},
        "speed": speed(folders, task),
        "kept by the teacher": kept(folders["teacher"], task),
        "shown": [
            {"record": product.record, **{name: own[i] for name, own in texts.items()}}
            for i, product in enumerate(task.test[:SHOWN])
        ],
        "seconds": time.time() - began,
        "scale": task.scale.__dict__,
    }


def row(texts: list[str], task: Task) -> dict:
    """The measures of each text, and of what the guard makes of it; what it refuses is replaced by
    the plain record."""
    known = (task.test, task.vocabulary, task.training_texts)
    mended = [
        facts.mend(text, p, task.vocabulary) for text, p in zip(texts, task.test, strict=True)
    ]
    safe = [m if m else facts.plain(p) for m, p in zip(mended, task.test, strict=True)]
    before, after = (facts.measure(own, *known).to_dict("list") for own in (texts, safe))
    touched = [m != t for m, t in zip(mended, texts, strict=True)]
    return {
        **before,
        "refused": [float(m is None) for m in mended],
        "mended": [float(t and m is not None) for t, m in zip(touched, mended, strict=True)],
        "guarded": after,
    }


def planted(task: Task) -> dict:
    """Of each test product's written text, whether the checker raises a false alarm, and whether it
    catches a wrong value, in any word that the shop has for it, in a sentence that is added."""
    rng = np.random.default_rng(task.profile.seed)
    readings = [r for r in task.vocabulary.forms if r[0] in facts.ASSERTED and r[0] != "number"]
    alarms, caught = [], []
    for product in task.test:
        known = {(fact.attribute, fact.value) for fact in product.facts}
        others = [reading for reading in readings if reading not in known]
        forms = sorted(task.vocabulary.forms[others[rng.integers(len(others))]])
        text = f"{product.written} It says {forms[rng.integers(len(forms))]}."
        alarms.append(float(bool(task.vocabulary.check(product.written, product).wrong)))
        caught.append(float(bool(task.vocabulary.check(text, product).wrong)))
    return {"alarms": alarms, "caught": caught}


def size(folder: Path) -> dict:
    model, tokenizer = generation.load(str(folder))
    return {"parameters": generation.parameters(model), "tokens": len(tokenizer)}


def speed(folders: dict[str, Path], task: Task) -> dict:
    """Tokens per second of teacher and student, one text at a time and 32 together."""
    found = {}
    for name in ("teacher", "student"):
        model, tokenizer = generation.load(str(folders[name]))
        for together, texts in ((1, 4), (32, 32)):
            prompts = [product.prompt for product in task.test[:texts]]
            own = {"max_new_tokens": task.scale.max_new_tokens, "batch_size": together}
            generation.generate(model, tokenizer, prompts[:2], task.profile, **own)
            (_, tokens), seconds = shared.timed(
                generation.generate, model, tokenizer, prompts, task.profile, **own
            )
            found[f"{name}/{together}"] = tokens / seconds
    return found


def kept(folder: Path, task: Task) -> float:
    """The probability that the tokens kept of the teacher hold, a mean over validation tokens."""
    model, tokenizer = generation.load(str(folder))
    texts = [product.written for product in task.validation]
    rows = generation.encode(tokenizer, [p.prompt for p in task.validation], texts)
    found = generation.teacher_tokens(rows, model, tokenizer, task.profile)
    return float(np.mean([np.exp(one).sum() for row in found["top_logits"] for one in row]))


# Cost against size --------------------------------------------------------------------------------


def scale() -> list[dict]:
    """Seconds and memory against the number of products, to ten times the shop's own size: for
    records, check, guard and distance of all of them; writing is timed on fewer, text by text as
    dear, and is a multiple of it for the whole."""
    profile = Profile.named()
    task, largest = describe.shop_task(profile), int(max(SHARES) * profile.products)
    catalogue = simulated.generate(profile.seed, largest, 30, 6, 60).products
    written = [writing(name, task) for name in ("teacher", "student")]
    rows, known = [], task.vocabulary
    for share in SHARES:
        part, seconds = catalogue[: int(share * profile.products)], {}

        def clocked(name: str, call, seconds=seconds):
            found, seconds[name] = shared.timed(call)
            return found

        with bench.peak_memory() as memory:
            own = clocked("records", lambda part=part: describe.shop_products(part))
            own = [product for product in own if product.written]
            clocked("check", lambda own=own: [known.check(p.written, p) for p in own])
            clocked("guard", lambda own=own: [facts.mend(p.written, p, known) for p in own])
            texts = [p.written for p in own]
            clocked("distance", lambda texts=texts: facts.distance(texts, task.training_texts))
        peak = memory["peak_mib"] - memory["before_mib"]
        rows.append(
            {"products": len(part), "texts": len(own), "seconds": seconds, "added_mib": peak}
        )
        print(rows[-1], flush=True)
    return [{"sizes": rows, "writing": written}]


def writing(name: str, task: Task) -> dict:
    """Seconds that a model needs to write for more and more products."""
    folder = describe.teacher(task) if name == "teacher" else describe.student(task)
    model, tokenizer = generation.load(str(folder))
    products = [*task.test, *task.undescribed, *task.train]
    found = {"model": name, "texts": [], "tokens": [], "seconds": []}
    for n in WRITTEN:
        prompts = [product.prompt for product in products[:n]]
        length = {"max_new_tokens": task.scale.max_new_tokens}
        (_, tokens), seconds = shared.timed(
            generation.generate, model, tokenizer, prompts, task.profile, **length
        )
        found["texts"].append(len(prompts))
        found["tokens"].append(tokens)
        found["seconds"].append(seconds)
        print(name, n, seconds, flush=True)
    return found


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    data, goals, parts = {}, [], {}
    for kind in KINDS:
        parts[kind] = shared.read(folder / kind, ("profile", "scale"))
        data[kind], own = merged(kind, parts[kind])
        goals += own
    data["scale"] = shared.sizes(folder)[0]
    report.write_recorded(
        out,
        command=shared.command("descriptions", parts),
        seeds=sorted({part["seed"] for own in parts.values() for part in own}),
        hardware=parts["shop"][0]["hardware"],
        generator=simulated.generator_hash(),
        data=data,
        goals=goals,
    )


def merged(kind: str, parts: list[dict]) -> tuple[dict, list[dict]]:
    """The rows of all seeds, each product once: a mean over the draws that tested it."""
    tables = {name: table(parts, name) for name in parts[0]["rows"]}
    safe = {name: table(parts, name, "guarded") for name in parts[0]["rows"]}
    rows = {name: told(own) | {"guarded": told(safe[name])} for name, own in tables.items()}
    small, minus = "student", {}
    pairs = [("teacher", "prompted"), ("teacher", "prompted, 2 examples"), (BEYOND, "teacher")]
    pairs += [(name, small) for name in STUDENTS if name != small]
    pairs += [("student, teacher's text, more products", "student, teacher's text")]
    pairs += [(name, "teacher") for name in STUDENTS]
    for a, b in pairs:
        minus[f"{a} - {b}"] = differences(tables[a], tables[b])
    shares = {
        name: [v for part in parts for v in part["planted"][name]] for name in ("caught", "alarms")
    }
    planted = {
        name: metrics.bootstrap_of_means(pd.DataFrame({"v": own}), itemgetter("v"))
        for name, own in shares.items()
    }
    speeds = {
        name: metrics.seed_interval([part["speed"][name] for part in parts])
        if len(parts) > 2
        else {"mean": float(np.mean([part["speed"][name] for part in parts]))}
        for name in parts[0]["speed"]
    }
    data = {
        "seeds": [part["seed"] for part in parts],
        "products": len(tables[small]),
        "rows": rows,
        "minus": minus,
        "planted": planted,
        "speed": speeds,
        "sizes": parts[0]["sizes"],
        "kept by the teacher": [part["kept by the teacher"] for part in parts],
        "seconds": [part["seconds"] for part in parts],
        "scale": parts[0]["scale"],
        "shown": parts[0]["shown"],
    }
    return data, goals_of(kind, data)


def table(parts: list[dict], name: str, inner: str | None = None) -> pd.DataFrame:
    found = []
    for part in parts:
        own = part["rows"][name]
        own = own[inner] if inner else {k: v for k, v in own.items() if k != "guarded"}
        found.append(pd.DataFrame(own).assign(product=part["product"]))
    return pd.concat(found).groupby("product").mean()


def told(own: pd.DataFrame) -> dict:
    """Recall of facts, and the mean of all else, with intervals over products."""
    found = {
        "recall": metrics.bootstrap_of_means(own, lambda means: means["named"] / means["facts"])
    }
    for name in own.columns.drop(["facts", "named"]):
        found[name] = metrics.bootstrap_of_means(own, itemgetter(name))
    return found


MEASURES = ("contradicted", "invented", "clean", "distance", "repetition")


def differences(a: pd.DataFrame, b: pd.DataFrame, measures: Sequence[str] = MEASURES) -> dict:
    """Recall and means of texts of `a` minus those of `b`, with intervals over products."""
    both = a.add_suffix(" a").join(b.add_suffix(" b"))

    def recall(means: pd.DataFrame) -> pd.Series:
        return means["named a"] / means["facts a"] - means["named b"] / means["facts b"]

    found = {"recall": metrics.bootstrap_of_means(both, recall)}
    for name in measures:
        own = metrics.paired_bootstrap(a[name], b[name])
        found[name] = {"value": own["difference"], "low": own["low"], "high": own["high"]}
    return found


def goals_of(kind: str, data: dict) -> list[dict]:
    goals = []

    def want(name: str, found: dict, wanted: str, met: bool) -> None:
        goals.append(report.goal(f"{kind}: {name}", *shared.ends(found), wanted, bool(met)))

    pairs = [("teacher", "prompted")] + [
        (name, "student") for name in STUDENTS if name != "student"
    ]
    for a, b in pairs:
        own = data["minus"][f"{a} - {b}"]
        goals.append(shared.above(f"{kind}: attribute recall, {a} minus {b}", own["recall"]))
        goals.append(shared.below(f"{kind}: invention rate, {a} minus {b}", own["invented"]))
    caught, alarms = data["planted"]["caught"], data["planted"]["alarms"]
    want(
        "planted wrong values that are caught",
        caught,
        "at least 0.95, interval included",
        caught["low"] >= 0.95,
    )
    want("false alarms on written texts", alarms, "at most 0.01", alarms["value"] <= 0.01)
    return goals


KINDS = {"shop": shop, "store": store}


def main() -> None:
    parser = argparse.ArgumentParser(description="Product descriptions.")
    arguments = shared.arguments_of(parser, "descriptions", tuple(KINDS))
    shared.run(arguments, KINDS.get(arguments.kind), merge, scale, arguments.kind or "")


if __name__ == "__main__":
    main()
