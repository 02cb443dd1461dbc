"""The environment every Ray process of a cluster needs. Set before Ray is imported: it reads these once, at import."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping

from cluster.channel.connection import SECRET_VARIABLE

LONGEST_TURN_S = 900

DEFAULTS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # the Python proxy costs 0.5 ms of CPU per chunk
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # half the cost of a call through the object store
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_TURN_S),  # a reload must not cut a running stream
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "3600",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "OMP_NUM_THREADS": "1",  # Ray's own guess otherwise; the engine sets its threads itself
}


# Whoever reaches an unauthenticated Ray cluster can run code in it.
RAY_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def prepare() -> None:
    """Complete this process's environment; what the operator has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(SECRET_VARIABLE, secrets.token_urlsafe(32))
    if not any(name in os.environ for name in RAY_AUTHENTICATION):
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
        os.environ.setdefault(name, str(_free_port()))  # the defaults collide between two clusters on one machine


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
