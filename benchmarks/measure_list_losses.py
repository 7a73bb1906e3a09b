"""Rankings as rankings on the ESCI lists once more: with new seeds, and the loss alone changed.

    ECOMKD_PRECISION=bf16 python benchmarks/measure_list_losses.py --seeds 19 20
    ECOMKD_PRECISION=bf16 python benchmarks/measure_list_losses.py --merge

needs ECOMKD_REAL_DATA with `esci_150`, whose queries are each tested once, in five folds. The
network that learnt rankings as rankings stood highest of seven there, with one seed
(`measure_further_lists`). Do other seeds say the same? And is it the loss? Beside it stands the
network of `measure_film_lists` that differs in the loss alone and learns each product by itself,
and the sum without a network whose weights all labels choose. A seed is a warm-up and an order of
the training; the queries are those of that record, so this asks for the luck of training, not for
that of the queries. All that is compared, and each goal, was named before anything was measured
with these seeds. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure_untrained
import measure_whole_lists
import shared
from ecomkd.config import Profile
from measure_film_lists import ASKED, GOALS, of_case
from measure_whole_lists import FREE, START, Found, ranked, warm_start

COMPARED = ((START, FREE), *ASKED)


def fold(case: measure_untrained.Case, profile: Profile) -> tuple[Found, dict[str, Any]]:
    """nDCG@10 of the systems of a fold by test query, and what validation says of them."""
    found, told = of_case(case, profile)
    ranked(found, case[0]["test"], START, warm_start(case[0], profile))
    return found, told


def measured(seed: int) -> dict:
    """All systems of a seed on the test queries of all folds."""
    return measure_whole_lists.over_folds(seed, fold)


def merge(folder: Path, out: Path) -> None:
    """Write the recorded result from the files of single seeds."""
    measure_whole_lists.merged("list_losses", COMPARED, GOALS, folder, out)


if __name__ == "__main__":
    shared.main("list_losses", "Two losses on whole lists, with new seeds.", measured, merge)
