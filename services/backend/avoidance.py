"""Replicas that this process takes for dead, for a while.

Serve goes on sending turns to a frozen replica until its own health check fails, so one turn's finding must spare all
others the wait. How many of them a router believes is the router's business (``cluster.router.pinning.avoided``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

HOLD_S = 10.0


class Avoidance:
    """Suspected incarnations of one process; each is forgotten after ``hold_s`` unless it is suspected again."""

    def __init__(self, hold_s: float = HOLD_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold_s = hold_s
        self._clock = clock
        self._until: dict[str, float] = {}  # in order of suspicion

    def suspect(self, incarnation: str) -> None:
        """It has given no sign of life."""
        self._until.pop(incarnation, None)
        self._until[incarnation] = self._clock() + self._hold_s

    def suspects(self) -> list[str]:
        """Whom to pass over now, the latest suspicion first. Budget: 1 µs, once per turn."""
        if not self._until:
            return []
        now = self._clock()
        self._until = {incarnation: until for incarnation, until in self._until.items() if until > now}
        return list(reversed(self._until))
