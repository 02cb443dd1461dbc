"""Carries out the turns of a queue and takes over what others left behind, as many at once as it has slots.

Any number of dispatchers share a queue and an index. None of them keeps anything that is not in Redis: one that dies is
found out by its leases and by the age of its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.errors import StoreUnavailableError
from services.conversations.queueing import DueIndex
from services.conversations.store import ConversationStore
from services.dispatcher.jobs import CarriesOut, Jobs
from services.dispatcher.settings import DispatcherSettings
from services.dispatcher.slots import Slots
from services.dispatcher.sweeper import Sweeper
from services.queue.base import Queue

_log = structlog.get_logger(__name__)

_MAX_BATCH = 16  # jobs taken at once: what one consumer holds, no other has


class Dispatcher:
    """Runs turns that nobody waits for. ``start`` it, and ``stop`` it before the turns.

    Args:
        turns: carries turns out.
        store: where their records are.
        queue: of turns that wait.
        due: which turns to look at, and when.
        name: of this consumer; no other has it.
        settings: limits and times.
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
    ) -> None:
        self._settings = settings or DispatcherSettings()
        self._queue = queue
        self._name = name
        self._slots = Slots(self._settings.slots)
        self._jobs = Jobs(turns, queue, self._settings)
        self._sweeper = Sweeper(turns, store, queue, due, slots=self._slots, settings=self._settings)
        self._loops: list[asyncio.Task[None]] = []

    @property
    def used_slots(self) -> int:
        """Turns being carried out."""
        return self._slots.used

    async def start(self) -> None:
        """Begin to take work."""
        self._loops = [asyncio.create_task(_repeat(step)) for step in (self._take, self._care, self._extend)]

    async def stop(self, timeout_s: float = 0.0) -> None:
        """Take no more work; wait so long for what is under way. What is left is the turns' own to release."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._slots.drained(timeout_s)

    async def _take(self) -> float:
        await self._slots.any_free()
        entries = await self._queue.take_many(self._name, min(self._slots.free, _MAX_BATCH))
        for entry in entries:
            self._slots.run(self._jobs.work(entry))
        return 0.0 if entries else self._settings.poll_s

    async def _care(self) -> float:
        await self._queue.promote_due()
        if self._slots.free:
            for entry in await self._queue.reclaim(self._name, limit=min(self._slots.free, _MAX_BATCH)):
                self._slots.run(self._jobs.work(entry))
        await self._sweeper.sweep()
        return self._settings.care_s

    async def _extend(self) -> float:
        await self._jobs.extend()
        return self._settings.extend_s


async def _repeat(step: Callable[[], Awaitable[float]]) -> None:
    """Take steps for ever; each says how long to pause. A store that is away is waited for."""
    while True:
        try:
            pause_s = await step()
        except StoreUnavailableError as error:
            pause_s = error.retry_after_s
        except Exception:  # noqa: BLE001 - a bug in one step must not end all later ones
            _log.exception("dispatcher.failed", step=getattr(step, "__name__", ""))
            pause_s = 1.0
        await asyncio.sleep(pause_s)
