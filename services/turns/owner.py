"""The one task that owns a stored turn, from its acceptance to its commit.

It outlives its caller: a client that leaves may come back, to any gateway, and reads the record. Everything that can
end the turn (its last id, an error, a client that stays away, a cancel, the lease, this process) meets in this task, so
which came first is a plain matter of order: once the generation is over, a cancel comes too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from enum import Enum, auto

import structlog

from cluster.errors import ClusterError, StoreUnavailableError, TurnMovedError
from cluster.protocol import FinishReason, Served
from services.conversations.records import TurnState
from services.conversations.store import Reply
from services.turns.absence import Absence
from services.turns.accepted import Accepted, TurnExistsError
from services.turns.answer import answer_item_id
from services.turns.events import EventKind, TurnEvent, TurnStarted
from services.turns.journal import Journal
from services.turns.leases import loss
from services.turns.metrics import Account
from services.turns.outbox import Outbox
from services.turns.own_record import RECORDED, OwnRecord
from services.turns.parts import TurnParts
from services.turns.production import Production
from services.turns.ticket import News, Ticket

_log = structlog.get_logger(__name__)

_STATES = {FinishReason.STOP: TurnState.COMPLETED, FinishReason.LENGTH: TurnState.INCOMPLETE}


class Ending(Enum):
    """Who ended a turn before its answer was complete."""

    CANCELLED = auto()  # the client stayed away, or somebody asked
    RELEASED = auto()  # this process is going away; another one goes on


class TurnOwner:
    """Owns one stored turn. ``run`` it as a task; read ``outbox``; ``end`` it early.

    Args:
        parts: shared by all turns.
        journal: keeps the record up.
        enter: makes the turn ours: begins it, or hands over one that was claimed.
        is_read: whether somebody reads the outbox.

    Attributes:
        outbox: ``TurnStarted``, then the numbered events; raises the error the turn ended in.
        error: that one, once the turn is over; None for a turn that ended in order.
    """

    def __init__(
        self, parts: TurnParts, journal: Journal, enter: Callable[[], Awaitable[Accepted]], *, is_read: bool = True
    ) -> None:
        self.outbox = Outbox(is_read=is_read)
        self.error: ClusterError | None = None
        self._account = Account(parts.metrics)
        self._parts = parts
        self._journal = journal
        self._enter = enter
        self._ending: Ending | None = None
        self._absence = Absence(lambda: self.end(Ending.CANCELLED), parts.clock)
        self._pump: asyncio.Task[None] | None = None
        self._accepted: Accepted | None = None
        self._production: Production | None = None
        self._is_recorded = False  # as failed: that is how the turn ended, not only the stream

    def end(self, ending: Ending) -> None:
        """End the generation now. Too late, once it is over."""
        if self._ending is None:
            self._ending = ending
            self._interrupt()

    def leave(self, resume_s: float) -> None:
        """Nobody reads the outbox any more; without a reader of the record, the turn ends in ``resume_s``."""
        self.outbox.mute()
        self._absence.begin(resume_s)

    def failed(self, error: ClusterError, last: TurnEvent | None) -> TurnEvent:
        """The last event of a started turn that ended in ``error``; ``last`` is the one its caller saw before."""
        assert self._production is not None, "a started turn has a production"
        return self._production.failed(error, last, EventKind.FAILED if self._is_recorded else EventKind.BROKEN)

    async def run(self) -> None:
        """Own the turn. Every outcome is told through the outbox; nothing is raised but cancellation."""
        try:
            with self._account:
                await self._run()
        except TurnExistsError as error:
            self.outbox.close(error)
        except asyncio.CancelledError:  # by a process that could not wait for the store: the lease runs out by itself
            self._close(self._cut_off())
            raise
        except ClusterError as error:
            self._close(error)
        except Exception as error:  # noqa: BLE001 - the caller hears of it; a task's own exception nobody would
            self._close(_crash(error))
        finally:
            self._absence.end()
            self.outbox.close()

    def _close(self, error: ClusterError) -> None:
        self.error = error
        self.outbox.close(error)

    def _cut_off(self) -> ClusterError:
        if self._accepted is None:  # its begin may have been carried out, or yet be
            return StoreUnavailableError("The history store does not answer.", retry_after_s=1.0)
        return TurnMovedError(self._accepted.response_id)

    async def _run(self) -> None:
        accepted = self._accepted = await self._accept()
        record = OwnRecord(self._parts, accepted)
        ticket = self._journal.open(
            tenant=accepted.tenant,
            turn=accepted.response_id,
            owner=accepted.owner,
            sent_at=accepted.sent_at,
            held=accepted.held,
            on_news=self._on_news,
            begin_again=record.begin_again,
        )
        self._account.is_started = bool(accepted.held.ids)
        self.outbox.guard(ticket)
        production = self._production = Production(self._parts, accepted.draft, held=accepted.held)
        try:
            error = await self._generate(accepted, ticket, production)
            if self._ending is Ending.RELEASED and production.reason is FinishReason.ABORTED:
                error = TurnMovedError(accepted.response_id)
                await self._journal.flush(ticket)
            if error is None:
                self.outbox.put([*self._opening(accepted, production), *production.close()])
        finally:
            await self._journal.close(ticket)  # from here on the commit is the only write
        if ticket.error is not None:
            raise ticket.error
        if error is not None:
            self._is_recorded = await record.give_up(production, error)
            if self._is_recorded:
                ticket.release()
            raise error
        self._account.outcome = await self._record(record, ticket, production)

    async def _accept(self) -> Accepted:
        try:
            return await self._enter()
        except TurnExistsError:  # its caller becomes a reader of the one that runs
            self._account.is_void = True
            raise

    async def _generate(self, accepted: Accepted, ticket: Ticket, production: Production) -> ClusterError | None:
        """Run the pump to its end, or to an early one. The error that ended it, if one did."""
        self._pump = asyncio.create_task(self._fill(accepted, ticket, production), name="turn-pump")
        if self._ending is not None:
            self._pump.cancel()
        try:
            await asyncio.wait({self._pump})
        finally:
            self._pump.cancel()
        if self._pump.cancelled():
            return None
        error = self._pump.exception()
        return error if error is None or isinstance(error, ClusterError) else _crash(error)

    async def _fill(self, accepted: Accepted, ticket: Ticket, production: Production) -> None:
        async with aclosing(production.frames()) as frames:
            async for frame in frames:
                if isinstance(frame, Served):
                    self._account.is_started = True
                    self.outbox.put([self._started(accepted, frame)])
                else:
                    self.outbox.put(frame)
                    self._note(ticket, production)

    def _note(self, ticket: Ticket, production: Production) -> None:
        start = ticket.total
        ticket.extend(production.projection.ids[start:], production.logprobs[start:], production.moves)

    def _opening(self, accepted: Accepted, production: Production) -> Sequence[TurnStarted | TurnEvent]:
        """How a turn begins for its caller that is ended before a replica served it."""
        return () if production.is_open else (self._started(accepted, None), *production.projection.open())

    def _started(self, accepted: Accepted, served: Served | None) -> TurnStarted:
        return TurnStarted(
            response_id=accepted.response_id,
            item_id=answer_item_id(accepted.response_id),
            conversation=accepted.shown,
            served=served,
            seed=accepted.draft.request.sampling.seed,
            prompt_tokens=accepted.draft.prompt_tokens,
            created_at=accepted.created_at,
        )

    async def _record(self, record: OwnRecord, ticket: Ticket, production: Production) -> str:
        result = production.result()
        state = _STATES.get(result.reason) or TurnState.CANCELLED
        try:
            reply = await record.end(production, state, result, patience_s=self._parts.settings.journal.away_s)
        except StoreUnavailableError as error:
            ticket.fail(error)
            raise
        _settle(reply, ticket, record.accepted.response_id)
        self.outbox.put([production.end(result, EventKind(state.value))])
        self.outbox.close()
        await record.look_no_more(patience_s=self._parts.settings.journal.away_s)
        return state.value

    def _on_news(self, news: News) -> None:
        """The journal heard something of the turn."""
        if news.has_failed:
            self._interrupt()
        elif news.is_cancelled:
            self.end(Ending.CANCELLED)
        else:
            self._absence.extend(news.seen_s)

    def _interrupt(self) -> None:
        if self._pump is not None:
            self._pump.cancel()


def _crash(error: BaseException) -> ClusterError:
    _log.error("turn.crashed", exc_info=error)
    return ClusterError("The turn failed for a reason that nobody foresaw.")


def _settle(reply: Reply, ticket: Ticket, turn: str) -> None:
    if reply.verdict in RECORDED:
        ticket.release()
        return
    error = loss(reply.verdict, turn)
    ticket.fail(error)
    raise error
