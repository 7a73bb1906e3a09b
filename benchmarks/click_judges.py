"""Two rankers told apart by clicks: what interleaving and A/B say, and after how many searches.

What one search says is a few values with probabilities, so that experiments of any length are
drawn at once, as counts. For A/B these probabilities are exact; for interleaving lists are drafted
and clicked. Sizes: Q queries, V values. Chapter 19.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from ecomkd import metrics
from ecomkd.search import clicks

DEPTH = 10
"""Products on a page."""
DRAFTS, VISITS = 10, 40
"""Lists that are drafted for each query, and shoppers that see each."""
LOOK, LOOKS, TRIALS = 100, 100, 2_000
"""Searches between two looks at an experiment; looks; experiments."""
CREDITS = np.array([-1.0, 0.0, 1.0])
MEASURES = ("clicks", "any click", "first click")
"""What A/B compares: clicks of a search; whether there is one; 1 / rank of the first, or 0."""
INTERLEAVED = ("interleaving", "interleaving, shared head apart")
"""Team draft as it is, and where clicks on the products that both rank alike from the first place
on count for nobody: whose team they are in, only the coin decides."""
IDLE = (0.0, 0.5, 0.8)
"""Shares of shoppers who click nothing, whatever they see."""
ALPHA = 0.05


def drafted(
    attraction: np.ndarray, a: np.ndarray, b: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """How often each of CREDITS comes out of a search for each query, (Q, 3), by simulation.

    Args:
        attraction: (Q, K), of the candidates, 0 where there is none.
        a, b: (Q, K), the candidates' columns in the two orders, the best first.
    """
    found = {name: np.zeros((len(a), len(CREDITS))) for name in INTERLEAVED}
    for query, own in enumerate(attraction):
        size = min(DEPTH, int((own > 0).sum()))
        head = a[query][np.logical_and.accumulate(a[query] == b[query])]
        for _ in range(DRAFTS):
            shown, teams = clicks.team_draft(a[query][:size], b[query][:size], rng, size)
            seen = clicks.click(np.tile(own[shown], (VISITS, 1)), rng)
            for name, counted in zip(
                INTERLEAVED, (seen, seen & ~np.isin(shown, head)), strict=True
            ):
                credit = clicks.credit(counted, teams)
                found[name][query] += np.bincount(credit + 1, minlength=3)
    return {name: own / (DRAFTS * VISITS) for name, own in found.items()}


def said(attraction: np.ndarray, order: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each of MEASURES its values (V,) and their probabilities for each query (Q, V)."""
    shown = np.take_along_axis(attraction, order, axis=1)[:, :DEPTH]
    chance = shown * clicks.examined(shown.shape[1])
    none_before = np.cumprod(np.column_stack([np.ones(len(chance)), 1 - chance]), axis=1)
    first = np.column_stack([none_before[:, -1], chance * none_before[:, :-1]])
    count = np.ones((len(chance), 1))
    for column in chance.T[:, :, None]:
        count = np.pad(count * (1 - column), ((0, 0), (0, 1))) + np.pad(
            count * column, ((0, 0), (1, 0))
        )
    any_click = np.column_stack([first[:, 0], 1 - first[:, 0]])
    ranks = np.r_[0, 1 / np.arange(1, shown.shape[1] + 1)]
    return {
        "clicks": (np.arange(count.shape[1]), count),
        "any click": (np.array([0, 1]), any_click),
        "first click": (ranks, first),
    }


# How many searches --------------------------------------------------------------------------------


def moments(values: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """(Q, 3): the mean of each query, the mean square, and the square of the mean."""
    mean = chances @ values
    return np.column_stack([mean, chances @ values**2, mean**2])


def by_draft(means: np.ndarray, idle: float = 0.0) -> np.ndarray:
    """Searches that interleaving needs, (R,), from means of moments (R, 3).

    The share `idle` of shoppers clicks nothing.
    """
    mean, square = (1 - idle) * means[:, :2].T
    return needed(mean, square - mean**2)


def by_halves(means: np.ndarray, idle: float = 0.0) -> np.ndarray:
    """Searches of both halves of an A/B test together, from means of both rankers' moments."""
    mean, square = (1 - idle) * means[:, [0, 3]].T, (1 - idle) * means[:, [1, 4]].T
    return needed(mean[0] - mean[1], 2 * (square - mean**2).sum(axis=0))


def by_strata(means: np.ndarray) -> np.ndarray:
    """The same where the two are compared within each query, so that queries do not differ."""
    a, b = means[:, :3].T, means[:, 3:].T
    return needed(a[0] - b[0], 2 * (a[1] - a[2] + b[1] - b[2]))


def needed(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    pairs = zip(difference, np.sqrt(variance), strict=True)
    return np.array([clicks.searches_needed(*pair) for pair in pairs], float)


# Experiments --------------------------------------------------------------------------------------


def scores(values: np.ndarray, arms: list[np.ndarray], size: int, looks: int, rng) -> np.ndarray:
    """The z of TRIALS experiments at each of so many looks, (TRIALS, looks).

    Args:
        arms: one distribution (V,), whose mean is held against 0, or two, whose means are compared.
        size: searches between two looks, of all arms together.
    """
    mean, variance = 0.0, 0.0
    for sign, chances in zip((1, -1), arms, strict=False):
        counts = rng.multinomial(size // len(arms), chances, size=(TRIALS, looks)).cumsum(axis=1)
        searches = counts.sum(axis=2)
        own = counts @ values / searches
        mean = mean + sign * own
        variance = variance + (counts @ values**2 / searches - own**2) / searches
    return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0)


def limit(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2)


def false_alarms(values: np.ndarray, arms: list[np.ndarray], rng) -> dict[str, float]:
    """How often two equal rankers are told apart: at one look, at the end; at any of all looks, the
    first that says so; and at any of them where each may err less (Bonferroni)."""
    z = np.abs(scores(values, arms, LOOK, LOOKS, rng))
    return {
        "one look": float((z[:, -1] > limit(ALPHA)).mean()),
        "every look": float((z > limit(ALPHA)).any(axis=1).mean()),
        "every look, divided": float((z > limit(ALPHA / LOOKS)).any(axis=1).mean()),
    }


def right(values: np.ndarray, arms: list[np.ndarray], searches: float, rng) -> float:
    """How often the first ranker is named the better one after so many searches."""
    return float((scores(values, arms, int(searches), 1, rng) > limit(ALPHA)).mean())


# One pair of rankers ------------------------------------------------------------------------------


def pair(attraction: np.ndarray, a: np.ndarray, b: np.ndarray, rng) -> dict:
    """The moments of each query under each judge, and how often the right one is named."""
    told, distributions = {}, {}
    for name, chances in drafted(attraction, a, b, rng).items():
        told[name] = moments(CREDITS, chances)
        distributions[name] = CREDITS, [chances.mean(axis=0)]
    ours, theirs = said(attraction, a), said(attraction, b)
    for name in MEASURES:
        values = ours[name][0]
        both = [one[name][1] for one in (ours, theirs)]
        told[name] = np.column_stack([moments(values, own) for own in both])
        distributions[name] = values, [own.mean(axis=0) for own in both]
    power = {}
    for name, (values, arms) in distributions.items():
        how = by_draft if name in INTERLEAVED else by_halves
        searches = how(told[name].mean(axis=0)[None])[0]
        power[name] = right(values, arms, searches, rng) if searches < 1e12 else 0.0
    return {"moments": {name: own.round(7).tolist() for name, own in told.items()}, "right": power}


def same(attraction: np.ndarray, order: np.ndarray, rng) -> dict:
    """The false alarms of interleaving, and of A/B on the first click, of a ranker with itself."""
    credits_ = drafted(attraction, order, order, rng)["interleaving"].mean(axis=0)
    values, first = said(attraction, order)["first click"]
    return {
        # Whoever wins a search of two equal rankers was named by a coin.
        "interleaving": false_alarms(CREDITS, [(credits_ + credits_[::-1]) / 2], rng),
        "first click": false_alarms(values, [first.mean(axis=0)] * 2, rng),
    }


def needs(seeds: list[dict], resamples: int) -> dict:
    """How many searches each judge needs for one pair, over seeds and queries, and their quotients.

    `seeds` are what `pair` gives. A/B at its best is the measure that needs the fewest searches;
    `idle` has the quotient for each share of shoppers who click nothing.
    """
    every = {
        name: np.array([one["moments"][name] for one in seeds]) for name in seeds[0]["moments"]
    }
    means = {name: own.mean(axis=(0, 1)) for name, own in every.items()}

    def span(values: np.ndarray, how: Callable) -> dict:
        return metrics.two_way_bootstrap(values, how, resamples)

    def quotient(drafts: str, measure: str, idle: float = 0.0) -> dict:
        def how(found: np.ndarray) -> np.ndarray:
            return by_draft(found[:, :3], idle) / by_halves(found[:, 3:], idle)

        return span(np.concatenate([every[drafts], every[measure]], axis=2), how)

    searches = {name: span(every[name], by_draft) for name in INTERLEAVED}
    searches |= {name: span(every[name], by_halves) for name in MEASURES}
    alike = min(MEASURES, key=lambda name: by_strata(means[name][None])[0])
    best = min(MEASURES, key=lambda name: searches[name]["value"])
    drafts = min(INTERLEAVED, key=lambda name: searches[name]["value"])
    return {
        "searches": searches | {"query by query": span(every[alike], by_strata)},
        "best": {"A/B": best, "query by query": alike, "interleaving": drafts},
        "quotients": {name: quotient("interleaving", name) for name in MEASURES},
        "idle": {
            f"{share:g}": {
                "best": (
                    name := min(MEASURES, key=lambda one: by_halves(means[one][None], share)[0])
                ),
                "searches": {
                    "interleaving": float(by_draft(means["interleaving"][None], share)[0]),
                    "A/B": float(by_halves(means[name][None], share)[0]),
                },
                "quotient": quotient("interleaving", name, share),
            }
            for share in IDLE
        },
        "difference": {
            name: float(own[0] if name in INTERLEAVED else own[0] - own[3])
            for name, own in means.items()
        },
    }
