"""Turns as the gateway runs them: ``chat`` for histories that come with the request, ``respond`` for stored ones.

Both are async generators: ``TurnStarted``, then the numbered events; so is ``read``, for a turn that any process runs.
What goes wrong before ``TurnStarted`` is raised as one of our errors, so that it can become an HTTP status; what goes
wrong later is the last event. Closing the generator of a stateless turn ends it; a stored one goes on for a while.

Budget of the token path, from the backend's event to the caller's: 15 µs a token at one id a frame. Measured
(``tests/benchmarks/bench_turns.py``, one core): 6 µs for ``chat``, 10 for ``respond``; 3.5 and 5.5 at eight a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from cluster.errors import ClusterError, QueueFullError, StoreUnavailableError
from services.conversations.records import TurnRecord, TurnState
from services.turns.acceptance import accept
from services.turns.accepted import Accepted, TurnExistsError
from services.turns.adoption import job_cost
from services.turns.carrying import Carried, carry_out, give_up
from services.turns.events import ChatTurn, Cursor, StoredTurn, TurnEvent, TurnStarted
from services.turns.journal import Journal
from services.turns.naming import name_turn
from services.turns.owner import Ending, TurnOwner
from services.turns.parts import TurnParts
from services.turns.reading import Reading
from services.turns.stateless import StatelessTurn
from services.turns.tails import Tails

_STOP_S = 5.0
_CANCEL_S = 3.0  # how long a cancel waits for the turn's owner to end it
_CANCEL_LOOK_S = 0.1
_QUEUED_S = 3_600.0  # a turn in the queue is looked at again after this long


class TurnService:
    """Runs turns. ``start`` before the first, ``stop`` after the last.

    Args:
        parts: the seams and values of all turns.

    Attributes:
        metrics: what this service's turns add up to.
    """

    def __init__(self, parts: TurnParts) -> None:
        self.metrics = parts.metrics
        self._parts = parts
        self._journal = Journal(parts.store, parts.settings.journal, parts.clock)
        self._tails = Tails(parts.store, parts.settings, parts.clock)
        self._owners: dict[asyncio.Task[None], TurnOwner] = {}
        self._is_leaving = False

    async def start(self) -> None:
        """Begin to keep journals, and to read those of others."""
        await self._journal.start()
        await self._tails.start()

    async def stop(self) -> None:
        """Leave the stored turns still running to others, then stop."""
        await self.leave()
        await self._tails.stop()
        await self._journal.stop()

    async def leave(self) -> None:
        """Give up the stored turns that run here, and those that still come: others go on with them at once."""
        self._is_leaving = True
        tasks = set(self._owners)
        for owner in self._owners.values():
            owner.end(Ending.RELEASED)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for task in late:  # a store that is away; their leases run out by themselves
                task.cancel()
            await asyncio.wait(tasks)

    async def chat(self, turn: ChatTurn) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """Answer a stateless turn. Closing the generator aborts the generation at once.

        Raises:
            InvalidRequestError, ContextLengthExceededError: the request cannot be served.
            OverloadedError, NoReplicaError: nobody took the turn.
        """
        stateless = StatelessTurn(self._parts, turn)
        async with aclosing(stateless.events()) as events, aclosing(_told(events, stateless.failed)) as told:
            async for event in told:
                yield event

    async def respond(self, turn: StoredTurn) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """Answer a stored turn; its last event comes once it is recorded. One that was asked for before is read.

        Closing the generator leaves the turn: it goes on for the tenant's ``resume_s`` (without one the settings'), in
        which ``read`` finds it, and is then cancelled with what was said.

        Raises:
            InvalidRequestError, ContextLengthExceededError: the request cannot be served; nothing was written.
            NotFoundError: no such conversation; or its key's turn was erased.
            PreviousResponseError: no such earlier answer.
            ConversationBusyError: another turn of the conversation is running.
            IdempotencyMismatchError: its key was used for another request.
            StoreUnavailableError: the store does not answer.
            OverloadedError, NoReplicaError: nobody took the turn.
        """
        response_id, is_known = await name_turn(self._parts.store, turn)
        if not is_known:
            try:
                async with aclosing(self._answer(turn, response_id)) as events:
                    async for event in events:
                        yield event
            except TurnExistsError:
                pass
            else:
                return
        async with aclosing(self.read(turn.tenant, response_id)) as events:
            async for event in events:
                yield event

    async def enqueue(self, turn: StoredTurn) -> str:
        """Accept a turn that nobody waits for; its id. A dispatcher carries it out.

        Raises:
            QueueFullError: the tenant has too many such turns.
            ClusterError: as ``respond``.
        """
        response_id, is_known = await name_turn(self._parts.store, turn)
        if is_known:
            return response_id
        await self._parts.queue.check_room(turn.tenant, max_queued=turn.share.max_queued)
        with contextlib.suppress(TurnExistsError):
            accepted = await accept(self._parts, turn, response_id)
            await self._publish(accepted, turn.share.max_queued)
        return response_id

    async def read(
        self, tenant: str, response_id: str, cursor: Cursor | None = None
    ) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """The events of a stored turn, while it runs and after; all of them, also those that the cursor's reader has.

        Raises:
            NotFoundError: no such turn.
            CursorPastEndError: the turn has no later event.
            StreamDivergedError: its answer is not the one that the cursor speaks of.
            StoreUnavailableError: the store does not answer.
        """
        record = await self._parts.store.turn(tenant, response_id)
        self.metrics.resumes += cursor is not None
        reading = Reading(self._parts, self._tails, tenant, record, cursor)
        async with aclosing(reading.events()) as events, aclosing(_told(events, reading.failed)) as told:
            async for event in told:
                yield event

    async def cancel(self, tenant: str, response_id: str) -> TurnRecord:
        """Ask to end a turn, and wait for a moment; its record as it is then.

        Raises:
            NotFoundError: no such turn.
            StoreUnavailableError: the store does not answer.
        """
        state = await self._parts.store.cancel(tenant, response_id)
        if state is TurnState.QUEUED:  # it waits with a part of its answer, which its next owner is to record
            await self.carry_out(tenant, response_id)
        until = self._parts.clock() + _CANCEL_S
        record = await self._parts.store.turn(tenant, response_id)
        while record.state.is_open and self._parts.clock() < until:
            await asyncio.sleep(_CANCEL_LOOK_S)
            record = await self._parts.store.turn(tenant, response_id)
        return record

    async def carry_out(self, tenant: str, response_id: str) -> Carried:
        """Take a turn over that waits, or whose owner has died, and bring it to its end.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        return await carry_out(self._parts, tenant, response_id, self._run)

    async def give_up(self, tenant: str, response_id: str, carried: Carried) -> None:
        """End a turn that found no room for too long; ``carried`` says what it met last.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        await give_up(self._parts, tenant, response_id, carried)

    async def _answer(self, turn: StoredTurn, response_id: str) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        given = turn.share.resume_s
        resume_s = self._parts.settings.resume_s if given is None else given
        owner, task = self._own(lambda: accept(self._parts, turn, response_id))
        try:
            async with aclosing(_told(owner.outbox, owner.failed)) as told:
                async for event in told:
                    yield event
        finally:
            owner.leave(resume_s)  # without effect when the turn is over
            if not resume_s:
                await asyncio.wait({task}, timeout=self._parts.settings.leave_s)

    async def _publish(self, accepted: Accepted, max_queued: int | None) -> None:
        """Put an accepted turn into the queue. Where that fails, whoever looks at it next does."""
        tenant, turn = accepted.tenant, accepted.response_id
        request = accepted.draft.request
        cost = job_cost(len(request.prompt_ids), request.sampling)
        with contextlib.suppress(QueueFullError, StoreUnavailableError):
            await self._parts.queue.publish(tenant, turn, weight=request.weight, cost=cost, max_queued=max_queued)
            await self._parts.due.move(tenant, turn, in_s=_QUEUED_S)

    async def _run(self, accepted: Accepted) -> ClusterError | None:
        """Own a turn that was claimed, to its end; the error that it ended in."""

        async def enter() -> Accepted:
            return accepted

        owner, task = self._own(enter, is_read=False)
        await asyncio.wait({task})
        return owner.error

    def _own(
        self, enter: Callable[[], Awaitable[Accepted]], *, is_read: bool = True
    ) -> tuple[TurnOwner, asyncio.Task[None]]:
        owner = TurnOwner(self._parts, self._journal, enter, is_read=is_read)
        if self._is_leaving:
            owner.end(Ending.RELEASED)
        task = asyncio.create_task(owner.run(), name="turn-owner")
        self._owners[task] = owner
        task.add_done_callback(self._owners.pop)
        return owner, task


async def _told(
    events: AsyncIterator[TurnStarted | TurnEvent], failed: Callable[[ClusterError, TurnEvent | None], TurnEvent]
) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
    """The events; an error among them is raised before the first one and becomes the last one after it."""
    is_started, last = False, None
    try:
        async for event in events:
            yield event
            is_started = True
            last = event if isinstance(event, TurnEvent) else None
    except ClusterError as error:
        if not is_started:
            raise
        yield failed(error, last)
