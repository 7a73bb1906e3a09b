"""A part of the Movie Search Ranking Dataset for `ecomkd run`, in the form of the data contract.

    python benchmarks/msrd_part.py msrd_part --labelled 400
    ecomkd run msrd_part --profile book --seeds 5 --out core_msrd

needs ECOMKD_REAL_DATA, whose folder has `msrd`.

A shop has few judged queries and a log of many more. So a part keeps the labels of some training
queries, and of some others the pairs alone: those are its unlabelled pairs, real queries with the
products that a search showed for them. Queries are drawn by a hash of their ids, so that a larger
part holds a smaller one. Validation and test are parts of the data's own.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import shared

SPLITS = {"labelled": "train", "validation": "validation", "tested": "test"}


def drawn(query_ids: Iterable[str]) -> list[str]:
    """The distinct ids in an order that depends on nothing but themselves."""
    return sorted(set(query_ids), key=lambda one: hashlib.sha256(one.encode()).hexdigest())


def part(
    judgments: pd.DataFrame, labelled: int, validation: int, tested: int, unlabelled: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The judged and the unlabelled pairs of a part.

    The first three numbers are queries of the splits. `unlabelled` is a number of pairs: whole
    queries, until there are as many.

    Raises ValueError where the judgments hold fewer queries or pairs than are asked for.
    """
    wanted = {"labelled": labelled, "validation": validation, "tested": tested}
    kept = []
    for name, split in SPLITS.items():
        order = drawn(judgments.loc[judgments["split"] == split, "query_id"])
        if len(order) < wanted[name]:
            raise ValueError(
                f"{name}: the data have {len(order)} {split} queries, not {wanted[name]}; ask for "
                "fewer."
            )
        kept += order[: wanted[name]]
        if name == "labelled":
            others = order[wanted[name] :]
    place = {query: row for row, query in enumerate(others)}
    log = judgments[judgments["query_id"].isin(place)]
    log = log.sort_values("query_id", key=lambda ids: ids.map(place), kind="stable")
    # Whole queries: those that begin within the number.
    inside = log["query_id"].isin(log["query_id"].head(unlabelled))
    if len(log) < unlabelled:
        raise ValueError(
            f"unlabelled: the data have {len(log)} other training pairs, not {unlabelled}; ask for "
            "fewer."
        )
    judged = judgments[judgments["query_id"].isin(kept)]
    return judged, log[inside].drop(columns=["grade", "split"])


def write(
    folder: Path, labelled: int, validation: int, tested: int, unlabelled: int
) -> tuple[int, int]:
    """Make a folder with a `part` and the films; how many judged and unlabelled pairs it holds.

    Raises FileExistsError where the folder is there.
    """
    source = shared.real_folder("msrd")
    judgments = pd.read_parquet(source / "judgments.parquet")
    judged, log = part(judgments, labelled, validation, tested, unlabelled)
    folder.mkdir(parents=True)
    judged.to_parquet(folder / "judgments.parquet", index=False)
    if len(log):
        log.to_parquet(folder / "unlabelled.parquet", index=False)
    products = pd.read_parquet(source / "products.parquet")
    products.to_parquet(folder / "products.parquet", index=False)
    return len(judged), len(log)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a part of msrd as data for `ecomkd run`.")
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--labelled", type=int, required=True, help="training queries with labels")
    parser.add_argument("--validation", type=int, default=150, help="queries")
    parser.add_argument("--tested", type=int, default=1_032, help="queries: half of them")
    parser.add_argument("--unlabelled", type=int, default=16_000, help="pairs of other queries")
    arguments = parser.parse_args()
    judged, log = write(
        arguments.out,
        arguments.labelled,
        arguments.validation,
        arguments.tested,
        arguments.unlabelled,
    )
    print(f"Wrote {arguments.out}: {judged:,} judged pairs, {log:,} without a label.")


if __name__ == "__main__":
    main()
