"""A store that is away: an error that says when to come back, and recovery without anybody's help."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import StoreUnavailableError
from services.conversations import ids
from services.conversations.queueing import Ref
from services.conversations.records import Item
from services.conversations.redis_index import RedisIdIndex
from services.conversations.redis_link import OPERATION_TIMEOUT_S, RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Reply, Reservation, Sampled, Tail, Verdict
from services.conversations.timed_set import RedisTimedSet
from services.queue.base import Done
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.tenants.redis_keys import RedisKeyStore
from tests.support.turns import LEASE_S, TENANT, a_begin, a_commit, a_note
from tests.support.valkey import running_valkey

pytestmark = pytest.mark.valkey


@pytest.fixture
def server():
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
async def store(server):
    made = RedisConversationStore(server.url)
    yield made
    await made.close()


def every_call(store, conversation, turn):
    """One coroutine of each method."""
    return [
        store.create(TENANT, metadata={}),
        store.conversation(TENANT, conversation),
        store.set_metadata(TENANT, conversation, {}),
        store.item_ids(TENANT, conversation),
        store.read_items(TENANT, conversation, [ids.new_item(conversation)]),
        store.item(TENANT, conversation, ids.new_item(conversation)),
        store.append_items(TENANT, conversation, [Item(id="", role="user", text="x")]),
        store.delete_item(TENANT, conversation, ids.new_item(conversation)),
        store.load(TENANT, conversation),
        store.items(TENANT, conversation, after=None, limit=1, descending=False),
        store.delete(TENANT, conversation),
        store.begin(a_begin(turn)),
        store.claim(TENANT, turn, owner="a", lease_s=LEASE_S),
        store.note([a_note(turn, 0, [1])]),
        store.commit(a_commit(turn)),
        store.turn(TENANT, turn),
        store.release(TENANT, turn, owner="a", is_queued=True),
        store.cancel(TENANT, turn),
        store.tail([Tail(TENANT, turn)]),
        store.delete_turn(TENANT, turn),
        store.is_erased(TENANT, turn),
        store.pointed_turns(TENANT, conversation),
        store.reserve(TENANT, "key", Reservation("body", turn)),
        store.ping(),
    ]


async def assert_all_unavailable(calls):
    """Every call raises the one error, with a time to come back."""
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {StoreUnavailableError}
    assert {error.retry_after_s for error in errors} == {1.0}


def test_an_operation_has_less_than_two_seconds():
    """So a gateway can answer 503 within two."""
    assert OPERATION_TIMEOUT_S < 2.0


async def test_every_call_to_a_killed_server_is_refused_and_a_restarted_one_serves(store, server):
    """Connections that died with the server are replaced by themselves."""
    made = [await store.create(TENANT, metadata={}) for _ in range(5)]
    server.kill()
    await assert_all_unavailable(every_call(store, made[0].id, ids.new_response(made[0].id)))
    server.start()
    again = await store.create(TENANT, metadata={"after": "restart"})
    assert await store.conversation(TENANT, again.id) == again


async def test_every_call_to_a_frozen_server_is_refused_and_a_thawed_one_serves(store, server):
    """No reply of an abandoned command is ever taken for another's."""
    made = [await store.create(TENANT, metadata={"n": str(n)}) for n in range(20)]
    with server.stopped():
        doomed = ids.new_conversation()
        await assert_all_unavailable(every_call(store, doomed, ids.new_response(doomed)))
    assert await asyncio.gather(*(store.conversation(TENANT, one.id) for one in made)) == made


async def test_a_begin_whose_reply_was_lost_is_repeated_by_its_owner(store, server):
    """The frozen server executes it later; the owner's second call learns that it holds the turn."""
    made = await store.create(TENANT, metadata={})
    turn = ids.new_response(made.id)
    with server.stopped(), pytest.raises(StoreUnavailableError):
        await store.begin(a_begin(turn))
    assert await store.begin(a_begin(turn)) == Reply(Verdict.OK, value=1)


async def test_a_server_out_of_memory_counts_as_away_and_writes_nothing(store, server):
    """A refused begin leaves no half of a turn; deleting still works, for it is the way out."""
    made = await store.create(TENANT, metadata={})
    turn = ids.new_response(made.id)
    with server.client() as client:
        before = sorted(client.scan_iter())
        client.config_set("maxmemory", "1")
        await assert_all_unavailable([store.begin(a_begin(turn)), store.create(TENANT, metadata={})])
        assert sorted(client.scan_iter()) == before
        assert (await store.load(TENANT, made.id)).active == ""
        await store.delete(TENANT, made.id)
        client.config_set("maxmemory", "0")


async def test_a_bounded_set_takes_members_while_memory_is_full(server):
    """What is noted there helps to free some, so deleting does not depend on room for it."""
    link = RedisLink(server.url)
    bounded, any_number = RedisTimedSet(link, "c1:a", most=2), RedisTimedSet(link, "c1:b")
    with server.client() as client:
        client.config_set("maxmemory", "1")
        await assert_all_unavailable([any_number.add("a", in_s=0)])
        await bounded.add("a", in_s=0)
    assert list(await bounded.look(limit=1, hide_s=0)) == ["a"]
    await link.close()


async def test_keys_of_a_frozen_server_are_unavailable(server):
    """The key store speaks of it as the conversation store does."""
    link = RedisLink(server.url)
    keys = RedisKeyStore(link)
    with server.stopped():
        await assert_all_unavailable(
            [
                keys.find("k"),
                keys.version(),
                keys.list(),
                keys.create(TENANT, "n"),
                keys.revoke("k"),
                keys.set_share(TENANT, weight=2),
                keys.shares(),
            ]
        )
    await link.close()


async def test_queues_of_a_frozen_server_are_unavailable(server):
    """Every call of the queue and of the due index."""
    link = RedisLink(server.url)
    queue, due, turn = RedisQueue(link, BACKGROUND), RedisDueIndex(link), ids.new_response(ids.new_conversation())
    await queue.publish(TENANT, turn)
    entry = await queue.take("c")
    with server.stopped():
        await assert_all_unavailable(
            [
                queue.publish(TENANT, turn),
                queue.take("c"),
                queue.settle(entry, Done()),
                queue.extend([entry]),
                queue.reclaim("c"),
                queue.promote_due(),
                queue.lag(),
                queue.largest(3),
                queue.dead(),
                queue.replay([Ref(TENANT, turn)]),
                queue.drop(TENANT, turn),
                due.add(TENANT, turn, in_s=1),
                due.move(TENANT, turn, in_s=1),
                due.remove(TENANT, turn),
                due.look(),
            ]
        )
    await link.close()


async def test_an_index_that_is_away_only_misses(server):
    """Reads are misses and writes are lost; both are counted, neither raises."""
    index = RedisIdIndex(server.url)
    with server.stopped():
        await index.put(b"k", Sampled([1]))
        assert await index.get([b"k", b"l"]) == [None, None]
        await index.flush()
    assert (index.read_errors, index.write_errors) == (1, 1)
    await index.put(b"k", Sampled([2]))
    await index.flush()
    assert await index.get([b"k"]) == [Sampled([2])]
    await index.close()
