"""Draw the README's picture from the recorded runs on the simulated shop.

    python tools/readme_picture.py

Writes book/figures/readme.png, which carries the digest of the record that it shows.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from book.common import RECORDED, ROOT
from ecomkd import plots, report
from ecomkd.artifacts import file_digest

RECORD = RECORDED / "core_shop.json"
PICTURE = ROOT / "book" / "figures" / "readme.png"
SHOWN = {
    "teacher": ("teacher", "teacher, PyTorch fp32", "teacher,\nfp32"),
    "student, distilled, int8": ("student", "student, ONNX int8", "distilled student,\nint8"),
    "student, labels only": (
        "baseline",
        "student, ONNX fp32",
        "same student on\nlabels only, fp32",
    ),
}
"""For each system drawn as a disc: its colour role, the row of its speed, and its caption."""


def draw(size: tuple[float, float] = (7, 3.6)) -> plt.Figure:
    """The picture, `size` inches wide and high."""
    record = report.recorded(RECORD.stem)["data"]
    rows = pd.DataFrame(record["rows"])
    quality, lift = rows.loc["ndcg@10"], rows.loc["lift@10"]
    speed = pd.DataFrame(record["speed"]).T
    discs = pd.DataFrame(
        {
            caption: speed.loc[row, ["p50_ms", "megabytes"]].astype(float).to_dict()
            | {"role": role, "nDCG@10": float(quality[name])}
            for name, (role, row, caption) in SHOWN.items()
        }
    ).T
    plots.style()
    figure, axes = plt.subplots(figsize=size)
    plots.frontier(discs, quality="nDCG@10", axes=axes)
    levels = {"BM25": quality["BM25"], "random order": rows.loc["random_ndcg@10", "teacher"]}
    for (name, level), role in zip(levels.items(), ("bm25", "random"), strict=True):
        axes.axhline(float(level), ls="--", color=plots.PALETTE[role])
        place = (1, float(level))
        axes.annotate(
            name, place, xycoords=("axes fraction", "data"), xytext=(-3, -2),
            textcoords="offset points", ha="right", va="top",
        )  # fmt: skip
    kept = lift["student, distilled, int8"] / lift["teacher"]
    axes.set_title(f"Simulated shop: the student keeps {kept:.0%} of its teacher's lift")
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=150, facecolor="white", metadata={"Source": file_digest(RECORD)})
    print(PICTURE)
