"""What every ConversationStore promises about erasing one turn."""

from __future__ import annotations

import pytest

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import Item, TurnState
from services.conversations.store import Fork, Part, Reply, Tail, Verdict
from tests.support.stores import ALSO_TWICE
from tests.support.turns import ENDED, LEASE_S, TENANT, a_begin, a_commit, a_note, a_turn_on, items_of

pytestmark = ALSO_TWICE


async def assert_gone(store, turn):
    """Nothing reads it, and every late writer meets its tombstone."""
    for read in (store.turn, store.cancel, store.delete_turn):
        with pytest.raises(NotFoundError):
            await read(TENANT, turn)
    assert (await store.tail([Tail(TENANT, turn, watch_s=5.0)]))[0].state is None
    assert await store.is_erased(TENANT, turn)
    assert await store.begin(a_begin(turn, new_line=True)) == Reply(Verdict.GONE)
    assert await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S) == Reply(Verdict.GONE)
    assert await store.note([a_note(turn, 0, [1])]) == [Reply(Verdict.GONE)]
    assert await store.release(TENANT, turn, owner="a", is_queued=True) == Reply(Verdict.GONE)
    assert await store.commit(a_commit(turn)) == Reply(Verdict.GONE)
    with pytest.raises(NotFoundError):
        await store.turn(TENANT, turn)


async def test_an_erased_turn_takes_its_items_off_a_hidden_line(store):
    """The line goes on with the rest, at a version of its own."""
    conversation = ids.new_conversation()
    first, _ = await a_turn_on(store, conversation, new_line=True)
    second, kept = await a_turn_on(store, conversation, base_version=1)
    await store.delete_turn(TENANT, first)
    await assert_gone(store, first)
    assert not await store.is_erased(TENANT, second)
    assert await items_of(store, conversation) == kept
    assert (await store.begin(a_begin(ids.new_response(conversation), base_version=2))).verdict is Verdict.VERSION
    _, third = await a_turn_on(store, conversation, base_version=3)
    assert await items_of(store, conversation) == [*kept, *third]


async def test_the_last_turn_of_a_hidden_root_takes_everything_with_it(store, server):
    """Also the branches, and what is begun on it afterwards."""
    conversation = ids.new_conversation()
    first, items = await a_turn_on(store, conversation, new_line=True)
    fork = Fork(MAIN_LINE, items[-1].id)
    second, _ = await a_turn_on(store, conversation, line="b", new_line=True, fork=fork)
    await store.delete_turn(TENANT, first)
    assert len(await items_of(store, conversation, "b")) == 2
    await store.delete_turn(TENANT, second)
    for turn in (first, second):
        await assert_gone(store, turn)
    for line in (MAIN_LINE, "b"):
        with pytest.raises(NotFoundError):
            await store.load(TENANT, conversation, Part(line))
    assert await store.begin(a_begin(ids.new_response(conversation), new_line=True)) == Reply(Verdict.GONE)
    if server is not None:
        assert server.suffixes() == ["gone"]


async def test_items_of_a_conversation_stay(store):
    """They are the conversation's; only the record goes."""
    made = await store.create(TENANT, metadata={})
    turn, items = await a_turn_on(store, made.id)
    await store.delete_turn(TENANT, turn)
    await assert_gone(store, turn)
    line = await store.load(TENANT, made.id)
    assert (line.items, line.version, line.conversation) == (items, 1, made)


async def test_a_conversation_outlives_the_turns_of_its_branches(store):
    """The last turn of its root may have stood on a hidden branch."""
    made = await store.create(TENANT, metadata={}, items=[Item(id="", role="user", text="一")])
    (first,) = await items_of(store, made.id)
    turn, _ = await a_turn_on(store, made.id, line="b", new_line=True, fork=Fork(MAIN_LINE, first.id))
    await store.delete_turn(TENANT, turn)
    await assert_gone(store, turn)
    assert await items_of(store, made.id) == [first]
    assert await items_of(store, made.id, "b") == [first]


async def test_what_a_branch_shares_is_erased_for_it_too(store):
    """Erased is erased, however many lines name it, and a branch can no longer leave there."""
    conversation = ids.new_conversation()
    first, shared = await a_turn_on(store, conversation, new_line=True)
    fork = Fork(MAIN_LINE, shared[-1].id)
    _, own = await a_turn_on(store, conversation, line="b", new_line=True, fork=fork)
    await store.delete_turn(TENANT, first)
    assert await items_of(store, conversation, "b") == own
    late = a_begin(ids.new_response(conversation), line="c", new_line=True, fork=fork)
    assert await store.begin(late) == Reply(Verdict.ABSENT)


@pytest.mark.parametrize("state", [TurnState.RUNNING, TurnState.QUEUED])
@pytest.mark.parametrize("is_hidden", [False, True])
async def test_erasing_an_active_turn_frees_its_line(store, state, is_hidden):
    """Its owner learns of it with his next write, and the line takes the next turn."""
    conversation = ids.new_conversation() if is_hidden else (await store.create(TENANT, metadata={})).id
    _, items = await a_turn_on(store, conversation, new_line=is_hidden)
    turn = ids.new_response(conversation)
    await store.begin(a_begin(turn, base_version=1, state=state))
    await store.delete_turn(TENANT, turn)
    await assert_gone(store, turn)
    line = await store.load(TENANT, conversation, Part(MAIN_LINE))
    assert (line.items, line.active) == (items, "")
    _, more = await a_turn_on(store, conversation, base_version=line.version)
    assert await items_of(store, conversation) == [*items, *more]


async def test_erasing_a_turn_does_not_disturb_a_running_one(store):
    """The running turn commits on the version that it began on."""
    conversation = ids.new_conversation()
    first, _ = await a_turn_on(store, conversation, new_line=True)
    running = ids.new_response(conversation)
    await store.begin(a_begin(running, base_version=1))
    await store.delete_turn(TENANT, first)
    commit = a_commit(running, base_version=1)
    assert (await store.commit(commit)).verdict in ENDED
    assert await items_of(store, conversation) == commit.items


async def test_what_was_never_erased_is_not(store):
    """Neither a turn that is there nor one that never was."""
    conversation = ids.new_conversation()
    turn, _ = await a_turn_on(store, conversation, new_line=True)
    assert not await store.is_erased(TENANT, turn)
    assert not await store.is_erased(TENANT, ids.new_response(ids.new_conversation()))


async def test_erasing_a_conversation_erases_each_of_its_turns(store):
    """One tombstone stands for all."""
    made = await store.create(TENANT, metadata={})
    turn, _ = await a_turn_on(store, made.id)
    await store.delete(TENANT, made.id)
    await assert_gone(store, turn)
    assert not await store.is_erased("other", turn)


async def test_turns_that_a_queue_may_point_to_are_told(store):
    """Open ones and failed ones, of all lines; not those that ended well, were cancelled or erased."""
    made = await store.create(TENANT, metadata={}, items=[Item(id="", role="user", text="一")])
    (first,) = await items_of(store, made.id)
    done, _ = await a_turn_on(store, made.id, base_version=0)
    failed, erased, cancelled, queued, running = (ids.new_response(made.id) for _ in range(5))
    await store.begin(a_begin(failed, base_version=1))
    await store.commit(a_commit(failed, base_version=1, state=TurnState.FAILED, items=[]))
    for turn in (erased, cancelled, queued):
        await store.begin(a_begin(turn, base_version=1, state=TurnState.QUEUED))
        if turn is erased:
            await store.delete_turn(TENANT, turn)
        elif turn is cancelled:
            await store.cancel(TENANT, turn)
    await store.begin(a_begin(running, line="b", new_line=True, fork=Fork(MAIN_LINE, first.id)))
    assert sorted(await store.pointed_turns(TENANT, made.id)) == sorted([failed, queued, running])
    assert (await store.turn(TENANT, done)).state is TurnState.COMPLETED


async def test_nobody_points_to_turns_of_what_is_not_there(store):
    """Another tenant's conversation, one that nobody made, and one without turns."""
    made = await store.create(TENANT, metadata={})
    await store.begin(a_begin(ids.new_response(made.id)))
    assert await store.pointed_turns("other", made.id) == []
    assert await store.pointed_turns(TENANT, ids.new_conversation()) == []
    await store.delete(TENANT, made.id)
    assert await store.pointed_turns(TENANT, made.id) == []
