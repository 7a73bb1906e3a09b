"""Recommendation while the shop is open: the test days basket by basket, and what it costs.

    python benchmarks/measure_real_time.py --seeds 0     one seed, its own file
    python benchmarks/measure_real_time.py --scale       cost, to ten times the data
    python benchmarks/measure_real_time.py --merge       all files into the record, which keeps
                                                         its costs where --scale was not run

The student is that of benchmarks/measure_recommendation.py, found among the artefacts where that
has run, and fitted to the days before the validation days. Each basket of the test days is
foreseen, then learnt. Tables of items are made anew every night, but for the row that says
otherwise. What has a setting has it from the validation days. Scores are the student's own, with
no prior, but for the row that is shrunk. What an answer loses that looks at few items is measured
with ten copies of each item, too. The reviews of amazon18 are there where ECOMKD_REAL_DATA is set:
they have an order, and so a step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

import shared
from ecomkd import bench, features, metrics, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend import live
from measure_recommendation import REVIEWS, reviews
from shared import GRIDS, SCALES, TIMED, above, best_of, exact, grown, means, timed, waits

LIVE, NIGHTLY, WEEKLY = "live", "nightly", "weekly"
NEVER, FIXED, AGAIN = "never", "live, items of the first day", "buy it again"
LIVE_TOGETHER, AGAIN_TOGETHER = "live + bought together", "buy it again + bought together"
FROZEN, LEARNING = "re-ranked, frozen", "re-ranked, learning"
SHRUNK, LIKE_LAST = "live, shrunk", "bought together with the last"
HEADS = (0, 1, 3, 10)
PRIORS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
CHOOSING = 5
"""One household of so many chooses settings on the validation days."""
CANDIDATES, RATE = 100, 0.02
FRONT = 0.1
"""The share of a catalogue that an answer looks at where it does not read all."""
FRONTS = "front", "front_copies", "front_mixed"
COPIES, LEVEL = 10, 1e-4
"""Copies of each item in a larger shop, and how far apart two scores may be that count as equal."""
SHARES = (0.0, 0.05, 0.1, 0.2)
ASKED, LEARNT, ADDED = 400, 20_000, 1_000
_MEMORY = shutil.ignore_patterns("*-shm")  # what SQLite's writers share, which a power cut takes


# One seed -----------------------------------------------------------------------------------------


def measure(seed: int) -> dict:
    """Everything about recall on the test days, with one student."""
    profile, baskets = Profile.named(seed=seed), journey.load()
    day, shelf = baskets.test_start, shelves(baskets, student(baskets, profile))
    (scale,) = best_of(recommend.buy_again, GRIDS[AGAIN], baskets).values()
    chosen = settings(baskets, shelf, scale, seed)
    asked = systems(shelf, day, scale) | further(shelf, day, scale, chosen)
    found = recommend.prequential(asked, baskets, day, heads=HEADS, seed=seed)
    print(found.groupby("head")[list(asked)].mean().round(4).T)
    first = found[found["head"] == 0]
    return {
        "scale": scale,
        "chosen": chosen,
        "baskets": found.groupby("head").size().to_dict(),
        "heads": {int(head): by_user(own) for head, own in found.groupby("head")},
        "days": first.groupby("day")[list(names(found))].mean().to_dict("list"),
        "leak": by_user(leaking(shelf(day), baskets)),
        "explore": exploring(shelf, baskets, seed),
        "newcomers": newcomers(shelf(day), baskets, seed, chosen["prior"]),
        "kill": killed(shelf(day), baskets),
        **fronts(shelf(day), baskets, seed),
        "steps": {category: stepped(category, profile) for category in REVIEWS},
    }


def student(baskets: Baskets, profile: Profile) -> recommend.DecayedMeans:
    """The distilled student, trained as in benchmarks/measure_recommendation.py."""
    vectors = features.layers(recommend.texts(baskets)[0], profile)[-1]
    items = recommend.Items(baskets, vectors, recommend.FIRST, 64, profile)
    fitted = {"items": items, "start": baskets.validation_start, "profile": profile}
    teacher = recommend.train(recommend.BasketTransformer, **fitted)
    taught = recommend.train(recommend.DecayedMeans, **fitted, teacher=teacher)
    return recommend.load(taught, recommend.DecayedMeans, items)


started = partial(live.initial_state, prior=0.0)
"""The state of the student as it is, not shrunk to what sells."""


def shelves(baskets: Baskets, model: recommend.DecayedMeans) -> Callable[[int], recommend.Shelf]:
    """The shelf of each day, made once."""
    collator = recommend.BasketCollator(baskets)
    return lru_cache(maxsize=None)(lambda day: recommend.Shelf(model, collator, day))


def systems(
    shelf: Callable[[int], recommend.Shelf], day: int, scale: float
) -> dict[str, recommend.System]:
    made = {LIVE: (None, shelf), NIGHTLY: (1, shelf), WEEKLY: (7, shelf)}
    made |= {NEVER: (HORIZON, None), FIXED: (None, None)}
    rows = {name: recommend.Scheduled(started(shelf(day)), day, *how) for name, how in made.items()}
    return {**rows, AGAIN: BuyAgain(shelf(day).model.items.baskets, scale)}


class BuyAgain:
    """`recommend.buy_again`, which counts each purchase at once."""

    def __init__(self, baskets: Baskets, scale: float):
        self.baskets, self.scale, self.day = baskets, scale, -1

    def scores(self, user: int, day: int) -> np.ndarray:
        self._wake(day)
        scores = self.past[user].toarray()[0] + self.filler
        np.add.at(scores, self.today.get(user, []), 1)
        return scores

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        return shown(self.scores(user, day), without)

    def learn(self, user: int, item: int, day: int) -> None:
        self._wake(day)
        self.today.setdefault(user, []).append(item)

    def _wake(self, day: int) -> None:
        if day == self.day:
            return
        self.day, self.today = day, {}
        self.past = recommend.history(self.baskets, day, self.scale)
        self.filler = recommend.tie_break(recommend.popularity(self.baskets, day))


def shown(scores: np.ndarray, without: Sequence[int]) -> np.ndarray:
    scores[np.asarray(without, int)] = -np.inf
    return recommend.best(scores[None])[0]


# Rivals within the basket, and a learner ----------------------------------------------------------


def together(baskets: Baskets, day: int) -> sp.csr_matrix:
    """The cosines of the baskets in which two items stood before `day`, (I, I), the diagonal 0."""
    past = baskets.between(0, day)
    shape = int(past["basket"].max()) + 1, len(baskets.items)
    held = sp.csr_matrix((np.ones(len(past), np.float32), (past["basket"], past["item"])), shape)
    held.data[:] = 1
    unit = normalize(held.T.tocsr())
    found = (unit @ unit.T).tocsr()
    found.setdiag(0)
    return found


@dataclass
class Together:
    """The scores of another system, plus how often items stood together with those of the basket.

    Args:
        base: from a user and a day to scores (I,) of a system that is told before this one.
        likeness: (I, I), from `together`.
        weight: of the sum over the items of the basket.
    """

    base: Callable[[int, int], np.ndarray]
    likeness: sp.csr_matrix
    weight: float

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        scores = self.base(user, day).copy()
        scores += self.weight * likeness_of(self.likeness, without)
        return shown(scores, without)

    def learn(self, user: int, item: int, day: int) -> None:
        """The other system learns; these counts are those of the first day."""


def likeness_of(likeness: sp.csr_matrix, basket: Sequence[int]) -> np.ndarray:
    """The sum (I,) of the likeness to each item of a basket."""
    rows = likeness[np.asarray(basket, int)]
    return np.bincount(rows.indices, rows.data, minlength=rows.shape[1])


class Learner:
    """A logistic regression over what a live state says, which goes on learning from each basket.

    It reads four numbers of each of the best `CANDIDATES` items of the state: the state's log-odds,
    the likeness to the basket, whether the user had the item, and 1. After a basket each answer in
    it is a lesson: one step of stochastic gradient descent on the cross entropy.

    Args:
        base: from a user and a day to scores (I,).
        likeness: (I, I), from `together`.
        had: from a user to the items that the user has bought.
        weights: (4,) at the start.
        rate: of a step; with 0 it is frozen.
    """

    def __init__(self, base, likeness, had, weights, rate: float):
        self.base, self.likeness, self.had, self.rate = base, likeness, had, rate
        self.weights = np.array(weights, float)
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []
        self.bought: list[int] = []

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        if not len(without):
            self._step()
        scores = self.base(user, day).copy()
        scores[np.asarray(without, int)] = -np.inf
        kept = min(CANDIDATES, len(scores) - len(without))
        items = np.argpartition(-scores, kept - 1)[:kept]
        near = likeness_of(self.likeness, without)[items]
        old = np.isin(items, self.had(user))
        known = np.column_stack([scores[items], near, old, np.ones(len(items))])
        self.asked.append((items, known))
        return items[np.argsort(-(known @ self.weights), kind="stable")[: recommend.DEPTH]]

    def learn(self, user: int, item: int, day: int) -> None:
        self.bought.append(item)

    def _step(self) -> None:
        for items, known in self.asked if self.rate else ():
            right = np.isin(items, self.bought)
            error = 1 / (1 + np.exp(-known @ self.weights)) - right
            self.weights -= self.rate * error @ known / len(items)
        self.asked, self.bought = [], []


def scored(system: recommend.Scheduled) -> Callable[[int, int], np.ndarray]:
    return lambda user, day: system.live.scores(user, day)


def learner(state: recommend.Scheduled, likeness, weights, rate: float) -> Learner:
    def had(user: int) -> np.ndarray:
        return state.live.bought(user)

    return Learner(scored(state), likeness, had, weights, rate)


def further(shelf: Callable, day: int, scale: float, chosen: dict) -> dict[str, recommend.System]:
    """Rows that read the basket by what stood together before, and rows that are ranked again."""
    baskets = shelf(day).model.items.baskets
    near = together(baskets, day)
    base, again = (
        recommend.Scheduled(started(shelf(day)), day, None, shelf),
        BuyAgain(baskets, scale),
    )
    return {
        "base": base,
        "again": again,
        LIVE_TOGETHER: Together(scored(base), near, chosen[LIVE_TOGETHER]),
        AGAIN_TOGETHER: Together(again.scores, near, chosen[AGAIN_TOGETHER]),
        FROZEN: learner(base, near, chosen["weights"], 0.0),
        LEARNING: learner(base, near, chosen["weights"], RATE),
    }


def settings(baskets: Baskets, shelf: Callable, scale: float, seed: int) -> dict:
    """What the validation days choose: weights of what stood together, by recall within baskets;
    the learner's weights, with which it begins the test days; the prior of newcomers."""
    day, until = baskets.validation_start, baskets.test_start
    some = baskets.events["user"] % CHOOSING == seed % CHOOSING
    asked = replace(baskets, events=baskets.events[(baskets.events["day"] < day) | some])
    near = together(baskets, day)
    base = recommend.Scheduled(started(shelf(day)), day, None, shelf)
    again = BuyAgain(baskets, scale)
    rows: dict = {"base": base, "again": again}
    for weight in WEIGHTS:
        rows[f"{LIVE_TOGETHER}/{weight}"] = Together(scored(base), near, weight)
        rows[f"{AGAIN_TOGETHER}/{weight}"] = Together(again.scores, near, weight)
    found = recommend.prequential(rows, asked, day, until - day, HEADS[1:], seed)
    chosen: dict = {"tried": {}}
    for name in (LIVE_TOGETHER, AGAIN_TOGETHER):
        own = {weight: float(found[f"{name}/{weight}"].mean()) for weight in WEIGHTS}
        chosen[name], chosen["tried"][name] = max(own, key=own.get), own
    base = recommend.Scheduled(started(shelf(day)), day, None, shelf)
    start = learner(base, near, (1.0, 0.0, 0.0, 0.0), RATE)
    recommend.prequential({"base": base, LEARNING: start}, baskets, day, until - day, HEADS, seed)
    chosen["weights"] = start.weights.tolist()
    rows = {
        str(prior): recommend.Scheduled(started(shelf(day), 0, prior=prior), day, None)
        for prior in (0.0, *PRIORS)
    }
    found = recommend.prequential(rows, asked, day, until - day, HEADS, seed)
    visit = found.groupby("user")["day"].rank("dense")
    own = {prior: float(found.loc[visit <= 2, str(prior)].mean()) for prior in (0.0, *PRIORS)}
    chosen["prior"], chosen["tried"]["prior"] = max(own, key=own.get), own
    print(chosen, flush=True)
    return chosen


def names(found: pd.DataFrame) -> pd.Index:
    """The columns of systems, but for those that stand there for others."""
    other = ["user", "day", "basket", "head", "items", "visit", "base", "again"]
    return found.columns.difference(other, sort=False)


def by_user(found: pd.DataFrame) -> dict:
    """Means over the baskets of each household."""
    means = found.groupby("user")[list(names(found))].mean()
    return {"user": means.index.tolist(), "recall": means.to_dict("list")}


def leaking(shelf: recommend.Shelf, baskets: Baskets) -> pd.DataFrame:
    """What a state gets that is asked before it learns a basket, and what after that."""
    state, rows = started(shelf), []
    for _, own in baskets.between(shelf.day, baskets.days).groupby("basket", sort=False):
        user, day = int(own["user"].iloc[0]), int(own["day"].iloc[0])
        row, wanted = {"user": user}, own["item"].to_numpy()
        row["before"] = recall(state.recommend(user, day), wanted)
        for item in wanted:
            state.update(user, int(item), day)
        row["after"] = recall(state.recommend(user, day), wanted)
        rows.append(row)
    return pd.DataFrame(rows)


def recall(shown: np.ndarray, wanted: np.ndarray) -> float:
    return np.isin(shown, wanted).sum() / min(recommend.DEPTH, len(wanted))


@dataclass
class Explorer:
    """Asks a state that another system keeps, with a share of exploration, and notes the answers.

    Args:
        asked: the other system; `prequential` has to ask and to tell it before this one.
    """

    asked: recommend.Scheduled
    share: float
    seed: int

    def __post_init__(self):
        self.shown: list[np.ndarray] = []
        self.rare_hits = self.rare_shown = 0
        self._rare = np.array([], int)

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        state = self.asked.live
        top = state.recommend(user, day, without, explore=self.share, seed=self.seed)
        self._rare = top[state.times(top) < live.RARE]
        self.rare_shown += len(self._rare)
        self.shown.append(top)
        return top

    def learn(self, user: int, item: int, day: int) -> None:
        self.rare_hits += item in self._rare


def exploring(shelf: Callable, baskets: Baskets, seed: int) -> list[dict]:
    """What each share of exploration costs in recall and brings in coverage."""
    day = baskets.test_start
    base = recommend.Scheduled(started(shelf(day)), day, None, shelf)
    rows = {f"{share}": Explorer(base, share, seed) for share in SHARES}
    found = recommend.prequential({LIVE: base, **rows}, baskets, day, seed=seed)
    return [
        {
            "share": system.share,
            "coverage": len(np.unique(np.concatenate(system.shown))) / base.live.items,
            "rare_shown": system.rare_shown,
            "rare_hits": int(system.rare_hits),
            **by_user(found[["user", name]]),
        }
        for name, system in rows.items()
    ]


def newcomers(shelf: recommend.Shelf, baskets: Baskets, seed: int, prior: float) -> dict:
    """All households as if each came for the first time in the test days."""
    rows = {
        name: recommend.Scheduled(started(shelf, 0, prior=own), shelf.day, every)
        for name, every, own in ((LIVE, None, 0.0), (NIGHTLY, 1, 0.0), (SHRUNK, None, prior))
    }
    found = recommend.prequential(rows, baskets, shelf.day, heads=HEADS, seed=seed)
    found["visit"] = found.groupby("user")["day"].rank("dense").astype(int)
    chosen = {f"{visit} {head}": own for (visit, head), own in found.groupby(["visit", "head"])}
    return {name: by_user(own) for name, own in chosen.items() if int(name.split()[0]) <= 5}


def front(state: live.Live, day: int, wanted: dict, users: Sequence[int]) -> dict:
    """What is lost where only the items of the highest demand are looked at, and the user's own.

    For each share of the items `same`, the part of what is shown that belongs to the ten best, for
    its exact score is not below theirs; `new`, the same where what the user has bought is not
    shown; and `recall`, the difference.
    """
    shares = (0.01, 0.03, FRONT, 0.3)
    few = [live.Live({**state.arrays(), "front": np.array(int(share * state.items))})
           for share in shares]  # fmt: skip
    found = [{"same": [], "new": [], "recall": []} for _ in shares]
    for user in users:
        for kind, hidden in (("same", ()), ("new", state.bought(user))):
            best = state.recommend(user, day, hidden)
            scores = state.scores(user, day)
            for own, part in zip(few, found, strict=True):
                fast = own.recommend(user, day, hidden)
                part[kind].append(among_the_best(fast, best, scores))
                if kind == "same" and user in wanted:
                    part["recall"].append(recall(fast, wanted[user]) - recall(best, wanted[user]))
    return {
        str(share): {kind: float(np.mean(values)) for kind, values in part.items()}
        for share, part in zip(shares, found, strict=True)
    }


def among_the_best(shown: np.ndarray, best: np.ndarray, scores: np.ndarray) -> float:
    """How many of those shown score no less than the last of the best, over how many are best."""
    return float((scores[shown] >= scores[best].min() - LEVEL).sum() / len(best))


def fronts(shelf: recommend.Shelf, baskets: Baskets, seed: int) -> dict:
    """`front` in the shop, in one with ten copies of each item, and in one where each copy has the
    vectors of one item and the demand of another."""
    state, day = started(shelf), shelf.day
    users = np.random.default_rng(0).permutation(recommend.users_before(baskets, day))[:ASKED]
    asked = day, recommend.targets(baskets, day), users.tolist()
    rng = np.random.default_rng(seed)
    shops = state, copied(state), copied(state, rng)
    return {name: front(shop, *asked) for name, shop in zip(FRONTS, shops, strict=True)}


def copied(state: live.Live, rng: np.random.Generator | None = None) -> live.Live:
    """The state of the same users in a shop with `COPIES` of each item, which nobody has bought but
    the first; with `rng` the demand of the others is dealt out anew."""
    arrays = state.arrays()
    for name in ("read", "offers", "demand", "numbers", "times"):
        arrays[name] = np.concatenate([arrays[name]] * COPIES)
    if rng is not None:
        rng.shuffle(arrays["demand"][state.items :])
    return live.Live(arrays)


def stepped(category: str, profile: Profile) -> dict:
    """Recall of a user's last products by a state that knows the one before, and by one that does
    not yet: reviews have an order and no time, so the step is what a night would miss."""
    baskets = reviews(category)
    vectors = features.layers(recommend.texts(baskets)[0], profile)[-1]
    items = recommend.Items(baskets, vectors, recommend.FIRST, 64, profile)
    fitted = {"items": items, "start": baskets.validation_start, "profile": profile, "buyers": 1}
    teacher = recommend.train(recommend.BasketTransformer, **fitted)
    taught = recommend.train(recommend.DecayedMeans, **fitted, teacher=teacher)
    model = recommend.load(taught, recommend.DecayedMeans, items)
    shelf, day = shelves(baskets, model)(baskets.test_start), baskets.test_start
    states = {LIVE: started(shelf),
              NIGHTLY: started(shelf, end=baskets.validation_start)}  # fmt: skip
    near, rows = together(baskets_of_users(baskets), day), []
    tie = recommend.tie_break(recommend.popularity(baskets, day))
    for user, wanted in recommend.targets(baskets, day).items():
        own = states[LIVE].bought(user)
        if len(own) == len(states[NIGHTLY].bought(user)):
            continue
        row = {"user": int(user)}
        for name, state in states.items():
            row[name] = recall(shown(state.scores(user, day).copy(), own), wanted)
        last = np.setdiff1d(own, states[NIGHTLY].bought(user))
        row[LIKE_LAST] = recall(shown(likeness_of(near, last) + tie, own), wanted)
        rows.append(row)
    return by_user(pd.DataFrame(rows))


def baskets_of_users(baskets: Baskets) -> Baskets:
    """All that a user has bought as one basket."""
    return replace(baskets, events=baskets.events.assign(basket=baskets.events["user"]))


def killed(shelf: recommend.Shelf, baskets: Baskets) -> dict:
    """Every fifth user: whose scores differ, in any bit, after a log that ends in half a change."""
    with tempfile.TemporaryDirectory() as folder:
        kept = recommend.Durable(started(shelf), Path(folder) / "kept")
        _learn(kept, baskets_of(baskets.between(shelf.day, baskets.days)[:LEARNT]))
        left = shutil.copytree(kept.folder, Path(folder) / "left", ignore=_MEMORY)
        with open(left / "state.sqlite-wal", "ab") as log:
            log.write(b"half a change")
        back, restore_s = timed(recommend.Durable.restore, left)
        asked = partial(_all_scores, day=baskets.days)
        one, two = asked(kept.live), asked(back.live)
    differ = int((one != two).any(axis=1).sum())
    return {"users": len(one), "differ": differ, "restore_s": restore_s}


def _all_scores(state: live.Live, day: int) -> np.ndarray:
    return np.stack([state.scores(user, day).copy() for user in range(0, state.users, 5)])


# Cost against size --------------------------------------------------------------------------------


def scale() -> list[dict]:
    """For shops of several sizes, on one thread: an event, an answer, a night, a restart."""
    profile, whole = Profile.named(seed=0), journey.load()
    return [cost(grown(whole, times), profile, times) for times in SCALES]


def cost(baskets: Baskets, profile: Profile, times: float) -> dict:
    day, texts = baskets.test_start, recommend.texts(baskets)[0]
    vectors = features.layers(texts, profile)[-1]
    items = recommend.Items(baskets, vectors, recommend.FIRST, 64, profile)
    torch.manual_seed(profile.seed)
    model = recommend.DecayedMeans(items).eval()  # weights change no time
    collator = recommend.BasketCollator(baskets)
    shelf = recommend.Shelf(model, collator, day)
    teacher = recommend.Shelf(recommend.BasketTransformer(items).eval(), collator, day)
    rng = np.random.default_rng(0)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        state, start_s = timed(started, shelf)
        events = baskets.between(day, baskets.days)[:LEARNT]
        users = rng.permutation(recommend.users_before(baskets, day))[:ASKED].tolist()
        row = {
            "times": times,
            "users": state.users,
            "items": state.items,
            "purchases": state.events,
            "table_mb": state.size()["table_bytes"] / 1e6,
            "bytes_per_user": state.size()["users_bytes"] / state.users,
            "start_s": start_s,
        }
        few = started(shelf, front=int(FRONT * state.items))
        asked = (("answer", state, 0.0), ("front", few, 0.0), ("exploring", state, 0.1))
        for name, own, share in asked:
            ask = partial(_ask, own, baskets.days, share)
            clock = bench.latency(ask, users, repeats=5, threads=1, device="cpu")
            row |= {f"{name} {key}": clock[key] for key in ("p50_ms", "p99_ms")}
        for name, batch in (("teacher", teacher), ("nightly", shelf)):
            row[f"{name} p50_ms"] = waits(recommend.network(batch), users[:TIMED])["p50_ms"]
        row["night_s"] = timed(state.refresh, shelf)[1]
        kept, row["snapshot_s"] = timed(recommend.Durable, state, folder)
        row["updates_per_second"] = len(events) / timed(_learn, kept, baskets_of(events))[1]
        back, row["restore_s"] = timed(recommend.Durable.restore, folder)
        vector = items.vectors[0].numpy()
        row["add_item_ms"] = 1e3 * timed(_add, back, vector)[1] / ADDED
    print(row)
    return row


def _ask(state: live.Live, day: int, share: float, user: int) -> np.ndarray:
    return state.recommend(user, day, explore=share)


def baskets_of(events: pd.DataFrame) -> list[tuple[int, list[int], int]]:
    """The user, the items and the day of each basket, as a till would send it, in order of time."""
    return [
        (own["user"].iloc[0], own["item"].tolist(), own["day"].iloc[0])
        for _, own in events.groupby("basket", sort=False)
    ]


def _learn(kept: recommend.Durable, bought: list[tuple[int, list[int], int]]) -> None:
    for basket in bought:
        kept.update_basket(*basket)


def _add(kept: recommend.Durable, vector: np.ndarray) -> None:
    for _ in range(ADDED):
        kept.add_item(vector)


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds, and of the sizes."""
    parts = shared.read(folder, ("profile", "scale"))
    cost_of = sizes(folder, out)
    heads = {head: _means([part["heads"][head] for part in parts]) for head in parts[0]["heads"]}
    leak = _means([part["leak"] for part in parts])
    newly = {name: _means([part["newcomers"][name] for part in parts])
             for name in parts[0]["newcomers"]}  # fmt: skip
    seeds, first = [part["seed"] for part in parts], parts[0]
    data = {
        "scale_days": first["scale"],
        "households": len(heads["0"]),
        "heads": {
            head: {"baskets": first["baskets"][head], "rows": _rows(table), "minus": _minus(table)}
            for head, table in heads.items()
        },
        "by_seed": [
            {name: float(np.mean(values)) for name, values in part["heads"]["0"]["recall"].items()}
            for part in parts
        ],
        "days": {
            name: np.mean([part["days"][name] for part in parts], axis=0).tolist()
            for name in first["days"]
        },
        "leak": {"rows": _rows(leak), "minus": _difference(leak, "after", "before")},
        "explore": _explored([part["explore"] for part in parts]),
        "newcomers": [
            {
                "visit": int(name.split()[0]),
                "head": int(name.split()[1]),
                "households": len(table),
                "rows": _rows(table),
                "minus": _difference(table, LIVE, NIGHTLY),
                "shrunk": _difference(table, SHRUNK, NIGHTLY),
            }
            for name, table in newly.items()
        ],
        "kill": [part["kill"] for part in parts],
        "chosen": [part["chosen"] for part in parts],
        **{shop: _fronts([part[shop] for part in parts]) for shop in FRONTS},
        "steps": {category: _steps([part["steps"][category] for part in parts])
                  for category in REVIEWS},
        **cost_of,
    }  # fmt: skip
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_real_time.py --seeds {' '.join(map(str, seeds))} "
        "--scale --merge",
        seeds=seeds,
        hardware=first["hardware"],
        generator=None,
        data=data,
        goals=_goals(data),
    )
    print(out)


def sizes(folder: Path, out: Path) -> dict:
    """What --scale has left in the folder, or else what the record says, and on which day it was
    measured."""
    file = folder / "scale.json"
    if file.exists() or not out.exists():
        found = shared.sizes(folder)
        return {"scale": found, "scale_created": f"{date.fromtimestamp(file.stat().st_mtime)}"}
    old = json.loads(out.read_text(encoding="utf-8"))
    created = old["data"].get("scale_created", old["created"])
    return {"scale": old["data"]["scale"], "scale_created": created}


def _means(parts: list[dict]) -> pd.DataFrame:
    """Users × systems, the mean over seeds."""
    return means([pd.DataFrame(part["recall"], index=part["user"]) for part in parts])


def _rows(table: pd.DataFrame) -> dict:
    return {name: metrics.bootstrap_of_means(table, itemgetter(name)) for name in table}


def _minus(table: pd.DataFrame) -> dict:
    pairs = [(LIVE, other) for other in (NIGHTLY, WEEKLY, NEVER, FIXED, AGAIN)]
    pairs += [(LIVE_TOGETHER, LIVE), (AGAIN_TOGETHER, AGAIN), (LIVE, AGAIN_TOGETHER)]
    pairs += [(FROZEN, LIVE), (LEARNING, FROZEN)]
    return {f"{a} − {b}": _difference(table, a, b) for a, b in pairs}


def _fronts(parts: list[dict]) -> dict:
    return {
        share: {key: float(np.mean([part[share][key] for part in parts])) for key in own}
        for share, own in parts[0].items()
    }


def _steps(parts: list[dict]) -> dict:
    """Of a category: rows, and differences with intervals over seeds and users."""
    tables = {name: np.array([part["recall"][name] for part in parts])
              for name in (LIVE, NIGHTLY, LIKE_LAST)}  # fmt: skip
    found = {name: metrics.two_way_bootstrap(table, resamples=2_000)
             for name, table in tables.items()}  # fmt: skip
    minus = metrics.two_way_bootstrap(tables[LIVE] - tables[NIGHTLY], resamples=2_000)
    return {"users": len(parts[0]["user"]), "rows": found, f"{LIVE} − {NIGHTLY}": minus}


def _difference(table: pd.DataFrame, a: str, b: str) -> dict:
    return metrics.paired_bootstrap(table[a], table[b])


def _explored(parts: list[list[dict]]) -> list[dict]:
    rows = []
    for place, share in enumerate(SHARES):
        own = [part[place] for part in parts]
        table, none = _means(own), _means([part[0] for part in parts])
        table.columns, none.columns = ["recall"], ["recall"]
        keys = ("coverage", "rare_shown", "rare_hits")
        rows.append(
            {
                "share": share,
                "recall": float(table["recall"].mean()),
                "minus": metrics.paired_bootstrap(table["recall"], none["recall"]),
                **{key: float(np.mean([part[key] for part in own])) for key in keys},
            }
        )
    return rows


def _goals(data: dict) -> list[dict]:
    whole = next(row for row in data["scale"] if row["times"] == 1)
    rate, wait = whole["updates_per_second"], whole["answer p99_ms"]
    share = whole["answer p50_ms"] / whole["teacher p50_ms"]
    differ = max(part["differ"] for part in data["kill"])
    more = data["heads"]["0"]["minus"][f"{LIVE} − {NIGHTLY}"]
    largest = data["scale"][-1]
    loss, mixed = (data[shop][str(FRONT)] for shop in ("front", "front_mixed"))
    first = next(row for row in data["newcomers"] if (row["visit"], row["head"]) == (1, 1))
    learnt = data["heads"]["0"]["minus"][f"{LEARNING} − {FROZEN}"]
    return [
        exact("updates of the state a second, one core",
              rate, "at least 2000", rate >= 2000),
        exact("wait for ten items of the whole catalogue, exact, p99 in ms, one core",
              wait, "at most 5", wait <= 5),
        exact("p50 wait, of the live student against its teacher, one core",
              share, "at most 0.2", share <= 0.2),
        exact("the same at ten times the data, looking at a tenth of the items, p99 in ms",
              largest["front p99_ms"], "at most 5", largest["front p99_ms"] <= 5),
        exact("share of the ten best that are shown when looking at a tenth of the items",
              loss["same"], "at least 0.99", loss["same"] >= 0.99),
        exact("the same with ten copies of each item, their demand dealt out anew",
              mixed["same"], "at least 0.99", mixed["same"] >= 0.99),
        above("recall@10 of the next basket, live minus nightly", more),
        *(above(f"recall@10 of a user's next product, one step learnt minus not, {category}",
                data["steps"][category][f"{LIVE} − {NIGHTLY}"]) for category in REVIEWS),
        above("recall@10 after the first item of a newcomer, shrunk minus nightly",
              first["shrunk"]),
        above("recall@10 of the next basket, a learner that goes on minus the same, frozen",
              learnt),
        exact("users whose scores differ after a kill and a replay", differ, "0", differ == 0),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommendation while the shop is open.")
    arguments = shared.arguments_of(parser, "real_time")
    shared.run(arguments, measure, merge, scale)


if __name__ == "__main__":
    main()
