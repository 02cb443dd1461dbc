"""Turns as the gateway runs them: ``chat`` for histories that come with the request, ``respond`` for stored ones.

Both are async generators: ``TurnStarted``, then the numbered events. What goes wrong before ``TurnStarted`` is raised
as one of our errors, so that it can become an HTTP status; what goes wrong later is the last event. Closing the
generator ends the turn: a stateless one is gone at once, a stored one is committed as cancelled.

Budget of the token path, from the backend's event to the caller's: 15 µs a token at one id a frame. Measured
(``tests/benchmarks/bench_turns.py``, one core): 4 µs for ``chat``, 9 for ``respond``; 2.5 and 4 at eight ids a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from cluster.errors import ClusterError
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.base import Backend
from services.conversations.store import ConversationStore, IdIndex
from services.turns.events import ChatTurn, StoredTurn, TurnEvent, TurnStarted
from services.turns.journal import Journal
from services.turns.metrics import TurnMetrics
from services.turns.owner import Ending, TurnOwner
from services.turns.parts import TurnParts
from services.turns.settings import ServedModel, TurnSettings
from services.turns.stateless import StatelessTurn

_STOP_S = 5.0


class TurnService:
    """Runs turns. ``start`` before the first, ``stop`` after the last.

    Args:
        backend: computes.
        store: keeps conversations and turn records.
        index: keeps sampled ids of stateless answers.
        tokenizer: of the served model.
        model: its name, context and fingerprint.
        settings: limits and times.

    Attributes:
        metrics: what this service's turns add up to.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        store: ConversationStore,
        index: IdIndex,
        tokenizer: ChatGLM3Tokenizer,
        model: ServedModel,
        settings: TurnSettings | None = None,
    ) -> None:
        self.metrics = TurnMetrics()
        self._parts = TurnParts(
            backend=backend,
            store=store,
            index=index,
            tokenizer=tokenizer,
            model=model,
            settings=settings or TurnSettings(),
            metrics=self.metrics,
        )
        self._journal = Journal(store, self._parts.settings.journal, self._parts.clock)
        self._owners: dict[asyncio.Task[None], TurnOwner] = {}

    async def start(self) -> None:
        """Begin to keep journals."""
        await self._journal.start()

    async def stop(self) -> None:
        """End the stored turns still running, commit what they have as ``incomplete``, and stop keeping journals."""
        tasks = set(self._owners)
        for owner in self._owners.values():
            owner.end(Ending.STOPPED)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for task in late:  # a store that is away; their leases run out by themselves
                task.cancel()
            await asyncio.wait(tasks)
        await self._journal.stop()

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
        """Answer a turn of a stored conversation; its last event comes once it is recorded.

        Closing the generator ends the turn, which is then committed as ``cancelled`` with what was said.

        Raises:
            InvalidRequestError, ContextLengthExceededError: the request cannot be served; nothing was written.
            NotFoundError: no such conversation.
            ConversationBusyError: another turn of it is running.
            StoreUnavailableError: the store does not answer.
            OverloadedError, NoReplicaError: nobody took the turn.
        """
        owner, task = self._own(turn)
        try:
            async with aclosing(_told(owner.outbox, owner.failed)) as told:
                async for event in told:
                    yield event
        finally:
            owner.end(Ending.CANCELLED)  # too late, and without effect, when the turn is over
            await asyncio.wait({task}, timeout=self._parts.settings.leave_s)

    def _own(self, turn: StoredTurn) -> tuple[TurnOwner, asyncio.Task[None]]:
        owner = TurnOwner(self._parts, self._journal, turn)
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
