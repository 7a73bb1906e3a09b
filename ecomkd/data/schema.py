"""The data contract: judged query-product pairs, checked before anything is trained on them."""

from __future__ import annotations

import unicodedata

LABELS = ("E", "S", "C", "I")
"""Exact, substitute, complement, irrelevant (Reddy et al. 2022, arXiv:2206.06588)."""

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
"""Gain of each label in nDCG, as published with the Shopping Queries Dataset."""

GAINS_SWAPPED = {"E": 1.0, "S": 0.01, "C": 0.1, "I": 0.0}
"""The gains of the public baseline's other script, which swaps S and C."""

GRADE_GAINS = {grade: (2**grade - 1) / 7 for grade in range(4)}
"""Gain of each grade 0..3 in nDCG: (2^g - 1) / 7 (Burges et al. 2005)."""


class DataError(ValueError):
    """Input that breaks the contract: one sentence with the place and the mend."""


def normalise_query(text: str) -> str:
    """The form under which two queries count as the same: NFKC, casefold, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
