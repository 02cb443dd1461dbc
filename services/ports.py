"""Ports for programs that are told where to listen, some seconds before they do."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Final

# Behind those of Ray's workers, in front of those of Serve's replicas, and below what Linux gives to outgoing
# connections, which would take a port before its program does.
_FIRST: Final = 20_000
_END: Final = 30_000
_TRIES: Final = 100

_OUTGOING: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def unused_port() -> int:
    """A TCP port that nobody listens on, at any address, and that hardly anybody takes meanwhile."""
    end = min(_END, int(_OUTGOING.read_text().split()[0]))
    for _ in range(_TRIES if end > _FIRST else 0):
        port = _FIRST + secrets.randbelow(end - _FIRST)
        if _is_free(port):
            return port
    with socket.socket() as probe:  # a machine that is set up otherwise
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
