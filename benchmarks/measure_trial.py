"""What a trial with households can tell, and what a list is good for besides hits.

    python benchmarks/measure_trial.py

Both are measured on The Complete Journey. The trials are simulated: real households, drawn into two
arms again and again, and what they really spent, to which an effect is added where it says so. The
lists are user-kNN's with the settings of chapter 10; what is added to them is chosen on the
validation days and judged on the test days. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.stats import binomtest, norm

import shared
from ecomkd import bench, metrics, recommend, report
from ecomkd.data import journey
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.search import clicks

# A trial ------------------------------------------------------------------------------------------

PERIODS = 7
"""Periods of four weeks that end the year; the last one is the trial's."""
BEFORE = (28, 112)
"""Days before a period whose spending is known, each a way to adjust what the period brings."""
SPLITS = 10_000
EFFECT = 0.1
"""How much more one arm spends, where the trial has an effect."""
LOST = 0.2
"""The share of those households that spent less before than the median which one arm loses."""
ALARM = 0.001
"""The probability below which the arms' sizes are called unlike; small, since all are checked."""


def adjusted(spent: np.ndarray, before: np.ndarray, weight: float) -> np.ndarray:
    """What each household spent, without what its past foretold (CUPED; Deng et al. 2013)."""
    return spent - weight * (before - before.mean())


def weight_of(spent: np.ndarray, before: np.ndarray) -> float:
    """The weight that leaves least variance: cov(spent, before) / var(before)."""
    return float(np.cov(spent, before)[0, 1] / before.var(ddof=1))


def spending(shop: Baskets, start: int, end: int) -> np.ndarray:
    """What each user (U,) spent on the days `start` to `end` - 1, in dollars."""
    events = shop.between(start, end)
    return np.bincount(events["user"], paid(events), len(shop.users))


def paid(events) -> np.ndarray:
    """What the lines cost, in dollars."""
    return (events["price"] * events["quantity"]).to_numpy()


def ways(shop: Baskets, start: int) -> dict[str, np.ndarray]:
    """What a trial from `start` on reads of each household: plain, or adjusted in several ways.

    The weights come from the period before, so nothing of the trial itself decides them.
    """

    def known(at: int, days: int) -> tuple[np.ndarray, np.ndarray]:
        return spending(shop, at, at + HORIZON), spending(shop, at - days, at)

    spent, last = known(start, HORIZON)
    found = {"spending": spent, "spending − spending before": spent - last + last.mean()}
    for days in BEFORE:
        before = known(start, days)[1]
        weight = weight_of(*known(start - HORIZON, days))
        found[f"CUPED, {days} days"] = adjusted(spent, before, weight)
    return found


def variances(shop: Baskets, start: int) -> dict[str, dict]:
    """The share of the variance that each way leaves, with an interval over households."""
    found = ways(shop, start)
    plain = found["spending"]

    def share(means: np.ndarray) -> np.ndarray:
        return (means[:, 1] - means[:, 0] ** 2) / (means[:, 3] - means[:, 2] ** 2)

    return {
        name: metrics.two_way_bootstrap(
            np.stack([own, own**2, plain, plain**2], axis=-1)[None], share, 2_000
        )
        for name, own in found.items()
    }


def needed(found: dict[str, np.ndarray], uplift: float) -> dict[str, int]:
    """Households in both arms together that tell so much more spending, four times out of five.

    Whoever sees what is new spends the same share more, so that their spending varies more, too.
    """
    more = uplift * found["spending"]
    return {
        name: int(
            clicks.searches_needed(more.mean(), np.sqrt(2 * (own.var() + (own + more).var())))
        )
        for name, own in found.items()
    }


def arms(users: int, rng: np.random.Generator) -> np.ndarray:
    """True for the users (U,) that see what is new: a coin decides for each, as in a shop."""
    return rng.random(users) < 0.5


def told(own: np.ndarray, there: np.ndarray, arm: np.ndarray) -> tuple[float, bool]:
    """The difference of the arms' means, and whether a z-test at 5 % tells it from 0."""
    new, old = own[there & arm], own[there & ~arm]
    gap = new.mean() - old.mean()
    return gap, abs(gap) > norm.ppf(0.975) * np.sqrt(new.var() / len(new) + old.var() / len(old))


def trials(shop: Baskets, start: int) -> dict[str, dict]:
    """Trials with no effect, with one, and with one arm that loses households, over random arms:
    the mean difference as a share of spending, and how often it is told from 0.

    One way more is a mistake: it adjusts by the baskets of the trial's own days, which the effect
    moves, too.
    """
    rng, users = np.random.default_rng(0), len(shop.users)
    mean = spending(shop, start, start + HORIZON).mean()
    before = spending(shop, start - BEFORE[-1], start)
    events = shop.between(start, start + HORIZON).drop_duplicates("basket")
    visits = np.bincount(events["user"], minlength=users).astype(float)
    whole, low = np.ones(users, bool), before <= np.median(before)
    cases: dict[str, dict[str, list]] = {"no effect": {}, "effect": {}, "lost": {}}
    sizes = []
    plain, mistake = ways(shop, start), "adjusted by baskets of the trial"
    weight = weight_of(plain["spending"], visits)
    for _ in range(SPLITS):
        arm = arms(users, rng)
        there = ~(arm & low & (rng.random(users) < LOST))
        sizes.append(binomtest(int((there & arm).sum()), int(there.sum())).pvalue < ALARM)
        more = EFFECT * plain["spending"] * arm
        grown = visits * (1 + EFFECT * arm)
        for name, own in plain.items():
            cases["no effect"].setdefault(name, []).append(told(own, whole, arm))
            cases["effect"].setdefault(name, []).append(told(own + more, whole, arm))
            cases["lost"].setdefault(name, []).append(told(own, there, arm))
        wrong = adjusted(plain["spending"] + more, grown, weight)
        cases["effect"].setdefault(mistake, []).append(told(wrong, whole, arm))
    return {
        case: {
            name: {
                "difference": float(np.mean([gap for gap, _ in own]) / mean),
                "told": float(np.mean([seen for _, seen in own])),
            }
            for name, own in rows.items()
        }
        for case, rows in cases.items()
    } | {"sizes": {"alarms": float(np.mean(sizes)), "households": households_for_alarm()}}


def households_for_alarm() -> int:
    """Households, before the loss, with which the arms' sizes tell of it four times out of five."""
    share = (1 - LOST / 2) / (2 - LOST / 2)
    z = norm.isf(ALARM / 2) * 0.5 + norm.ppf(0.8) * np.sqrt(share * (1 - share))
    return int(np.ceil((z / (0.5 - share)) ** 2 / (1 - LOST / 4)))


# A list with two aims -----------------------------------------------------------------------------

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0, 10.0)
"""How much more an item of the shop's own brands counts."""
PLACES = tuple(range(recommend.DEPTH + 1))
"""How many of the ten places are kept for the shop's own brands, which is the simpler way."""
POWERS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
"""The power of an item's price that its score is multiplied by."""
LEAST = 0.99
"""The share of plain recall that the shop wants kept."""
MEASURES = ("recall", "own", "dollars")
AIMS = {"weight": "own", "places": "own", "price": "dollars"}
"""What each way to change a list is for."""


def of_own_brands(shop: Baskets) -> np.ndarray:
    """True for the items (I,) of the shop's own brands."""
    return (shop.items["brand"] == "Private").to_numpy()


def lists(shop: Baskets, day: int, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """The users with a past and a target, and their scores (U, I) by user-kNN."""
    past = recommend.history(shop, day)
    wanted = recommend.targets(shop, day)
    users = np.array([user for user in wanted if past[user].nnz])
    chosen = {name: value for name, value in settings.items() if name != "old"}
    rank = recommend.user_knn(shop, day, **chosen)
    return users, np.concatenate(
        [rank.scores(users[at : at + 256]).astype(np.float32) for at in range(0, len(users), 256)]
    )


def judged(shop: Baskets, day: int, users: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Of each user (U, 3): recall@10, the share of own brands in the list, and the dollars that the
    user spends on what it shows, in the days from `day` on."""
    own = of_own_brands(shop)
    events = shop.between(day, day + HORIZON)
    size = len(shop.users), len(shop.items)
    spent = sp.csr_matrix((paid(events).astype(float), (events["user"], events["item"])), size)
    wanted, found = recommend.targets(shop, day), []
    for user, top in zip(users, shown, strict=True):
        hits = np.isin(top, wanted[user]).sum()
        dollars = spent[user, top].sum()
        found.append((hits / min(len(top), len(wanted[user])), own[top].mean(), dollars))
    return np.array(found)


def kept_places(scores: np.ndarray, own: np.ndarray, places: int) -> np.ndarray:
    """Lists (U, 10) with at least so many items of the own brands, the best there are; the others
    are the best of the rest."""
    first = recommend.best(np.where(own, scores, -np.inf))[:, :places]
    rest = scores.copy()
    np.put_along_axis(rest, first, -np.inf, axis=1)
    others = recommend.best(rest)[:, : recommend.DEPTH - places]
    return np.concatenate([first, others], axis=1)


def fronts(shop: Baskets, day: int, settings: dict) -> dict[str, dict[float, np.ndarray]]:
    """What lists with two aims bring each user (U, 3), by the way and by how far it goes."""
    users, scores = lists(shop, day, settings)
    if scores.min() < 0:
        raise ValueError("lists with two aims: a score below 0 would sink where it is multiplied.")
    own = of_own_brands(shop)
    before = shop.between(0, day)
    median = before.groupby("item")["price"].median().reindex(range(len(shop.items)))
    price = median.fillna(median.median()).clip(lower=0.01).to_numpy(np.float32)
    tops: dict[str, Callable[[float], np.ndarray]] = {
        "weight": lambda weight: recommend.best(scores * (1 + np.float32(weight) * own)),
        "places": lambda places: kept_places(scores, own, int(places)),
        "price": lambda power: recommend.best(scores * price ** np.float32(power)),
    }
    grids = {"weight": WEIGHTS, "places": PLACES, "price": POWERS}
    return {
        way: {far: judged(shop, day, users, tops[way](far)) for far in grid}
        for way, grid in grids.items()
    }


def curve(points: dict[float, np.ndarray]) -> list[dict]:
    """The means of the measures, for each step."""
    return [
        {"at": far, **dict(zip(MEASURES, map(float, values.mean(axis=0)), strict=True))}
        for far, values in points.items()
    ]


def chosen_on(points: dict[float, np.ndarray], aim: str) -> float:
    """The step with most of an aim, one of the `MEASURES`, among those that keep enough recall."""
    measure = MEASURES.index(aim)
    plain = points[0][:, 0].mean()
    enough = [far for far, values in points.items() if values[:, 0].mean() >= LEAST * plain]
    return max(enough, key=lambda far: points[far][:, measure].mean())


def against_plain(points: dict[float, np.ndarray], far: float) -> dict[str, dict]:
    """What a step has instead of none: shares of the plain list's means, with intervals."""
    both = np.concatenate([points[far], points[0]], axis=1)[None]
    return {
        name: metrics.two_way_bootstrap(both, lambda m, at=at: m[:, at] / m[:, at + 3], 2_000)
        for at, name in enumerate(MEASURES)
    }


def at_equal_share(test: dict[str, dict[float, np.ndarray]], far: float) -> dict[str, float]:
    """Recall of the weight minus that of kept places, at the share of own brands of the weight: the
    recall of kept places is drawn straight between its two nearest steps. The interval, over users,
    takes the shares of own brands as given."""
    wanted = test["weight"][far]
    steps = [test["places"][places] for places in PLACES]
    shares = np.array([values[:, 1].mean() for values in steps])
    above = int(np.searchsorted(shares, wanted[:, 1].mean()))
    if not 0 < above < len(steps):
        raise ValueError("lists with two aims: no kept places have such a share of own brands.")
    low, high = steps[above - 1], steps[above]
    part = (wanted[:, 1].mean() - shares[above - 1]) / (shares[above] - shares[above - 1])
    between = (1 - part) * low[:, 0] + part * high[:, 0]
    found = metrics.two_way_bootstrap((wanted[:, 0] - between)[None], resamples=2_000)
    return shared.difference(found)


def prices(shop: Baskets) -> dict[str, float]:
    """The median price of a purchase, of the shop's own brands and of others, in dollars."""
    own = of_own_brands(shop)[shop.events["item"]]
    paid_for = shop.events["price"]
    return {"own": float(paid_for[own].median()), "other": float(paid_for[~own].median())}


def aims(shop: Baskets) -> dict:
    """Lists with two aims, whose steps are chosen on the validation days."""
    settings = report.recorded("recommendation")["data"]["journey"]["settings"]["user-kNN"]
    days = (shop.validation_start, shop.test_start)
    validation, test = (fronts(shop, day, settings["recall"]) for day in days)
    steps = {way: chosen_on(validation[way], AIMS[way]) for way in validation}
    return {
        "users": len(test["weight"][0]),
        "own brands": float(of_own_brands(shop).mean()),
        "median price": prices(shop),
        "fronts": {way: curve(points) for way, points in test.items()},
        "validation": {way: curve(points) for way, points in validation.items()},
        "chosen": steps,
        "of plain": {way: against_plain(test[way], far) for way, far in steps.items()},
        "weight − places": at_equal_share(test, steps["weight"]),
    }


# The record ---------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials with households; lists with two aims.")
    out = shared.RECORDED / "trial.json"
    parser.add_argument("--out", type=Path, default=out, help="where the record goes")
    arguments = parser.parse_args()
    shop = journey.load()
    starts = [shop.test_start - HORIZON * back for back in reversed(range(PERIODS))]
    found = ways(shop, starts[-1])
    data = {
        "users": len(shop.users),
        "first day": float(shop.events.groupby("user")["day"].min().median()),
        "mean": float(found["spending"].mean()),
        "deviation": float(found["spending"].std()),
        "variance": {str(start): variances(shop, start) for start in starts},
        "needed": {str(uplift): needed(found, uplift) for uplift in (0.01, 0.02, 0.05, 0.1)},
        "trials": trials(shop, starts[-1]),
        "aims": aims(shop),
    }
    kept = data["aims"]["of plain"]["weight"]["recall"]
    report.write_recorded(
        arguments.out,
        command="python benchmarks/measure_trial.py",
        seeds=[],
        hardware=bench.hardware(),
        generator=None,
        data=data,
        goals=[
            report.goal(
                "share of recall@10 kept by the weight of own brands that validation chose",
                *shared.ends(kept), f"at least {LEAST}", kept["value"] >= LEAST,
            ),
            shared.above(
                "recall@10 with a weight of own brands minus kept places, at an equal share",
                data["aims"]["weight − places"],
            ),
        ],
    )  # fmt: skip
    print(f"Wrote {arguments.out}.")


if __name__ == "__main__":
    main()
