"""A primary, a replica and three Sentinels for tests, all on this machine."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from services.ports import unused_port
from tests.support.valkey import PASSWORD, USER, VALKEY, ValkeyServer, running_valkey
from tests.support.waiting import wait_until

MASTER = "mymaster"
SENTINELS = 3


@dataclass
class Watched:
    """The servers as they were at the start, and the ports of the Sentinels."""

    primary: ValkeyServer
    replica: ValkeyServer
    sentinels: list[int]

    @property
    def user_url(self) -> str:
        """For the product's user."""
        places = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{USER}:p%2Fw%401@{places}/{MASTER}"


@contextmanager
def running_sentinel(binary: str = VALKEY, tls: Mapping[str, object] | None = None) -> Iterator[Watched]:
    """All five for the time of a ``with``; the Sentinels take a primary for dead after one second.

    Args:
        binary: the server's program.
        tls: options of a server for its certificates; with them all five speak nothing but TLS.
    """
    with ExitStack() as stack:
        primary, replica = (stack.enter_context(_server(binary, tls)) for _ in range(2))
        with replica.client() as client:
            client.replicaof("127.0.0.1", primary.port)
            wait_until(lambda: client.info("replication").get("master_link_status") == "up", what="the replica follows")
        sentinels = [stack.enter_context(_sentinel(binary, primary.port, tls)) for _ in range(SENTINELS)]
        wait_until(lambda: all(_knows_all(port, tls) for port in sentinels), what="the Sentinels know each other")
        yield Watched(primary, replica, sentinels)


@contextmanager
def _server(binary: str, tls: Mapping[str, object] | None) -> Iterator[ValkeyServer]:
    port = unused_port()
    options = {"bind": "127.0.0.1", "repl-diskless-sync-delay": 0, **_listening(port, tls)}
    with running_valkey(port=port, binary=binary, options=options) as server:
        yield server


def _listening(port: int, tls: Mapping[str, object] | None) -> dict[str, object]:
    return {"port": 0, "tls-port": port, "tls-replication": "yes", **tls} if tls else {"port": port}


@contextmanager
def _sentinel(binary: str, watched: int, tls: Mapping[str, object] | None) -> Iterator[int]:
    """A Sentinel's port. It writes what it learns into the file it was started with."""
    port = unused_port()
    lines = [
        *(f"{name} {value}" for name, value in _listening(port, tls).items()),
        "bind 127.0.0.1",
        f"user {USER} on >{PASSWORD} -@all +sentinel|masters",
        f"sentinel monitor {MASTER} 127.0.0.1 {watched} 2",
        f"sentinel down-after-milliseconds {MASTER} 1000",
        f"sentinel failover-timeout {MASTER} 3000",
    ]
    with tempfile.TemporaryDirectory(prefix="vk") as folder, Path(folder, "log").open("wb") as log:
        file = Path(folder, "sentinel.conf")
        file.write_text("\n".join([*lines, f"dir {folder}\n"]))
        process = subprocess.Popen([binary, str(file), "--sentinel"], stdout=log, stderr=log)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


def _knows_all(port: int, tls: Mapping[str, object] | None) -> bool:
    state = _state(port, tls)
    return state.get("num-slaves") == 1 and state.get("num-other-sentinels") == SENTINELS - 1


def _state(port: int, tls: Mapping[str, object] | None) -> dict[str, Any]:
    certificates: dict[str, Any] = {}
    if tls:
        names = {"ssl_ca_certs": "ca-cert", "ssl_certfile": "cert", "ssl_keyfile": "key"}
        certificates = {"ssl": True} | {option: str(tls[f"tls-{name}-file"]) for option, name in names.items()}
    try:
        with redis.Redis(host="127.0.0.1", port=port, socket_timeout=5, **certificates) as client:
            return dict(client.sentinel_master(MASTER))
    except redis.ConnectionError:
        return {}
