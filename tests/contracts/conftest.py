"""The stores under contract, and their servers."""

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
from tests.support.lossy import LossyRedis
from tests.support.stores import KINDS, REDIS
from tests.support.valkey import running_valkey

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


@pytest.fixture(scope="session")
def plain_redis():
    with running_valkey(program=REDIS) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_redis():
    with running_valkey(program=REDIS, cluster=True) as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request):
    """Which store is under contract."""
    return request.param


@pytest.fixture
def server(kind, request):
    """The server behind the store; None for memory. What a test leaves behind must expire."""
    if kind == "memory":
        yield None
        return
    program, *modes = kind.split("-")
    running = request.getfixturevalue(f"{'cluster' if 'cluster' in modes else 'plain'}_{program}")
    yield running
    leaked = running.keys_without_ttl(allowed=WITHOUT_TTL)
    running.flush()
    assert leaked == []


@pytest.fixture
async def store(kind, server):
    if server is None:
        yield MemoryConversationStore()
        return
    made = RedisConversationStore(LossyRedis.from_url(server.url) if "twice" in kind else server.url)
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
