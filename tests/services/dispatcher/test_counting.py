"""What a dispatcher tells of itself and of its queue."""

from __future__ import annotations

from cluster.metrics.families import Report, values_of
from services.backend.scripted import Fault, FaultKind
from services.dispatcher.families import dispatcher_families
from services.turns.metrics import TurnMetrics
from tests.support.turn_kit import TENANT, until


def report_of(dispatcher) -> Report:
    return Report("dispatcher-d", dispatcher_families(TurnMetrics(), dispatcher.facts()))


async def test_the_queue_is_told_by_state(kit):
    """Waiting, in work and dead, and for how long the first one has waited."""
    kit.backend.gate.clear()
    kit.backend.faults = iter([Fault(FaultKind.FAILED)])
    for number in range(4):
        await kit.enqueue(f"Question {number}")
    kit.clock.by += 30.0
    async with kit.dispatcher(slots=1, lag_s=0.001) as dispatcher:
        await until(lambda: len(kit.backend.requests) == 1)
        await until(lambda: values_of(report_of(dispatcher), "chatglm_queue_jobs").get("waiting") == 3)
        report = report_of(dispatcher)
        kit.backend.gate.set()
        await until(lambda: values_of(report_of(dispatcher), "chatglm_queue_jobs").get("dead") == 1)
    assert values_of(report, "chatglm_queue_jobs") == {"waiting": 3, "working": 1, "delayed": 0, "dead": 0}
    assert values_of(report, "chatglm_queue_oldest_seconds")[""] >= 30.0
    assert values_of(report, "chatglm_dispatcher_slots_used") == {"": 1}


async def test_jobs_are_counted_by_what_became_of_them(kit):
    """Done, to be tried again, given up."""
    kit.backend.faults = iter([Fault(FaultKind.OVERLOADED), Fault(FaultKind.FAILED)])
    async with kit.dispatcher() as dispatcher:
        for number in range(3):
            await kit.ended(await kit.enqueue(f"Question {number}"))
            await kit.settled()
        report = report_of(dispatcher)
    assert values_of(report, "chatglm_dispatcher_jobs") == {"done": 2, "retry": 1, "dead": 1}


async def test_turns_of_dead_owners_are_counted(kit):
    """Those that the index led to, not those of the queue."""
    turn = await kit.enqueue()
    await kit.queue.drop(TENANT, turn)
    await kit.store.claim(TENANT, turn, owner="dead", lease_s=0.0)
    await kit.due.move(TENANT, turn, in_s=0.0)
    async with kit.dispatcher() as dispatcher:
        await kit.ended(turn)
        await until(lambda: dispatcher.facts().adopted)
        assert values_of(report_of(dispatcher), "chatglm_dispatcher_adoptions") == {"": 1}
