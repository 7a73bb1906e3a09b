"""One look for every figure: drawn for light and dark pages, legible on a phone, one palette.

Figures are SVG. Their text and axes have one colour, `INK`, and each system the colour of its role.
On the way into the book these colours become variables of the page's style sheet, which has other
values for a dark page. Chapter 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.plots", "plots"):
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import LogFormatter
    from matplotlib.transforms import Bbox

PALETTE = {
    "teacher": "#2f62a8",
    "student": "#c44d04",
    "baseline": "#6c4906",
    "random": "#707070",
    "bm25": "#054e22",
    "bi-encoder": "#6e0364",
    "trees": "#3d7b0b",
    "sum": "#00686f",
    "static": "#551a99",
    "lora": "#992e4a",
    "picture": "#d1005d",
}
"""Each role keeps its colour through the book. `baseline` is the student without distillation,
`sum` adds words and vectors, `static` is the student of word vectors alone."""

INK = "#222832"
"""The colour of all text and of the axes."""

SIZE = (5.0, 3.4)  # inches: on a phone one point is then about one pixel


def style() -> None:
    """Set matplotlib and seaborn to the book's look, for the figures that follow.

    In a notebook the figures are SVG from then on, the same bytes for the same figure. Their
    background is white, so that they are legible in a dark Jupyter too; the book takes it off.
    """
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.figsize": SIZE,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "lines.linewidth": 1.75,
            "figure.constrained_layout.use": True,
            # Text stays text. Its places are computed with the font that matplotlib brings along,
            # so that a figure is the same on each machine, and no page has a wider one.
            "font.sans-serif": ["DejaVu Sans", "sans-serif"],
            "svg.fonttype": "none",
            "svg.hashsalt": "ecomkd",
            **dict.fromkeys(inks, INK),
        },
    )
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})


def luminance(colour) -> float:
    """Relative luminance of a colour, 0 for black and 1 for white, as WCAG 2 defines it."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other) -> float:
    """Contrast of two colours, from 1 to 21, as WCAG 2 defines it; text needs 4.5, lines 3."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def heatmap(frame: pd.DataFrame, axes: Axes | None = None, fmt: str = ".2f") -> Axes:
    """A table of numbers as a grid of coloured cells, each with its number, NaN left empty.

    Rows and columns of `frame` become those of the grid. The numbers are black or white, whichever
    can be read better on its cell. Drawn on `axes`, or on a figure of its own.
    """
    axes = axes or plt.figure().gca()
    cells = frame.to_numpy(float)
    drawn = axes.pcolormesh(cells, cmap="Blues", edgecolors="face", linewidth=0.5)
    drawn.update_scalarmappable()  # gives each cell its colour now
    for (row, column), value, colour in zip(
        np.ndindex(cells.shape), cells.flat, np.reshape(drawn.get_facecolor(), (-1, 4)), strict=True
    ):
        if not np.isnan(value):
            # Not quite black, for the book turns black into the page's own ink.
            number = max(("#010101", "#ffffff"), key=lambda text: contrast(text, colour[:3]))
            axes.text(
                column + 0.5, row + 0.5, format(value, fmt).replace("-", "−"),
                ha="center", va="center", color=number, fontsize=11,
            )  # fmt: skip
    axes.set_xticks(np.arange(len(frame.columns)) + 0.5, frame.columns)
    axes.set_yticks(np.arange(len(frame.index)) + 0.5, frame.index)
    axes.set(xlabel=frame.columns.name, ylabel=frame.index.name)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return axes


def label_lines(axes: Axes) -> None:
    """Name each curve of `axes` at its right end, in the curve's colour, in place of a legend.

    The names are the curves' labels. Call it last, when data and limits of the axes are set: names
    that would cover each other are moved apart.
    """
    figure = axes.figure.canvas.figure
    figure.draw_without_rendering()
    ends = []
    for line in axes.get_lines():
        points = np.column_stack(line.get_data(orig=False)).astype(float)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) and not str(line.get_label()).startswith("_"):
            height = line.get_transform().transform(points[-1])[1]
            ends.append((height, tuple(points[-1]), line))
    ends.sort(key=lambda end: end[0])
    pixels = figure.dpi / 72
    apart = 13 * pixels  # the height of a name
    placed = np.array([height for height, _, _ in ends])
    for _ in range(200):  # neighbours that are too near push each other away, by halves
        short = np.maximum(apart - np.diff(placed), 0) / 2
        placed[:-1] -= short
        placed[1:] += short
    for (height, point, line), now in zip(ends, placed, strict=True):
        axes.annotate(
            str(line.get_label()), point, xycoords=line.get_transform(),
            xytext=(6, (now - height) / pixels), textcoords="offset points",
            va="center", color=line.get_color(), fontsize=11, annotation_clip=False,
        )  # fmt: skip
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def label_points(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    areas: Sequence[float] | float = 36,
) -> None:
    """Name points beside their marks, where a name covers neither marks nor names before it.

    x, y and names have one entry for each point; `areas` are those of the marks, in square points,
    as `scatter` has them. Call it last, when the limits of the axes are set.
    """
    figure = axes.figure.canvas.figure
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    centres = axes.transData.transform(np.column_stack([x, y]).astype(float))
    radii = np.sqrt(np.broadcast_to(areas, len(centres))) / 2 * pixels
    taken = [
        Bbox([centre - radius, centre + radius])
        for centre, radius in zip(centres, radii, strict=True)
    ]
    frame = axes.get_window_extent()
    for name, point, radius in zip(names, zip(x, y, strict=True), radii, strict=True):
        away = radius / pixels + 2
        best = None
        for side, (across, up) in enumerate(_SIDES):
            text = axes.annotate(
                name, point, xytext=(across * away, up * away), textcoords="offset points",
                ha=("right", "center", "left")[across + 1],
                va=("top", "center", "bottom")[up + 1], fontsize=11,
            )  # fmt: skip
            box = text.get_window_extent()
            covered = sum(_shared(box, other) for other in taken)
            outside = box.width * box.height - _shared(box, frame)
            cost = (covered + outside, side)
            if best is None or cost < best[0]:
                if best:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        if best:
            taken.append(best[2])


_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a name may stand beside its point, across and up, the better places first."""


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    common = Bbox.intersection(one, other)
    return common.width * common.height if common else 0.0


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
    areas = np.maximum(25, 900 * table["megabytes"] / table["megabytes"].max()).astype(float)
    axes.scatter(
        table["p50_ms"].astype(float),
        table[quality].astype(float),
        s=areas,
        color=[PALETTE[role] for role in table["role"]],
        alpha=0.75,
        linewidth=0,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")  # 10, not a power of ten
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    axes.margins(0.2, 0.25)
    axes.set_xlabel("milliseconds for one pair\n(p50, logarithmic)")
    axes.set_ylabel(quality)
    label_points(axes, table["p50_ms"], table[quality], table.index, areas)
    return axes


def intervals(table: pd.DataFrame, label: str) -> Axes:
    """Values with their intervals, one row each: columns `value`, `low`, `high` and `role`."""
    axes = plt.figure(figsize=(SIZE[0], 0.7 + 0.36 * len(table))).gca()
    for place, (_, row) in enumerate(table.iterrows()):
        colour = PALETTE[row["role"]]
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["value"], place, "o", color=colour)
    axes.set_yticks(range(len(table)), table.index)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return axes
