"""A recommender in a folder: what `ecomkd recommend` writes, and what answers from it.

It answers without PyTorch, and nothing in its folder can be executed: lists are JSON, tables are
plain arrays. Sizes: U users, I items. Chapter 10.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ecomkd import outputs
from ecomkd.artifacts import file_digest, write_text
from ecomkd.data.baskets import HORIZON, Baskets
from ecomkd.recommend.evaluation import best
from ecomkd.recommend.live import Live
from ecomkd.recommend.purchases import history, popularity
from ecomkd.recommend.rankers import neighbour_tables, share_of_near, tie_break

KIND = "recommend"
"""The command that writes such a folder, as its manifest names it."""
FORMAT = 1
POPULAR, AGAIN, NEAR, STUDENT = "popularity", "buy it again", "user-kNN", "student, distilled"
"""What a folder may hold, the simplest first."""


@dataclass(frozen=True)
class Recommended:
    """One item of an answer."""

    item_id: str
    text: str
    score: float


@dataclass(eq=False)
class Answers:
    """Recommendations for users by their ids. `load` makes one of a folder.

    `recommend` may be called from several threads at once.
    """

    users: Mapping[str, int]
    """The row of each user."""
    items: Sequence[tuple[str, str]]
    """Id and text of each item."""
    past: sp.csr_matrix
    """(U, I), an entry where a user has bought an item."""
    filler: np.ndarray
    """(I,), scores of what sells, for whom nothing is known of."""
    score: Callable[[int], np.ndarray]
    """From the row of a user to scores of all items (I,)."""
    old: bool = True
    """Whether what a user has bought before is shown, where it is not asked for."""
    version: str | None = None

    def recommend(
        self, user: str, k: int = 10, new: bool | None = None
    ) -> tuple[bool, list[Recommended]]:
        """Whether the user is known, and the best `k` items, best first; fewer where there are no
        more.

        Who is not known is shown what sells. With `new`, what the user has bought before is left
        out; with None it is if `old` says so. Raises ValueError for k below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}: give 1 or more.")
        row = self.users.get(user)
        scores = self.filler if row is None else self.score(row)
        hide = row is not None and (not self.old if new is None else new)
        had = self.past[row] if hide else None
        top = best(scores[None], had, k)[0]
        if hide:
            top = top[~np.isin(top, had.indices)]
        hits = [Recommended(*self.items[at], float(scores[at])) for at in top]
        return row is not None, hits


def write(
    folder: Path, kind: str, baskets: Baskets, settings: Mapping[str, Any], live: Live | None = None
) -> None:
    """The files of a recommender of one of the four kinds, fitted to all days of the baskets.

    `settings` are those of the ranker of that name; a student comes as its state, `live`.
    """
    day = baskets.days
    tables = {"filler": tie_break(popularity(baskets, day, settings.get("window", HORIZON)))}
    tables |= _flat("own", history(baskets, day, settings.get("scale")))
    if kind == NEAR:
        alike, late = neighbour_tables(baskets, day, settings["scale"], settings["window"])
        tables |= _flat("alike", alike) | _flat("late", late)
    if live is not None:
        tables |= {f"live.{name}": table for name, table in live.arrays().items()}
    np.savez(folder / "state.npz", **tables)
    users = [str(user) for user in baskets.users["user_id"]]
    write_text(folder / "users.json", json.dumps(users, ensure_ascii=False))
    rows = zip(baskets.items["item_id"].astype(str), baskets.items["text"], strict=True)
    lines = [json.dumps(list(row), ensure_ascii=False) + "\n" for row in rows]
    write_text(folder / "items.jsonl", "".join(lines))
    told = {"format": FORMAT, "kind": kind, "day": day, "settings": dict(settings)}
    write_text(folder / "recommender.json", json.dumps(told, indent=1))


def _flat(name: str, table: sp.csr_matrix) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": getattr(table, part) for part in ("data", "indices", "indptr")}


def load(folder: Path | str) -> Answers:
    """The recommender in a folder that `ecomkd recommend` wrote, once each file was found as
    written.

    Raises FileNotFoundError where the folder holds none, and ValueError with one sentence where a
    file is missing, has changed, or is of another format.
    """
    folder = Path(folder)
    if not (folder / "recommender.json").is_file():
        raise FileNotFoundError(
            f"{folder}: there is no recommender.json in it: write the folder with "
            f"`ecomkd {KIND}` first."
        )
    return outputs.whole(folder, _loaded)


def _loaded(folder: Path) -> Answers:
    written = outputs.check(folder, KIND)
    told = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
    if told["format"] != FORMAT:
        raise ValueError(
            f"{folder}/recommender.json: is of format {told['format']!r:.20}, and this version "
            f"reads format {FORMAT}; write the folder again with `ecomkd {KIND}`."
        )
    users = json.loads((folder / "users.json").read_text(encoding="utf-8"))
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        items = [tuple(json.loads(line)) for line in lines]
    with np.load(folder / "state.npz", allow_pickle=False) as found:
        tables = {name: found[name] for name in found.files}
    shape = len(users), len(items)

    def csr(name: str) -> sp.csr_matrix:
        parts = tuple(tables[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
        return sp.csr_matrix(parts, shape)

    past, filler = csr("own"), tables["filler"]
    if told["kind"] == POPULAR:
        score = partial(_popular, filler)
    elif told["kind"] == STUDENT:
        state = {
            name.removeprefix("live."): table
            for name, table in tables.items()
            if name.startswith("live.")
        }
        score = partial(_of_student, Live(state), told["day"], threading.Lock())
    else:
        share = told["settings"].get("share", 0.0)
        near = [csr("alike"), csr("late"), told["settings"]["neighbours"]] if share else None
        score = partial(_of_counts, past, filler, share, near)
    version = (
        f"{folder.resolve().name}, {told['kind']}, format {FORMAT}, written by ecomkd "
        f"{written['version']}, {file_digest(folder / outputs.MANIFEST)[:12]}"
    )
    rows = {user: row for row, user in enumerate(users)}
    return Answers(rows, items, past, filler, score, told["settings"]["old"], version)


def _popular(filler: np.ndarray, row: int) -> np.ndarray:
    return filler


def _of_student(live: Live, day: int, lock: threading.Lock, row: int) -> np.ndarray:
    with lock:  # the next call writes over the scores
        return live.scores(row, day).copy()


def _of_counts(
    past: sp.csr_matrix, filler: np.ndarray, share: float, near: list | None, row: int
) -> np.ndarray:
    own = past[row].toarray()[0]
    if near is not None:
        own = own + share * share_of_near(*near, np.array([row]))[0]
    return own + filler
