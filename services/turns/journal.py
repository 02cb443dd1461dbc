"""Keeps the records of all running turns of this process up to date: one task, one ``note`` call per flush.

Ids reach the client first and the journal within a quarter of a second, because a write per token would cost more than
delivering the token. Every write renews the lease, and the owner trusts its lease only up to a local deadline counted
from the moment the last acknowledged write was *sent*: a process that was stopped and wakes up finds it passed and
says nothing more until a write succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cluster.errors import ClusterError, StoreUnavailableError, TurnLostError, TurnMovedError
from cluster.protocol import Logprobs
from services.conversations.store import ConversationStore, Note, Reply, Verdict
from services.turns.accepted import NOTHING, Held
from services.turns.settings import JournalSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class News:
    """What the journal heard of a turn.

    Attributes:
        has_failed: it may not go on; ``Ticket.error`` says why.
        is_cancelled: somebody asked to cancel it.
        seen_s: a reader of its record will be back within this.
    """

    has_failed: bool = False
    is_cancelled: bool = False
    seen_s: float = 0.0


class Ticket:
    """A running turn's place in the journal, held by the turn's owner.

    Attributes:
        error: why the turn may not go on, once that is known; it is final.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        tenant: str,
        turn: str,
        owner: str,
        sent_at: float,
        held: Held,
        on_news: Callable[[News], None],
    ) -> None:
        self.error: ClusterError | None = None
        self._journal = journal
        self._tenant = tenant
        self._turn = turn
        self._owner = owner
        self._on_news = on_news
        self._ids = list(held.ids)
        self._logprobs = list(held.logprobs)
        self._moves = held.moves
        self._noted = len(self._ids)  # ids the store is known to hold
        self._sent_at = sent_at  # of the last acknowledged write
        self._changed = asyncio.Event()

    def extend(self, ids: Sequence[int], logprobs: Sequence[Logprobs] = (), moves: int = 0) -> None:
        """More ids of the answer, with their log probabilities where they are kept; they are written soon.

        ``moves``: how often the answer went on elsewhere, all in all.
        """
        is_first = not self._ids
        self._ids += ids
        self._logprobs += logprobs
        self._moves = moves
        if is_first or self.waiting >= self._journal.settings.flush_ids:
            self._journal.wake()

    @property
    def total(self) -> int:
        """Ids handed over so far."""
        return len(self._ids)

    @property
    def waiting(self) -> int:
        """Ids not yet written."""
        return len(self._ids) - self._noted

    def can_emit(self) -> bool:
        """Whether the lease certainly holds now; nothing may be said to the client otherwise."""
        return self.error is None and self._journal.clock() < self.deadline

    @property
    def deadline(self) -> float:
        """Monotonic time up to which the lease certainly holds."""
        settings = self._journal.settings
        return self._sent_at + settings.lease_s - settings.margin_s

    async def emittable(self) -> None:
        """Return once the lease certainly holds.

        Raises:
            TurnMovedError, TurnLostError, StoreUnavailableError: it never will.
        """
        while not self.can_emit():
            if self.error is not None:
                raise self.error
            self._changed.clear()
            await self._changed.wait()

    def confirm(self, sent_at: float) -> None:
        """A write sent at ``sent_at`` was acknowledged."""
        self._sent_at = max(self._sent_at, sent_at)
        self._changed.set()

    def release(self) -> None:
        """The turn is committed: what is still to be said needs no lease."""
        self.confirm(math.inf)

    def fail(self, error: ClusterError) -> None:
        """The turn may not go on; its owner is told at once."""
        if self.error is None:
            self.error = error
            self._changed.set()
            self._on_news(News(has_failed=True))

    def is_due(self, now: float) -> bool:
        """Whether ids or a sign of life should be written now."""
        settings = self._journal.settings
        return self.waiting > 0 or now - self._sent_at >= settings.renew_s - settings.flush_s

    def is_urgent(self) -> bool:
        """Whether that cannot wait for the next tick: the first ids, or many."""
        return self.waiting >= self._journal.settings.flush_ids or (self.waiting > 0 and self._noted == 0)

    def note(self) -> Note:
        """What the store does not have yet."""
        return Note(
            tenant=self._tenant,
            turn=self._turn,
            owner=self._owner,
            start=self._noted,
            ids=self._ids[self._noted :],
            lease_s=self._journal.settings.lease_s,
            logprobs=self._logprobs[self._noted :],
            moves=self._moves,
        )

    def settle(self, reply: Reply, sent_at: float) -> None:
        """Take the store's answer to a note."""
        if reply.verdict in {Verdict.OK, Verdict.GAP}:  # a gap renews the lease too, and says where to go on
            self._noted = reply.value
            self.confirm(sent_at)
        elif reply.verdict is Verdict.LOST:
            self.fail(TurnMovedError("Another process has taken this turn over."))
        else:
            self.fail(TurnLostError("The record of this turn is gone."))
        if reply.cancel or reply.seen_s:
            self._on_news(News(is_cancelled=reply.cancel, seen_s=reply.seen_s))


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
        held: Held = NOTHING,
    ) -> Ticket:
        """Keep a turn's record from now on.

        Args:
            tenant: of the turn.
            turn: its id.
            owner: the token of its lease.
            sent_at: when the write that made us its owner was sent (monotonic).
            on_news: called with what is heard of the turn.
            held: what the journal holds of it already.
        """
        ticket = Ticket(self, tenant=tenant, turn=turn, owner=owner, sent_at=sent_at, held=held, on_news=on_news)
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

    async def _write(self, tickets: Sequence[Ticket]) -> None:
        async with self._writing:
            tickets = [ticket for ticket in tickets if ticket in self._tickets]  # those closed meanwhile are not ours
            if not tickets:
                return
            sent_at = self.clock()
            replies = await self._store.note([ticket.note() for ticket in tickets])
            for ticket, reply in zip(tickets, replies, strict=True):
                ticket.settle(reply, sent_at)

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
