"""What recommenders give away of their households, and what hiding costs. Chapter 16.

    python benchmarks/measure_privacy.py --seeds 1 2 3 4 5
    python benchmarks/measure_privacy.py --shop 1 2 3 4 5 --once
    python benchmarks/measure_privacy.py --merge

needs the extra `privacy`; it takes about a quarter of an hour of one core a seed. A seed draws who
has agreed to be looked at, who is learnt from by each of the models, weights, order and noise. All
settings are chosen on households who agreed, row by row; quality is measured on households that a
model did not learn from. `--shop` measures what numbers buy, on the simulated shop of each seed,
and `--once` what steps cost.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.utils.extmath import randomized_svd

import shared
from ecomkd import features, metrics, report
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data import shop as simulated_shop
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.privacy import attack, private, tastes

AGREED = 467
"""Households who agreed to be looked at: public histories, and validation."""
MODELS = 8
"""Models of each kind; a household is learnt from by half of them."""
TRIED = 3
"""Of these models, how many a row has that is not attacked."""
OCCASIONS = 6
CUT = 0.3
"""The length to which a household's gradient is cut: about half of what is usual."""
CLIP = 10.0
"""The length to which a household's row of types is cut before it is counted."""
EPSILONS = (8.0, 3.0, 1.0, 0.3)
ATTACKED = (8.0, 1.0)
"""Of these, those whose students are attacked."""
STEPS = {
    "teacher": ((200, 1e-3), (400, 1e-3), (800, 1e-3)),
    "student": ((50, 0.03), (100, 0.03), (200, 0.03), (200, 0.1), (400, 0.03), (800, 0.03)),
    "private": (
        (12, 0.03),
        (25, 0.03),
        (50, 0.03),
        (100, 0.03),
        (200, 0.03),
        (400, 0.03),
        (800, 0.03),
    ),
}
"""Steps and learning rates that are tried."""
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
NOISY_PENALTIES = (3e3, 1e4, 3e4, 1e5, 3e5)
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of a table's scores beside what sells."""
SHARDS = 20
ASKED = (1, 3, 10, 30, 100)
"""Public histories that teachers of shards vote on."""
KNOWN = (1, 2, 3, 4, 5, 6)
"""Purchases that single out a household, or not."""
FORGOTTEN = 50
RESAMPLES = 300
RARE = 5


# The shop -----------------------------------------------------------------------------------------


@lru_cache
def shop() -> tuple[Baskets, list[str], np.ndarray]:
    baskets = journey.load()
    return (baskets, *tastes.types_of(baskets))


class World:
    """The households of a seed, and what is known of types without looking at any of the pool."""

    def __init__(self, seed: int) -> None:
        baskets, names, codes = shop()
        self.seed, start = seed, baskets.test_start
        days = [start - HORIZON * back for back in range(OCCASIONS, 0, -1)]
        self.seen = tastes.records(baskets, codes, days)
        self.test = tastes.records(baskets, codes, [start])
        self.had = tastes.table(baskets, codes, 0, start).toarray()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.had))
        self.agreed, self.pool = np.sort(order[:AGREED]), np.sort(order[AGREED:])
        places = rng.random((MODELS, len(self.pool))).argsort(axis=0)
        self.members = places < MODELS // 2
        texts = features.last_layer(names, Profile.named())
        public = {"text": _even(PCA(16, random_state=0).fit_transform(texts))}
        known = TfidfTransformer(sublinear_tf=True).fit_transform(self.had[self.agreed])
        _, size, right = randomized_svd(known, 16, random_state=0)
        public["households who agreed"] = _even(right.T * np.sqrt(size))
        both = np.hstack(list(public.values())) / np.sqrt(2)
        chance = rng.normal(size=(len(names), 16)) / 4
        self.public = {"both": both, **public, "none: random numbers": chance}

    def rows(self, model: int) -> np.ndarray:
        return self.pool[self.members[model]]

    def outside(self, model: int) -> np.ndarray:
        return self.pool[~self.members[model]]

    def sales(self, rows: np.ndarray, noise: float = 0.0) -> np.ndarray:
        """Logarithms of how many of these households had each type, as far as noise lets one tell.

        The noisy count and that of the agreed, which needs no noise, are averaged, each weighed by
        one over its variance.
        """
        counts = private.noisy_sum(self.had[rows], CLIP, noise, self.start(rows))
        times = len(rows) / len(self.agreed)
        public = times * private.noisy_sum(self.had[self.agreed], CLIP, 0.0, self.seed)
        own, other = (noise * CLIP) ** 2 + public + 1, times * (public + times)
        return np.log1p(np.maximum((other * counts + own * public) / (own + other), 0))

    def start(self, rows: np.ndarray) -> int:
        """A seed of weights, order and noise: each set of households has its own."""
        return int(np.random.default_rng([self.seed, *rows[:50]]).integers(2**31))

    def valid(self, model: torch.nn.Module) -> float:
        return float(tastes.losses_of(model, self.test, self.agreed).mean())


def _even(vectors: np.ndarray) -> np.ndarray:
    return vectors / vectors.std() / np.sqrt(vectors.shape[1])


class Sells(torch.nn.Module):
    """What sells, to a power, and the scores of a table: the same loss as for a network."""

    def __init__(
        self, sales: np.ndarray, power: float, weights: np.ndarray | None = None, share: float = 0.0
    ) -> None:
        super().__init__()
        self.demand = power * torch.as_tensor(sales, dtype=torch.float32)
        self.weights = None if weights is None else torch.as_tensor(weights).float() * share

    def forward(self, decayed: torch.Tensor) -> torch.Tensor:
        scores = self.demand.expand_as(decayed)
        if self.weights is not None:
            scores = scores + (decayed > 0).float() @ self.weights
        return scores.masked_fill(decayed > 0, tastes.OLD)


POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def best(
    world: World, made: Iterable[tuple[dict, torch.nn.Module]]
) -> tuple[torch.nn.Module, dict]:
    """The model with the lowest loss on those who agreed, and its settings."""
    found: tuple[float, torch.nn.Module | None, dict] = (np.inf, None, {})
    for settings, model in made:
        loss = world.valid(model)
        if loss < found[0]:
            found = (loss, model, {**settings, "validation": loss})
    return found[1], found[2]


def popular(world: World, sales: np.ndarray) -> tuple[torch.nn.Module, dict]:
    return best(world, (({"power": power}, Sells(sales, power)) for power in POWERS))


def pairs(world: World, rows: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The table (T, T) of how many of these households had both types, with noise for half of it.

    A household's part, the product of its row with itself, has the length of the row squared.
    """
    had = world.had[rows]
    length = np.linalg.norm(had, axis=1, keepdims=True)
    had = had * np.minimum(1, CLIP / np.maximum(length, 1e-9)) if noise else had
    table = had.T @ had
    if noise:
        drawn = np.random.default_rng(seed).normal(0, noise * CLIP**2, table.shape)
        table = table + np.triu(drawn) + np.triu(drawn, 1).T
    return table.astype(np.float32)


def of_pairs(
    world: World, table: np.ndarray, sales: np.ndarray, penalties: Iterable[float] = PENALTIES
) -> tuple[torch.nn.Module, dict]:
    """EASE from a table of pairs, beside what sells."""
    power = popular(world, sales)[1]["power"]

    def made():
        for penalty in penalties:
            weights = tastes.ease(table, penalty)
            for share in WEIGHTS:
                yield {"penalty": penalty, "share": share}, Sells(sales, power, weights, share)

    return best(world, made())


# Networks -----------------------------------------------------------------------------------------


def teacher(world: World, sales: np.ndarray) -> torch.nn.Module:
    return tastes.Teacher(sales, dropout=0.5)


def student(world: World, sales: np.ndarray, known: str = "both") -> torch.nn.Module:
    return tastes.Student(world.public[known], sales)


def trained(
    world: World,
    make: Callable,
    sales: np.ndarray,
    rows: np.ndarray,
    grid: Iterable,
    start: int | None = None,
    **options,
) -> tuple[torch.nn.Module, dict]:
    """A network with the steps and the rate that are best on those who agreed."""
    start = world.start(rows) if start is None else start

    def made():
        for steps, rate in grid:
            torch.manual_seed(start)
            model = make(world, sales)
            # The wide network learns from two occasions a step, or it needs twice the steps.
            picks = 2 if isinstance(model, tastes.Teacher) else 1
            tastes.fit(model, world.seen, rows, steps, rate, picks=picks, seed=start, **options)
            yield {"steps": steps, "rate": rate}, model

    return best(world, made())


@lru_cache
def budget(epsilon: float, steps: int) -> tuple[float, float]:
    """The noise of the counts of types, and of each step, that together take ε."""
    first = 2 * private.noise_for(epsilon)
    return first, private.noise_for(epsilon, 0.1, steps, [(first, 1.0, 1)])


def privately(
    world: World, rows: np.ndarray, epsilon: float, grid, known: str = "both"
) -> tuple[torch.nn.Module, dict]:
    def made():
        for steps, rate in grid:
            first, noise = budget(epsilon, steps)
            model = student(world, world.sales(rows, first), known)
            private.fit_privately(
                model, world.seen, rows, noise, steps, rate, clip=CUT, seed=world.start(rows)
            )
            yield {"steps": steps, "rate": rate, "noise": noise, "counts": first}, model

    return best(world, made())


def voted(world: World, rows: np.ndarray, epsilon: float | None) -> tuple[torch.nn.Module, dict]:
    """A student of the noisy votes of teachers of disjoint shards, on public histories."""
    sales = world.sales(world.agreed)
    shards = np.array_split(np.random.default_rng(world.seed).permutation(rows), SHARDS)
    teachers = [
        tastes.fit(student(world, world.sales(own)), world.seen, own, 50, 0.01, seed=world.seed)
        for own in shards
    ]

    def made():
        for asked in ASKED:
            own = world.agreed[:asked]
            scores = [tastes.scores_of(one, world.test, own)[:, 0] for one in teachers]
            votes = np.zeros((SHARDS, *scores[0].shape))
            for vote, one in zip(votes, scores, strict=True):
                np.put_along_axis(vote, np.argsort(-one, axis=1)[:, : tastes.DEPTH], 1, axis=1)
            noise = 0.0 if epsilon is None else private.noise_for(epsilon, times=1)
            told = np.maximum(private.noisy_votes(votes, noise, world.seed), 0)
            target = torch.from_numpy(told / np.maximum(told.sum(axis=1, keepdims=True), 1e-9))
            lesson = tastes.Records(world.test.decayed[own], target[:, None].half())
            for steps, rate in ((3, 0.01), (10, 0.01), (50, 0.01), (100, 0.01)):
                model = student(world, sales)
                tastes.fit(model, lesson, np.arange(asked), steps, rate, seed=world.seed)
                yield {"asked": asked, "steps": steps}, model

    return best(world, made())


# What is given away -------------------------------------------------------------------------------


def given_away(world: World) -> dict:
    """For each kind of model: what an attacker sees (M, N), quality outside, and the settings."""
    wide_grid, small_grid, chosen = STEPS["teacher"], STEPS["student"], {}
    first, agreed = world.rows(0), world.sales(world.agreed)
    _, chosen["teacher"] = trained(world, teacher, world.sales(first), first, wide_grid)
    _, chosen["student"] = trained(world, student, world.sales(first), first, small_grid)
    for epsilon in ATTACKED:
        _, chosen[f"private, {epsilon:g}"] = privately(world, first, epsilon, STEPS["private"])
    wide = [(chosen["teacher"]["steps"], chosen["teacher"]["rate"])]
    small = [(chosen["student"]["steps"], chosen["student"]["rate"])]
    seen: dict[str, list] = {}
    outside: dict[str, list] = {}
    forgotten: dict[str, list] = {}
    rate = world.had[world.pool].mean(axis=0)
    own = world.had[world.pool]
    both_rate = own.T @ own / len(own)
    penalty: list[float] = list(PENALTIES)
    for number in range(MODELS):
        rows = world.rows(number)
        sales = world.sales(rows)
        table = pairs(world, rows)
        common = np.where(table < RARE, len(rows) * both_rate, table)
        for name, stat in (
            ("counts of types", attack.traces(np.diag(table).copy(), own, rate, len(rows))),
            ("counts of pairs", attack.traces(table, own, both_rate, len(rows))),
            (f"counts of pairs, from {RARE} on",
             attack.traces(common, own, both_rate, len(rows))),
        ):  # fmt: skip
            seen.setdefault(name, []).append(stat)
        models = {"popularity": popular(world, sales)[0]}
        models["EASE"], told = of_pairs(world, table, sales, penalty)
        if number == 0:
            chosen["EASE"], penalty = told, [told["penalty"]]
        models["teacher"], _ = trained(world, teacher, sales, rows, wide)
        # A student of the agreed alone has another start for each model, and not its teacher's.
        deep, other = models["teacher"], world.start(rows) + 1
        models["teacher's shape, taught on the agreed"] = trained(
            world, teacher, agreed, world.agreed, wide, other, teacher=deep, labelled=False
        )[0]
        models["student, labels alone"] = trained(world, student, sales, rows, small)[0]
        models["student, distilled"] = trained(world, student, sales, rows, small, teacher=deep)[0]
        models["student, taught on the agreed"] = trained(
            world, student, agreed, world.agreed, small, other, teacher=deep, labelled=False
        )[0]
        for epsilon in ATTACKED:
            own_grid = chosen[f"private, {epsilon:g}"]
            models[f"student, ε = {epsilon:g}"] = privately(
                world, rows, epsilon, [(own_grid["steps"], own_grid["rate"])]
            )[0]
        for name, model in models.items():
            seen.setdefault(name, []).append(-tastes.losses_of(model, world.seen, world.pool))
            outside.setdefault(name, []).append(quality(world, model, number))
        for name, stat in forget(world, deep, rows, number).items():
            forgotten.setdefault(name, []).append(stat)
    return {
        "seen": {name: np.array(one) for name, one in seen.items()},
        "outside": {name: over_models(one) for name, one in outside.items()},
        "forgotten": {name: np.array(one) for name, one in forgotten.items()},
        "chosen": chosen,
    }


def quality(world: World, model: torch.nn.Module, number: int) -> np.ndarray:
    """(2, N): loss and recall of new types of the pool's households, NaN where learnt from."""
    own = ~world.members[number]
    rows = world.pool[own]
    found = np.full((2, len(world.pool)), np.nan)
    found[0, own] = tastes.losses_of(model, world.test, rows)
    found[1, own] = tastes.hits(tastes.scores_of(model, world.test, rows)[:, 0], world.test, rows)
    found[0, np.isnan(found[1])] = np.nan
    return found


def over_models(found: list[np.ndarray]) -> list[list]:
    """The mean over models of `quality`, household by household."""
    with np.errstate(all="ignore"):
        table = np.array(found)
        count = (~np.isnan(table)).sum(axis=0)
        mean = np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    return [[None if np.isnan(x) else round(float(x), 5) for x in row] for row in mean]


def forget(world: World, model: torch.nn.Module, rows: np.ndarray, number: int) -> dict:
    """What an attacker sees of the pool after some members were unlearnt, in two quick ways.

    Ascent takes steps up the loss of those who leave until it is, in the mean, that of households
    that were never learnt from; the other goes on learning from those who stay.
    """
    leave = np.random.default_rng(1000 * world.seed + number).permutation(rows)[:FORGOTTEN]
    stay = np.setdiff1d(rows, leave)
    usual = tastes.losses_of(model, world.seen, world.outside(number)).mean()
    up = copy.deepcopy(model)
    optimizer = torch.optim.SGD(up.parameters(), lr=0.3)
    for _ in range(200):
        if tastes.losses_of(up, world.seen, leave).mean() >= usual:
            break
        part = world.seen.of(leave)
        loss = -tastes.household_loss(up(part.decayed), part.bought).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    on = tastes.fit(copy.deepcopy(model), world.seen, stay, 100, 1e-3, picks=2, seed=world.seed)
    gone = np.isin(world.pool, leave).astype(float)
    return {
        "who": gone,
        "ascent": -tastes.losses_of(up, world.seen, world.pool),
        "learning on": -tastes.losses_of(on, world.seen, world.pool),
        "ascent, quality": quality(world, up, number)[0],
        "learning on, quality": quality(world, on, number)[0],
    }


# What hiding costs --------------------------------------------------------------------------------


def hidden(world: World) -> dict:
    """Quality of each way to hide households, at each ε; None stands for no noise."""
    rows_of: dict[str, list] = {}
    chosen: dict[str, list] = {}

    def note(name: str, number: int, made: tuple[torch.nn.Module, dict]) -> None:
        rows_of.setdefault(name, []).append(quality(world, made[0], number))
        chosen.setdefault(name, []).append(made[1])

    def grid(name: str, whole: tuple) -> tuple:
        """All settings for the first model, those chosen there for the others."""
        if name not in chosen:
            return whole
        return ((chosen[name][0]["steps"], chosen[name][0]["rate"]),)

    agreed = world.sales(world.agreed)
    alone = popular(world, agreed)
    own = trained(world, student, agreed, world.agreed, STEPS["student"])
    for number in range(TRIED):
        rows = world.rows(number)
        note("chance", number, (Sells(np.zeros(len(agreed)), 0.0), {}))
        note("popularity of the agreed", number, alone)
        note("student of the agreed", number, own)
        for known in world.public:
            if known == "both":
                continue
            name = f"student, {known}"
            made = trained(
                world, partial(student, known=known), world.sales(rows), rows,
                grid(name, STEPS["student"]),
            )  # fmt: skip
            note(name, number, made)
            name = f"{name}, ε = 3"
            note(name, number, privately(world, rows, 3.0, grid(name, STEPS["private"]), known))
        for epsilon in EPSILONS:
            noise = private.noise_for(epsilon)
            sales = world.sales(rows, noise)
            note(f"popularity, ε = {epsilon:g}", number, popular(world, sales))
            name = f"student, ε = {epsilon:g}"
            note(name, number, privately(world, rows, epsilon, grid(name, STEPS["private"])))
            if number == 0:
                first = 2 * noise
                second = private.noise_for(epsilon, before=[(first, 1.0, 1)])
                table = pairs(world, rows, second, world.seed)
                made = of_pairs(world, table, world.sales(rows, first), NOISY_PENALTIES)
                note(f"EASE, ε = {epsilon:g}", number, made)
        if number == 0:
            for epsilon in (None, 8.0, 3.0):
                told = "no noise" if epsilon is None else f"ε = {epsilon:g}"
                note(f"votes, {told}", number, voted(world, rows, epsilon))
    return {
        "outside": {name: over_models(one) for name, one in rows_of.items()},
        "chosen": chosen,
    }


def singled_out(seed: int) -> dict:
    """Shares of households that so many purchases single out: of items, of types, of categories."""
    baskets, _, codes = shop()
    groups = {
        "items": baskets.events["item"].to_numpy(),
        "types": codes[baskets.events["item"]],
        "categories": np.unique(baskets.items["category"], return_inverse=True)[1][
            baskets.events["item"]
        ],
    }
    users = baskets.events["user"].to_numpy()
    found: dict = {}
    for name, code in groups.items():
        shape = (len(baskets.users), int(code.max()) + 1)
        bought = tastes.sp.csr_matrix((np.ones(len(code), np.float32), (users, code)), shape)
        found[name] = {
            str(known): [float(x) for x in attack.unicity(bought, known, 1, seed)[:, 0]]
            for known in KNOWN
        }
    return found


def measure(seed: int, folder: Path) -> dict:
    torch.set_num_threads(1)
    world = World(seed)
    away, took = shared.timed(given_away, world)
    hiding, hid = shared.timed(hidden, world)
    matrices = {f"seen|{name}": one.astype(np.float32) for name, one in away["seen"].items()}
    matrices |= {f"forgotten|{name}": one.astype(np.float32)
                 for name, one in away["forgotten"].items()}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"seed{seed}.npz", members=world.members, **matrices)
    return {
        "outside": away["outside"] | _hidden(hiding["outside"]),
        "chosen": away["chosen"] | _hidden(hiding["chosen"]),
        "singled_out": singled_out(seed),
        "seconds": {"given away": took, "hidden": hid},
    }  # fmt: skip


def _hidden(rows: dict) -> dict:
    return {f"hidden|{name}": one for name, one in rows.items()}


# Numbers, on the simulated shop -------------------------------------------------------------------

SIZES = (500, 2_000, 8_000)
"""Households that a student of the simulated shop learns from."""
TESTED = 1_000
BASKET = (20, 5)
"""Products that a simulated household has, and those that it buys next."""
SIMULATED = ((100, 0.03), (200, 0.03), (400, 0.03), (800, 0.03), (800, 0.1), (1600, 0.03))
EAGER = 8.0
"""How much a simulated household's choice follows its taste."""


def simulated(seed: int) -> dict:
    """What a student learns beyond popularity from so many simulated households, hidden or not.

    Each household has the taste of one of the shop's shoppers, and buys by it alone.
    """
    torch.set_num_threads(1)
    market = simulated_shop.generate(seed, products=500, queries=90, unlabelled_pairs=0)
    tastes_of = np.stack([market.taste(name) for name in market.shoppers["shopper_id"]])
    texts = features.last_layer(list(market.products["product_title"]), Profile.named())
    vectors = _even(PCA(32, random_state=0).fit_transform(texts))
    rng = np.random.default_rng(seed)
    count = max(SIZES) + TESTED
    whose = rng.integers(len(tastes_of), size=count)
    appeal = rng.normal(0, 0.5, tastes_of.shape[1])
    drawn = EAGER * tastes_of[whose] + appeal + rng.gumbel(size=(count, tastes_of.shape[1]))
    bought = np.argpartition(-drawn, sum(BASKET), axis=1)[:, : sum(BASKET)]
    bought = rng.permuted(bought, axis=1)
    before, after = np.zeros((2, *drawn.shape), np.float32)
    np.put_along_axis(before, bought[:, : BASKET[0]], np.log(2), axis=1)
    np.put_along_axis(after, bought[:, BASKET[0] :], 1 / BASKET[1], axis=1)
    seen = tastes.Records(
        torch.from_numpy(before)[:, None].half(), torch.from_numpy(after)[:, None].half()
    )
    tested = np.arange(max(SIZES), count)
    found = {}
    for size in SIZES:
        rows = np.arange(size)
        # What every student is held against: popularity without noise.
        exact = np.log(np.maximum((before[rows] > 0).sum(axis=0), 1))
        alone = best_on(tested[::2], seen, ((power, Sells(exact, power)) for power in POWERS))
        for epsilon in (None, 8.0, 1.0):
            noise = 0.0 if epsilon is None else 2 * private.noise_for(epsilon)
            counts = private.noisy_sum((before[rows] > 0) * 1.0, 5.0, noise, seed)
            # A count below its noise tells nothing: such products share one.
            sales = np.log(np.maximum(counts, max(1.0, 5.0 * noise)))
            made = []
            for steps, rate in SIMULATED:
                model = tastes.Student(vectors, sales)
                if epsilon is None:
                    tastes.fit(model, seen, rows, steps, rate, seed=seed)
                else:
                    own = private.noise_for(epsilon, 0.1, steps, [(noise, 1.0, 1)])
                    private.fit_privately(
                        model, seen, rows, own, steps, rate, clip=CUT, seed=seed
                    )  # fmt: skip
                made.append(((steps, rate), model))
            chosen = best_on(tested[::2], seen, made)
            gain = [
                float(tastes.losses_of(model, seen, tested[1::2]).mean())
                for model in (alone[1], chosen[1])
            ]
            found[f"{size}, {'no noise' if epsilon is None else f'ε = {epsilon:g}'}"] = {
                "popularity": gain[0], "student": gain[1], "chosen": chosen[0]
            }  # fmt: skip
    return found


def best_on(rows: np.ndarray, seen: tastes.Records, made: Iterable) -> tuple:
    """The settings and the model with the lowest loss on these households."""
    return min(made, key=lambda one: tastes.losses_of(one[1], seen, rows).mean())


def costs() -> list[dict]:
    """Milliseconds of a step, plain and private, and memory of the gradients of single households.

    Against the number of households in a step; medians of seven steps on one thread.
    """
    torch.set_num_threads(1)
    world, found = World(1), []
    sales = world.sales(world.agreed)
    for name, make in (("student", student), ("teacher", teacher)):
        weights = sum(one.numel() for one in make(world, sales).parameters())
        for households in HOUSEHOLDS:
            row = {"network": name, "weights": weights, "households": households}
            row["gradients_mb"] = 4 * weights * households / 1e6
            rows = world.pool[:households]
            for kind, learn in (
                ("plain", partial(tastes.fit, steps=1, rate=1e-3, batch_size=households)),
                ("private", partial(private.fit_privately, noise=1.0, steps=1, learning_rate=1e-3,
                                    rate=1.0)),
            ):  # fmt: skip
                taken = [
                    shared.timed(learn, make(world, sales), world.seen, rows)[1] for _ in range(7)
                ]  # fmt: skip
                row[f"{kind}_ms"] = 1e3 * float(np.median(taken))
            found.append(row)
    return found


HOUSEHOLDS = (25, 50, 100, 200)

# The record ---------------------------------------------------------------------------------------


def pool_of(seed: int, households: int) -> np.ndarray:
    """The households of a seed who have not agreed, and may be learnt from."""
    return np.sort(np.random.default_rng(seed).permutation(households)[AGREED:])


def attacks(seeds: list[dict[str, np.ndarray]], numbers: list[int]) -> dict:
    """For each row: AUC and the share caught, with intervals over seeds and households."""
    names = [name for name in seeds[0] if name.startswith("seen|")]
    scores = {
        name.split("|")[1]: [
            attack.likelihood_ratio(one[name], one["members"]) for one in seeds
        ] for name in names
    }  # fmt: skip
    members = [one["members"] for one in seeds]
    households = AGREED + members[0].shape[1]
    pools = [pool_of(number, households) for number in numbers]
    drawn: dict[str, list] = {name: [] for name in scores}
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        # The same households are drawn in all seeds, where they are in the pool.
        times = np.bincount(rng.integers(households, size=households), minlength=households)
        picks = [
            (seed, np.repeat(np.arange(len(pools[seed])), times[pools[seed]]))
            for seed in rng.integers(len(seeds), size=len(seeds))
        ]
        inside = np.concatenate([members[seed][:, who] for seed, who in picks], axis=1)
        for name, own in scores.items():
            told = np.concatenate([own[seed][:, who] for seed, who in picks], axis=1)
            drawn[name].append((attack.auc(told, inside), attack.caught(told, inside)))
    rows = {}
    for name, own in scores.items():
        table = np.array(drawn[name])
        whole = np.concatenate(own, axis=1), np.concatenate(members, axis=1)
        plain = np.concatenate([one[f"seen|{name}"] for one in seeds], axis=1)
        rows[name] = {
            "auc": _span(attack.auc(*whole), table[:, 0]),
            "caught": _span(attack.caught(*whole), table[:, 1]),
            "auc without shadows": attack.auc(plain, whole[1]),
        }
    comparisons = []
    for row, against in COMPARED:
        apart = np.array(drawn[row])[:, 0] - np.array(drawn[against])[:, 0]
        value = rows[row]["auc"]["value"] - rows[against]["auc"]["value"]
        span = _span(value, apart)
        span["difference"] = span.pop("value")
        comparisons.append({"row": row, "against": against, **span})
    return {"rows": rows, "comparisons": comparisons}


COMPARED = (
    ("student, distilled", "teacher"),
    ("student, labels alone", "teacher"),
    ("student, distilled", "student, labels alone"),
    ("teacher's shape, taught on the agreed", "teacher"),
    ("student, taught on the agreed", "student, labels alone"),
    ("EASE", "teacher"),
    ("counts of pairs, from 5 on", "counts of pairs"),
)


def _span(value: float, drawn: np.ndarray) -> dict:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": float(value), "low": float(low), "high": float(high)}


def unlearnt(seeds: list[dict[str, np.ndarray]]) -> dict:
    """How well those who were unlearnt can be told from households that were never learnt from."""
    found = {}
    for row in ("before", "ascent", "learning on"):
        of_seeds = []
        for one in seeds:
            members, gone = one["members"], one["forgotten|who"] > 0
            stat = one["seen|teacher"]
            told = stat if row == "before" else one[f"forgotten|{row}"]
            scores = []
            for model in range(len(members)):
                mixed = stat.copy()
                mixed[model] = told[model]
                scores.append(attack.likelihood_ratio(mixed, members)[model])
            asked = gone | ~members
            of_seeds.append(attack.auc(np.array(scores)[asked], gone[asked]))
        found[row] = shared.over_seeds(of_seeds)
        if row != "before":
            lost = [
                np.nanmean(one[f"forgotten|{row}, quality"]) for one in seeds
            ]  # fmt: skip
            found[row]["loss"] = float(np.mean(lost))
    return found


def table_of(seeds: list[dict], part: int) -> dict[str, np.ndarray]:
    """For each row its values (S, U), seed by seed and household by household, NaN without one.

    A household counts where all rows of its group have a value.
    """
    first = next(iter(seeds[0]["outside"].values()))
    households = AGREED + len(first[0])
    found: dict[str, np.ndarray] = {}
    for place, one in enumerate(seeds):
        pool = pool_of(one["seed"], households)
        values = {name: np.array(rows[part], float) for name, rows in one["outside"].items()}
        for kept in (True, False):
            group = {n: v for n, v in values.items() if n.startswith("hidden|") == kept}
            missing = np.isnan(np.stack(list(group.values()))).any(axis=0)
            for name, row in group.items():
                table = found.setdefault(name, np.full((len(seeds), households), np.nan))
                table[place, pool] = np.where(missing, np.nan, row)
    return found


def over_both(table: np.ndarray) -> dict[str, float]:
    """The mean of the cells (S, U) that there are, with an interval over seeds and households."""
    there = ~np.isnan(table)
    values = np.where(there, table, 0)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(2_000):
        seed = np.bincount(rng.integers(len(table), size=len(table)), minlength=len(table))
        own = np.bincount(
            rng.integers(table.shape[1], size=table.shape[1]), minlength=table.shape[1]
        )
        drawn.append((seed @ values @ own) / (seed @ there @ own))
    return _span(values.sum() / there.sum(), np.array(drawn))


POPULAR = "hidden|popularity of the agreed"


def qualities(seeds: list[dict]) -> dict:
    """Loss and recall of each row on households outside, and gains over popularity."""
    found: dict = {"given away": {}, "hidden": {}}
    for part, measure_ in enumerate(("loss", "recall")):
        table = table_of(seeds, part)
        for name, values in table.items():
            kept = name.startswith("hidden|")
            group, own = ("hidden", name[7:]) if kept else ("given away", name)
            entry = found[group].setdefault(own, {})
            entry[measure_] = over_both(values)
            base = table[POPULAR if kept else "popularity"]
            sign = -1 if measure_ == "loss" else 1
            entry[f"{measure_} gain"] = over_both(sign * (values - base))
        if measure_ == "loss":
            apart = table["hidden|student of the agreed"] - table["hidden|student, ε = 8"]
            found["student, ε = 8, minus student of the agreed"] = over_both(apart)
    return found


def goals(data: dict) -> list[dict]:
    """What the chapter is asked to show, met or not."""
    compared = {(one["row"], one["against"]): one for one in data["attacks"]["comparisons"]}
    found = [
        shared.below(
            "AUC of membership inference: distilled student minus teacher",
            compared["student, distilled", "teacher"],
        ),
        shared.below(
            "AUC: distilled student minus the same student without distillation",
            compared["student, distilled", "student, labels alone"],
        ),
    ]
    hiding = data["quality"]["hidden"]
    for epsilon in EPSILONS:
        for measure_, unit in (("loss", "nats a purchase"), ("recall", "recall of new types")):
            gain = hiding[f"student, ε = {epsilon:g}"][f"{measure_} gain"]
            name = f"Private student at ε = {epsilon:g} against popularity, {unit}"
            found.append(shared.above(name, gain))
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds."""
    seeds = shared.read(folder, ["profile"])
    numbers = [one["seed"] for one in seeds]
    arrays = [dict(np.load(folder / f"seed{one['seed']}.npz")) for one in seeds]
    arrays = [{n: a if n == "members" else a.astype(np.float64) for n, a in one.items()}
              for one in arrays]  # fmt: skip
    shops = [
        json.loads((folder / f"shop{one['seed']}.json").read_text(encoding="utf-8"))
        for one in seeds
    ]
    data = {
        "attacks": attacks(arrays, numbers),
        "unlearnt": unlearnt(arrays),
        "quality": qualities(seeds),
        "singled_out": {
            group: {
                known: metrics.two_way_bootstrap(
                    equal([one["singled_out"][group][known] for one in seeds]), resamples=2_000
                )
                for known in map(str, KNOWN)
            }
            for group in ("items", "types", "categories")
        },
        "numbers": {
            row: {
                "gain": shared.over_seeds(
                    [one[row]["popularity"] - one[row]["student"] for one in shops]
                ),
                "chosen": [one[row]["chosen"] for one in shops],
            }
            for row in shops[0]
        },
        "choices": [one["chosen"] for one in seeds],
        "costs": shared.sizes(folder, "once"),
    }
    told = " ".join(map(str, numbers))
    report.write_recorded(
        out,
        command="python benchmarks/measure_privacy.py "
        f"--seeds {told}, --shop {told}, --once, --merge",
        seeds=numbers,
        hardware=seeds[0]["hardware"],
        generator=simulated_shop.generator_hash(),
        data=data,
        goals=goals(data),
    )


def equal(rows: list[list[float]]) -> np.ndarray:
    return np.array([row[: min(map(len, rows))] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="What recommenders give away, and hiding costs.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to measure, in turn")
    parser.add_argument("--shop", type=int, nargs="*", default=[], help="seeds of simulated shops")
    parser.add_argument("--once", action="store_true", help="time and memory")
    parser.add_argument("--folder", type=Path, help="of the single seeds' files")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    out = shared.RECORDED / "privacy.json"
    parser.add_argument("--out", type=Path, default=out, help="where --merge writes")
    arguments = parser.parse_args()
    if not (arguments.seeds or arguments.shop or arguments.once or arguments.merge):
        parser.error("give --seeds, --shop, --once, --merge, or several of them")
    folder = arguments.folder or Profile.named().artifacts / "privacy"
    for seed in arguments.seeds:
        shared.write(folder, seed, measure(seed, folder))
    for seed in arguments.shop:
        write_text(folder / f"shop{seed}.json", json.dumps(simulated(seed)))
    if arguments.once:
        write_text(folder / "once.json", json.dumps(costs()))
    if arguments.merge:
        merge(folder, arguments.out)


if __name__ == "__main__":
    main()
