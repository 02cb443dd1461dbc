"""Turns as chat completions.

A stream is: a chunk with the role, one chunk per delta, two with the call where there is one, one with the finish
reason, one with usage if asked for, ``[DONE]``. A failed one ends with an error instead, and without ``[DONE]``. A
call's arguments come in one piece: what the model writes is not JSON, and is one only once it is whole.

Several answers come mixed, and their finish reasons together at the end. Log probabilities come with the deltas; what
is left of them, in a chunk without text.
"""

from __future__ import annotations

from pydantic_core import to_json

from cluster.protocol import FinishReason
from cluster.tokenizer.tool_calls import ToolCall, arguments_json
from services.gateway.deps import ModelInfo
from services.gateway.problems import Problem, problem_of_code
from services.gateway.schemas.chat_completion import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionChunkWithUsage,
    ChoiceLogprobs,
    ChunkChoice,
    ChunkDelta,
    CompletionChoice,
    CompletionFunction,
    CompletionMessage,
    CompletionToolCall,
    CompletionUsage,
    FinishName,
    FunctionDelta,
    ToolCallDelta,
)
from services.gateway.sse import DONE, frame
from services.json_line import one_line
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted

_NO_TEXT = b'"content":""'


class ChatRendering:
    """One chat completion. ``completion_id`` and ``call_id`` are random: nothing is stored under them.

    Args:
        started: the turn.
        completion_id: of the completion.
        call_id: of its tool call; those of further answers are made from it.
        model: that answers.
        include_usage: whether the stream ends with usage.
        choices: how many answers there are.
        logprobs: whether the answers' log probabilities were asked for.
    """

    def __init__(
        self,
        started: TurnStarted,
        *,
        completion_id: str,
        call_id: str,
        model: ModelInfo,
        include_usage: bool = False,
        choices: int = 1,
        logprobs: bool = False,
    ) -> None:
        self._created = started.created_at
        self._id = completion_id
        self._call_id = call_id
        self._model = model
        self._include_usage = include_usage
        self._logprobs = logprobs
        # Chunks with text differ in nothing else: the rest is written once, at a tenth of the cost per token.
        self._around_text = [self._chunk(ChunkDelta(content=""), i).split(_NO_TEXT) for i in range(choices)]

    def frames(self, event: TurnEvent) -> bytes:
        """See Rendering."""
        match event.kind:
            case EventKind.TEXT_DELTA | EventKind.TEXT_DONE:
                return self._text(event)
            case EventKind.CREATED:
                return self._chunk(ChunkDelta(role="assistant", content=""), event.choice)
            case EventKind.TOOL_CALL:
                assert event.call is not None
                return self._call(event.call, event.choice)
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
        choices = [self._choice(one, i) for i, one in enumerate(_answers(result))]
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model.id,
            choices=choices,
            usage=CompletionUsage.of(result.usage),
            system_fingerprint=self._model.fingerprint,
        ).json_bytes()

    def _choice(self, result: TurnResult, index: int) -> CompletionChoice:
        return CompletionChoice(
            index=index,
            message=self._message(result, index),
            logprobs=ChoiceLogprobs.of(result.logprobs) if self._logprobs else None,
            finish_reason=_finish(result),
        )

    def _message(self, result: TurnResult, index: int) -> CompletionMessage:
        if result.call is None:
            return CompletionMessage(content=result.text)
        function = CompletionFunction(name=result.call.name, arguments=arguments_json(result.call.arguments))
        calls = [CompletionToolCall(id=self._id_of_call(index), function=function)]
        return CompletionMessage(content=result.text or None, tool_calls=calls)

    def _id_of_call(self, index: int) -> str:
        return f"{self._call_id}_{index}" if index else self._call_id

    def _call(self, call: ToolCall, index: int) -> bytes:
        named = FunctionDelta(name=call.name, arguments="")
        filled = FunctionDelta(arguments=arguments_json(call.arguments))
        first = ToolCallDelta(id=self._id_of_call(index), type="function", function=named)
        pieces = first, ToolCallDelta(function=filled)
        return b"".join(self._chunk(ChunkDelta(tool_calls=[piece]), index) for piece in pieces)

    def _text(self, event: TurnEvent) -> bytes:
        """A delta; or what was left over when the text was done, whose whole is known already."""
        is_delta = event.kind is EventKind.TEXT_DELTA
        if event.logprobs:
            delta = ChunkDelta(content=event.text if is_delta else "")
            return self._chunk(delta, event.choice, logprobs=ChoiceLogprobs.of(event.logprobs))
        if not is_delta:
            return b""
        before, after = self._around_text[event.choice]
        return before + b'"content":' + one_line(to_json(event.text)) + after

    def _end(self, result: TurnResult) -> bytes:
        last = b"".join(self._chunk(ChunkDelta(), i, finish=_finish(one)) for i, one in enumerate(_answers(result)))
        if self._include_usage:
            last += frame(self._with_usage([], CompletionUsage.of(result.usage)).json_bytes())
        return last + DONE

    def _chunk(
        self,
        delta: ChunkDelta,
        index: int = 0,
        *,
        finish: FinishName | None = None,
        logprobs: ChoiceLogprobs | None = None,
    ) -> bytes:
        choices = [ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)]
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


def _answers(result: TurnResult) -> tuple[TurnResult, ...]:
    return result.choices or (result,)


def _finish(result: TurnResult) -> FinishName:
    if result.call:  # a whole call is one, even where the limit came in the place of its stop id
        return "tool_calls"
    return "length" if result.reason is FinishReason.LENGTH else "stop"
