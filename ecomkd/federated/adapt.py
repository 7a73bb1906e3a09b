"""Shops that change: what of another shop's model moves into one's own, how, and behind what gate.

Sizes: N households, I kinds of product, W the model's width. Chapter 18.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.federated.adapt", "federated"):
    import torch
    from scipy.special import log_softmax, logsumexp
    from scipy.stats import t as student
    from torch import nn

from ecomkd.federated.silos import Moment
from ecomkd.federated.stores import StoreModel, by_habit, train

PARTS = {
    "habit": ("habit",),
    "kinds": ("first",),
    "taste": ("read", "offer"),
}
"""The parts of a `StoreModel`, from the fewest numbers to the most, with their tensors."""


def move(
    model: StoreModel, source: Mapping[str, torch.Tensor], parts: Iterable[str] = PARTS
) -> StoreModel:
    """Put these parts of another store's tensors into `model`, and give it back.

    Raises ValueError for an unknown part, or a tensor that has another shape there, as `kinds` has
    where the other shop sells other things.
    """
    own, moved = model.state_dict(), []
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"move: unknown part {part!r}; choose from {', '.join(PARTS)}.")
        for name in own:
            if not name.startswith(PARTS[part]):
                continue
            if source[name].shape != own[name].shape:
                raise ValueError(
                    f"move: {name} is {tuple(source[name].shape)} there and "
                    f"{tuple(own[name].shape)} here; leave the part {part!r} out."
                )
            moved.append(name)
    with torch.no_grad():  # once all of them are found to fit
        for name in moved:
            own[name].copy_(source[name])
    return model


def unfrozen(
    model: StoreModel, moments: Sequence[Moment], epochs: int, rate: float, seed: int = 0
) -> StoreModel:
    """Train in place by gradual unfreezing (Howard and Ruder 2018), and give the model back.

    The smallest of `PARTS` moves first, for `epochs`; then the next moves too, and then all.
    """
    moving: tuple[str, ...] = ()
    for own in PARTS.values():
        moving += own
        train(model, moments, epochs, rate, parts=moving, seed=seed)
    return model


class Adapter(nn.Module):
    """Another shop's model, frozen, with W² + 5 numbers that a store learns.

    A matrix (W, W) stands between what is read and what is offered, a factor says how much the
    kinds' own numbers count here, and the habit is the store's own. Before training it scores as
    the model does. After Houlsby et al. 2019.
    """

    def __init__(self, model: StoreModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.between = nn.Parameter(torch.eye(model.read.out_features))
        self.much = nn.Parameter(torch.ones(()))
        self.habit = nn.Parameter(model.habit.detach().clone())

    def forward(self, past: torch.Tensor, sold: torch.Tensor) -> torch.Tensor:
        """Scores (B, I), as `StoreModel` gives them."""
        model = self.model
        share = past / past.sum(dim=1, keepdim=True)
        read, offer = model.read(model.vectors), model.offer(model.vectors)
        taste = share @ read @ self.between @ offer.T
        return by_habit(past, sold, self.habit, self.much * model.first + taste)


def mixed(own: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Log-odds (N, I) of two models' probabilities, the other's with this weight.

    Raises ValueError for scores of two shapes, or a weight outside 0 to 1.

    Example:
        >>> half = mixed(np.log([[0.9, 0.1]]), np.log([[0.1, 0.9]]), 0.5)
        >>> np.exp(half).round(2).tolist()
        [[0.5, 0.5]]
    """
    if own.shape != other.shape or not 0 <= weight <= 1:
        raise ValueError(
            f"mixed: scores {own.shape} and {other.shape} with weight {weight}; give two of one "
            "shape, and a weight from 0 to 1."
        )
    if weight in (0, 1):
        return log_softmax(other if weight else own, axis=1)
    parts = [
        np.log(share) + log_softmax(scores, axis=1)
        for share, scores in ((1 - weight, own), (weight, other))
    ]
    return logsumexp(parts, axis=0)


def gate(
    own: np.ndarray, found: Mapping[float, np.ndarray], bound: float, sure: float = 0.95
) -> float:
    """The weight of the other shop's model that gains most, and that surely loses little.

    For each weight, the households' differences to the store's own model have a mean and a lower
    end of Student's one-sided interval. A weight is open only where that end lies at -bound or
    above. Of the open ones that with the highest mean is taken, if the mean is above 0, and 0 else.

    Args:
        own: (N,), a measure of each validation household by the store's own model.
        found: the same by weight, for mixtures with the other model.
        bound: what may be lost, in units of the measure.
        sure: the level of the interval.

    Raises ValueError for fewer than two households, another number of them, a measure that is not
    finite, a bound below 0 or a level outside 0.5 to 1.

    Example:
        >>> own = np.array([0.1, 0.2, 0.3, 0.4])
        >>> gate(own, {0.5: own + 0.1, 1.0: own + [0.9, -0.3, 0.9, -0.3]}, bound=0.02)
        0.5
    """
    own = np.asarray(own, float)
    count = len(own)
    if (
        count < 2
        or not bound >= 0
        or not 0.5 < sure < 1
        or any(len(one) != count for one in found.values())
    ):
        raise ValueError(
            f"gate: {count} households, bound {bound}, level {sure}; give two households or more, "
            "as many for every weight, a bound of 0 or more and a level between 0.5 and 1."
        )  # fmt: skip
    if not all(np.isfinite(np.asarray(one, float)).all() for one in (own, *found.values())):
        raise ValueError("gate: a household has no finite measure; leave it out for every weight.")
    best, chosen = 0.0, 0.0
    for weight, values in found.items():
        difference = np.asarray(values, float) - own
        error = difference.std(ddof=1) / np.sqrt(count)
        low = difference.mean() - student.ppf(sure, count - 1) * error
        if low >= -bound and difference.mean() > best:
            best, chosen = float(difference.mean()), float(weight)
    return chosen


def alarms(values: Iterable[float], delta: float = 0.002) -> list[int]:
    """The places in a stream where ADWIN says that its mean has changed (Bifet and Gavaldà 2007).

    Args:
        values: of the stream, in order of time, between 0 and 1.
        delta: the share of false alarms that is allowed at a place.

    Raises ValueError for a value outside 0 to 1 or a delta outside it; ModuleNotFoundError where
    river is missing.
    """
    with needed("alarms", "federated"):
        from river.drift import ADWIN
    if not 0 < delta < 1:
        raise ValueError(f"alarms: delta is {delta}; give a share between 0 and 1.")
    detector, found = ADWIN(delta=delta), []
    for place, value in enumerate(values):
        if not 0 <= value <= 1:
            raise ValueError(f"alarms: value {value} at place {place}; give values from 0 to 1.")
        detector.update(value)
        if detector.drift_detected:
            found.append(place)
    return found
