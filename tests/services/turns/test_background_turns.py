"""Turns that nobody waits for: accepted, queued, carried out by whoever has room."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from cluster.errors import ConversationBusyError, OverloadedError, QueueFullError, StoreUnavailableError
from services.backend.scripted import Fault, FaultKind
from services.conversations.queueing import Ref
from services.conversations.records import TurnState
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryQueue
from services.turns.carrying import Carried, Fate
from services.turns.events import StoredTurn
from tests.support.turn_kit import QUICK, TENANT, collect, until, user

TEXT = "Hello there. How are you?"


def turn_of(kit, text: str = "Hi", **fields) -> StoredTurn:
    return replace(kit.stored_turn(user(text)), is_background=True, **fields)


async def test_an_accepted_turn_waits_in_the_queue(kit):
    """Nothing is computed; its line is taken."""
    conversation = await kit.conversation()
    response = await kit.service.enqueue(turn_of(kit, conversation=conversation))
    entry = await kit.queue.take("somebody")
    assert ((entry.tenant, entry.turn), kit.backend.requests) == ((TENANT, response), [])
    assert (await kit.store.turn(TENANT, response)).state is TurnState.QUEUED
    with pytest.raises(ConversationBusyError):
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))


async def test_whoever_carries_it_out_leaves_what_its_gateway_would_have(kit):
    """The same draws, the same prompt, the same record."""
    conversation = await kit.conversation()
    response = await kit.service.enqueue(turn_of(kit, conversation=conversation))
    assert await kit.service.carry_out(TENANT, response) == Carried(Fate.ENDED)
    started, _ = await collect(kit.service.respond(kit.stored_turn(user("Hi"))))
    queued, waited = [await kit.store.turn(TENANT, name) for name in (response, started.response_id)]
    assert (queued.state, queued.ids, queued.usage["prompt_tokens"]) == (
        waited.state,
        waited.ids,
        waited.usage["prompt_tokens"],
    )
    assert [item.text for item in (await kit.store.load(TENANT, conversation)).items] == ["Hi", TEXT]
    assert not kit.due.times


async def test_a_tenant_with_too_many_turns_is_refused_and_nothing_is_written(kit):
    """Before anything begins."""
    service = kit.another(queue=MemoryQueue(BACKGROUND, max_queued=1))
    await service.start()
    await service.enqueue(turn_of(kit))
    conversation = await kit.conversation()
    with pytest.raises(QueueFullError):
        await service.enqueue(turn_of(kit, conversation=conversation))
    assert (await kit.store.load(TENANT, conversation)).active == ""
    await service.stop()


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("away", retry_after_s=1.0),
        QueueFullError(queue=BACKGROUND, max_queued=1, retry_after_s=1.0),
    ],
)
async def test_a_turn_that_could_not_be_published_is_accepted_all_the_same(kit, monkeypatch, error):
    """It is due soon, and whoever looks at it puts it into the queue."""

    async def fail(*args, **fields):
        raise error

    monkeypatch.setattr(kit.queue, "publish", fail)
    response = await kit.service.enqueue(turn_of(kit))
    assert list(kit.due.times) == [Ref(TENANT, response)]
    assert kit.due.times[Ref(TENANT, response)] < time.time() + 60
    assert (await kit.store.turn(TENANT, response)).state is TurnState.QUEUED


async def test_a_turn_that_finds_no_room_waits_again(kit):
    """It is nobody's, and the next try is its first."""
    response = await kit.service.enqueue(turn_of(kit))
    kit.backend.faults = iter([Fault(FaultKind.OVERLOADED)])
    carried = await kit.service.carry_out(TENANT, response)
    record = await kit.store.turn(TENANT, response)
    assert carried.fate is Fate.WAITS
    assert isinstance(carried.error, OverloadedError)
    assert (record.state, record.until_ms) == (TurnState.QUEUED, 0)
    assert await kit.service.carry_out(TENANT, response) == Carried(Fate.ENDED)


async def test_a_turn_that_found_no_room_for_too_long_is_failed_by_what_it_met(kit):
    """Its line is free, and whoever asks for it hears why."""
    conversation = await kit.conversation()
    response = await kit.service.enqueue(turn_of(kit, conversation=conversation))
    kit.backend.faults = iter([Fault(FaultKind.OVERLOADED)])
    await kit.service.give_up(TENANT, response, await kit.service.carry_out(TENANT, response))
    record = await kit.store.turn(TENANT, response)
    assert (record.state, record.error_code) == (TurnState.FAILED, "overloaded")
    assert (await kit.store.load(TENANT, conversation)).active == ""


async def test_of_two_dispatchers_one_has_it(kit):
    """The other leaves it alone while the first lives."""
    response = await kit.service.enqueue(turn_of(kit))
    kit.backend.gate.clear()
    first = asyncio.create_task(kit.service.carry_out(TENANT, response))
    await until(lambda: kit.backend.requests)
    assert await kit.service.carry_out(TENANT, response) == Carried(Fate.OWNED)
    kit.backend.gate.set()
    assert await first == Carried(Fate.ENDED)
    assert await kit.service.carry_out(TENANT, response) == Carried(Fate.ENDED)


async def test_a_turn_under_way_is_looked_at_when_its_lease_would_end(kit):
    """Not when its place in the queue would be."""
    response = await kit.service.enqueue(turn_of(kit))
    kit.backend.gate.clear()
    carrying = asyncio.create_task(kit.service.carry_out(TENANT, response))
    await until(lambda: kit.backend.requests)
    assert kit.due.times[Ref(TENANT, response)] <= time.time() + QUICK.journal.lease_s
    kit.backend.gate.set()
    await carrying


async def test_moves_are_counted_over_all_owners(kit):
    """Two of the first owner's and two of the second's are more than a turn may have: it fails, and nobody goes on."""
    response = await kit.service.enqueue(turn_of(kit))
    kit.backend.incarnations = [f"replica-{letter}" for letter in "abcdef"]
    kit.backend.faults = iter([Fault(FaultKind.LOST, ids) for ids in (2, 4)])
    answer = kit.backend.answer

    def stuck(request):
        if len(request.output_ids) == 4:
            kit.backend.gate.clear()
        return answer

    kit.backend.answer = stuck
    first = kit.another()
    await first.start()
    carrying = asyncio.create_task(first.carry_out(TENANT, response))
    await until(lambda: not kit.backend.gate.is_set())
    await first.stop()
    await carrying
    record = await kit.store.turn(TENANT, response)
    assert (record.state, record.total, record.moves) == (TurnState.RUNNING, 4, 2)
    kit.backend.answer = answer
    kit.backend.gate.set()
    kit.backend.faults = iter([Fault(FaultKind.LOST, ids) for ids in (5, 6)])
    carried = await kit.service.carry_out(TENANT, response)
    assert (carried.fate, carried.error.code) == (Fate.FAILED, "turn_failed")
    assert (await kit.store.turn(TENANT, response)).state is TurnState.FAILED
    assert len(kit.backend.requests) == 5


async def test_a_turn_of_another_model_is_failed(kit):
    """Its draws would not be those that were begun."""
    response = await kit.service.enqueue(turn_of(kit))
    other = kit.another(model=replace(kit.model, fingerprint="fp_2"))
    carried = await other.carry_out(TENANT, response)
    assert (carried.fate, carried.error.code) == (Fate.FAILED, "model_replaced")
    assert (await kit.store.turn(TENANT, response)).error_code == "model_replaced"


async def test_a_turn_that_waited_too_long_is_failed(kit):
    """Nobody wants its answer any more."""
    hasty = kit.another(settings=replace(QUICK, waiting_s=-1.0))
    response = await hasty.enqueue(turn_of(kit))
    assert (await kit.service.carry_out(TENANT, response)).error.code == "deadline_exceeded"
