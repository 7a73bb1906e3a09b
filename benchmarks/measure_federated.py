"""Shops that may not pool their data, and shops that change: what each way is worth. Chapter 18.

    python benchmarks/measure_federated.py --once
    python benchmarks/measure_federated.py --seeds 1 2 3 4 5
    python benchmarks/measure_federated.py --merge

needs ECOMKD_REAL_DATA, the extra `federated`, and one core for half an hour. `--once` reads the
data, chooses all settings on validation days, and measures what no seed changes: drift, and cost
against size. A seed draws weights, the order of training, the stores of each round and the hidden
kinds. `benchmarks/measure_flower.py` leaves its result beside those of the seeds, if its three
steps are run before --merge. For the record they were, though its command does not name them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

import shared
from ecomkd import bench, features, metrics, report
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import journey, retail
from ecomkd.federated import adapt, averaging, sharing, silos, stores
from ecomkd.federated.silos import Moment, Silo
from ecomkd.federated.stores import StoreModel

torch.set_num_threads(1)
FOLDER = Profile.named().artifacts / "federated"
WIDTH = 32
"""Numbers that are left of a text's 384, by principal components."""
LEAST = 10
"""A store with fewer households is no client: its households are the panel."""
RESAMPLES = 2_000
RATES = (3e-4, 1e-3, 3e-3)
FASTER = (1e-2, 3e-2, 1e-1)
EPOCHS = (0, 1, 2, 4)
ROUNDS = (1, 2, 4, 8, 16)
TOPS = (10, 20, 30)
"""Kinds of a shared history that a store sends: more would take over a tenth of the bytes that
averaging takes."""
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
BOUND = 0.02
"""What the gate may lose of the mean of recall@10 and of recall@10 among new kinds."""
CUSTOMERS = 500
"""Histories of each split that are read of a category of amazon18: small shops."""
COUNTRY = 8
"""The customers that a country needs, to be a silo of Online Retail."""
MOVING: dict[str, tuple[str, ...] | None] = {
    "habit": ("habit",),
    "habit and kinds": ("habit", "first"),
    "all": None,
}
MEASURES = ("recall", "new_recall")


# Data ---------------------------------------------------------------------------------------------


def reduced(texts: Sequence[str]) -> torch.Tensor:
    """(I, WIDTH): the principal components of MiniLM's vectors, in units of their spread."""
    vectors = np.asarray(features.last_layer(list(texts), Profile.named()))
    small = PCA(WIDTH, random_state=0).fit_transform(vectors)
    return torch.from_numpy((small / small.std()).astype(np.float32))


@lru_cache
def chain() -> tuple[dict[str, Silo], Silo, torch.Tensor]:
    """The stores of The Complete Journey, the panel, and the vectors of all kinds."""
    baskets = silos.kinds(journey.load())
    home = journey.stores().set_index("user_id")["store"]
    owner = home.reindex(baskets.users["user_id"]).to_numpy()
    count = pd.Series(owner).value_counts()
    names = sorted(count.index[count >= LEAST])
    owner = np.where(np.isin(owner, names), owner, -1)
    found = silos.cut(baskets, owner, [*names, -1])
    panel = found.pop("-1")
    return found, panel, reduced(baskets.items["text"])


def smallest(found: Mapping[str, Silo]) -> list[str]:
    """The third of the stores with the fewest rows to learn from."""
    order = sorted(found, key=lambda name: (found[name].size, name))
    return order[: len(order) // 3]


def gifts() -> tuple[dict[str, Silo], Silo, torch.Tensor]:
    """Online Retail by country, the same as one shop, and the vectors of its items."""
    path = shared.real_folder("online_retail")
    baskets = retail.load(path)
    lines = pd.read_parquet(path / "transactions.parquet", columns=["CustomerID", "Country"])
    lines = lines.assign(user=lines["CustomerID"].astype(str).str.removesuffix(".0"))
    country = lines.drop_duplicates("user").set_index("user")["Country"]
    owner = country.reindex(baskets.users["user_id"]).to_numpy()
    # A country has to have customers in each of the last two moments.
    count = pd.Series(owner).value_counts()
    found = {}
    for name in count.index[count >= COUNTRY]:
        try:
            found |= silos.cut(baskets, owner, [name])
        except ValueError:
            continue
    whole = silos.cut(baskets, ["all"] * len(owner), ["all"])["all"]
    return found, whole, reduced(baskets.items["text"])


def category(name: str) -> tuple[Silo, torch.Tensor]:
    """A category of amazon18 as a silo: histories of at most ten items, and the next one."""
    folder = shared.real_folder("amazon18")
    items = pd.read_parquet(folder / f"{name}_items.parquet")
    table = pd.read_parquet(folder / f"{name}_histories.parquet")
    rows = {split: own.iloc[:CUSTOMERS] for split, own in table.groupby("split")}
    early = rows["validation"]
    early = early[early["history"].str.len() > 1]
    prefixes = [list(one[:-1]) for one in early["history"]]
    count = np.bincount(np.concatenate(rows["validation"]["history"].tolist()),
                        minlength=len(items))  # fmt: skip

    def moment(day: int, pasts: Sequence, nexts: Sequence) -> Moment:
        past = sp.lil_matrix((len(pasts), len(items)), dtype=np.float32)
        wanted = sp.lil_matrix((len(pasts), len(items)), dtype=np.float32)
        for row, (history, item) in enumerate(zip(pasts, nexts, strict=True)):
            for back, had in enumerate(history[::-1]):
                past[row, had] = max(past[row, had], 0.8**back)
            wanted[row, item] = 1
        return Moment(day, np.arange(len(pasts)), past.tocsr(), wanted.tocsr(), count)

    parts = [moment(0, prefixes, [one[-1] for one in early["history"]])]
    for day, split in ((1, "validation"), (2, "test")):
        parts.append(moment(day, list(rows[split]["history"]), list(rows[split]["item"])))
    return Silo(name, (parts[0],), parts[1], parts[2]), reduced(items["title"].str.lower())


# Training and measuring ---------------------------------------------------------------------------


def fresh(vectors: torch.Tensor, seed: int) -> StoreModel:
    torch.manual_seed(seed)
    return StoreModel(vectors)


def tensors(model: torch.nn.Module) -> averaging.State:
    return {name: own.detach().clone() for name, own in model.named_parameters()}


def filled(vectors: torch.Tensor, state: averaging.State) -> StoreModel:
    model = StoreModel(vectors)
    model.load_state_dict(state, strict=False)
    return model


def judged(score: Callable[[Moment], np.ndarray], moment: Moment) -> pd.DataFrame:
    return stores.quality(score(moment), moment)


def over(
    models: Callable[[str], torch.nn.Module], found: Mapping[str, Silo], on: str
) -> pd.DataFrame:
    """The quality of each household, with the name of its store."""
    frames = []
    for name, silo in found.items():
        moment = getattr(silo, on)
        frame = stores.quality(stores.scores_of(models(name), moment), moment)
        frames.append(frame.assign(store=name))
    return pd.concat(frames)


def worth(frame: pd.DataFrame) -> float:
    """What settings are chosen by: the mean of recall, and of recall among what is new."""
    return float(np.mean([frame[name].mean() for name in MEASURES]))


def client(
    silo: Silo, vectors: torch.Tensor, rate: float, moving: str, epochs: int = 1
) -> averaging.Client:
    def answer(state: averaging.State, seed: int) -> averaging.State:
        model = filled(vectors, state)
        stores.train(model, silo.train, epochs, rate, parts=MOVING[moving], seed=seed)
        return tensors(model)

    return answer


def federated(
    found: Mapping[str, Silo],
    vectors: torch.Tensor,
    settings: dict,
    seed: int,
    watch: Callable | None = None,
    **options,
) -> averaging.State:
    chosen = {name: settings[name] for name in ("rate", "moving")}
    clients = [client(silo, vectors, **chosen) for silo in found.values()]
    return averaging.rounds(
        tensors(fresh(vectors, seed)), clients, [silo.size for silo in found.values()],
        count=settings["rounds"], each=len(clients), seed=seed, watch=watch, **options,
    )  # fmt: skip


def pooled_training(
    found: Mapping[str, Silo], vectors: torch.Tensor, settings: dict, seed: int
) -> StoreModel:
    moments = [moment for silo in found.values() for moment in silo.train]
    return stores.train(
        fresh(vectors, seed), moments, settings["epochs"], settings["rate"],
        parts=MOVING[settings["moving"]], seed=seed,
    )  # fmt: skip


def alone(silo: Silo, vectors: torch.Tensor, settings: dict, seed: int) -> StoreModel:
    return pooled_training({silo.name: silo}, vectors, settings, seed)


# Settings, on validation --------------------------------------------------------------------------


def best(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["worth"])


def of_local(found: Mapping[str, Silo], vectors: torch.Tensor) -> list[dict]:
    rows = []
    for moving in ("habit and kinds", "all"):
        for rate in RATES:
            models = {name: fresh(vectors, 0) for name in found}
            done = 0
            for epochs in EPOCHS:
                for name, silo in found.items():
                    stores.train(models[name], silo.train, epochs - done, rate,
                                 parts=MOVING[moving], seed=epochs)  # fmt: skip
                done = epochs
                if not epochs and (rate, moving) != (RATES[0], "all"):
                    continue  # without training, all settings are one
                frame = over(models.__getitem__, found, "validation")
                rows.append(
                    {"moving": moving, "rate": rate, "epochs": epochs, "worth": worth(frame)}
                )
    return rows


def of_central(found: Mapping[str, Silo], vectors: torch.Tensor) -> list[dict]:
    rows = []
    moments = [moment for silo in found.values() for moment in silo.train]
    for moving in ("habit and kinds", "all"):
        for rate in RATES:
            model, done = fresh(vectors, 0), 0
            for epochs in EPOCHS:
                stores.train(model, moments, epochs - done, rate, parts=MOVING[moving], seed=epochs)
                done = epochs
                frame = over(lambda name, own=model: own, found, "validation")
                rows.append(
                    {"moving": moving, "rate": rate, "epochs": epochs, "worth": worth(frame)}
                )
    return rows


def of_rounds(found: Mapping[str, Silo], vectors: torch.Tensor) -> list[dict]:
    rows = []
    for moving in ("habit and kinds", "all"):
        for rate in FASTER:

            def watch(number: int, state: averaging.State, at=(moving, rate)) -> None:
                if number in ROUNDS:
                    model = filled(vectors, state)
                    frame = over(lambda name: model, found, "validation")
                    rows.append({"moving": at[0], "rate": at[1], "rounds": number,
                                 "worth": worth(frame)})  # fmt: skip

            federated(found, vectors, {"rate": rate, "moving": moving, "rounds": max(ROUNDS)}, 0,
                      watch=watch)  # fmt: skip
    return rows


# Distillation -------------------------------------------------------------------------------------


def shared_moments(panel: Silo, kind: str, seed: int) -> list[Moment]:
    """The histories that all stores score: the panel's, or drawn ones that nobody bought.

    Of the panel, each household in one moment. A drawn history has as many kinds as one of the
    panel and counts as high, but each kind of the catalogue is as likely as any other.
    """
    rng = np.random.default_rng(seed)
    taken: set[int] = set()
    moments = []
    for moment in panel.train[::-1]:
        free = [row for row in rng.permutation(len(moment.users)) if moment.users[row] not in taken]
        rows = sorted(free[:: 1 if moment is panel.train[0] else 3])
        if not rows:
            continue
        taken |= {int(moment.users[row]) for row in rows}
        past = moment.past[rows]
        if kind == "drawn":
            drawn = [rng.choice(past.shape[1], len(one.data), replace=False) for one in past]
            lengths = [len(one) for one in drawn]
            ends = np.concatenate([[0], np.cumsum(lengths)])
            past = sp.csr_matrix((past.data, np.concatenate(drawn), ends), past.shape)
        moments.append(replace(moment, users=moment.users[rows], past=past,
                               wanted=moment.wanted[rows]))  # fmt: skip
    return moments


def lessons_of(
    teachers: Mapping[str, StoreModel], found: Mapping[str, Silo], moments: list[Moment], top: int
) -> tuple[list[np.ndarray], int]:
    """The stores' mean for each shared moment, and the bytes that a store sends for them."""
    sizes, sent, lessons = [silo.size for silo in found.values()], 0, []
    for moment in moments:
        messages = []
        for name, silo in found.items():
            # A store knows what sells there, not what sells to the panel.
            own = {one.day: one.counts for one in (*silo.train, silo.validation)}
            seen = replace(moment, counts=own.get(moment.day, silo.validation.counts))
            scores = sharing.news(stores.scores_of(teachers[name], seen), seen)
            messages.append(sharing.message(scores, top))
        sent += len(messages[0])
        kinds = moment.past.shape[1]
        lessons.append(sharing.ensemble(messages, sizes, top, kinds))
    return lessons, sent


def distilled(
    lessons: list[np.ndarray],
    moments: list[Moment],
    vectors: torch.Tensor,
    settings: dict,
    seed: int,
) -> StoreModel:
    chosen = {name: settings[name] for name in ("epochs", "rate")}
    return sharing.learn(fresh(vectors, seed), moments, lessons, seed=seed, **chosen)


def of_distilled(teachers, found, moments, vectors) -> list[dict]:
    rows = []
    for top in TOPS:
        lessons, _ = lessons_of(teachers, found, moments, top)
        for rate in FASTER[:2]:
            for epochs in (8, 16, 32):
                settings = {"top": top, "rate": rate, "epochs": epochs}
                model = distilled(lessons, moments, vectors, settings, 0)
                frame = over(lambda name, own=model: own, found, "validation")
                rows.append(settings | {"worth": worth(frame)})
    return rows


# What no seed changes -----------------------------------------------------------------------------


def once() -> None:
    """The settings of every row, drift, and cost against size, each part in a file of its own."""
    found, panel, vectors = chain()
    summed = silos.pooled(found)

    def chosen(name: str, tried: Callable[[], list[dict]]) -> dict:
        file = FOLDER / "settings" / f"{name}.json"
        if not file.exists():
            write_text(file, json.dumps(best(tried())))
        return json.loads(file.read_text("utf-8"))

    settings = {
        row: chosen(row, lambda of=of, own=own: of(own, vectors))
        for row, of, own in (
            ("local, own counts", of_local, found),
            ("local, sums", of_local, summed),
            ("federated, own counts", of_rounds, found),
            ("central", of_central, found),
        )
    }
    # Not chosen by itself: half the rounds, for the sums already say what sells.
    settings["federated, sums"] = settings["federated, own counts"] | {"rounds": 8}
    local = settings["local, own counts"]
    teachers = {name: alone(silo, vectors, local, 0) for name, silo in found.items()}
    moments = shared_moments(panel, "panel", 0)
    settings["distilled"] = chosen(
        "distilled", lambda: of_distilled(teachers, found, moments, vectors)
    )
    write_text(FOLDER / "settings.json", json.dumps(settings))


def also() -> None:
    """Drift, and cost against size."""
    found, panel, vectors = chain()
    shop = {"stores": described(found, panel), "cost": cost(found, vectors)}
    write_text(FOLDER / "shop.json", json.dumps(shop | {"hardware": bench.hardware()}))
    write_text(FOLDER / "drift.json", json.dumps(drift()))


def described(found: Mapping[str, Silo], panel: Silo) -> dict:
    sizes = [len(silo.test.users) for silo in found.values()]
    small = smallest(found)
    return {
        "stores": len(found),
        "kinds": int(found[small[0]].test.past.shape[1]),
        "households": int(sum(sizes)),
        "fewest": int(min(sizes)),
        "most": int(max(sizes)),
        "smallest": len(small),
        "households_smallest": int(sum(len(found[name].test.users) for name in small)),
        "panel": len({int(user) for moment in panel.train for user in moment.users}),
        "home_share": float(journey.stores()["share"].mean()),
    }


def cost(found: Mapping[str, Silo], vectors: torch.Tensor) -> list[dict]:
    """Seconds of a round, bytes and memory, against the number of kinds and of stores."""
    rows = []
    names = list(found)
    for kinds in (389, 1_556):
        for count in (12, 48, 96):
            kept = slice(0, kinds)
            part = {name: narrowed(found[name], kept) for name in names[:count]}
            settings = {"rate": 0.01, "moving": "all", "rounds": 1}
            started = time.perf_counter()
            state = federated(part, vectors[kept], settings, 0)
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "kinds": kinds,
                    "stores": count,
                    "seconds": seconds,
                    "bytes": 2 * averaging.size_of(state),
                    "server_mb": count * averaging.size_of(state) / 1e6,
                }
            )
    rows[-1]["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return rows


def narrowed(silo: Silo, kept: slice) -> Silo:
    def of(moment: Moment) -> Moment:
        past, wanted = moment.past[:, kept], moment.wanted[:, kept]
        rows = np.flatnonzero((np.diff(past.indptr) > 0) & (np.diff(wanted.indptr) > 0))
        return Moment(moment.day, moment.users[rows], past[rows], wanted[rows], moment.counts[kept])

    train = tuple(of(moment) for moment in silo.train)
    return Silo(silo.name, train, of(silo.validation), of(silo.test))


# Drift --------------------------------------------------------------------------------------------

FITTED = 112
"""The days that the first list of what sells is made of, and the length of every later one."""
SHOWN = 100


def stream(events: pd.DataFrame, kinds: int, first: int, last: int, answer: str) -> tuple:
    """The hits of each basket, in order: the share of it that is among what sold best.

    `answer` says when the list is made anew: "never", "monthly", or "alarm", after ADWIN's.
    """

    def listed(day: int, span: int) -> np.ndarray:
        recent = events[(events["day"] >= day - span) & (events["day"] < day)]
        counts = np.bincount(recent["item"], minlength=kinds)
        shown = np.zeros(kinds, bool)
        shown[np.argsort(-counts, kind="stable")[:SHOWN]] = True
        return shown

    from river.drift import ADWIN

    detector, shown, made = ADWIN(), listed(first, FITTED), first
    later = events[(events["day"] >= first) & (events["day"] < last)]
    values, alarms = [], []
    for (day, _), own in later.groupby(["day", "basket"])["item"]:
        if answer == "monthly" and day >= made + 28:
            shown, made = listed(day, 28), day
        value = float(shown[own.to_numpy()].mean())
        values.append((int(day), value))
        detector.update(value)
        if detector.drift_detected:
            alarms.append(int(day))
            if answer == "alarm":
                shown, made, detector = listed(day, 28), day, ADWIN()
    return values, alarms


def drift() -> dict:
    """Alarms on the year as it was, on shuffled days, and where two halves of the kinds swap."""
    baskets = silos.kinds(journey.load())
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(baskets.users))[:250]
    events = baskets.events[baskets.events["user"].isin(chosen)][["day", "basket", "item"]]
    kinds, last = len(baskets.items), baskets.days
    found: dict = {"baskets": 0, "answers": {}}
    for answer in ("never", "monthly", "alarm"):
        values, alarms = stream(events, kinds, FITTED, last, answer)
        table = pd.DataFrame(values, columns=["day", "hits"])
        found["baskets"] = len(table)
        found["answers"][answer] = {"hits": float(table["hits"].mean()), "alarms": alarms}
        if answer == "never":
            found["by_week"] = table.groupby(table["day"] // 7)["hits"].mean().round(4).to_dict()
    found["shuffled"] = []
    for seed in range(1, 6):
        order = np.random.default_rng(seed).permutation(last)
        mixed = events.assign(day=order[events["day"]]).sort_values(
            ["day", "basket"], kind="stable"
        )
        found["shuffled"].append(len(stream(mixed, kinds, FITTED, last, "never")[1]))
    # Injected: from one day on, one in five of the kinds trades places with another.
    found["injected"] = []
    for seed in range(1, 6):
        own = np.random.default_rng(seed)
        order = own.permutation(last)
        mixed = events.assign(day=order[events["day"]]).sort_values(
            ["day", "basket"], kind="stable"
        )
        moved = own.permutation(kinds)[: kinds // 5]
        traded = np.arange(kinds, dtype=np.int32)
        traded[moved] = np.roll(moved, 1)
        late = mixed["day"] >= 240
        mixed.loc[late, "item"] = traded[mixed.loc[late, "item"]]
        alarms = [day for day in stream(mixed, kinds, FITTED, last, "never")[1] if day >= 240]
        found["injected"].append(alarms[0] - 240 if alarms else None)
    return found


# A seed -------------------------------------------------------------------------------------------


def kept(frame: pd.DataFrame) -> dict:
    """The quality of each household as lists, for the files of the seeds."""
    own = frame.sort_index()
    return {name: [None if np.isnan(one) else round(float(one), 5) for one in own[name]]
            for name in MEASURES}  # fmt: skip


def counted(found: Mapping[str, Silo], score: Callable[[Moment], np.ndarray]) -> pd.DataFrame:
    return pd.concat(judged(score, silo.test) for silo in found.values())


def measure(seed: int) -> dict:
    """What one seed gives in each part."""
    settings = shared.sizes(FOLDER, "settings")
    found, panel, vectors = chain()
    summed = silos.pooled(found)
    rows, state_of = silo_rows(found, summed, panel, vectors, settings, seed)
    return {
        "silos": rows,
        "trouble": trouble(found, vectors, settings["federated, own counts"], seed),
        "join": join(summed, vectors, seed),
        "adaptive": adaptive(found, vectors, settings, seed),
        "countries": countries(settings, seed),
        "categories": categories(seed),
        "moved": moved(tensors(state_of), settings, seed),
    }


def silo_rows(found, summed, panel, vectors, settings, seed) -> tuple[dict, StoreModel]:
    def popular(moment: Moment) -> np.ndarray:
        return np.tile(moment.counts.astype(float), (len(moment.users), 1))

    def again(moment: Moment) -> np.ndarray:
        return moment.past.toarray() + 1e-6 * moment.counts

    def rows_of(models: Callable[[str], torch.nn.Module], own: Mapping[str, Silo]) -> dict:
        return kept(over(models, own, "test"))

    rng = np.random.default_rng(seed)
    rows = {
        "random": kept(counted(found, lambda moment: rng.random(moment.past.shape))),
        "what sells, own counts": kept(counted(found, popular)),
        "what sells, sums": kept(counted(summed, popular)),
        "buy it again, own counts": kept(counted(found, again)),
        "buy it again, sums": kept(counted(summed, again)),
    }
    sent, curve, clock = {}, {}, {}
    local: dict[str, dict[str, StoreModel]] = {}
    for name, own in (("own counts", found), ("sums", summed)):
        chosen = settings[f"local, {name}"]
        local[name], clock[f"local, {name}"] = shared.timed(
            lambda own=own, chosen=chosen: {
                key: alone(silo, vectors, chosen, seed) for key, silo in own.items()
            }
        )
        rows[f"local, {name}"] = rows_of(local[name].__getitem__, own)
        chosen, seen = settings[f"federated, {name}"], {}

        def watch(number: int, state: averaging.State, own=own, seen=seen) -> None:
            if number in ROUNDS and own is found:
                model = filled(vectors, state)
                seen[number] = kept(over(lambda key: model, own, "test"))

        state, clock[f"federated, {name}"] = shared.timed(
            federated, own, vectors, chosen, seed, watch=watch
        )
        model = filled(vectors, state)
        rows[f"federated, {name}"] = rows_of(lambda key, model=model: model, own)
        moving = MOVING[chosen["moving"]]
        size = averaging.size_of({key: one for key, one in state.items()
                                  if moving is None or key.startswith(moving)})  # fmt: skip
        # Both ways, in half precision.
        sent[f"federated, {name}"] = chosen["rounds"] * size
        curve[name] = {
            number: {"bytes": number * size} | {key: mean_of(one[key]) for key in MEASURES}
            for number, one in seen.items()
        }
        if name == "own counts":
            first, one_round = model, seen[1]
            rows["one round of averaging, own counts"] = one_round
            sent["one round of averaging, own counts"] = size
            least = {number * size: one for number, one in seen.items()}
    sent["local, sums"] = 4 * len(vectors)
    central = pooled_training(found, vectors, settings["central"], seed)
    rows["central, own counts"] = rows_of(lambda key: central, found)
    for kind in ("panel", "drawn"):
        moments = shared_moments(panel, kind, seed)
        chosen = settings["distilled"]
        lessons, up = lessons_of(local["own counts"], found, moments, chosen["top"])
        student = distilled(lessons, moments, vectors, chosen, seed)
        # The student comes back in half precision.
        sent[f"distilled, {kind}"] = up + averaging.size_of(tensors(student)) // 2
        rows[f"distilled, {kind}"] = rows_of(lambda key, model=student: model, found)
    # If the panel also told what it bought, nobody would have to distil.
    own = {"panel": replace(panel, train=tuple(shared_moments(panel, "panel", seed)))}
    model = pooled_training(own, vectors, settings["central"], seed)
    rows["the panel's own purchases"] = rows_of(lambda key: model, found)
    names = {int(user): key for key, silo in found.items() for user in silo.test.users}
    small = set(smallest(found))
    return {
        "rows": rows,
        "small": [int(names[user] in small) for user in sorted(names)],
        "store": [names[user] for user in sorted(names)],
        "bytes": sent,
        "curve": curve,
        "seconds": clock,
        "least": sorted(least),
    }, first


def mean_of(values: Sequence) -> float:
    return float(np.nanmean(np.array(values, float)))


def trouble(found: Mapping[str, Silo], vectors: torch.Tensor, chosen: dict, seed: int) -> dict:
    """What becomes of FedAvg when stores send nonsense, or nothing, among every third store."""
    found = dict(list(found.items())[::3])
    settings = chosen | {"rounds": min(4, chosen["rounds"])}
    names, rng = list(found), np.random.default_rng(seed)
    liars = set(rng.permutation(len(names))[: len(names) // 10])

    def noisy(state: averaging.State, number: int) -> averaging.State:
        torch.manual_seed(number)
        return {name: 10 * torch.randn_like(one) for name, one in state.items()}

    clients = [
        noisy if place in liars
        else client(found[name], vectors, settings["rate"], settings["moving"])
        for place, name in enumerate(names)
    ]  # fmt: skip
    sizes = [silo.size for silo in found.values()]
    ways = {"mean": averaging.mean, "median": averaging.median, "trimmed mean": averaging.trimmed,
            "clipped mean": averaging.clipped}  # fmt: skip

    def result(state: averaging.State) -> dict:
        model = filled(vectors, state)
        frame = over(lambda name: model, found, "test")
        return {name: float(frame[name].mean()) for name in MEASURES}

    rows = {}
    for name, combine in ways.items():
        for own, who in (("a tenth sends nonsense", clients), ("all honest", None)):
            if own == "all honest" and combine is not averaging.mean:
                continue
            who = who or [client(found[key], vectors, settings["rate"], settings["moving"])
                          for key in names]  # fmt: skip
            state = averaging.rounds(tensors(fresh(vectors, seed)), who, sizes,
                                     settings["rounds"], len(who), seed, combine)  # fmt: skip
            rows[f"{name}, {own}"] = result(state)
    for share in (0.3, 0.5):
        state = federated(found, vectors, settings, seed, dropped=share)
        rows[f"mean, {share:.0%} drop out"] = result(state)
    return {"rounds": settings["rounds"], "rows": rows}


def join(summed: Mapping[str, Silo], vectors: torch.Tensor, seed: int) -> dict:
    """A store whose assortment the others know by text alone: what will sell there?

    A random half of the kinds is unknown to the other stores. From the texts and sums of the known
    half a ridge regression foretells what of the others sells.
    """
    rng = np.random.default_rng(seed)
    hidden = np.sort(rng.permutation(len(vectors))[: len(vectors) // 2])
    known = np.setdiff1d(np.arange(len(vectors)), hidden)
    small = smallest(summed)
    table = vectors.numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)

    def scores_at(pick: Callable[[Silo], Moment]) -> dict[str, np.ndarray]:
        sums = pick(summed[small[0]]).counts
        target = np.log(sums[known] + 0.5)
        near = known[np.argmax(unit[hidden] @ unit[known].T, axis=1)]
        found = {"nearest text": np.log(sums[near] + 0.5)}
        for penalty in (1.0, 10.0, 100.0, 1000.0):
            model = Ridge(penalty).fit(table[known], target)
            found[f"ridge {penalty:g}"] = model.predict(table[hidden])
        found["random"] = rng.random(len(hidden))
        found["what sells elsewhere"] = np.log(sums[hidden] + 0.5)
        return found

    def recalls(scores: np.ndarray, pick: Callable[[Silo], Moment]) -> np.ndarray:
        found = []
        for name in small:
            moment = pick(summed[name])
            part = moment.wanted[:, hidden]
            rows = np.flatnonzero(np.diff(part.indptr))
            own = Moment(moment.day, moment.users[rows],
                         sp.csr_matrix((len(rows), len(hidden)), dtype=np.float32), part[rows],
                         moment.counts[hidden])  # fmt: skip
            tiled = np.tile(scores, (len(rows), 1))
            found.append(stores.quality(tiled, own)["recall"].to_numpy())
        return np.concatenate(found)

    on_validation = scores_at(lambda silo: silo.validation)
    validated = {
        name: recalls(scores, lambda silo: silo.validation).mean()
        for name, scores in on_validation.items()
        if name.startswith("ridge")
    }
    chosen = max(validated, key=validated.__getitem__)
    on_test = scores_at(lambda silo: silo.test)
    rows = {"text, ridge": chosen, "nearest text": "nearest text", "random": "random",
            "what sells elsewhere": "what sells elsewhere"}  # fmt: skip
    return {
        "chosen": chosen,
        "rows": {name: recalls(on_test[own], lambda silo: silo.test).round(5).tolist()
                 for name, own in rows.items()},
    }  # fmt: skip


# Adaptive -----------------------------------------------------------------------------------------

WAYS = (
    "as it is", "habit moves in", "kinds move in", "taste moves in", "all moves in",
    "L2-SP 10", "gradual unfreezing", "adapter",
)  # fmt: skip


def adapted(
    way: str, source: averaging.State, silo: Silo, vectors: torch.Tensor, rate: float, seed: int
) -> torch.nn.Module:
    """A model for a store from that of others, in one of the `WAYS`."""
    whole = filled(vectors, source)
    if way == "as it is":
        return whole
    if way.startswith("L2-SP"):
        pull = float(way.split()[1])
        return stores.train(whole, silo.train, 2, rate, pull=pull, seed=seed)
    if way == "gradual unfreezing":
        return adapt.unfrozen(whole, silo.train, 1, rate / 3, seed=seed)
    if way == "adapter":
        model = adapt.Adapter(whole)
        return stores.train(model, silo.train, 2, rate, parts=("between", "much", "habit"),
                            seed=seed)  # fmt: skip
    part = way.split()[0]
    parts = tuple(adapt.PARTS) if part == "all" else (part,)
    model = adapt.move(fresh(vectors, seed), source, parts)
    return stores.train(model, silo.train, 1, rate, seed=seed)


def gated(
    own: torch.nn.Module, other: torch.nn.Module, silo: Silo, bound: float = BOUND
) -> tuple[float, pd.DataFrame]:
    """The weight that the gate gives to the other model, and the mixture's quality on test."""

    def values(moment: Moment, weight: float) -> pd.DataFrame:
        mixture = adapt.mixed(
            stores.scores_of(own, moment), stores.scores_of(other, moment), weight
        )
        return stores.quality(mixture, moment)

    def each(frame: pd.DataFrame) -> np.ndarray:
        return frame[list(MEASURES)].mean(axis=1).to_numpy()

    before = each(values(silo.validation, 0.0))
    found = {weight: each(values(silo.validation, weight)) for weight in WEIGHTS}
    weight = adapt.gate(before, found, bound)
    return weight, values(silo.test, weight)


def adaptive(found: Mapping[str, Silo], vectors: torch.Tensor, settings: dict, seed: int) -> dict:
    """The smallest stores, which took no part in the federation of the others, adapt its model."""
    small = smallest(found)
    rest = {name: silo for name, silo in found.items() if name not in small}
    targets = {name: found[name] for name in small}
    chosen = settings["federated, own counts"] | {
        "rounds": min(4, settings["federated, own counts"]["rounds"])
    }
    source = federated(rest, vectors, chosen, seed)
    local = {name: alone(silo, vectors, settings["local, own counts"], seed)
             for name, silo in targets.items()}  # fmt: skip
    rows = {"target alone": kept(over(local.__getitem__, targets, "test"))}
    validation, models = {}, {}
    for way in WAYS:
        models[way] = {name: adapted(way, source, silo, vectors, 3e-3, seed)
                       for name, silo in targets.items()}  # fmt: skip
        validation[way] = worth(over(models[way].__getitem__, targets, "validation"))
        rows[way] = kept(over(models[way].__getitem__, targets, "test"))
    best_way = max(validation, key=validation.__getitem__)
    weights, frames = {}, []
    for name, silo in targets.items():
        weights[name], frame = gated(local[name], models[best_way][name], silo)
        frames.append(frame)
    rows["gate"] = kept(pd.concat(frames))
    order = pd.concat([silo_frame(silo) for silo in targets.values()]).sort_index()
    return {"rows": rows, "validation": validation, "chosen": best_way, "weights": weights,
            "store": order["store"].tolist()}  # fmt: skip


def silo_frame(silo: Silo) -> pd.DataFrame:
    return pd.DataFrame({"store": silo.name}, index=silo.test.users)


def countries(settings: dict, seed: int) -> dict:
    """Online Retail by country: each alone, and all of them by averaging."""
    found, _, vectors = gifts_once()
    small = {name: silo for name, silo in found.items() if name != "United Kingdom"}
    chosen = settings["federated, own counts"] | {"moving": "all", "rounds": 2}
    local = {name: alone(silo, vectors, settings["local, own counts"], seed)
             for name, silo in small.items()}  # fmt: skip
    state = federated(found, vectors, chosen, seed)
    model = filled(vectors, state)
    summed = silos.pooled(found)
    own = {name: summed[name] for name in small}
    with_sums = {name: alone(silo, vectors, settings["local, sums"], seed)
                 for name, silo in own.items()}  # fmt: skip
    return {
        "countries": list(small),
        "rows": {
            "local, own counts": kept(over(local.__getitem__, small, "test")),
            "federated, own counts": kept(over(lambda name: model, small, "test")),
            "local, sums": kept(over(with_sums.__getitem__, own, "test")),
        },
    }


@lru_cache
def gifts_once() -> tuple[dict[str, Silo], Silo, torch.Tensor]:
    return gifts()


@lru_cache
def categories_once() -> dict[str, tuple[Silo, torch.Tensor]]:
    return {name: category(name) for name in ("industrial_and_scientific", "office_products")}


def categories(seed: int) -> dict:
    """Two shops with no item in common share the maps of text, and keep the rest at home."""
    both = categories_once()
    travels = ("read", "offer")

    def trained(shared_maps: bool) -> tuple[int, dict]:
        models = {name: fresh(vectors, seed) for name, (_, vectors) in both.items()}
        best_, kept_, at = -1.0, {}, 0
        for number in range(1, 7):
            for name, (silo, _) in both.items():
                stores.train(models[name], silo.train, 1, 1e-2, seed=seed * 100 + number)
            if shared_maps:
                states = [{key: one for key, one in tensors(model).items()
                           if key.startswith(travels)} for model in models.values()]  # fmt: skip
                middle = averaging.mean(states[0], states, [1, 1])
                for model in models.values():
                    model.load_state_dict(middle, strict=False)
            value = np.mean([hits(models[name], silo.validation).mean()
                             for name, (silo, _) in both.items()])  # fmt: skip
            if value > best_:
                kept_ = {name: filled(model.vectors, tensors(model))
                         for name, model in models.items()}  # fmt: skip
                best_, at = float(value), number
        return at, kept_

    def hits(model: StoreModel, moment: Moment) -> pd.Series:
        return stores.quality(stores.scores_of(model, moment), moment)["recall"]

    found: dict = {"rows": {}, "chosen": {}}
    for row, maps in (("alone", False), ("maps shared", True)):
        found["chosen"][row], models = trained(maps)
        found["rows"][row] = {name: hits(models[name], silo.test).round(5).tolist()
                              for name, (silo, _) in both.items()}  # fmt: skip
    return found


def moved(source: averaging.State, settings: dict, seed: int) -> dict:
    """From the supermarkets to a shop of gifts, whose items are others: habit and taste move."""
    _, shop, vectors = gifts_once()
    rate, epochs = 3e-3, 1
    own = stores.train(fresh(vectors, seed), shop.train, epochs, rate, seed=seed)
    rows = {"alone": kept(judged(lambda m: stores.scores_of(own, m), shop.test))}
    found, models = {}, {}
    for name, parts in (("taste", ("taste",)), ("both", ("habit", "taste"))):
        model = adapt.move(fresh(vectors, seed), source, parts)
        stores.train(model, shop.train, epochs, rate, seed=seed)
        frame = judged(lambda m, one=model: stores.scores_of(one, m), shop.validation)
        found[name], models[name] = worth(frame), model
        rows[name] = kept(judged(lambda m, one=model: stores.scores_of(one, m), shop.test))
    weight, frame = gated(own, models["both"], shop)
    rows["gate on both"] = kept(frame)
    return {"rows": rows, "validation": found, "weight": weight}


# The record ---------------------------------------------------------------------------------------

PAIRS = (
    ("local, own counts", "buy it again, own counts"),
    ("federated, own counts", "local, own counts"),
    ("one round of averaging, own counts", "local, own counts"),
    ("local, sums", "local, own counts"),
    ("buy it again, sums", "buy it again, own counts"),
    ("federated, sums", "local, own counts"),
    ("federated, sums", "local, sums"),
    ("federated, sums", "buy it again, sums"),
    ("local, sums", "federated, own counts"),
    ("local, sums", "buy it again, sums"),
    ("central, own counts", "federated, own counts"),
    ("distilled, panel", "federated, own counts"),
    ("distilled, panel", "local, own counts"),
    ("distilled, panel", "one round of averaging, own counts"),
    ("distilled, drawn", "federated, own counts"),
    ("distilled, drawn", "local, own counts"),
    ("distilled, panel", "the panel's own purchases"),
    ("distilled, drawn", "distilled, panel"),
    ("distilled, drawn", "one round of averaging, own counts"),
    ("distilled, drawn", "the panel's own purchases"),
    ("local, sums", "distilled, drawn"),
)

SUMMED = 1_556 * 2 * 2 * (silos.TRAINED + 2)
"""Bytes of a store for the counts of all moments, 16 bits for each kind, both ways."""
DISTILLED = ("distilled, panel", "distilled, drawn")


def table_of(parts: Sequence[dict], row: str, measure: str, mask: np.ndarray) -> np.ndarray:
    """(S, Q): a measure of the households that the mask takes and that have it.

    "both" is the mean of the two, or of the one that a household has.
    """
    asked = MEASURES if measure == "both" else (measure,)
    tables = [[part["rows"][row][one] for part in parts] for one in asked]
    table = pd.DataFrame(np.array(tables, float).reshape(len(asked), -1)).mean().to_numpy()
    table = table.reshape(len(parts), -1)[:, mask]
    return table[:, ~np.isnan(table[0])]


def interval(table: np.ndarray) -> dict:
    return metrics.two_way_bootstrap(table, resamples=RESAMPLES)


def difference(
    parts: Sequence[dict], pair: tuple[str, str], measure: str, mask: np.ndarray
) -> dict:
    row, other = (table_of(parts, name, measure, mask) for name in pair)
    found = interval(row - other)
    return {"difference": found.pop("value"), **found}


def ratio(parts: Sequence[dict], pair: tuple[str, str], measure: str, mask: np.ndarray) -> dict:
    both = np.stack([table_of(parts, name, measure, mask) for name in pair], axis=2)
    return metrics.two_way_bootstrap(both, lambda means: means[:, 0] / means[:, 1], RESAMPLES)


def compared(parts: Sequence[dict], pairs: Sequence, masks: Mapping[str, np.ndarray]) -> list[dict]:
    return [
        {"row": a, "against": b, "on": on, "measure": measure}
        | difference(parts, (a, b), measure, mask)
        for a, b in pairs
        for on, mask in masks.items()
        for measure in MEASURES
    ]


def rows_with_intervals(parts: Sequence[dict], masks: Mapping[str, np.ndarray]) -> dict:
    return {
        row: {on: {measure: interval(table_of(parts, row, measure, mask)) for measure in MEASURES}
              for on, mask in masks.items()}
        for row in parts[0]["rows"]
    }  # fmt: skip


def of_silos(parts: Sequence[dict]) -> dict:
    small = np.array(parts[0]["small"], bool)
    masks = {"smallest": small, "all": np.ones(len(small), bool)}
    curves = {
        name: [
            {"rounds": int(number), "bytes": one["bytes"]}
            | {measure: shared.over_seeds([part["curve"][name][number][measure] for part in parts])
               for measure in MEASURES}
            for number, one in points.items()
        ]
        for name, points in parts[0]["curve"].items()
    }  # fmt: skip
    return {
        "rows": rows_with_intervals(parts, masks),
        "comparisons": compared(parts, PAIRS, masks),
        "shares": [
            {"row": row, "against": "federated, own counts", "on": on, "measure": measure}
            | ratio(parts, (row, "federated, own counts"), measure, mask)
            for row in (*DISTILLED, "one round of averaging, own counts")
            for on, mask in masks.items()
            for measure in MEASURES
        ],
        "bytes": parts[0]["bytes"] | {"local, sums": SUMMED},
        "curve": curves,
        "seconds": {name: shared.over_seeds([part["seconds"][name] for part in parts])
                    for name in parts[0]["seconds"]},
    }  # fmt: skip


def of_adaptive(parts: Sequence[dict]) -> dict:
    names = np.array(parts[0]["store"])
    everyone = {"all": np.ones(len(names), bool)}
    pairs = [(row, "target alone") for row in parts[0]["rows"] if row != "target alone"]
    by_store = []
    for name in dict.fromkeys(names):
        own = {"store": names == name}
        weights = [part["weights"][name] for part in parts]
        found = {"store": str(name), "weights": weights}
        for row in ("gate", *dict.fromkeys(part["chosen"] for part in parts)):
            found[row] = {measure: difference(parts, (row, "target alone"), measure, own["store"])
                          for measure in (*MEASURES, "both")}  # fmt: skip
        by_store.append(found)
    return {
        "rows": rows_with_intervals(parts, everyone),
        "comparisons": compared(parts, pairs, everyone),
        "by_store": by_store,
        "chosen": [part["chosen"] for part in parts],
        "validation": {way: shared.over_seeds([part["validation"][way] for part in parts])
                       for way in WAYS},
        "bound": BOUND,
        "open": float(np.mean([one > 0 for part in parts for one in part["weights"].values()])),
    }  # fmt: skip


def of_rows(parts: Sequence[dict], pairs: Sequence[tuple[str, str]]) -> dict:
    count = len(next(iter(parts[0]["rows"].values()))["recall"])
    everyone = {"all": np.ones(count, bool)}
    return {
        "households": count,
        "rows": rows_with_intervals(parts, everyone),
        "comparisons": compared(parts, pairs, everyone),
    }


def of_join(parts: Sequence[dict]) -> dict:
    rows: dict = {row: np.array([part["rows"][row] for part in parts], object) for row in
                  parts[0]["rows"]}  # fmt: skip
    means = {row: [float(np.mean(one)) for one in values] for row, values in rows.items()}
    return {
        "rows": {row: shared.over_seeds(values) for row, values in means.items()},
        "minus": {other: shared.over_seeds(np.subtract(means["text, ridge"], means[other]).tolist())
                  for other in ("random", "nearest text", "what sells elsewhere")},
        "chosen": [part["chosen"] for part in parts],
    }  # fmt: skip


def of_categories(parts: Sequence[dict]) -> dict:
    found: dict = {"chosen": [part["chosen"] for part in parts]}
    for name in parts[0]["rows"]["alone"]:
        one, other = (np.array([part["rows"][row][name] for part in parts])
                      for row in ("maps shared", "alone"))  # fmt: skip
        span = interval(one - other)
        found[name] = {"alone": interval(other), "maps shared": interval(one),
                       "minus": {"difference": span.pop("value"), **span}}  # fmt: skip
    return found


def of_trouble(parts: Sequence[dict]) -> dict:
    return {
        "rounds": parts[0]["rounds"],
        "rows": {row: {measure: shared.over_seeds([part["rows"][row][measure] for part in parts])
                       for measure in MEASURES} for row in parts[0]["rows"]},
    }  # fmt: skip


def goals(data: dict) -> list[dict]:
    """What the chapter is asked to show, met or not."""

    def of(row: str, against: str, measure: str, part: str = "comparisons", on: str = "smallest"):
        return next(one for one in data["silos"][part]
                    if (one["row"], one["against"], one["on"], one["measure"])
                    == (row, against, on, measure))  # fmt: skip

    found = []
    for row, title in (("federated, own counts", "weights averaged"),
                       ("federated, sums", "weights averaged, sums of what sells"),
                       ("local, sums", "sums of what sells alone")):  # fmt: skip
        for measure, what in (("new_recall", "recall of new kinds"), ("recall", "recall")):
            name = f"Smallest stores, {what}: {title}, minus local training"
            found.append(shared.above(name, of(row, "local, own counts", measure)))
    sent = data["silos"]["bytes"]
    for row, title in zip(DISTILLED, ("the panel's", "drawn"), strict=True):
        for measure, what in (("new_recall", "recall of new kinds"), ("recall", "recall")):
            cost = sent[row] / sent["federated, own counts"]
            share = of(row, "federated, own counts", measure, "shares", "all")
            name = f"All stores, {what}: distilled from {title} histories, over weights averaged"
            wanted = f"at least 0.98, at most 1/10 of the bytes (used: {cost:.3f})"
            met = bool(share["value"] >= 0.98 and cost <= 0.1)
            found.append(report.goal(name, *shared.ends(share), wanted, met))
    worst = min(
        (one["gate"]["both"] for one in data["adaptive"]["by_store"]),
        key=lambda one: one["difference"],
    )
    name = "Adaptive gate, mean of both recalls: worst store minus target alone"
    met = bool(worst["difference"] >= -BOUND)
    found.append(report.goal(name, *shared.ends(worst), f"not below -{BOUND}", met))
    moved_ = next(one for one in data["moved"]["comparisons"]
                  if (one["row"], one["measure"]) == ("gate on both", "new_recall"))  # fmt: skip
    found.append(report.goal("Supermarkets to gifts, recall of new items: gate minus alone",
                             *shared.ends(moved_), f"not below -{BOUND}",
                             bool(moved_["difference"] >= -BOUND)))  # fmt: skip
    return found


def merge(folder: Path, out: Path) -> None:
    """Write the record from the files of all seeds."""
    seeds = shared.read(folder, ["profile"])
    common = shared.sizes(folder, "shop") | {
        name: shared.sizes(folder, name) for name in ("settings", "drift")
    }

    def parts(name: str) -> list[dict]:
        return [one[name] for one in seeds]

    flower = folder / "flower.json"
    data = {
        "stores": common["stores"],
        "settings": common["settings"],
        "silos": of_silos(parts("silos")),
        "trouble": of_trouble(parts("trouble")),
        "join": of_join(parts("join")),
        "adaptive": of_adaptive(parts("adaptive")),
        "countries": of_rows(parts("countries"), [("federated, own counts", "local, own counts"),
                                                  ("local, sums", "local, own counts")])
        | {"countries": seeds[0]["countries"]["countries"]},
        "categories": of_categories(parts("categories")),
        "moved": of_rows(parts("moved"), [(row, "alone") for row in
                                          ("taste", "both", "gate on both")])
        | {"weights": [part["weight"] for part in parts("moved")]},
        "drift": common["drift"],
        "cost": common["cost"],
        "flower": json.loads(flower.read_text("utf-8")) if flower.exists() else None,
    }  # fmt: skip
    numbers = [one["seed"] for one in seeds]
    report.write_recorded(
        out,
        command="python benchmarks/measure_federated.py --once, "
        f"--seeds {' '.join(map(str, numbers))}, --merge",
        seeds=numbers,
        hardware=common["hardware"],
        generator=None,
        data=data,
        goals=goals(data),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Shops that may not pool their data.")
    parser.add_argument("--once", action="store_true", help="settings, drift, and cost")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to measure, in turn")
    parser.add_argument("--merge", action="store_true", help="write the recorded result")
    out = shared.RECORDED / "federated.json"
    parser.add_argument("--out", type=Path, default=out, help="where --merge writes")
    arguments = parser.parse_args()
    if not (arguments.once or arguments.seeds or arguments.merge):
        parser.error("give --once, --seeds, --merge, or several of them")
    if arguments.once:
        once()
        also()
    for seed in arguments.seeds:
        shared.write(FOLDER, seed, measure(seed))
    if arguments.merge:
        merge(FOLDER, arguments.out)


if __name__ == "__main__":
    main()
