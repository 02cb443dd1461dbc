"""One answer in the making: frames from the attempts in, numbered events out.

The same for stateless and stored turns; who may see the events, and when, is decided around it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cluster.errors import ClusterError
from cluster.protocol import Event, Finish, FinishReason, Hint, Logprobs, Served, Tokens, Usage
from services.turns.accepted import NOTHING, Held
from services.turns.attempts import Attempts
from services.turns.draft import Draft
from services.turns.events import EventKind, TurnEvent, TurnResult
from services.turns.metrics import Stopwatch
from services.turns.parts import TurnParts
from services.turns.projection import Projection

Frame = Served | Sequence[TurnEvent]

_KINDS = {
    FinishReason.STOP: EventKind.COMPLETED,
    FinishReason.LENGTH: EventKind.INCOMPLETE,
    FinishReason.ABORTED: EventKind.CANCELLED,
}


class Production:
    """Generates and projects one answer.

    Args:
        parts: shared by all turns.
        draft: ready to be generated.
        choice: which of several answers to one prompt it is.
        counts_prompt: whether the prompt's tokens and its placing are counted here.
        held: what earlier owners of the turn have made of it; ``draft`` has the same ids as output.

    Attributes:
        projection: the answer's text and ids so far.
        logprobs: of those ids, where they were asked for.
        reason: why it ended; ABORTED while it has not.
        is_open: whether its opening events are out.
    """

    def __init__(
        self, parts: TurnParts, draft: Draft, choice: int = 0, *, counts_prompt: bool = True, held: Held = NOTHING
    ) -> None:
        self.projection = Projection(
            parts.tokenizer,
            draft.stop,
            draft.tools,
            choice=choice,
            logprobs=draft.request.sampling.logprobs is not None,
        )
        self.reason = FinishReason.ABORTED
        self.logprobs: list[Logprobs] = []
        self._attempts = Attempts(parts.backend, draft.request, parts.settings, parts.clock, moves=held.moves)
        self._metrics = parts.metrics
        self._stopwatch = Stopwatch(parts.metrics, parts.clock)
        self._prompt_tokens = draft.prompt_tokens
        self._counts_prompt = counts_prompt
        self.is_open = False
        if held.ids:
            self._go_on(held)

    def _go_on(self, held: Held) -> None:
        self.is_open = True
        self.projection.open()
        self._take(held.ids, held.logprobs or None)

    @property
    def moves(self) -> int:
        """How often the answer went on elsewhere."""
        return self._attempts.moves

    @property
    def served(self) -> Served | None:
        """The replica that serves the answer now; None before one does."""
        return self._attempts.served

    def hints(self) -> list[Hint | None]:
        """``hint`` of each answer, of which there is one."""
        return [self.hint()]

    def hint(self) -> Hint | None:
        """Where the KV of prompt and answer is now; None before a replica served."""
        served = self.served
        if served is None:
            return None
        tokens = self._prompt_tokens + len(self.projection.ids)
        return Hint(rank=served.rank, incarnation=served.incarnation, tokens=tokens)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Yield the first ``Served``, the opening events, then the events of each frame of ids; none when it moved.

        Closing it aborts the generation at once.

        Raises:
            ClusterError: as ``Attempts.stream``.
        """
        if self.reason is FinishReason.STOP:  # by what an earlier owner has made
            return
        try:
            async with aclosing(self._attempts.stream()) as events:
                async for event in events:
                    for frame in self._frames_of(event):
                        yield frame
                    if self.projection.is_stopped:
                        return
        finally:
            if self._counts_prompt:
                self._metrics.cached_tokens += self.usage().cached_tokens

    def _frames_of(self, event: Event) -> Sequence[Frame]:
        if isinstance(event, Tokens):
            return (self._project(event.ids, event.logprobs),)
        if isinstance(event, Finish):
            self.reason = event.reason
            return ()
        return self._open(event)

    def _project(self, ids: Sequence[int], logprobs: Sequence[Logprobs] | None) -> list[TurnEvent]:
        if ids:
            self._stopwatch.lap(len(ids))
        return self._take(ids, logprobs)

    def _take(self, ids: Sequence[int], logprobs: Sequence[Logprobs] | None) -> list[TurnEvent]:
        events = self.projection.push(ids, logprobs)
        self.logprobs += logprobs or ()
        if self.projection.is_stopped:
            self.reason = FinishReason.STOP
        return events

    def _open(self, served: Served) -> Sequence[Frame]:
        if self.is_open:  # the answer moved; its events go on
            self._metrics.moves += 1
            return ((),)
        self.is_open = True
        if self._counts_prompt:
            self._metrics.pins[served.why] += 1
            self._metrics.prompt_tokens += self._prompt_tokens
        return (served, self.projection.open())

    def close(self) -> list[TurnEvent]:
        """The events behind the last id, up to but without the last event."""
        events = self.projection.close()
        if self.projection.call:
            self._metrics.tool_calls["called"] += 1
        elif self.projection.call_error:
            self._metrics.tool_calls["malformed" if self.reason is FinishReason.STOP else "cut"] += 1
        return events

    def end(self, result: TurnResult, kind: EventKind | None = None) -> TurnEvent:
        """The last event, after ``close``; ``kind`` where it does not follow from how the generation ended."""
        return self.projection.end(kind or _KINDS[result.reason], result)

    def failed(self, error: ClusterError, last: TurnEvent | None, kind: EventKind = EventKind.FAILED) -> TurnEvent:
        """The last event of an answer that goes no further; it follows ``last``, the event seen before it."""
        result = TurnResult(FinishReason.FAILED, self.projection.text, (), self.usage(), error.code, str(error))
        return TurnEvent(last.seq + 1 if last else 0, self.projection.crc, kind, result=result)

    def result(self) -> TurnResult:
        """How the answer ended, after ``close``."""
        shown = self.projection
        ids = tuple(shown.answer_ids())
        return TurnResult(self.reason, shown.text, ids, self.usage(), call=shown.call, logprobs=shown.logprobs)

    def usage(self) -> Usage:
        """Tokens of the whole turn, over all attempts. Ids cut off by a stop string were generated, hence count."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=min(self._attempts.cached_tokens or 0, self._prompt_tokens),
            output_tokens=len(self.projection.ids),
        )
