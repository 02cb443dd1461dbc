"""One answer over as many attempts as it takes.

A replica that is lost in mid-answer costs a pause, not the answer: the next attempt is given all ids held, as output,
and the same seed, so it goes on at the same index with the same draws. Before the first ``Served`` a refusal is the
caller's to hear (429 or 503); after it, only the loss of the last move is.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
import structlog

from cluster.errors import (
    ChannelError,
    DeadlineExceededError,
    GenerationFailedError,
    NoReplicaError,
    OverloadedError,
    RetryLaterError,
    TurnError,
)
from cluster.protocol import Event, Finish, FinishReason, GenerateRequest, Served, Tokens, Usage
from services.backend.base import Backend
from services.turns.settings import TurnSettings

_log = structlog.get_logger(__name__)

_ATTEMPT_BITS = 64


class Attempts:
    """The attempts of one turn. ``stream`` once.

    Args:
        backend: computes.
        request: the first attempt; later ones copy it. Its ``attempt`` and ``deadline_s`` are set here.
        settings: limits.
        clock: monotonic seconds.
        moves: attempts that earlier owners of the turn lost.

    Attributes:
        ids: all ids of the answer so far.
        served: who served the last attempt, once one was.
        cached_tokens: prompt tokens that the first attempt found in a cache.
        moves: attempts that were lost.
    """

    def __init__(
        self,
        backend: Backend,
        request: GenerateRequest,
        settings: TurnSettings,
        clock: Callable[[], float] = time.monotonic,
        *,
        moves: int = 0,
    ) -> None:
        self.ids: list[int] = list(request.output_ids)
        self.served: Served | None = None
        self.cached_tokens: int | None = None
        self.moves = moves
        self._backend = backend
        self._request = request
        self._settings = settings
        self._clock = clock
        self._deadline = clock() + settings.deadline_s
        self._avoid = request.avoid
        self._busy: dict[str, OverloadedError] = {}  # what each replica without room has said

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield a ``Served`` per attempt that was accepted, ``Tokens`` without gaps, one ``Finish`` (STOP or LENGTH).

        Closing it aborts the attempt under way at once.

        Raises:
            OverloadedError, NoReplicaError: nobody took the turn; nothing was yielded.
            ContextLengthExceededError: a replica found it too long.
            GenerationFailedError: the engine gave the sequence up.
            DeadlineExceededError: the turn took longer than it may.
            TurnError: every attempt was lost.
        """
        while True:
            try:
                async with aclosing(self._attempt()) as events:
                    async for event in events:
                        yield event
            except (ChannelError, RetryLaterError) as lost:
                await self._move(lost)
            else:
                return

    async def _attempt(self) -> AsyncGenerator[Event, None]:
        if len(self.ids) >= self._request.sampling.max_new_tokens:  # lost between its last id and its finish
            yield Finish(reason=FinishReason.LENGTH, total=len(self.ids), usage=self._usage())
            return
        async with aclosing(self._backend.stream(self._next_request())) as events:
            async for event in events:
                self._take(event)
                yield event
                if isinstance(event, Finish):
                    return
        raise ChannelError("The attempt ended without a finish.")

    def _next_request(self) -> GenerateRequest:
        return msgspec.structs.replace(
            self._request,
            attempt=secrets.randbits(_ATTEMPT_BITS),
            output_ids=list(self.ids),
            avoid=self._avoid,
            busy=tuple(self._busy),
            hint=self._request.hint if not self.moves else None,
            deadline_s=self._left_s(),
        )

    def _take(self, event: Event) -> None:
        if isinstance(event, Tokens):
            self._take_tokens(event)
        elif isinstance(event, Finish):
            self._take_finish(event)
        else:
            self.served = event

    def _take_tokens(self, tokens: Tokens) -> None:
        if tokens.start != len(self.ids):
            raise ChannelError(f"Ids from {tokens.start} came where {len(self.ids)} was next.")
        if self._request.sampling.logprobs is not None and len(tokens.logprobs or ()) != len(tokens.ids):
            raise ChannelError(f"Ids from {tokens.start} came without their log probabilities.")
        if self.cached_tokens is None:
            self.cached_tokens = tokens.cached_tokens
        self.ids += tokens.ids
        self._left_s()

    def _take_finish(self, finish: Finish) -> None:
        if finish.reason is FinishReason.FAILED:
            raise GenerationFailedError(finish.error or "The engine could not go on with this answer.")
        if finish.reason not in {FinishReason.STOP, FinishReason.LENGTH}:
            raise ChannelError(f"The replica ended the attempt: {finish.reason}.")
        if finish.total != len(self.ids):
            raise ChannelError(f"The replica finished at {finish.total} ids; {len(self.ids)} came.")
        if self.cached_tokens is None:
            self.cached_tokens = finish.usage.cached_tokens

    async def _move(self, lost: ChannelError | RetryLaterError) -> None:
        """Prepare the next attempt, or raise what there is to say when there is none."""
        if isinstance(lost, RetryLaterError) and self.served is None:
            self._ask_another(lost)
        elif isinstance(lost, NoReplicaError) and self._avoid != self._request.avoid:
            self._avoid = self._request.avoid  # nobody else is left, but one that was lost may be back
        elif self.moves >= self._settings.max_moves:
            raise self._given_up() from lost
        else:
            await self._go_elsewhere(lost)

    async def _go_elsewhere(self, lost: ChannelError | RetryLaterError) -> None:
        self.moves += 1
        _log.info("turn.moved", request_id=self._request.request_id, moves=self.moves, error=lost.code)
        self._avoid_lost(lost)
        if isinstance(lost, RetryLaterError):
            await asyncio.sleep(min(lost.retry_after_s, self._settings.max_retry_s))

    def _ask_another(self, refused: RetryLaterError) -> None:
        """Let the next attempt go to a replica that has not refused yet, or raise the shortest wait of those asked."""
        if not isinstance(refused, OverloadedError) or not refused.refused_by:
            raise refused
        if refused.refused_by in self._busy or len(self._busy) >= self._settings.max_moves:
            raise min(self._busy.values(), key=lambda error: error.retry_after_s)
        self._busy[refused.refused_by] = refused

    def _given_up(self) -> TurnError | NoReplicaError:
        if self.served is None:
            return NoReplicaError("No replica could be reached.", retry_after_s=1.0)
        return TurnError(f"The answer was lost {self.moves + 1} times; the last replica was {self.served.rank}.")

    def _avoid_lost(self, lost: ChannelError | RetryLaterError) -> None:
        if self.served is not None and isinstance(lost, ChannelError):
            self._avoid = tuple(dict.fromkeys((*self._avoid, self.served.incarnation)))

    def _left_s(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise DeadlineExceededError(f"The answer took longer than {self._settings.deadline_s:g} seconds.")
        return left

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._request.prompt_ids),
            cached_tokens=self.cached_tokens or 0,
            output_tokens=len(self.ids),
        )
