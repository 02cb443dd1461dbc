"""A whole cluster on an operator's store: conversations go on after a failover, and nothing is restarted for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from openai import InternalServerError, OpenAI

from tests.support.cluster import MODEL, ClusterProcess
from tests.support.sentinel import Watched, running_sentinel
from tests.support.store_cluster import StoreCluster, running_cluster
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.valkey, pytest.mark.timeout(300)]


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[Watched | StoreCluster]:
    """Servers with others to take over."""
    with running_sentinel() if request.param == "sentinel" else running_cluster(replicas=3) as made:
        yield made


def kill_a_primary(servers: Watched | StoreCluster) -> None:
    """The only one, or one of three."""
    (servers.primary if isinstance(servers, Watched) else servers.primaries[0]).kill()


def says(client: OpenAI, conversation: str) -> bool:
    """Whether a turn of the conversation is completed; refused turns are 503."""
    try:
        reply = client.responses.create(model=MODEL, input="Hello!", conversation=conversation, max_output_tokens=8)
    except InternalServerError as error:
        if error.status_code != 503:
            raise
        return False
    return reply.status in {"completed", "incomplete"}


def test_conversations_go_on_after_a_failover(tmp_path: Path, servers: Watched | StoreCluster) -> None:
    """Of every conversation, in whichever part of the store it is."""
    cluster = ClusterProcess(tmp_path / "state", "--replicas", "1", "--redis-url", servers.user_url)
    cluster.start()
    try:
        assert "keeps nothing on disk" in cluster.output
        client = cluster.client()
        conversations = [client.conversations.create().id for _ in range(6)]
        assert all(says(client, conversation) for conversation in conversations)
        kill_a_primary(servers)
        for conversation in conversations:
            wait_until(partial(says, client, conversation), timeout_s=30, what="somebody takes over")
            items = client.conversations.items.list(conversation).data
            assert [getattr(item, "role", "") for item in items] == ["assistant", "user"] * 2
        assert httpx.get(f"{cluster.url}/readyz").json()["checks"]["history"] == "ok"
    finally:
        cluster.stop()
