"""The environment every Ray process of a cluster needs. Set before Ray is imported: it reads these once, at import."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cluster.channel.connection import SECRET_VARIABLE
from cluster.errors import ConfigurationError
from services.ports import unused_port
from services.processes import MARK
from services.state import Run

LONGEST_TURN_S = 900
END_S = 30  # beyond the longest turn: its record is written, its last event read

DEFAULTS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # the Python proxy costs 0.5 ms of CPU per chunk
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # half the cost of a call through the object store
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_TURN_S + 2 * END_S),  # a reload must not cut a running stream
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "3600",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",  # a reload of HAProxy must not meet closed gateways
    "OMP_NUM_THREADS": "1",  # Ray's own guess otherwise; the engine sets its threads itself
}

# Whoever reaches an unauthenticated Ray cluster can run code in it.
RAY_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def prepare(run: Run) -> None:
    """Complete the environment of the driver, from which everything it starts has its own.

    What the operator has set stays, but for the mark.

    Raises:
        ConfigurationError: a cluster is to be joined, and its secret is not here.
    """
    if run.address and SECRET_VARIABLE not in os.environ:
        raise ConfigurationError(
            f"{SECRET_VARIABLE} is not set: --address needs the environment in which `ray start` ran, "
            "see `chatglm-cluster env --help`."
        )
    os.environ[MARK] = run.id
    for name, value in (DEFAULTS if run.address else complete() | of_one_machine(Path(run.folder))).items():
        os.environ.setdefault(name, value)


def complete() -> dict[str, str]:
    """What all nodes of a cluster share: from this process's environment where it is set, else new."""
    wanted = {**DEFAULTS, SECRET_VARIABLE: secrets.token_urlsafe(32)}
    if not any(name in os.environ for name in RAY_AUTHENTICATION):
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    names = [*wanted, *(name for name in RAY_AUTHENTICATION if name in os.environ)]
    return {name: os.environ.get(name, wanted.get(name, "")) for name in dict.fromkeys(names)}


def shared_variables() -> dict[str, str]:
    """What must be equal on all nodes and on the driver."""
    return {name: os.environ[name] for name in (*DEFAULTS, SECRET_VARIABLE) if name != "OMP_NUM_THREADS"}


def of_one_machine(folder: Path) -> dict[str, str]:
    """Ports of Serve's proxies, and HAProxy's files; the defaults collide between two clusters on one machine."""
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(unused_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(unused_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(unused_port()),  # shared, it would answer for the other cluster
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # made by importing torch; nothing of ours is compiled by it
        "SPT_NOENV": "1",  # else Ray's workers write their titles over the mark
    }
