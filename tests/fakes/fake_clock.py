"""A clock that stands still until told otherwise."""

from __future__ import annotations


class FakeClock:
    """Call it for the time in seconds; set or add to ``now`` to move it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
