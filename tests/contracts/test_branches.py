"""What every ConversationStore promises about lines: hidden ones, and branches that leave others."""

from __future__ import annotations

import pytest

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import Item
from services.conversations.store import Fork, Part, Reply, Verdict
from tests.support.stores import ALSO_TWICE
from tests.support.turns import ENDED, TENANT, a_begin, a_commit, a_turn_on, items_of

pytestmark = ALSO_TWICE


@pytest.fixture
async def main(store):
    """A hidden root with two turns: its conversation id, and the items of each turn."""
    conversation = ids.new_conversation()
    _, first = await a_turn_on(store, conversation, new_line=True)
    _, second = await a_turn_on(store, conversation, base_version=1)
    return conversation, first, second


async def test_a_branch_begins_with_the_items_up_to_where_it_left(store, main):
    """It goes on from there, and the line that it left stays as it is."""
    conversation, first, second = main
    fork = Fork(MAIN_LINE, first[-1].id)
    _, third = await a_turn_on(store, conversation, line="b", new_line=True, fork=fork)
    assert await items_of(store, conversation, "b") == [*first, *third]
    left = await store.load(TENANT, conversation, Part(MAIN_LINE))
    assert (left.items, left.version, left.active) == ([*first, *second], 2, "")


async def test_a_branch_is_begun_again_by_its_owner(store, main):
    """Its items are there once."""
    conversation, first, _ = main
    turn = ids.new_response(conversation)
    begin = a_begin(turn, line="b", new_line=True, fork=Fork(MAIN_LINE, first[-1].id))
    for _ in range(2):
        assert await store.begin(begin) == Reply(Verdict.OK, value=1)
    branch = await store.load(TENANT, conversation, Part("b"))
    assert (branch.items, branch.version, branch.active, branch.name) == (first, 0, turn, "b")
    assert branch.is_hidden


async def test_a_branch_can_leave_a_line_at_its_beginning(store, main):
    """It shares nothing, but for the prefix of its root."""
    conversation, *_ = main
    _, items = await a_turn_on(store, conversation, line="b", new_line=True, fork=Fork(MAIN_LINE, ""))
    assert await items_of(store, conversation, "b") == items


async def test_a_branch_leaves_a_branch(store, main):
    """To any depth."""
    conversation, first, _ = main
    _, third = await a_turn_on(store, conversation, line="b", new_line=True, fork=Fork(MAIN_LINE, first[-1].id))
    _, fourth = await a_turn_on(store, conversation, line="c", new_line=True, fork=Fork("b", third[0].id))
    assert await items_of(store, conversation, "c") == [*first, third[0], *fourth]


async def test_a_line_goes_on_while_a_branch_of_it_runs(store, main):
    """Each has its own version and its own active turn."""
    conversation, first, second = main
    branching = ids.new_response(conversation)
    await store.begin(a_begin(branching, line="b", new_line=True, fork=Fork(MAIN_LINE, first[-1].id)))
    _, third = await a_turn_on(store, conversation, base_version=2)
    assert (await store.commit(a_commit(branching, line="b"))).verdict in ENDED
    assert await items_of(store, conversation, MAIN_LINE) == [*first, *second, *third]
    assert (await store.load(TENANT, conversation, Part("b"))).version == 1


@pytest.mark.parametrize("fork", [Fork("unknown", "msg_x"), Fork(MAIN_LINE, "msg_x")])
async def test_a_branch_of_what_is_not_there_is_absent(store, main, fork):
    """It makes neither a line nor a turn."""
    conversation, *_ = main
    turn = ids.new_response(conversation)
    assert await store.begin(a_begin(turn, line="b", new_line=True, fork=fork)) == Reply(Verdict.ABSENT)
    for read in (store.load(TENANT, conversation, Part("b")), store.turn(TENANT, turn)):
        with pytest.raises(NotFoundError):
            await read


async def test_a_branch_of_a_long_line_is_whole(store):
    """Lua's stack does not bound what a branch shares."""
    past = [Item(id="", role="user", text=str(number)) for number in range(2500)]
    made = await store.create(TENANT, metadata={}, items=past)
    held = await items_of(store, made.id, MAIN_LINE)
    _, items = await a_turn_on(store, made.id, line="b", new_line=True, fork=Fork(MAIN_LINE, held[-2].id))
    assert await items_of(store, made.id, "b") == [*held[:-1], *items]


async def test_a_new_line_that_is_there_already_is_just_used(store, main):
    """Whoever comes second with the same name meets its turn, or its version."""
    conversation, first, _ = main
    begin = {"line": "b", "new_line": True, "fork": Fork(MAIN_LINE, first[-1].id)}
    turn, other = ids.new_response(conversation), ids.new_response(conversation)
    await store.begin(a_begin(turn, **begin))
    assert await store.begin(a_begin(other, **begin)) == Reply(Verdict.BUSY, turn=turn)
    await store.commit(a_commit(turn, line="b"))
    assert await store.begin(a_begin(other, **begin)) == Reply(Verdict.VERSION, value=1)


HIDDEN = {
    "conversation": lambda store, name: store.conversation(TENANT, name),
    "load": lambda store, name: store.load(TENANT, name),
    "items": lambda store, name: store.items(TENANT, name, after=None, limit=5, descending=False),
    "delete": lambda store, name: store.delete(TENANT, name),
}


@pytest.mark.parametrize("call", HIDDEN.values(), ids=HIDDEN.keys())
async def test_a_hidden_line_is_no_conversation(store, main, call):
    """Nobody made it as one, so nobody can read or delete it as one."""
    conversation, first, second = main
    with pytest.raises(NotFoundError, match=conversation):
        await call(store, conversation)
    assert await items_of(store, conversation, MAIN_LINE) == [*first, *second]


async def test_a_conversation_is_none_by_its_branch(store):
    """A branch of a root without a first line does not make that root a conversation."""
    conversation = ids.new_conversation()
    await a_turn_on(store, conversation, line="b", new_line=True)
    for call in HIDDEN.values():
        with pytest.raises(NotFoundError):
            await call(store, conversation)


async def test_branches_of_a_conversation_are_deleted_with_it(store, server):
    """Nothing is left but the tombstone, which a late branch meets."""
    made = await store.create(TENANT, metadata={})
    _, items = await a_turn_on(store, made.id)
    fork = Fork(MAIN_LINE, items[-1].id)
    await a_turn_on(store, made.id, line="b", new_line=True, fork=fork)
    await store.delete(TENANT, made.id)
    late = a_begin(ids.new_response(made.id), line="c", new_line=True, fork=fork)
    assert await store.begin(late) == Reply(Verdict.GONE)
    for line in (MAIN_LINE, "b", "c"):
        with pytest.raises(NotFoundError):
            await store.load(TENANT, made.id, Part(line))
    if server is not None:
        assert server.suffixes() == ["gone"]
