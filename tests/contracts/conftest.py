"""The stores under contract: in memory, on one server and on a Cluster of three; in the heavy runs on Redis too.

A store that is not in memory works as the user of ``services.conversations.acl``, who has the least rights.
"""

from __future__ import annotations

import pytest

from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.redis_index import RedisIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.tenants.memory_keys import MemoryKeyStore
from services.tenants.redis_keys import RedisKeyStore
from tests.support.store_cluster import running_cluster
from tests.support.valkey import REDIS, running_valkey

on_redis = [
    pytest.mark.valkey,
    pytest.mark.heavy,
    pytest.mark.skipif(not REDIS, reason="no redis-server on PATH"),
]
REAL = [
    pytest.param("plain_valkey", marks=pytest.mark.valkey),
    pytest.param("valkey_cluster", marks=pytest.mark.valkey),
    pytest.param("plain_redis", marks=on_redis),
    pytest.param("redis_cluster", marks=on_redis),
]
WITHOUT_TTL = ("c1:{keys}:",)  # tenants' keys live until they are revoked, and revoked ones stay listed


@pytest.fixture(scope="session")
def plain_valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster():
    with running_cluster() as servers:
        yield servers


@pytest.fixture(scope="session")
def plain_redis():
    with running_valkey(binary=REDIS) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster():
    with running_cluster(binary=REDIS) as servers:
        yield servers


@pytest.fixture(params=["memory", *REAL])
def server(request):
    """The server or Cluster behind the store; None for memory. What a test leaves behind must expire."""
    if request.param == "memory":
        yield None
    else:
        yield from cleared(request.getfixturevalue(request.param))


@pytest.fixture(params=REAL)
def real_server(request):
    """The same without memory."""
    yield from cleared(request.getfixturevalue(request.param))


def cleared(server):
    """The server, empty again afterwards."""
    yield server
    leaked = server.keys_without_ttl(allowed=WITHOUT_TTL)
    server.flush()
    assert leaked == []


@pytest.fixture
async def store(server):
    made = MemoryConversationStore() if server is None else RedisConversationStore(server.user_url)
    yield made
    await made.close()


@pytest.fixture
async def index(server):
    made = MemoryIdIndex() if server is None else RedisIdIndex(server.user_url)
    yield made
    await made.close()


@pytest.fixture
async def key_store(server):
    if server is None:
        yield MemoryKeyStore()
        return
    link = RedisLink(server.user_url)
    yield RedisKeyStore(link)
    await link.close()
