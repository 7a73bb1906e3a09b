"""A made-up shop of few households, and settings with which its networks train in seconds."""

import json
import sys

import numpy as np
import pandas as pd
import tiny_models

from ecomkd import recommend
from ecomkd.config import Profile
from ecomkd.data import journey
from ecomkd.data.baskets import Baskets, from_lines
from ecomkd.recommend import training

USERS, ITEMS, DAYS = 24, 60, 140
LATE = ITEMS - 4
"""Items from here on are sold in the last days alone."""


def shop() -> Baskets:
    rng = np.random.default_rng(0)
    lines = []
    for user in range(USERS):
        own = rng.choice(LATE, 6, replace=False)
        for day in range(user % 5, DAYS, 4):
            lines += [(user, int(item), day) for item in rng.choice(own, 3, replace=False)]
            lines.append((user, int(rng.integers(LATE)), day))
        lines.append((user, LATE + user % 4, DAYS - 5))
    frame = pd.DataFrame(lines, columns=["user_id", "item_id", "day"]).drop_duplicates()
    frame["time"] = pd.Timestamp("2024-01-01 10:00") + pd.to_timedelta(frame["day"], "D")
    frame["basket_id"] = frame["user_id"] * 1000 + frame["day"]
    words = tiny_models.WORDS
    items = pd.DataFrame({"item_id": range(ITEMS)})
    items["text"] = [f"{words[i % 16]} {words[i // 4 % 16]}" for i in range(ITEMS)]
    users = pd.DataFrame({"user_id": range(USERS)})
    return from_lines(frame.assign(quantity=1, value=1.0), items, users, {})


def shrink(patch, script, baskets: Baskets, folder) -> None:
    """The benchmark `script` measures `baskets`, with a tiny encoder and narrow networks."""
    start = tiny_models.save(tiny_models.bert(seed=1), folder / "start")
    own = tiny_models.profile(folder / "artifacts", teacher=str(start), frozen_layers=None)
    patch.setattr(Profile, "named", staticmethod(lambda name=None, **changes: own))
    patch.setattr(journey, "load", lambda: baskets)
    for name, value in {"SCALES": (1, 2), "TIMED": 2}.items():
        if hasattr(script, name):
            patch.setattr(script, name, value)
    if hasattr(script, "GRIDS"):
        grids = {name: _first(grid) for name, grid in script.GRIDS.items()}
        patch.setattr(script, "GRIDS", grids)
    for name, value in {"FIRST": 30, "GROUP": 12, "BUYERS": 2}.items():
        for module in (recommend, training):
            patch.setattr(module, name, value)
    items = recommend.Items
    patch.setattr(
        recommend,
        "Items",
        lambda shop, vectors, first, width, profile: items(shop, vectors, first, 4, profile),
    )


def call(patch, script, *lines: str) -> None:
    """Run the script's main function with each of these command lines."""
    for line in lines:
        patch.setattr(sys, "argv", [script.__name__, *line.split()])
        script.main()


def record_of(patch, script, folder, seeds) -> tuple[dict, dict[str, list[dict]]]:
    """What the script records once it has measured all its kinds with these seeds, and, by kind,
    the files of the single seeds."""
    out, parts = folder / "record.json", folder / "parts"
    listed = " ".join(map(str, seeds))
    lines = [f"{kind} --seeds {listed}" for kind in script.KINDS]
    for line in (*lines, "--scale", f"--merge --out {out}"):
        call(patch, script, f"{line} --folder {parts}")
    told = {
        kind: [json.loads((parts / kind / f"seed{seed}.json").read_text("utf-8")) for seed in seeds]
        for kind in script.KINDS
    }
    return json.loads(out.read_text(encoding="utf-8")), told


def _first(grid: dict) -> dict:
    return {name: values[:1] for name, values in grid.items()}
