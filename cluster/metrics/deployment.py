"""One board per cluster on which every process pins its latest counts, so that any gateway can show them all.

A Ray actor and not Redis: metrics must stay readable while Redis is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import ray

from cluster.metrics.families import Family, Report, render

BOARD_NAME = "chatglm-metrics-board"
BOARD_NAMESPACE = "chatglm-cluster"
REPORT_INTERVAL_S = 0.5
FORGET_AFTER_S = 5.0


class Board:
    """Keeps the latest report of each process for as long as it keeps reporting."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, Report]] = {}
        self._decoder = msgspec.msgpack.Decoder(Report)

    def post(self, data: bytes) -> None:
        """Replace a process's report. ``data`` is MessagePack of ``Report``."""
        report = self._decoder.decode(data)
        self._reports[report.process] = (time.monotonic(), report)

    def text(self) -> bytes:
        """Prometheus text of all processes that reported within the last five seconds."""
        oldest = time.monotonic() - FORGET_AFTER_S
        self._reports = {name: entry for name, entry in self._reports.items() if entry[0] >= oldest}
        return render(report for _, report in self._reports.values())


def board() -> Any:
    """The cluster's board, created by whoever asks first; Ray restarts it when it dies."""
    return (
        ray.remote(Board)
        .options(
            name=BOARD_NAME,
            namespace=BOARD_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
        )
        .remote()
    )


class Reporter:
    """Posts one process's families twice a second."""

    def __init__(self, process: str, families: Callable[[], list[Family]]) -> None:
        self._process = process
        self._families = families
        self._board = board()

    async def run(self) -> None:
        """Report until cancelled. A board that is being restarted misses a report; the next one is complete."""
        while True:
            report = Report(self._process, self._families())
            self._board.post.remote(msgspec.msgpack.encode(report))
            await asyncio.sleep(REPORT_INTERVAL_S)

    async def text(self) -> bytes:
        """Prometheus text of the whole cluster."""
        data: bytes = await self._board.text.remote()
        return data
