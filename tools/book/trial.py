"""The record `trial` on a page, and for whom a recommender works."""

from __future__ import annotations

import ast
import io

import matplotlib.pyplot as plt

from book.cold import SHOPS, UNDATED, gap, narrow
from book.common import ROOT
from book.figures import inline, one_line
from book.goals import folded
from book.pages import table
from ecomkd import plots

ALT = (
    "Recall@10 against the share of the shop's own brands in the list: as this share grows, recall "
    "falls, slowly at first and then faster; a weight on own brands keeps more of it than places "
    "kept for them, between a share of 0.4 and 0.95"
)
NAMES = {"weight": "a weight on own brands", "places": "places kept for own brands"}
STEPS = {"weight": "weight", "places": "places", "price": "power of price"}
MISTAKE = "adjusted by baskets of the trial"
PLAIN = "spending"
COUNTED = "baskets before"
ROWS = {"popularity": "popularity", "buy it again": "buy it again", "user-kNN": "user-kNN",
        "LambdaMART": "LambdaMART", "student, distilled": "student"}  # fmt: skip


def code(*names: str) -> str:
    """Functions of the script that measured, as the page shows them."""
    text = (ROOT / "benchmarks" / "measure_trial.py").read_text(encoding="utf-8")
    found = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    parts = [ast.get_source_segment(text, found[name]) for name in names]
    return "```python\n" + "\n\n\n".join(map(str, parts)) + "\n```"


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %".replace("-", "−")


def span(found: dict, digits: int = 1) -> str:
    """A share with its interval below it, in percent."""
    low, high = (f"{100 * found[end]:.{digits}f}" for end in ("low", "high"))
    return f"{percent(found['value'], digits)}<br>({low}\u00a0to\u00a0{high})"


def adjusting(record: dict) -> str:
    """What book/trial.md includes of how spending is adjusted."""
    data = record["data"]
    periods = list(data["variance"].values())
    effect = data["trials"]["effect"]

    def row(name: str) -> list[str]:
        others = [found[name]["value"] for found in periods[:-1]]
        return [
            span(periods[-1][name], 0),
            f"{100 * min(others):.0f}\u00a0to\u00a0{percent(max(others), 0)}",
            percent(effect[name]["told"], 0),
            f"{data['needed']['0.05'][name]:,}",
            f"{data['needed']['0.02'][name]:,}",
        ]

    rows = {name: row(name) for name in effect if name != MISTAKE}
    rows[PLAIN] = ["100 %", "100 %", *rows[PLAIN][2:]]
    heads = ["variance left", "in six earlier periods", "10 % more is told",
             "households for 5 %", "households for 2 %"]  # fmt: skip
    return table("what is compared", heads, rows)


def mistakes(record: dict) -> str:
    """What it includes of trials in which something is wrong."""
    trials = record["data"]["trials"]

    def cells(case: str, name: str) -> list[str]:
        if name not in trials[case]:
            return ["", ""]
        own = trials[case][name]
        return [f"{100 * own['difference']:+.1f} %".replace("-", "−"), percent(own["told"], 0)]

    rows = {
        name: [percent(trials["no effect"][name]["told"]) if name in trials["no effect"] else "",
               *cells("effect", name), *cells("lost", name)]
        for name in trials["effect"]
    }  # fmt: skip
    heads = ["false alarms", "of +10 % is found", "and told", "of 0 % is found", "and told"]
    return table("what is compared", heads, rows)


def draw(record: dict, size: tuple[float, float] = (6.2, 4.0)) -> plt.Figure:
    """Recall against the share of own brands, `size` inches wide and high."""
    data = record["data"]["aims"]
    plots.style()
    figure, axes = plt.subplots(figsize=size)
    for way, colour, mark in (("weight", "sum", "o"), ("places", "baseline", "s")):
        points = data["fronts"][way]
        x, y = ([point[name] for point in points] for name in ("own", "recall"))
        axes.plot(x, y, marker=mark, color=plots.PALETTE[colour], label=NAMES[way])
    (at,) = (p for p in data["fronts"]["weight"] if p["at"] == data["chosen"]["weight"])
    axes.annotate(
        "chosen on validation", (at["own"], at["recall"]), xytext=(12, 10),
        textcoords="offset points", arrowprops={"arrowstyle": "-", "color": plots.INK},
    )  # fmt: skip
    axes.set_xlabel("share of own brands among the ten")
    axes.set_ylabel("recall@10")
    axes.set_ylim(0.2, 0.4)
    axes.legend(loc="lower left")
    axes.set_title("The Complete Journey, test days: two aims at once")
    return figure


def picture(record: dict) -> str:
    """The picture as SVG in the page, in colours of the page's style sheet."""
    drawn, figure = io.StringIO(), draw(record)
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    return one_line(inline(drawn.getvalue(), "aims", ALT))


def aims(record: dict) -> str:
    """What it includes of lists with two aims: the picture, and what the chosen steps bring."""
    data = record["data"]["aims"]
    rows = {
        f"{name} {data['chosen'][way]:g}": [
            span(data["of plain"][way][measure]) for measure in ("recall", "own", "dollars")
        ]
        for way, name in STEPS.items()
    }
    heads = ["recall@10", "own brands shown", "value of purchases"]
    return f"{picture(record)}\n\n{table('of the plain list', heads, rows)}"


def for_whom(record: dict) -> str:
    """What it includes of groups of users, from the record `recommendation`."""
    parts = []
    for shop in SHOPS:
        own = record["data"][shop]
        for kind, found in own["by_group"].items():
            rows = {}
            for group, one in found["groups"].items():
                habits, label = own["habits"][kind][group], f"{group} ({one['users']})"
                if kind == COUNTED:
                    label = f"{group}: {habits['least']} to {habits['most']}"
                recalls = [f"{one['recall'][row]:.3f}" for row in ROWS]
                rows[label] = [*recalls, narrow(gap(one["difference"], 3))]
            # Where purchases have an order and no dates, a basket is a purchase.
            told = "purchases before" if shop in UNDATED and kind == COUNTED else kind
            heads = [*ROWS.values(), "student − user-kNN"]
            parts.append(f"**{SHOPS[shop]}, by {told}**\n\n{table(told, heads, rows)}")
    return "\n\n".join(parts)


def page_parts(trial: dict, recommendation: dict) -> dict[str, str]:
    """The texts that book/trial.md includes, by the name of their file."""
    return {
        "trial_code": code("adjusted", "weight_of"),
        "trial_adjusting": adjusting(trial),
        "trial_mistakes": mistakes(trial),
        "trial_aims": aims(trial),
        "trial_groups": for_whom(recommendation),
        "trial_run": folded(trial),
    }
