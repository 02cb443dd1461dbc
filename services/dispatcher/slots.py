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
        task.add_done_callback(self._tasks.discard)

    async def ended(self, timeout_s: float) -> None:
        """Wait until all have ended, or so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def cancel(self) -> None:
        """End those that are left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
