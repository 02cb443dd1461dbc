"""Failed background turns that an operator queues again, from their dead letters to an answer."""

from __future__ import annotations

import asyncio
from itertools import repeat

from services.backend.scripted import Fault, FaultKind
from services.cli.replaying import replay
from services.conversations.records import TurnState
from tests.fakes.doomed import Doomed
from tests.support.turn_kit import TENANT

SEED = 20_260_101


async def failed_refs(kit):
    """The dead letters of a turn that found no replica; the next ones find one."""
    kit.backend.faults = repeat(Fault(FaultKind.NO_REPLICA))
    async with kit.dispatcher(max_tries=2):
        await kit.ended(await kit.enqueue("Tell me", options={"seed": SEED}))
        await kit.settled()
    kit.backend.faults = iter(())
    return [letter.ref for letter in await kit.queue.dead()]


async def test_a_replayed_turn_ends_as_it_would_have(kit):
    """With the draws of its own seed; no dead letter is left, and nothing else."""
    async with kit.dispatcher():
        whole = await kit.ended(await kit.enqueue("Tell me", options={"seed": SEED}))
    (ref,) = refs = await failed_refs(kit)
    done = await replay(kit.store, kit.due, kit.queue, refs)
    async with kit.dispatcher():
        record = await kit.ended(ref.turn)
        await kit.settled()
    assert (done.queued, done.refused) == (1, {})
    assert (record.state, record.ids) == (TurnState.COMPLETED, whole.ids)
    assert await kit.queue.dead() == []


async def test_a_turn_that_fails_again_leaves_a_dead_letter_again(kit):
    """As often as it is replayed."""
    (ref,) = refs = await failed_refs(kit)
    kit.backend.faults = repeat(Fault(FaultKind.FAILED))
    await replay(kit.store, kit.due, kit.queue, refs)
    async with kit.dispatcher():
        await kit.ended(ref.turn)
        await kit.settled()
    (letter,) = await kit.queue.dead()
    assert (letter.ref, letter.reason) == (ref, "generation_failed")


async def test_a_turn_that_was_opened_and_not_queued_is_found(kit):
    """The command may die between the two."""
    (ref,) = refs = await failed_refs(kit)
    doomed = Doomed(1, only="replay")
    replaying = asyncio.create_task(replay(kit.store, kit.due, doomed.seam(kit.queue), refs))
    await asyncio.wait_for(doomed.died.wait(), 20)
    replaying.cancel()
    await asyncio.wait({replaying})
    kit.clock.by += 60.0
    async with kit.dispatcher():
        assert (await kit.ended(ref.turn)).state is TurnState.COMPLETED
        await kit.settled()


async def test_a_turn_whose_conversation_went_on_stays_failed(kit):
    """What came behind it would be answered before it."""
    conversation = (await kit.store.create(TENANT, metadata={})).id
    kit.backend.faults = iter([Fault(FaultKind.FAILED)])
    async with kit.dispatcher():
        turn = await kit.enqueue("Tell me", conversation=conversation)
        await kit.ended(turn)
        await kit.ended(await kit.enqueue("And?", conversation=conversation))
        await kit.settled()
    refs = [letter.ref for letter in await kit.queue.dead()]
    done = await replay(kit.store, kit.due, kit.queue, refs)
    assert (done.queued, list(done.refused)) == (0, ["its conversation has gone on since"])
    assert ((await kit.record(turn)).state, len(await kit.queue.dead())) == (TurnState.FAILED, 1)
