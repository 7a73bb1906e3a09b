"""What to recommend from somebody's own purchases: `ecomkd recommend`, from file to verdict.

Chapter 10.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from ecomkd import bench, features, metrics, outputs, report
from ecomkd.artifacts import write_text
from ecomkd.config import Profile
from ecomkd.data import purchases
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.data.contract import DataError, named
from ecomkd.recommend import answers
from ecomkd.recommend.answers import AGAIN, NEAR, POPULAR, STUDENT
from ecomkd.recommend.evaluation import Ranker, evaluate, rank_by
from ecomkd.recommend.live import initial_state
from ecomkd.recommend.networks import (
    BasketCollator,
    BasketTransformer,
    DecayedMeans,
    Items,
    Shelf,
    load,
    network,
)
from ecomkd.recommend.purchases import BUYERS, buyers_of, history, targets, texts
from ecomkd.recommend.rankers import buy_again, popular, user_knn
from ecomkd.recommend.training import FIRST, known_futures, train
from ecomkd.recommend.tuning import GOALS, old_or_not, shown, tuned, tuned_prior
from ecomkd.relevance.page import page

TEACHER, ALONE = "teacher", "student alone"
LEAST_USERS = 20
"""With fewer users to go by there is no verdict: an interval over so few says little."""
LEAST_DAYS = 3 * HORIZON
"""Days to learn from, to choose settings on and to test on, as many of each."""
NETWORK_DAYS = FIRST + 4 * HORIZON
"""Days below which no network is trained: it needs some weeks to foresee."""
_HELD = 0.8
_WINDOWS, _SCALES = (7, 14, 28, 56, 112), (14.0, 28.0, 56.0, 112.0, 224.0, 448.0)
RANKERS: dict[str, tuple[Callable[..., Ranker], dict]] = {
    POPULAR: (popular, {"window": _WINDOWS}),
    AGAIN: (buy_again, {"scale": (*_SCALES, None), "window": _WINDOWS}),
    NEAR: (
        user_knn,
        {
            "neighbours": (25, 50, 100, 200, 400, 800),
            "scale": (*_SCALES, 1e4),
            "window": _WINDOWS,
            "share": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        },
    ),
}
"""Rankers without a network, the simplest first, and the settings that are tried."""


def run(path: str | Path, profile: Profile, seeds: Sequence[int], out: Path, command: str) -> str:
    """Everything on one shop's purchases, over several seeds; returns the verdict.

    The rankers of `RANKERS` and, where the items have texts, a distilled student with its teacher
    and its undistilled twin foresee the last four weeks. Settings are chosen on the four weeks
    before. Into `out` go a report and the recommender that the verdict names, fitted to all days,
    from which `ecomkd serve` answers. Both students are measured as they are served, with the prior
    that the validation days choose for newcomers. Networks that an earlier, killed run finished are
    not trained again.

    Raises OSError before any work where `out` holds something that the program did not write or
    cannot be written to, and DataError for purchases that cannot be read, or too few of them.
    """
    out = outputs.claim(out, answers.KIND)
    baskets, has_texts = purchases.load(path)
    notes = _cautions(baskets, has_texts)
    for sentence in notes:
        warnings.warn(sentence, stacklevel=2)
    rows: dict[str, dict] = {}
    settings: dict[str, dict] = {}
    for name, (make, grid) in RANKERS.items():
        make = partial(old_or_not, make)
        settings[name], _ = tuned(make, {**grid, "old": (True, False)}, baskets)
        pair = {goal: make(baskets, baskets.test_start, **settings[name][goal]) for goal in GOALS}
        rows[name] = _row([pair] * len(seeds), baskets)
    old = settings[NEAR]["recall"]["old"]
    found: list[dict[str, Shelf]] = []
    if _networks_can_learn(baskets, has_texts):
        found = [_networks(baskets, replace(profile, seed=seed)) for seed in seeds]
        prior, tried = _prior(found[0][STUDENT])
        settings[STUDENT] = {goal: {"old": old, "prior": prior} for goal in GOALS}
        settings[STUDENT]["tried"] = {f"{one:g}": value for one, value in tried.items()}
        notes.append(_of_newcomers(prior, tried))
        for name in (ALONE, STUDENT, TEACHER):
            make = network if name == TEACHER else partial(_as_served, prior=prior)
            rankers = [shown(make(one[name]), old) for one in found]
            rows[name] = _row([dict.fromkeys(GOALS, rank) for rank in rankers], baskets)
    compared = comparisons(rows)
    chosen, said = verdict(rows, compared)
    live = None
    if chosen == STUDENT:
        model = found[0][STUDENT].model
        live = initial_state(Shelf(model, BasketCollator(baskets), baskets.days), prior=prior)
    with outputs.replaced(out, answers.KIND) as working:
        _write_report(working, path, baskets, rows, settings, compared, said, notes, command, seeds)
        answers.write(working, chosen, baskets, settings[chosen]["recall"], live)
    return said


def _cautions(baskets: Baskets, has_texts: bool) -> list[str]:
    """What a report on these purchases cannot say. Raises DataError where there is none to give."""
    if baskets.days < LEAST_DAYS:
        raise DataError(
            f"the purchases span {baskets.days} days; give at least {LEAST_DAYS}: the last "
            f"{HORIZON} are foreseen, and the {HORIZON} before them choose settings."
        )
    for start, when in (
        (baskets.validation_start, "choose settings"),
        (baskets.test_start, "test"),
    ):
        asked = _who_can_be_asked(baskets, start)
        if not asked:
            raise DataError(
                f"nobody who bought before day {start} buys in the {HORIZON} days after it, which "
                f"{when}: give purchases of people who come back, or take out a stray late date."
            )
    notes = []
    if asked < LEAST_USERS:
        notes.append(
            f"Only {asked} users buy before the test days and in them: the report gives no verdict "
            f"on fewer than {LEAST_USERS}; give more purchases."
        )
    if not has_texts:
        notes.append(
            "The items have no texts, and the networks read texts: none was trained; add a column "
            "text."
        )
    elif baskets.days < NETWORK_DAYS:
        notes.append(
            f"The purchases span {baskets.days} days, and networks are trained from "
            f"{NETWORK_DAYS} days on: none was."
        )
    elif not _has_occasions(baskets):
        notes.append(
            f"Nobody buys both before and after any of the days from {FIRST} on that networks "
            "could learn from, so none was trained: look for a stray early date."
        )
    return notes


def _who_can_be_asked(baskets: Baskets, start: int) -> int:
    known = np.diff(history(baskets, start).indptr) > 0
    return sum(known[user] for user in targets(baskets, start))


def _networks_can_learn(baskets: Baskets, has_texts: bool) -> bool:
    return has_texts and baskets.days >= NETWORK_DAYS and _has_occasions(baskets)


def _has_occasions(baskets: Baskets) -> bool:
    """Whether somebody buys before and after one of the days that networks learn from.

    Where a single early order makes a young shop's span long enough, nobody does.
    """
    return any(len(users) for _, users in known_futures(baskets, FIRST, baskets.validation_start))


def _least_buyers(baskets: Baskets) -> int:
    """How many buyers an item needs for the networks to learn of it.

    It is `BUYERS`; where items with so many hold too few of the purchases, it is one.
    """
    buyers = buyers_of(history(baskets, baskets.validation_start))
    bought = baskets.between(0, baskets.validation_start)["item"]
    return BUYERS if (buyers[bought] >= BUYERS).mean() >= _HELD else 1


def _networks(baskets: Baskets, profile: Profile) -> dict[str, Shelf]:
    """Teacher, distilled student and its undistilled twin of one seed, on the first test day."""
    vectors = features.last_layer(texts(baskets)[0], profile)
    items = Items(baskets, vectors, FIRST, 64, profile)
    fitted = {"items": items, "start": baskets.validation_start, "profile": profile}
    fitted["buyers"] = _least_buyers(baskets)
    teacher = train(BasketTransformer, **fitted)
    folders = {
        TEACHER: (BasketTransformer, teacher),
        STUDENT: (DecayedMeans, train(DecayedMeans, **fitted, teacher=teacher)),
        ALONE: (DecayedMeans, train(DecayedMeans, **fitted)),
    }
    collator = BasketCollator(baskets)
    return {
        name: Shelf(load(folder, kind, items), collator, baskets.test_start)
        for name, (kind, folder) in folders.items()
    }


def _prior(shelf: Shelf) -> tuple[float, dict[float, float]]:
    """What `tuned_prior` finds for the student of this shelf."""
    day = shelf.model.items.baskets.validation_start
    return tuned_prior(Shelf(shelf.model, shelf.collator, day), LEAST_USERS)


def _of_newcomers(prior: float, tried: Mapping[float, float]) -> str:
    said = (
        "Of users with few purchases a network knows little: the scores of both students are mixed "
        f"with what sells, as much as if it were {prior:g} purchases of each user (prior {prior:g})"
    )
    if not tried:
        return (
            f"{said}. This is the default, for fewer than {LEAST_USERS} users bought in the four "
            "weeks that choose settings."
        )
    values = ", ".join(f"{one:g}: {value:.4f}" for one, value in sorted(tried.items()))
    return (
        f"{said}. It was chosen by recall@10 of users who were taken for newcomers, on their first "
        f"two days of the four weeks that choose settings ({values})."
    )


def _as_served(shelf: Shelf, prior: float) -> Ranker:
    """The ranker of a student's state with this prior, the one that a folder answers from."""
    live = initial_state(shelf, prior=prior)

    def scores(users: np.ndarray) -> np.ndarray:
        return np.stack([live.scores(user, shelf.day).copy() for user in users.tolist()])

    return rank_by(scores, history(shelf.collator.baskets, shelf.day))


def _row(of_seeds: Sequence[Mapping[str, Ranker]], baskets: Baskets) -> dict:
    """Recall@10 of each seed and user, (S, U), NaN for a user without a target, and the median wait
    of single users, by rankers for all items and for new ones."""
    ranks = {own[goal] for own in of_seeds for goal in GOALS}
    known = {rank: evaluate(rank, baskets, baskets.test_start)["per_user"] for rank in ranks}
    found = {goal: np.array([known[own[goal]][goal] for own in of_seeds]) for goal in GOALS}
    rank = of_seeds[0]["recall"]
    asked = [np.array([user]) for user in known[rank].index[:50]]
    clock = bench.latency(partial(_ask, rank), asked, repeats=1, threads=1, device="cpu")
    return {**found, "p50_ms": clock["p50_ms"]}


def _ask(rank: Ranker, user: np.ndarray) -> np.ndarray:
    return rank(user, False)


def comparisons(rows: Mapping[str, Mapping]) -> pd.DataFrame:
    """Each row against the simpler ones that it has to beat, with 95 % intervals over seeds and
    users: `system`, `against`, `measure`, `difference`, `low`, `high`."""
    simple = [name for name in (POPULAR, AGAIN, NEAR, STUDENT) if name in rows]
    pairs = [(one, other) for at, one in enumerate(simple) for other in simple[:at]]
    if STUDENT in rows:
        pairs += [(STUDENT, ALONE), (STUDENT, TEACHER)]
    found = []
    for goal, measure in zip(GOALS, ("recall@10", "recall@10, new items"), strict=True):
        for one, other in pairs:
            span = _over_both(rows[one][goal] - rows[other][goal])
            named = {"system": one, "against": other, "measure": measure}
            ends = {"difference": span["value"], "low": span["low"], "high": span["high"]}
            found.append(named | ends)
    return pd.DataFrame(found)


def _over_both(values: np.ndarray) -> dict[str, float]:
    """The mean of (S, U) with its interval, of the users who have a value."""
    values = values[:, ~np.isnan(values).any(axis=0)]
    if values.shape[1] < 2:
        return {"value": float(values.mean()) if values.size else np.nan, "low": np.nan,
                "high": np.nan}  # fmt: skip
    return metrics.two_way_bootstrap(values, resamples=2_000)


def verdict(rows: Mapping[str, Mapping], compared: pd.DataFrame) -> tuple[str, str]:
    """What to serve, and why in words.

    It is the simplest ranking that no other one beats: a next one takes its place where the whole
    interval of its difference in recall@10 lies above 0. With fewer than `LEAST_USERS` users it is
    what sells, and there is no verdict.
    """
    users = rows[POPULAR]["recall"].shape[1]
    if users < LEAST_USERS:
        return POPULAR, (
            f"No verdict: {users} users can be asked, and intervals over fewer than {LEAST_USERS} "
            "say little; what sells is served until there are more."
        )
    table = compared.set_index(["measure", "system", "against"])
    chosen = POPULAR
    for name in (AGAIN, NEAR, STUDENT):
        if name in rows and table.loc[("recall@10", name, chosen), "low"] > 0:
            chosen = name
    said = f"Serve {_CALLED[chosen]}: recall@10 is {np.nanmean(rows[chosen]['recall']):.3f}"
    if chosen != POPULAR:
        over = table.loc[("recall@10", chosen, POPULAR)]
        said += f", {_span(over)} above what sells"
    said += "."
    for name in (AGAIN, NEAR, STUDENT):
        if name in rows and _simpler(chosen, name):
            over = table.loc[("recall@10", name, chosen)]
            said += f" {_CALLED[name].capitalize()} cannot be told to be better ({_span(over)})."
    fresh = {name: np.nanmean(rows[name]["new_recall"]) for name in _CALLED if name in rows}
    best = max(fresh, key=fresh.get)
    if best not in (POPULAR, chosen):
        over = table.loc[("recall@10, new items", best, POPULAR)]
        said += (
            f" Of what is new to a user {_CALLED[best]} would find most, {fresh[best]:.3f} "
            f"({_span(over)} against what sells)."
        )
    return chosen, said


_CALLED = {
    POPULAR: "what sells, the same for all",
    AGAIN: "what each user bought before, often and lately",
    NEAR: "what users alike bought lately",
    STUDENT: "the distilled student",
}


def _simpler(one: str, other: str) -> bool:
    order = list(_CALLED)
    return order.index(one) < order.index(other)


def _span(row: pd.Series) -> str:
    return f"{row['difference']:+.4f}, 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"


def _write_report(
    folder: Path,
    path: str | Path,
    baskets: Baskets,
    rows: Mapping[str, Mapping],
    settings: Mapping[str, dict],
    compared: pd.DataFrame,
    said: str,
    notes: Sequence[str],
    command: str,
    seeds: Sequence[int],
) -> None:
    table = pd.DataFrame(
        {
            name: {
                "recall@10": np.nanmean(row["recall"]),
                "recall@10, new items": np.nanmean(row["new_recall"]),
                "answer, median ms": row["p50_ms"],
            }
            for name, row in rows.items()
        }
    ).T
    counts = {
        "users": len(baskets.users),
        "items": len(baskets.items),
        "purchases": len(baskets.events),
        "days": baskets.days,
        "left out": baskets.left_out,
    }
    report.write_recorded(
        folder / "report.json",
        command=command,
        seeds=seeds,
        hardware=bench.hardware(),
        generator=None,
        data={
            "source": named(path),
            "counts": counts,
            "rows": json.loads(table.to_json(orient="index")),
            "settings": settings,
            "comparisons": compared.to_dict("records"),
            "notes": list(notes),
            "verdict": said,
        },
        goals=[],
    )
    parts = [
        f"<p><strong>{escape(said)}</strong></p>",
        *(f"<p>{escape(sentence)}</p>" for sentence in notes),
        "<h2>The last four weeks, foreseen</h2>",
        table.to_html(float_format="{:.4f}".format, border=0),
        "<h2>What beats what</h2>",
        compared.to_html(
            float_format="{:+.4f}".format, na_rep="", border=0, index=False, classes="compared"
        ),
        "<p>Recall@10 is the share of what a user bought in these weeks that is among the ten "
        "items shown. Whether items that the user has bought before are shown again, and all other "
        "settings, were chosen on the four weeks before; once more for new items, where they never "
        "are. Intervals are over seeds and users together.</p>",
        f"<p>{counts['purchases']:,} purchases of {counts['items']:,} items by {counts['users']:,} "
        f"users in {counts['days']} days. Made by <code>{escape(command)}</code>.</p>",
    ]
    write_text(folder / "report.html", page("Recommendation report", parts))
