"""One board per cluster on which every process pins its latest counts, so that any gateway can show them all.

A Ray actor and not Redis: metrics must stay readable while Redis is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError

from cluster.metrics.board import Board, Snapshot
from cluster.metrics.families import Family, Report

BOARD_NAME = "chatglm-metrics-board"
BOARD_NAMESPACE = "chatglm-cluster"
REPORT_INTERVAL_S = 0.5
ANSWER_TIMEOUT_S = 2.0


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

    async def snapshot(self) -> Snapshot | None:
        """The whole cluster's reports as data, and who is loading; None when the board does not answer in time."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                data: bytes = await self._board.snapshot.remote()
        except (RayError, TimeoutError):
            return None
        return msgspec.msgpack.decode(data, type=Snapshot)


class LoadingDesk:
    """Signs one replica's loading in and out at the board. A board that is away costs a line there, nothing else."""

    def __init__(self, *, rank: int, incarnation: str) -> None:
        self.rank = rank
        self.incarnation = incarnation
        self.node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray does not annotate it
        self._board = board()

    def begin(self) -> None:
        """Loading begins."""
        self._board.begin_loading.remote(self.rank, self.incarnation, self.node)

    async def fail(self, reason: str) -> int:
        """Loading has failed; returns how many attempts of this rank have, in a row."""
        answer = self._board.fail_loading.remote(self.rank, self.incarnation, reason)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return int(await answer)
        except (RayError, TimeoutError):
            return 1

    def done(self) -> None:
        """The replica serves."""
        self._board.end_loading.remote(self.rank)
