"""Carries out the turns of a queue and takes over what others left behind, as many at once as it has slots.

Any number of dispatchers share a queue and an index. None of them keeps anything that is not in Redis: one that dies is
found out by its leases and by the age of its jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from cluster.errors import StoreUnavailableError
from services.conversations.queueing import LOOK_LIMIT, DueIndex
from services.conversations.store import ConversationStore
from services.dispatcher.facts import DispatcherFacts
from services.dispatcher.jobs import CarriesOut, Jobs
from services.dispatcher.pace import Pace
from services.dispatcher.settings import DispatcherSettings
from services.dispatcher.slots import Slots
from services.dispatcher.sweeper import Sweeper
from services.queue.base import Entry, Queue, QueueLag

_log = structlog.get_logger(__name__)

_MAX_BATCH = 16  # jobs taken at once: what one consumer holds, no other has
_MAX_PROMOTED = 100  # delayed jobs that the queue lets wait again at once


class Dispatcher:
    """Runs turns that nobody waits for. ``start`` it, and ``stop`` it before the turns.

    Args:
        turns: carries turns out.
        store: where their records are.
        queue: of turns that wait.
        due: which turns to look at, and when.
        name: of this consumer; no other has it.
        settings: limits and times.
        clock: unix seconds, about those of the store's server.
    """

    def __init__(
        self,
        turns: CarriesOut,
        store: ConversationStore,
        queue: Queue,
        due: DueIndex,
        *,
        name: str,
        settings: DispatcherSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings or DispatcherSettings()
        self._turns = turns
        self._queue = queue
        self._name = name
        self._slots = Slots(self._settings.slots)
        self._pace = Pace(self._settings.slots, self._settings.refused_s)
        self._jobs = Jobs(turns, queue, self._settings, self._pace)
        self._sweeper = Sweeper(turns, store, queue, due, slots=self._slots, settings=self._settings, clock=clock)
        self._lag: QueueLag | None = None
        self._is_stopping = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def facts(self) -> DispatcherFacts:
        """What there is to count."""
        return DispatcherFacts(
            used=self._slots.used,
            slots=self._settings.slots,
            allowed=self._pace.allowed,
            adopted=self._sweeper.adopted,
            settled=dict(self._jobs.settled),
            lag=self._lag,
        )

    async def start(self) -> None:
        """Begin to take work."""
        steps = (self._take, self._care, self._sweep, self._extend, self._ask_lag)
        self._loops = [asyncio.create_task(self._repeat(step)) for step in steps]

    async def stop(self, drain_s: float = 0.0) -> None:
        """Take no more work, wait so long for what is under way, and leave the rest to others, who go on at once."""
        self._is_stopping.set()
        if self._loops:
            await asyncio.wait(self._loops)  # never in the middle of a call: what was taken is worked on, or given up
        await self._slots.ended(drain_s)
        await self._turns.leave()
        await self._slots.ended(self._settings.settle_s)
        await self._slots.cancel()

    def check(self) -> None:
        """Raises RuntimeError when it has stopped working by itself."""
        if not self._is_stopping.is_set() and any(loop.done() for loop in self._loops):
            raise RuntimeError("A loop of the dispatcher has ended.")

    async def _take(self) -> float:
        room = min(self._slots.free, self._pace.room(self._jobs.num_in_hand), _MAX_BATCH)
        entries = await self._queue.take_many(self._name, room) if room else []
        self._work_on(entries)
        return 0.0 if entries else self._settings.poll_s

    async def _care(self) -> float:
        promoted = await self._queue.promote_due(limit=_MAX_PROMOTED)
        if room := min(self._slots.free, _MAX_BATCH):
            self._work_on(await self._queue.reclaim(self._name, idle_s=self._settings.idle_s, limit=room))
        return 0.0 if promoted == _MAX_PROMOTED else self._settings.care_s

    async def _sweep(self) -> float:
        found = await self._sweeper.sweep()
        return 0.0 if found >= LOOK_LIMIT else self._settings.care_s

    async def _extend(self) -> float:
        await self._jobs.extend()
        return self._settings.extend_s

    async def _ask_lag(self) -> float:
        self._lag = await self._queue.lag()
        return self._settings.lag_s

    def _work_on(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._slots.run(self._jobs.work(entry))

    async def _repeat(self, step: Callable[[], Awaitable[float]]) -> None:
        """Take steps until told to stop; each says how long to pause."""
        while not self._is_stopping.is_set():
            pause_s = await _tried(step)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_stopping.wait()


async def _tried(step: Callable[[], Awaitable[float]]) -> float:
    """One step. A store that is away is waited for."""
    try:
        return await step()
    except StoreUnavailableError as error:
        return error.retry_after_s
    except Exception:  # noqa: BLE001 - a bug in one step must not end all later ones
        _log.exception("dispatcher.failed", step=getattr(step, "__name__", ""))
        return 1.0
