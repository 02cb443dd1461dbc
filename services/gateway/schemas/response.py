"""What ``POST /v1/responses`` answers: the response, its one message, and the typed events of its stream."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from cluster.protocol import Usage
from services.conversations.records import TurnRequest
from services.gateway.schemas.base import Shape
from services.gateway.schemas.erased import ErasedPages
from services.turns.events import TokenLogprob
from services.turns.sampling import DEFAULTS

ItemStatus = Literal["in_progress", "completed", "incomplete"]
_IN_RECORD: Final = {"instructions", "metadata", "model"}
ErrorName = Literal["server_error", "rate_limit_exceeded"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputTokensDetails(Shape):
    """``cached_tokens``: prompt tokens whose keys and values were found in the cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Shape):
    """ChatGLM3 does not reason apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Shape):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ResponseUsage:
        """From the turn's counts."""
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.output_tokens,
            total_tokens=usage.prompt_tokens + usage.output_tokens,
        )


class BestToken(Shape):
    """A token and the natural logarithm of its probability. ``bytes`` is empty where it shows nothing."""

    token: str
    bytes: list[int]
    logprob: float


class DrawnToken(BestToken):
    """A token of the answer, and the best ones in its place."""

    top_logprobs: list[BestToken]

    @classmethod
    def of(cls, entry: TokenLogprob) -> DrawnToken:
        """From the turn's entry."""
        return cls(**_token(entry), top_logprobs=[BestToken(**_token(one)) for one in entry.top])


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "bytes": list(entry.data or b""), "logprob": entry.logprob}


class OutputText(Shape):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[DrawnToken, ...] = ()


class OutputMessage(Shape):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ResponseError(Shape):
    """Why a response failed. ``code`` is OpenAI's closed list; ``type`` is our own stable code."""

    code: ErrorName = "server_error"
    message: str
    type: str


class IncompleteDetails(Shape):
    """Why a response stopped before its end; None: its process did."""

    reason: Literal["max_output_tokens"] | None


class ConversationOfResponse(Shape):
    """The conversation a response belongs to."""

    id: str


class TextSettings(Shape):
    """How the text is made: ``format`` as it was asked for."""

    format: dict[str, Any]


class ResponseView(Shape):
    """What a response repeats of its request. Temperature and top_p are those used, the defaults filled in."""

    background: bool = False
    instructions: str | None
    max_output_tokens: int | None = None
    metadata: dict[str, str]
    model: str
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: ConversationOfResponse | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["default", "flex"] = "default"
    store: bool = True
    temperature: float = DEFAULTS.temperature
    text: TextSettings = TextSettings(format={"type": "text"})
    tool_choice: Literal["auto"] = "auto"
    tools: tuple[()] = ()
    top_logprobs: int = 0
    top_p: float = DEFAULTS.top_p
    truncation: Literal["auto", "disabled"] = "disabled"
    user: str | None = None

    def to_record(self) -> bytes:
        """What a stored turn's record keeps of it, beside what is there in any case; JSON."""
        return self.model_dump_json(exclude_defaults=True, exclude=_IN_RECORD).encode()

    @classmethod
    def of_record(cls, request: TurnRequest) -> ResponseView:
        """The view as it was recorded."""
        own = {"instructions": request.instructions, "metadata": request.metadata, "model": request.model}
        return cls.model_validate(msgspec.json.decode(request.view or b"{}") | own)


class Response(ResponseView):
    """A response."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    output: tuple[OutputMessage, ...] = ()
    usage: ResponseUsage | None = None


class ResponseDeleted(Shape):
    """A response that is gone. ``erased`` speaks of all that it shares a beginning with."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
    erased: ErasedPages


class StreamEvent(Shape):
    """An event of the stream; ``sequence_number`` is the turn's own event number."""

    type: str
    sequence_number: int


class ResponseEvent(StreamEvent):
    """created, queued, in_progress, completed, incomplete, failed: the response as it is now."""

    response: Response


class ItemEvent(StreamEvent):
    """output_item.added and .done."""

    output_index: int = 0
    item: OutputMessage


class PartEvent(StreamEvent):
    """content_part.added and .done."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: OutputText


class TextDeltaEvent(StreamEvent):
    """output_text.delta."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    delta: str
    logprobs: tuple[DrawnToken, ...] = ()


class TextDoneEvent(StreamEvent):
    """output_text.done."""

    item_id: str
    output_index: int = 0
    content_index: int = 0
    text: str
    logprobs: tuple[DrawnToken, ...] = ()


class ErrorEvent(StreamEvent):
    """The stream broke for a reason that is no part of the turn."""

    type: Literal["error"] = "error"
    code: str | None
    message: str
    param: str | None = None
