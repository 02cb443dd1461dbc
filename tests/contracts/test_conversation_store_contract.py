"""What every ConversationStore promises about conversations and their items."""

from __future__ import annotations

import pytest

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.records import Item
from services.conversations.store import Part, Verdict
from tests.support.turns import TENANT, a_begin, a_commit

TEXTS = ["一", "two", "\x00 <|user|>", "four", "five"]


def five_items():
    return [Item(id="", role="user", text=text) for text in TEXTS]


async def texts_of(store, conversation, **page):
    found = await store.items(TENANT, conversation, **page)
    return [item.text for item in found.items], found.has_more


async def test_a_new_conversation_is_read_back_as_it_was_made(store):
    """What create returns is what conversation finds."""
    made = await store.create(TENANT, metadata={"topic": "天气"})
    assert await store.conversation(TENANT, made.id) == made
    assert made.metadata == {"topic": "天气"}
    assert made.created_at > 0


async def test_items_given_at_creation_get_ids_of_the_conversation(store):
    """Items without an id are named on the conversation's root, and dated."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    line = await store.load(TENANT, made.id)
    assert [item.text for item in line.items] == TEXTS
    assert {ids.item_root(item.id) for item in line.items} == {ids.conversation_root(made.id)}
    assert len({item.id for item in line.items}) == 5
    assert all(item.created_at > 0 for item in line.items)


async def test_a_new_line_is_free_and_at_version_zero(store):
    """Creation with items does not count as a turn."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    line = await store.load(TENANT, made.id)
    assert (line.version, line.active, line.hint, line.conversation) == (0, "", None, made)


async def test_load_gives_the_newest_items_oldest_first(store):
    """A window asks for the end of a line only."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    line = await store.load(TENANT, made.id, Part(newest=2))
    assert [item.text for item in line.items] == TEXTS[-2:]


async def test_load_of_more_than_there_is_gives_all(store):
    """A window larger than the line is no error."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    assert len((await store.load(TENANT, made.id, Part(newest=50))).items) == 5


async def test_a_long_line_is_loaded_whole(store):
    """Lua's stack does not bound a conversation's length."""
    texts = [str(i) for i in range(2500)]
    made = await store.create(TENANT, metadata={}, items=[Item(id="", role="user", text=text) for text in texts])
    assert [item.text for item in (await store.load(TENANT, made.id)).items] == texts


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
async def test_pages_joined_are_the_whole_line(store, descending, limit):
    """Following ``after`` until has_more is False visits every item once, in order."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    seen, after, more = [], None, True
    while more:
        page = await store.items(TENANT, made.id, after=after, limit=limit, descending=descending)
        seen += [item.text for item in page.items]
        more, after = page.has_more, page.items[-1].id
    assert seen == (TEXTS[::-1] if descending else TEXTS)


@pytest.mark.parametrize(("descending", "expected"), [(False, TEXTS[:2]), (True, TEXTS[:2:-1])])
async def test_the_first_page_starts_at_the_end_asked_for(store, descending, expected):
    """Without ``after``, ascending starts with the oldest and descending with the newest."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    assert await texts_of(store, made.id, after=None, limit=2, descending=descending) == (expected, True)


async def test_a_page_of_an_empty_line_is_empty(store):
    """No items is not an error."""
    made = await store.create(TENANT, metadata={})
    assert await texts_of(store, made.id, after=None, limit=2, descending=True) == ([], False)


async def test_a_page_after_the_last_item_is_empty(store):
    """The end of a line is an empty page in either direction."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    line = await store.load(TENANT, made.id)
    first, last = line.items[0].id, line.items[-1].id
    assert await texts_of(store, made.id, after=last, limit=2, descending=False) == ([], False)
    assert await texts_of(store, made.id, after=first, limit=2, descending=True) == ([], False)


async def test_an_unknown_after_is_not_found(store):
    """Nobody gets page one again by mistake."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    with pytest.raises(NotFoundError, match="item"):
        await store.items(TENANT, made.id, after=ids.new_item(made.id), limit=2, descending=False)


READS = {
    "conversation": lambda store, tenant, name: store.conversation(tenant, name),
    "load": lambda store, tenant, name: store.load(tenant, name),
    "items": lambda store, tenant, name: store.items(tenant, name, after=None, limit=5, descending=False),
    "delete": lambda store, tenant, name: store.delete(tenant, name),
}


@pytest.mark.parametrize("call", READS.values(), ids=READS.keys())
async def test_a_foreign_tenants_conversation_is_not_found(store, call):
    """Knowing an id is not enough: the key space is the tenant's."""
    made = await store.create("other", metadata={})
    with pytest.raises(NotFoundError, match=made.id):
        await call(store, TENANT, made.id)
    assert await store.conversation("other", made.id) == made


@pytest.mark.parametrize("name", ["", "conv_", "conv_*", "x" * 5000, "conv_" + "A" * 16, "conv_aaaaaaaaaaaaaaa}\n"])
@pytest.mark.parametrize("call", READS.values(), ids=READS.keys())
async def test_a_malformed_id_is_not_found(store, call, name):
    """A malformed id is an id of nothing."""
    with pytest.raises(NotFoundError):
        await call(store, TENANT, name)


async def test_a_tenant_that_could_leave_its_key_space_is_refused(store):
    """A brace in a tenant id is a mistake of the program, met before any key is made."""
    for tenant in ["", "a}.b", "A", "a" * 33, "a.b", "a\n"]:
        with pytest.raises(ValueError, match="tenant"):
            await store.create(tenant, metadata={})


async def test_a_deleted_conversation_is_gone_with_its_turns(store):
    """Erasure covers the line, its items, its turn records and their journals."""
    made = await store.create(TENANT, metadata={}, items=five_items())
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn))
    await store.commit(a_commit(turn))
    await store.delete(TENANT, made.id)
    for call in READS.values():
        with pytest.raises(NotFoundError):
            await call(store, TENANT, made.id)
    for read in (store.turn, store.cancel, store.delete_turn):
        with pytest.raises(NotFoundError):
            await read(TENANT, turn)


async def test_deletion_leaves_only_the_tombstone(store, server):
    """Nothing of the content stays in Redis, under any name."""
    made = await store.create(TENANT, metadata={"m": "secret"}, items=five_items())
    for _ in range(3):
        version = (await store.load(TENANT, made.id)).version
        turn = ids.new_response(made.id)
        assert (await store.begin(a_begin(turn, base_version=version))).verdict is Verdict.OK
        await store.commit(a_commit(turn, base_version=version))
    await store.delete(TENANT, made.id)
    if server is not None:
        with server.client() as client:
            assert [key.decode().rpartition(":")[2] for key in client.scan_iter()] == ["gone"]


async def test_a_store_that_is_there_answers_ping(store):
    """A ping returns without a value and without an error."""
    assert await store.ping() is None
