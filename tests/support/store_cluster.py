"""A private Cluster of Valkey or Redis for tests: real nodes on this machine, with replicas where a test wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import redis

from services.ports import unused_port
from tests.support.valkey import VALKEY, Keyspace, ValkeyServer, running_valkey
from tests.support.waiting import wait_until

SLOTS = 16384
PRIMARIES = 3
NODE_TIMEOUT_MS = 1500


class StoreCluster(Keyspace):
    """A Cluster that is up. ``url`` is its administrator's, ``user_url`` the product's; both name two of its nodes."""

    def __init__(self, primaries: Sequence[ValkeyServer], replicas: Sequence[ValkeyServer]) -> None:
        self.primaries = primaries
        self.replicas = replicas
        places = ",".join(f"127.0.0.1:{node.port}" for node in primaries[:2])
        self.url = f"redis+cluster://{places}"
        self.user_url = f"redis+cluster://chatglm:p%2Fw%401@{places}"
        self._client: Any = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A plain client that answers bytes; it is kept, for it asks much of the nodes before its first command."""
        if self._client is None:
            self._client = redis.RedisCluster(host="127.0.0.1", port=self.primaries[0].port, socket_timeout=5)
        yield self._client

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()

    def flush(self) -> None:
        """Delete all data; scripts stay known."""
        with self.client() as client:
            client.flushall(target_nodes=redis.RedisCluster.PRIMARIES)


@contextmanager
def running_cluster(
    *, replicas: int = 0, binary: str = VALKEY, tls: Mapping[str, object] | None = None, first_port: int = 0
) -> Iterator[StoreCluster]:
    """Three primaries, the first ``replicas`` of them with a replica each, for the time of a ``with``.

    Args:
        replicas: how many primaries have one.
        binary: the server's program.
        tls: options of a server for its certificates; with them the nodes speak nothing but TLS.
        first_port: where the first node listens; 0: anywhere.
    """
    with ExitStack() as stack:
        ports = [first_port or unused_port(), *(unused_port() for _ in range(PRIMARIES + replicas - 1))]
        nodes = [stack.enter_context(_node(binary, tls, port)) for port in ports]
        primaries, others = nodes[:PRIMARIES], nodes[PRIMARIES:]
        _meet(nodes)
        _share_slots(primaries)
        wait_until(
            lambda: all(_sees(node, len(nodes)) for node in nodes), what="the nodes of a Cluster know each other"
        )
        for replica, primary in zip(others, primaries, strict=False):
            _follow(replica, primary)
        cluster = StoreCluster(primaries, others)
        stack.callback(cluster.close)
        yield cluster


@contextmanager
def _node(binary: str, tls: Mapping[str, object] | None, port: int) -> Iterator[ValkeyServer]:
    options: dict[str, object] = {
        "cluster-enabled": "yes",
        "bind": "127.0.0.1",
        "cluster-node-timeout": NODE_TIMEOUT_MS,
        "cluster-require-full-coverage": "no",
        "repl-diskless-sync-delay": 0,
        **({"port": 0, "tls-port": port, "tls-cluster": "yes", "tls-replication": "yes", **tls} if tls else {}),
    }
    with running_valkey(port=port, binary=binary, options=options) as node:
        yield node


def _meet(nodes: Sequence[ValkeyServer]) -> None:
    for epoch, node in enumerate(nodes, 1):
        with node.client() as client:
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
    with nodes[0].client() as client:
        for other in nodes[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, other.cluster_port)


def _share_slots(primaries: Sequence[ValkeyServer]) -> None:
    bounds = [SLOTS * number // len(primaries) for number in range(len(primaries) + 1)]
    for node, first, end in zip(primaries, bounds, bounds[1:], strict=False):
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)


def _sees(node: ValkeyServer, nodes: int) -> bool:
    with node.client() as client:
        state = client.execute_command("CLUSTER INFO")
        return state["cluster_state"] == "ok" and state["cluster_known_nodes"] == str(nodes) and _slots(state)


def _slots(state: dict[str, str]) -> bool:
    return state["cluster_slots_ok"] == str(SLOTS)


def _follow(replica: ValkeyServer, primary: ValkeyServer) -> None:
    with primary.client() as client:
        name = client.execute_command("CLUSTER", "MYID")
    with replica.client() as client:
        client.execute_command("CLUSTER", "REPLICATE", name)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="a replica follows")
