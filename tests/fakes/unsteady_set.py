"""A timed set that goes away when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.errors import StoreUnavailableError
from services.conversations.timed_set import MemoryTimedSet


class UnsteadySet(MemoryTimedSet):
    """The memory set with switches.

    Attributes:
        is_away: every call raises StoreUnavailableError.
        calls_left: it goes away after so many calls; -1: never.
        refused: calls that were refused.
    """

    def __init__(self, *, most: int = 0, clock: Callable[[], float]) -> None:
        super().__init__(most=most, clock=clock)
        self.is_away = False
        self.calls_left = -1
        self.refused = 0

    async def move(self, member: str, *, in_s: float) -> int:
        self._pass()
        return await super().move(member, in_s=in_s)

    async def remove(self, member: str) -> None:
        self._pass()
        await super().remove(member)

    async def look(self, *, limit: int, hide_s: float) -> Sequence[str]:
        self._pass()
        return await super().look(limit=limit, hide_s=hide_s)

    async def now_ms(self) -> int:
        self._pass()
        return await super().now_ms()

    def _pass(self) -> None:
        if self.calls_left == 0:
            self.is_away, self.calls_left = True, -1
        self.calls_left -= self.calls_left > 0
        if self.is_away:
            self.refused += 1
            raise StoreUnavailableError("The history store does not answer.", retry_after_s=1.0)
