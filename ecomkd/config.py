"""Profiles: the one place that sets the scale of every chapter, test and command.

All chapters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

PACKAGED = frozenset({"minilm", "mpnet", "e5-multilingual", "smollm2"})
"""Names of checkpoints that come as packages: see `models.checkpoint` and `generation.load`."""


@dataclass(frozen=True)
class Profile:
    """Scale, seed, hardware and artifact folder of a run.

    `Profile.named("book")` gives a profile by name; keyword arguments replace single fields:
    `Profile.named("book", seed=7)`. Without a name, the environment variable `ECOMKD_PROFILE`
    decides, and without that it is `book`.
    """

    name: str
    seed: int = 18
    """Seed of the simulated shop, of initialisation and of the order of batches."""
    products: int = 3_000
    queries: int = 900
    judged_per_query: int = 10
    unlabelled_pairs: int = 20_000
    """Pairs without a label that the shop gives, or that are mined where it has none."""
    live_pairs: int = 8_000
    """How many of the unlabelled pairs the chapters use while the reader waits."""
    households: int | None = 400
    """How many of the users of a basket shop, drawn at random, the chapters on recommendation use
    while the reader waits; None takes all."""
    teacher: str = "minilm"
    """A checkpoint of the package index (`minilm`, which is bundled, `mpnet`, `e5-multilingual`), a
    name on the model hub, or a folder."""
    warm_up_pairs: int = 12_800
    """Unlabelled pairs on which the teacher, before it sees labels, learns to compare a query and a
    product as the pretrained bi-encoder does; 0 leaves that out."""
    teacher_epochs: int = 6
    """Passes of the teacher over the labelled pairs, and of a bi-encoder (chapter 8) too."""
    teacher_learning_rate: float = 2e-4
    frozen_layers: int | None = 3
    """The lowest layers of the teacher that fine-tuning leaves as they are, with the embeddings
    under them, which students leave alone too; None trains everything. The reason was a fear: that
    words which training shows move away from their neighbours which it does not show. Chapter 2
    could not confirm it."""
    spread_head: bool = False
    """Whether the teacher's head begins between the two rows of its warm-up's head, each label at
    its gain, so that training starts from the warm-up's order. Else it is drawn from the seed, as
    that head was, which was seen to turn the order round; the recorded teachers began so."""
    teacher_dropout: float = 0.1
    """Share of activations that fine-tuning the teacher drops. It reads few labels many times."""
    student_dropout: float = 0.0
    """The same share where soft targets are learnt, as in the warm-up. They are many and each is
    read once or twice, and dropout can keep a small model for hundreds of steps where it starts. A
    student of labels alone gets it too, though it reads its pairs more often."""
    student_layers: tuple[int, ...] = (1, 3, 5)
    """The layers that a student starts from, counted from 0."""
    student_width: int | None = None
    """Hidden size of a narrow student; None keeps the teacher's."""
    student_start: str = "warmed"
    """Whose layers a student starts from: the pretrained `checkpoint`'s, those of the `warmed`-up
    model that the teacher starts from too, or the `teacher`'s own. From the last a student inherits
    what the teacher learnt from labels, with distillation and without."""
    student_epochs: int = 2
    """Passes over labelled and unlabelled pairs together: the number of steps of each row. A
    bi-encoder takes as many over those that the teacher labels and the judged ones."""
    student_learning_rate: float = 3e-4
    alpha: float = 4.0
    """Weight of the soft term. The hard term is a mean over labelled pairs alone: where one pair in
    five has a label, 4 gives the two terms about the same weight per pair."""
    temperature: float = 1.0
    batch_size: int = 32
    max_length: int = 32
    """Tokens of a query–product pair; of what is longer the longer text is cut."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`; `auto` takes a CUDA card where there is one, never mps."""
    precision: str = "auto"
    """`auto`, `fp32`, `bf16` or `fp16`; `auto` takes bf16 where that is quicker. The environment
    variable `ECOMKD_PRECISION` says it for all chapters."""
    streaming: bool = False
    """Read data from the hub row by row instead of downloading all of it first."""
    artifacts: Path = Path("artifacts")

    @classmethod
    def named(cls, name: str | None = None, **overrides) -> Profile:
        """The profile `smoke`, `book` or `gpu`, with single fields replaced.

        Raises ValueError for an unknown name and TypeError for an unknown field.
        """
        name = name or os.environ.get("ECOMKD_PROFILE") or "book"
        if name not in _SCALES:
            raise ValueError(
                f"Unknown profile {name!r}: set ECOMKD_PROFILE to, or pass, one of "
                f"{', '.join(_SCALES)}."
            )
        known = {field.name for field in fields(cls)} - {"name"}
        for key in overrides:
            if key not in known:
                raise TypeError(
                    f"Unknown profile field {key!r}: the fields are {', '.join(sorted(known))}."
                )
        told: dict[str, Any] = {
            "artifacts": artifact_folder(),
            "precision": os.environ.get("ECOMKD_PRECISION") or "auto",
            **_SCALES[name],
        }
        return replace(cls(name=name, **told), **overrides)


def artifact_folder() -> Path:
    """Where a profile keeps what is made once, unless it names another folder."""
    return Path(os.environ.get("ECOMKD_ARTIFACTS") or "artifacts")


_SCALES: dict[str, dict] = {
    "smoke": {
        "seed": 900,
        "products": 200,
        "queries": 60,
        "judged_per_query": 6,
        "unlabelled_pairs": 200,
        "live_pairs": 100,
        "households": 20,
        "warm_up_pairs": 64,
        "teacher_epochs": 1,
        "student_epochs": 1,
    },
    "book": {},
    "gpu": {
        "products": 50_000,
        "queries": 20_000,
        "judged_per_query": 20,
        "unlabelled_pairs": 1_000_000,
        "live_pairs": 1_000_000,
        "households": None,
        "teacher": "google-bert/bert-base-uncased",
        "warm_up_pairs": 100_000,
        "student_dropout": 0.1,
        "student_layers": (2, 5, 8, 11),
        "student_learning_rate": 1e-4,
        "teacher_epochs": 2,
        "teacher_learning_rate": 5e-5,
        "frozen_layers": None,
        "student_epochs": 2,
        "batch_size": 64,
        "max_length": 128,
        "streaming": True,
    },
}
