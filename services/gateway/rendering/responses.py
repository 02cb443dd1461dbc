"""Turns as responses and their typed events.

Each event keeps its turn's number and checksum (``id: <seq>.<crc>``), so a stream can be checked and resumed. Whether
the message is complete is known only from the turn's last event; the item's end is held back until then. A delta
carries the log probabilities that came with it, each later event those of the whole text.
"""

from __future__ import annotations

from services.gateway.problems import Problem, problem_of_code
from services.gateway.schemas.response import (
    ConversationOfResponse,
    DrawnToken,
    ErrorEvent,
    ErrorName,
    IncompleteDetails,
    ItemEvent,
    ItemStatus,
    OutputMessage,
    OutputText,
    PartEvent,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    Status,
    StreamEvent,
    TextDeltaEvent,
    TextDoneEvent,
    TextSettings,
)
from services.gateway.schemas.responses import ResponseRequest
from services.gateway.sse import frame
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted
from services.turns.sampling import DEFAULTS

_ENDS: dict[EventKind, tuple[str, Status]] = {
    EventKind.COMPLETED: ("response.completed", "completed"),
    EventKind.INCOMPLETE: ("response.incomplete", "incomplete"),
    EventKind.FAILED: ("response.failed", "failed"),
    EventKind.CANCELLED: ("response.incomplete", "cancelled"),  # OpenAI's streams have no event of that name
}


class ResponseRendering:
    """One response. ``response_id`` is the stored turn's id, or a random one."""

    def __init__(self, started: TurnStarted, *, response_id: str, request: ResponseRequest) -> None:
        self._item_id = started.item_id
        self._begun = _begun(started, response_id, request)
        self._held: TurnEvent | None = None
        self._next_seq = 0
        self._logprobs: list[DrawnToken] = []  # of the answer so far

    def frames(self, event: TurnEvent) -> bytes:
        """See Rendering."""
        self._next_seq = event.seq + 1
        new = [DrawnToken.of(entry) for entry in event.logprobs]
        self._logprobs += new
        if event.kind is EventKind.ITEM_DONE:
            self._held = event
            return b""
        if event.kind in _ENDS:
            return self._end(event)
        return _framed(event, self._shape(event, new))

    def broken(self, problem: Problem) -> bytes:
        """See Rendering."""
        event = ErrorEvent(sequence_number=self._next_seq, code=problem.code, message=problem.message)
        return frame(event.json_bytes(), event=event.type)

    def whole(self, event: TurnEvent, result: TurnResult) -> bytes:
        """See Rendering."""
        self._logprobs = [DrawnToken.of(entry) for entry in result.logprobs]
        return self._ended(event.kind, result).json_bytes()

    def _shape(self, event: TurnEvent, new: list[DrawnToken]) -> StreamEvent:
        seq, item_id = event.seq, self._item_id
        match event.kind:
            case EventKind.TEXT_DELTA:
                name = "response.output_text.delta"
                return TextDeltaEvent(
                    type=name, sequence_number=seq, item_id=item_id, delta=event.text, logprobs=tuple(new)
                )
            case EventKind.ITEM_ADDED:
                item = OutputMessage(id=item_id, status="in_progress", content=[])
                return ItemEvent(type="response.output_item.added", sequence_number=seq, item=item)
            case EventKind.PART_ADDED:
                return self._part("response.content_part.added", event)
            case EventKind.TEXT_DONE:
                name = "response.output_text.done"
                return TextDoneEvent(
                    type=name, sequence_number=seq, item_id=item_id, text=event.text, logprobs=tuple(self._logprobs)
                )
            case EventKind.PART_DONE:
                return self._part("response.content_part.done", event)
            case _:
                return ResponseEvent(type=f"response.{event.kind}", sequence_number=seq, response=self._begun)

    def _part(self, name: str, event: TurnEvent) -> PartEvent:
        return PartEvent(type=name, sequence_number=event.seq, item_id=self._item_id, part=self._text(event.text))

    def _text(self, text: str) -> OutputText:
        return OutputText(text=text, logprobs=tuple(self._logprobs))

    def _end(self, event: TurnEvent) -> bytes:
        assert event.result is not None
        name, _ = _ENDS[event.kind]
        response = self._ended(event.kind, event.result)
        last = _framed(event, ResponseEvent(type=name, sequence_number=event.seq, response=response))
        return self._item_done(event.kind) + last

    def _item_done(self, end: EventKind) -> bytes:
        if self._held is None:
            return b""
        item = self._message(self._held.text, end)
        done = ItemEvent(type="response.output_item.done", sequence_number=self._held.seq, item=item)
        return _framed(self._held, done)

    def _message(self, text: str, end: EventKind) -> OutputMessage:
        status: ItemStatus = "completed" if end is EventKind.COMPLETED else "incomplete"
        return OutputMessage(id=self._item_id, status=status, content=[self._text(text)])

    def _ended(self, end: EventKind, result: TurnResult) -> Response:
        return self._begun.model_copy(
            update={
                "status": _ENDS[end][1],
                "output": () if end is EventKind.FAILED else (self._message(result.text, end),),
                "usage": ResponseUsage.of(result.usage),
                "error": _error(result) if end is EventKind.FAILED else None,
                "incomplete_details": IncompleteDetails() if end is EventKind.INCOMPLETE else None,
            }
        )


def _framed(event: TurnEvent, shape: StreamEvent) -> bytes:
    return frame(shape.json_bytes(), event=shape.type, event_id=f"{event.seq}.{event.crc:08x}")


def _error(result: TurnResult) -> ResponseError:
    problem = problem_of_code(result.error_code, result.error_message)
    code: ErrorName = "rate_limit_exceeded" if problem.status == 429 else "server_error"
    return ResponseError(code=code, message=problem.message, type=problem.code)


def _begun(started: TurnStarted, response_id: str, request: ResponseRequest) -> Response:
    conversation = request.conversation_id
    return Response(
        id=response_id,
        created_at=started.created_at,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=dict(request.metadata or {}),
        model=request.model,
        conversation=None if conversation is None else ConversationOfResponse(id=conversation),
        prompt_cache_key=request.prompt_cache_key,
        service_tier="flex" if request.service_tier == "flex" else "default",
        store=request.is_stored,
        temperature=DEFAULTS.temperature if request.temperature is None else request.temperature,
        top_p=DEFAULTS.top_p if request.top_p is None else request.top_p,
        text=TextSettings(format=request.text_format),
        top_logprobs=request.top_logprobs or 0,
        truncation=request.truncates.value,
        user=request.user,
    )
