"""The files that single seeds of a benchmark leave, one process each, on their way to a record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ecomkd.config import Profile


def profile() -> dict:
    """The profile in use, but for the seed and the folder: what all seeds have to share."""
    own = asdict(Profile.named())
    return {name: value for name, value in own.items() if name not in ("seed", "artifacts")}


def read(folder: Path, same: Sequence[str]) -> list[dict]:
    """The results `seed*.json` of a folder, in the order of their names.

    Exits with one sentence where there are none, or where they differ in an entry of `same`.
    """
    files = sorted(folder.glob("seed*.json"))
    if not files:
        raise SystemExit(f"{folder}: no file of a seed; run this script with --seeds first.")
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    unlike = [name for name in same if any(part[name] != parts[0][name] for part in parts)]
    if unlike:
        raise SystemExit(f"{folder}: the files differ in {', '.join(unlike)}; remove the old ones.")
    return parts
