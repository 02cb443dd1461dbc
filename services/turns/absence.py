"""How long a turn goes on without a caller.

A reader of its record, on any gateway, is the caller come back: as long as it says that it is there the wait begins
anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Absence:
    """Calls ``on_over`` when nobody came back in time.

    Args:
        on_over: called once.
        clock: monotonic seconds.
    """

    def __init__(self, on_over: Callable[[], None], clock: Callable[[], float]) -> None:
        self._on_over = on_over
        self._clock = clock
        self._wait_s = 0.0
        self._until: float | None = None  # while the caller is away
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wait_s: float) -> None:
        """The caller has left. Without effect when the turn is over."""
        if not self._is_over:
            self._wait_s = wait_s
            self._until = self._clock() + wait_s
            self._look()

    def extend(self, seen_s: float) -> None:
        """A reader is there, and will look again within ``seen_s``. Without effect while the caller is there."""
        if self._until is not None and seen_s:
            self._until = max(self._until, self._clock() + max(seen_s, self._wait_s))

    def end(self) -> None:
        """The turn is over."""
        self._is_over = True
        self._until = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._until is None:
            return
        left_s = self._until - self._clock()
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
        else:
            self._on_over()
