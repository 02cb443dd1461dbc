"""What the board keeps: each process's latest report for as long as it keeps reporting, and who is loading.

Plain Python; ``cluster.metrics.deployment`` makes a Ray actor of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from cluster.metrics.families import Report, gauge, render
from cluster.metrics.loading import Loading, LoadingBook

FORGET_AFTER_S = 5.0


class Snapshot(msgspec.Struct, frozen=True):
    """Everything on the board at one moment."""

    reports: list[Report] = []
    loading: list[Loading] = []


class Board:
    """Keeps the latest report of each process, and the replicas that are loading."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, Report]] = {}
        self._loading = LoadingBook(clock)
        self._decoder = msgspec.msgpack.Decoder(Report)

    def post(self, data: bytes) -> None:
        """Replace a process's report. ``data`` is MessagePack of ``Report``."""
        report = self._decoder.decode(data)
        self._reports[report.process] = (self._clock(), report)

    def text(self) -> bytes:
        """Prometheus text of all processes that reported within five seconds, and of ranks that cannot load."""
        return render([*self._latest(), *self._load_failures()])

    def snapshot(self) -> bytes:
        """MessagePack of ``Snapshot``: the same reports as data, and who is loading."""
        return msgspec.msgpack.encode(Snapshot(self._latest(), self._loading.entries()))

    def begin_loading(self, rank: int, incarnation: str, node: str) -> None:
        """See ``LoadingBook.begin``."""
        self._loading.begin(rank, incarnation, node)

    def fail_loading(self, rank: int, incarnation: str, reason: str) -> int:
        """See ``LoadingBook.fail``."""
        return self._loading.fail(rank, incarnation, reason)

    def end_loading(self, rank: int) -> None:
        """See ``LoadingBook.done``."""
        self._loading.done(rank)

    def _load_failures(self) -> list[Report]:
        """Nothing while all is well: the board is no process that anybody wants to see then."""
        failures = {str(entry.rank): float(entry.failures) for entry in self._loading.entries() if entry.failures}
        text = "Failed attempts in a row to load a replica, by rank; gone once it serves."
        return [Report("board", [gauge("chatglm_load_failures", text, failures, label="rank")])] if failures else []

    def _latest(self) -> list[Report]:
        oldest = self._clock() - FORGET_AFTER_S
        self._reports = {name: entry for name, entry in self._reports.items() if entry[0] >= oldest}
        return [report for _, report in self._reports.values()]
