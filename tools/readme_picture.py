"""Draw the README's picture from the recorded runs on real film queries.

    python tools/readme_picture.py

Writes book/figures/readme.png, which carries the digest of the record that it shows.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from book.common import RECORDED, ROOT
from ecomkd import plots, report
from ecomkd.artifacts import file_digest

RECORD = RECORDED / "frontier.json"
PICTURE = ROOT / "book" / "figures" / "readme.png"
SHOWN = {
    "teacher": ("teacher", "teacher", "teacher,\n12 layers of 768"),
    # The empty line keeps the name off the level above it.
    "six layers": ("student", "six layers", "6 of 384\n"),
    "three layers": ("student", "three layers", "3 of 384"),
    "two layers": ("student", "two layers", "2 of 384"),
    "two layers of 128": ("student", "two layers of 128", "2 of 128"),
    "static": ("static", "static", "static,\ndistilled"),
    "three layers, labels": ("baseline", "three layers", "3 layers,\nlabels alone"),
    "static, labels": ("baseline", "static", "static,\nlabels alone"),
}
"""For each system drawn as a disc: its colour role, the row of its speed, and its caption."""
LEVELS = {
    "words + base size, untrained": ("sum", "words and\nencoder,\nuntrained"),
    "words": ("bm25", "words"),
}
"""What nobody trained: its colour role and its name."""


def draw(size: tuple[float, float] = (7, 5)) -> plt.Figure:
    """The picture, `size` inches wide and high."""
    record = report.recorded(RECORD.stem)["data"]
    rows, clock = record["msrd"]["rows"], record["clock"]

    def disc(name: str, role: str, timed: str) -> dict:
        return {
            "role": role,
            "p50_ms": clock[timed]["p50_ms"],
            "megabytes": clock[timed]["bytes"] / 1e6,
            "nDCG@10": rows[name]["ndcg@10"],
        }

    discs, rings = {}, {}
    for name, (role, timed, caption) in SHOWN.items():
        discs[caption] = disc(name, role, timed)
        if f"{name}, int8" in rows:  # Under a blank name, so that the captions keep off it.
            rings[" " * len(discs)] = ring = disc(f"{name}, int8", role, f"{timed}, int8")
            ring["of"] = caption
    plots.style()
    figure, axes = plt.subplots(figsize=size)
    plots.frontier(pd.DataFrame(discs | rings).T, quality="nDCG@10", axes=axes)
    _hollow(axes, len(discs))
    for ring in rings.values():
        ends = [[one[axis] for one in (discs[ring["of"]], ring)] for axis in ("p50_ms", "nDCG@10")]
        axes.plot(*ends, color=plots.PALETTE[ring["role"]], linewidth=0.8, zorder=0)
    axes.annotate("rings: in int8", (0.03, 0.04), xycoords="axes fraction", fontsize=11)
    axes.set_xlabel("milliseconds for one query\n(p50, logarithmic)")
    for name, (role, words) in LEVELS.items():
        level = rows[name]["ndcg@10"]
        axes.axhline(level, ls="--", color=plots.PALETTE[role], zorder=0)
        axes.annotate(
            words, (1, level), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", ha="left", va="center", color=plots.PALETTE[role],
        )  # fmt: skip
    axes.set_title("Real film queries: quality against time")
    return figure


def _hollow(axes: plt.Axes, first: int) -> None:
    """Make rings of the discs from number `first` on."""
    (marks,) = axes.collections
    filled = marks.get_facecolors()
    marks.set_alpha(None)  # It is in the colours, and would be set for what is transparent too.
    marks.set_edgecolors(filled)
    marks.set_linewidths([0] * first + [1.5] * (len(filled) - first))
    filled[first:] = 0  # transparent
    marks.set_facecolors(filled)


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=150, facecolor="white", metadata={"Source": file_digest(RECORD)})
    print(PICTURE)
