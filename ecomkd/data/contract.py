"""The words of the data contract: labels, gains, splits, texts, and what is said of a fault.

Only the standard library is loaded here. Chapter 1.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

NAMES = {"shop": "simulated shop", "esci": "Shopping Queries Dataset from the hub"}
"""The sources that are no paths. A folder of such a name is given as `./shop`."""

LABELS = ("E", "S", "C", "I")
"""Exact, substitute, complement, irrelevant (Reddy et al. 2022, arXiv:2206.06588)."""

GRADES = ("0", "1", "2", "3")
"""The labels of a shop that rates by grade, the best last."""

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
"""Gain of each label in nDCG, as published with the Shopping Queries Dataset."""

GAINS_SWAPPED = {"E": 1.0, "S": 0.01, "C": 0.1, "I": 0.0}
"""The gains of the public baseline's other script, which swaps S and C."""

GRADE_GAINS = {grade: (2**grade - 1) / 7 for grade in range(4)}
"""Gain of each grade 0..3 in nDCG: (2^g - 1) / 7 (Burges et al. 2005)."""

LEAST_QUERIES = 20
"""Nothing is concluded from fewer test queries: an interval over so few says little."""


def named(source: str | Path) -> str:
    """What a source is called in a report: a path by its last name, `.` by that of the folder."""
    return str(source) if source in NAMES else Path(os.path.abspath(source)).name


def gains_of(names: Sequence[str]) -> dict[Any, float]:
    """The gain of each class, in the order of the classes: ESCI's, or those of the grades 0 to 3.

    Labels are letters, and grades are integers. Two other classes, such as pairs apart and alike,
    have the gains 0 and 1. Raises ValueError for classes whose gain is not known.
    """
    if tuple(names) == LABELS:
        return dict(GAINS)
    if tuple(names) == GRADES:
        return dict(GRADE_GAINS)
    if len(names) == 2:
        return dict(zip(names, (0.0, 1.0), strict=True))
    raise ValueError(
        f"no gain is known for the classes {', '.join(names)}: name them E, S, C, I or 0, 1, 2, 3, "
        "or take two, the better one last."
    )


SPLITS = ("train", "validation", "test", "unlabelled")
"""The splits of judged pairs, and that of pairs without a label."""

LEAST_FOLDS = 3
"""Of the folds of a cross-validation one tests, one validates, and the rest are learnt from."""

TEXT = (
    "product_title",
    "product_description",
    "product_bullet_point",
    "product_brand",
    "product_color",
)
"""The columns of a product's texts; the title is never empty, the others may be."""

# What Unicode asks a program not to draw, apart from spaces: control characters, marks of
# direction, joiners, fillers, variation selectors, tags, and the Braille cell without a dot.
_UNSEEN = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{_UNSEEN}]+")
_VISIBLE = re.compile(f"[^\\s{_UNSEEN}]")


class DataError(ValueError):
    """Input that breaks the contract: `sentences`, each with the place of a fault and its mend."""

    def __init__(self, *sentences: str):
        super().__init__("\n".join(sentences))
        self.sentences = sentences


def quoted(text: str) -> str:
    """The text between quotation marks, no longer than a line and fit for a terminal."""
    return repr(_short(text, 80))


def shown(text: str, limit: int = 80) -> str:
    """The same without quotation marks, and no longer than `limit`."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in _short(text, limit)
    )


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def normalise_query(text: str) -> str:
    """The form under which two queries count as the same: NFKC, casefold, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=64)  # the rows of one query mostly follow one another
def as_seen(text: str) -> str:
    """The normalised text without the characters that nobody can see.

    The data contract compares queries so: a zero-width space, which text copied from a web page may
    hold, makes no other query.
    """
    normal = normalise_query(text)
    return normalise_query(_INVISIBLE.sub("", normal)) if _INVISIBLE.search(normal) else normal


def is_blank(text: str) -> bool:
    """Whether nothing can be seen of a text, be it empty, spaces, or invisible characters."""
    return _VISIBLE.search(text) is None


def order_by_hash(queries: set[str]) -> list[str]:
    """Normalised queries in an order that is random, yet the same in every run and row order."""
    return sorted(queries, key=lambda query: (hashlib.sha256(query.encode()).digest(), query))


def product_text(rows: dict) -> str | list[str]:
    """What models read of a product: title . brand . colour . bullets . description.

    `rows` is one row or a batch (a mapping of columns to lists); a row gives a string, a batch a
    list. Brand and colour are left out where the title has their letters side by side, be it within
    a word ("red" in "layered"), and so are empty texts.
    """
    columns = [rows[name] for name in TEXT]
    if isinstance(columns[0], str):
        return _joined(*columns)
    return [_joined(*row) for row in zip(*columns, strict=True)]


def _joined(title: str, description: str, bullets: str, brand: str, color: str) -> str:
    parts = [title]
    parts += [part for part in (brand, color) if part.casefold() not in title.casefold()]
    parts += [bullets, description]
    return " . ".join(text for part in parts if (text := " ".join(part.split())))


def whole_fold(fold: str) -> str:
    """The fold without what some programs add to a whole number: 3 for 3.0 and for 03."""
    fold = fold.removesuffix(".0")
    return str(int(fold)) if is_fold(fold) else fold


def is_fold(text: str) -> bool:
    """Whether a text is a whole number of at most nine digits, as a fold is."""
    return text.isascii() and text.isdecimal() and len(text) < 10
