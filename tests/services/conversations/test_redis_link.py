from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis import exceptions

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.redis_client import MAX_CONNECTIONS
from services.conversations.redis_index import MAX_PENDING, RedisIdIndex
from services.conversations.redis_link import MAX_OPERATIONS, RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Sampled
from tests.support.valkey import PASSWORD, USER, running_valkey

NOBODY = "unix:///nonexistent/socket"
PATIENCE_S = 60.0

AWAY = [
    exceptions.ConnectionError("refused"),
    exceptions.TimeoutError("slow"),
    exceptions.BusyLoadingError("loading its data"),
    exceptions.OutOfMemoryError("OOM"),
    exceptions.ReadOnlyError("a replica"),
    exceptions.ClusterDownError("CLUSTERDOWN no quorum"),
    exceptions.MasterDownError("MASTERDOWN link with the primary is down"),
    exceptions.MovedError("3999 127.0.0.1:6381"),
    exceptions.AskError("3999 127.0.0.1:6381"),
    exceptions.TryAgainError("TRYAGAIN keys are moving"),
    exceptions.ClusterError("TTL exhausted."),
    exceptions.SlotNotCoveredError("nobody has slot 1"),
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


async def test_a_cancellation_that_the_client_swallows_still_ends_the_task(link):
    """Of many that come just as a command has been sent, one is lost in ``asyncio.wait_for``."""
    sent = asyncio.Event()

    async def swallow(redis):
        sent.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE_S)
        return "sent"

    call = asyncio.create_task(link.call(swallow))
    await sent.wait()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()


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


async def test_a_cluster_of_which_nobody_answers_is_unavailable():
    """The library says so by a class that it also has for mistakes."""
    link = RedisLink("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(StoreUnavailableError):
        await RedisConversationStore(link).ping()
    await link.close()


async def test_a_command_that_no_node_could_execute_is_a_mistake(link):
    """It would be one for ever."""

    async def fail(redis):
        raise exceptions.RedisClusterException("all keys must map to the same key slot")

    with pytest.raises(exceptions.RedisClusterException, match="same key slot"):
        await link.call(fail)


async def test_no_more_operations_run_at_once_than_there_are_connections(link):
    """The others wait, and find a free place as soon as one is done."""
    running, most, full, go = 0, 0, asyncio.Event(), asyncio.Event()

    async def occupy(redis):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == MAX_OPERATIONS:
            full.set()
        await go.wait()
        running -= 1

    calls = [asyncio.create_task(link.call(occupy)) for _ in range(3 * MAX_OPERATIONS)]
    await full.wait()
    go.set()
    await asyncio.gather(*calls)
    assert most == MAX_OPERATIONS < MAX_CONNECTIONS


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


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0",
        "rediss://user:pw@h:1/2",
        "unix:///tmp/s",
        "redis+sentinel://a,b/m",
        "rediss+sentinel://a/m",
        "redis+cluster://a,b",
        "rediss+cluster://a",
    ],
)
async def test_every_kind_of_url_is_understood(url):
    """Nothing is dialled before the first command."""
    await RedisLink(url).close()


@pytest.mark.parametrize("parameter", ["password_file=/nonexistent", "password_env=CHATGLM_NO_SUCH_VARIABLE"])
@pytest.mark.parametrize("url", ["redis://u@h", "redis+sentinel://u@h/m", "redis+cluster://u@h"])
def test_a_password_that_is_not_where_it_should_be_stops_the_process(url, parameter):
    """With the place that was looked at."""
    with pytest.raises(ConfigurationError, match=parameter.partition("=")[2]):
        RedisLink(f"{url}?{parameter}")


@pytest.mark.valkey
async def test_a_password_is_read_anew_for_each_connection(tmp_path, monkeypatch):
    """Whoever changes it on the server changes the file, and nothing is restarted."""
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    with running_valkey() as server:
        url = server.user_url.replace(":p%2Fw%401@", "@")
        link = RedisLink(f"{url}?password_file={file}")
        store = RedisConversationStore(link)
        await store.ping()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", USER, "resetpass", ">another")
            client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StoreUnavailableError):
            await store.ping()
        file.write_text("another\n")
        await store.ping()
        await link.close()
        monkeypatch.setenv("STORE_PASSWORD", "another")
        store = RedisConversationStore(f"{url}?password_env=STORE_PASSWORD")
        await store.ping()
        await store.close()


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
