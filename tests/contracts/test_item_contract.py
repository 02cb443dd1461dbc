"""What every ConversationStore promises about changes of items and metadata, and about reading single items."""

from __future__ import annotations

import pytest

from cluster.errors import ConversationBusyError, ConversationFullError, NotFoundError
from cluster.protocol import Logprobs
from services.conversations import ids
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Item, TurnState
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Fork, Part, Verdict
from tests.support.turns import TENANT, a_begin, a_commit

TEXTS = ["一", "two", "\x00 <|user|>", "four", "five"]


def texts(items):
    return [item.text for item in items]


def some(*said):
    return [Item(id="", role="user", text=text) for text in said]


@pytest.fixture
async def made(store):
    """A conversation with five items."""
    return await store.create(TENANT, metadata={"a": "1"}, items=some(*TEXTS))


@pytest.fixture
async def held(store, made):
    """Its items, oldest first."""
    return (await store.load(TENANT, made.id)).items


async def test_appended_items_stand_at_the_end_in_their_order(store, made):
    """They are named on the conversation's root, dated, and what was told of them is what is read."""
    added = await store.append_items(TENANT, made.id, some("six", "seven"))
    line = await store.load(TENANT, made.id)
    assert texts(line.items) == [*TEXTS, "six", "seven"]
    assert line.items[-2:] == added
    assert {ids.item_root(item.id) for item in added} == {ids.conversation_root(made.id)}
    assert all(item.created_at > 0 for item in added)


async def test_a_change_of_items_is_a_new_version(store, made, held):
    """A turn that was prepared on the old items does not begin on the new ones."""
    await store.append_items(TENANT, made.id, some("six", "seven"))
    assert (await store.load(TENANT, made.id)).version == 1
    await store.delete_item(TENANT, made.id, held[0].id)
    assert (await store.load(TENANT, made.id)).version == 2
    assert (await store.begin(a_begin(ids.new_response(made.id)))).verdict is Verdict.VERSION


async def test_one_item_is_read_by_its_id(store, made, held):
    """As the line has it."""
    assert await store.item(TENANT, made.id, held[2].id) == held[2]


async def test_a_deleted_item_is_gone_and_the_others_stay(store, made, held):
    """The conversation is answered, as it stands."""
    assert await store.delete_item(TENANT, made.id, held[1].id) == made
    assert (await store.load(TENANT, made.id)).items == [held[0], *held[2:]]
    for call in (store.item, store.delete_item):
        with pytest.raises(NotFoundError, match=held[1].id):
            await call(TENANT, made.id, held[1].id)


async def test_an_emptied_conversation_is_still_one(store, made, held):
    """It can be read, listed, and filled again."""
    for item in held:
        await store.delete_item(TENANT, made.id, item.id)
    assert (await store.load(TENANT, made.id)).items == []
    assert await store.item_ids(TENANT, made.id) == []
    await store.append_items(TENANT, made.id, some("anew"))
    assert texts((await store.items(TENANT, made.id, after=None, limit=5, descending=True)).items) == ["anew"]


async def test_names_and_items_are_read_apart(store, made, held):
    """Items that were deleted in between are left out, and the order is the caller's."""
    names = await store.item_ids(TENANT, made.id)
    assert names == [item.id for item in held]
    await store.delete_item(TENANT, made.id, names[1])
    assert await store.read_items(TENANT, made.id, names[2::-1]) == [held[2], held[0]]


async def test_metadata_is_replaced_as_a_whole(store, made):
    """What is not named again is gone; items and version stay."""
    changed = await store.set_metadata(TENANT, made.id, {"b": "2"})
    assert (changed.metadata, changed.created_at) == ({"b": "2"}, made.created_at)
    assert await store.conversation(TENANT, made.id) == changed
    line = await store.load(TENANT, made.id)
    assert (line.version, texts(line.items)) == (0, TEXTS)


@pytest.mark.parametrize("state", [TurnState.RUNNING, TurnState.QUEUED])
async def test_items_do_not_change_under_a_turn(store, made, held, state):
    """Both changes are refused with the turn's id, while reading and metadata go on; its commit fits its version."""
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn, state=state))
    for change in (store.append_items(TENANT, made.id, some("x")), store.delete_item(TENANT, made.id, held[0].id)):
        with pytest.raises(ConversationBusyError, match=turn):
            await change
    assert await store.item(TENANT, made.id, held[0].id) == held[0]
    assert (await store.set_metadata(TENANT, made.id, {})).metadata == {}
    await store.claim(TENANT, turn, owner="a", lease_s=60.0)
    assert (await store.commit(a_commit(turn))).verdict is Verdict.OK


async def test_items_do_not_change_under_a_turn_whose_owner_is_dead(store, made):
    """Whoever takes it over finds the conversation as it was begun on."""
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn, lease_s=0.0))
    with pytest.raises(ConversationBusyError, match=turn):
        await store.append_items(TENANT, made.id, some("x"))


async def test_items_change_again_once_the_turn_has_ended(store, made):
    """The next turn stands on what the caller made of the line."""
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn))
    await store.commit(a_commit(turn))
    answer = (await store.load(TENANT, made.id)).items[-1]
    await store.delete_item(TENANT, made.id, answer.id)
    await store.append_items(TENANT, made.id, [Item(id="", role="assistant", text="better")])
    line = await store.load(TENANT, made.id)
    assert (line.version, texts(line.items)[-2:]) == (3, ["question", "better"])


async def test_the_turn_that_wrote_a_deleted_item_stays_without_it(store, made):
    """The record keeps no copy of the question, nor of the answer as ids or log probabilities."""
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn))
    logprobs = [Logprobs(drawn=-0.5, top_ids=[7], top=[-0.25])] * 3
    await store.commit(a_commit(turn, ids=[5, 64793, 6], logprobs=logprobs))  # the answer keeps two of the three
    question, answer = (await store.load(TENANT, made.id)).items[-2:]
    await store.delete_item(TENANT, made.id, question.id)
    record = await store.turn(TENANT, turn)
    assert (record.answer, record.ids, record.logprobs) == (answer, [5, 64793, 6], logprobs)
    await store.delete_item(TENANT, made.id, answer.id)
    record = await store.turn(TENANT, turn)
    assert (record.state, record.total) == (TurnState.COMPLETED, 3)
    assert (record.answer, record.ids, record.logprobs) == (None, [], None)
    assert await store.turn_input(TENANT, record) == []


async def test_a_branch_skips_a_deleted_item_and_keeps_its_own(store, made, held):
    """The branch shares the conversation's items; its own are no items of the conversation."""
    turn = ids.new_response(made.id)
    branch = {"line": "bbranch", "new_line": True, "fork": Fork("main", held[2].id)}
    assert (await store.begin(a_begin(turn, **branch))).verdict is Verdict.OK
    await store.commit(a_commit(turn, line="bbranch"))
    await store.delete_item(TENANT, made.id, held[1].id)
    on_branch = (await store.load(TENANT, made.id, Part("bbranch"))).items
    assert texts(on_branch) == [TEXTS[0], TEXTS[2], "question", "答"]
    with pytest.raises(NotFoundError, match="item"):
        await store.item(TENANT, made.id, on_branch[-1].id)


@pytest.fixture
async def small(server):
    """A store that takes five items a conversation."""
    if server is None:
        yield MemoryConversationStore(max_items=5)
        return
    made = RedisConversationStore(server.url, max_items=5)
    yield made
    await made.close()


async def test_a_full_conversation_takes_no_more_items(small):
    """All of a call fit or none is appended; the error tells both numbers, and deleting makes room."""
    made = await small.create(TENANT, metadata={}, items=some(*TEXTS[:4]))
    with pytest.raises(ConversationFullError, match="holds 4 of at most 5") as caught:
        await small.append_items(TENANT, made.id, some("x", "y"))
    assert (caught.value.held, caught.value.limit, caught.value.param) == (4, 5, "items")
    line = await small.load(TENANT, made.id)
    assert (line.version, len(line.items)) == (0, 4)
    await small.delete_item(TENANT, made.id, line.items[0].id)
    await small.append_items(TENANT, made.id, some("x", "y"))
    assert texts((await small.load(TENANT, made.id)).items) == [*TEXTS[1:4], "x", "y"]


CALLS = {
    "set_metadata": lambda store, name, _: store.set_metadata(TENANT, name, {}),
    "item_ids": lambda store, name, _: store.item_ids(TENANT, name),
    "read_items": lambda store, name, item: store.read_items(TENANT, name, [item]),
    "item": lambda store, name, item: store.item(TENANT, name, item),
    "append_items": lambda store, name, _: store.append_items(TENANT, name, some("x")),
    "delete_item": lambda store, name, item: store.delete_item(TENANT, name, item),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_foreign_hidden_or_erased_conversation_is_an_unknown_one(store, call):
    """Nothing of it is read or changed, and the words are those for an id that nobody made."""
    foreign = await store.create("other", metadata={"a": "1"}, items=some("theirs"))
    item = (await store.load("other", foreign.id)).items[0]
    turn = ids.new_response(ids.new_conversation())
    await store.begin(a_begin(turn, new_line=True))
    erased = await store.create(TENANT, metadata={})
    await store.delete(TENANT, erased.id)
    for name in (foreign.id, ids.conversation_of(turn), erased.id, ids.new_conversation(), "conv_x"):
        with pytest.raises(NotFoundError) as caught:
            await call(store, name, item.id)
        assert str(caught.value) == f"No conversation {name!r} was found."
    assert await store.conversation("other", foreign.id) == foreign
    assert (await store.load("other", foreign.id)).items == [item]


@pytest.mark.parametrize("name", ["", "msg_", "msg_*", "x" * 5000, "msg_" + "A" * 32, "msg_" + "a" * 32 + "\n"])
async def test_a_malformed_item_id_is_unknown(store, made, name):
    """So is a well-formed one of another conversation."""
    other = await store.create(TENANT, metadata={}, items=some("elsewhere"))
    elsewhere = (await store.load(TENANT, other.id)).items[0].id
    for item in (name, elsewhere, ids.new_item(made.id)):
        for call in (store.item, store.delete_item):
            with pytest.raises(NotFoundError) as caught:
                await call(TENANT, made.id, item)
            assert str(caught.value) == f"No item {item[:80]!r} was found."
    assert len((await store.load(TENANT, made.id)).items) == 5


@pytest.mark.parametrize("order", [(limit, descending) for limit in (1, 2, 3, 10) for descending in (False, True)])
@pytest.mark.parametrize("lost", [[0], [4], [1, 2, 3], [0, 1, 2, 3, 4]], ids=str)
async def test_pages_pass_over_items_whose_text_is_lost(store, server, held, lost, order):
    """Pages stay full and ``has_more`` exact, so nobody stops in front of a hole."""
    limit, descending = order
    conversation = f"conv_{ids.item_root(held[0].id)}"
    _lose(store, server, conversation, [held[i].id for i in lost])
    seen, after, more = [], None, True
    while more:
        page = await store.items(TENANT, conversation, after=after, limit=limit, descending=descending)
        assert not page.has_more or len(page.items) == limit
        seen += page.items
        more, after = page.has_more, page.items[-1].id if page.items else None
    left = [item for i, item in enumerate(held) if i not in lost]
    assert seen == (left[::-1] if descending else left)


def _lose(store, server, conversation, names):
    """Take blobs away under the store, as a branch that shared them does."""
    if server is None:
        (root,) = (root for root in store._roots.values() if names[0] in root.items)
        for name in names:
            del root.items[name]
        return
    with server.client() as client:
        (key,) = client.scan_iter(f"*{ids.conversation_root(conversation)}*:item")
        assert client.hdel(key, *names) == len(names)
