"""The queue in Redis against the one in memory: any sequence of calls has the same effects, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversations.queueing import Ref
from services.conversations.redis_link import RedisLink
from services.queue.base import Dead, Done, Entry, Queue, Retry
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryQueue
from services.queue.redis_queue import RedisQueue
from tests.support.jobs import a_turn

TENANTS = ["a", "b", "c"]
REFS = [Ref(tenant, a_turn()) for tenant in TENANTS for _ in range(4)]
MAX_QUEUED = 3

JOBS = st.integers(0, len(REFS) - 1)
SHARES = st.sampled_from([0.1, 1.0, 3.0])
CONSUMERS = st.sampled_from(["x", "y"])
PICKS = st.integers(0, 20)
VERDICTS = st.sampled_from([Done(), Done(), Retry(0.0), Retry(3600.0), Dead("no")])
PUBLISHES = st.tuples(st.just("publish"), JOBS, SHARES, SHARES)
CALLS = st.one_of(
    PUBLISHES,
    PUBLISHES,
    st.tuples(st.just("take"), CONSUMERS, st.integers(1, 3)),
    st.tuples(st.just("take"), CONSUMERS, st.integers(1, 3)),
    st.tuples(st.just("settle"), PICKS, VERDICTS),
    st.tuples(st.just("settle"), PICKS, VERDICTS),
    st.tuples(st.just("extend"), CONSUMERS),
    st.tuples(st.just("reclaim"), CONSUMERS),
    st.tuples(st.just("drop"), JOBS),
    st.tuples(st.just("replay"), JOBS),
)
SEQUENCES = st.lists(st.tuples(CALLS, st.integers(1, 2)), min_size=10, max_size=60)


class Side:
    """One queue, and every delivery it ever made, in order."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.deliveries: list[Entry] = []

    async def publish(self, job, weight, cost):
        try:
            await self.queue.publish(REFS[job].tenant, REFS[job].turn, weight=weight, cost=cost)
        except Exception as error:  # noqa: BLE001 - compared, whatever it is
            return str(error)

    async def take(self, consumer, limit):
        return self._delivered(await self.queue.take_many(consumer, limit))

    async def settle(self, pick, verdict):
        """Of any delivery, also one that is settled or another's by now. What is to come back does so at once."""
        if self.deliveries:
            await self.queue.settle(self.deliveries[-1 - pick % len(self.deliveries)], verdict)
        return await self.queue.promote_due()

    async def extend(self, consumer):
        mine = [entry for entry in self.deliveries if entry.consumer == consumer]
        return [mine.index(entry) for entry in await self.queue.extend(mine)]

    async def reclaim(self, consumer):
        """In which order is not promised."""
        entries = await self.queue.reclaim(consumer, idle_s=0, limit=100)
        return self._delivered(sorted(entries, key=lambda entry: entry.turn))

    async def drop(self, job):
        return await self.queue.drop(REFS[job].tenant, REFS[job].turn)

    async def replay(self, job):
        return await self.queue.replay([REFS[job]])

    async def state(self) -> Any:
        lag = await self.queue.lag()
        counts = (lag.waiting, lag.tenants, lag.working, lag.delayed, lag.dead)
        letters = {(letter.ref, letter.reason, letter.attempts) for letter in await self.queue.dead()}
        return counts, await self.queue.largest(5), letters

    def _delivered(self, entries):
        self.deliveries += entries
        return [(entry.tenant, entry.turn, entry.consumer, entry.attempt) for entry in entries]


@pytest.mark.valkey
@settings(max_examples=150)
@given(sequence=SEQUENCES)
async def test_both_queues_do_the_same(plain_valkey, sequence):
    """Two consumers, three tenants, weights and costs, lost consumers, doubled calls, verdicts on what is another's."""
    link = RedisLink(plain_valkey.url)
    try:
        redis_queue = RedisQueue(link, BACKGROUND, max_queued=MAX_QUEUED)
        sides = [Side(MemoryQueue(BACKGROUND, max_queued=MAX_QUEUED)), Side(redis_queue)]
        for (name, *args), times in sequence:
            for _ in range(times):
                in_memory, in_redis = [await getattr(side, name)(*args) for side in sides]
                assert in_memory == in_redis, name
            in_memory, in_redis = [await side.state() for side in sides]
            assert in_memory == in_redis, name
        in_memory, in_redis = [await side.take("x", 100) for side in sides]
        assert in_memory == in_redis
        for job in range(len(REFS)):
            await sides[1].drop(job)
        with plain_valkey.client() as client:
            assert client.keys("c1:q:*") == []
    finally:
        plain_valkey.flush()
        await link.close()
