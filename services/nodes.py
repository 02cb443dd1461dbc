"""What every node of a joined Ray cluster must have, asked of each and told to the operator. No Ray in here."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ConfigurationError

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself."""

    differing: tuple[str, ...]
    """Variables that are not what the driver has."""
    has_model: bool


def answers(address: str) -> bool:
    """Whether anybody listens at host:port; Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def digests(variables: Mapping[str, str], salt: bytes) -> dict[str, bytes]:
    """Keyed digests by name: values are compared without being sent."""
    return {name: hmac.digest(salt, value.encode(), hashlib.sha256) for name, value in variables.items()}


def inspect_node(expected: Mapping[str, bytes], salt: bytes, model_path: str) -> NodeReport:
    """Compare this process's environment with what the driver has, and look for the model."""
    here = digests({name: os.environ.get(name, "") for name in expected}, salt)
    differing = [name for name, digest in expected.items() if not hmac.compare_digest(digest, here[name])]
    return NodeReport(tuple(differing), Path(model_path, "config.json").is_file())


def require(ip: str, report: NodeReport, model_path: str) -> None:
    """Raise ConfigurationError, naming node and thing, when a node lacks what it needs."""
    if report.differing:
        raise ConfigurationError(
            f"Node {ip} has another {', '.join(report.differing)} than this shell; on every machine, set the "
            "environment that one `chatglm-cluster env` has printed, then run `ray start`."
        )
    if not report.has_model:
        raise ConfigurationError(f"Node {ip} has no checkpoint at {model_path}; every node needs it there.")
