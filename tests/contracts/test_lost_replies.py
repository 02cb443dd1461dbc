"""Every command is executed twice, as after a lost reply: its caller cannot tell, and nothing is done twice."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from cluster.errors import NotFoundError
from services.conversations import ids, redis_items
from services.conversations.keys import Keys
from services.conversations.records import Item, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Reply, Verdict
from services.tenants.redis_keys import RedisKeyStore
from services.tenants.share import Share
from tests.support.lossy import LossyRedis, lossy
from tests.support.turns import LEASE_S, TENANT, a_begin, a_commit, a_note, a_request


@pytest.fixture
async def link(real_server):
    made = RedisLink(lossy(real_server))
    yield made
    await made.close()


@pytest.fixture
def store(link):
    return RedisConversationStore(link)


@pytest.fixture
async def plain_store(plain_valkey):
    """On a server that each command reaches once, unless the test repeats it."""
    made = RedisConversationStore(plain_valkey.url)
    yield made
    await made.close()
    plain_valkey.flush()


async def test_a_conversation_is_created_once(store):
    """Its first items are there once."""
    made = await store.create(TENANT, metadata={}, items=[Item(id="", role="user", text="一")])
    line = await store.load(TENANT, made.id)
    assert [item.text for item in line.items] == ["一"]


async def test_a_conversation_is_deleted_once(store):
    """The deletion whose reply was lost succeeds; a later one finds nothing."""
    made = await store.create(TENANT, metadata={})
    await store.delete(TENANT, made.id)
    with pytest.raises(NotFoundError):
        await store.delete(TENANT, made.id)


async def test_items_are_appended_once(store):
    """One version up, and each item there once."""
    made = await store.create(TENANT, metadata={})
    added = await store.append_items(TENANT, made.id, [Item(id="", role="user", text=text) for text in ("一", "二")])
    line = await store.load(TENANT, made.id)
    assert (line.items, line.version) == (added, 1)


async def test_an_item_is_deleted_once(store):
    """The deletion whose reply was lost succeeds; a later one finds nothing."""
    made = await store.create(TENANT, metadata={"k": "v"}, items=[Item(id="", role="user", text="一")])
    (item,) = (await store.load(TENANT, made.id)).items
    assert await store.delete_item(TENANT, made.id, item.id) == made
    assert (await store.load(TENANT, made.id)).version == 1
    with pytest.raises(NotFoundError):
        await store.delete_item(TENANT, made.id, item.id)


async def test_a_change_of_items_sent_again_under_a_turn_was_done_before_it(plain_store, plain_valkey):
    """A turn that began between a change and its repetition does not make it fail, nor does the repetition change it."""
    made = await plain_store.create(TENANT, metadata={})
    other = RedisConversationStore(plain_valkey.url)

    class Between(LossyRedis):
        """A turn begins on the changed line before each change is sent again."""

        async def execute_command(self, *args, **options):
            reply = await Redis.execute_command(self, *args, **options)
            version = (await other.load(TENANT, made.id)).version
            await other.begin(a_begin(ids.new_response(made.id), base_version=version))
            assert await Redis.execute_command(self, *args, **options) == reply
            return reply

    changing = RedisConversationStore(Between.from_url(plain_valkey.url))
    added = await changing.append_items(TENANT, made.id, [Item(id="", role="user", text="一")])
    line = await plain_store.load(TENANT, made.id)
    assert (line.items, line.version, bool(line.active)) == (added, 1, True)
    await changing.close()
    await other.close()


async def test_an_append_sent_again_does_not_bring_back_what_was_deleted(plain_store, plain_valkey):
    """The late repetition of an append meets the deletion's tombstone."""
    made = await plain_store.create(TENANT, metadata={})
    keys = Keys.of_conversation(TENANT, made.id)
    item = Item(id=ids.new_item(made.id), role="user", text="一")
    async with Redis.from_url(plain_valkey.url) as client:
        await redis_items.append(client, keys, [item], history_ttl_s=60, max_items=5)
        await plain_store.delete_item(TENANT, made.id, item.id)
        assert await redis_items.append(client, keys, [item], history_ttl_s=60, max_items=5) == [b"ok"]
    assert (await plain_store.load(TENANT, made.id)).items == []


async def test_metadata_is_set_once(store):
    """Twice the same is the same."""
    made = await store.create(TENANT, metadata={"a": "1"})
    assert (await store.set_metadata(TENANT, made.id, {"b": "2"})).metadata == {"b": "2"}
    assert (await store.conversation(TENANT, made.id)).metadata == {"b": "2"}


async def test_a_turn_is_taken_through_its_states(store):
    """Begin, claim, note and commit end where they would have ended without a loss."""
    made = await store.create(TENANT, metadata={})
    turn = ids.new_response(made.id)
    assert await store.begin(a_begin(turn, lease_s=0.0)) == Reply(Verdict.OK, value=1)
    assert await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S) == Reply(Verdict.OK, value=0)
    assert await store.note([a_note(turn, 0, [1, 2], owner="b")]) == [Reply(Verdict.OK, value=2)]
    assert await store.commit(a_commit(turn, owner="b")) == Reply(Verdict.DONE, value=1)
    record = await store.turn(TENANT, turn)
    assert (record.fence, record.ids) == (2, [5, 64793])
    assert len((await store.load(TENANT, made.id)).items) == 2


async def test_keys_are_made_rotated_and_revoked_once(link):
    """One key is one key, and a rotation leaves exactly one that works."""
    keys = RedisKeyStore(link)
    first, _ = await keys.create(TENANT, "laptop")
    second, _ = await keys.rotate(first.id)
    assert {(key.id, key.revoked_at is None) for key in await keys.list()} == {(first.id, False), (second.id, True)}
    await keys.revoke(second.id)
    assert await keys.find(second.id) is not None
    assert all(key.revoked_at for key in await keys.list())


async def test_a_share_is_set_once(link):
    """Twice the same is the same."""
    keys = RedisKeyStore(link)
    first, _ = await keys.create(TENANT, "laptop")
    assert await keys.set_share(TENANT, weight=3) == Share(weight=3)
    assert await keys.set_share(TENANT, priority=1) == Share(weight=3, priority=1)
    assert (await keys.find(first.id)).share == Share(weight=3, priority=1)


async def test_a_failed_turn_is_revived_once(store):
    """It waits, and its line is its own."""
    conversation = (await store.create(TENANT, metadata={})).id
    turn = ids.new_response(conversation)
    await store.begin(a_begin(turn, request=a_request(is_background=True)))
    await store.commit(a_commit(turn, state=TurnState.FAILED, items=[]))
    reply = await store.revive(TENANT, turn, owner="operator", deadline_s=60.0)
    assert (reply.verdict, (await store.load(TENANT, conversation)).active) == (Verdict.OK, turn)
