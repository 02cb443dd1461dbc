"""The stores under contract: in memory, on a Valkey server, and on a cluster-mode one that refuses to span slots."""

from __future__ import annotations

import pytest

from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.redis_index import RedisIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryDueIndex, MemoryQueue
from services.queue.redis_queue import RedisQueue
from services.tenants.memory_keys import MemoryKeyStore
from services.tenants.redis_keys import RedisKeyStore
from tests.support.valkey import running_valkey

KINDS = [
    "memory",
    pytest.param("valkey", marks=pytest.mark.valkey),
    pytest.param("cluster-mode", marks=pytest.mark.valkey),
]
# Tenants' keys live until they are revoked, and revoked ones stay listed; jobs and what is due live until they are done.
WITHOUT_TTL = ("c1:{keys}:", "c1:q:", "c1:due:")


@pytest.fixture(scope="session")
def plain_valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_valkey():
    with running_valkey(cluster=True) as server:
        yield server


@pytest.fixture(params=KINDS)
def server(request):
    """The server behind the store; None for memory. What a test leaves behind must expire."""
    if request.param == "memory":
        yield None
        return
    valkey = request.getfixturevalue("plain_valkey" if request.param == "valkey" else "cluster_valkey")
    yield valkey
    leaked = valkey.keys_without_ttl(allowed=WITHOUT_TTL)
    valkey.flush()
    assert leaked == []


@pytest.fixture
async def store(server):
    made = MemoryConversationStore() if server is None else RedisConversationStore(server.url)
    yield made
    await made.close()


@pytest.fixture
async def index(server):
    made = MemoryIdIndex() if server is None else RedisIdIndex(server.url)
    yield made
    await made.close()


@pytest.fixture
async def key_store(server):
    if server is None:
        yield MemoryKeyStore()
        return
    link = RedisLink(server.url)
    yield RedisKeyStore(link)
    await link.close()


@pytest.fixture
async def link(server):
    """None for memory."""
    made = None if server is None else RedisLink(server.url)
    yield made
    if made is not None:
        await made.close()


@pytest.fixture
def queue(link):
    return MemoryQueue(BACKGROUND) if link is None else RedisQueue(link, BACKGROUND)


@pytest.fixture
def due(link):
    return MemoryDueIndex() if link is None else RedisDueIndex(link)
