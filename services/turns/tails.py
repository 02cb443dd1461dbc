"""Looks at turns that other processes compute: one task, one round trip for all of them, a few times a second.

No connection waits for a turn, so a thousand readers cost what one does, and it works on every kind of server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cluster.errors import ClusterError, NotFoundError, StoreUnavailableError
from cluster.protocol import Logprobs
from services.conversations.records import TurnState
from services.conversations.store import ConversationStore, Tail, Tailed
from services.turns.settings import TurnSettings

_log = structlog.get_logger(__name__)

# A reader says so often that it is there, and for how long that holds: two lost looks do not matter.
_MARK_S = 5.0
_SEEN_S = 15.0


@dataclass(eq=False, slots=True)
class Watch:
    """One reader's view of a turn.

    Attributes:
        state: of the turn, when it was last looked at.
        ids: of its journal, so far.
        logprobs: of ``ids``, where they are kept.
        seen_at: when the store last told of it (monotonic).
        error: why there is nothing more to see.
        news: set when something has changed.
    """

    tenant: str
    turn: str
    state: TurnState
    seen_at: float
    ids: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    error: ClusterError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, found: Tailed) -> None:
        """What a look found. A journal with a hole is not read further: its turn's record will say how it ends."""
        if found.state is None:
            self.error = NotFoundError("response", self.turn)
        if found.state is self.state and not found.ids and self.error is None:
            return
        self.state = found.state or self.state
        self.ids += found.ids
        self.logprobs += found.logprobs
        self.news.set()

    def fail(self, error: ClusterError) -> None:
        """Nothing more can be seen."""
        self.error = error
        self.news.set()


class Tails:
    """The looker of one process. ``start`` it before the first ``open``."""

    def __init__(self, store: ConversationStore, settings: TurnSettings, clock: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._watches: set[Watch] = set()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._marked_at = -float("inf")

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="turn-tails")

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def open(self, tenant: str, turn: str, state: TurnState) -> Watch:
        """Look at a turn from now on, from its first id."""
        watch = Watch(tenant, turn, state, self._clock())
        self._watches.add(watch)
        self._marked_at = -float("inf")  # its owner hears of it with the next look
        self._work.set()
        return watch

    def close(self, watch: Watch) -> None:
        """Look no more."""
        self._watches.discard(watch)

    async def _run(self) -> None:
        while True:
            if not self._watches:
                self._work.clear()
                await self._work.wait()
            await self._look(list(self._watches))
            await asyncio.sleep(self._settings.look_s)

    async def _look(self, watches: list[Watch]) -> None:
        watch_s = self._mark_s()
        try:
            found = await self._store.tail([Tail(w.tenant, w.turn, len(w.ids), watch_s) for w in watches])
        except StoreUnavailableError as error:
            self._give_up_late(watches, str(error))
        except Exception as error:  # noqa: BLE001 - the other readers, and later looks, must not end with this one
            _log.exception("tails.failed", readers=len(watches))
            for watch in watches:
                watch.fail(ClusterError(f"The turn cannot be read: {type(error).__name__}."))
        else:
            self._take(watches, found)

    def _take(self, watches: list[Watch], found: list[Tailed]) -> None:
        now = self._clock()
        for watch, one in zip(watches, found, strict=True):
            if not one.is_away:
                watch.seen_at = now
                watch.take(one)
        self._give_up_late(watches, "A part of the store does not answer.")

    def _mark_s(self) -> float:
        """For how long the owners are told, with this look, that their readers are there; 0: not now."""
        now = self._clock()
        if now - self._marked_at < _MARK_S:
            return 0.0
        self._marked_at = now
        return _SEEN_S

    def _give_up_late(self, watches: list[Watch], message: str) -> None:
        for watch in watches:
            if self._clock() - watch.seen_at >= self._settings.journal.away_s:
                watch.fail(StoreUnavailableError(message, retry_after_s=self._settings.journal.retry_s))
