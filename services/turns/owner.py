"""The one task that owns a stored turn, from its acceptance to its commit.

It outlives its caller: a client that leaves ends the generation, not the record. Everything that can end the turn (its
last id, an error, the client, a cancel, the lease, this process) meets in this task, so which came first is a plain
matter of order: once the generation is over, a cancel comes too late.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from enum import Enum

import structlog

from cluster.errors import ClusterError, StoreUnavailableError, TurnLostError, TurnMovedError
from cluster.protocol import FinishReason, Served
from services.conversations.records import TurnState
from services.conversations.store import Commit, Reply, Verdict
from services.turns.acceptance import Accepted, accept
from services.turns.answer import answer_item_id, answer_items
from services.turns.events import EventKind, StoredTurn, TurnEvent, TurnResult, TurnStarted
from services.turns.journal import Journal, Ticket
from services.turns.metrics import Account
from services.turns.outbox import Outbox
from services.turns.parts import TurnParts
from services.turns.production import Production

_log = structlog.get_logger(__name__)

_STATES = {FinishReason.STOP: TurnState.COMPLETED, FinishReason.LENGTH: TurnState.INCOMPLETE}


class Ending(Enum):
    """Who ended a turn before its answer was complete, and the state it gets."""

    CANCELLED = TurnState.CANCELLED  # the client left, or somebody asked
    STOPPED = TurnState.INCOMPLETE  # this process is going away


class TurnOwner:
    """Owns one stored turn. ``run`` it as a task; read ``outbox``; ``end`` it early.

    Attributes:
        outbox: ``TurnStarted``, then the numbered events; raises the error the turn ended in.
    """

    def __init__(self, parts: TurnParts, journal: Journal, turn: StoredTurn) -> None:
        self.outbox = Outbox()
        self._account = Account(parts.metrics)
        self._parts = parts
        self._journal = journal
        self._turn = turn
        self._ending: Ending | None = None
        self._pump: asyncio.Task[None] | None = None
        self._production: Production | None = None

    def end(self, ending: Ending) -> None:
        """End the generation now and commit what there is. Too late, once the generation is over."""
        if self._ending is None:
            self._ending = ending
            self._interrupt()

    def failed(self, error: ClusterError, last: TurnEvent | None) -> TurnEvent:
        """The last event of a started turn that ended in ``error``; ``last`` is the one its caller saw before."""
        assert self._production is not None, "a started turn has a production"
        return self._production.failed(error, last)

    async def run(self) -> None:
        """Own the turn. Every outcome is told through the outbox; nothing is raised but cancellation."""
        try:
            with self._account:
                await self._run()
        except ClusterError as error:
            self.outbox.close(error)
        except Exception as error:  # noqa: BLE001 - the caller hears of it; a task's own exception nobody would
            self.outbox.close(self._crash(error))
        finally:
            self.outbox.close()

    def _crash(self, error: BaseException) -> ClusterError:
        _log.error("turn.crashed", request_id=self._turn.request_id, exc_info=error)
        return ClusterError("The turn failed for a reason that nobody foresaw.")

    async def _run(self) -> None:
        accepted = await accept(self._parts, self._turn)
        ticket = self._journal.open(
            tenant=self._turn.tenant,
            turn=accepted.response_id,
            owner=accepted.owner,
            sent_at=accepted.sent_at,
            on_end=self._on_ticket_end,
        )
        self.outbox.guard(ticket)
        production = self._production = Production(self._parts, accepted.draft)
        try:
            error = await self._generate(accepted, ticket, production)
            if error is None:
                self.outbox.put(production.close())
        finally:
            await self._journal.close(ticket)  # from here on the commit is the only write
        if ticket.error is not None:
            raise ticket.error
        if error is not None:
            await self._record_failure(accepted, ticket, production, error)
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
        return error if error is None or isinstance(error, ClusterError) else self._crash(error)

    async def _fill(self, accepted: Accepted, ticket: Ticket, production: Production) -> None:
        ids = production.projection.ids
        async with aclosing(production.frames()) as frames:
            async for frame in frames:
                if isinstance(frame, Served):
                    self._account.is_started = True
                    self.outbox.put([self._started(accepted, frame)])
                else:
                    self.outbox.put(frame)
                    ticket.extend(ids[ticket.total :])

    def _started(self, accepted: Accepted, served: Served) -> TurnStarted:
        return TurnStarted(
            response_id=accepted.response_id,
            item_id=answer_item_id(accepted.response_id),
            conversation=self._turn.conversation,
            served=served,
            seed=accepted.draft.request.sampling.seed,
            prompt_tokens=accepted.draft.prompt_tokens,
            created_at=accepted.created_at,
        )

    async def _record(self, accepted: Accepted, ticket: Ticket, production: Production) -> str:
        result = production.result()
        state = _STATES.get(result.reason) or (self._ending or Ending.CANCELLED).value
        await self._commit(self._commit_of(accepted, production, state, result), ticket)
        self.outbox.put([production.end(result, EventKind(state.value))])
        return state.value

    async def _record_failure(
        self, accepted: Accepted, ticket: Ticket, production: Production, error: ClusterError
    ) -> None:
        result = production.failed(error, None).result
        assert result is not None, "the last event has a result"
        try:
            await self._commit(self._commit_of(accepted, production, TurnState.FAILED, result), ticket, patience_s=0)
        except ClusterError as unwritten:  # the lease runs out by itself; the caller is told what came first
            _log.warning("turn.unrecorded", turn=accepted.response_id, error=unwritten.code)

    def _commit_of(self, accepted: Accepted, production: Production, state: TurnState, result: TurnResult) -> Commit:
        answer = answer_items(
            accepted.response_id,
            production.projection,
            list(result.ids),
            is_whole=state is TurnState.COMPLETED,
            window=accepted.draft.window,
        )
        is_kept = state is not TurnState.FAILED and (answer or state is not TurnState.CANCELLED)
        return Commit(
            tenant=self._turn.tenant,
            turn=accepted.response_id,
            conversation=accepted.conversation,
            owner=accepted.owner,
            state=state,
            base_version=accepted.base_version,
            items=[*accepted.items, *answer] if is_kept else [],
            ids=production.projection.ids,
            finish=result.reason.value,
            usage=_usage(result),
            hint=production.hint(),
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
                return _settle(reply, ticket)

    def _on_ticket_end(self, is_cancel: bool) -> None:  # noqa: FBT001 - the journal's callback, called in one place
        if is_cancel:
            self.end(Ending.CANCELLED)
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._pump is not None:
            self._pump.cancel()


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
