"""What every ConversationStore promises about reading a turn's journal, and about log probabilities in it."""

from __future__ import annotations

import pytest

from services.conversations import ids
from services.conversations.records import TurnState
from services.conversations.store import Reply, Tail, Tailed, Verdict
from tests.support.stores import ALSO_TWICE
from tests.support.turns import LEASE_S, TENANT, a_begin, a_commit, a_note, some_logprobs

pytestmark = ALSO_TWICE


@pytest.fixture
async def turn(store):
    """A turn with the segments [1, 2, 3] and [4, 5]."""
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    await store.begin(a_begin(name))
    await store.note([a_note(name, 0, [1, 2, 3])])
    await store.note([a_note(name, 3, [4, 5])])
    return name


async def look(store, turn, after=0, watch_s=0.0):
    (found,) = await store.tail([Tail(TENANT, turn, after, watch_s)])
    return found.state, list(found.ids), list(found.logprobs), found.is_broken


@pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, [])])
async def test_a_reader_gets_what_is_behind_the_ids_it_has(store, turn, after, expected):
    """From any segment's end on."""
    assert await look(store, turn, after) == (TurnState.RUNNING, expected, [], False)


async def test_many_turns_are_read_in_one_call(store, turn):
    """Each as far as its reader is; one that is not there has no state."""
    unknown = ids.new_response(ids.new_conversation())
    found = await store.tail([Tail(TENANT, turn, 3), Tail(TENANT, unknown), Tail(TENANT, turn, 5)])
    assert [(one.state, list(one.ids)) for one in found] == [
        (TurnState.RUNNING, [4, 5]),
        (None, []),
        (TurnState.RUNNING, []),
    ]
    assert await store.tail([]) == []


async def test_an_owner_hears_until_when_a_reader_will_be_back(store, turn):
    """The farthest of what its readers said; silence says nothing."""
    assert (await store.note([a_note(turn, 5, [])]))[0].seen_s == 0.0
    for watch_s in (60.0, 20.0, 0.0):
        await look(store, turn, watch_s=watch_s)
    (reply,) = await store.note([a_note(turn, 5, [])])
    assert (reply.verdict, reply.value, 20.0 < reply.seen_s <= 60.0) == (Verdict.OK, 5, True)


async def test_a_note_that_skips_ids_hears_of_readers_and_cancels_too(store, turn):
    """Whatever an owner sends, it learns what is asked of it."""
    await look(store, turn, watch_s=60.0)
    await store.cancel(TENANT, turn)
    (reply,) = await store.note([a_note(turn, 9, [9])])
    assert (reply.verdict, reply.value, reply.cancel, reply.seen_s > 0) == (Verdict.GAP, 5, True, True)


async def test_an_ended_turn_has_a_state_and_no_journal(store, turn):
    """Its record holds the ids, and readers change nothing of it."""
    await store.commit(a_commit(turn))
    ended = await store.turn(TENANT, turn)
    assert await look(store, turn, watch_s=60.0) == (TurnState.COMPLETED, [], [], False)
    assert await store.turn(TENANT, turn) == ended


async def test_a_reader_revives_no_erased_turn(store, turn, server):
    """A look leaves nothing behind."""
    conversation = ids.conversation_of(turn)
    await store.delete(TENANT, conversation)
    assert (await store.tail([Tail(TENANT, turn, watch_s=60.0)])) == [Tailed(None)]
    if server is not None:
        assert server.suffixes() == ["gone"]


async def test_a_turn_taken_over_goes_on_where_its_journal_ends(store, turn):
    """Readers see one row of ids over both owners."""
    await store.note([a_note(turn, 5, [], lease_s=0.0)])
    await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S)
    await store.note([a_note(turn, 5, [6], owner="b")])
    assert await look(store, turn) == (TurnState.RUNNING, [1, 2, 3, 4, 5, 6], [], False)


@pytest.mark.parametrize("num_best", [0, 3])
async def test_log_probabilities_stay_with_their_ids(store, turn, num_best):
    """Where notes overlap, only what is new of them is appended."""
    probabilities = some_logprobs(6, num_best)
    name = ids.new_response(ids.new_conversation())
    await store.begin(a_begin(name, new_line=True))
    for start, end in [(0, 3), (1, 4), (0, 2), (3, 6)]:
        note = a_note(name, start, list(range(start, end)), logprobs=probabilities[start:end])
        assert (await store.note([note]))[0].verdict is Verdict.OK
    assert await look(store, name) == (TurnState.RUNNING, [0, 1, 2, 3, 4, 5], probabilities, False)
    assert await look(store, name, 3) == (TurnState.RUNNING, [3, 4, 5], probabilities[3:], False)


async def test_moves_are_kept_and_never_fall(store, turn):
    """A copy of an earlier note that comes late does not hide that the answer went on elsewhere."""
    assert await store.note([a_note(turn, 5, [], moves=2)]) == [Reply(Verdict.OK, value=5)]
    await store.note([a_note(turn, 5, [], moves=1), a_note(turn, 5, [])])
    assert (await store.turn(TENANT, turn)).moves == 2
