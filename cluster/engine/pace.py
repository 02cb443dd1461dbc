"""How fast the queue moves, so that a refused caller hears an honest waiting time.

Only time in which someone waits is counted: an idle hour says nothing about how long a full queue takes.
"""

from __future__ import annotations

HALF_LIFE_S = 30.0
MIN_S, MAX_S = 1.0, 60.0


class QueuePace:
    """Admissions per second while the queue was not empty, old measurements fading with a half-life of 30 s."""

    def __init__(self) -> None:
        self._admitted = 0.0
        self._busy_s = 0.0
        self._since: float | None = None  # when the stretch of waiting under way was last looked at

    def observe(self, now: float, *, admitted: int, waiting: int) -> None:
        """Record a step that admitted ``admitted`` sequences and left ``waiting`` queued."""
        if self._since is not None:
            elapsed = now - self._since
            fade = 0.5 ** (elapsed / HALF_LIFE_S)
            self._admitted = self._admitted * fade + admitted
            self._busy_s = self._busy_s * fade + elapsed
        self._since = now if waiting else None

    def retry_after_s(self, now: float, waiting: int) -> float:
        """Seconds until the ``waiting`` sequences of now are admitted at the measured pace, within [1, 60]."""
        busy_s = self._busy_s + (now - self._since if self._since is not None else 0.0)
        if not self._admitted:
            return min(max(busy_s, MIN_S), MAX_S)
        return min(max(waiting * busy_s / self._admitted, MIN_S), MAX_S)
