"""Records of lists with few labels on a page: on the ESCI lists further recipes of fine-tuning, a
base-size teacher, a bi-encoder that labels teach by contrast, and students of a sum that nobody
trained; on film queries rankings trained as rankings, and labels as weights of a sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from book.goals import folded, number
from book.pages import apart, ranked, recipes_reached, table
from ecomkd.relevance.tables import UNTRAINED_SUM

ALONE = "labels only"
STUDENTS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    UNTRAINED_SUM: "words and bi-encoder: the teacher",
    ALONE: "student, labels only",
    "the sum's answers too": "student, with answers for the labelled pairs",
    "the sum's answers, more pairs": "student, with answers for mined pairs too",
}
"""The rows of `sum_students`, in words."""
ENCODERS = {
    "bi-encoder, untrained": "bi-encoder, untrained",
    "bi-encoder, labels by contrast": "bi-encoder, taught by labels",
    UNTRAINED_SUM: "words and bi-encoder, untrained",
    "words + bi-encoder, labels by contrast": "words and bi-encoder, taught by labels",
}
"""The rows of `contrast_lists`, in words."""
BASES = {
    "bi-encoder, untrained": "MiniLM's bi-encoder",
    "base-size bi-encoder, untrained": "base-size bi-encoder",
    UNTRAINED_SUM: "words and MiniLM's bi-encoder",
    "words and base-size bi-encoder, added up": "words and base-size bi-encoder",
    "the warm start of base size, no label": "base-size warm start, no label",
    "base-size teacher": "base-size teacher",
    "base-size teacher, with words and bi-encoder": "words, MiniLM's bi-encoder, teacher",
    "base-size teacher, with words and base-size bi-encoder": (
        "words, base-size bi-encoder, teacher"
    ),
    "random": "random",
}
"""The rows of `base_lists`, in words."""
WEIGHED = {
    "random": "random",
    "words + untrained": "free sum (validation)",
    "words + untrained, weights from all labels": "free sum (all labels)",
    "teacher": "fine-tuned encoder, no words",
    "words + teacher": "words, fine-tuned encoder (validation)",
    "words + teacher, weights from all labels": "words, fine-tuned encoder (all labels)",
}
"""The rows of `sum_weights`, in words; in brackets, what chose the weights."""
AGAINST = {
    "minus bi-encoder": "bi-encoder, untrained",
    "minus warm start": "the warm start, no label",
    "minus the first recipe": "all layers, gently, head spread",
}
"""What all of `further_lists` are held against, by the heads of their columns."""


def students_part(record: dict) -> str:
    """What book/few_labels.md includes of `sum_students`: what each reaches, what is told from
    what, and what was tried, with what labels alone take in bold."""
    tried: dict[str, list[str]] = {}
    for runs in _folds(record):
        best = max(run["ndcg@10"] for run in runs if run["system"] == ALONE)
        for run in runs:
            held, name = number(run["ndcg@10"]), STUDENTS[run["system"]]
            if run["system"] == ALONE:
                name += ", rate × {rate:.2g}, steps × {steps:g}, dropout {dropout:g}".format(**run)
                held = f"**{held}**" if run["ndcg@10"] == best else held
            tried.setdefault(name, []).append(held)
    shown = {
        name: [ranked(row), number(row["lift@10"])] for name, row in _rows(record, STUDENTS).items()
    }
    reached = table("system", ["nDCG@10", "above a random order"], shown)
    return _part(record, STUDENTS, reached, tried)


def contrast_part(record: dict) -> str:
    """The same of `contrast_lists`, with what was kept in bold."""
    tried: dict[str, list[str]] = {}
    for looks in (fold["looks"] for fold in _folds(record)):
        kept = max(looks, key=lambda look: look["ndcg@10"])  # the first of equals
        place: Counter[float] = Counter()  # the same passes are other steps in each fold
        for look in looks:
            rate, held = look["learning_rate"], number(look["ndcg@10"])
            place[rate] += 1
            name = f"rate {rate:.0e}, pass {place[rate]}" if rate else "untrained"
            tried.setdefault(name, []).append(f"**{held}**" if look is kept else held)
    shown = {name: [ranked(row)] for name, row in _rows(record, ENCODERS).items()}
    return _part(record, ENCODERS, table("system", ["nDCG@10"], shown), tried)


def further_part(record: dict) -> str:
    """The same of `further_lists`: of each recipe, nDCG@10 on validation and the share of the sum's
    weights that its teacher has, with what was taken in bold."""
    folds, tried = _folds(record), {}
    for name in (name for name in folds[0] if name != "chosen"):
        tried[name] = []
        for fold in folds:
            own = fold[name]
            held = f"{number(own['validation ndcg@10'])} / {_share(own['weights'].values())}"
            tried[name].append(f"**{held}**" if fold["chosen"] == name else held)
    # Of those from random one table is enough: the first one has its row.
    shared = [*AGAINST.values(), "random"]
    told: dict[str, dict[str, str]] = {}
    others = {}
    for one in record["data"]["comparisons"]:
        told.setdefault(one["system"], {})[one["against"]] = apart(one)
        if one["against"] not in shared:
            others[f"{one['system']} − {one['against']}"] = [apart(one)]
    grid = {name: [own.get(of, "") for of in AGAINST.values()] for name, own in told.items()}
    differences = "\n\n".join(
        [
            table("nDCG@10", list(AGAINST), grid),
            table("compared", ["difference of nDCG@10"], others),
        ]
    )
    head = "nDCG@10 on validation / share of the sum's weights"
    return _joined(record, recipes_reached(record), differences, tried, head)


def losses_part(record: dict) -> str:
    """The same of `list_losses`: of each network and seed, the nDCG@10 on validation of the look
    that was kept, and its share of the weights."""
    tried: dict[str, list[str]] = {}
    for seed, folds in record["data"]["choices"].items():
        for name, of in ((name, of) for fold in folds for name, of in fold.items()):
            if looks := of.get("looks"):  # none of a sum that no network joins
                kept = max(look["ndcg@10"] for look in looks)
                row = tried.setdefault(f"{name}, seed {seed}", [])
                row.append(f"{number(kept)} / {_share(of['weights'].values())}")
    names = {name: name for name in record["data"]["rows"]}
    shown = {name: [ranked(row)] for name, row in record["data"]["rows"].items()}
    head = "nDCG@10 on validation / share of the sum's weights"
    return _part(record, names, table("system", ["nDCG@10"], shown), tried, head)


def films_part(record: dict) -> str:
    """The same of `film_lists`, with a column for each number of labelled queries: nDCG@10 on
    validation at each look, with what was kept in bold, and the network's share of the weights."""
    tried: dict[str, list[str]] = {}
    sizes = sorted({int(size) for own in record["data"]["choices"].values() for size in own})
    heads = [f"{size} queries" for size in sizes]
    for seed, own in record["data"]["choices"].items():
        for head, size in zip(heads, sizes, strict=True):
            for name, of in own[str(size)].items():
                looks = of.get("looks", [])  # none of a sum that no network joins
                kept = max(looks, key=lambda look: look["ndcg@10"], default=None)
                for look in looks:
                    held = number(look["ndcg@10"])
                    row = tried.setdefault(f"{name}, {head}, seed {seed}", [])
                    row.append(f"**{held}**" if look is kept else held)
                if looks:
                    row.append(_share(of["weights"].values()))
    reached, told, others = _by_size(record, heads)
    further = table("compared", ["difference of nDCG@10"], others)
    columns = [f"look {place}" for place in range(1, len(next(iter(tried.values()))))]
    columns.append("share of the sum's weights")
    head = "nDCG@10 on validation"
    return _joined(record, reached, f"{told}\n\n{further}", tried, head, columns)


def weights_part(record: dict) -> str:
    """The same of `sum_weights`, with a column for each encoder and number of labelled queries:
    what validation said of each rate, with what was kept in bold, and the encoder's share of the
    weights."""
    choices = record["data"]["choices"]
    # Of each encoder the fewest queries first.
    heads = list(next(iter(choices.values())))
    heads.sort(key=lambda head: (head.startswith("base"), int(head.split()[-2])))
    reached, told, _ = _by_size(record, heads, WEIGHED)
    tried: dict[str, list[str]] = {}
    for head in heads:
        for own in (seed[head] for seed in choices.values()):
            for rate, held in own["tried"].items():
                shown = f"**{number(held)}**" if float(rate) == own["rate"] else number(held)
                tried.setdefault(f"{head}: rate {float(rate):.0e}", []).append(shown)
            for name, weights in own["weights"].items():
                row = f"{head}: encoder's share of the weights, {WEIGHED[name]}"
                tried.setdefault(row, []).append(_share(weights))
    columns = [f"seed {seed}" for seed in choices]
    return _joined(record, reached, told, tried, "nDCG@10 on validation", columns)


def _by_size(
    record: dict, heads: Sequence[str], names: Mapping[str, str] | None = None
) -> tuple[str, str, dict[str, list[str]]]:
    """What is reached and what is told from what, a column for each number of labelled queries, and
    the differences between two numbers. Systems are called by `names`, or as in the record."""
    reached: dict[str, dict[str, str]] = {}
    told: dict[str, dict[str, str]] = {}
    others = {}

    def sized(name: str) -> tuple[str, str | None]:
        """A row's system and its number of labelled queries, as a column is headed."""
        size = next((head for head in heads if name.endswith(f", {head}")), None)
        system = name.removesuffix(f", {size}")
        return (names[system] if names else system), size

    for name, row in record["data"]["rows"].items():
        system, size = sized(name)
        for head in [size] if size else heads:
            reached.setdefault(system, {})[head] = ranked(row)
    for one in record["data"]["comparisons"]:
        (system, size), (against, of) = (sized(one[key]) for key in ("system", "against"))
        if size and of in (None, size):
            told.setdefault(f"{system} − {against}", {})[size] = apart(one)
        else:
            others[f"{one['system']} − {one['against']}"] = [apart(one)]
    if names:
        reached = {name: reached[name] for name in names.values()}
    grids = [
        table(head, heads, {name: [own[size] for size in heads] for name, own in grid.items()})
        for head, grid in (("nDCG@10", reached), ("difference of nDCG@10", told))
    ]
    return grids[0], grids[1], others


def _share(weights: Iterable[float]) -> str:
    """The teacher's share of the weights of a sum, in which it stands last."""
    every = list(weights)
    return f"{100 * every[-1] / sum(every):.0f} %"


def base_part(record: dict) -> str:
    """The same of `base_lists`: nDCG@10 / macro-F1 at each look, with what was kept in bold, and
    the teacher's share of the weights in either sum."""
    tried: dict[str, list[str]] = {}
    for looks in (fold["looks"] for fold in _folds(record)):
        kept = max(looks, key=lambda look: look["ndcg@10"] + look["macro_f1"])
        for place, look in enumerate(looks, 1):
            held = f"{number(look['ndcg@10'])} / {number(look['macro_f1'])}"
            tried.setdefault(f"look {place}", []).append(f"**{held}**" if look is kept else held)
    for added in (name for name in BASES if name.startswith("base-size teacher, with")):
        shares = [_share(fold["weights"][added].values()) for fold in _folds(record)]
        tried[f"teacher's share of the weights: {BASES[added]}"] = shares
    shown = {name: [ranked(row)] for name, row in _rows(record, BASES).items()}
    head = "nDCG@10 / macro-F1 on validation"
    return _part(record, BASES, table("system", ["nDCG@10"], shown), tried, head)


def _folds(record: dict) -> list:
    """What was chosen in each fold of each seed."""
    return [fold for own in record["data"]["choices"].values() for fold in own]


def _rows(record: dict, names: Mapping[str, str]) -> dict[str, dict]:
    return {name: record["data"]["rows"][system] for system, name in names.items()}


def _part(
    record: dict,
    names: Mapping[str, str],
    reached: str,
    tried: dict[str, list[str]],
    head: str = "nDCG@10 on validation",
) -> str:
    """The table of what is reached, that of differences, and what was tried, folded."""
    told = {
        f"{names[one['system']]} − {names[one['against']]}": [apart(one)]
        for one in record["data"]["comparisons"]
    }
    differences = table("compared", ["difference of nDCG@10"], told)
    return _joined(record, reached, differences, tried, head)


def _joined(
    record: dict,
    reached: str,
    differences: str,
    tried: dict[str, list[str]],
    head: str,
    columns: Sequence[str] = (),
) -> str:
    """All of it; `tried` has a column for each fold where no others are named."""
    folds = [f"fold {place}" for place in range(1, len(next(iter(tried.values()))) + 1)]
    choices = table(head, columns or folds, tried)
    title = "What was tried, and what validation said"
    parts = [reached, differences, f":::{{dropdown}} {title}\n{choices}\n:::", folded(record)]
    return "\n\n".join(parts) + "\n"
