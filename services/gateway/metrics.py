"""What this gateway counts for itself.

Plain ints of one event loop, incremented without locks; whoever builds the cluster's snapshot reads ``snapshot()``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """Counters at one moment.

    Attributes:
        requests: (route template, status class such as ``2xx``, or ``gone`` for clients that left first) → requests.
        errors: stable error code → answers and streams that ended with it.
        open_requests: requests being served now.
        slow_clients: streams dropped because the client did not read.
    """

    requests: dict[tuple[str, str], int]
    errors: dict[str, int]
    open_requests: int
    slow_clients: int


@dataclass(slots=True)
class GatewayCounters:
    """Mutable counters; see GatewaySnapshot for their meaning."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    open_requests: int = 0
    slow_clients: int = 0

    def snapshot(self) -> GatewaySnapshot:
        """A copy that later events do not change."""
        return GatewaySnapshot(dict(self.requests), dict(self.errors), self.open_requests, self.slow_clients)
