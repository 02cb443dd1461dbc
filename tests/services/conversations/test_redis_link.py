from __future__ import annotations

import asyncio

import pytest
from redis import exceptions

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.redis_index import MAX_PENDING, RedisIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Sampled

NOBODY = "unix:///nonexistent/socket"

AWAY = [
    exceptions.ConnectionError("refused"),
    exceptions.TimeoutError("slow"),
    exceptions.BusyLoadingError("loading its data"),
    exceptions.OutOfMemoryError("OOM"),
    exceptions.ReadOnlyError("a replica"),
    exceptions.ClusterDownError("CLUSTERDOWN no quorum"),
    exceptions.ResponseError("MISCONF the disk is full"),
    OSError("no route"),
]


@pytest.fixture
async def link():
    made = RedisLink(NOBODY)
    yield made
    await made.close()


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
async def test_a_server_that_cannot_serve_now_is_unavailable(link, error):
    """Whatever keeps it from serving, the caller hears one error and when to come back."""

    async def fail(redis):
        raise error

    with pytest.raises(StoreUnavailableError) as caught:
        await link.call(fail)
    assert (caught.value.retry_after_s, caught.value.__cause__) == (1.0, error)


async def test_a_mistake_of_ours_is_not_taken_for_an_absence(link):
    """A wrong command must be seen, not retried for ever."""

    async def fail(redis):
        raise exceptions.ResponseError("WRONGTYPE Operation against a key")

    with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
        await link.call(fail)


async def test_an_operation_that_hangs_is_cut_off(link):
    """The operation has one deadline, however many commands it has."""
    with pytest.raises(StoreUnavailableError):
        await link.call(lambda _: asyncio.Event().wait(), timeout_s=0.01)


async def test_nobody_at_the_address_is_unavailable(link):
    """A missing socket is an absence like any other."""
    with pytest.raises(StoreUnavailableError):
        await RedisConversationStore(link).ping()


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://host", "redis://h:port/0"])
def test_a_url_that_cannot_be_used_stops_the_process(url):
    """It is said at once, not at the first turn."""
    with pytest.raises(ConfigurationError, match="Redis URL"):
        RedisLink(url)


def test_a_bad_urls_password_is_not_repeated():
    """Configuration errors end in logs."""
    with pytest.raises(ConfigurationError) as caught:
        RedisLink("http://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://user:pw@h:1/2", "unix:///tmp/s"])
async def test_all_three_kinds_of_url_are_understood(url):
    """TCP, TLS and unix sockets; nothing is dialled before the first command."""
    await RedisLink(url).close()


async def test_an_index_with_too_many_writes_waiting_drops_the_rest(link):
    """Memory is bounded, and the loss is counted."""
    index = RedisIdIndex(link)
    for number in range(MAX_PENDING + 5):
        await index.put(number.to_bytes(4, "big"), Sampled([number]))
    assert index.dropped == 5
    await index.close()


async def test_an_index_closed_while_writing_leaves_no_task(link):
    """The writer has an owner."""
    index = RedisIdIndex(link)
    before = asyncio.all_tasks()
    await index.put(b"k", Sampled([1]))
    await index.close()
    assert asyncio.all_tasks() == before
