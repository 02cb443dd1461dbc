"""How many jobs to have in hand while replicas refuse some.

Work that nobody waits for takes what room there is: each job done allows one more at a time, a refusal halves them, and
for a moment no more are taken. So a backlog waits in the queue, where it is shared fairly, and not in retries.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Decides how many jobs may be taken. Pure but for the clock.

    Args:
        most: jobs in hand at once.
        longest_pause_s: after a refusal, however long the replica would have one wait.
        clock: monotonic seconds.
    """

    def __init__(self, most: int, longest_pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._limit = most
        self._paused_until = float("-inf")

    @property
    def allowed(self) -> int:
        """Jobs that there may be in hand, but for pauses."""
        return self._limit

    def room(self, used: int) -> int:
        """How many jobs to take now, with ``used`` in hand."""
        return 0 if self._clock() < self._paused_until else max(self._limit - used, 0)

    def done(self) -> None:
        """A job found room."""
        self._limit = min(self._limit + 1, self._most)

    def refused(self, used: int, retry_after_s: float) -> None:
        """A job, one of ``used`` in hand, found none."""
        now = self._clock()
        if now >= self._paused_until:  # what was taken before the last cut says nothing new
            self._limit = max(used // 2, 1)
        self._paused_until = max(self._paused_until, now + min(retry_after_s, self._longest_pause_s))
