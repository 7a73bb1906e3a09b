"""What a shop should serve, in words, from the results of `ecomkd run`. Chapter 5."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from ecomkd.data.contract import LEAST_QUERIES
from ecomkd.relevance.tables import (
    DISTILLED,
    DISTILLED_SUM,
    PLAIN,
    PLAIN_SUM,
    SUM_OF,
    TEACHER,
    UNTRAINED,
    by_seed,
    difference,
    f1_difference,
    mean,
    query_keys,
    ranked,
)

BEATS, DOES_NOT_BEAT, CANNOT_BE_TOLD = "beats", "does not beat", "cannot be told"

LEAST_LIFT = 0.05
"""Of a teacher's lift below this no share is told: it would be a ratio of two small numbers."""

MARGIN = 0.005
"""The margin of relevance, in nDCG@10 and in macro-F1: half a point, as much as int8 may cost. What
is smaller nobody notices who searches."""

WORDS = (
    f"{BEATS}: the 95 % interval of the difference lies above 0 (superior). {DOES_NOT_BEAT}: its "
    f"upper end lies below {MARGIN}, the margin under which a gain is too small to matter (a "
    f"relevant superiority is ruled out). {CANNOT_BE_TOLD}: neither, for the interval is too wide, "
    f"or there are fewer than {LEAST_QUERIES} test queries."
)
"""What the three words of `comparisons` mean."""

_ROUNDING = 1e-9
_NO_INTERVAL = dict.fromkeys(("difference", "low", "high"), math.nan)


@dataclass(frozen=True)
class _Measure:
    """What a verdict goes by: a number for each system, and differences with an interval."""

    name: str
    queries: int
    value: Callable[[str], float]  # of which a student is to keep a share
    over: Callable[[str, str], dict]
    enough: float  # the share
    whole: str  # what it is a share of
    rival: str  # what needs no training, a row
    rival_name: str
    chance: str


def verdict(results: Sequence[dict]) -> str:
    """The advice in words, and why.

    It is to distil, to train the student on labels alone, to keep the teacher, or to stay with what
    needs no training. With fewer than LEAST_QUERIES test queries, or where a difference is the same
    on each of them or in each seed, it says that there is no verdict.

    What needs no training is the one of `UNTRAINED` that ranks best in the mean. Where most queries
    have a single candidate or none has a relevant one, the verdict goes by macro-F1, and what needs
    no training is the one with the highest.
    """
    by = _measure(results)
    if by.queries < LEAST_QUERIES:
        return (
            f"No verdict: there are {by.queries} test queries to go by, and intervals over fewer "
            f"than {LEAST_QUERIES} say little; judge more queries, and stay with what needs no "
            "training until then."
        )
    over = {name: by.over(name, by.rival) for name in (TEACHER, PLAIN, DISTILLED)}
    gain, above_chance = by.over(DISTILLED, PLAIN), by.over(TEACHER, "random")
    for name, found in over.items():
        if _without_width(found):
            return (
                f"No verdict: from {by.rival_name} the {name} differs by the same "
                f"{found['difference']:+.3f} {by.name} on every test query, or in every seed, so "
                "the interval has no width; look whether they are really different ones."
            )
    plain_is_close = above_chance["low"] <= 0 or _close(by, PLAIN)
    if over[PLAIN]["low"] > 0 and plain_is_close and gain["low"] <= 0:
        return (
            f"Train the small student on labels alone: it {_beside(by, PLAIN)} and stands "
            f"{_span(by, over[PLAIN])} from {by.rival_name}; what distillation adds to it does "
            f"not show ({_span(by, gain)})."
        )
    if above_chance["low"] <= 0:
        return (
            f"Stay with {by.rival_name}: the teacher's {by.name} is not clearly above that of "
            f"{by.chance} ({_span(by, above_chance)}); look at the labels before you train again."
        )
    if over[TEACHER]["low"] <= 0:
        return (
            f"Stay with {by.rival_name}: the teacher's {by.name} is not clearly above it "
            f"({_span(by, over[TEACHER])}).{_in_a_sum(by)}"
        )
    if over[DISTILLED]["low"] <= 0:
        return (
            f"Keep the teacher: it is above {by.rival_name}, and the student is not clearly so "
            f"({_span(by, over[DISTILLED])})."
        )
    if _close(by, DISTILLED):
        return (
            f"Distil: the student {_beside(by, DISTILLED)} and stands "
            f"{_span(by, over[DISTILLED])} from {by.rival_name}."
        )
    return (
        f"Keep the teacher: it is above {by.rival_name}, and the student "
        f"{_beside(by, DISTILLED, only='only ')}; more unlabelled pairs or more layers may change "
        "that."
    )


def _in_a_sum(by: _Measure) -> str:
    """A sentence on the cheapest model that beats the rival when words and bi-encoder are added."""
    named = {
        PLAIN: "the student of labels alone",
        DISTILLED: "the distilled student",
        TEACHER: "the teacher",
    }
    if by.over(DISTILLED_SUM, PLAIN_SUM)["low"] > 0:
        del named[PLAIN]
    for name, called in named.items():
        found = by.over(SUM_OF[name], by.rival)
        if found["low"] > 0:
            return (
                f" Added to words and bi-encoder, {called} is worth it: the sum stands "
                f"{_span(by, found)} from {by.rival_name}."
            )
    return ""


def comparisons(results: Sequence[dict]) -> pd.DataFrame:
    """The comparisons that decide, each with its interval and one of three words.

    The rows are the teacher, the distilled student and the undistilled one against the best that
    nobody trained, and the distilled against the undistilled, by the measure of the `verdict`.
    Where that is the order, the same follows for their sums with words and bi-encoder, and a last
    row has the two students' classes. The columns are `system`,
    `against`, `measure`, `difference`, `low`, `high` and `word`.

    The words are those of a test of superiority with a margin of relevance (Lakens 2017,
    doi:10.1177/1948550617697177): BEATS where the interval lies above 0, DOES_NOT_BEAT where its
    upper end is below MARGIN, so that a gain worth having is ruled out, and else CANNOT_BE_TOLD.
    An interval that excludes neither is no sign that two systems are alike. Where the `verdict`
    trusts no interval, for want of queries or of width, nothing can be told either.
    """
    by = _measure(results)
    asked = [(by, name, by.rival) for name in (TEACHER, DISTILLED, PLAIN)]
    asked.append((by, DISTILLED, PLAIN))
    if ranked(results):
        asked += [(by, SUM_OF[name], by.rival) for name in (TEACHER, DISTILLED, PLAIN)]
        asked.append((by, DISTILLED_SUM, PLAIN_SUM))
        asked.append((_classes(results), DISTILLED, PLAIN))
    rows = []
    for measure, name, other in asked:
        # A single query has no interval.
        found = measure.over(name, other) if measure.queries > 1 else _NO_INTERVAL
        rows.append(
            {
                "system": name,
                "against": measure.rival_name if other == measure.rival else other,
                "measure": measure.name,
                **found,
                "word": _word(measure, found),
            }
        )
    return pd.DataFrame(rows)


def _word(by: _Measure, found: dict) -> str:
    if by.queries < LEAST_QUERIES or _without_width(found):
        return CANNOT_BE_TOLD
    return word(found["low"], found["high"])


def word(low: float, high: float) -> str:
    """Which of the three words an interval of a difference says; see `comparisons`."""
    if low > 0:
        return BEATS
    return DOES_NOT_BEAT if high < MARGIN else CANNOT_BE_TOLD


def _without_width(found: dict) -> bool:
    """Whether the difference is the same on every query, and not 0."""
    return found["high"] - found["low"] < _ROUNDING < abs(found["difference"])


def _measure(results: Sequence[dict]) -> _Measure:
    return _order(results) if ranked(results) else _classes(results)


def _order(results: Sequence[dict]) -> _Measure:
    score = by_seed(results, [*SUM_OF, *SUM_OF.values(), *UNTRAINED])
    score["random"] = by_seed(results, [TEACHER], "random_ndcg@10")[TEACHER]
    means = score.groupby(level=1).mean()
    rival = means[list(UNTRAINED)].mean().idxmax()
    return _Measure(
        name="nDCG@10",
        queries=len(means),
        value=lambda name: mean(results, name, "ranking", "lift@10"),
        over=partial(difference, score),
        enough=0.9,
        whole="lift over a random order",
        rival=rival,
        rival_name=UNTRAINED[rival],
        chance="a random order",
    )


def _classes(results: Sequence[dict]) -> _Measure:
    rival = max(UNTRAINED, key=lambda name: mean(results, name, "classification", "macro_f1"))
    return _Measure(
        name="macro-F1",
        queries=len(
            {unit for result in results for unit in query_keys(result, result["query_id"])}
        ),
        value=lambda name: mean(results, name, "classification", "macro_f1"),
        over=partial(f1_difference, results),
        enough=0.95,
        whole="macro-F1",
        rival=rival,
        rival_name=UNTRAINED[rival],
        chance="guessing",
    )


def _close(by: _Measure, name: str) -> bool:
    return by.value(name) >= by.enough * by.value(TEACHER)


def _beside(by: _Measure, name: str, only: str = "") -> str:
    if by.value(TEACHER) >= LEAST_LIFT:
        return f"keeps {only}{by.value(name) / by.value(TEACHER):.0%} of the teacher's {by.whole}"
    return f"lies {by.over(name, TEACHER)['difference']:+.3f} {by.name} from the teacher"


def _span(by: _Measure, found: dict) -> str:
    low, high = found["low"], found["high"]
    return f"{found['difference']:+.3f} {by.name} (95 % interval {low:+.3f} to {high:+.3f})"
