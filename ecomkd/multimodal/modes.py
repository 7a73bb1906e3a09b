"""Classifiers over the vectors of one mode, or of several: joined early, late, or by a gate.

The encoders behind the vectors stay as they are; what is trained is small. Chapter 15.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from ecomkd.extras import needed

with needed("ecomkd.multimodal.modes", "multimodal"):
    import torch
    from torch import nn

from ecomkd import losses, runtime

UNLABELLED = losses.IGNORE
"""The label of a product that nobody labelled."""
EVERY = 25
"""Steps of training from one look at validation to the next."""


class Fusion(nn.Module):
    """Vectors of M modes → one hidden vector (B, H) → logits (B, C).

    Each mode has a linear map into the hidden space, and the maps are added up: the same as one map
    of all vectors side by side (early fusion). With `gated`, the maps are weighed by a softmax that
    sees all vectors (Arevalo et al. 2017, with a softmax over modes for their sigmoid). A mode that
    is missing adds nothing, and the gate passes it over.

    Example:
        >>> model = Fusion({"text": 384, "picture": 1280}, classes=10)
        >>> seen = {"text": torch.zeros(2, 384), "picture": torch.zeros(2, 1280)}
        >>> model(seen).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        classes: int,
        hidden: int = 256,
        gated: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.modes = tuple(widths)
        self.into = nn.ModuleDict({mode: nn.Linear(w, hidden) for mode, w in widths.items()})
        self.gate = nn.Linear(sum(widths.values()), len(widths)) if gated else None
        self.out = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))

    def forward(
        self, seen: Mapping[str, torch.Tensor], there: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, C) of products with vectors (B, width) for each mode.

        `there` (B, M), boolean, says which modes a product has; without it, it has all.
        """
        first = seen[self.modes[0]]
        if there is None:
            there = torch.ones(len(first), len(self.modes), dtype=torch.bool, device=first.device)
        weight = there.to(first.dtype)
        # A vector that is missing may hold anything, NaN too.
        known = [
            torch.where(there[:, [column]], seen[mode], 0.0)
            for column, mode in enumerate(self.modes)
        ]
        if self.gate is not None:
            open_ = self.gate(torch.cat(known, dim=1)).masked_fill(~there, -torch.inf)
            # Where all is missing, nothing is let through.
            weight = torch.softmax(open_, dim=1).nan_to_num(0.0)
        maps = zip(self.modes, known, strict=True)
        parts = torch.stack([self.into[mode](vectors) for mode, vectors in maps], dim=1)
        return self.out((parts * weight.unsqueeze(-1)).sum(dim=1))


def fit(
    model: Fusion,
    seen: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    validation: tuple[Mapping[str, torch.Tensor], torch.Tensor],
    teacher: torch.Tensor | None = None,
    alpha: float = 1.0,
    missing: float = 0.0,
    steps: int = 600,
    rate: float = 1e-3,
    decay: float = 1e-2,
    batch_size: int = 128,
    seed: int = 0,
) -> float:
    """Train `model` in place on N products, and keep the state that is best on validation.

    It is looked at every 25 steps. So many steps, and not so many rounds, are taken whatever N is:
    few labels get as much training as many.

    Args:
        seen: for each of the model's modes a tensor (N, width).
        labels: classes (N,), `UNLABELLED` where there is none.
        validation: the same two of other products, all labelled.
        teacher: logits (N, C); the loss is then cross entropy + alpha · KL (chapter 3).
        missing: how often, in training, a product's modes but the first are hidden together.

    Returns the accuracy on validation. Raises ValueError where nothing says what to learn, for no
    step, and for no product to validate with.
    """
    if steps < 1 or not len(validation[1]):
        raise ValueError(
            f"fit: {steps} steps and {len(validation[1])} products of validation; give one or more "
            "of each."
        )
    if teacher is None and bool((labels == UNLABELLED).all()):
        raise ValueError("fit: there is neither a label nor a teacher to learn from.")
    # Without a teacher, what has no label teaches nothing.
    rows = (
        torch.arange(len(labels)) if teacher is not None else labels.ne(UNLABELLED).nonzero()[:, 0]
    )
    best, kept = -1.0, {}
    with runtime.seeded(seed):
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        queue = rows[:0]
        for step in range(1, steps + 1):
            if len(queue) < min(batch_size, len(rows)):
                queue = rows[torch.randperm(len(rows))]
            batch, queue = queue[:batch_size], queue[batch_size:]
            there = torch.ones(len(batch), len(model.modes), dtype=torch.bool)
            there[torch.rand(len(batch)) < missing, 1:] = False
            model.train()
            logits = model({mode: seen[mode][batch] for mode in model.modes}, there)
            if teacher is None:
                loss = nn.functional.cross_entropy(logits, labels[batch])
            else:
                loss = losses.distillation(logits, teacher[batch], labels[batch], alpha)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % EVERY == 0 or step == steps:
                guess = logits_of(model, validation[0]).argmax(dim=1)
                right = float((guess == validation[1]).float().mean())
                if right > best:
                    best, kept = right, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    model.eval()
    return best


def logits_of(
    model: Fusion, seen: Mapping[str, torch.Tensor], there: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits (N, C) of `model` in eval mode, without gradients."""
    model.eval()
    with torch.inference_mode():
        return model(seen, there).clone()


def late(logits: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Late fusion: log-probabilities (N, C) of several classifiers, weighed and added up.

    Raises ValueError unless there is a weight for each.
    """
    if len(logits) != len(weights):
        raise ValueError(f"late: {len(logits)} classifiers, but {len(weights)} weights.")
    pairs = zip(logits, weights, strict=True)
    return sum((weight * one.log_softmax(dim=1) for one, weight in pairs), torch.zeros(()))


def standard(train: np.ndarray, *others: np.ndarray) -> list[torch.Tensor]:
    """Each array (·, width) less the mean of `train` and over its standard deviation, as tensors.

    A mode that is missing is then a row of zeros: its mean. What never varies becomes 0.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-6, spread, np.inf)
    return [
        torch.from_numpy(((one - mean) / spread).astype(np.float32)) for one in (train, *others)
    ]
