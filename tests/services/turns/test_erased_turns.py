"""A turn that is erased while it runs or waits elsewhere: it ends or never starts, and whoever reads it hears so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.conversations import ids
from services.conversations.erasures import Erasures
from services.conversations.store import Part
from services.conversations.timed_set import MemoryTimedSet
from services.dispatcher.jobs import Jobs
from services.dispatcher.pace import Pace
from services.dispatcher.settings import DispatcherSettings
from services.dispatcher.slots import Slots
from services.dispatcher.sweeper import Sweeper
from services.queue.base import Dead
from services.turns import adoption, orphans
from services.turns.carrying import Carried, Fate
from services.turns.events import EventKind, TurnEvent, TurnStarted
from services.turns.removal import Removal
from services.turns.service import TurnService
from tests.support.turn_kit import TENANT, TurnKit, collect, until


@pytest.fixture
async def other(kit: TurnKit) -> AsyncIterator[TurnService]:
    """A second process over the same store."""
    service = kit.another()
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def removal(kit: TurnKit) -> Removal:
    """Erases from the store that the processes share."""
    return Removal(kit.store, kit.queue, kit.due, Erasures(MemoryTimedSet()))


@pytest.fixture
def jobs(kit: TurnKit, other: TurnService) -> Jobs:
    """The work of a dispatcher in the second process."""
    return Jobs(other, kit.queue, DispatcherSettings(), Pace(1, 1.0))


async def erase(removal: Removal, turn: str, *, is_whole: bool) -> None:
    """A turn, or all of its conversation."""
    if is_whole:
        await removal.conversation(TENANT, ids.conversation_of(turn))
    else:
        await removal.turn(TENANT, turn)


async def queued(kit: TurnKit, conversation: str | None = None) -> str:
    """A turn that waits."""
    return await kit.service.enqueue(replace(kit.stored_turn(conversation=conversation), is_background=True))


async def held_up(kit: TurnKit, jobs: Jobs) -> asyncio.Task[None]:
    """A job that was taken, whose turn is being generated and does not get on."""
    kit.backend.gate.clear()
    entry = await kit.queue.take("dispatcher")
    assert entry is not None
    task = asyncio.create_task(jobs.work(entry))
    await until(lambda: kit.backend._running)
    return task


def code_of(event: TurnStarted | TurnEvent) -> tuple[EventKind, str]:
    """How a stream has ended."""
    assert isinstance(event, TurnEvent)
    assert event.result is not None
    return event.kind, event.result.error_code


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_running_turn_ends_and_so_do_its_streams(
    kit: TurnKit, other: TurnService, removal: Removal, *, is_whole: bool
) -> None:
    """Its owner's and that of a reader elsewhere, with the same code; nothing is written back."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    own = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(own)
    assert isinstance(started, TurnStarted)
    read = other.read(TENANT, started.response_id)
    await anext(read)
    await erase(removal, started.response_id, is_whole=is_whole)
    ends = [[event async for event in events][-1] for events in (own, read)]
    assert [code_of(event) for event in ends] == [(EventKind.BROKEN, "not_found")] * 2
    assert (kit.backend.aborted, kit.store.commits) == ([kit.backend.requests[0].attempt], [])
    assert await kit.store.is_erased(TENANT, started.response_id)


async def test_behind_an_erased_turn_its_conversation_goes_on(
    kit: TurnKit, other: TurnService, removal: Removal
) -> None:
    """The line is free at once, for a turn of any process, and has no word of the erased one."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    own = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(own)
    assert isinstance(started, TurnStarted)
    await removal.turn(TENANT, started.response_id)
    kit.backend.gate.set()
    _, events = await collect(other.respond(kit.stored_turn(conversation=conversation)))
    assert events[-1].kind is EventKind.COMPLETED
    assert code_of([event async for event in own][-1])[1] == "not_found"
    assert len((await kit.store.load(TENANT, conversation, Part())).items) == 2


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_turn_in_a_dispatchers_hands_ends(
    kit: TurnKit, removal: Removal, jobs: Jobs, *, is_whole: bool
) -> None:
    """Its reader hears of it; no job is left, nor a dead letter."""
    turn = await queued(kit, await kit.conversation())
    work = await held_up(kit, jobs)
    read = kit.service.read(TENANT, turn)
    await anext(read)
    await erase(removal, turn, is_whole=is_whole)
    await work
    assert code_of([event async for event in read][-1]) == (EventKind.BROKEN, "not_found")
    assert (len(kit.backend.aborted), kit.store.commits) == (1, [])
    assert await pointers(kit) == ([], [], None)


async def test_a_worker_whose_job_is_still_there_writes_no_dead_letter(kit: TurnKit, jobs: Jobs) -> None:
    """The pointer may outlive the record; its turn has not failed."""
    turn = await queued(kit)
    work = await held_up(kit, jobs)
    await kit.store.delete_turn(TENANT, turn)
    await work
    assert (await kit.queue.dead(), await kit.queue.take("dispatcher")) == ([], None)


async def test_a_turn_erased_while_it_is_made_ready_is_gone(
    kit: TurnKit, other: TurnService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stands on went with it, which is no failure of the turn."""
    turn = await queued(kit)
    claim = orphans.claim

    async def claim_and_lose(*args: object) -> object:
        claimed = await claim(*args)  # type: ignore[arg-type] # handed through
        await kit.store.delete_turn(TENANT, turn)
        return claimed

    async def nothing_left(*_: object) -> None:
        raise adoption.PromptMismatchError("The conversation is gone.")

    monkeypatch.setattr("services.turns.orphans.claim", claim_and_lose)
    monkeypatch.setattr("services.turns.carrying.make_ready", nothing_left)
    carried = await other.carry_out(TENANT, turn)
    assert (carried.fate, kit.backend.requests) == (Fate.GONE, [])


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_waiting_turn_never_starts(
    kit: TurnKit, other: TurnService, removal: Removal, *, is_whole: bool
) -> None:
    """Nothing points to it, whoever finds it all the same is told, and its reader too."""
    turn = await queued(kit, await kit.conversation())
    read = other.read(TENANT, turn)
    await anext(read)
    await erase(removal, turn, is_whole=is_whole)
    assert code_of([event async for event in read][-1]) == (EventKind.BROKEN, "not_found")
    assert await pointers(kit) == ([], [], None)
    assert await other.carry_out(TENANT, turn) == Carried(Fate.GONE)
    assert kit.backend.requests == []


async def test_an_erased_conversation_takes_its_dead_letters_along(kit: TurnKit, removal: Removal, jobs: Jobs) -> None:
    """Those of others stay."""
    conversation = await kit.conversation()
    turns = [await queued(kit, conversation), await queued(kit)]
    for _ in turns:
        entry = await kit.queue.take("dispatcher")
        assert entry is not None
        await jobs._turns.give_up(TENANT, entry.turn, Carried(Fate.WAITS))
        await kit.queue.settle(entry, Dead("no room"))
    assert len(await kit.queue.dead()) == 2
    await removal.conversation(TENANT, conversation)
    assert [letter.ref.turn for letter in await kit.queue.dead()] == turns[1:]


async def test_a_pointer_that_was_left_is_dropped_by_whoever_follows_it(
    kit: TurnKit, other: TurnService, jobs: Jobs
) -> None:
    """A sweeper and a worker, as after an erasure that was cut off behind the record."""
    turn = await queued(kit)
    await kit.store.delete_turn(TENANT, turn)
    await kit.due.move(TENANT, turn, in_s=0)
    slots, settings = Slots(1), DispatcherSettings()
    sweeper = Sweeper(other, kit.store, kit.queue, kit.due, slots=slots, settings=settings, clock=time.time)
    assert await sweeper.sweep() == 1
    entry = await kit.queue.take("dispatcher")
    assert entry is not None
    await jobs.work(entry)
    assert await pointers(kit) == ([], [], None)


async def pointers(kit: TurnKit) -> tuple[object, object, object]:
    """What is due at any time, dead letters, and the next job."""
    due = [*kit.due._turns.times]
    return due, await kit.queue.dead(), await kit.queue.take("somebody")
