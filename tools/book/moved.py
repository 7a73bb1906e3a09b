"""The record `moved_pairs` on a page: the same product in two shops, and other languages."""

from __future__ import annotations

from book.goals import folded
from book.pages import table

SHOPS = {
    "abt_buy": "Abt, Buy",
    "amazon_google": "Amazon, Google",
    "walmart_amazon": "Walmart, Amazon",
}
"""The pairs of shops of the record, in words."""
SIGNALS = "logistic regression of signals"
MARKETS = {"us": "United States", "es": "Spanish", "jp": "Japanese"}
ROWS = {
    "random order": "random order",
    "untrained English bi-encoder": "English bi-encoder, untrained",
    "untrained bi-encoder": "multilingual bi-encoder, untrained",
    "from the United States": "head, American labels",
    "own half": "head, labels of the own half",
    "United States and own half": "head, pooled",
}
"""The rows of a language, in words."""
SMALL = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def interval(found: dict) -> str:
    """A value with its interval."""
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**found)


def gap(found: dict) -> str:
    """A difference with its interval."""
    return "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**found).replace("-", "−")


def counted(found: list[dict]) -> str:
    """How many differences are told from 0, as a sentence."""
    above = sum(one["low"] > 0 for one in found)
    below = sum(one["high"] < 0 for one in found)
    return (
        f"Of {SMALL[len(found)]} differences {SMALL[above]} can be told to be above 0, "
        f"{SMALL[below]} to be below, and {SMALL[len(found) - above - below]} to be neither."
    )


def met(record: dict, measure: str) -> str:
    """How many of the goals on a measure are met, as a sentence."""
    goals = [goal["met"] for goal in record["goals"] if goal["name"].startswith(measure)]
    return f"Goals met: {SMALL[sum(goals)]} of {SMALL[len(goals)]}."


def moves(data: dict) -> list[tuple[str, dict, str]]:
    """Each move: its name on the page, what is recorded of its target, and its rows' name."""
    return [
        (f"{SHOPS[source]} → {SHOPS[target]}", own, f"from {source}")
        for source in SHOPS
        for target, own in data["matching"].items()
        if source != target
    ]


def matching_part(record: dict) -> str:
    """What book/moved_pairs.md includes of two shops: with no label, with few, and decisions."""
    data = record["data"]
    few, given = data["few"], f"{data['given']:,}"
    free = {"TF-IDF": "TF-IDF", "untrained bi-encoder": "bi-encoder, untrained"}
    rows, minus, weights, tuned, more = {}, {}, {}, {}, {}
    none, some = [], []
    for name, own, moved in moves(data):
        values, told = own["rows"], own["minus"]
        kinds = [*free, f"{SIGNALS}, {moved}", moved]
        rows[name] = [interval(values[kind]) for kind in kinds]
        own_few, then = f"{SIGNALS}, {few}", f"{moved}, {few}"
        gaps = [told[f"{moved} − {kind}"] for kind in kinds[:-1]]
        none.append(gaps[-1])
        minus[name] = [gap(one) for one in gaps]
        weights[name] = [gap(told[f"{SIGNALS}, {moved} − {one}"]) for one in ("TF-IDF", own_few)]
        kinds = [own_few, f"alone, {few}", then, f"{SIGNALS} and {moved}, {few}"]
        tuned[name] = [interval(values[kind]) for kind in kinds]
        gaps = [told[f"{a} − {b}"] for a, b in ((then, kinds[1]), (then, own_few))]
        gaps.append(told[f"{kinds[-1]} − {own_few}"])
        some.append(gaps[1])
        more[name] = [gap(one) for one in gaps]
    targets = {
        SHOPS[target]: [
            interval(own["rows"]["random order"]),
            interval(own["rows"]["all own labels"]),
            gap(own["minus"][f"all own labels − {SIGNALS}, {few}"]),
        ]
        for target, own in data["matching"].items()
    }
    decided = {
        SHOPS[target]: [f"{own['f1'][source]:.2f}" for source in SHOPS]
        for target, own in data["matching"].items()
    }
    signals = "signals, weights moved"
    return "\n\n".join(
        [
            "**No label in the target.** Average precision:",
            table("move", [*free.values(), signals, "cross-encoder, moved"], rows),
            "The moved cross-encoder minus each of the others:",
            table("move", [f"− {head}" for head in (*free.values(), signals)], minus),
            f"The last column. {counted(none)} {met(record, 'average precision')}",
            "The signals with weights from elsewhere minus words alone, and minus the signals with "
            f"weights from {few} labelled pairs of the target:",
            table("move", ["− TF-IDF", f"− signals, {few}"], weights),
            f"**{few} labelled pairs in the target.** Average precision:",
            table("move", ["signals", "alone", "tuned", "signals and moved"], tuned),
            "Differences of these:",
            table(
                "move",
                ["tuned − alone", "tuned − signals", "signals and moved − signals"],
                more,
            ),
            f"The middle column. {counted(some)}",
            f"**{given} labelled pairs in the target.** Average precision of the cross-encoder, "
            f"and minus the signals with {few}:",
            table("target", ["random order", "cross-encoder", f"− signals, {few}"], targets),
            "**Yes or no.** F1 of each cross-encoder, with the threshold of the shops whose labels "
            "it has learnt from:",
            table("target", [f"from {name}" for name in SHOPS.values()], decided),
            f"{seeds(data, 'matching')} {asked(data)}",
            folded(record),
        ]
    )


def seeds(data: dict, kind: str) -> str:
    """How many seeds there are, as a sentence."""
    count = len(data["seeds"][kind])
    return f"Means over {SMALL[count]} seeds." if count > 1 else "One seed."


def asked(data: dict) -> str:
    """How many test pairs there are, and how many of them match, as a sentence."""
    told = [
        f"{own['pairs']:,} of {SHOPS[target]}, {100 * own['share']:.0f} % of them the same product"
        for target, own in data["matching"].items()
    ]
    return f"Test pairs: {'; '.join(told)}."


def languages_part(record: dict) -> str:
    """What book/moved_pairs.md includes of other languages: areas under the curve, differences."""
    data = record["data"]
    found = {MARKETS[name]: own for name, own in data["languages"].items()}
    rows = {
        name: [interval(own["rows"][row]) if row in own["rows"] else "" for own in found.values()]
        for row, name in ROWS.items()
    }
    abroad = {name: own["minus"] for name, own in found.items() if name != MARKETS["us"]}
    minus = {
        " − ".join(ROWS[row] for row in pair.split(" − ")): [
            gap(own[pair]) for own in abroad.values()
        ]
        for pair in next(iter(abroad.values()))
    }
    pairs = ", ".join(f"{name} {own['pairs']:,}" for name, own in found.items())
    return "\n\n".join(
        [
            table("area under the ROC curve", list(found), rows),
            table("difference", list(abroad), minus),
            f"Test pairs: {pairs}. {seeds(data, 'languages')} {met(record, 'area under ROC')}",
        ]
    )
