"""What every ConversationStore promises about turns that wait, are taken over, given up or cancelled."""

from __future__ import annotations

import pytest

from services.conversations import ids
from services.conversations.keys import MAX_TRIES
from services.conversations.records import TurnState
from services.conversations.store import Reply, Verdict
from tests.support.stores import ALSO_TWICE
from tests.support.turns import ENDED, LEASE_S, TENANT, a_begin, a_commit, a_note, journal_of

pytestmark = ALSO_TWICE


@pytest.fixture
async def turn(store):
    """A turn that maker ``a`` put in the queue."""
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    assert await store.begin(a_begin(name, state=TurnState.QUEUED)) == Reply(Verdict.OK, value=1)
    return name


async def claim(store, turn, owner="b", lease_s=LEASE_S):
    return await store.claim(TENANT, turn, owner=owner, lease_s=lease_s)


async def give_up(store, turn, owner="b", *, is_queued=False):
    return await store.release(TENANT, turn, owner=owner, is_queued=is_queued)


async def claims_of(store, turn):
    return (await store.turn(TENANT, turn)).claims


async def test_a_waiting_turn_has_no_lease(store, turn):
    """Nobody owns it, and beginning it again says that it waits."""
    assert await store.begin(a_begin(turn, state=TurnState.QUEUED)) == Reply(Verdict.OK, value=1)
    record = await store.turn(TENANT, turn)
    assert (record.state, record.until_ms, record.claims) == (TurnState.QUEUED, 0, 0)


async def test_a_waiting_turn_keeps_others_off_its_line(store, turn):
    """The line is busy with it, however long it waits."""
    other = ids.new_response(ids.conversation_of(turn))
    assert await store.begin(a_begin(other)) == Reply(Verdict.BUSY, turn=turn)


@pytest.mark.parametrize("owner", ["a", "b"])
async def test_anybody_claims_a_waiting_turn(store, turn, owner):
    """It runs from then on, and its maker learns that it exists."""
    assert await claim(store, turn, owner) == Reply(Verdict.OK, value=0)
    record = await store.turn(TENANT, turn)
    assert (record.state, record.owner, record.claims, record.fence) == (TurnState.RUNNING, owner, 1, 2)
    assert await store.begin(a_begin(turn, state=TurnState.QUEUED)) == Reply(Verdict.EXISTS)
    assert (await claim(store, turn, "c")).verdict is Verdict.LIVE


async def test_a_waiting_turn_takes_no_writes(store, turn):
    """Its maker does not own it."""
    assert await store.note([a_note(turn, 0, [1])]) == [Reply(Verdict.LOST)]
    assert await store.commit(a_commit(turn)) == Reply(Verdict.LOST)


@pytest.mark.parametrize("is_queued", [False, True])
async def test_a_turn_given_up_is_free_at_once_with_what_it_holds(store, turn, is_queued):
    """The next owner goes on from there."""
    await claim(store, turn)
    await store.note([a_note(turn, 0, [1, 2], owner="b")])
    assert await give_up(store, turn, is_queued=is_queued) == Reply(Verdict.OK)
    assert await claim(store, turn, "c") == Reply(Verdict.OK, value=2)
    assert await journal_of(store, turn) == [1, 2]


@pytest.mark.parametrize("is_queued", [False, True])
async def test_who_gave_a_turn_up_writes_to_it_no_more(store, turn, is_queued):
    """A note still on its way must not hold up the next owner for a lease."""
    await claim(store, turn)
    await give_up(store, turn, is_queued=is_queued)
    assert await store.note([a_note(turn, 0, [1], owner="b")]) == [Reply(Verdict.LOST)]
    assert await store.commit(a_commit(turn, owner="b")) == Reply(Verdict.LOST)
    assert (await store.turn(TENANT, turn)).until_ms == 0


async def test_a_running_turn_that_its_first_owner_gave_up_is_not_begun_again(store):
    """A copy of the begin that comes late must not hold it up either."""
    turn = ids.new_response(ids.new_conversation())
    await store.begin(a_begin(turn, new_line=True))
    assert await give_up(store, turn, "a") == Reply(Verdict.OK)
    assert await store.begin(a_begin(turn, new_line=True)) == Reply(Verdict.EXISTS)
    assert await claim(store, turn) == Reply(Verdict.OK, value=0)


async def test_a_line_behind_a_turn_given_up_tells_newcomers_so(store, turn):
    """Queued it is busy; drained it can be taken over, and it is told since when."""
    other = ids.new_response(ids.conversation_of(turn))
    await claim(store, turn)
    await give_up(store, turn, is_queued=True)
    assert await store.begin(a_begin(other)) == Reply(Verdict.BUSY, turn=turn)
    await claim(store, turn)
    await give_up(store, turn)
    reply = await store.begin(a_begin(other))
    assert (reply.verdict, reply.turn) == (Verdict.EXPIRED, turn)
    assert 0 <= reply.value < 60_000  # ms


async def test_another_owners_release_is_lost(store, turn):
    """Whoever lost the turn cannot give it up."""
    await claim(store, turn)
    assert await give_up(store, turn, "a") == Reply(Verdict.LOST)
    assert (await store.turn(TENANT, turn)).until_ms > 0


async def test_a_release_of_an_ended_unknown_or_erased_turn_says_so(store, turn):
    """There is nothing to give up."""
    await claim(store, turn)
    await store.commit(a_commit(turn, owner="b"))
    assert await give_up(store, turn) == Reply(Verdict.LOST)
    assert await give_up(store, ids.new_response(ids.new_conversation())) == Reply(Verdict.ABSENT)
    await store.delete_turn(TENANT, turn)
    assert await give_up(store, turn) == Reply(Verdict.GONE)


@pytest.mark.parametrize("is_queued", [False, True])
async def test_a_claim_given_up_does_not_count(store, turn, is_queued):
    """A turn may be handed on by any number of owners that leave in order."""
    for owner in ["b", "c", "d", "e", "f", "g"]:
        assert (await claim(store, turn, owner)).verdict is Verdict.OK
        for _ in range(2):
            assert await give_up(store, turn, owner, is_queued=is_queued) == Reply(Verdict.OK)
        assert await claims_of(store, turn) == 0


async def test_a_release_takes_back_one_claim_only(store, turn):
    """Owners that died before it stay counted, and a first owner has no claim to take back."""
    await claim(store, turn, "b", lease_s=0.0)
    await claim(store, turn, "c")
    for _ in range(3):
        await give_up(store, turn, "c")
    assert await claims_of(store, turn) == 1
    other = ids.new_response(ids.new_conversation())
    await store.begin(a_begin(other, new_line=True))
    await give_up(store, other, "a")
    assert await claims_of(store, other) == 0


async def test_a_turn_that_outlives_its_owners_is_poison(store, turn):
    """Its last owner gets it to end it as failed; until then it can be told again."""
    owners = [f"owner{number}" for number in range(MAX_TRIES)]
    for owner in owners:
        assert (await claim(store, turn, owner, lease_s=0.0)).verdict is Verdict.OK
    for _ in range(2):
        assert await claim(store, turn, "last") == Reply(Verdict.POISON, value=0)
    failed = a_commit(turn, owner="last", state=TurnState.FAILED, items=[], ids=[])
    assert (await store.commit(failed)).verdict in ENDED
    assert (await store.turn(TENANT, turn)).state is TurnState.FAILED


async def test_a_turn_that_goes_on_is_no_poison(store, turn):
    """Owners that came to new ids did not die over it, whatever else took it from them; all of them are counted."""
    for number in range(2 * MAX_TRIES):
        assert await claim(store, turn, f"owner{number}", lease_s=0.0) == Reply(Verdict.OK, value=number)
        await store.note([a_note(turn, number, [number], owner=f"owner{number}", lease_s=0.0)])
    for number in range(MAX_TRIES):
        assert (await claim(store, turn, f"idle{number}", lease_s=0.0)).verdict is Verdict.OK
    assert (await claim(store, turn, "last")).verdict is Verdict.POISON
    assert await claims_of(store, turn) == 3 * MAX_TRIES + 1


async def test_a_waiting_turn_is_cancelled_at_once(store, turn):
    """Its line is free, its end is recorded, and nobody can take it any more."""
    for _ in range(2):
        assert await store.cancel(TENANT, turn) is TurnState.CANCELLED
    record = await store.turn(TENANT, turn)
    assert (record.state, record.finish, record.usage, record.ids) == (TurnState.CANCELLED, "aborted", {}, [])
    assert (record.answer, record.last, record.ended_at > 0) == (None, "", True)
    assert await claim(store, turn) == Reply(Verdict.TERMINAL)
    assert await store.begin(a_begin(turn, state=TurnState.QUEUED)) == Reply(Verdict.EXISTS)
    assert await store.commit(a_commit(turn)) == Reply(Verdict.LOST)
    other = ids.new_response(ids.conversation_of(turn))
    assert (await store.begin(a_begin(other))).verdict is Verdict.OK


async def test_a_running_turn_hears_of_its_cancel(store, turn):
    """Its owner ends it; the next note tells him to."""
    await claim(store, turn)
    assert await store.note([a_note(turn, 0, [1], owner="b")]) == [Reply(Verdict.OK, value=1)]
    assert await store.cancel(TENANT, turn) is TurnState.RUNNING
    assert await store.note([a_note(turn, 1, [], owner="b")]) == [Reply(Verdict.OK, value=1, cancel=True)]
    assert (await store.turn(TENANT, turn)).is_cancelled


async def test_a_waiting_turn_with_ids_is_cancelled_by_its_next_owner(store, turn):
    """Only an owner can put on the line what its readers have seen."""
    await claim(store, turn)
    await store.note([a_note(turn, 0, [1], owner="b")])
    await give_up(store, turn, is_queued=True)
    assert await store.cancel(TENANT, turn) is TurnState.QUEUED
    await claim(store, turn, "c")
    assert (await store.turn(TENANT, turn)).is_cancelled
    assert await store.note([a_note(turn, 1, [], owner="c")]) == [Reply(Verdict.OK, value=1, cancel=True)]


async def test_a_cancel_changes_no_ended_turn(store, turn):
    """What finished first stays finished."""
    await claim(store, turn)
    await store.commit(a_commit(turn, owner="b"))
    ended = await store.turn(TENANT, turn)
    assert await store.cancel(TENANT, turn) is TurnState.COMPLETED
    assert await store.turn(TENANT, turn) == ended
