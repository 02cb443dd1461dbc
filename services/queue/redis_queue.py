"""The queue in Redis or Valkey: every call is one script on one slot, but for long pages and lists."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from cluster.errors import QueueFullError
from services.conversations.queueing import Ref
from services.conversations.redis_link import RedisLink
from services.conversations.scripts import Arg, Script
from services.queue import letters, scripts
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
from services.queue.keys import DEAD_TTL_S, MAX_DEAD, SIZES, class_prefix

MAX_BATCH: Final = 500  # jobs or letters one script handles; the server does nothing else meanwhile
_TENANTS_A_RECLAIM: Final = 64


class RedisQueue:
    """See ``Queue``. Any number of processes may use one server.

    Args:
        link: the process's connection; it stays open.
        name: the class of jobs, ``keys.CLASSES``.
        max_queued: jobs that a tenant may have here, waiting, in work or delayed, where it was given no limit of its
            own.

    Raises:
        ValueError: the class's name has a shape that no key may have.
    """

    def __init__(self, link: RedisLink, name: str, *, max_queued: int = MAX_QUEUED) -> None:
        self._link = link
        self._name = name
        self._prefix = class_prefix(name)
        self._max_queued = max_queued

    async def publish(
        self, tenant: str, turn: str, *, weight: float = 1.0, cost: float = 1.0, max_queued: int | None = None
    ) -> None:
        """Queue a turn; again changes nothing while it is here. Raises QueueFullError."""
        ref, share, most = Ref(tenant, turn), share_of(weight, cost), self._most(max_queued)
        outcome = await self._run(scripts.PUBLISH, ref.tenant, ref.turn, repr(share), most)
        if outcome == b"full":
            raise self._full(most)

    async def check_room(self, tenant: str, *, max_queued: int | None = None) -> None:
        """Raises QueueFullError when the tenant has as many jobs as it may."""
        most = self._most(max_queued)
        size = await self._link.call(lambda redis: redis.zscore(self._prefix + SIZES, tenant))
        if size is not None and size >= most:
            raise self._full(most)

    async def take(self, consumer: str) -> Entry | None:
        """The next job of the tenant whose turn it is; None when nothing waits."""
        return next(iter(await self.take_many(consumer, 1)), None)

    async def take_many(self, consumer: str, limit: int) -> list[Entry]:
        """At most ``limit`` (and ``MAX_BATCH``) jobs, as so many ``take`` would get them."""
        return _entries(consumer, await self._run(scripts.TAKE, consumer, min(limit, MAX_BATCH)))

    async def settle(self, entry: Entry, verdict: Verdict) -> None:
        """Say what became of a job; nothing happens if it is no longer this consumer's."""
        await self._run(
            scripts.SETTLE, *_delivery(entry), entry.consumer, *_verdict_args(verdict), DEAD_TTL_S, MAX_DEAD
        )

    async def extend(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep these from being reclaimed for another while; replies those that are this consumer's no longer."""
        lost = []
        for some in _slices(entries):
            for consumer in {entry.consumer for entry in some}:
                mine = [entry for entry in some if entry.consumer == consumer]
                names = [name for entry in mine for name in _delivery(entry)]
                held = await self._run(scripts.EXTEND, consumer, *names)
                lost += [entry for entry, is_held in zip(mine, held, strict=True) if not is_held]
        return lost

    async def reclaim(self, consumer: str, *, idle_s: float = IDLE_S, limit: int = 16) -> list[Entry]:
        """Take over jobs whose consumer has not been heard of for ``idle_s``."""
        return _entries(
            consumer, await self._run(scripts.RECLAIM, consumer, _ms(idle_s), min(limit, MAX_BATCH), _TENANTS_A_RECLAIM)
        )

    async def promote_due(self, *, limit: int = 100) -> int:
        """Let delayed retries whose time has come wait again; how many did."""
        return int(await self._run(scripts.PROMOTE, min(limit, MAX_BATCH)))

    async def lag(self) -> QueueLag:
        """What waits, in constant time."""
        jobs, delayed, working, dead, tenants, oldest_ms = await self._run(letters.LAG)
        return QueueLag(
            waiting=jobs - delayed - working,
            tenants=tenants,
            working=working,
            delayed=delayed,
            dead=dead,
            oldest_s=oldest_ms / 1000,
        )

    async def largest(self, limit: int) -> list[TenantJobs]:
        """The tenants with the most jobs, most first."""
        reply = await self._run(letters.LARGEST, limit)
        return [TenantJobs(tenant.decode(), int(jobs)) for tenant, jobs in zip(reply[::2], reply[1::2], strict=True)]

    async def dead(
        self, *, tenant: str | None = None, limit: int = 100, after: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """Dead letters, oldest first, behind ``after``."""
        found: list[DeadLetter] = []
        while len(found) < limit:
            page = await self._dead_page(after)
            found += [letter for letter in page if tenant in (None, letter.ref.tenant)]
            if len(page) < MAX_BATCH:
                break
            after = page[-1]
        return found[:limit]

    async def replay(self, refs: Sequence[Ref]) -> int:
        """Queue dead letters again, as if they were new; how many there were."""
        return sum([await self._run(letters.REPLAY, *map(str, some)) for some in _slices(refs)])

    async def drop(self, tenant: str, turn: str) -> bool:
        """Forget a job wherever it is, dead letters too; whether there was any."""
        ref = Ref(tenant, turn)
        return bool(await self._run(scripts.DROP, ref.tenant, ref.turn))

    async def _dead_page(self, after: DeadLetter | None) -> list[DeadLetter]:
        start: list[Arg] = [str(after.ref), after.died_ms] if after else ["", 0]
        reply = await self._run(letters.DEAD_PAGE, *start, MAX_BATCH)
        return [_letter(*reply[i : i + 3]) for i in range(0, len(reply), 3)]

    def _most(self, max_queued: int | None) -> int:
        return self._max_queued if max_queued is None else max_queued

    def _full(self, most: int) -> QueueFullError:
        return QueueFullError(queue=self._name, max_queued=most, retry_after_s=FULL_RETRY_S)

    async def _run(self, script: Script, *args: Arg) -> Any:
        return await self._link.call(lambda redis: script.run(redis, [self._prefix], args))


def _delivery(entry: Entry) -> tuple[str, str, str, int]:
    return entry.tenant, entry.turn, entry.id, entry.attempt


def _verdict_args(verdict: Verdict) -> tuple[str, Arg]:
    match verdict:
        case Done():
            return "done", ""
        case Retry(after_s, jitter):
            spread = random.uniform(1, 1 + jitter)  # noqa: S311 - only to come back apart
            return "retry", _ms(after_s * spread)
        case Dead(reason):
            return "dead", reason


def _entries(consumer: str, reply: Sequence[Any]) -> list[Entry]:
    return [_entry(consumer, reply[i : i + 5]) for i in range(0, len(reply), 5)]


def _entry(consumer: str, fields: Sequence[Any]) -> Entry:
    tenant, turn, name, attempt, age_ms = fields
    return Entry(
        tenant=tenant.decode(),
        turn=turn.decode(),
        id=name.decode(),
        consumer=consumer,
        attempt=attempt,
        age_s=age_ms / 1000,
    )


def _letter(ref: bytes, died_ms: bytes, grave: bytes) -> DeadLetter:
    _, attempts, reason = grave.decode().split(" ", 2)
    return DeadLetter(ref=Ref.parse(ref.decode()), reason=reason, attempts=int(attempts), died_ms=int(died_ms))


def _slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(values), MAX_BATCH):
        yield values[first : first + MAX_BATCH]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
