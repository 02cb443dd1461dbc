"""The seam between the queue and what works on it.

The promise is at least once: a job that was taken and never settled comes back, so it may be worked on twice, and the
turn's record (``claim``) decides. A job taken should be worked on at once; what a consumer only holds is shared with
nobody, so take no more than there is room for.

There is no blocking wait. A taker that finds nothing sleeps for a moment (``POLL_S``) and asks again: one read of an
empty set, some 30 µs. Waiting in Redis would take a connection per dispatcher and class away from the pool, cannot be
part of a script, and a wake key would be written for every job to save a twentieth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.conversations.queueing import Publishes, Ref

POLL_S: Final = 0.05
IDLE_S: Final = 30.0  # a job neither extended nor settled for this long belongs to nobody
MAX_QUEUED: Final = 100_000  # jobs of one tenant in one class
FULL_RETRY_S: Final = 30.0  # when to come back to a full queue


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in the hands of one consumer.

    Attributes:
        id: the job's place in the tenant's stream; with ``attempt`` it names this delivery.
        attempt: 1 for the first; retries and reclaims count, replaying begins anew.
        age_s: seconds since it was published, or replayed.
    """

    tenant: str
    turn: str
    id: str
    consumer: str
    attempt: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again in ``after_s`` to ``after_s * (1 + jitter)`` seconds, so that what failed together comes back apart."""

    after_s: float
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Dead:
    """Never try again by itself; ``reason`` is a short sentence for the operator, without prompts or answers."""

    reason: str


Verdict = Done | Retry | Dead


@dataclass(frozen=True, slots=True)
class QueueLag:
    """How far behind a class is.

    Attributes:
        waiting: jobs that could be taken now.
        tenants: that these belong to.
        working: jobs taken and not settled.
        delayed: retries whose time has not come.
        dead: dead letters.
        oldest_s: how long the first of the waiting has waited; 0 when none does.
    """

    waiting: int
    tenants: int
    working: int
    delayed: int
    dead: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class TenantJobs:
    """A tenant's jobs in one class, waiting, in work or delayed."""

    tenant: str
    jobs: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job given up. ``died_ms`` is unix time in milliseconds."""

    ref: Ref
    reason: str
    attempts: int
    died_ms: int


class Queue(Publishes, Protocol):
    """One class of jobs. Every call raises StoreUnavailableError within two seconds when the store does not answer."""

    async def take(self, consumer: str) -> Entry | None:
        """The next job of the tenant whose turn it is; None when nothing waits."""
        ...

    async def take_many(self, consumer: str, limit: int) -> list[Entry]:
        """At most ``limit`` jobs, as so many ``take`` would get them, in one round trip."""
        ...

    async def settle(self, entry: Entry, verdict: Verdict) -> None:
        """Say what became of a job; nothing happens if it is no longer this consumer's."""
        ...

    async def extend(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep these from being reclaimed for another while; replies those that are this consumer's no longer."""
        ...

    async def reclaim(self, consumer: str, *, idle_s: float = IDLE_S, limit: int = 16) -> list[Entry]:
        """Take over jobs whose consumer has not been heard of for ``idle_s`` (found within a quarter more)."""
        ...

    async def promote_due(self, *, limit: int = 100) -> int:
        """Let delayed retries whose time has come wait again; how many did."""
        ...

    async def lag(self) -> QueueLag:
        """What waits, in constant time."""
        ...

    async def largest(self, limit: int) -> list[TenantJobs]:
        """The tenants with the most jobs, most first."""
        ...

    async def dead(
        self, *, tenant: str | None = None, limit: int = 100, after: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """Dead letters, oldest first, behind ``after``."""
        ...

    async def replay(self, refs: Sequence[Ref]) -> int:
        """Queue dead letters again, as if they were new; how many there were."""
        ...


def share_of(weight: float, cost: float) -> float:
    """How far a job moves its tenant in virtual time. Raises ValueError unless both are positive and finite."""
    if not (0 < weight < math.inf and 0 < cost < math.inf):
        raise ValueError(f"weight and cost of a job are positive numbers, not {weight:g} and {cost:g}")
    return cost / weight
