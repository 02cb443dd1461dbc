"""Which replicas are loading, and why those that failed did.

A replica that cannot load is gone before anybody can ask it, and its successor knows nothing of it. So each attempt
signs in and out at the board, by the rank that all attempts share. An attempt that never signs out was ended from
outside, most often because the machine ran out of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

ENDED_WITHOUT_WORD: Final = (
    "The process was ended from outside while it loaded; most often the machine has run out of memory."
)
FORGET_AFTER_S: Final = 900.0  # without any news: the rank was given up, for instance by scaling down


class Loading(msgspec.Struct, frozen=True):
    """A rank that has no running replica yet.

    Attributes:
        rank: the replica's rank.
        incarnation: the latest attempt.
        node: address of the machine it runs on.
        failures: attempts in a row that failed.
        reason: why the latest of them did, one sentence; "" without any.
        reason_node: the machine that one ran on.
    """

    rank: int
    incarnation: str
    node: str
    failures: int = 0
    reason: str = ""
    reason_node: str = ""


class LoadingBook:
    """The attempts of all ranks; remembers one line per rank."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[int, Loading] = {}
        self._open: set[int] = set()  # ranks whose attempt has not signed out
        self._heard: dict[int, float] = {}

    def begin(self, rank: int, incarnation: str, node: str) -> None:
        """An attempt of ``rank`` begins."""
        before = self._entries.get(rank)
        if before is not None and rank in self._open and before.incarnation != incarnation:
            self.fail(rank, before.incarnation, ENDED_WITHOUT_WORD)
        known = self._entries.get(rank) or Loading(rank, incarnation, node)
        self._write(msgspec.structs.replace(known, incarnation=incarnation, node=node))
        self._open.add(rank)

    def fail(self, rank: int, incarnation: str, reason: str) -> int:
        """The attempt has failed; returns how many in a row have. One that is not the rank's latest changes nothing."""
        entry = self._entries.get(rank)
        if entry is None or entry.incarnation != incarnation:
            return 1
        entry = msgspec.structs.replace(entry, failures=entry.failures + 1, reason=reason, reason_node=entry.node)
        self._write(entry)
        self._open.discard(rank)
        return entry.failures

    def done(self, rank: int) -> None:
        """The rank has a replica that serves."""
        self._entries.pop(rank, None)
        self._heard.pop(rank, None)
        self._open.discard(rank)

    def entries(self) -> list[Loading]:
        """All lines, by rank."""
        oldest = self._clock() - FORGET_AFTER_S
        for rank in [rank for rank, heard in self._heard.items() if heard < oldest]:
            self.done(rank)
        return [self._entries[rank] for rank in sorted(self._entries)]

    def _write(self, entry: Loading) -> None:
        self._entries[entry.rank] = entry
        self._heard[entry.rank] = self._clock()
