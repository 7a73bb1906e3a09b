"""What the key of an artefact is made of: data, settings, and checkpoints, each by its content.

Neither source text nor library versions nor hardware: a stage's own number stands for its code
(see `artifacts.stage`). All chapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from ecomkd.artifacts import data_digest, known_digest
from ecomkd.config import PACKAGED, Profile
from ecomkd.data.schema import TEXT

_COLUMNS = ("query_id", "product_id", "query", *TEXT, "label")
_OF_A_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")


def digests(*parts: Dataset) -> list[list[Any]]:
    """What each set of pairs adds to the key of an artefact: its ids, texts and labels.

    The labels are class numbers, so the names of the classes stand beside them: 0 is the best of
    ESCI's and the worst of the grades.
    """
    return [
        [data_digest(part, _COLUMNS), getattr(part.features["label"], "names", None)]
        for part in parts
    ]


def identity(folder: Path | str) -> list[list[str]]:
    """What makes a saved model itself: its weights, shape and tokenizer, not its folder's name.

    A list of [file's name, SHA-256]; each file is hashed once a process.
    """
    own = [
        [path.name, known_digest(path)]
        for path in sorted(Path(folder).iterdir())
        if path.suffix in (".safetensors", ".model")
        or path.name in ("config.json", "generation_config.json")
        or path.name.startswith(_OF_A_TOKENIZER)
    ]
    return own + _of_its_modules(Path(folder))


def _of_its_modules(folder: Path) -> list[list[str]]:
    """The same of the folders that a sentence encoder has below its own, such as `1_Pooling`.

    A pooling that takes the mean adds nothing, so that encoders known without it keep their keys.
    """
    if not (folder / "modules.json").is_file():
        return []
    poolings = [path for path in folder.glob("*_Pooling/config.json") if not _takes_mean(path)]
    return [
        [path.relative_to(folder).as_posix(), known_digest(path)]
        for path in sorted([*folder.glob("[0-9]*_*/*.safetensors"), *poolings])
    ]


def _takes_mean(path: Path) -> bool:
    settings = json.loads(path.read_text("utf-8"))
    before = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on]
    return settings.get("pooling_mode") == "mean" or before == ["pooling_mode_mean_tokens"]


def known_as(checkpoint: Path | str) -> str | list[list[str]]:
    """What stands for a checkpoint in a key: a folder's `identity`, or a name as it is.

    A name of `PACKAGED` is that checkpoint, whatever folder of this name lies here.
    """
    if str(checkpoint) in PACKAGED:
        return str(checkpoint)
    folder = Path(checkpoint)
    return (identity(folder) if folder.is_dir() else []) or str(checkpoint)


def settings_of(profile: Profile, *names: str) -> dict[str, Any]:
    """What a profile adds to the key of an artefact: seed, sizes of batches and texts, and `names`.

    Where the `teacher` is a folder, its content stands for it.
    """
    chosen = {name: getattr(profile, name) for name in ("seed", "batch_size", "max_length", *names)}
    if "teacher" in chosen:
        chosen["teacher"] = known_as(profile.teacher)
    return chosen


def batches(pairs: int, profile: Profile) -> int:
    """How many batches so many pairs make."""
    return -(-pairs // profile.batch_size)
