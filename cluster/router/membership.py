"""Which replicas take turns, as this process' router was last told by Serve.

A replica that is being stopped leaves the list at once, long before it ends: that is how the owners of its turns learn
that it drains. Serve ships the router's class by value, so the class finds this module by its name.
"""

from __future__ import annotations

from collections.abc import Iterable


class Membership:
    """The running replicas of the one deployment that this process routes to. Written and read by any thread."""

    def __init__(self) -> None:
        self._incarnations: frozenset[str] = frozenset()

    def publish(self, incarnations: Iterable[str]) -> None:
        """Replace the list."""
        self._incarnations = frozenset(incarnations)

    def incarnations(self) -> frozenset[str]:
        """Ids of the running replicas; empty before the first broadcast, or when none runs."""
        return self._incarnations


MEMBERSHIP = Membership()
