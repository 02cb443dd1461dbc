"""An operator opens a failed turn again: on every store, and only where it can still be answered as it was asked."""

from __future__ import annotations

import pytest

from cluster.protocol import Logprobs
from services.conversations import ids
from services.conversations.keys import MAX_TRIES
from services.conversations.records import Item, TurnState
from services.conversations.store import Verdict
from tests.support.turns import LEASE_S, TENANT, a_begin, a_commit, a_note, a_request, journal_of

DEADLINE_S = 1_000.0
FAILED = {
    "state": TurnState.FAILED,
    "items": [],
    "finish": "failed",
    "error_code": "overloaded",
    "error_message": "No.",
}


@pytest.fixture
async def conversation(store):
    return (await store.create(TENANT, metadata={})).id


async def begun(store, conversation: str, **changes) -> str:
    turn = ids.new_response(conversation)
    request = a_request(is_background=True)
    options = {"request": request, "state": TurnState.QUEUED} | changes
    assert (await store.begin(a_begin(turn, **options))).verdict is Verdict.OK
    return turn


async def failed(store, conversation: str) -> str:
    """A background turn that has used up its owners, said something, and failed."""
    turn = await begun(store, conversation)
    for number in range(MAX_TRIES):
        await store.claim(TENANT, turn, owner=f"o{number}", lease_s=0.0)
    await store.claim(TENANT, turn, owner="a", lease_s=LEASE_S)
    await store.note([a_note(turn, 0, [5, 6], moves=2)])
    assert (await store.commit(a_commit(turn, ids=[5, 6], **FAILED))).verdict is Verdict.OK
    return turn


async def revive(store, turn: str, owner: str = "operator") -> Verdict:
    return (await store.revive(TENANT, turn, owner=owner, deadline_s=DEADLINE_S)).verdict


async def test_a_failed_turn_waits_anew(store, conversation):
    """As when it was queued: no error, no ids, no owners; the same request and the same age."""
    turn = await failed(store, conversation)
    before = await store.turn(TENANT, turn)
    assert await revive(store, turn) is Verdict.OK
    record = await store.turn(TENANT, turn)
    assert (record.state, record.request, record.created_at) == (TurnState.QUEUED, before.request, before.created_at)
    assert (record.total, record.claims, record.moves, record.ids, record.until_ms) == (0, 0, 0, [], 0)
    assert (record.error_code, record.error_message, record.finish, record.ended_at) == ("", "", "", 0)
    assert record.deadline_ms > before.deadline_ms
    assert (await store.load(TENANT, conversation)).active == turn
    assert await journal_of(store, turn) == []


async def test_a_revived_turn_is_carried_out_as_any_other(store, conversation):
    """Claimed, noted from the first id, committed."""
    turn = await failed(store, conversation)
    await revive(store, turn)
    assert (await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S)).verdict is Verdict.OK
    (noted,) = await store.note([a_note(turn, 0, [5], owner="b")])
    assert (noted.verdict, noted.value) == (Verdict.OK, 1)
    assert (await store.commit(a_commit(turn, owner="b"))).verdict is Verdict.OK
    record = await store.turn(TENANT, turn)
    assert (record.state, len((await store.load(TENANT, conversation)).items)) == (TurnState.COMPLETED, 2)


async def test_the_owner_that_failed_it_writes_no_more(store, conversation):
    """Its commit, sent again, is not the revived turn's."""
    turn = await failed(store, conversation)
    await revive(store, turn)
    assert (await store.commit(a_commit(turn, ids=[5, 6], **FAILED))).verdict is Verdict.LOST
    (noted,) = await store.note([a_note(turn, 0, [7])])
    assert noted.verdict is Verdict.LOST
    assert (await store.turn(TENANT, turn)).state is TurnState.QUEUED


async def test_a_revival_that_is_sent_again_is_one(store, conversation):
    """Another operator's finds the turn open; so does one whose turn was taken meanwhile."""
    turn = await failed(store, conversation)
    assert [await revive(store, turn) for _ in range(2)] == [Verdict.OK] * 2
    assert await revive(store, turn, "another") is Verdict.EXISTS
    await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S)
    assert await revive(store, turn) is Verdict.EXISTS


@pytest.mark.parametrize("state", [TurnState.COMPLETED, TurnState.INCOMPLETE, TurnState.CANCELLED])
async def test_what_ended_in_order_stays_ended(store, conversation, state):
    """Its answer was shown, and its history written."""
    turn = await begun(store, conversation)
    await store.claim(TENANT, turn, owner="a", lease_s=LEASE_S)
    await store.commit(a_commit(turn, state=state))
    assert await revive(store, turn) is Verdict.TERMINAL
    assert (await store.turn(TENANT, turn)).state is state


async def test_a_turn_that_somebody_waited_for_stays_failed(store, conversation):
    """Its caller has been told, and may have asked again."""
    turn = await begun(store, conversation, request=a_request(), state=TurnState.RUNNING)
    await store.commit(a_commit(turn, ids=[5, 6], **FAILED))
    assert await revive(store, turn) is Verdict.TERMINAL


async def test_a_conversation_that_is_busy_is_left_alone(store, conversation):
    """Its active turn is named."""
    turn = await failed(store, conversation)
    other = await begun(store, conversation)
    reply = await store.revive(TENANT, turn, owner="operator", deadline_s=DEADLINE_S)
    assert (reply.verdict, reply.turn) == (Verdict.BUSY, other)
    assert (await store.turn(TENANT, turn)).state is TurnState.FAILED


async def test_a_conversation_that_has_gone_on_is_left_alone(store, conversation):
    """The turn's prompt would be another."""
    turn = await failed(store, conversation)
    await store.append_items(TENANT, conversation, [Item(id="", role="user", text="By the way")])
    assert await revive(store, turn) is Verdict.VERSION
    assert (await store.load(TENANT, conversation)).active == ""


async def test_an_erased_turn_and_an_unknown_one_stay_away(store, conversation):
    """Nothing is made anew."""
    turn = await failed(store, conversation)
    await store.delete_turn(TENANT, turn)
    assert await revive(store, turn) is Verdict.GONE
    assert await revive(store, ids.new_response(conversation)) is Verdict.ABSENT


async def test_log_probabilities_of_the_failed_answer_go(store, conversation):
    """They belong to ids that are gone."""
    turn = await begun(store, conversation)
    await store.claim(TENANT, turn, owner="a", lease_s=LEASE_S)
    best = [Logprobs(drawn=-0.5, top_ids=[5], top=[-0.5])]
    await store.commit(a_commit(turn, **{**FAILED, "ids": [5], "logprobs": best}))
    assert await revive(store, turn) is Verdict.OK
    assert (await store.turn(TENANT, turn)).logprobs is None
