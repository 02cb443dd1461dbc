"""Events on their way from a turn's owner to its caller.

The owner never waits for the caller: what lies here is bounded by the answer's own length. Each event leaves only while
the lease certainly holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from cluster.errors import ClusterError
from services.turns.events import TurnEvent, TurnStarted
from services.turns.ticket import Ticket


class Outbox:
    """An async iterator with one reader, or none. It ends with ``close``, or raises the error that was given there."""

    def __init__(self, *, is_read: bool = True) -> None:
        self._is_read = is_read
        self._events: deque[TurnStarted | TurnEvent] = deque()
        self._error: Exception | None = None
        self._is_closed = False
        self._news = asyncio.Event()
        self._gate: Ticket | None = None

    def guard(self, gate: Ticket) -> None:
        """From now on let an event out only while ``gate`` allows it."""
        self._gate = gate

    def put(self, events: Iterable[TurnStarted | TurnEvent]) -> None:
        """More events; without a reader they are nobody's."""
        if self._is_read:
            self._events.extend(events)
            self._news.set()

    def mute(self) -> None:
        """The reader has left."""
        self._is_read = False
        self._events.clear()

    def close(self, error: Exception | None = None) -> None:
        """No more events; the first call counts."""
        if self._is_closed:
            return
        self._is_closed = True
        self._error = error
        self._news.set()
        if self._gate is not None and isinstance(error, ClusterError):
            self._gate.end(error)

    def __aiter__(self) -> Outbox:
        return self

    async def __anext__(self) -> TurnStarted | TurnEvent:
        """The next event.

        Raises:
            Exception: the turn ended in it, or the lease was lost; events still here stay unsaid in that case.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._gate is not None and not self._gate.can_emit():
            await self._gate.emittable()
        return self._events.popleft()
