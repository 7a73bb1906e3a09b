"""What teacher and students of the simulated shop gain by reading 72 tokens of a pair, not 32.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_longer_pairs.py --seeds 18
    ECOMKD_PRECISION=bf16 python benchmarks/measure_longer_pairs.py --seeds 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_longer_pairs.py --merge

The book's networks read 32 tokens of a query and a product together, so that whoever runs it need
not wait; 96 % of the test pairs are longer than that. Here warm-up, teacher and students read 72,
which cut 3 % of them. The shops are those of `labels_only`, and so are the settings of each
kind of student, which validation chose at 32 tokens, so that longer pairs may bring more than is
found here. Soft targets on the labelled pairs alone were left out, for time. All else is the
book's. `--merge` holds the rows against those of `labels_only`, at 32 tokens, where seed 18 has the
package's recorded warm-up and teacher. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset

import shared
from ecomkd import load, metrics, models, report, runtime
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.sources import product_text
from ecomkd.relevance import stages
from ecomkd.relevance.tables import UNTRAINED_SUM
from measure_freed_teacher import chosen
from measure_labels_only import FREE, LABELS, MORE, ROWS, TEACHER, judged, trained

TOKENS = 72
STUDENTS = (LABELS, MORE)
COMPARED = {
    (MORE, LABELS): "what distillation adds",
    (MORE, TEACHER): "distilled, against its teacher",
}


def cut_share(pairs: Dataset, tokens: int) -> float:
    """The share of the pairs that are longer than so many tokens."""
    tokenizer = models.load_tokenizer("minilm")
    read = tokenizer(list(pairs["query"]), product_text(pairs[:]))["input_ids"]
    return float(np.mean([len(ids) > tokens for ids in read]))


def measured(seed: int) -> dict:
    """All systems of a seed on its test queries: per query, and in classes."""
    short = Profile.named(seed=seed)
    profile = replace(short, max_length=TOKENS)
    data, settings = load("shop", profile), chosen(seed)
    teacher = stages.teacher(data, profile)
    systems = {TEACHER: judged(teacher, data["test"], profile)}
    for name in STUDENTS:
        folder = trained(data, profile, teacher, ROWS[name], settings[name])
        systems[name] = judged(folder, data["test"], profile)
    return {
        "precision": runtime.precision(profile),
        "generator": shop.generator_hash(),
        "systems": systems,
        "cut": {
            one.max_length: cut_share(data["test"], one.max_length) for one in (short, profile)
        },
    }


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "generator", "precision"))
    rows, differences = shared.of_judged_shops(parts, COMPARED)
    before = report.recorded("labels_only")
    known = before["generator"], before["hardware"]["precision"]
    if known != (parts[0]["generator"], parts[0]["precision"]):
        raise SystemExit(
            "labels_only.json is of another generator of the shop, or of another precision, than "
            f"the files in {folder}: measure one of the two again."
        )
    places = [before["seeds"].index(part["seed"]) for part in parts]

    def against(name: str, other: str) -> dict:
        """A row of these minus one of `labels_only`, over the shops."""
        of_shops = before["data"]["rows"][other]["by_seed"]
        there = [of_shops[place] for place in places]
        return metrics.seed_interval(np.subtract(rows[name]["by_seed"], there))

    added, earlier = (
        shared.by_pair(some)[MORE, LABELS] for some in (differences, before["data"]["differences"])
    )
    apart = np.subtract(added["by_seed"], [earlier["by_seed"][place] for place in places])
    name = "nDCG@10: distilled minus labels alone, on 72 tokens a pair (interval over seeds)"
    report.write_recorded(
        out,
        **shared.origin("longer_pairs", parts),
        data={
            "rows": rows,
            "differences": differences,
            "against 32 tokens": {of: against(of, of) for of in rows},
            "gain against 32 tokens": metrics.seed_interval(apart),
            "against what is free": {
                other: {name: against(name, other) for name in rows}
                for other in (FREE, UNTRAINED_SUM)
            },
            "cut": {part["seed"]: part["cut"] for part in parts},
        },
        goals=[shared.above_over_seeds(name, added)],
    )
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("longer_pairs", "Pairs of 72 tokens, in the shop.", measured, merge)
