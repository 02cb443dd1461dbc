"""Turns that are due: whoever should have looked after them may have died.

The index says when to look, the record what there is to do: forget a turn that has ended, queue one that waits, leave
one alone whose owner lives, take over one whose owner has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from cluster.errors import NotFoundError, QueueFullError, StoreUnavailableError
from services.conversations.queueing import DueIndex, Publishes, Ref
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import ConversationStore
from services.dispatcher.jobs import CarriesOut
from services.dispatcher.settings import DispatcherSettings
from services.dispatcher.slots import Slots
from services.turns.adoption import job_cost, sampling_of
from services.turns.carrying import Fate

_log = structlog.get_logger(__name__)

_LEAST_S = 0.5  # clocks differ; a lease that seems to be over may not be


class Sweeper:
    """Looks at what is due.

    Args:
        turns: takes turns over.
        store: where their records are.
        queue: where those go that wait.
        due: says which to look at.
        slots: where turns are carried out.
        settings: times.
        clock: unix seconds.

    Attributes:
        adopted: turns that were taken over.
    """

    def __init__(
        self,
        turns: CarriesOut,
        store: ConversationStore,
        queue: Publishes,
        due: DueIndex,
        *,
        slots: Slots,
        settings: DispatcherSettings,
        clock: Callable[[], float],
    ) -> None:
        self.adopted = 0
        self._turns = turns
        self._store = store
        self._queue = queue
        self._due = due
        self._slots = slots
        self._settings = settings
        self._clock = clock
        self._absent: dict[Ref, float] = {}  # since when; what another sweeper has forgotten stays for a while

    async def sweep(self) -> int:
        """Look once; how many turns were due. Without a free slot others look.

        Raises:
            StoreUnavailableError: the store, or a part of it, does not answer; what could be looked at was.
        """
        if not self._slots.free:
            return 0
        refs = await self._due.look()
        looks = await asyncio.gather(*(self._try(ref) for ref in refs), return_exceptions=True)
        for failed in filter(None, looks):
            raise failed
        return len(refs)

    async def _try(self, ref: Ref) -> None:
        try:
            await self._look_at(ref)
        except StoreUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - one bad record must not hide those beside it; it is shown again
            _log.exception("turn.look_crashed", turn=ref.turn)
            await self._due.move(ref.tenant, ref.turn, in_s=self._settings.longest_pause_s)

    async def _look_at(self, ref: Ref) -> None:
        try:
            record = await self._store.turn(ref.tenant, ref.turn)
        except NotFoundError:
            await self._wait_for(ref)
            return
        if record.state is TurnState.QUEUED:
            await self._enqueue(ref, record)
        elif not record.state.is_open:
            await self._due.remove(ref.tenant, ref.turn)
        elif (left_s := record.until_ms / 1000 - self._clock()) > 0:
            await self._due.move(ref.tenant, ref.turn, in_s=max(left_s, _LEAST_S))
        elif self._slots.free:
            self._slots.run(self._adopt(ref))
        # Without a free slot the index shows it to another dispatcher soon.

    async def _wait_for(self, ref: Ref) -> None:
        """Forget a turn that never began, or was erased. One whose maker is slow, or asks again, may yet begin."""
        now, absent_s = self._clock(), self._settings.absent_s
        self._absent = {one: since for one, since in self._absent.items() if now - since < 2 * absent_s}
        if now - self._absent.setdefault(ref, now) < absent_s:
            await self._due.move(ref.tenant, ref.turn, in_s=absent_s / 4)
            return
        await self._due.remove(ref.tenant, ref.turn)
        self._absent.pop(ref, None)

    async def _enqueue(self, ref: Ref, record: TurnRecord) -> None:
        try:
            cost = job_cost(record.request.prompt_tokens, sampling_of(record))
            await self._queue.publish(ref.tenant, ref.turn, weight=record.request.weight, cost=cost)
        except QueueFullError:
            await self._due.move(ref.tenant, ref.turn, in_s=self._settings.longest_pause_s)
        else:
            await self._due.move(ref.tenant, ref.turn, in_s=self._settings.queued_s)

    async def _adopt(self, ref: Ref) -> None:
        try:
            carried = await self._turns.carry_out(ref.tenant, ref.turn)
            if carried.fate is Fate.WAITS or (carried.fate is Fate.OWNED and carried.error is None):
                await self._due.move(ref.tenant, ref.turn, in_s=self._settings.again_s)
            elif carried.fate is Fate.GONE:
                await self._due.remove(ref.tenant, ref.turn)
            # Whoever ends a turn removes it; one that was given up here is due now, one that crashed after its lease.
            self.adopted += carried.fate in {Fate.ENDED, Fate.FAILED}
            _log.info("turn.adopted", turn=ref.turn, fate=carried.fate.name.lower())
        except StoreUnavailableError as error:
            _log.warning("turn.left", turn=ref.turn, error=error.code)
        except Exception:  # noqa: BLE001 - one bad turn must not end the dispatcher; the index shows it again
            _log.exception("turn.adoption_crashed", turn=ref.turn)
