"""Jobs that replicas refuse, and a store that is away: nothing is lost, and nothing is tried without end."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest

from services.backend.scripted import Fault, FaultKind
from services.conversations.records import TurnState
from services.dispatcher.settings import DispatcherSettings
from tests.support.turn_kit import TENANT, until

REFUSALS = [FaultKind.OVERLOADED, FaultKind.NO_REPLICA]


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refused_job_is_tried_again(kit, kind):
    """Between the tries its turn waits in the queue, owned by nobody."""
    kit.backend.faults = iter([Fault(kind)] * 2)
    async with kit.dispatcher():
        record = await kit.ended(await kit.enqueue())
        await kit.settled()
    assert (record.state, len(kit.backend.requests)) == (TurnState.COMPLETED, 3)


async def test_a_refused_job_waits_for_its_time(kit):
    """It is delayed, and its record says that it is queued."""
    kit.backend.faults = iter([Fault(FaultKind.OVERLOADED)])
    turn = await kit.enqueue()
    async with kit.dispatcher(first_pause_s=60.0, longest_pause_s=60.0):
        await kit.delays_one()
        assert (await kit.record(turn)).state is TurnState.QUEUED
        kit.clock.by += 120.0
        assert (await kit.ended(turn)).state is TurnState.COMPLETED


async def test_a_job_that_never_finds_room_is_given_up(kit):
    """Its turn fails with what it met last, its conversation is free, and a dead letter stays."""
    kit.backend.faults = repeat(Fault(FaultKind.OVERLOADED))
    conversation = (await kit.store.create(TENANT, metadata={})).id
    turn = await kit.enqueue(conversation=conversation)
    async with kit.dispatcher(max_tries=3):
        record = await kit.ended(turn)
        await kit.settled()
    (letter,) = await kit.queue.dead()
    assert (record.state, record.error_code) == (TurnState.FAILED, "overloaded")
    assert (letter.attempts, letter.reason) == (3, "no room in 3 tries: overloaded")
    assert (await kit.store.load(TENANT, conversation)).active == ""


async def test_while_replicas_refuse_the_backlog_stays_in_the_queue(kit):
    """One job at a time asks whether there is room; the others are not spent on it."""
    kit.backend.faults = repeat(Fault(FaultKind.OVERLOADED, retry_after_s=60.0))
    for number in range(40):
        await kit.enqueue(f"Question {number}")
    async with kit.dispatcher(slots=8, refused_s=60.0, first_pause_s=60.0, longest_pause_s=60.0):
        await until(lambda: kit.backend.requests)
        await kit.delays_one()
    lag = await kit.queue.lag()
    assert len(kit.backend.requests) <= 8
    assert lag.waiting >= 32


async def test_a_store_that_is_away_loses_nothing(kit):
    """Turns under way are recorded when it is back, and jobs are taken again."""
    kit.backend.gate.clear()
    turns = [await kit.enqueue(f"Question {number}") for number in range(4)]
    async with kit.dispatcher(slots=2):
        await until(lambda: len(kit.backend.requests) == 2)
        kit.store.is_away = True
        kit.backend.gate.set()
        for _ in range(50):
            await asyncio.sleep(0.001)
        kit.store.is_away = False
        states = {(await kit.ended(turn)).state for turn in turns}
        kit.clock.by += 3_600.0
        await kit.settled()
    assert states == {TurnState.COMPLETED}


async def test_a_commit_whose_reply_is_lost_ends_the_turn_once(kit):
    """It is sent again, and answered as done."""
    kit.store.lost_commits = 1
    async with kit.dispatcher():
        record = await kit.ended(await kit.enqueue())
        await kit.settled()
    assert (record.state, record.claims) == (TurnState.COMPLETED, 1)


async def test_a_failure_that_cannot_be_recorded_is_none_yet(kit, monkeypatch):
    """The next owner sees the turn through, and no dead letter says that it failed."""
    kit.backend.faults = iter([Fault(FaultKind.FAILED, after=2)])
    commit, outages = kit.store.commit, iter([True])

    async def away_once(change):
        if next(outages, False):
            kit.clock.by += 60.0  # nobody renews the lease
            await kit.store.away()
        return await commit(change)

    monkeypatch.setattr(kit.store, "commit", away_once)
    async with kit.dispatcher():
        record = await kit.ended(await kit.enqueue())
        await kit.settled()
    assert record.state is TurnState.COMPLETED
    assert await kit.queue.dead() == []


def test_pauses_double_up_to_the_longest():
    """Half a second, one, two …, a minute; a hundred tries take about two hours."""
    settings = DispatcherSettings()
    assert [settings.pause_s(tries) for tries in (1, 2, 3, 7, 8, 100)] == [0.5, 1, 2, 32, 60, 60]
    hours = sum(map(settings.pause_s, range(1, settings.max_tries))) * 1.25 / 3600
    assert 1.5 < hours < 2.5
