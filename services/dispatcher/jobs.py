"""One job of the queue: carried out, and settled by what became of its turn."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import structlog

from cluster.errors import ClusterError, RetryLaterError, StoreUnavailableError
from services.dispatcher.pace import Pace
from services.dispatcher.settings import DispatcherSettings
from services.queue.base import Dead, Done, Entry, Queue, Retry, Verdict
from services.turns.carrying import Carried, Fate

_log = structlog.get_logger(__name__)


class CarriesOut(Protocol):
    """Brings turns to their end."""

    async def carry_out(self, tenant: str, response_id: str) -> Carried:
        """Take a turn over and end it. Raises StoreUnavailableError."""
        ...

    async def give_up(self, tenant: str, response_id: str, carried: Carried) -> None:
        """End a turn that waits as failed. Raises StoreUnavailableError."""
        ...

    async def leave(self) -> None:
        """Give up all turns that are being carried out, to be claimed by others at once."""
        ...


class Jobs:
    """Works on jobs of one queue.

    Args:
        turns: carries them out.
        queue: where they come from.
        settings: limits.
        pace: told whether jobs find room.

    Attributes:
        settled: jobs by what became of them.
    """

    def __init__(self, turns: CarriesOut, queue: Queue, settings: DispatcherSettings, pace: Pace) -> None:
        self.settled: Counter[str] = Counter({"done": 0, "retry": 0, "dead": 0})
        self._turns = turns
        self._queue = queue
        self._settings = settings
        self._pace = pace
        self._in_hand: set[Entry] = set()

    @property
    def num_in_hand(self) -> int:
        """Jobs being worked on."""
        return len(self._in_hand)

    async def work(self, entry: Entry) -> None:
        """Carry one job out. A store that goes away leaves it to whoever reclaims it."""
        self._in_hand.add(entry)
        try:
            carried = await self._carry_out(entry)
            verdict = self._verdict(entry, carried)
            if isinstance(verdict, Dead) and carried.fate is Fate.WAITS:
                await self._turns.give_up(entry.tenant, entry.turn, carried)
            await self._queue.settle(entry, verdict)
            self.settled[type(verdict).__name__.lower()] += 1
        except StoreUnavailableError as error:
            _log.warning("job.left", turn=entry.turn, error=error.code)
            self._pace.refused(self.num_in_hand, error.retry_after_s)
        finally:
            self._in_hand.discard(entry)

    async def extend(self) -> None:
        """Tell the queue that the jobs in hand are worked on."""
        if self._in_hand:
            await self._queue.extend(list(self._in_hand))

    async def _carry_out(self, entry: Entry) -> Carried:
        try:
            carried = await self._turns.carry_out(entry.tenant, entry.turn)
        except StoreUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - one bad job must not end the dispatcher; it comes back, a bounded number of times
            _log.exception("job.crashed", turn=entry.turn)
            error = ClusterError("The turn failed for a reason that nobody foresaw.")
            return Carried(Fate.WAITS, error, error.code)
        if isinstance(carried.error, RetryLaterError):
            self._pace.refused(self.num_in_hand, carried.error.retry_after_s)
        else:
            self._pace.done()
        return carried

    def _verdict(self, entry: Entry, carried: Carried) -> Verdict:
        """A job lasts as long as its turn is open, also in other hands, for only it can leave a dead letter."""
        if carried.fate is Fate.FAILED:
            return Dead(carried.reason)
        if carried.fate not in {Fate.WAITS, Fate.OWNED}:
            return Done()
        if entry.attempt < self._settings.max_tries:
            return Retry(self._settings.pause_s(entry.attempt))
        if carried.fate is Fate.OWNED:  # its owner ends it, or dies, and then it is due
            return Done()
        return Dead(f"no room in {entry.attempt} tries: {carried.reason}")
