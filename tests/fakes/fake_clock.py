"""Clocks in a test's hands."""

from __future__ import annotations

import time


class FakeClock:
    """Call it for the time in seconds; set or add to ``now`` to move it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class JumpingClock:
    """The monotonic clock, which jumps ahead when told, as for a process that was stopped.

    Attributes:
        ahead: seconds.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead
