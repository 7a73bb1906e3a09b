"""Profile cards: are their sentences, names, groups and guesses true, and do they help a search?

    python benchmarks/measure_cards.py cards --seeds 0 1 2 3 4     statements and their names
    python benchmarks/measure_cards.py groups --seeds 0 1 2 3 4    what groups of items foretell
    python benchmarks/measure_cards.py guesses --seeds 0 1 2 3 4   guesses where a card speaks
    python benchmarks/measure_cards.py path --seeds 31 ... 40      simulated shops, with a profile
    python benchmarks/measure_cards.py --merge                     all files into the record

The first three read the households of The Complete Journey. Cards are written at the middle of the
year, and the second half judges them. Settings of groups are chosen on one half of the households
and judged on the other; a threshold of a guess is chosen inside the training folds; weights of a
profile are chosen on validation queries.

Sizes: U users, I items, K kinds of goods, G groups, S shoppers, Q queries.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import normalize

import shared
from ecomkd import features, metrics, people, recommend, report
from ecomkd.config import Profile
from ecomkd.data import journey, sources
from ecomkd.data import shop as simulated
from ecomkd.data.baskets import Baskets
from ecomkd.relevance import baselines, fusion, judge
from shared import above

CLUSTERS = 60
SIZES, PRIORS = (30, 120, 480, 960, 1920), (20.0, 60.0, 200.0, 600.0, 2000.0, 6000.0)
UNSEEN = 100
"""Added to a seed, it draws groups whose cards nobody read when names were written by hand."""
GOALS = ("all", "new")
"""Purchases of the second half of the year: all, and those of kinds not bought in the first."""
MINILM, NAMES, TFIDF, CATEGORIES, KINDS_ALONE, RANDOM = GROUPINGS = (
    "MiniLM", "MiniLM, names written out", "TF-IDF", "the shop's categories", "each kind alone",
    "at random",
)  # fmt: skip
FOLDS, LIKELY, PROMISED, ENOUGH = 5, 0.75, 0.8, 20
"""A card speaks above LIKELY, or where PROMISED of ENOUGH training households were as it says."""
CALIBRATIONS = ("as it is", "logistic", "isotonic")
PURCHASES, CLARITIES, CLEAR = (0, 1, 3, 10, 30, 100), (1.0, 4.0, 16.0), 4.0
WEIGHTS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
MATCH_PRIORS = (1.0, 3.0, 10.0, 30.0, 100.0)
AMBIGUOUS = 6
"""Exact products among a query's ten candidates from which on it leaves the choice to taste."""
MEASURES = ("purchase", "nDCG@10")


# What cards say -----------------------------------------------------------------------------------


def read_by_cards() -> tuple[Baskets, np.ndarray, np.ndarray, list[str]]:
    """The purchases that cards read, vectors (T, E) of texts, each item's text (I,), the texts."""
    whole = journey.load()
    unread = (people.sensitive(whole.items) != "") | people.no_goods(whole.items)
    texts, codes = recommend.texts(whole)
    vectors = features.layers(texts, Profile.named())[-1]
    return people.without(whole, unread.to_numpy()), vectors, codes, texts


def cards(seed: int) -> dict:
    """Of each statement at midyear whether the rest of the year bears it out, its names too."""
    baskets, vectors, codes, _ = read_by_cards()
    groups, middle = people.cluster(vectors, CLUSTERS, seed)[codes], baskets.days // 2
    rest = replace(baskets, events=baskets.events[baskets.events["day"] >= middle])
    first, then = (
        people.Cards(part, day, groups, journey.FIRST_DAY)
        for part, day in ((baskets, middle), (rest, baskets.days))
    )
    later, moved = _more_than_usual(then), _change(first, then)
    place = {name: code for code, name in enumerate(first.kinds)}
    told = [
        np.array([place[name] for name in names.split(", ") if name in place])
        for names in people.names_of(baskets, middle, groups)
    ]
    bought = people.group_counts(rest, baskets.days, np.arange(len(baskets.items)))
    shares = normalize(bought, norm="l1").tocsc()
    rows, named = [], []
    judged = np.flatnonzero(then.rhythm["visits"] >= people.LEAST)
    for user in judged:
        for one in first(int(user)):
            held, chance = _held(one, int(user), first, then, moved)
            row = {"user": int(user), "topic": one.topic, "held": held, "chance": chance}
            rows.append(row)
            if one.topic == "interest":
                named.append(
                    {"user": int(user)} | _names(one, int(user), first, then, told, later, shares)
                )
    unseen = people.cluster(vectors, CLUSTERS, seed + UNSEEN)[codes]
    other = people.Cards(baskets, middle, unseen, journey.FIRST_DAY)
    by_hand = people.written_out(baskets.items).to_numpy()
    written = {
        "purchases": float(by_hand[baskets.events["item"]].mean()),
        "statements": in_words(first, by_hand, judged),
        "statements, other groups": in_words(other, by_hand, judged),
    }
    return {"statements": rows, "names": named, "written out": written}


def in_words(made: people.Cards, by_hand: np.ndarray, users: np.ndarray) -> float:
    """Of the statements about goods on these users' cards, the share of those that name only kinds
    whose names were written `by_hand` (I,)."""
    coded = np.unique(made.kind[~by_hand])
    told = [
        not np.isin(made.named(made.past.loc[one.events], len(made.rows[user])), coded).any()
        for user in users.tolist()
        for one in made(user)
        if one.about is not None
    ]
    return float(np.mean(told))


def _held(one, user: int, first, then, change: np.ndarray) -> tuple[bool, float]:
    """Whether a statement held, and the share of all households of which it would have."""
    if one.topic == "interest":
        return bool(then.lift[user, one.about] > 1), float((then.lift[user] > 1).mean())
    if one.topic in ("rising", "falling"):
        sign = 1 if one.topic == "rising" else -1
        moved = sign * change
        known = first.counts.toarray() >= people.LEAST / 4
        return bool(moved[user, one.about] > 0), float((moved > 0)[known].mean())
    if one.topic in then.habits:
        row = then.habits[one.topic].loc[user]
        side = then.habits[one.topic]["z"].dropna() > 0
        held = (row["value"] > row["expected"]) == (one.value > one.usual)
        return bool(held), float(side.mean() if one.value > one.usual else 1 - side.mean())
    if one.topic == "rhythm":
        came = then.rhythm["pace"].dropna() > 0
        more = one.value > one.usual
        held = (then.rhythm.loc[user, "pace"] > 0) == more
        return bool(held), float(came.mean() if more else 1 - came.mean())
    usual = then.rhythm["weekday"]
    day = first.rhythm.loc[user, "weekday"]
    return bool(day == usual[user]), float((usual == day).mean())


def _change(first, then) -> np.ndarray:
    """How far each household's share of each group rose, (U, G), from before the recent days to the
    rest of the year, beyond what everybody's share did."""
    old, new = (first.counts - first.recent).toarray(), then.counts.toarray()
    share = [counts.sum(axis=0) / counts.sum() for counts in (old, new)]
    own = [
        (counts + people.PRIOR * usual) / (counts.sum(axis=1, keepdims=True) + people.PRIOR)
        for counts, usual in zip((old, new), share, strict=True)
    ]
    return own[1] / np.maximum(share[1], 1e-12) - own[0] / np.maximum(share[0], 1e-12)


def _more_than_usual(then) -> np.ndarray:
    """Whether each household buys more of each kind than usual, (U, K)."""
    counts = np.zeros((len(then.rhythm), len(then.kinds)))
    np.add.at(counts, (then.past["user"], then.kind[then.past["item"]]), 1)
    return counts > counts.sum(axis=1, keepdims=True) * then.kind_share


def _names(one, user: int, first, then, told: list[np.ndarray], later: np.ndarray, shares) -> dict:
    """Of a statement about an interest: is it called by what is on its receipt, and do the kinds
    that are named, and the rest of the group, stay what the household buys more of than usual?
    `told` has the shop's names of each group, and `shares` (U, I) are those of items in the rest of
    the year."""
    own = first.past.loc[one.events]
    purchases = len(first.rows[user])
    named = {"own": first.named(own, purchases), "shop's": told[one.about]}
    bought, found = first.kind[own["item"]], {}
    for naming, kinds in named.items():
        found |= {
            f"{naming}, on the receipt": bool(np.isin(kinds, bought).all()),
            f"{naming}, share of the receipt": float(np.isin(bought, kinds).mean()),
            f"{naming}, later": bool(later[user, kinds].all()),
            f"{naming}, chance": float(later[:, kinds].all(axis=1).mean()),
        }
    like = np.flatnonzero((then.groups == one.about) & ~np.isin(then.kind, named["own"]))
    own_share = np.asarray(shares[:, like].sum(axis=1)).ravel()
    more = own_share > np.average(own_share, weights=then.counts.sum(axis=1).A1)
    return found | {"the like, later": bool(more[user]), "the like, chance": float(more.mean())}


# Groups -------------------------------------------------------------------------------------------


def groups(seed: int) -> dict:
    """What each grouping says of the second half of the year beyond what everybody buys, in nats
    for each household, over all its purchases and over those of kinds that are new to it."""
    baskets, vectors, codes, texts = read_by_cards()
    kind = pd.factorize(people.called(baskets.items))[0]
    known = Halves(baskets, kind)
    choosing = np.random.default_rng(0).permutation(len(baskets.users)) % 2 == 0
    rows, chosen = {}, {}
    for name in GROUPINGS:
        tried: dict[tuple, tuple] = {}
        for size, own in _groupings(name, baskets, vectors, codes, texts, kind, seed):
            for prior in PRIORS:
                tried[size, prior] = known.gains(own, prior)
        for goal, place in (("all", 0), ("new", 1)):
            best = max(tried, key=lambda key: known.mean(tried[key], place, choosing))
            rows[f"{name}/{goal}"] = tried[best][place][~choosing].tolist()
            chosen[f"{name}/{goal}"] = best
        print(f"seed {seed}: {name} {chosen}", flush=True)
    counts = {goal: known.counts[place][~choosing].tolist() for place, goal in enumerate(GOALS)}
    return {"gains": rows, "purchases": counts, "chosen": chosen}


class Halves:
    """The two halves of the year, and what groups of items say in the first of the second."""

    def __init__(self, baskets: Baskets, kind: np.ndarray):
        self.middle, self.baskets, self.kind = baskets.days // 2, baskets, kind
        self.first = baskets.between(0, self.middle)
        then = baskets.between(self.middle, baskets.days)
        # What was never sold before has no share for a lift to multiply.
        self.then = then[then["item"].isin(self.first["item"].unique())]
        self.seen = people.group_counts(baskets, self.middle, kind) > 0
        bought = np.asarray(self.seen[self.then["user"], kind[self.then["item"]]])[0]
        self.new = self.then[~bought]
        users = len(baskets.users)
        self.counts = [np.bincount(part["user"], minlength=users) for part in (self.then, self.new)]

    def gains(self, groups: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
        """The logarithms of the likelihood ratio against the shop's shares, summed over the
        purchases of each household: all (U,), and those of new kinds (U,)."""
        counts = people.group_counts(self.baskets, self.middle, groups)
        lift = people.lift(counts, prior)
        total = np.zeros(lift.shape[1])
        np.add.at(total, groups[self.first["item"]], 1)
        mass = np.zeros((self.kind.max() + 1, lift.shape[1]))
        np.add.at(mass, (self.kind[self.first["item"]], groups[self.first["item"]]), 1)
        unseen = total - self.seen @ mass
        found = []
        for part in (self.then, self.new):
            own = np.log(lift[part["user"], groups[part["item"]]])
            found.append(np.bincount(part["user"], own, minlength=len(lift)))
        # Who has bought of every kind has nothing new to buy.
        left = np.maximum(unseen.sum(axis=1), 1e-12)
        normal = np.log(np.maximum((lift * unseen).sum(axis=1), 1e-12) / left)
        return found[0], found[1] - self.counts[1] * normal

    def mean(self, gains: tuple, place: int, users: np.ndarray) -> float:
        """The mean gain of a purchase of these users."""
        return gains[place][users].sum() / self.counts[place][users].sum()


def _groupings(
    name: str, baskets: Baskets, vectors, codes, texts, kind: np.ndarray, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Groupings (I,) of a kind, of several sizes."""
    if name == CATEGORIES:
        for level in ("department", "category"):
            own = pd.factorize(baskets.items[level])[0]
            yield int(own.max()) + 1, own
    elif name == KINDS_ALONE:
        yield int(kind.max()) + 1, kind
    else:
        read = {
            MINILM: lambda: vectors,
            NAMES: lambda: _names_read(baskets, kind),
            TFIDF: lambda: TfidfVectorizer(sublinear_tf=True).fit_transform(texts),
        }
        table, of = read[name]() if name in read else None, kind if name == NAMES else codes
        for size in SIZES:
            if name in (MINILM, NAMES):
                yield size, people.cluster(table, size, seed)[of]
            elif name == TFIDF:
                yield size, KMeans(size, n_init=1, random_state=seed).fit_predict(table)[of]
            else:
                drawn = np.random.default_rng(seed).integers(size, size=kind.max() + 1)
                yield size, drawn[kind]


def _names_read(baskets: Baskets, kind: np.ndarray) -> np.ndarray:
    """Vectors (K, E) of the kinds' names, as they are written out, each with its category."""
    texts = people.called(baskets.items) + ", " + baskets.items["category"].str.lower()
    return features.layers(texts.groupby(kind).first().tolist(), Profile.named())[-1]


# Guesses ------------------------------------------------------------------------------------------


def guesses(seed: int) -> dict:
    """Are there children: probabilities of households held out, as the model gives them and
    calibrated inside the training folds, and the thresholds that are chosen there."""
    baskets, vectors, codes, _ = read_by_cards()
    kids = people.demographics(baskets.users)["kids"]
    y, types = kids.cat.codes.to_numpy(), pd.factorize(baskets.items["type"])[0]
    counts = people.group_counts(baskets, baskets.days, types)
    text = people.user_vectors(people.purchase_weights(baskets, baskets.days), vectors[codes])
    tables = {"tf-idf": TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray(),
              "text": text}  # fmt: skip
    found: dict = {"household": kids.index.tolist(), "kids": y.tolist(), "guesses": {}}
    for name, table in tables.items():
        X = table[kids.index]
        rows = {kind: np.zeros(len(y)) for kind in CALIBRATIONS}
        spoken = {kind: np.zeros(len(y), int) for kind in CALIBRATIONS}
        cut = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in cut.split(X, y):
            inner = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            model = people.classifier(seed)
            own = cross_val_predict(model, X[train], y[train], cv=inner, method="predict_proba")
            raw = model.fit(X[train], y[train]).predict_proba(X[test])[:, 1]
            for kind, call in _calibrated(own[:, 1], y[train]).items():
                known, asked = call(own[:, 1]), call(raw)
                low, high = people.thresholds(known, y[train], PROMISED, ENOUGH)
                rows[kind][test] = asked
                spoken[kind][test] = (asked >= high).astype(int) - (asked <= low)
        found["guesses"][name] = {
            kind: {"p": rows[kind].round(5).tolist(), "says": spoken[kind].tolist()}
            for kind in CALIBRATIONS
        }
        print(f"seed {seed}: {name}", flush=True)
    return found


def _calibrated(p: np.ndarray, y: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Maps from a probability to another, fitted on probabilities of rows held out (Platt 1999;
    Zadrozny & Elkan 2002)."""

    def logit(p: np.ndarray) -> np.ndarray:
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return np.log(p / (1 - p))[:, None]

    line = LogisticRegression(C=1e6).fit(logit(p), y)
    steps = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    return {
        "as it is": lambda q: q,
        "logistic": lambda q: line.predict_proba(logit(q))[:, 1],
        "isotonic": steps.predict,
    }


# The whole path -----------------------------------------------------------------------------------


def path(seed: int) -> dict:
    """Of a simulated shop: what a profile adds to a search, for each shopper and query."""
    profile = Profile.named(seed=seed)
    made = simulated.generate(
        profile.seed,
        profile.products,
        profile.queries,
        profile.judged_per_query,
        profile.unlabelled_pairs,
    )
    return profiled(made, untrained(profile), seed)


def untrained(profile: Profile) -> dict[str, pd.DataFrame]:
    """The judged pairs of the splits with the sum of BM25 and the untrained bi-encoder, in standard
    units; its weight is chosen on validation queries."""
    data, catalogue = sources.load("shop", profile), sources.catalogue("shop", profile)
    signals = {
        split: np.stack(
            [
                baselines.bm25_scores(data[split], catalogue),
                features.bi_encoder_scores(data[split], profile),
            ],
            axis=1,
        )
        for split in ("validation", "test")
    }
    own = fusion.choose_fusion("z", signals["validation"], data["validation"])
    return {
        split: judge.frame(data[split], own.scores(signals[split], data[split]["query_id"]))
        for split in signals
    }


def profiled(made: simulated.Shop, scores: dict[str, pd.DataFrame], seed: int) -> dict:
    """What each way to know a shopper adds, by the measure, clarity and number of purchases."""
    taste = people.tastes(made)
    lessons = made.judgments[made.judgments["split"] == "train"].assign(score=0.0)
    train = people.searches(made, lessons)
    validation, test = (people.searches(made, scores[split]) for split in ("validation", "test"))
    open_ = (test.gains == 1).sum(axis=1) >= AMBIGUOUS
    found: dict = {"ambiguous": open_.tolist(), "rows": {}}
    for clarity in CLARITIES:
        judges = {split: Judge(own, taste, clarity)
                  for split, own in (("validation", validation), ("test", test))}  # fmt: skip
        base = judges["test"].values(None, 0.0)
        tables = {"taste": {1.0: taste}}
        everybody = people.draw(train, taste, max(PURCHASES), seed, clarity)
        pooled = everybody.reshape(1, -1)
        tables["everybody"] = {
            prior: np.repeat(people.match(made.products, pooled, prior), len(taste), axis=0)
            for prior in MATCH_PRIORS
        }
        for n in PURCHASES:
            bought = everybody[:, :n]
            tables[str(n)] = {p: people.match(made.products, bought, p) for p in MATCH_PRIORS}
        for name, fits in tables.items():
            row = _tuned(judges, fits, base)
            found["rows"][f"{clarity:g}/{name}"] = row
        for whose, rows in _others(everybody[:, :30]).items():
            prior, weight = found["rows"][f"{clarity:g}/30"]["purchase"]["chosen"]
            fit = people.match(made.products, rows, prior)
            found["rows"][f"{clarity:g}/{whose}"] = {
                goal: {"gain": _summary(own - base[goal])}
                for goal, own in judges["test"].values(fit, weight).items()
            }
        found["rows"][f"{clarity:g}/without"] = {
            goal: {"gain": _summary(own)} for goal, own in base.items()
        }
        print(f"seed {seed}: clarity {clarity:g}", flush=True)
    return found


def _others(bought: np.ndarray) -> dict[str, np.ndarray]:
    """Purchases that are half, or wholly, another shopper's."""
    half, other = bought.shape[1] // 2, np.roll(bought, 1, axis=0)
    return {"shared": np.hstack([bought[:, :half], other[:, half:]]), "another's": other}


class Judge:
    """What an order of the candidates is worth to each shopper on each query, (S, Q)."""

    def __init__(self, asked: people.Searches, taste: np.ndarray, clarity: float):
        self.asked, self.worth = asked, people.personal(asked, taste)
        chance = self.worth**clarity
        self.chance = chance / chance.sum(axis=-1, keepdims=True)

    def values(self, fit: np.ndarray | None, weight: float) -> dict[str, np.ndarray]:
        """By measure: the mean reciprocal rank of the product that is bought, by its chance, and
        the nDCG@10 of what products are worth."""
        scores = self.asked.scores[None]
        if fit is not None:
            scores = scores + weight * fit[:, self.asked.products]
        order = np.argsort(-scores, axis=-1, kind="stable")
        order = np.broadcast_to(order, self.worth.shape)
        chance, worth = (np.take_along_axis(own, order, axis=-1)
                         for own in (self.chance, self.worth))  # fmt: skip
        ranks = np.arange(1, chance.shape[-1] + 1)
        return {
            "purchase": (chance / ranks).sum(axis=-1),
            "nDCG@10": metrics.ndcg_of_gains(worth, self.worth),
        }


def _tuned(judges: dict[str, Judge], fits: dict[float, np.ndarray], base: dict) -> dict:
    """By measure: the gain on test queries with what is best on validation queries."""
    tried = {
        (prior, weight): judges["validation"].values(fits[prior], weight)
        for prior, weight in product(fits, WEIGHTS)
    }
    row = {}
    for goal in MEASURES:
        best = max(tried, key=lambda key, goal=goal: tried[key][goal].mean())
        own = judges["test"].values(fits[best[0]], best[1])[goal]
        row[goal] = {"chosen": best, "gain": _summary(own - base[goal])}
    return row


def _summary(values: np.ndarray) -> dict[str, list[float]]:
    """Means of the gains (S, Q) over shoppers and over queries: what intervals are made of."""
    return {"queries": values.mean(axis=0).tolist(), "shoppers": values.mean(axis=1).tolist()}


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    parts = {kind: shared.read(folder / kind, ("profile",)) for kind in KINDS}
    data, goals = {}, []
    for kind, make in MERGED.items():
        data[kind], own = make(parts[kind])
        goals += own
    calls = [f"{kind} --seeds {' '.join(str(one['seed']) for one in own)}"
             for kind, own in parts.items()]  # fmt: skip
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_cards.py {', '.join(calls)}, --merge",
        seeds=[part["seed"] for part in parts["cards"]],
        hardware=parts["cards"][0]["hardware"],
        generator=simulated.generator_hash(),
        data=data,
        goals=goals,
    )
    print(out)


def _ratio(frame: pd.DataFrame, column: str, seeds: int) -> dict[str, float]:
    """The share of rows where a column is true, with an interval over households and seeds."""
    users = sorted(frame["user"].unique())
    cells = np.zeros((seeds, len(users), 2))
    where = frame["seed"].to_numpy(), np.searchsorted(users, frame["user"])
    np.add.at(cells[..., 0], where, frame[column].to_numpy(float))
    np.add.at(cells[..., 1], where, 1.0)
    return metrics.two_way_bootstrap(cells, lambda means: means[:, 0] / means[:, 1], 2_000)


def _rows(parts: list[dict], name: str) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(part[name]).assign(seed=seed)
                      for seed, part in enumerate(parts)])  # fmt: skip


def _of_cards(parts: list[dict]) -> tuple[dict, list[dict]]:
    rows, names = _rows(parts, "statements"), _rows(parts, "names")
    held = {
        topic: {
            **_ratio(own, "held", len(parts)),
            "chance": float(own["chance"].mean()),
            "statements": len(own) / len(parts),
        }
        for topic, own in rows.groupby("topic")
    }
    named = {column: _ratio(names, column, len(parts))
             for column in names if column not in ("user", "seed")}  # fmt: skip
    named["own minus shop's, later"] = _minus(names, "own, later", "shop's, later", len(parts))
    goals = [
        above("share of interests whose names hold, own minus the shop's",
              named["own minus shop's, later"]),
        shared.exact("share of interests called by what is on their receipt",
                     named["own, on the receipt"]["value"], "1, exactly",
                     named["own, on the receipt"]["value"] == 1),
    ]  # fmt: skip
    written = dict(parts[0]["written out"])
    for what in ("statements", "statements, other groups"):
        written[what] = shared.over_seeds([part["written out"][what] for part in parts])
    return {"held": held, "names": named, "written out": written}, goals


def _minus(frame: pd.DataFrame, a: str, b: str, seeds: int) -> dict[str, float]:
    difference = frame[a].astype(float) - frame[b].astype(float)
    return _ratio(frame.assign(difference=difference), "difference", seeds)


def _of_groups(parts: list[dict]) -> tuple[dict, list[dict]]:
    rows, minus, goals = {}, {}, []
    for goal in GOALS:
        n = np.array(parts[0]["purchases"][goal], float)
        tables = {
            name: np.array([part["gains"][f"{name}/{goal}"] for part in parts])
            for name in GROUPINGS
        }
        for name, table in tables.items():
            rows[f"{name}/{goal}"] = {
                **_nats(table, n),
                "chosen": [part["chosen"][f"{name}/{goal}"] for part in parts],
            }
        for rival in (TFIDF, CATEGORIES, KINDS_ALONE):
            found = _nats(tables[MINILM] - tables[rival], n)
            minus[f"{MINILM} - {rival}/{goal}"] = found
            what = "all purchases" if goal == "all" else "purchases of new kinds"
            goals.append(above(f"nats of {what}, groups of {MINILM} minus {rival}", found))
    return {"rows": rows, "minus": minus}, goals


def _nats(table: np.ndarray, n: np.ndarray) -> dict[str, float]:
    cells = np.stack([table, np.broadcast_to(n, table.shape)], axis=-1)
    return metrics.two_way_bootstrap(cells, lambda means: means[:, 0] / means[:, 1], 2_000)


def _of_guesses(parts: list[dict]) -> tuple[dict, list[dict]]:
    y = np.array(parts[0]["kids"])
    rows: dict = {}
    for name, kinds in parts[0]["guesses"].items():
        for kind in kinds:
            p = np.array([part["guesses"][name][kind]["p"] for part in parts])
            says = np.array([part["guesses"][name][kind]["says"] for part in parts])
            fixed = (p >= LIKELY).astype(int) - (p <= 1 - LIKELY)
            rows[f"{name}, {kind}"] = {
                "log loss": float(-np.log(np.clip(np.where(y, p, 1 - p), 1e-4, 1)).mean()),
                "0.75": _spoken(fixed, y, p),
                "chosen": _spoken(says, y, p),
            }
    return {"households": len(y), "share": float(y.mean()), "rows": rows}, []


def _spoken(says: np.ndarray, y: np.ndarray, p: np.ndarray) -> dict:
    """Of the guesses (S, N) that are 1 and -1: how many there are of a seed, what they promise, and
    how many are true, with an interval over households and seeds."""
    found = {}
    for word, sign in (("yes", 1), ("no", -1)):
        made = says == sign
        true = made & (y == (sign > 0))
        row = {"n": float(made.sum(axis=1).mean())}
        if made.sum() >= 5:
            cells = np.stack([true, made], axis=-1).astype(float)

            def share(means: np.ndarray) -> np.ndarray:
                return means[:, 0] / np.maximum(means[:, 1], 1e-9)

            row |= metrics.two_way_bootstrap(cells, share, 2_000)
            row["promised"] = float(np.where(sign > 0, p, 1 - p)[made].mean())
        found[word] = row
    return found


def _of_path(parts: list[dict]) -> tuple[dict, list[dict]]:
    rows = {}
    for key, row in parts[0]["rows"].items():
        for goal in MEASURES:
            for which in ("all", "ambiguous"):
                rows[f"{key}/{goal}/{which}"] = _over_shops(
                    [
                        np.array(part["rows"][key][goal]["gain"]["queries"])[
                            np.array(part["ambiguous"]) if which == "ambiguous" else slice(None)
                        ]
                        for part in parts
                    ]
                )
            if "chosen" in row[goal]:
                rows[f"{key}/{goal}/all"]["chosen"] = [
                    part["rows"][key][goal]["chosen"] for part in parts
                ]
    goals = [
        above(f"reciprocal rank of the purchase, ambiguous queries, profile of {n} minus none",
              rows[f"{CLEAR:g}/{n}/purchase/ambiguous"])
        for n in (10, 30, 100)
    ]  # fmt: skip
    queries = [int(np.sum(part["ambiguous"])) for part in parts]
    return {"shops": len(parts), "ambiguous queries": queries, "rows": rows}, goals


def _over_shops(values: list[np.ndarray], resamples: int = 2_000) -> dict[str, float]:
    """The mean over shops of their queries' means, with a 95 % interval over shops and queries.

    Shops are drawn, and then queries within each: all shoppers of a shop ask the same queries, so
    that a query counts once, however many ask it.
    """
    rng = np.random.default_rng(0)
    drawn = np.array([rng.choice(own, size=(resamples, len(own))).mean(axis=1) for own in values])
    shops = rng.integers(len(values), size=(resamples, len(values)))
    means = drawn[shops, np.arange(resamples)[:, None]].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    value = float(np.mean([own.mean() for own in values]))
    return {"value": value, "low": float(low), "high": float(high)}


KINDS = {"cards": cards, "groups": groups, "guesses": guesses, "path": path}
MERGED = {"cards": _of_cards, "groups": _of_groups, "guesses": _of_guesses, "path": _of_path}


def main() -> None:
    parser = argparse.ArgumentParser(description="Profile cards.")
    arguments = shared.arguments_of(parser, "cards", tuple(KINDS), scaled=False)
    shared.run(arguments, KINDS.get(arguments.kind), merge, part=arguments.kind or "")


if __name__ == "__main__":
    main()
