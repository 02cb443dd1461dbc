"""An engine in this very process as a backend: for tests, notebooks and one-process serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from cluster.engine.client import EngineClient, StepOutput
from cluster.errors import NoReplicaError
from cluster.protocol import Event, Finish, GenerateRequest, Label, Served, Tokens
from cluster.replica.forgetting import FORGET_S, total
from services.backend.base import Erased


class LocalBackend:
    """Generates on one engine; it is always rank 0."""

    def __init__(self, engine: EngineClient, *, incarnation: str = "local") -> None:
        self._engine = engine
        self._served = Served(rank=0, incarnation=incarnation, why="pinned")
        self._mailboxes: dict[int, asyncio.Queue[Tokens | Finish]] = {}

    async def start(self) -> None:
        """Start the engine."""
        await self._engine.start(self._deliver)

    async def stop(self) -> None:
        """Stop the engine."""
        await self._engine.stop()

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See ``Backend.stream``."""
        mailbox: asyncio.Queue[Tokens | Finish] = asyncio.Queue()
        self._mailboxes[request.attempt] = mailbox
        is_done = False
        try:
            await self._engine.submit(request)
            yield self._served
            while not is_done:
                event = await mailbox.get()
                is_done = isinstance(event, Finish)
                yield event
        finally:
            del self._mailboxes[request.attempt]
            if not is_done:
                await self._engine.abort(request.attempt)

    async def forget(self, labels: Sequence[Label]) -> Erased:
        """See ``Backend.forget``. An engine that has ended has nothing left to forget."""
        name = frozenset({self._served.incarnation})
        try:
            async with asyncio.timeout(FORGET_S):
                forgotten = total([await self._engine.forget(label) for label in labels])
        except TimeoutError:
            return Erased(missed=name)
        except NoReplicaError:
            return Erased()
        return Erased(forgotten.dropped, forgotten.held, reached=name)

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        for attempt, output in outputs:
            if attempt in self._mailboxes:
                self._mailboxes[attempt].put_nowait(output)
