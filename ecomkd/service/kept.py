"""Answers that are given again without asking the engine. Chapter 9."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from ecomkd.service.contract import Hit


class Kept:
    """The last answers of an engine, under what was asked; those asked longest ago go first.

    They are forgotten where another engine, or another version of it, has come into its place. An
    answer is not kept where the engine tells no version, or where its hits come from another one,
    as those of a catalogue that changes under the engine do.
    """

    def __init__(self, room: int, most: int, registry: CollectorRegistry):
        self._room, self._most = room, most
        self._of: tuple[Any, str | None] = (None, None)
        self._answers: OrderedDict[Hashable, Sequence[Hit]] = OrderedDict()
        self._again = Counter(
            "ecomkd_answered_again",
            "Searches that were answered without the engine.",
            registry=registry,
        )

    def find(self, engine: Any, version: str | None, asked: Hashable) -> Sequence[Hit] | None:
        """The hits that this engine, which answers now, has given in this version, or None."""
        if (engine, version) != self._of:
            self._of = engine, version
            self._answers.clear()
        if asked not in self._answers:
            return None
        self._answers.move_to_end(asked)
        self._again.inc()
        return self._answers[asked]

    def keep(self, engine: Any, version: str | None, asked: Hashable, hits: Sequence[Hit]) -> None:
        """Remember an answer that this engine gave, asked when it was of this version, unless
        another one has taken its place meanwhile."""
        if version is None or getattr(hits, "version", version) != version:
            return
        # Deep pages are rarely asked again, and hold many products.
        if self._room == 0 or len(hits) > self._most or (engine, version) != self._of:
            return
        self._answers[asked] = hits
        if len(self._answers) > self._room:
            self._answers.popitem(last=False)
