"""What ``POST /v1/chat/completions`` answers: the whole completion, or chunks of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.protocol import Usage
from services.gateway.schemas.base import Shape
from services.turns.events import TokenLogprob

FinishName = Literal["stop", "length", "tool_calls"]
OmittedWhenNone = Field(exclude_if=lambda value: value is None)


class PromptTokensDetails(Shape):
    """``cached_tokens``: prompt tokens whose keys and values were found in the cache."""

    cached_tokens: int
    audio_tokens: int = 0


class CompletionTokensDetails(Shape):
    """ChatGLM3 neither reasons apart nor speaks."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0


class CompletionUsage(Shape):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()

    @classmethod
    def of(cls, usage: Usage) -> CompletionUsage:
        """From the turn's counts."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.output_tokens,
            total_tokens=usage.prompt_tokens + usage.output_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        )


class CompletionFunction(Shape):
    """What is called; ``arguments`` is a JSON object, as text."""

    name: str
    arguments: str


class CompletionToolCall(Shape):
    """A call of one of the tools that were offered."""

    id: str
    type: Literal["function"] = "function"
    function: CompletionFunction


class CompletionMessage(Shape):
    """The answer: text, a call, or a text and a call."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: Annotated[list[CompletionToolCall] | None, OmittedWhenNone] = None


class BestChoiceToken(Shape):
    """A token and the natural logarithm of its probability. ``bytes`` is null where it shows nothing."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChoiceToken(BestChoiceToken):
    """A token of the answer, and the best ones in its place."""

    top_logprobs: list[BestChoiceToken]


class ChoiceLogprobs(Shape):
    """The log probabilities of a choice's tokens."""

    content: list[ChoiceToken]
    refusal: None = None

    @classmethod
    def of(cls, entries: Iterable[TokenLogprob]) -> ChoiceLogprobs:
        """From the turn's entries."""
        return cls(content=[ChoiceToken(**_token(one), top_logprobs=[*map(_best, one.top)]) for one in entries])


def _best(entry: TokenLogprob) -> BestChoiceToken:
    return BestChoiceToken(**_token(entry))


def _token(entry: TokenLogprob) -> dict[str, Any]:
    data = None if entry.data is None else list(entry.data)
    return {"token": entry.token, "logprob": entry.logprob, "bytes": data}


class CompletionChoice(Shape):
    """One answer of ``n``."""

    index: int = 0
    message: CompletionMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishName


class ChatCompletion(Shape):
    """A whole completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    system_fingerprint: str


class FunctionDelta(Shape):
    """What is new of a call: first its name and no arguments, then the arguments."""

    name: Annotated[str | None, OmittedWhenNone] = None
    arguments: str


class ToolCallDelta(Shape):
    """A piece of the one call; ``id`` and ``type`` come with the first."""

    index: int = 0
    id: Annotated[str | None, OmittedWhenNone] = None
    type: Annotated[Literal["function"] | None, OmittedWhenNone] = None
    function: FunctionDelta


class ChunkDelta(Shape):
    """What is new since the last chunk."""

    role: Annotated[Literal["assistant"] | None, OmittedWhenNone] = None
    content: Annotated[str | None, OmittedWhenNone] = None
    tool_calls: Annotated[list[ToolCallDelta] | None, OmittedWhenNone] = None


class ChunkChoice(Shape):
    """A piece of one answer of ``n``; ``finish_reason`` is set on its last chunk."""

    index: int = 0
    delta: ChunkDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishName | None = None


class ChatCompletionChunk(Shape):
    """A piece of a streamed completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]


class ChatCompletionChunkWithUsage(ChatCompletionChunk):
    """With ``include_usage`` every chunk has the field; only the last one, without choices, fills it."""

    usage: CompletionUsage | None = None
