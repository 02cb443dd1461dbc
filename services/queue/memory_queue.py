"""The queue and the due index of one process: for tests, and the plain statement of what the programs in Lua do."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.errors import QueueFullError
from services.conversations.queueing import HIDE_S, LOOK_LIMIT, Ref
from services.conversations.timed_set import MemoryTimedSet
from services.queue.base import (
    FULL_RETRY_S,
    IDLE_S,
    MAX_QUEUED,
    Dead,
    DeadLetter,
    Done,
    Entry,
    QueueLag,
    Retry,
    TenantJobs,
    Verdict,
    share_of,
)


@dataclass(frozen=True, slots=True)
class _Job:
    ref: Ref
    share: float
    tries: int
    since: float  # when it was published
    waits_since: float


class MemoryQueue:
    """See ``Queue``.

    Args:
        name: the class of jobs.
        max_queued: jobs that a tenant may have, where it was given no limit of its own.
        clock: unix seconds; tests hand in their own.
    """

    def __init__(self, name: str, *, max_queued: int = MAX_QUEUED, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._max_queued = max_queued
        self._clock = clock
        self._waiting: dict[str, deque[_Job]] = {}
        self._working: dict[Ref, tuple[_Job, Entry, float]] = {}  # and when it was last extended
        self._later: dict[Ref, tuple[_Job, float]] = {}  # and when it is due
        self._dead: dict[Ref, tuple[_Job, DeadLetter]] = {}
        self._ring: dict[str, float] = {}
        self._rest: dict[str, float] = {}
        self._vtime = 0.0
        self._deliveries = 0

    async def publish(
        self, tenant: str, turn: str, *, weight: float = 1.0, cost: float = 1.0, max_queued: int | None = None
    ) -> None:
        """Queue a turn; again changes nothing while it is here. Raises QueueFullError."""
        ref, share, now = Ref(tenant, turn), share_of(weight, cost), self._clock()
        if self._knows(ref):
            return
        await self.check_room(tenant, max_queued=max_queued)
        self._put(_Job(ref, share, tries=0, since=now, waits_since=now))

    async def check_room(self, tenant: str, *, max_queued: int | None = None) -> None:
        """Raises QueueFullError when the tenant has as many jobs as it may."""
        most = self._max_queued if max_queued is None else max_queued
        if self._sizes()[tenant] >= most:
            raise QueueFullError(queue=self._name, max_queued=most, retry_after_s=FULL_RETRY_S)

    async def take(self, consumer: str) -> Entry | None:
        """The next job of the tenant whose turn it is; None when nothing waits."""
        if not self._ring:
            return None
        vtime, tenant = min((at, name) for name, at in self._ring.items())
        job = self._waiting[tenant].popleft()
        self._vtime = vtime
        self._ring[tenant] = vtime + job.share
        self._leave_when_empty(tenant)
        return self._hand_out(consumer, job)

    async def take_many(self, consumer: str, limit: int) -> list[Entry]:
        """At most ``limit`` jobs, as so many ``take`` would get them."""
        taken = [await self.take(consumer) for _ in range(limit)]
        return [entry for entry in taken if entry]

    async def settle(self, entry: Entry, verdict: Verdict) -> None:
        """Say what became of a job; nothing happens if it is no longer this consumer's."""
        if not self._holds(entry):
            return
        ref, now = Ref(entry.tenant, entry.turn), self._clock()
        job = self._working.pop(ref)[0]
        match verdict:
            case Done():
                pass
            case Retry(after_s, jitter):
                due = now + after_s * random.uniform(1, 1 + jitter)  # noqa: S311 - only to come back apart
                self._later[ref] = (replace(job, tries=job.tries + 1), due)
            case Dead(reason):
                self._dead[ref] = (job, DeadLetter(ref, reason, job.tries + 1, round(now * 1000)))

    async def extend(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep these from being reclaimed for another while; replies those that are this consumer's no longer."""
        for entry in filter(self._holds, entries):
            job, _, _ = self._working[Ref(entry.tenant, entry.turn)]
            self._working[job.ref] = (job, entry, self._clock())
        return [entry for entry in entries if not self._holds(entry)]

    async def reclaim(self, consumer: str, *, idle_s: float = IDLE_S, limit: int = 16) -> list[Entry]:
        """Take over jobs whose consumer has not been heard of for ``idle_s``."""
        now = self._clock()
        stale = [job for job, _, seen in self._working.values() if now - seen >= idle_s][:limit]
        return [self._hand_out(consumer, replace(job, tries=job.tries + 1)) for job in stale]

    async def promote_due(self, *, limit: int = 100) -> int:
        """Let delayed retries whose time has come wait again; how many did."""
        now = self._clock()
        due = sorted((at, ref) for ref, (_, at) in self._later.items() if at <= now)[:limit]
        for _, ref in due:
            self._put(replace(self._later.pop(ref)[0], waits_since=now))
        return len(due)

    async def lag(self) -> QueueLag:
        """What waits."""
        now = self._clock()
        return QueueLag(
            waiting=sum(map(len, self._waiting.values())),
            tenants=len(self._ring),
            working=len(self._working),
            delayed=len(self._later),
            dead=len(self._dead),
            oldest_s=max((now - jobs[0].waits_since for jobs in self._waiting.values()), default=0.0),
        )

    async def largest(self, limit: int) -> list[TenantJobs]:
        """The tenants with the most jobs, most first."""
        sizes = sorted(self._sizes().items(), key=lambda item: (item[1], item[0]), reverse=True)
        return [TenantJobs(tenant, jobs) for tenant, jobs in sizes[:limit]]

    async def dead(
        self, *, tenant: str | None = None, limit: int = 100, after: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """Dead letters, oldest first, behind ``after``."""
        letters = sorted((letter for _, letter in self._dead.values()), key=_age)
        start = _age(after) if after else (-1, "")
        return [each for each in letters if _age(each) > start and tenant in (None, each.ref.tenant)][:limit]

    async def replay(self, refs: Sequence[Ref]) -> int:
        """Queue dead letters again, as if they were new; how many there were."""
        now = self._clock()
        jobs = [self._dead.pop(ref)[0] for ref in refs if ref in self._dead]
        for job in jobs:
            if not self._knows(job.ref):
                self._put(_Job(job.ref, job.share, tries=0, since=now, waits_since=now))
        return len(jobs)

    async def drop(self, tenant: str, turn: str) -> bool:
        """Forget a job wherever it is, dead letters too; whether there was any."""
        ref = Ref(tenant, turn)
        found = self._knows(ref) or ref in self._dead
        for place in (self._dead, self._working, self._later):
            place.pop(ref, None)
        if tenant in self._waiting:
            self._waiting[tenant] = deque(job for job in self._waiting[tenant] if job.ref != ref)
            self._leave_when_empty(tenant)
        return found

    def _put(self, job: _Job) -> None:
        tenant = job.ref.tenant
        self._waiting.setdefault(tenant, deque()).append(job)
        if tenant not in self._ring:
            self._ring[tenant] = max(self._vtime, self._rest.pop(tenant, 0.0))

    def _leave_when_empty(self, tenant: str) -> None:
        """What a tenant has used up is kept while others wait."""
        if self._waiting[tenant]:
            return
        del self._waiting[tenant]
        self._rest[tenant] = self._ring.pop(tenant)
        if not self._ring:
            self._rest, self._vtime = {}, 0.0

    def _hand_out(self, consumer: str, job: _Job) -> Entry:
        self._deliveries += 1
        now, ref = self._clock(), job.ref
        name, attempt = str(self._deliveries), job.tries + 1
        entry = Entry(ref.tenant, ref.turn, name, consumer, attempt=attempt, age_s=now - job.since)
        self._working[ref] = (job, entry, now)
        return entry

    def _holds(self, entry: Entry) -> bool:
        held = self._working.get(Ref(entry.tenant, entry.turn))
        return held is not None and held[1] == entry

    def _knows(self, ref: Ref) -> bool:
        return ref in {job.ref for job in self._jobs()}

    def _sizes(self) -> Counter[str]:
        return Counter(job.ref.tenant for job in self._jobs())

    def _jobs(self) -> list[_Job]:
        waiting = [job for jobs in self._waiting.values() for job in jobs]
        return waiting + [held[0] for held in self._working.values()] + [late[0] for late in self._later.values()]


class MemoryDueIndex:
    """See ``DueIndex``.

    Args:
        clock: unix seconds; tests hand in their own.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._turns = MemoryTimedSet(clock=clock)

    @property
    def times(self) -> dict[Ref, float]:
        """Turns that are to be looked at, and when."""
        return {Ref.parse(member): at for member, at in self._turns.times.items()}

    async def add(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, or earlier if that was asked before."""
        await self._turns.add(str(Ref(tenant, turn)), in_s=in_s)

    async def move(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, whatever was asked before; nothing, if it was removed."""
        await self._turns.postpone(str(Ref(tenant, turn)), in_s=in_s)

    async def remove(self, tenant: str, turn: str) -> None:
        """Look no more; again changes nothing."""
        await self._turns.remove(str(Ref(tenant, turn)))

    async def look(self, *, limit: int = LOOK_LIMIT, hide_s: float = HIDE_S) -> Sequence[Ref]:
        """At most ``limit`` turns that are due, hidden for ``hide_s``."""
        return [Ref.parse(ref) for ref in await self._turns.look(limit=limit, hide_s=hide_s)]


def _age(letter: DeadLetter) -> tuple[int, str]:
    return letter.died_ms, str(letter.ref)
