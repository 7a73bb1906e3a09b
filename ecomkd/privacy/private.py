"""Learning that hides each household: noisy sums, private gradients, noisy votes of teachers.

What is promised is (ε, δ) for a household with all its purchases. Sizes: N households, T types, B
households of a batch. Chapter 16.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.privacy.private", "privacy"):
    import torch
    from opacus import PrivacyEngine
    from opacus.accountants import RDPAccountant
    from opacus.validators import ModuleValidator
    from torch import nn

from ecomkd import runtime
from ecomkd.privacy.tastes import Records, household_loss, some_days

DELTA = 1e-4
"""The chance with which the promise may fail; it should lie well below one over the households."""
_LEAST, _MOST = 1e-2, 1e4


def spent(steps: Sequence[tuple[float, float, int]], delta: float = DELTA) -> float:
    """The ε of a row of Gaussian mechanisms, by the accountant of Rényi privacy (Mironov 2017).

    Args:
        steps: (noise, rate, times) of each: the noise's standard deviation over the most that one
            household changes, the share of households that are drawn, and how often.

    Example:
        >>> round(spent([(4.0, 1.0, 1)]), 2)
        1.05
    """
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, times) for noise, rate, times in steps]
    with warnings.catch_warnings():
        # The best order lies at the end of the list for a budget that is far from any asked for.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))


def noise_for(
    epsilon: float,
    rate: float = 1.0,
    times: int = 1,
    before: Sequence[tuple[float, float, int]] = (),
    delta: float = DELTA,
) -> float:
    """The least noise, to one in a hundred, with which a mechanism stays within ε.

    `before` has what was released already, as `spent` takes it. Raises ValueError where ε is not
    above 0, or no noise is enough.
    """
    if not epsilon > 0 or spent([*before, (_MOST, rate, times)], delta) > epsilon:
        raise ValueError(
            f"noise_for: no noise up to {_MOST:g} keeps ε = {epsilon} with what was released; "
            "allow a larger ε, or fewer steps."
        )
    low, high = _LEAST, _MOST
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        if spent([*before, (middle, rate, times)], delta) > epsilon:
            low = middle
        else:
            high = middle
    return high


def noisy_sum(vectors: np.ndarray, clip: float, noise: float, seed: int) -> np.ndarray:
    """The sum (T,) of the households' vectors (N, T), each cut to length `clip`, and noise.

    The noise is normal, with standard deviation `noise` · `clip` (the Gaussian mechanism, Dwork and
    Roth 2014, appendix A). Raises ValueError unless `clip` is above 0 and `noise` is not below 0.
    """
    if not clip > 0 or noise < 0:
        raise ValueError(f"noisy_sum: clip {clip} and noise {noise}; give above 0, and 0 or more.")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = (vectors * np.minimum(1, clip / np.maximum(length, 1e-12))).sum(axis=0)
    return whole + np.random.default_rng(seed).normal(0, noise * clip, vectors.shape[1])


def fit_privately(
    model: nn.Module,
    seen: Records,
    rows: np.ndarray,
    noise: float,
    steps: int,
    learning_rate: float,
    rate: float = 0.1,
    clip: float = 1.0,
    picks: int = 1,
    seed: int = 0,
) -> nn.Module:
    """Train `model` in place by DP-SGD (Abadi et al. 2016), with opacus, and return it.

    In each step a household is drawn with the chance `rate`, or a little less; the gradient of each
    is cut to length `clip`, and normal noise of standard deviation `noise` · `clip` is added to
    their sum. The ε that this takes is at most `spent([(noise, rate, steps)])`. The noise comes
    from a generator that a `seed` decides, so it is for measuring: whoever knows the seed can take
    it off again.

    Raises ValueError where there are fewer households than one batch needs, and for a model with
    layers that mix households, such as BatchNorm.
    """
    if faults := ModuleValidator.validate(model.train(), strict=False):
        raise ValueError(
            f"fit_privately: {str(faults[0]).partition('.')[0]}; take layers that read each "
            "household by itself, such as LayerNorm."
        )
    if rate * len(rows) < 1:
        raise ValueError(
            f"fit_privately: {len(rows)} households at a rate of {rate} make no batch; raise one."
        )
    size = round(rate * len(rows))
    if -(-len(rows) // size) * rate < 1 - 1e-9:  # opacus would draw each more often than is counted
        size -= 1
    with warnings.catch_warnings(), runtime.seeded(seed):
        # opacus speaks of its generator, and PyTorch of hooks on inputs that have no gradient.
        warnings.simplefilter("ignore")
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.as_tensor(rows)),
            batch_size=size,
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        hidden, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=noise,
            max_grad_norm=clip,
            noise_generator=torch.Generator().manual_seed(seed),
        )
        taken = 0
        while taken < steps:
            for (batch,) in loader:
                part = seen.of(batch, some_days(seen, picks))
                loss = household_loss(hidden(part.decayed), part.bought).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                taken += 1
                if taken == steps:
                    break
        hidden.remove_hooks()
    return model.eval()


def noisy_votes(votes: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """The votes (B, T) of all teachers for the types to show to a public household, with noise.

    A household is behind one teacher at most, and so changes one teacher's votes: of K votes for
    each of B households, up to 2 K in each row. That is a length of sqrt(2 K B), and the noise's
    standard deviation is `noise` times it (PATE, Papernot et al. 2018, for K votes at once).

    Args:
        votes: (V, B, T), 1 where a teacher votes for a type; K votes in each row.

    Raises ValueError where the rows have different numbers of votes.
    """
    each = votes.sum(axis=2)
    if not (each == each.flat[0]).all():
        raise ValueError("noisy_votes: teachers cast different numbers of votes; give each K.")
    most = np.sqrt(2 * each.flat[0] * votes.shape[1])
    drawn = np.random.default_rng(seed).normal(0, noise * most, votes.shape[1:])
    return votes.sum(axis=0) + drawn
