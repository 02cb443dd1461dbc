"""Keeps the records of all running turns of this process up to date: one task, one ``note`` call per flush.

Ids reach the client first and the journal within a quarter of a second, because a write per token would cost more than
delivering the token. Every write renews the lease, and the owner trusts its lease only up to a local deadline counted
from the moment the last acknowledged write was *sent*: a process that was stopped and wakes up finds it passed and
says nothing more until a write succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from cluster.errors import StoreUnavailableError, TurnLostError
from services.conversations.store import ConversationStore, Reply, Verdict
from services.turns.accepted import NOTHING, Held
from services.turns.settings import JournalSettings
from services.turns.ticket import News, Ticket

_UNSETTLED = {Verdict.ABSENT, Verdict.AWAY}

_log = structlog.get_logger(__name__)


class Journal:
    """The writer. ``start`` it, ``open`` a ticket per turn, ``close`` the ticket before the turn's commit.

    Args:
        store: where records live.
        settings: times.
        clock: monotonic seconds.
    """

    def __init__(
        self, store: ConversationStore, settings: JournalSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._store = store
        self._tickets: set[Ticket] = set()
        self._urgent = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="turn-journal")

    async def stop(self) -> None:
        """End the task. Turns still open keep their records as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def open(
        self,
        *,
        tenant: str,
        turn: str,
        owner: str,
        sent_at: float,
        on_news: Callable[[News], None],
        begin_again: Callable[[], Awaitable[Reply]],
        held: Held = NOTHING,
    ) -> Ticket:
        """Keep a turn's record from now on.

        Args:
            tenant: of the turn.
            turn: its id.
            owner: the token of its lease.
            sent_at: when the write that made us its owner was sent (monotonic).
            on_news: called with what is heard of the turn.
            begin_again: makes the record anew by the same owner, where a failover of the store has lost it.
            held: what the journal holds of it already.
        """
        ticket = Ticket(
            self.settings,
            self._now,
            self.wake,
            tenant=tenant,
            turn=turn,
            owner=owner,
            sent_at=sent_at,
            held=held,
            on_news=on_news,
            begin_again=begin_again,
        )
        self._tickets.add(ticket)
        self.wake()
        return ticket

    async def flush(self, ticket: Ticket) -> None:
        """Write what waits of this turn now, if the store answers."""
        with contextlib.suppress(StoreUnavailableError):
            await self._write([ticket])

    async def close(self, ticket: Ticket) -> None:
        """Write no more of this turn. On return no note of it is under way."""
        self._tickets.discard(ticket)
        async with self._writing:
            pass

    def wake(self) -> None:
        """Something cannot wait for the next tick."""
        self._urgent.set()

    def _now(self) -> float:
        return self.clock()

    async def _write(self, tickets: Sequence[Ticket]) -> None:
        async with self._writing:
            tickets = [ticket for ticket in tickets if ticket in self._tickets]  # those closed meanwhile are not ours
            if not tickets:
                return
            sent_at = self.clock()
            replies = await self._store.note([ticket.note() for ticket in tickets])
            for ticket, reply in zip(tickets, replies, strict=True):
                if reply.verdict not in _UNSETTLED:
                    ticket.settle(reply, sent_at)
            for ticket, reply in zip(tickets, replies, strict=True):
                if reply.verdict is Verdict.ABSENT:
                    await self._begin_again(ticket)
            if any(reply.verdict is Verdict.AWAY for reply in replies):
                raise StoreUnavailableError("A part of the store does not answer.", retry_after_s=self.settings.retry_s)

    async def _begin_again(self, ticket: Ticket) -> None:
        """There is no record, and nobody erased one: a failover lost it. All ids are written anew, or it is over."""
        sent_at = self.clock()
        reply = await ticket.begin_again()
        is_ours = reply.verdict is Verdict.OK
        _log.warning("journal.begun_again", turn=ticket.turn, ids=ticket.total, verdict=reply.verdict.value)
        ticket.settle(Reply(Verdict.GAP, value=0) if is_ours else Reply(Verdict.ABSENT), sent_at)

    def _give_up_late(self, error: StoreUnavailableError) -> None:
        now = self.clock()
        for ticket in [t for t in self._tickets if now >= t.deadline + self.settings.away_s]:
            ticket.fail(error)

    async def _run(self) -> None:
        last_tick = self.clock()
        while True:
            await self._next_tick(last_tick)
            now = self.clock()
            is_tick = now - last_tick >= self.settings.flush_s
            if is_tick:
                last_tick = now
            await self._flush(now, everything=is_tick)

    async def _next_tick(self, last_tick: float) -> None:
        """Wait for the tick, or for something urgent; without turns, for a turn."""
        left = last_tick + self.settings.flush_s - self.clock()
        try:
            async with asyncio.timeout(max(left, 0) if self._tickets else None):
                await self._urgent.wait()
        except TimeoutError:
            return
        self._urgent.clear()

    async def _flush(self, now: float, *, everything: bool) -> None:
        due = [t for t in self._tickets if t.is_urgent() or (everything and t.is_due(now))]
        try:
            await self._write(due)
        except StoreUnavailableError as error:
            self._give_up_late(error)
            await asyncio.sleep(self.settings.retry_s)
        except Exception as error:  # noqa: BLE001 - one bad reply must not end the writer of every other turn
            _log.exception("journal.failed", turns=len(due))
            for ticket in due:
                ticket.fail(TurnLostError(f"The record of this turn cannot be written: {type(error).__name__}."))
