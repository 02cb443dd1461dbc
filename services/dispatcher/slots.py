"""The turns that a dispatcher carries out at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Slots:
    """A bounded set of tasks.

    Args:
        limit: how many at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        """How many more there may be now."""
        return max(self._limit - len(self._tasks), 0)

    @property
    def used(self) -> int:
        """How many there are now."""
        return len(self._tasks)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin one more; the caller has looked whether there is room."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    async def any_free(self) -> None:
        """Return once there is room."""
        while not self.free:
            self._freed.clear()
            await self._freed.wait()

    async def drained(self, timeout_s: float) -> None:
        """Wait until all have ended; after ``timeout_s`` they are cancelled."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._freed.set()
