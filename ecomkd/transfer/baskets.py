"""A recommender in another shop: which of its parts move there. Chapter 13."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ecomkd.extras import needed

with needed("ecomkd.transfer.baskets", "run"):
    import torch

from ecomkd import recommend

PARTS = ("text", "taste", "habits", "sales", "price")
"""The parts of a recommender that read what two shops have in common."""
_PREFIXES = {
    "text": ("read.0.", "offer.0.", "appeal."),
    "habits": ("scale.", "line.", "curve."),
    "sales": ("sales.",),
    "price": ("read.1.", "offer.1."),
}


def part_of(name: str) -> str:
    """The one of `PARTS` to which a recommender's tensor of this name belongs."""
    return next((part for part, own in _PREFIXES.items() if name.startswith(own)), "taste")


def move(
    model: recommend.Recommender, source: dict[str, torch.Tensor], parts: Sequence[str] = PARTS
) -> pd.DataFrame:
    """Put the `parts` of another shop's recommender of the same kind into `model`.

    The numbers that tell who bought an item stand for other people in each shop. Of the layers that
    read them, only the column of the price moves; the other columns begin at 0.

    Args:
        source: the tensors of the other shop's recommender, by name.
        parts: some of `PARTS`.

    Returns:
        A table with a row for each `tensor`: its `part`, its count of `numbers`, and how many of
        them were `moved`.

    Raises ValueError for an unknown part, or a tensor that the source lacks or has in another
    shape; then nothing has moved.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"Unknown part {min(unknown)!r}: choose from {', '.join(PARTS)}.")
    rows, state = [], model.state_dict()
    for name, own in state.items():
        part = part_of(name)
        kept = 1 if part == "price" else None  # the numbers of buyers may be others
        there = tuple(source[name].shape) if name in source else None
        if part in parts and (there is None or there[:kept] != tuple(own.shape)[:kept]):
            raise ValueError(
                f"move: {name} is {there} in the source and {tuple(own.shape)} here; take a "
                f"recommender of the same kind, or leave the part {part!r} out."
            )
    with torch.no_grad():  # once all of them are found to fit
        for name, own in state.items():
            part, moved = part_of(name), 0
            if part in parts and part == "price":
                own.zero_()
                own[:, -1], moved = source[name][:, -1], len(own)
            elif part in parts:
                own.copy_(source[name])
                moved = own.numel()
            rows.append((name, part, own.numel(), moved))
    return pd.DataFrame(rows, columns=["tensor", "part", "numbers", "moved"])
