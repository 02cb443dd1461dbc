"""One job of the queue: carried out, and settled by what became of its turn."""

from __future__ import annotations

from typing import Protocol

import structlog

from cluster.errors import StoreUnavailableError
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


class Jobs:
    """Works on jobs of one queue.

    Args:
        turns: carries them out.
        queue: where they come from.
        settings: limits.

    Attributes:
        in_hand: jobs being worked on.
    """

    def __init__(self, turns: CarriesOut, queue: Queue, settings: DispatcherSettings) -> None:
        self.in_hand: set[Entry] = set()
        self._turns = turns
        self._queue = queue
        self._settings = settings

    async def work(self, entry: Entry) -> None:
        """Carry one job out. A store that goes away leaves it to whoever reclaims it."""
        self.in_hand.add(entry)
        try:
            carried = await self._turns.carry_out(entry.tenant, entry.turn)
            verdict = self._verdict(entry, carried)
            if isinstance(verdict, Dead) and carried.fate is Fate.WAITS:
                await self._turns.give_up(entry.tenant, entry.turn, carried)
            await self._queue.settle(entry, verdict)
        except StoreUnavailableError as error:
            _log.warning("job.left", turn=entry.turn, error=error.code)
        except Exception:  # noqa: BLE001 - one bad job must not end the dispatcher; it comes back, a bounded number of times
            _log.exception("job.crashed", turn=entry.turn)
        finally:
            self.in_hand.discard(entry)

    async def extend(self) -> None:
        """Tell the queue that the jobs in hand are worked on."""
        if self.in_hand:
            await self._queue.extend(list(self.in_hand))

    def _verdict(self, entry: Entry, carried: Carried) -> Verdict:
        """Whoever owns a turn ends it, or dies, and then it is due: the job is done either way."""
        if carried.fate is Fate.FAILED:
            return Dead(_reason(carried))
        if carried.fate is not Fate.WAITS:
            return Done()
        if entry.attempt >= self._settings.max_tries:
            return Dead(f"no room in {entry.attempt} tries: {_reason(carried)}")
        return Retry(self._settings.pause_s(entry.attempt))


def _reason(carried: Carried) -> str:
    return carried.error.code if carried.error else "failed"
