"""Turns as chat completions.

A stream is: a chunk with the role, one chunk per delta, one with the finish reason, one with usage if asked for,
``[DONE]``. A failed one ends with an error instead, and without ``[DONE]``.
"""

from __future__ import annotations

from cluster.protocol import FinishReason
from services.gateway.deps import ModelInfo
from services.gateway.problems import Problem, problem_of_code
from services.gateway.schemas.chat_completion import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionChunkWithUsage,
    ChunkChoice,
    ChunkDelta,
    CompletionChoice,
    CompletionMessage,
    CompletionUsage,
    FinishName,
)
from services.gateway.sse import DONE, frame
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted


class ChatRendering:
    """One chat completion. ``completion_id`` is random: nothing is stored under it."""

    def __init__(
        self, started: TurnStarted, *, completion_id: str, model: ModelInfo, include_usage: bool = False
    ) -> None:
        self._created = started.created_at
        self._id = completion_id
        self._model = model
        self._include_usage = include_usage

    def frames(self, event: TurnEvent) -> bytes:
        """See Rendering."""
        match event.kind:
            case EventKind.TEXT_DELTA:
                return self._chunk(ChunkDelta(content=event.text))
            case EventKind.CREATED:
                return self._chunk(ChunkDelta(role="assistant", content=""))
            case EventKind.FAILED:
                assert event.result is not None
                return self.broken(problem_of_code(event.result.error_code, event.result.error_message))
            case EventKind.COMPLETED | EventKind.INCOMPLETE | EventKind.CANCELLED:
                assert event.result is not None
                return self._end(event.result)
            case _:
                return b""

    def broken(self, problem: Problem) -> bytes:
        """See Rendering."""
        return frame(problem.body().json_bytes())

    def whole(self, event: TurnEvent, result: TurnResult) -> bytes:  # noqa: ARG002 - the protocol's
        """See Rendering."""
        choice = CompletionChoice(message=CompletionMessage(content=result.text), finish_reason=_finish(result))
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model.id,
            choices=[choice],
            usage=CompletionUsage.of(result.usage),
            system_fingerprint=self._model.fingerprint,
        ).json_bytes()

    def _end(self, result: TurnResult) -> bytes:
        last = self._chunk(ChunkDelta(), finish=_finish(result))
        if self._include_usage:
            last += frame(self._with_usage([], CompletionUsage.of(result.usage)).json_bytes())
        return last + DONE

    def _chunk(self, delta: ChunkDelta, *, finish: FinishName | None = None) -> bytes:
        choices = [ChunkChoice(delta=delta, finish_reason=finish)]
        chunk = self._with_usage(choices, None) if self._include_usage else self._plain(choices)
        return frame(chunk.json_bytes())

    def _plain(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model.id,
            system_fingerprint=self._model.fingerprint,
            choices=choices,
        )

    def _with_usage(self, choices: list[ChunkChoice], usage: CompletionUsage | None) -> ChatCompletionChunkWithUsage:
        return ChatCompletionChunkWithUsage(
            id=self._id,
            created=self._created,
            model=self._model.id,
            system_fingerprint=self._model.fingerprint,
            choices=choices,
            usage=usage,
        )


def _finish(result: TurnResult) -> FinishName:
    return "length" if result.reason is FinishReason.LENGTH else "stop"
