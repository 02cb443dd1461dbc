"""A sink that keeps what came and lets a test wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from cluster.engine.client import StepOutput
from cluster.protocol import Finish, Tokens


class Listener:
    """A sink.

    Attributes:
        ids: per attempt its ids, which must come without a gap.
        finishes: per attempt its last event.
        threads: where the sink was called.
        calls: how often.
    """

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.finishes: dict[int, Finish] = {}
        self.threads: set[int] = set()
        self.calls = 0
        self._begins: dict[int, int] = {}
        self._changed = asyncio.Event()

    def __call__(self, outputs: Sequence[StepOutput]) -> None:
        self.calls += 1
        self.threads.add(threading.get_ident())
        for attempt, event in outputs:
            assert attempt not in self.finishes, "an event came after the last one"
            if isinstance(event, Tokens):
                self._take(attempt, event)
            else:
                self.finishes[attempt] = event
        self._changed.set()

    def _take(self, attempt: int, tokens: Tokens) -> None:
        ids = self.ids.setdefault(attempt, [])
        begin = self._begins.setdefault(attempt, tokens.start)
        assert tokens.start == begin + len(ids), "ids are missing"
        ids.extend(tokens.ids)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at after every call."""
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def finish(self, attempt: int) -> Finish:
        """Wait for the attempt's last event."""
        await self.until(lambda: attempt in self.finishes)
        return self.finishes[attempt]
