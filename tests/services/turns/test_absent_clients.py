"""Turns whose client has left, and turns that somebody cancels."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.errors import NotFoundError, StoreUnavailableError
from services.backend.scripted import Fault, FaultKind
from services.conversations.records import TurnState
from services.turns.absence import Absence
from services.turns.events import EventKind
from services.turns.settings import JournalSettings
from tests.fakes.fake_clock import FakeClock, JumpingClock
from tests.support.turn_kit import QUICK, TENANT, collect, deltas, until, user

TEXT = "Hello there. How are you?"
LONG_S = 3600.0
LEASE_S = QUICK.journal.lease_s


class Line:
    """A service whose owners have a clock of their own."""

    def __init__(self, kit, **settings) -> None:
        self.kit = kit
        self.clock = JumpingClock()
        chosen = replace(QUICK, look_s=0.001, **settings)
        self.service = kit.another(settings=chosen, clock=self.clock)

    async def started(self):
        """A turn in mid-answer."""
        events = self.service.respond(self.kit.stored_turn())
        response = (await anext(events)).response_id
        async for event in events:
            if event.kind is EventKind.TEXT_DELTA:
                self.kit.backend.gate.clear()
                return events, response
        raise AssertionError("no text came")

    async def state(self, response):
        return (await self.kit.store.turn(TENANT, response)).state


@pytest.fixture
async def line(kit):
    made = Line(kit, resume_s=LONG_S)
    await made.service.start()
    yield made
    kit.backend.gate.set()
    await made.service.stop()


async def test_a_turn_goes_on_without_its_client(kit, line):
    """Whoever comes back finds all of it."""
    events, response = await line.started()
    await events.aclose()
    kit.backend.gate.set()
    await until(lambda: kit.store.commits)
    _, seen = await collect(line.service.read(TENANT, response))
    assert (await line.state(response), deltas(seen)) == (TurnState.COMPLETED, TEXT)


async def test_a_client_that_stays_away_ends_its_turn():
    """After ``resume_s``, once."""
    clock, ended = FakeClock(), []
    absence = Absence(lambda: ended.append(clock.now), clock)
    absence.begin(0.01)
    clock.now += 0.02
    await until(lambda: ended)
    assert ended == [clock.now]


async def test_a_reader_that_will_be_back_is_waited_for():
    """As long as it says so; one that came before the client left does not count."""
    clock, ended = FakeClock(), []
    absence = Absence(lambda: ended.append(clock.now), clock)
    absence.extend(1000.0)
    absence.begin(0.01)
    absence.extend(0.05)
    clock.now += 0.02
    await asyncio.sleep(0.03)
    assert not ended
    clock.now += 0.04
    await until(lambda: ended)


async def test_a_turn_that_is_over_is_waited_for_no_more():
    """No timer stays behind, whichever comes first."""
    for order in ("begin end", "end begin"):
        absence = Absence(lambda: pytest.fail("the turn was over"), FakeClock())
        for step in order.split():
            absence.begin(0.0001) if step == "begin" else absence.end()
            absence._clock.now += 1 if step == "end" else 0
        await asyncio.sleep(0.002)


async def test_a_reader_keeps_a_turn_alive_whose_client_left(kit):
    """Its owner hears of the reader with the next note."""
    line = Line(kit, resume_s=0.2)
    line.service = kit.another(settings=replace(QUICK, look_s=0.001, resume_s=0.2))
    await line.service.start()
    events, response = await line.started()
    reader = asyncio.create_task(collect(line.service.read(TENANT, response)))
    await until(lambda: line.service._tails._watches)
    await events.aclose()
    await asyncio.sleep(0.5)
    assert await line.state(response) is TurnState.RUNNING
    kit.backend.gate.set()
    assert (await reader)[1][-1].kind is EventKind.COMPLETED
    await line.service.stop()


async def test_without_readers_it_ends_with_what_was_said(kit):
    """Cancelled, and free."""
    line = Line(kit, resume_s=0.02)
    line.service = kit.another(settings=replace(QUICK, resume_s=0.02))
    await line.service.start()
    events, response = await line.started()
    await events.aclose()
    await until(lambda: kit.store.commits)
    record = await kit.store.turn(TENANT, response)
    assert record.state is TurnState.CANCELLED
    assert TEXT.startswith(record.answer.text)
    await line.service.stop()


async def test_a_cancel_here_ends_the_turn_at_once_for_its_client_too(kit, line):
    """The one who cancels gets the record as it ended."""
    events, response = await line.started()
    reading = asyncio.create_task(_rest(events))
    record = await line.service.cancel(TENANT, response)
    rest = await reading
    assert (record.state, rest[-1].kind) == (TurnState.CANCELLED, EventKind.CANCELLED)
    assert rest[-1].result.text == record.answer.text


async def test_a_cancel_elsewhere_is_heard_of(kit, line):
    """Any process may ask."""
    events, response = await line.started()
    other = kit.another()
    reading = asyncio.create_task(_rest(events))
    assert (await other.cancel(TENANT, response)).state is TurnState.CANCELLED
    assert (await reading)[-1].kind is EventKind.CANCELLED


async def test_a_turn_cancelled_before_a_replica_served_it_begins_and_ends_for_its_client(kit, line, monkeypatch):
    """All events are there, without text."""
    asked = asyncio.Event()

    async def never(request):
        asked.set()
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(type(kit.backend), "stream", lambda _, request: never(request))
    reading = asyncio.create_task(collect(line.service.respond(kit.stored_turn())))
    await asked.wait()
    (ref,) = kit.due.times
    await line.service.cancel(TENANT, ref.turn)
    started, events = await reading
    assert (started.response_id, started.served) == (ref.turn, None)
    assert [event.seq for event in events] == list(range(len(events)))
    assert (events[0].kind, events[-1].kind) == (EventKind.CREATED, EventKind.CANCELLED)


async def test_a_turn_that_has_ended_stays_as_it_ended(kit, line):
    """A cancel that comes too late changes nothing, and can be sent again."""
    started, _ = await collect(line.service.respond(kit.stored_turn()))
    for _ in range(2):
        assert (await line.service.cancel(TENANT, started.response_id)).state is TurnState.COMPLETED


async def test_a_dead_owners_turn_is_cancelled_by_who_adopts_it(kit, line):
    """The one who cancels waits for a moment and hears that it still runs."""
    events, response = await line.started()
    await until(lambda: all(ticket.waiting == 0 for ticket in line.service._journal._tickets))
    await line.service._journal.stop()  # it shows no more life
    other = kit.another(clock=_hurried())
    assert (await other.cancel(TENANT, response)).state is TurnState.RUNNING
    await kit.store.release(TENANT, response, owner=(await kit.store.turn(TENANT, response)).owner, is_queued=False)
    await other.carry_out(TENANT, response)
    record = await kit.store.turn(TENANT, response)
    assert record.state is TurnState.CANCELLED
    assert TEXT.startswith(record.answer.text)
    await events.aclose()


async def test_a_waiting_turn_with_a_part_of_its_answer_is_ended_by_who_cancels_it(kit, line, monkeypatch):
    """The store leaves it to its next owner, and that is here."""
    events, response = await line.started()
    owner = (await kit.store.turn(TENANT, response)).owner
    await until(lambda: all(ticket.waiting == 0 for ticket in line.service._journal._tickets))
    await kit.store.release(TENANT, response, owner=owner, is_queued=True)
    cancel = kit.store.cancel

    async def left_open(tenant, turn):
        entry = kit.store._turn(tenant, turn)[1]
        entry.is_cancelled = True
        return entry.state if entry.ids else await cancel(tenant, turn)

    monkeypatch.setattr(kit.store, "cancel", left_open)
    record = await kit.another().cancel(TENANT, response)
    assert record.state is TurnState.CANCELLED
    assert record.answer.text
    assert TEXT.startswith(record.answer.text)
    await events.aclose()


async def test_an_unknown_turn_cannot_be_cancelled(kit, line):
    """Nor one of another tenant."""
    started, _ = await collect(line.service.respond(kit.stored_turn()))
    for tenant, response in ((TENANT, "resp_" + "a" * 32), ("rival", started.response_id)):
        with pytest.raises(NotFoundError):
            await line.service.cancel(tenant, response)


async def test_a_process_that_was_stopped_says_nothing_until_a_write_succeeds(kit, line):
    """Its lease may be another's. Here it is not: what waited is told then, and nothing is lost."""
    events, _ = await line.started()
    line.clock.ahead += LEASE_S
    kit.store.is_away = True
    kit.backend.gate.set()
    reading = asyncio.create_task(_rest(events))
    await asyncio.sleep(0.02)
    assert not reading.done()
    kit.store.is_away = False
    rest = await reading
    assert rest[-1].kind is EventKind.COMPLETED
    assert rest[-1].result.text == TEXT


async def test_a_process_whose_turn_was_taken_meanwhile_says_nothing_more(kit, line):
    """Another one claimed it while this one was stopped; it writes nothing either."""
    events, response = await line.started()
    await until(lambda: all(ticket.waiting == 0 for ticket in line.service._journal._tickets))
    entry = kit.store._turn(TENANT, response)[1]
    entry.until = 0.0
    line.clock.ahead += LEASE_S
    await kit.store.claim(TENANT, response, owner="b" * 32, lease_s=15.0)
    kit.backend.gate.set()
    rest = await _rest(events)
    said = [event for event in rest if event.kind is EventKind.TEXT_DELTA]
    assert (said, rest[-1].kind, rest[-1].result.error_code) == ([], EventKind.BROKEN, "turn_moved")
    record = await kit.store.turn(TENANT, response)
    assert (record.state, record.owner) == (TurnState.RUNNING, "b" * 32)


async def test_a_slow_client_hears_all_of_a_turn_that_failed(kit, line):
    """Also when the lease would be over by then: the failure is recorded, so what came before it stands."""
    kit.backend.faults = iter([Fault(FaultKind.FAILED, after=2)])
    async with aclosing(line.service.respond(kit.stored_turn())) as events:
        response = (await anext(events)).response_id
        async with asyncio.timeout(20):
            while await line.state(response) is not TurnState.FAILED:  # noqa: ASYNC110 - asked a few times
                await asyncio.sleep(0.001)
        line.clock.ahead += LEASE_S
        rest = await asyncio.wait_for(_rest(events), 20)
    _, told = await collect(line.service.read(TENANT, response))
    assert (rest[-1].kind, rest[-1].result.error_code) == (EventKind.FAILED, "generation_failed")
    assert [(event.seq, event.kind, event.text) for event in rest] == [(e.seq, e.kind, e.text) for e in told]


async def test_a_commit_to_a_record_that_the_store_has_lost_begins_it_again(kit):
    """All that the journal held is in the commit."""
    service = kit.another(settings=replace(QUICK, journal=JournalSettings(flush_s=LONG_S)))
    await service.start()
    conversation = await kit.conversation()
    events = service.respond(kit.stored_turn(user("Hi"), conversation=conversation))
    response = (await anext(events)).response_id
    kit.store.lose(TENANT, response)
    rest = await _rest(events)
    assert rest[-1].kind is EventKind.COMPLETED
    assert [item.text for item in (await kit.store.load(TENANT, conversation)).items] == ["Hi", TEXT]
    assert not kit.due.times
    await service.stop()


async def test_a_store_away_at_the_end_is_waited_for_and_then_told(kit):
    """The record is left to whoever adopts it."""
    journal = replace(QUICK.journal, away_s=0.02)
    service = kit.another(settings=replace(QUICK, journal=journal))
    await service.start()
    async with aclosing(service.respond(kit.stored_turn())) as events:
        response = (await anext(events)).response_id
        async for event in events:
            if event.kind is EventKind.TEXT_DELTA:
                kit.store.is_away = True
                break
        rest = await _rest(events)
    assert (rest[-1].kind, rest[-1].result.error_code) == (EventKind.BROKEN, StoreUnavailableError.code)
    kit.store.is_away = False
    assert (await kit.store.turn(TENANT, response)).state is TurnState.RUNNING
    await service.stop()


def _hurried():
    """A clock that is a second later whenever it is asked."""
    clock = FakeClock()

    def tick() -> float:
        clock.now += 1.0
        return clock.now

    return tick


async def _rest(events):
    return [event async for event in events]
