"""Requests that are sent again under their key."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.errors import (
    IdempotencyMismatchError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RetryLaterError,
    StoreUnavailableError,
)
from services.backend.scripted import Fault, FaultKind
from services.conversations.queueing import Ref
from services.conversations.records import TurnState
from services.turns.carrying import Carried, Fate
from services.turns.events import EventKind, Idempotency, StoredTurn
from tests.support.kills import told
from tests.support.turn_kit import QUICK, TENANT, collect, until

TEXT = "Hello there. How are you?"
LASTING = replace(QUICK, resume_s=60.0, look_s=0.001)


@pytest.fixture
async def service(kit):
    made = kit.another(settings=LASTING)
    await made.start()
    yield made
    await made.stop()


def keyed(kit, body: str = "body", **fields) -> StoredTurn:
    return replace(kit.stored_turn(**fields), idempotency=Idempotency("key", body))


async def test_while_the_first_runs_the_second_reads_it(kit, service):
    """From the first event on, to the same end; it is computed, recorded and counted once."""
    kit.backend.frame = 3
    kit.backend.gate.clear()
    first = asyncio.create_task(collect(service.respond(keyed(kit))))
    await until(lambda: kit.backend.requests)
    second = asyncio.create_task(collect(service.respond(keyed(kit))))
    await asyncio.sleep(0.01)
    kit.backend.gate.set()
    (started, events), (again, seen) = await asyncio.gather(first, second)
    assert started.response_id == again.response_id
    assert told(seen) == told(events)
    assert seen[-1].result == events[-1].result
    assert (len(kit.backend.requests), len(kit.store.commits)) == (1, 1)
    assert service.metrics.turns == {"completed": 1}


async def test_two_that_begin_at_once_are_one(kit, service):
    """Whichever begins first; the other finds that out from the record, and is no refused turn."""
    kit.store.gate.clear()
    both = [asyncio.create_task(collect(service.respond(keyed(kit)))) for _ in range(2)]
    await until(lambda: len(kit.store.gate._waiters) == 2)
    kit.store.gate.set()
    (started, events), (again, seen) = await asyncio.gather(*both)
    assert started.response_id == again.response_id
    assert told(seen) == told(events)
    assert service.metrics.turns == {"completed": 1}
    assert not service.metrics.errors


async def test_after_the_end_it_is_told_again(kit, service):
    """The same response, from its record."""
    started, events = await collect(service.respond(keyed(kit)))
    again, seen = await collect(service.respond(keyed(kit)))
    assert (started.response_id, told(events)) == (again.response_id, told(seen))
    assert len(kit.backend.requests) == 1


async def test_another_request_under_the_key_is_refused(kit, service):
    """Whether or not the first has ended."""
    await collect(service.respond(keyed(kit)))
    with pytest.raises(IdempotencyMismatchError):
        await collect(service.respond(keyed(kit, "another body")))
    assert len(kit.backend.requests) == 1


async def test_another_tenants_key_is_another(kit, service):
    """Keys are each tenant's own."""
    first, _ = await collect(service.respond(keyed(kit)))
    other, _ = await collect(service.respond(replace(keyed(kit, "another body"), tenant="rival")))
    assert first.response_id != other.response_id


async def test_a_key_whose_process_died_before_it_began_is_used_by_the_next(kit, service, monkeypatch):
    """Under the id that was reserved."""
    begin, asked = kit.store.begin, []

    async def died(request):
        asked.append(request.turn)
        raise StoreUnavailableError("away", retry_after_s=1.0)

    monkeypatch.setattr(kit.store, "begin", died)
    with pytest.raises(StoreUnavailableError):
        await collect(service.respond(keyed(kit)))
    monkeypatch.setattr(kit.store, "begin", begin)
    started, events = await collect(service.respond(keyed(kit)))
    assert [started.response_id] == asked
    assert events[-1].kind is EventKind.COMPLETED


async def test_a_begin_whose_reply_was_lost_is_found(kit, service, monkeypatch):
    """The caller heard of a store that is away. The record is looked at all the same, and the next request reads it."""
    begin = kit.store.begin

    async def lost(request):
        await begin(request)
        raise StoreUnavailableError("away", retry_after_s=1.0)

    monkeypatch.setattr(kit.store, "begin", lost)
    with pytest.raises(StoreUnavailableError):
        await collect(service.respond(keyed(kit)))
    monkeypatch.setattr(kit.store, "begin", begin)
    (ref,) = kit.due.times
    reader = asyncio.create_task(collect(service.respond(keyed(kit))))
    await kit.store.release(TENANT, ref.turn, owner=(await kit.store.turn(TENANT, ref.turn)).owner, is_queued=False)
    await service.carry_out(*ref_parts(ref))
    started, events = await reader
    assert started.response_id == ref.turn
    assert events[-1].result.text == TEXT


def ref_parts(ref: Ref) -> tuple[str, str]:
    return ref.tenant, ref.turn


async def test_a_refused_request_leaves_its_key_to_a_better_one_of_the_same_body(kit, service):
    """Nothing began, so nothing is told again; the index forgets it."""
    for _ in range(2):
        with pytest.raises(InvalidRequestError):
            await collect(service.respond(keyed(kit, max_tokens=0)))
    assert not kit.due.times
    started, _ = await collect(service.respond(keyed(kit)))
    assert (await kit.store.turn(TENANT, started.response_id)).state is TurnState.COMPLETED


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.NO_REPLICA])
async def test_a_turn_that_found_no_room_leaves_its_key_to_the_next_try(kit, service, kind):
    """Who was told to come again comes with the same key, and is served once; two who come at once are one."""
    kit.backend.faults = iter([Fault(kind)])
    with pytest.raises(RetryLaterError):
        await collect(service.respond(keyed(kit)))
    both = await asyncio.gather(*(collect(service.respond(keyed(kit))) for _ in range(2)))
    (started, events), (again, seen) = both
    assert started.response_id == again.response_id
    assert told(events) == told(seen)
    assert events[-1].result.text == TEXT
    assert service.metrics.turns == {"refused": 1, "completed": 1}


async def test_a_turn_that_failed_in_mid_answer_keeps_its_key(kit, service):
    """What was said was said: the key leads to it."""
    kit.backend.faults = iter([Fault(FaultKind.MOVED, after=3), *[Fault(FaultKind.OVERLOADED)] * 20])
    started, events = await collect(service.respond(keyed(kit)))
    assert events[-1].kind is EventKind.FAILED
    again, seen = await collect(service.respond(keyed(kit)))
    assert (started.response_id, told(events)) == (again.response_id, told(seen))


async def test_a_turn_in_the_background_that_was_given_up_keeps_its_key(kit, service):
    """Its caller has its id, and an operator may let it try again."""
    turn = replace(keyed(kit), is_background=True)
    response = await service.enqueue(turn)
    await service.give_up(TENANT, response, Carried(Fate.WAITS, OverloadedError("full", retry_after_s=1.0)))
    assert (await kit.store.turn(TENANT, response)).error_code == OverloadedError.code
    assert await service.enqueue(turn) == response


async def test_an_erased_response_is_not_made_anew(kit, service):
    """Its key leads to an id that is gone."""
    started, _ = await collect(service.respond(keyed(kit)))
    await kit.store.delete_turn(TENANT, started.response_id)
    with pytest.raises(NotFoundError) as caught:
        await collect(service.respond(keyed(kit)))
    assert (caught.value.kind, caught.value.name) == ("response", started.response_id)


async def test_a_turn_in_the_background_is_enqueued_once(kit, service):
    """Both callers get its id."""
    turn = replace(keyed(kit), is_background=True)
    first, second = await service.enqueue(turn), await service.enqueue(turn)
    assert first == second
    assert (await kit.queue.lag()).waiting == 1
