"""Turns that go on from an earlier answer, in place or on a branch."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.errors import (
    ConversationBusyError,
    InvalidRequestError,
    NotFoundError,
    PreviousResponseDeletedError,
    PreviousResponseError,
)
from services.backend.scripted import Fault, FaultKind
from services.conversations.records import TurnState
from services.conversations.store import Part, Reply, Verdict
from services.turns.events import EventKind, StoredTurn
from tests.support.turn_kit import TENANT, collect, until, user

TEXT = "Hello there. How are you?"


def behind(kit, previous: str, text: str = "more", **fields) -> StoredTurn:
    return replace(kit.stored_turn(user(text)), previous=previous, **fields)


async def answer(kit, turn: StoredTurn) -> str:
    started, events = await collect(kit.service.respond(turn))
    assert events[-1].kind is EventKind.COMPLETED
    return started.response_id


async def texts(kit, response: str) -> list[str]:
    record = await kit.store.turn(TENANT, response)
    line = await kit.store.load(TENANT, record.conversation, Part(line=record.line, upto=record.last))
    return [item.text for item in line.items]


async def line_of(kit, response: str) -> str:
    return (await kit.store.turn(TENANT, response)).line


async def test_the_last_answer_is_gone_on_from_in_place(kit):
    """Nobody else is there, so no item is copied."""
    first = await answer(kit, kit.stored_turn(user("one")))
    second = await answer(kit, behind(kit, first))
    assert await line_of(kit, second) == await line_of(kit, first)
    assert await texts(kit, second) == ["one", TEXT, "more", TEXT]


async def test_an_earlier_answer_is_gone_on_from_on_a_branch(kit):
    """It holds what was said up to there, and the line that it leaves stays as it is."""
    first = await answer(kit, kit.stored_turn(user("one")))
    second = await answer(kit, behind(kit, first))
    other = await answer(kit, behind(kit, first, "else"))
    assert await line_of(kit, other) != await line_of(kit, second)
    assert await texts(kit, other) == ["one", TEXT, "else", TEXT]
    assert await texts(kit, second) == ["one", TEXT, "more", TEXT]


async def test_an_answer_of_a_conversation_is_gone_on_from_on_a_branch(kit):
    """A conversation holds only what was said in it, even behind its last answer."""
    conversation = await kit.conversation()
    first = await answer(kit, kit.stored_turn(user("one"), conversation=conversation))
    await answer(kit, behind(kit, first))
    line = await kit.store.load(TENANT, conversation)
    assert [item.text for item in line.items] == ["one", TEXT]


async def test_a_chain_of_five_is_one_line(kit):
    """Each prompt begins with all that went before, on one replica."""
    response, before = await answer(kit, kit.stored_turn(user("0"))), []
    for turn in range(1, 5):
        before = kit.backend.requests[-1].prompt_ids + kit.backend.answer
        response = await answer(kit, behind(kit, response, f"{turn}"))
        assert kit.backend.requests[-1].prompt_ids[: len(before)] == before
    assert await texts(kit, response) == [text for turn in range(5) for text in (f"{turn}", TEXT)]
    assert len({request.pin_key for request in kit.backend.requests}) == 1


async def test_a_branchs_prompt_is_its_parents_history_and_is_found_in_the_cache(kit):
    """Branches share their root, hence their replica, and the ids that were sampled before."""
    first = await answer(kit, kit.stored_turn(user("one")))
    shared = kit.backend.requests[-1].prompt_ids + kit.backend.answer
    await answer(kit, behind(kit, first))
    started, events = await collect(kit.service.respond(behind(kit, first, "else")))
    sent = kit.backend.requests[-1]
    assert sent.prompt_ids[: len(shared)] == shared
    assert sent.pin_key == kit.backend.requests[0].pin_key
    assert events[-1].result.usage.cached_tokens >= len(shared)
    assert (await kit.store.turn(TENANT, started.response_id)).usage["cached_tokens"] >= len(shared)


async def test_two_continuations_at_once_never_meet(kit):
    """One goes on in place, the other on a branch; both hold their own turn alone."""
    first = await answer(kit, kit.stored_turn(user("one")))
    kit.backend.gate.clear()
    both = [asyncio.create_task(answer(kit, behind(kit, first, text))) for text in ("left", "right")]
    await until(lambda: len(kit.backend.requests) == 3)
    kit.backend.gate.set()
    left, right = await asyncio.gather(*both)
    assert await line_of(kit, left) != await line_of(kit, right)
    assert await texts(kit, left) == ["one", TEXT, "left", TEXT]
    assert await texts(kit, right) == ["one", TEXT, "right", TEXT]


@pytest.mark.parametrize("verdict", [Verdict.BUSY, Verdict.VERSION, Verdict.ABSENT])
async def test_a_place_that_was_taken_meanwhile_is_looked_for_again(kit, monkeypatch, verdict):
    """Whatever happened between the look and the begin, the second look sees it."""
    first = await answer(kit, kit.stored_turn(user("one")))
    begin, tries = kit.store.begin, []

    async def late(request):
        tries.append(request)
        monkeypatch.setattr(kit.store, "begin", begin)
        await answer(kit, behind(kit, first, "faster"))
        return Reply(verdict)

    monkeypatch.setattr(kit.store, "begin", late)
    slower = await answer(kit, behind(kit, first, "slower"))
    assert await texts(kit, slower) == ["one", TEXT, "slower", TEXT]
    assert tries[0].fork is None


async def test_an_answer_in_progress_cannot_be_gone_on_from(kit):
    """It is busy, and named."""
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn())
    first = (await anext(events)).response_id
    with pytest.raises(ConversationBusyError) as caught:
        await answer(kit, behind(kit, first))
    assert caught.value.active == first
    await events.aclose()


async def test_a_failed_answer_cannot_be_gone_on_from(kit):
    """There is none; the field is named."""
    kit.backend.faults = iter([Fault(FaultKind.FAILED, 3)])
    started, _ = await collect(kit.service.respond(kit.stored_turn()))
    with pytest.raises(InvalidRequestError, match="failed") as caught:
        await answer(kit, behind(kit, started.response_id))
    assert caught.value.param == "previous_response_id"


async def test_a_cancelled_answer_can(kit):
    """What was said of it is what the next turn sees."""
    events = kit.service.respond(kit.stored_turn(user("one")))
    first = (await anext(events)).response_id
    async for event in events:
        if event.kind is EventKind.TEXT_DELTA:
            kit.backend.gate.clear()
            break
    await events.aclose()
    kit.backend.gate.set()
    record = await kit.store.turn(TENANT, first)
    second = await answer(kit, behind(kit, first))
    assert record.state is TurnState.CANCELLED
    assert await texts(kit, second) == ["one", record.answer.text, "more", TEXT]


async def test_a_turn_that_was_cancelled_before_a_word_leaves_its_place_to_the_next(kit):
    """Behind it stands what stood before it: here nothing."""
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(user("one")))
    first = (await anext(events)).response_id
    await events.aclose()
    kit.backend.gate.set()
    for text in ("in place", "on a branch"):
        later = await answer(kit, behind(kit, first, text))
        assert await texts(kit, later) == [text, TEXT]


async def test_a_deleted_answer_is_told_from_an_unknown_one(kit):
    """For as long as the tombstone lasts."""
    first = await answer(kit, kit.stored_turn(user("one")))
    second = await answer(kit, behind(kit, first))
    await kit.store.delete_turn(TENANT, first)
    with pytest.raises(PreviousResponseDeletedError):
        await answer(kit, behind(kit, first))
    assert await texts(kit, second) == ["more", TEXT]


@pytest.mark.parametrize("previous", ["resp_" + "a" * 32, "resp_x", "conv_" + "a" * 16, "nonsense"])
async def test_an_unknown_or_malformed_answer_is_not_found(kit, previous):
    """Both alike."""
    with pytest.raises(PreviousResponseError) as caught:
        await answer(kit, behind(kit, previous))
    assert not isinstance(caught.value, PreviousResponseDeletedError)
    assert not await kit.due.look()


async def test_another_tenants_answer_is_not_found(kit):
    """Its id says nothing to others."""
    first = await answer(kit, kit.stored_turn(user("one")))
    with pytest.raises(PreviousResponseError):
        await answer(kit, behind(kit, first, tenant="rival"))


async def test_an_answer_erased_between_look_and_begin_is_deleted(kit, monkeypatch):
    """What the branch would leave is gone by then."""
    conversation = await kit.conversation()
    first = await answer(kit, kit.stored_turn(user("one"), conversation=conversation))
    begin = kit.store.begin

    async def late(request):
        answer_item = (await kit.store.turn(TENANT, first)).last
        await kit.store.delete_item(TENANT, conversation, answer_item)
        monkeypatch.setattr(kit.store, "begin", begin)
        return await begin(request)

    monkeypatch.setattr(kit.store, "begin", late)
    with pytest.raises(PreviousResponseDeletedError):
        await answer(kit, behind(kit, first))


async def test_a_conversation_deleted_between_look_and_begin_is_not_found(kit, monkeypatch):
    """Nothing is begun in it."""
    conversation = await kit.conversation()
    begin = kit.store.begin

    async def late(request):
        await kit.store.delete(TENANT, conversation)
        return await begin(request)

    monkeypatch.setattr(kit.store, "begin", late)
    with pytest.raises(NotFoundError) as caught:
        await answer(kit, kit.stored_turn(conversation=conversation))
    assert (caught.value.kind, caught.value.name) == ("conversation", conversation)
