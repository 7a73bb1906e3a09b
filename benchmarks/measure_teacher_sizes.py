"""Does a student need a large teacher? Small encoders of film queries, taught by two sizes.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_teacher_sizes.py --seeds 1 2 3
    ECOMKD_PRECISION=bf16 python benchmarks/measure_teacher_sizes.py --merge

needs ECOMKD_REAL_DATA with `msrd`, and the packages of `mpnet`. In `measure_frontier`, on whose
parts this stands, one teacher of base size was fine-tuned once, and many rates of its students lay
at an end of those tried. Here the students are three and two layers of MiniLM, two layers of 128
and a table of token vectors. Each learns from labels alone and, beside the labels, from two
teachers: the six layers of MiniLM and an encoder of base size, each fine-tuned on the same labelled
queries. Three layers and the table also learn from the six layers as they came. All students stand
over MiniLM's vectors of the films, so that between two teachers only their answers differ. A seed
has labelled queries of its own; validation, test and the queries that nobody labelled are the same
for all. Each rate but that of base size is searched until those beside it are no better. All that
is compared, and each goal, was named before anything was measured. A run that is started again goes
on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import shared
from ecomkd import features, report, runtime
from ecomkd.config import Profile
from measure_frontier import NARROW, SHOWN, SIZES, Mapped, Narrow, both, map_between
from measure_query_side import (
    LABELLED,
    PASSES,
    Ground,
    Judged,
    Lists,
    Network,
    Static,
    cosines,
    ground,
    joined,
    of_pairs,
    passes_over,
    summary,
    tuned,
    unit,
)


class Search(NamedTuple):
    """The first rate that is tried, how far apart two rates lie, and how many are tried on either
    side of the first, at most."""

    start: float
    factor: float = 2
    furthest: int = 5


UNTRAINED = "six layers, untrained"
SMALL, LARGE = "six layers, fine-tuned", "base size, fine-tuned"
ENCODERS = {SMALL: "minilm", LARGE: "mpnet"}
TEACHERS = {
    "three layers": (SMALL, LARGE, UNTRAINED),
    "two layers": (SMALL, LARGE),
    NARROW: (SMALL, LARGE),
    "static": (SMALL, LARGE, UNTRAINED),
}
"""Of each student."""
SEARCHES = {
    SMALL: Search(1e-4),
    # The rate is the one that `measure_frontier` chose of four.
    LARGE: Search(1e-4, furthest=0),
    "three layers": Search(2e-4),
    "two layers": Search(2e-4),
    NARROW: Search(1e-3, 3),
    "static": Search(1e-3, 3),
}


class Encoder(Network):
    """A network that learns in the profile's precision, and answers in float32."""

    def forward(self, queries: list[str]) -> torch.Tensor:
        if not self.training:
            return super().forward(queries)
        with runtime.autocast(Profile.named("book")):
            return super().forward(queries)


def searched(
    search: Search, make: Callable[[], nn.Module], *given, **options
) -> tuple[nn.Module, dict]:
    """The model of the rate that ranks validation best, and what was tried.

    The rate goes up for as long as that is better, and down if the first step up is not.
    """
    model, chosen = tuned(make, (search.start,), *given, **options)
    tried = chosen["tried"]
    for step in (search.factor, 1 / search.factor):
        for power in range(1, search.furthest + 1) if chosen["rate"] == search.start else ():
            other, found = tuned(make, (search.start * step**power,), *given, **options)
            tried |= found["tried"]
            if max(found["looks"]) <= max(chosen["looks"]):
                break
            model, chosen = other, found
    return model, chosen | {"tried": tried}


def labelled(train: Lists, seed: int) -> Lists:
    """The LABELLED queries of a seed, which counts from 1; no two seeds share one."""
    known, end = train.labelled(), seed * LABELLED
    if not LABELLED <= end <= len(known.queries):
        raise SystemExit(f"seed {seed}: give one from 1 to {len(known.queries) // LABELLED}.")
    return known.part(range(end - LABELLED, end))


def taught(student: str, teacher: str) -> str:
    """The row of a student that learnt from this teacher."""
    return f"{student}, taught by {teacher}"


@cache
def place(teacher: str) -> Ground:
    """What all seeds share, with the film vectors of a teacher's encoder."""
    return ground("msrd", Profile.named("book"), SHOWN, ENCODERS[teacher])


def makers(base: Ground, profile: Profile, seed: int) -> dict[str, Callable[[Lists], nn.Module]]:
    """By student what makes it, before it learns from these lists."""
    wanted = unit(features.last_layer(base.titles, profile, ENCODERS[SMALL]))
    start = map_between(Narrow(seed), base.titles, wanted)
    return {
        **{name: lambda _, own=SIZES[name]: Encoder(own) for name in TEACHERS if name in SIZES},
        NARROW: lambda _: Mapped(partial(Narrow, seed), start),
        "static": lambda asked: Static(base.table, asked.queries),
    }


def measured(seed: int) -> dict:
    """All systems of one seed: nDCG@10 of each test query, alone and in the sum with words."""
    profile, base = Profile.named("book"), place(SMALL)
    data = base.parts[0]
    train, validation, test = (
        of_pairs(data[split], base.place) for split in ("train", "validation", "test")
    )
    some = labelled(train, seed)
    asked = joined(some, base.log)
    at_home, values = Judged(base, data, validation, test), {}
    values["random"] = at_home.ranked(np.zeros(len(at_home.pairs["test"])))
    at_home.add(values, "words", None)
    answers: dict[str, torch.Tensor] = {}
    choices: dict[str, dict] = {}

    def untrained(name: str, teacher: str, seen: Judged) -> None:
        model = Encoder(None, ENCODERS[teacher])
        seen.add(values, name, model)
        answers[name] = cosines(model, asked, seen.vectors)

    def learnt(
        name: str, make: Callable, own: Lists, of: str, seen: Judged = at_home, **options
    ) -> None:
        given = own, seen.vectors, validation
        model, choices[name] = searched(SEARCHES[of], make, *given, seed=seed, **options)
        seen.add(values, name, model)
        if name in ENCODERS:
            answers[name] = cosines(model, asked, seen.vectors)
        print(f"seed {seed}, {name}: {choices[name]['tried']}", flush=True)

    def teach(teacher: str) -> None:
        for name in (one for one, own in TEACHERS.items() if teacher in own):
            options = {"passes": PASSES, "taught": answers[teacher]}
            learnt(taught(name, teacher), partial(made[name], asked), asked, name, **options)

    made, passes = makers(base, profile, seed), passes_over(some)
    for name, make in made.items():
        learnt(f"{name}, labels", partial(make, some), some, name, passes=passes)
    untrained(UNTRAINED, SMALL, at_home)
    teach(UNTRAINED)
    learnt(SMALL, Encoder, some, SMALL, passes=passes)
    teach(SMALL)
    # Base size comes last, for its vectors take longest.
    away = Judged(place(LARGE), data, validation, test)
    untrained("base size, untrained", LARGE, away)
    learnt(LARGE, partial(Encoder, None, ENCODERS[LARGE]), some, LARGE, away, passes=passes)
    teach(LARGE)
    return {
        "precision": runtime.precision(profile),
        "generator": None,
        "values": values,
        "choices": choices | {"weights": {**away.weights, **at_home.weights}},
    }


# The record ---------------------------------------------------------------------------------------

FREE = (f"words + {UNTRAINED}", "words + base size, untrained")


def compared() -> list[tuple[str, str]]:
    """The pairs of systems whose difference is asked."""
    pairs = [(SMALL, UNTRAINED), (LARGE, SMALL), (f"words + {LARGE}", f"words + {SMALL}")]
    pairs += [(f"words + {SMALL}", FREE[0]), (f"words + {LARGE}", FREE[1])]
    for name, teachers in TEACHERS.items():
        plain, small, *others = f"{name}, labels", *(taught(name, one) for one in teachers)
        for one in (small, *others):
            pairs += zip(both(one), both(plain), strict=True)
            pairs += [(own, free) for own in both(one) for free in FREE]
        for other in others:
            pairs += zip(both(other), both(small), strict=True)
    return pairs


def kept() -> list[tuple[str, str]]:
    """Students, each with the teacher of whose lift it keeps a share."""
    return [(taught(name, one), one) for name in TEACHERS for one in (SMALL, LARGE)]


def goals(found: dict) -> list[dict]:
    """What distillation and a larger teacher are to show."""
    told, entries = shared.by_pair(found["comparisons"]), []
    for name in TEACHERS:
        small, large = taught(name, SMALL), taught(name, LARGE)
        for pair, what in (
            ((small, f"{name}, labels"), "taught by six layers minus labels alone"),
            ((large, small), "taught by base size minus taught by six layers"),
        ):
            entries.append(shared.above(f"film queries, nDCG@10: {name}, {what}", told[pair]))
    for share in found["kept"]:
        what = f"film queries: share of its teacher's lift kept by {share['system']}"
        entries.append(shared.at_least(what, share, 0.97))
    return entries


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = shared.read(folder, ("profile", "precision"))
    found = summary(parts, compared(), kept())
    data = found | {"choices": [part["choices"] for part in parts]}
    origin = shared.origin("teacher_sizes", parts)
    report.write_recorded(out, **origin, data=data, goals=goals(found))
    print(f"Wrote {out}.")


if __name__ == "__main__":
    shared.main("teacher_sizes", "Teachers of two sizes, on film queries.", measured, merge)
