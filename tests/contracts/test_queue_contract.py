"""What every queue promises: once in, taken in order and fairly, kept until settled, delayed, dropped."""

from __future__ import annotations

import pytest

from cluster.errors import NotFoundError, QueueFullError
from services.queue.base import Dead, Done, QueueLag, Retry, TenantJobs
from services.queue.keys import BACKGROUND, BATCH
from services.queue.memory_queue import MemoryQueue
from services.queue.redis_queue import RedisQueue
from tests.support.jobs import a_turn, drain, fill, tenants_of, turns_of
from tests.support.turns import TENANT

NOW = Retry(0.0)
LATER = Retry(3600.0)


async def test_jobs_of_a_tenant_are_taken_in_order_and_once(queue):
    """And an empty queue gives nothing."""
    turns = (await fill(queue, {TENANT: 3}))[TENANT]
    assert turns_of(await drain(queue)) == turns
    assert await queue.take("c") is None


async def test_an_entry_says_what_it_is(queue):
    """Whose, which, who has it, and that it is the first attempt."""
    turn = a_turn()
    await queue.publish(TENANT, turn)
    entry = await queue.take("c")
    assert (entry.tenant, entry.turn, entry.consumer, entry.attempt) == (TENANT, turn, "c", 1)
    assert 0 <= entry.age_s < 60


async def test_many_are_taken_as_one_after_the_other(queue):
    """One call, the same order, no more than there are."""
    await fill(queue, {"a": 2, "b": 1})
    first = await queue.take_many("c", 2)
    rest = await queue.take_many("c", 5)
    assert tenants_of([*first, *rest]) == ["a", "b", "a"]


async def test_a_turn_is_queued_once(queue):
    """Waiting, in work or delayed: publishing it again changes nothing."""
    turn = a_turn()
    for verdict in (NOW, Done()):
        await queue.publish(TENANT, turn)
        await queue.publish(TENANT, turn)
        entry = await queue.take("c")
        await queue.publish(TENANT, turn)
        assert await queue.take("c") is None
        await queue.settle(entry, verdict)
        await queue.publish(TENANT, turn)
        await queue.promote_due()
    assert turns_of(await drain(queue)) == [turn]


async def test_a_tenant_may_have_so_many_jobs(link):
    """The error says how many; another tenant has a place, and so has this one when a job is done."""
    queue = MemoryQueue(BATCH, max_queued=2) if link is None else RedisQueue(link, BATCH, max_queued=2)
    await fill(queue, {TENANT: 2})
    entry = await queue.take("c")
    with pytest.raises(QueueFullError, match=r"No more than 2 batch turns") as caught:
        await queue.publish(TENANT, a_turn())
    assert caught.value.retry_after_s > 0
    await queue.publish("other", a_turn())
    await queue.settle(entry, Done())
    await queue.publish(TENANT, a_turn())


@pytest.mark.parametrize("most", [1, 3])
async def test_a_tenant_may_have_a_limit_of_its_own(link, most):
    """Above or below that of the others, who keep theirs."""
    queue = MemoryQueue(BATCH, max_queued=2) if link is None else RedisQueue(link, BATCH, max_queued=2)
    for _ in range(most):
        await queue.check_room(TENANT, max_queued=most)
        await queue.publish(TENANT, a_turn(), max_queued=most)
    for refused in (queue.check_room(TENANT, max_queued=most), queue.publish(TENANT, a_turn(), max_queued=most)):
        with pytest.raises(QueueFullError, match=f"No more than {most} batch turns"):
            await refused
    await fill(queue, {"other": 2})
    with pytest.raises(QueueFullError, match="No more than 2 batch turns"):
        await queue.check_room("other")


@pytest.mark.parametrize(("weight", "cost"), [(0.0, 1.0), (1.0, 0.0), (1.0, float("nan")), (float("inf"), 1.0)])
async def test_a_share_is_a_positive_number(queue, weight, cost):
    """Another would let a tenant stand still in virtual time, or leave it for ever."""
    with pytest.raises(ValueError, match="positive"):
        await queue.publish(TENANT, a_turn(), weight=weight, cost=cost)


async def test_malformed_names_are_refused(queue):
    """Neither could be a record's."""
    with pytest.raises(NotFoundError):
        await queue.publish(TENANT, "resp_x")
    with pytest.raises(ValueError, match="tenant"):
        await queue.publish("a:b", a_turn())


async def test_a_retry_comes_back_with_the_next_attempt(queue):
    """Not before it is due, and not before it is promoted."""
    turn = a_turn()
    await queue.publish(TENANT, turn)
    await queue.settle(await queue.take("c"), NOW)
    assert await queue.take("c") is None
    assert await queue.promote_due() == 1
    entry = await queue.take("c")
    assert (entry.turn, entry.attempt) == (turn, 2)
    await queue.settle(entry, LATER)
    assert await queue.promote_due() == 0


async def test_few_are_promoted_at_a_time(queue):
    """The server is never busy with a thousand of them at once."""
    await fill(queue, {TENANT: 3})
    await drain(queue, settle=lambda _: NOW)
    assert [await queue.promote_due(limit=2) for _ in range(3)] == [2, 1, 0]


async def test_what_a_lost_consumer_had_is_reclaimed(queue):
    """Taken and never settled: the next consumer gets it, as another attempt."""
    turns = await fill(queue, {"a": 1, "b": 1})
    await queue.take_many("lost", 2)
    assert await queue.reclaim("c", idle_s=3600) == []
    reclaimed = await queue.reclaim("c", idle_s=0)
    assert sorted(turns_of(reclaimed)) == sorted(turns["a"] + turns["b"])
    assert {(entry.attempt, entry.consumer) for entry in reclaimed} == {(2, "c")}


async def test_few_are_reclaimed_at_a_time(queue):
    """A process may have left more than another has room for."""
    await fill(queue, {"a": 3, "b": 3})
    await queue.take_many("lost", 6)
    assert [len(await queue.reclaim("c", idle_s=0, limit=limit)) for limit in (2, 4, 9)] == [2, 4, 6]


async def test_the_loser_of_a_reclaimed_job_has_no_say(queue):
    """Its verdict changes nothing, and it learns that the job is another's."""
    await fill(queue, {TENANT: 1})
    late = await queue.take("late")
    (entry,) = await queue.reclaim("c", idle_s=0)
    for verdict in (Done(), NOW, Dead("late")):
        await queue.settle(late, verdict)
    assert await queue.extend([late, entry]) == [late]
    assert (await queue.lag()).working == 1


async def test_a_settled_job_is_no_longer_its_consumers(queue):
    """Settling or extending it once more changes nothing."""
    await fill(queue, {TENANT: 1})
    entry = await queue.take("c")
    assert await queue.extend([entry]) == []
    await queue.settle(entry, Done())
    await queue.settle(entry, Dead("again"))
    assert await queue.extend([entry]) == [entry]
    assert await queue.lag() == QueueLag(waiting=0, tenants=0, working=0, delayed=0, dead=0, oldest_s=0)


@pytest.mark.parametrize("place", ["waiting", "working", "delayed", "dead"])
async def test_a_dropped_job_is_nowhere(queue, place):
    """Others of its tenant stay, and its worker can do nothing more with it."""
    first, second, third = (await fill(queue, {TENANT: 3}))[TENANT]
    entry = None
    if place != "waiting":
        entry = await queue.take("c")
    if place in ("delayed", "dead"):
        await queue.settle(entry, NOW if place == "delayed" else Dead("no"))
    assert await queue.drop(TENANT, first)
    assert not await queue.drop(TENANT, first)
    if place == "working":
        assert await queue.extend([entry]) == [entry]
        await queue.settle(entry, Dead("late"))
    assert (await queue.promote_due(), await queue.dead()) == (0, [])
    assert turns_of(await drain(queue)) == [second, third]


async def test_the_lag_counts_jobs_by_what_they_do(queue):
    """Waiting of how many tenants, in work, delayed, dead; and who has the most."""
    await fill(queue, {"a": 5, "b": 2})
    a, b, c = await queue.take_many("c", 3)
    await queue.settle(a, LATER)
    await queue.settle(b, Dead("no"))
    lag = await queue.lag()
    assert (lag.waiting, lag.tenants, lag.working, lag.delayed, lag.dead) == (4, 2, 1, 1, 1)
    assert await queue.largest(1) == [TenantJobs("a", 5)]
    assert await queue.largest(5) == [TenantJobs("a", 5), TenantJobs("b", 1)]
    assert c.tenant == "a"


async def test_classes_know_nothing_of_each_other(link):
    """A batch of a million lines is not in the way of anybody's background turn."""
    names = (BACKGROUND, BATCH)
    one, other = [MemoryQueue(name) if link is None else RedisQueue(link, name) for name in names]
    await fill(one, {TENANT: 1})
    assert await other.take("c") is None
    assert await one.take("c") is not None


async def test_a_tenant_that_was_idle_has_no_credit(queue):
    """It had nothing for a long time, and now gets every second job, not all of them."""
    await fill(queue, {"busy": 60})
    await queue.take_many("c", 30)
    await fill(queue, {"back": 20})
    assert tenants_of(await queue.take_many("c", 20)).count("back") in (10, 11)


async def test_a_tenant_that_queues_one_at_a_time_pays_too(queue):
    """It leaves the ring with every job; what it has used up stays, or its small weight would mean nothing."""
    await fill(queue, {"busy": 60})
    taken = []
    for _ in range(40):
        await fill(queue, {"light": 1 if taken[-1:] in ([], ["light"]) else 0}, weight=0.25)
        taken.append((await queue.take("c")).tenant)
    assert 7 <= taken.count("light") <= 9
