"""The Open Bandit Dataset: what a fashion shop showed, by which probability, and what was clicked.

Chapter 14.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

POLICIES = {"uniform": "random", "Thompson sampling": "bts"}
"""The policies whose logs there are, and the folder of each."""
CAMPAIGNS = ("all", "men", "women")
_COLUMNS = {
    "item_id": "item",
    "position": "position",
    "click": "click",
    "propensity_score": "probability",
}


def load(policy: str, campaign: str) -> pd.DataFrame:
    """Ten thousand impressions of a campaign of ZOZOTOWN in November 2019 (Saito et al. 2021).

    Each row is one item at one of three places: `item` (numbers from 0), `position` (1 to 3),
    `click` (0 or 1), and `probability`, that with which the policy drew this item. The `uniform`
    policy draws every item alike; `Thompson sampling` learns from clicks.

    Raises ValueError for another policy or campaign, ModuleNotFoundError where the package obp is
    missing, which carries the data.
    """
    if policy not in POLICIES or campaign not in CAMPAIGNS:
        raise ValueError(
            f"There is no log of the policy {policy!r} in the campaign {campaign!r}: choose one of "
            f"{', '.join(POLICIES)}, and one of {', '.join(CAMPAIGNS)}."
        )
    # Only its files are read: the package itself is made for an older Python.
    found = find_spec("obp")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "obp is missing, which carries the Open Bandit Dataset: pip install --no-deps "
            "obp==0.4.1",
            name="obp",
        )
    folder = Path(found.submodule_search_locations[0]) / "dataset" / "obd"
    path = folder / POLICIES[policy] / campaign / f"{campaign}.csv"
    table = pd.read_csv(path, usecols=list(_COLUMNS))[list(_COLUMNS)]
    return table.rename(columns=_COLUMNS)
