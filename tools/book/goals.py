"""The page of measured results: which goals are met, how far from each goal, and where from."""

from __future__ import annotations

import re
from fractions import Fraction
from html import escape
from typing import NamedTuple

from ecomkd import report


class Source(NamedTuple):
    """A recorded result: its title, and the page that tells of it."""

    record: str
    title: str
    page: str


SOURCES = (
    Source("pretraining", "Pretraining and warm-up, apart", "notebooks/02_teacher"),
    Source("learning_curve", "What pretraining is worth by labels", "notebooks/02_teacher"),
    Source("new_head", "How a new head begins", "notebooks/02_teacher"),
    Source("kd_throughput", "Speed of training, against other packages", "notebooks/04_student"),
    Source("labels_only", "Distillation, each side with its own settings", "notebooks/04_student"),
    Source("freed_teacher", "Students of a teacher without frozen weights", "notebooks/04_student"),
    Source("alpha", "Larger weights of the teacher, and temperatures", "notebooks/04_student"),
    Source("unseen_validation", "Validation with unseen words of its own", "notebooks/04_student"),
    Source("shop_log", "Five times the pairs, in simulated shops", "book/more_pairs"),
    Source("shop_pairs", "From 2,000 pairs to 200,000, in simulated shops", "book/more_pairs"),
    Source("longer_pairs", "Pairs of 72 tokens, each side with its settings", "book/more_pairs"),
    Source(
        "core_shop",
        "Distillation, on the simulated shop, with shared settings",
        "notebooks/05_evaluation",
    ),
    Source(
        "core_icecat", "Distillation, on Icecat, with shared settings", "notebooks/05_evaluation"
    ),
    Source(
        "core_esci_150", "Distillation, on the ESCI lists, with shared settings", "book/few_labels"
    ),
    Source("whole_lists", "Recipes of fine-tuning, on the ESCI lists", "book/few_labels"),
    Source("further_lists", "Further recipes, on the ESCI lists", "book/few_labels"),
    Source("list_losses", "Two losses with new seeds, on the ESCI lists", "book/few_labels"),
    Source("film_lists", "Rankings as rankings, on film queries", "book/few_labels"),
    Source("base_lists", "A base-size teacher, on the ESCI lists", "book/few_labels"),
    Source("contrast_lists", "A bi-encoder taught by labels, on the ESCI lists", "book/few_labels"),
    Source("sum_students", "Students of a free sum, on the ESCI lists", "book/few_labels"),
    Source("whole_lists_icecat", "Recipes of fine-tuning, on Icecat's lists", "book/few_labels"),
    Source(
        "core_esci_sample",
        "Distillation, on the ESCI sample, with shared settings",
        "notebooks/05_evaluation",
    ),
    Source("search_shop", "Search over the simulated shop", "notebooks/08_search"),
    Source("search_controls", "What a first stage learns from", "notebooks/08_search"),
    Source("letters", "N-grams of letters, beside words", "notebooks/08_search"),
    Source("search_icecat", "Search over Icecat", "notebooks/08_search"),
    Source("search_page", "Search in the page", "notebooks/08_search"),
    Source("serving_load", "Serving under load", "notebooks/09_serving"),
    Source(
        "frontier", "A base-size teacher and its students, on film queries", "book/film_queries"
    ),
    Source("free_teacher", "Teachers that nobody fine-tuned, on film queries", "book/film_queries"),
    Source("teacher_sizes", "Teachers of two sizes, on film queries", "book/film_queries"),
    Source("sum_weights", "Labels as weights of a sum, on film queries", "book/film_queries"),
    Source("query_side", "Query encoders, on real film queries", "book/film_queries"),
    Source("trees", "Trees that read a teacher, on film queries", "book/film_queries"),
    Source("recommendation", "The next basket", "notebooks/10_recommendation"),
    Source("cold_items", "Items that nobody has bought", "book/cold_items"),
    Source("trial", "A trial, and lists with two aims", "book/trial"),
    Source("profiles", "Guesses about households", "notebooks/11_user_profiles"),
    Source("cards", "Profile cards, and searches with a profile", "notebooks/11_user_profiles"),
    Source("descriptions", "Written descriptions", "notebooks/12_descriptions"),
    Source("writers", "Ways to a student that writes", "notebooks/12_descriptions"),
    Source("checker", "Checkers, on sentences that were read", "notebooks/12_descriptions"),
    Source("cross_platform", "From one shop to another", "notebooks/13_cross_platform"),
    Source("cross_parts", "Parts that move to another shop", "notebooks/13_cross_platform"),
    Source("moved_sum", "A teacher from elsewhere in a sum", "notebooks/13_cross_platform"),
    Source("moved_pairs", "Pairs that move to another shop or language", "book/moved_pairs"),
    Source("real_time", "A student that learns while the shop is open", "notebooks/14_real_time"),
    Source("sessions", "Sessions of clicks, simulated", "notebooks/14_real_time"),
    Source("multimodal", "Text and picture", "notebooks/15_multimodal"),
    Source("privacy", "What recommenders give away", "notebooks/16_privacy"),
    Source("explanations", "Why this product", "notebooks/17_explanations"),
    Source("federated", "Shops that keep their data", "notebooks/18_federated_adaptive"),
    Source("scoring_scale", "Scores of many pairs", "notebooks/19_growing"),
    Source("training_scale", "Training in several processes", "notebooks/19_growing"),
    Source("engine_scale", "A million products in one folder", "notebooks/19_growing"),
    Source("engines", "Catalogues in LanceDB and in PostgreSQL", "notebooks/19_growing"),
    Source("sparse_student", "A sparse student of the search", "notebooks/19_growing"),
    Source("clicks", "Clicks as labels and as judges", "notebooks/19_growing"),
    Source("recorded_models", "Recorded models, beside other seeds", "book/running"),
    Source("shop_scale", "The simulated shop, up to a million products", "book/data_shop"),
    Source("run_times", "Run times", "book/run_times"),
)
"""In the order of the chapters; records without a goal are not among them."""

WIDTH, MIDDLE = 100.0, 50.0
"""The plot of a goal, in its own units: the goal stands in the middle."""


def results_page(found: dict[str, dict]) -> str:
    """Every goal of every recorded result, met or not. Exits where a record has no title."""
    with_goals = {name: record for name, record in found.items() if record.get("goals")}
    if unnamed := with_goals.keys() - {source.record for source in SOURCES}:
        raise SystemExit(f"tools/book/goals.py has no title for {', '.join(sorted(unnamed))}.")
    if not with_goals:
        return "# Measured results\n\nNo result is recorded yet.\n"
    sources = [source for source in SOURCES if source.record in with_goals]
    goals = [goal for record in with_goals.values() for goal in record["goals"]]
    met = sum(goal["met"] for goal in goals)
    parts = [
        "# Measured results",
        f"**{met} of {len(goals)} goals are met.** A goal was set before the run that it is about, "
        "unless its name says otherwise. Over what its interval is taken was mended later for "
        "some. One that was missed is shown as missed.",
        overall(sources, with_goals),
        "Each table comes from one recorded run that ships with the package, under "
        "`ecomkd/recorded/`. A range in brackets is a 95\u00a0% interval, unless the goal says "
        "otherwise; of rates and waits that were taken in rounds it is the lowest and the highest "
        "round, and of the calibration error of profiles the lowest and the highest seed. "
        "Intervals of descriptions and of writers are over products alone and know nothing of "
        "another training. Where a result comes from the simulated shop, the shop's hash is given: "
        "it is not a result on real traffic. Where a command has commas, they part several calls: "
        "each part follows the name of the script, without its comma. `SOURCE` stands for each "
        "data set of the record in turn, and a bare name of data or of a folder for the path where "
        "you keep it. Real data lie in the folder that `ECOMKD_REAL_DATA` names. The record's "
        "`hardware` says on how many threads it ran; for one, set `OMP_NUM_THREADS=1`.",
        "In a plot the dashed line is the goal, the point is what was measured, and the bar is its "
        "interval; to the right is better. Each row has a scale of its own, so that its far end "
        "touches the edge: compare a bar with its goal, not with another bar. The numbers say how "
        "much it is.",
    ]
    for page in dict.fromkeys(source.page for source in sources):
        own = [source for source in sources if source.page == page]
        kept = [goal for source in own for goal in with_goals[source.record]["goals"]]
        count = f"{sum(goal['met'] for goal in kept)} of {len(kept)} met"
        parts.append(f"## {heading(page)}\n\n{link(page)}: {count}.")
        for source in own:
            record = with_goals[source.record]
            parts += [
                f"({source.record})=\n\n### {source.title}",
                table(record["goals"]),
                *([record["note"]] if record.get("note") else []),
                folded(record),
            ]
    return "\n\n".join(parts) + "\n"


def heading(page: str) -> str:
    """Under which heading the goals of a page stand."""
    number = chapter(page)
    if number:
        return f"Chapter {number}"
    others = {
        "book/running": "The recorded models",
        "book/compared": "Real products",
        "book/more_pairs": "More pairs, in the shop",
        "book/few_labels": "Whole lists",
        "book/film_queries": "Film queries",
        "book/cold_items": "Hidden items",
        "book/trial": "Trials and aims",
        "book/moved_pairs": "Pairs that move",
        "book/data_shop": "The simulated shop",
        "book/run_times": "The book itself",
    }
    return others[page]


def chapter(page: str) -> int | None:
    folder, name = page.split("/")
    return int(name[:2]) if folder == "notebooks" else None


def link(page: str) -> str:
    return f"[](../{page}.{'ipynb' if chapter(page) else 'md'})"


def overall(sources: list[Source], records: dict[str, dict]) -> str:
    """A square for each goal, by the page that tells of it."""
    rows = []
    for page in dict.fromkeys(source.page for source in sources):
        goals = [
            goal
            for source in sources
            if source.page == page
            for goal in records[source.record]["goals"]
        ]
        met = sum(goal["met"] for goal in goals)
        squares = "<b>" + "■" * met + "</b>" + "□" * (len(goals) - met)
        anchor = heading(page).lower().replace(" ", "-")
        rows.append(
            f'<tr><th scope="row"><a href="#{anchor}">{heading(page)}</a></th>'
            f'<td class="squares" aria-hidden="true">{squares}</td>'
            f'<td class="count">{met} of {len(goals)}</td></tr>'
        )
    body = "\n".join(rows)
    return (
        '```{raw} html\n<table class="overall"><thead><tr><th>Told in</th><th>A square for each '
        f'goal, full where it is met</th><th class="count">Met</th></tr></thead><tbody>\n{body}\n'
        "</tbody></table>\n```"
    )


def table(goals: list[dict]) -> str:
    """The goals of a record, each with its plot."""
    rows = []
    for goal in goals:
        met = "✓ met" if goal["met"] else "✗ missed"
        rows.append(
            f'<tr class="{"yes" if goal["met"] else "no"}">'
            f'<th class="name" scope="row">{escape(goal["name"])}</th>'
            f'<td class="forest">{forest(goal)}</td>'
            f'<td class="value">{span(goal)}</td>'
            f'<td class="wanted">{escape(goal["goal"].replace(" -", " −"))}</td>'
            f'<td class="met">{met}</td></tr>'
        )
    body = "\n".join(rows)
    return (
        '```{raw} html\n<div class="table-box"><table class="goals"><thead><tr><th>What is measured'
        "</th><th>Against the goal</th><th>Measured</th><th>Wanted</th><th>Goal</th></tr></thead>"
        f"<tbody>\n{body}\n</tbody></table></div>\n```"
    )


def forest(goal: dict) -> str:
    """Goal, value and interval of one row, on a scale of its own, better to the right."""
    wanted, side = threshold(goal["goal"])
    ends = [goal["value"], goal.get("low"), goal.get("high")]
    distances = [None if end is None else side * (float(end) - wanted) for end in ends]
    reach = max(abs(distance) for distance in distances if distance is not None)
    # A hair's breadth of rounding is no distance.
    scale = (WIDTH - MIDDLE) / reach if reach > 1e-9 * max(1.0, abs(wanted)) else 0.0
    places = [None if d is None else MIDDLE + scale * d for d in distances]
    interval = ""
    if places[1] is not None and places[1] != places[2]:
        interval = f'<line x1="{places[1]:.1f}" x2="{places[2]:.1f}" y1="6" y2="6"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} 12" preserveAspectRatio="xMidYMid meet" aria-hidden="true">'
        f'<line class="goal" x1="{MIDDLE:.0f}" x2="{MIDDLE:.0f}" y1="0" y2="12"/>{interval}'
        f'<circle cx="{places[0]:.1f}" cy="6" r="2.5"/></svg>'
    )


def threshold(text: str) -> tuple[float, int]:
    """The number that a goal names, and 1 where more is better, −1 where less is."""
    written = re.search(r"\d+/\d+|\d+(?:\.\d+)?", text)
    if not written:
        raise SystemExit(f"The goal {text!r} names no number.")
    number = float(Fraction(written[0])) * (-1 if f"-{written[0]}" in text else 1)
    return number, -1 if re.match(r"below|at most|≤|0\b", text) else 1


def span(goal: dict) -> str:
    """A measured value, with its interval where it has one."""
    if goal.get("low") is None or goal["low"] == goal["high"]:
        return number(goal["value"])
    return f"{number(goal['value'])} [{number(goal['low'])}, {number(goal['high'])}]"


def number(value) -> str:
    if isinstance(value, str):
        return value
    text = report.number(value)
    if "e" in text:  # 3e-06, which the page writes as 0.000003
        text = f"{float(text):.12f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")


def folded(record: dict) -> str:
    """Where a record comes from, for those who ask."""
    return f":::{{dropdown}} Command, machine and versions\n{provenance(record)}\n:::"


def provenance(record: dict) -> str:
    """Where a record comes from: command, day, machine, versions, seeds."""
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines = [
        f"Remade by `{record['command']}`. Recorded on {record['created']}, {machine(record)}.",
        f"Versions: {versions}.",
    ]
    if record.get("seeds"):
        lines.append(f"Seeds: {', '.join(str(seed) for seed in record['seeds'])}.")
    if record.get("generator"):
        lines.append(f"Hash of the shop's generator: `{record['generator']}`.")
    return "\n".join(lines)


def machine(record: dict) -> str:
    """The recorded hardware, for people."""
    hardware = record["hardware"]
    cores = "1 core" if hardware["cores"] == 1 else f"{hardware['cores']} cores"
    named = f"{cores} of {hardware['cpu']} with {hardware['memory_gib']} GiB"
    return f"{named} and a {hardware['gpu']}" if "gpu" in hardware else named
