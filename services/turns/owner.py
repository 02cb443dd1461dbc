"""The one task that owns a stored turn, from its acceptance to its commit.

It outlives its caller: a client that leaves may come back, to any gateway, and reads the record. Everything that can
end the turn (its last id, an error, a client that stays away, a cancel, the lease, this process) meets in this task, so
which came first is a plain matter of order: once the generation is over, a cancel comes too late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from enum import Enum, auto

import structlog

from cluster.errors import ClusterError, RetryLaterError, StoreUnavailableError, TurnLostError, TurnMovedError
from cluster.protocol import FinishReason, Served
from services.conversations.records import TurnState
from services.conversations.store import Commit, Reply, Verdict
from services.turns.absence import Absence
from services.turns.accepted import Accepted, TurnExistsError
from services.turns.answer import answer_item_id, answer_items
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted
from services.turns.journal import Journal, News, Ticket
from services.turns.metrics import Account
from services.turns.outbox import Outbox
from services.turns.parts import TurnParts
from services.turns.production import Production

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
        self._production: Production | None = None
        self._is_recorded = False  # as failed: that is how the turn ended, not only the stream

    def end(self, ending: Ending) -> None:
        """End the generation now. Too late, once it is over."""
        if self._ending is None:
            self._ending = ending
            self._interrupt()

    def leave(self) -> None:
        """Nobody reads the outbox any more; without a reader of the record, the turn ends in ``resume_s``."""
        self.outbox.mute()
        self._absence.begin(self._parts.settings.resume_s)

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

    async def _run(self) -> None:
        accepted = await self._enter()
        ticket = self._journal.open(
            tenant=accepted.tenant,
            turn=accepted.response_id,
            owner=accepted.owner,
            sent_at=accepted.sent_at,
            held=accepted.held,
            on_news=self._on_news,
        )
        self.outbox.guard(ticket)
        production = self._production = Production(self._parts, accepted.draft, held=accepted.held)
        try:
            error = await self._generate(accepted, ticket, production)
            if self._ending is Ending.RELEASED and production.reason is FinishReason.ABORTED:
                error = TurnMovedError("This process is going away; another one goes on with the turn.")
                await self._journal.flush(ticket)
            if error is None:
                self.outbox.put(production.close())
        finally:
            await self._journal.close(ticket)  # from here on the commit is the only write
        if ticket.error is not None:
            raise ticket.error
        if error is not None:
            await self._give_up(accepted, ticket, production, error)
            raise error
        self._account.outcome = await self._record(accepted, ticket, production)

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

    def _started(self, accepted: Accepted, served: Served) -> TurnStarted:
        return TurnStarted(
            response_id=accepted.response_id,
            item_id=answer_item_id(accepted.response_id),
            conversation=accepted.shown,
            served=served,
            seed=accepted.draft.request.sampling.seed,
            prompt_tokens=accepted.draft.prompt_tokens,
            created_at=accepted.created_at,
        )

    async def _record(self, accepted: Accepted, ticket: Ticket, production: Production) -> str:
        result = production.result()
        state = _STATES.get(result.reason) or TurnState.CANCELLED
        await self._commit(self._commit_of(accepted, production, state, result), ticket)
        self.outbox.put([production.end(result, EventKind(state.value))])
        return state.value

    async def _give_up(self, accepted: Accepted, ticket: Ticket, production: Production, error: ClusterError) -> None:
        """Record that the turn failed, or leave it to another owner."""
        try:
            if isinstance(error, TurnMovedError):
                await self._release(accepted, is_queued=False)
            elif accepted.can_wait and isinstance(error, RetryLaterError):
                await self._release(accepted, is_queued=True)
            else:
                await self._record_failure(accepted, ticket, production, error)
        except ClusterError as unwritten:  # the lease runs out by itself; the caller is told what came first
            _log.warning("turn.unrecorded", turn=accepted.response_id, error=unwritten.code)

    async def _record_failure(
        self, accepted: Accepted, ticket: Ticket, production: Production, error: ClusterError
    ) -> None:
        result = production.failed(error, None).result
        assert result is not None, "the last event has a result"
        await self._commit(self._commit_of(accepted, production, TurnState.FAILED, result), ticket, patience_s=0)
        self._is_recorded = True

    async def _release(self, accepted: Accepted, *, is_queued: bool) -> None:
        tenant, turn = accepted.tenant, accepted.response_id
        reply = await self._parts.store.release(tenant, turn, owner=accepted.owner, is_queued=is_queued)
        if reply.verdict is Verdict.OK and not is_queued:
            await self._parts.due.move(tenant, turn, in_s=0)

    def _commit_of(self, accepted: Accepted, production: Production, state: TurnState, result: TurnResult) -> Commit:
        answer = answer_items(
            accepted.response_id,
            production.projection,
            list(result.ids),
            is_whole=state is TurnState.COMPLETED,
            window=accepted.draft.window,
        )
        is_kept = state is not TurnState.FAILED and (answer or state is not TurnState.CANCELLED)
        ids = production.projection.ids
        return Commit(
            tenant=accepted.tenant,
            turn=accepted.response_id,
            conversation=accepted.conversation,
            owner=accepted.owner,
            state=state,
            base_version=accepted.base_version,
            items=[*accepted.items, *answer] if is_kept else [],
            ids=ids,
            finish=result.reason.value,
            usage=_usage(result),
            hint=production.hint(),
            line=accepted.line,
            logprobs=production.logprobs[: len(ids)],
            error_code=result.error_code,
            error_message=result.error_message,
        )

    async def _commit(self, commit: Commit, ticket: Ticket, patience_s: float | None = None) -> None:
        settings = self._parts.settings.journal
        until = self._parts.clock() + (settings.away_s if patience_s is None else patience_s)
        while True:
            try:
                reply = await self._parts.store.commit(commit)
            except StoreUnavailableError as error:
                if self._parts.clock() >= until:
                    ticket.fail(error)
                    raise
                await asyncio.sleep(settings.retry_s)
            else:
                _settle(reply, ticket)
                with contextlib.suppress(StoreUnavailableError):  # who looks finds an ended turn
                    await self._parts.due.remove(commit.tenant, commit.turn)
                return

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


def _settle(reply: Reply, ticket: Ticket) -> None:
    if reply.verdict in {Verdict.OK, Verdict.DONE}:
        ticket.release()
        return
    error: ClusterError = TurnLostError("The record of this turn is gone.")
    if reply.verdict is Verdict.LOST:
        error = TurnMovedError("Another process has taken this turn over.")
    ticket.fail(error)
    raise error


def _usage(result: TurnResult) -> dict[str, int]:
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
