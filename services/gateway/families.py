"""What a gateway reports: its turns and its requests as metric families."""

from __future__ import annotations

from cluster.metrics.families import Family, counter, gauge
from services.gateway.metrics import GatewaySnapshot
from services.turn_process.families import turn_families
from services.turns.metrics import TurnMetrics


def gateway_families(turns: TurnMetrics, counters: GatewaySnapshot) -> list[Family]:
    """All families of one gateway process, built about once a second."""
    return [
        *turn_families(turns),
        counter("chatglm_http_errors", "HTTP answers that carried an error, by code.", counters.errors, label="code"),
        _requests(counters),
        gauge("chatglm_http_requests_open", "HTTP requests being served.", counters.open_requests),
        counter("chatglm_slow_clients", "Streams dropped because the client did not read.", counters.slow_clients),
    ]


def _requests(counters: GatewaySnapshot) -> Family:
    samples: list[tuple[str, dict[str, str], float]] = [
        ("_total", {"route": route, "status": status}, float(count))
        for (route, status), count in sorted(counters.requests.items())
    ]
    return Family("chatglm_http_requests", "counter", "HTTP requests by route and status class.", samples)
