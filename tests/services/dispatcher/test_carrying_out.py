"""A job of the queue, from its publication to the end of its turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.backend.scripted import Fault, FaultKind
from services.conversations.keys import MAX_TRIES
from services.conversations.records import TurnState
from services.conversations.store import Tailed
from services.dispatcher.dispatcher import Dispatcher
from tests.support.turn_kit import MODEL, TENANT, until


async def test_a_queued_turn_is_carried_out_and_leaves_nothing_behind(kit):
    """Its record holds the answer, and neither the queue nor the index names it any longer."""
    async with kit.dispatcher():
        turn = await kit.enqueue("Tell me")
        record = await kit.ended(turn)
        await kit.settled()
    assert (record.state, len(record.answer.text.split())) == (TurnState.COMPLETED, 8)
    assert record.request.input == []
    assert [item.text for item in await kit.store.turn_input(TENANT, record)] == ["Tell me"]


async def test_queued_turns_of_a_conversation_come_after_each_other(kit):
    """The second is refused while the first waits, and sees its answer once it has ended."""
    conversation = (await kit.store.create(TENANT, metadata={})).id
    async with kit.dispatcher():
        first = await kit.ended(await kit.enqueue("Hi", conversation=conversation))
        second = await kit.ended(await kit.enqueue("And?", conversation=conversation))
    prompts = [request.prompt_ids for request in kit.backend.requests]
    held = prompts[0] + first.ids
    assert second.state is TurnState.COMPLETED
    assert prompts[1][: len(held)] == held


async def test_slots_bound_what_is_carried_out_at_once(kit):
    """What finds no slot waits in the queue, where others may take it."""
    kit.backend.gate.clear()
    turns = [await kit.enqueue(f"Question {number}") for number in range(5)]
    async with kit.dispatcher(slots=2) as dispatcher:
        await until(lambda: len(kit.backend.requests) == 2)
        assert (dispatcher.facts().used, (await kit.queue.lag()).waiting) == (2, 3)
        kit.backend.gate.set()
        states = {(await kit.ended(turn)).state for turn in turns}
    assert states == {TurnState.COMPLETED}


async def test_a_turn_that_was_cancelled_while_it_waited_is_not_generated(kit):
    """Its job is done when a dispatcher meets it."""
    turn = await kit.enqueue()
    await kit.store.cancel(TENANT, turn)
    async with kit.dispatcher():
        await kit.settled()
    assert (await kit.record(turn)).state is TurnState.CANCELLED
    assert kit.backend.requests == []


async def test_a_running_turn_is_cancelled_with_what_was_said(kit):
    """The dispatcher hears of it with a note."""
    kit.backend.gate.clear()
    turn = await kit.enqueue()
    async with kit.dispatcher():
        await until(lambda: kit.backend.requests)
        record = await kit.turns.cancel(TENANT, turn)
        await kit.settled()
    assert record.state is TurnState.CANCELLED


async def test_an_erased_turn_is_forgotten(kit):
    """Its job is done, for there is nothing to do."""
    turn = await kit.enqueue()
    await kit.store.delete_turn(TENANT, turn)
    async with kit.dispatcher():
        await kit.settled()
    assert kit.backend.requests == []


async def failed(kit, turn: str, **dispatcher) -> str:
    """The code of the error that the turn is recorded to have failed with, which its dead letter names too."""
    async with kit.dispatcher(**dispatcher):
        record = await kit.ended(turn)
        await kit.settled()
    (letter,) = await kit.queue.dead()
    assert (record.state, letter.ref.turn, letter.reason) == (TurnState.FAILED, turn, record.error_code)
    return record.error_code


async def test_a_turn_that_the_engine_gives_up_fails_with_a_dead_letter(kit):
    """Trying again would give the same."""
    kit.backend.faults = iter([Fault(FaultKind.FAILED, after=2)])
    assert await failed(kit, await kit.enqueue()) == "generation_failed"


async def test_a_turn_of_another_model_fails(kit):
    """Two models' words in one answer would be worse than none."""
    model = replace(MODEL, fingerprint="fp_2")
    assert await failed(kit, await kit.enqueue(), seams={"model": model}) == "model_replaced"


async def test_a_turn_whose_prompt_cannot_be_made_again_fails(kit, monkeypatch):
    """The digest of the prompt is the record's."""
    turn = await kit.enqueue()
    monkeypatch.setattr("services.turns.adoption.digest", lambda _: "00" * 16)
    assert await failed(kit, turn) == "prompt_mismatch"


async def test_a_turn_that_waited_too_long_fails(kit):
    """A day is the most."""
    kit.settings = replace(kit.settings, waiting_s=-1.0)
    kit.turns = kit.service()
    assert await failed(kit, await kit.enqueue()) == "deadline_exceeded"


async def test_a_turn_whose_journal_has_a_hole_fails(kit, monkeypatch):
    """Nobody can say what its reader was sent."""
    turn = await kit.enqueue()

    async def broken(*_args):
        return [Tailed(TurnState.RUNNING, is_broken=True)]

    monkeypatch.setattr(kit.store, "tail", broken)
    assert await failed(kit, turn) == "turn_lost"


async def test_a_turn_that_outlives_its_owners_is_given_up(kit):
    """A turn that kills whoever takes it must not kill everybody."""
    turn = await kit.enqueue()
    for number in range(MAX_TRIES):
        await kit.store.claim(TENANT, turn, owner=f"dead {number}", lease_s=0.0)
    assert await failed(kit, turn) == "turn_failed"
    assert kit.backend.requests == []


async def test_a_job_that_crashes_comes_back(kit, monkeypatch):
    """A bug met once costs a try, not the job, and not the dispatcher."""
    turn = await kit.enqueue()
    load, crashes = kit.store.load, iter([True])

    async def crash_once(*args, **options):
        if next(crashes, False):
            kit.clock.by += 60.0  # nobody renews the lease of a crashed job
            raise RuntimeError("a bug")
        return await load(*args, **options)

    monkeypatch.setattr(kit.store, "load", crash_once)
    async with kit.dispatcher():
        assert (await kit.ended(turn)).state is TurnState.COMPLETED
        await kit.settled()


async def test_a_turn_that_always_crashes_is_given_up(kit, monkeypatch):
    """In as many tries as it may have owners."""
    turn = await kit.enqueue()

    async def crash(*_args, **_options):
        kit.clock.by += 60.0
        raise RuntimeError("a bug")

    monkeypatch.setattr(kit.store, "load", crash)
    assert await failed(kit, turn) == "turn_failed"


async def test_a_loop_that_ends_is_unhealthy(kit):
    """Whoever keeps the process alive is told."""
    async with kit.dispatcher() as dispatcher:
        dispatcher.check()
        dispatcher._loops[0].cancel()
        await asyncio.wait(dispatcher._loops[:1])
        with pytest.raises(RuntimeError, match="loop"):
            dispatcher.check()
    dispatcher.check()


def test_nothing_is_wrong_before_the_start(kit):
    """A dispatcher that has not started is no dead one."""
    Dispatcher(kit.turns, kit.store, kit.queue, kit.due, name="d").check()
