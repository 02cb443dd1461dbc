"""Turns as responses and their typed events.

Each event keeps its turn's number and checksum (``id: <seq>.<crc>``), so a stream can be checked and resumed. Whether
the message is complete is known only from the turn's last event; the item's end is held back until then. A delta
carries the log probabilities that came with it, each later event those of the whole text.
"""

from __future__ import annotations

from cluster.protocol import FinishReason
from services.gateway.problems import Problem, problem_of_code
from services.gateway.schemas.response import (
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
    ResponseView,
    Status,
    StreamEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from services.gateway.sse import frame
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted

_ENDS: dict[EventKind, tuple[str, Status]] = {
    EventKind.COMPLETED: ("response.completed", "completed"),
    EventKind.INCOMPLETE: ("response.incomplete", "incomplete"),
    EventKind.FAILED: ("response.failed", "failed"),
    EventKind.CANCELLED: ("response.incomplete", "cancelled"),  # OpenAI's streams have no event of that name
}


class ResponseRendering:
    """One response.

    Args:
        started: the turn.
        response_id: the stored turn's id, or a random one.
        view: what is repeated of the request.
        after: number of the last event that the client has; it and those before are not written again.
    """

    def __init__(self, started: TurnStarted, *, response_id: str, view: ResponseView, after: int = -1) -> None:
        self._after = after
        self._item_id = started.item_id
        self._begun = begun(view, response_id, started.created_at)
        self._held: TurnEvent | None = None
        self._next_seq = after + 1
        self._logprobs: list[DrawnToken] = []  # of the answer so far

    def frames(self, event: TurnEvent) -> bytes:
        """See Rendering."""
        if event.kind is EventKind.BROKEN:
            assert event.result is not None
            return self.broken(problem_of_code(event.result.error_code, event.result.error_message))
        self._next_seq = max(event.seq + 1, self._next_seq)
        new = [DrawnToken.of(entry) for entry in event.logprobs]
        self._logprobs += new
        if event.kind is EventKind.ITEM_DONE:
            self._held = event
            return b""
        if event.kind in _ENDS:
            return self._end(event)
        return self._framed(event, self._shape(event, new))

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
                return self._opening(event)

    def _opening(self, event: TurnEvent) -> ResponseEvent:
        is_waiting = self._begun.background and event.kind in {EventKind.CREATED, EventKind.QUEUED}
        shown = self._begun.model_copy(update={"status": "queued"}) if is_waiting else self._begun
        return ResponseEvent(type=f"response.{event.kind}", sequence_number=event.seq, response=shown)

    def _part(self, name: str, event: TurnEvent) -> PartEvent:
        return PartEvent(type=name, sequence_number=event.seq, item_id=self._item_id, part=self._text(event.text))

    def _text(self, text: str) -> OutputText:
        return OutputText(text=text, logprobs=tuple(self._logprobs))

    def _end(self, event: TurnEvent) -> bytes:
        assert event.result is not None
        name, _ = _ENDS[event.kind]
        response = self._ended(event.kind, event.result)
        last = self._framed(event, ResponseEvent(type=name, sequence_number=event.seq, response=response))
        return self._item_done(event.kind) + last

    def _item_done(self, end: EventKind) -> bytes:
        if self._held is None:
            return b""
        item = self._message(self._held.text, end)
        done = ItemEvent(type="response.output_item.done", sequence_number=self._held.seq, item=item)
        return self._framed(self._held, done)

    def _message(self, text: str, end: EventKind) -> OutputMessage:
        status: ItemStatus = "completed" if end is EventKind.COMPLETED else "incomplete"
        return OutputMessage(id=self._item_id, status=status, content=[self._text(text)])

    def _framed(self, event: TurnEvent, shape: StreamEvent) -> bytes:
        if event.seq <= self._after:
            return b""
        return frame(shape.json_bytes(), event=shape.type, event_id=f"{event.seq}.{event.crc:08x}")

    def _ended(self, end: EventKind, result: TurnResult) -> Response:
        return self._begun.model_copy(
            update={
                "status": _ENDS[end][1],
                "output": () if end is EventKind.FAILED else (self._message(result.text, end),),
                "usage": ResponseUsage.of(result.usage),
                "error": _error(result) if end is EventKind.FAILED else None,
                "incomplete_details": _details(result) if end is EventKind.INCOMPLETE else None,
            }
        )


def _details(result: TurnResult) -> IncompleteDetails:
    return IncompleteDetails(reason="max_output_tokens" if result.reason is FinishReason.LENGTH else None)


def _error(result: TurnResult) -> ResponseError:
    problem = problem_of_code(result.error_code, result.error_message)
    code: ErrorName = "rate_limit_exceeded" if problem.status == 429 else "server_error"
    return ResponseError(code=code, message=problem.message, type=problem.code)


def begun(view: ResponseView, response_id: str, created_at: int) -> Response:
    """A response that has no answer yet."""
    return Response(**dict(view), id=response_id, created_at=created_at, status="in_progress")
