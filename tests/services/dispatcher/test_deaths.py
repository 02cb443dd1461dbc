"""A process dies between any two of its calls, and the turn ends all the same: once, with the answer it would have had."""

from __future__ import annotations

import asyncio

import pytest

from services.conversations.records import TurnState
from services.conversations.store import Part
from tests.fakes.doomed import Doomed
from tests.fakes.turnstile import Turnstile
from tests.support.dispatch_kit import DispatchKit
from tests.support.turn_kit import TENANT, until

SEED = 20_260_101
LATER_S = 120.0  # leases are over by then, and jobs in work belong to nobody
EFFECT = pytest.mark.parametrize("is_done", [False, True], ids=["before", "behind"])


async def undisturbed(kit: DispatchKit):
    async with kit.dispatcher():
        return await kit.ended(await kit.enqueue(options={"seed": SEED}))


async def goes_on(kit: DispatchKit, turn: str):
    """What another dispatcher makes of the turn, and of all that was left behind."""
    kit.clock.by += LATER_S
    async with kit.dispatcher("survivor"):
        record = await kit.ended(turn)
        kit.clock.by += LATER_S
        await kit.settled()
    return record


@EFFECT
@pytest.mark.parametrize(
    ("call", "skip"),
    [
        ("take_many", 0),
        ("claim", 0),
        ("turn", 0),
        ("tail", 0),
        ("add", 0),
        ("load", 0),
        ("note", 0),
        ("note", 1),
        ("commit", 0),
        ("remove", 0),
        ("settle", 0),
    ],
)
async def test_a_dispatcher_dies_at_a_call(kit, call, skip, is_done):
    """Between take, claim, notes, commit and settle, with and without the effect of the last call."""
    whole = await undisturbed(kit)
    turn = await kit.enqueue(options={"seed": SEED})
    doomed = Doomed(1 + skip, is_after=is_done, only=call)
    kit.backend.gate = gate = Turnstile(5 if call == "note" else 100)
    async with kit.dispatcher("doomed", doomed.seam, is_killed=True):
        await asyncio.wait_for(doomed.died.wait(), 20)
    gate.set()
    record = await goes_on(kit, turn)
    line = await kit.store.load(TENANT, record.conversation, Part(line=record.line))
    assert (record.state, record.ids) == (TurnState.COMPLETED, whole.ids)
    assert [item.text for item in line.items] == ["Hi", whole.answer.text]
    assert await kit.queue.dead() == []


@EFFECT
@pytest.mark.parametrize("call", ["release", "settle"])
async def test_a_dispatcher_dies_while_it_puts_a_refused_job_back(kit, call, is_done, refused):
    """Between the release of the turn and the delay of its job."""
    turn = await kit.enqueue()
    doomed = Doomed(1, is_after=is_done, only=call)
    async with kit.dispatcher("doomed", doomed.seam, seams={"backend": refused}, is_killed=True):
        await asyncio.wait_for(doomed.died.wait(), 20)
    assert (await goes_on(kit, turn)).state is TurnState.COMPLETED


@EFFECT
@pytest.mark.parametrize("call", ["commit", "settle"])
async def test_a_dispatcher_dies_while_it_fails_a_turn(kit, call, is_done, failing):
    """A turn that is recorded to have failed has its dead letter, whoever comes to write it."""
    turn = await kit.enqueue()
    doomed = Doomed(1, is_after=is_done, only=call)
    async with kit.dispatcher("doomed", doomed.seam, seams={"backend": failing}, is_killed=True):
        await asyncio.wait_for(doomed.died.wait(), 20)
    kit.backend = failing
    record = await goes_on(kit, turn)
    (letter,) = await kit.queue.dead()
    assert (record.state, letter.reason) == (TurnState.FAILED, "generation_failed")


@EFFECT
@pytest.mark.parametrize("call", ["release", "add", "settle"])
async def test_a_dispatcher_dies_while_it_stops(kit, call, is_done):
    """What it has not released in time waits for its lease."""
    kit.backend.gate.clear()
    turn = await kit.enqueue()
    doomed = Doomed(1 + (call == "add"), is_after=is_done, only=call)
    async with kit.dispatcher("doomed", doomed.seam, is_killed=True) as dispatcher:
        await until(lambda: kit.backend.requests)
        stopping = asyncio.create_task(dispatcher.stop())
        await asyncio.wait_for(doomed.died.wait(), 20)
        stopping.cancel()
        await asyncio.wait({stopping})
    kit.backend.gate.set()
    assert (await goes_on(kit, turn)).state is TurnState.COMPLETED


@EFFECT
@pytest.mark.parametrize("call", ["add", "begin", "publish", "move"])
async def test_a_gateway_dies_while_it_accepts_a_turn(kit, call, is_done):
    """A turn that has a record is carried out, though nobody has put it into the queue; without one, nothing stays."""
    doomed = Doomed(1, is_after=is_done, only=call)
    gateway = kit.service(doomed.seam)
    await gateway.start()
    begun = asyncio.create_task(gateway.enqueue(kit.background()))
    await asyncio.wait_for(doomed.died.wait(), 20)
    begun.cancel()
    await asyncio.wait({begun})
    await gateway.stop()
    kit.clock.by += LATER_S
    async with kit.dispatcher("survivor"):
        await kit.settled()
    states = [entry.state for root in kit.store._roots.values() for entry in root.turns.values()]
    has_begun = call in {"publish", "move"} or (call == "begin" and is_done)
    assert states == [TurnState.COMPLETED] * has_begun


@EFFECT
@pytest.mark.parametrize("call", ["look", "publish", "move", "claim", "remove"])
async def test_a_sweeper_dies_at_a_call(kit, call, is_done):
    """What it was about to do, another one does: queue a turn, adopt one, forget one."""
    waiting = await kit.enqueue("One")
    await kit.queue.drop(TENANT, waiting)
    running = await kit.enqueue("Two")
    await kit.queue.drop(TENANT, running)
    await kit.store.claim(TENANT, running, owner="dead", lease_s=1.0)
    cancelled = await kit.enqueue("Three")
    await kit.store.cancel(TENANT, cancelled)
    for turn in (waiting, running, cancelled):
        await kit.due.move(TENANT, turn, in_s=0.0)
    kit.clock.by += LATER_S
    doomed = Doomed(1, is_after=is_done, only=call)
    async with kit.dispatcher("doomed", doomed.seam, is_killed=True):
        await asyncio.wait_for(doomed.died.wait(), 20)
    for turn in (waiting, running):
        assert (await goes_on(kit, turn)).state is TurnState.COMPLETED
    assert (await kit.record(cancelled)).state is TurnState.CANCELLED
