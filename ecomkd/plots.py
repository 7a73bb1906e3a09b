"""One look for every figure: transparent, legible on light and dark pages, one palette.

Every chapter draws with it, from chapter 1 on. Chapter 1.
"""

from __future__ import annotations

import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.plots", "plots"):
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogFormatter

PALETTE = {
    "teacher": "#3366aa",
    "student": "#d95f0e",
    "baseline": "#7a7a9d",
    "random": "#9a9a9a",
    "bm25": "#4d9078",
    "bi-encoder": "#a05195",
}
"""Each role keeps its colour through the book. `baseline` is the student without distillation."""


def style() -> None:
    """Set matplotlib and seaborn to the book's look, for the figures that follow."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 120,
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        },
    )


def frontier(
    table: pd.DataFrame,
    quality: str = "lift@10",
    axes: Axes | None = None,
) -> Axes:
    """Quality against latency, area by size: one disc for each row of `table`.

    The index names the rows; the column `role` picks the colour from `PALETTE`, `p50_ms` is the
    latency, on a logarithmic axis, and `megabytes` the size. Drawn on `axes`, or on a figure of its
    own.
    """
    axes = axes or plt.figure().gca()
    scale = 900 / table["megabytes"].max()
    ordered = table.sort_values(["p50_ms", quality], ascending=[True, False])
    for place, (name, row) in enumerate(ordered.iterrows()):
        area = max(25, scale * row["megabytes"])
        axes.scatter(
            row["p50_ms"],
            row[quality],
            s=area,
            color=PALETTE[row["role"]],
            alpha=0.75,
            linewidth=0,
        )
        # Names below and above in turn, for neighbours are often close.
        side = 1 if place % 2 else -1
        axes.annotate(
            name, (row["p50_ms"], row[quality]), xytext=(0, side * (area**0.5 / 2 + 3)),
            textcoords="offset points", ha="center", va="bottom" if side > 0 else "top",
            fontsize=10,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())  # 10, not a power of ten
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    axes.margins(0.2, 0.45)
    axes.set_xlabel("milliseconds for one pair (p50, logarithmic)")
    axes.set_ylabel(quality)
    return axes


def intervals(table: pd.DataFrame, label: str) -> Axes:
    """Values with their intervals, one row each: columns `value`, `low`, `high` and `role`."""
    axes = plt.figure(figsize=(7.0, 0.6 + 0.42 * len(table))).gca()
    for place, (_, row) in enumerate(table.iterrows()):
        colour = PALETTE[row["role"]]
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["value"], place, "o", color=colour)
    axes.set_yticks(range(len(table)), table.index)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return axes
