"""The ring's fairness, as properties of the queue in memory; the one in Redis is held to do the same by its contract."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from services.queue.base import Dead, Done, Retry
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryQueue
from tests.support.jobs import a_turn, drain, fill

TURNS = [a_turn() for _ in range(400)]
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 8.0])
COSTS = st.sampled_from([0.25, 1.0, 5.0])


@given(backlogs=st.lists(st.tuples(WEIGHTS, st.lists(COSTS, min_size=5, max_size=30)), min_size=2, max_size=5))
async def test_who_waits_gets_what_his_weight_says(backlogs):
    """At any moment two tenants that both wait have had the same, by weight, to within one job of each."""
    queue = MemoryQueue(BACKGROUND)
    unused = iter(TURNS)
    jobs = {}
    for number, (weight, costs) in enumerate(backlogs):
        for cost in costs:
            turn = next(unused)
            jobs[turn] = (str(number), cost / weight)
            await queue.publish(str(number), turn, weight=weight, cost=cost)
    left, had = Counter(tenant for tenant, _ in jobs.values()), Counter()
    largest = {name: max(share for tenant, share in jobs.values() if tenant == name) for name in left}
    while entry := await queue.take("c"):
        had[entry.tenant] += jobs[entry.turn][1]
        left[entry.tenant] -= 1
        for one, other in combinations([tenant for tenant in left if left[tenant]], 2):
            assert abs(had[one] - had[other]) <= largest[one] + largest[other] + 1e-9


@given(arrivals=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(0, 5)), max_size=25))
async def test_nobody_waits_longer_than_two_rounds(arrivals):
    """Whatever others queue, and however much: a tenant's first job begins within two jobs of each other tenant.

    And the queue is never idle while anything waits.
    """
    queue = MemoryQueue(BACKGROUND)
    unused, waited, waiting = iter(TURNS), Counter(), Counter()
    for tenant, burst, takes in [*arrivals, (0, 0, len(TURNS))]:
        for _ in range(burst):
            await queue.publish(str(tenant), next(unused))
            waiting[str(tenant)] += 1
        for _ in range(takes):
            entry = await queue.take("c")
            if entry is None:
                assert waiting.total() == 0
                break
            waiting[entry.tenant] -= 1
            waited[entry.tenant] = 0
            waited.update(tenant for tenant in waiting if waiting[tenant] and tenant != entry.tenant)
            assert max(waited.values(), default=0) <= 2 * 4


ENDS = st.sampled_from([Done(), Retry(0.0), Dead("no"), None])


@given(jobs=st.integers(1, 40), ends=st.lists(ENDS, min_size=1, max_size=80))
async def test_no_job_is_lost(jobs, ends):
    """Done, retried, dead or left by a lost consumer (None): in the end every job was done or is a dead letter."""
    queue = MemoryQueue(BACKGROUND)
    turns = {turn for names in (await fill(queue, {"a": jobs, "b": jobs})).values() for turn in names}
    done, verdicts = set(), iter(ends)
    for entry in [await queue.take("lost") for _ in ends]:
        verdict = next(verdicts)
        if entry and verdict:
            await queue.settle(entry, verdict)
            done |= {entry.turn} if verdict == Done() else set()
    await queue.promote_due()
    for entry in await queue.reclaim("c", idle_s=0, limit=200):
        await queue.settle(entry, Done())
        done.add(entry.turn)
    done |= {entry.turn for entry in await drain(queue)}
    assert done | {letter.ref.turn for letter in await queue.dead()} == turns
    assert (await queue.lag()).working == 0
