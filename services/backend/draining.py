"""When a turn leaves a replica that is being stopped.

Serve takes such a replica off the routers' list at once and waits for its turns to end. Most do within the grace; those
that do not are continued elsewhere, so that a scale-down or a rolling update is over in bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection


class DrainWatch:
    """Tells which replicas have been off the list for longer than ``grace_s``. Ask it about once a second."""

    def __init__(self, grace_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._missing_since: dict[str, float] = {}

    def overdue(self, *, running: Collection[str], serving: Collection[str]) -> list[str]:
        """Replicas whose turns go elsewhere now.

        Args:
            running: incarnations that take turns; while there is none, nobody is overdue, for there is no elsewhere.
            serving: incarnations that compute turns of this process.
        """
        now = self._clock()
        missing = [name for name in serving if name not in running] if running else []
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        return [name for name, since in self._missing_since.items() if now - since >= self._grace_s]
