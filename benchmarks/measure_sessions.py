"""Recommendation within simulated sessions: what a live state foresees of the next click.

    python benchmarks/measure_sessions.py 0.5 --seeds 0     one seed, its own file
    python benchmarks/measure_sessions.py --merge           all files into the record

A seed draws the shoppers, their sessions, and the networks; the shop is one. The pages that are
clicked are drawn without any of the rows. Settings are those with the most hits on the validation
days; numbers are about the test days, from the second click of a session on. How lasting a taste is
was told to the simulation, so everything is measured for several such shares, which come first on
the command line: the rows show what a mechanism does, and not what a real shop would gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

import rivals
import shared
from ecomkd import features, recommend, report
from ecomkd.config import Profile
from ecomkd.data import shop
from ecomkd.data.baskets import Baskets
from ecomkd.recommend import sessions
from ecomkd.search import clicks
from measure_real_time import LIVE, NIGHTLY, scored, shelves, shown, together
from shared import above

SHOP, PRODUCTS, SHOPPERS, DAYS = 1014, 1_000, 1_200, 120
LASTING = ("0.2", "0.5", "0.8")
"""The chance that a session wants one of its shopper's favourite types."""
CHIEF = "0.5"
"""The share of which the goals speak."""
PASSES, RATE = 1.5, 4e-3
"""How the student is trained, by the validation days of another shop with other shoppers."""
POPULAR, TEXT, CLICKED = "popular", "like the clicks, by text", "clicked together"
LAST = "like the last click, by text"
SASREC = "SASRec"
LIVE_CLICKED, NIGHTLY_CLICKED = f"{LIVE} + {CLICKED}", f"{NIGHTLY} + {CLICKED}"
ROWS = (POPULAR, NIGHTLY, LIVE, SASREC, LAST, TEXT, CLICKED, NIGHTLY_CLICKED, LIVE_CLICKED)
FADES = (0.0, 0.5, 1.0)
"""What a click counts against the one after it."""
WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3)
LENGTHS = {True: 20, False: 8}
"""Clicks that SASRec reads, of all that a shopper ever clicked, or of a session by itself."""
WIDTH, DROPOUT = 64, 0.2
SASREC_PASSES = (4, 8, 12, 16, 24, 32)
HEADS = (0, 1, 2, 3)
"""Clicks before the one to be foreseen, of which the record tells; the last one has more, too."""


def click(gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The position-based model, with the chances of chapter 19."""
    return clicks.click(clicks.attraction(gains), rng)


def measure(lasting: str, seed: int) -> dict:
    """The test days with tastes that are so lasting, click by click."""
    profile = Profile.named(seed=seed)
    products = shop.generate(SHOP, PRODUCTS, queries=90, unlabelled_pairs=100).products
    log = sessions.on_clicks(
        sessions.simulate(products, click, SHOPPERS, DAYS, float(lasting), seed)
    )
    texts, codes = recommend.texts(log)
    vectors = features.layers(texts, profile)[-1]
    shelf = shelves(log, student(log, vectors, profile))
    networks = {whole: rivals.SASRec(seed, length, passes=SASREC_PASSES)
                for whole, length in LENGTHS.items()}  # fmt: skip
    chosen = settings(log, shelf, vectors[codes], networks)
    found = recommend.next_items(
        systems(log, shelf, vectors[codes], log.test_start, chosen, networks), log, log.test_start
    )
    print(seed, lasting, chosen)
    print(found.assign(head=found["head"].clip(upper=HEADS[-1]))
          .groupby("head")[list(ROWS)].mean().round(3).T, flush=True)  # fmt: skip
    return {
        "chosen": chosen,
        "log": {
            "clicks": len(log.events),
            "sessions": int(log.events["basket"].nunique()),
            "asked": int((found["head"] > 0).sum()),
            "bought": float(log.events.groupby("basket")["bought"].any().mean()),
        },
        "within": by_shopper(found[found["head"] > 0]),
        "heads": {
            str(head): by_shopper(found[found["head"] == head] if head < HEADS[-1]
                                  else found[found["head"] >= head])
            for head in HEADS
        },
    }  # fmt: skip


def by_shopper(found: pd.DataFrame) -> dict:
    """The sums of hits of each shopper, and of how many clicks."""
    own = found.groupby("user")[list(ROWS)].sum()
    asked = found.groupby("user").size()
    return {"user": own.index.tolist(), "asked": asked.tolist(), "hits": own.to_dict("list")}


def student(log: Baskets, vectors: np.ndarray, profile: Profile) -> recommend.DecayedMeans:
    """The student of chapter 10, without a teacher, trained on the days before the validation days.

    It passes over them more often than there, for there are fewer.
    """
    items = recommend.Items(log, vectors, recommend.FIRST, 64, profile)
    fitted = {"items": items, "start": log.validation_start, "profile": profile}
    made = recommend.train(recommend.DecayedMeans, **fitted, passes=PASSES, learning_rate=RATE)
    return recommend.load(made, recommend.DecayedMeans, items)


@dataclass
class Alike:
    """The scores of another system, plus how alike items are to those of the session.

    Args:
        base: from a user and a day to scores (I,).
        likeness: (I, I).
        weight: of the sum over the session's clicks.
        fade: what a click counts against the one after it; with 0 the last one alone counts.
    """

    base: Callable[[int, int], np.ndarray]
    likeness: np.ndarray
    weight: float
    fade: float

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        scores = self.base(user, day).copy()
        if len(without):
            counts = self.fade ** np.arange(len(without))[::-1]
            scores += self.weight * (counts @ self.likeness[np.asarray(without, int)])
        return shown(scores, without)

    def learn(self, user: int, item: int, day: int) -> None:
        """Another system learns, or none: what is alike was counted before."""


class BySession:
    """A state that learns the clicks of a session when its shopper's next one begins."""

    def __init__(self, live: recommend.Live):
        self.live = live
        self.aside: dict[int, list[tuple[int, int]]] = {}

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        if not len(without):
            for item, then in self.aside.pop(user, []):
                self.live.update(user, item, then)
        return self.live.recommend(user, day, without)

    def learn(self, user: int, item: int, day: int) -> None:
        self.aside.setdefault(user, []).append((item, day))


@dataclass
class Following:
    """SASRec, which is asked before each click for what comes next, and told it at once.

    Args:
        network: trained on the days before the validation days.
        model: of the network, after the passes that are wanted.
        sold: scores for who has clicked nothing, and the order of what the network does not know.
        past: (U) lists, what each shopper clicked, for a network that reads it all; None for one
            that reads the session alone.
    """

    network: rivals.SASRec
    model: rivals.Sequence
    sold: Callable[[int, int], np.ndarray]
    past: list[list[int]] | None

    def recommend(self, user: int, day: int, without: Sequence[int]) -> np.ndarray:
        place = self.network.place
        clicks = place[np.asarray(without, int)] if self.past is None else self.past[user]
        clicks = np.array([click for click in clicks if click >= 0], int)
        scores = self.sold(user, day).copy()
        if len(clicks):
            scores -= 1e6
            scores[self.network.kept] = self.network.logits(self.model, [clicks])[0]
        return shown(scores, without)

    def learn(self, user: int, item: int, day: int) -> None:
        if self.past is not None:
            self.past[user].append(self.network.place[item])


def following(log: Baskets, day: int, networks: dict, whole: bool, passes: int) -> Following:
    """SASRec from `day` on, trained where it is asked for the first time."""
    # A network that reads one session at a time takes each session for a user.
    events = log.events if whole else log.events.assign(user=log.events["basket"])
    users = log.users if whole else pd.DataFrame({"user_id": range(events["user"].max() + 1)})
    read = replace(log, events=events, users=users)
    network = networks[whole]
    model = network.after(read, passes, width=WIDTH, dropout=DROPOUT)
    past = [own.tolist() for own in network.histories(log, day)] if whole else None
    return Following(network, model, popular(log, day), past)


def popular(log: Baskets, day: int) -> Callable[[int, int], np.ndarray]:
    """Scores far below 1 by the clicks of all days before, for whoever asks."""
    scores = recommend.tie_break(recommend.popularity(log, day, day))
    return lambda user, now: scores


def states(shelf: recommend.Shelf) -> dict[str, recommend.System]:
    live, nightly = (recommend.initial_state(shelf, prior=0.0) for _ in range(2))
    return {NIGHTLY: BySession(nightly), LIVE: recommend.Scheduled(live, shelf.day)}


def likenesses(log: Baskets, vectors: np.ndarray, day: int) -> dict[str, np.ndarray]:
    """(I, I) of each kind: cosines of texts, and of the sessions before `day` in which items were
    clicked."""
    unit = normalize(vectors - vectors.mean(axis=0))
    return {TEXT: unit @ unit.T, CLICKED: together(log, day).toarray()}


def systems(
    log: Baskets, shelf: Callable, vectors: np.ndarray, day: int, chosen: dict, networks: dict
) -> dict:
    """All rows, from `day` on; those that add to a state follow it."""
    near, rows, sold = likenesses(log, vectors, day), states(shelf(day)), popular(log, day)
    rows[POPULAR] = Alike(sold, near[TEXT], 0.0, 0.0)
    rows[SASREC] = following(log, day, networks, chosen[SASREC]["whole"], chosen[SASREC]["passes"])
    rows[LAST] = Alike(sold, near[TEXT], 1.0, 0.0)
    for name in (TEXT, CLICKED):
        rows[name] = Alike(sold, near[name], 1.0, chosen[name]["fade"])
    for name, state in ((LIVE_CLICKED, LIVE), (NIGHTLY_CLICKED, NIGHTLY)):
        own = chosen[name]
        rows[name] = Alike(scored(rows[state]), near[CLICKED], own["weight"], own["fade"])
    return rows


def settings(log: Baskets, shelf: Callable, vectors: np.ndarray, networks: dict) -> dict:
    """The fades, weights and networks with the most hits on the validation days, after the first
    click."""
    day, until = log.validation_start, log.test_start
    near, rows, sold = likenesses(log, vectors, day), states(shelf(day)), popular(log, day)
    tried = {}
    for name in (TEXT, CLICKED):
        for fade in FADES:
            tried[name, 1.0, fade] = Alike(sold, near[name], 1.0, fade)
    for name, state in ((LIVE_CLICKED, LIVE), (NIGHTLY_CLICKED, NIGHTLY)):
        for weight in WEIGHTS:
            for fade in FADES:
                tried[name, weight, fade] = Alike(scored(rows[state]), near[CLICKED], weight, fade)
    networks_tried = {(SASREC, whole, passes): following(log, day, networks, whole, passes)
                      for whole in LENGTHS for passes in SASREC_PASSES}  # fmt: skip
    found = recommend.next_items({**rows, **tried, **networks_tried}, log, day, until - day)
    hits = found.loc[found["head"] > 0, [*tried, *networks_tried]].mean()
    best = max(networks_tried, key=lambda key: hits[key])
    chosen = {SASREC: {"whole": best[1], "passes": best[2], "hits": float(hits[best])}}
    for name in dict.fromkeys(name for name, _, _ in tried):
        best = max((key for key in tried if key[0] == name), key=lambda key: hits[key])
        chosen[name] = {"weight": best[1], "fade": best[2], "hits": float(hits[best])}
    return chosen


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = {share: shared.read(folder / share, ("profile",)) for share in LASTING}
    calls = [f"{share} --seeds {' '.join(str(part['seed']) for part in own)}"
             for share, own in parts.items()]  # fmt: skip
    data = {
        "shop": {"seed": SHOP, "products": PRODUCTS, "shoppers": SHOPPERS, "days": DAYS},
        "chief": CHIEF,
        "by_lasting": {share: told(own) for share, own in parts.items()},
    }
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_sessions.py {', '.join(calls)}, --merge",
        seeds=[part["seed"] for part in parts[CHIEF]],
        hardware=parts[CHIEF][0]["hardware"],
        generator=shop.generator_hash(),
        data=data,
        goals=goals(data),
    )
    print(out)


def told(parts: list[dict]) -> dict:
    """Of one share: rows and differences, over seeds."""
    by_seed = [
        {name: sum(part["within"]["hits"][name]) / sum(part["within"]["asked"]) for name in ROWS}
        for part in parts
    ]
    pairs = [(LIVE, NIGHTLY), (LIVE, LAST), (LIVE, TEXT), (LIVE, CLICKED)]
    pairs += [
        (LIVE, SASREC),
        (SASREC, CLICKED),
        (NIGHTLY, POPULAR),
        (LIVE_CLICKED, LIVE),
        (LIVE_CLICKED, CLICKED),
    ]
    pairs += [(NIGHTLY_CLICKED, LIVE), (LIVE_CLICKED, NIGHTLY_CLICKED)]
    return {
        "seeds": [part["seed"] for part in parts],
        "rows": {name: rate(by_seed, name) for name in ROWS},
        "minus": {f"{a} − {b}": rate(by_seed, a, b) for a, b in pairs},
        "heads": {
            head: {
                "asked": float(np.mean([sum(part["heads"][head]["asked"]) for part in parts])),
                "rows": {
                    name: pooled([part["heads"][head] for part in parts], name) for name in ROWS
                },
            }
            for head in parts[0]["heads"]
        },
        "log": {name: float(np.mean([part["log"][name] for part in parts]))
                for name in parts[0]["log"]},
        "chosen": [part["chosen"] for part in parts],
        "by_seed": by_seed,
    }  # fmt: skip


def rate(by_seed: list[dict[str, float]], a: str, b: str | None = None) -> dict:
    """Hits a click, or the difference of two rows, with an interval over seeds: each has shoppers
    of its own, whose luck is in it, too."""
    return shared.of_seeds([one[a] - (0 if b is None else one[b]) for one in by_seed])


def pooled(parts: list[dict], name: str) -> float:
    asked = sum(sum(part["asked"]) for part in parts)
    return sum(sum(part["hits"][name]) for part in parts) / asked


def goals(data: dict) -> list[dict]:
    minus = data["by_lasting"][CHIEF]["minus"]
    goal = partial("hits@10 of the next click in a session, {} (simulated)".format)
    pairs = ((LIVE, NIGHTLY), (LIVE, LAST), (LIVE, CLICKED), (LIVE_CLICKED, NIGHTLY_CLICKED))
    return [above(goal(f"{a} minus {b}"), minus[f"{a} − {b}"]) for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommendation within simulated sessions.")
    arguments = shared.arguments_of(parser, "sessions", LASTING, scaled=False)
    kind = arguments.kind or ""
    shared.run(arguments, partial(measure, kind), merge, part=kind)


if __name__ == "__main__":
    main()
