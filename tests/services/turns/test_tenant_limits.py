"""What an operator has given a tenant beside its share holds for its turns, and for nobody else's."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.errors import NotFoundError, QueueFullError
from services.conversations.records import TurnState
from services.tenants.share import DAY_S, Share
from tests.fakes.fake_clock import FakeClock
from tests.fakes.unsteady_store import UnsteadyStore
from tests.support.turn_kit import TENANT, collect, until


async def leave(kit, turn):
    """Begin a turn and leave it in the middle; its id."""
    kit.backend.gate.clear()
    async with aclosing(kit.service.respond(turn)) as events:
        return (await anext(events)).response_id


async def state_of(kit, response_id):
    return (await kit.store.turn(TENANT, response_id)).state


@pytest.fixture
async def patient(kit):
    """A kit whose settings let turns go on without their callers for long."""
    kit.settings = replace(kit.settings, resume_s=1000.0)
    kit.service = kit.another()
    await kit.service.start()
    yield kit
    await kit.service.stop()


async def test_a_tenant_may_have_its_turns_end_at_once(patient):
    """As its client leaves; a tenant without a time of its own has the settings'."""
    ended = await leave(patient, replace(patient.stored_turn(), share=Share(resume_s=0)))
    going_on = await leave(patient, patient.stored_turn())
    assert [await state_of(patient, name) for name in (ended, going_on)] == [TurnState.CANCELLED, TurnState.RUNNING]
    patient.backend.gate.set()
    await until(lambda: len(patient.store.commits) == 2)
    assert await state_of(patient, going_on) is TurnState.COMPLETED


async def test_a_tenant_may_have_its_turns_go_on(kit):
    """Where the settings would end them."""
    ended = await leave(kit, kit.stored_turn())
    going_on = await leave(kit, replace(kit.stored_turn(), share=Share(resume_s=1000)))
    assert [await state_of(kit, name) for name in (ended, going_on)] == [TurnState.CANCELLED, TurnState.RUNNING]


async def test_a_turn_keeps_its_line_for_as_long_as_its_tenant_was_given(kit):
    """Without a conversation, too, and with all that its commit leaves."""
    clock = FakeClock()
    kit.store = UnsteadyStore(clock)
    kit.service = kit.another()
    await kit.service.start()
    started, _ = await collect(kit.service.respond(replace(kit.stored_turn(), share=Share(history_ttl_days=90))))
    other, _ = await collect(kit.service.respond(kit.stored_turn()))
    await kit.service.stop()
    clock.now += 90 * DAY_S - 1
    with pytest.raises(NotFoundError):
        await state_of(kit, other.response_id)
    assert await state_of(kit, started.response_id) is TurnState.COMPLETED
    clock.now += 1
    with pytest.raises(NotFoundError):
        await state_of(kit, started.response_id)


async def test_a_tenant_may_queue_as_many_turns_as_it_was_given(kit):
    """More or fewer than the queue allows others; what is refused leaves no record."""
    kit.queue._max_queued = 2
    turn = replace(kit.stored_turn(), is_background=True)
    for most in (1, 3):
        given = replace(turn, tenant=f"given-{most}", share=Share(max_queued=most))
        for _ in range(most):
            await kit.service.enqueue(given)
        with pytest.raises(QueueFullError, match=f"No more than {most} "):
            await kit.service.enqueue(given)
    assert (await kit.queue.lag()).waiting == 4 == len(kit.store._roots)
