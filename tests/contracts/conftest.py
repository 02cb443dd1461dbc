"""The stores under contract: in memory, on one server, on a Cluster of one node and of three, of Valkey and of Redis.

A store that is not in memory works as the user of ``services.conversations.acl``, who has the least rights.
"""

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
from tests.support.lossy import lossy
from tests.support.store_cluster import running_cluster
from tests.support.stores import KINDS, REAL, parted
from tests.support.valkey import REDIS, WITHOUT_TTL, running_valkey


@pytest.fixture(scope="session")
def plain_valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_mode():
    with running_valkey(cluster=True) as server:
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


@pytest.fixture(params=KINDS)
def kind(request):
    """Which store is under contract."""
    return request.param


@pytest.fixture
def server(kind, request):
    """The server or Cluster behind the store; None for memory. What a test leaves behind must expire."""
    if kind == "memory":
        yield None
    else:
        yield from cleared(request.getfixturevalue(parted(kind)[0]))


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
async def link(kind, server):
    """None for memory."""
    if server is None:
        yield None
        return
    made = RedisLink(lossy(server) if parted(kind)[1] else server.user_url)
    yield made
    await made.close()


@pytest.fixture
def store(link):
    return MemoryConversationStore() if link is None else RedisConversationStore(link)


@pytest.fixture
async def index(link):
    made = MemoryIdIndex() if link is None else RedisIdIndex(link)
    yield made
    await made.close()


@pytest.fixture
def key_store(link):
    return MemoryKeyStore() if link is None else RedisKeyStore(link)


@pytest.fixture
def queue(link):
    return MemoryQueue(BACKGROUND) if link is None else RedisQueue(link, BACKGROUND)


@pytest.fixture
def due(link):
    return MemoryDueIndex() if link is None else RedisDueIndex(link)
