"""Answers that are given again without asking the engine. Chapter 9."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from prometheus_client import CollectorRegistry, Counter

from ecomkd.service.contract import Hit


class Kept:
    """The last answers to searches; where there is no more room, the one asked longest ago goes.

    An answer is kept under what was asked and under the version of the engine. It is not kept where
    the engine tells no version, or where its hits come from another one, as those of a catalogue
    that changes under the engine do: there an old answer would be given for a new catalogue.
    """

    def __init__(self, room: int, registry: CollectorRegistry):
        self._room = room
        self._answers: OrderedDict[tuple[str, Hashable], Sequence[Hit]] = OrderedDict()
        self._given = Counter(
            "ecomkd_kept_answers",
            "Searches that were answered without the engine.",
            registry=registry,
        )

    def find(self, version: str | None, asked: Hashable) -> Sequence[Hit] | None:
        """The hits of an earlier answer of this version, or None."""
        if version is None or (version, asked) not in self._answers:
            return None
        self._answers.move_to_end((version, asked))
        self._given.inc()
        return self._answers[version, asked]

    def keep(self, version: str | None, asked: Hashable, hits: Sequence[Hit]) -> None:
        """Remember an answer that the engine of this version gave."""
        if self._room == 0 or version is None or getattr(hits, "version", version) != version:
            return
        self._answers[version, asked] = hits
        while len(self._answers) > self._room:
            self._answers.popitem(last=False)
