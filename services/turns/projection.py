"""Ids to numbered events: what a caller sees of an answer.

Pure and incremental, and blind to batching: the same ids give the same events with the same numbers in whatever groups
they come, so another process can rebuild a stream from a journal and go on in the middle. Ids are the truth here, not
text: a stop string found in the text is answered by cutting the ids, so that the next turn's prompt holds what the
client has seen and nothing else.

One id costs about 2.5 µs here, 4 with two stop strings (``tests/benchmarks/bench_turns.py``); the budget is 5 µs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from cluster.errors import ToolCallError
from cluster.protocol import Logprobs
from cluster.tokenizer.detokenizer import IncrementalDetokenizer
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.tool_calls import ToolCall
from services.turns.call_gate import CallGate, Piece
from services.turns.events import EventKind, TokenLogprob, TurnEvent, TurnResult
from services.turns.logprobs import LogprobBook
from services.turns.recode import encode_rest
from services.turns.stops import StopMatcher

VERSION = 1  # of the events that ids give; a record names the one it was begun with

_WAITING = (EventKind.CREATED, EventKind.QUEUED)
_OPENING = (EventKind.IN_PROGRESS, EventKind.ITEM_ADDED, EventKind.PART_ADDED)
_CLOSING = (EventKind.TEXT_DONE, EventKind.PART_DONE, EventKind.ITEM_DONE)


class Projection:
    """One answer. Call ``open``, then ``push`` until the ids end or ``is_stopped``, then ``close``, then ``end``.

    The visible text is the decoded ids without leading white space (the model writes the header newline itself), up to
    the first stop string. Where ``tools`` (their names) are offered, a call at the answer's end is one event behind the
    text and no part of it; what began as a call and is none, because it is cut off or malformed, is text after all.
    Stop strings are for prose: they neither end a call nor cut such a text.

    Args:
        tokenizer: of the model.
        stop: stop strings.
        tools: names of the tools that were offered.
        choice: which of several answers it is.
        logprobs: whether ids come with their log probabilities.

    Attributes:
        ids: every id taken, in order; ids after the one that completed a stop string are not.
        crc: CRC-32 of ``ids``, u32 little endian.
    """

    def __init__(
        self,
        tokenizer: ChatGLM3Tokenizer,
        stop: Sequence[str] = (),
        tools: Sequence[str] = (),
        *,
        choice: int = 0,
        logprobs: bool = False,
    ) -> None:
        self.ids: list[int] = []
        self.crc = 0
        self._tokenizer = tokenizer
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._choice = choice
        self._book = LogprobBook(tokenizer) if logprobs else None
        self._stops = StopMatcher(stop)
        self._gate = CallGate(tools, tokenizer.role_id("assistant")) if tools else None
        self._seq = 0
        self._deltas: list[str] = []
        self._length = 0  # characters of visible text, held back ones included
        self._units: list[tuple[int, int]] = []  # (visible characters before, ids before) of each id with text

    @property
    def is_stopped(self) -> bool:
        """A stop string was found; the owner ends the generation."""
        return self._stops.is_matched

    @property
    def text(self) -> str:
        """The text of all deltas so far."""
        return "".join(self._deltas)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """The entries that went out; after ``close``, all but those from the first id that a stop string touches."""
        return self._book.told() if self._book else ()

    @property
    def call(self) -> ToolCall | None:
        """The call that the answer ends in, after ``close``."""
        return self._gate.call if self._gate else None

    @property
    def call_error(self) -> ToolCallError | None:
        """Why what began as a call is text, after ``close``."""
        return self._gate.error if self._gate else None

    def open(self) -> list[TurnEvent]:
        """The events before any id."""
        return [self._event(kind) for kind in (EventKind.CREATED, *_OPENING)]

    def wait(self) -> tuple[list[TurnEvent], list[TurnEvent]]:
        """The events before any id of a turn in the background: while it waits, and once it runs."""
        return [self._event(kind) for kind in _WAITING], [self._event(kind) for kind in _OPENING]

    def push(self, ids: Sequence[int], logprobs: Sequence[Logprobs] | None = None) -> list[TurnEvent]:
        """One delta for each id that completes text that cannot belong to a stop string.

        ``logprobs`` has one entry per id where the projection was made for them.
        """
        if self._book is not None:
            assert logprobs is not None, "the attempts checked it"
            self._book.add(ids, logprobs)
        events: list[TurnEvent] = []
        for token_id in ids:
            if self._stops.is_matched:
                break
            delta = self._take(token_id)
            if delta:
                events.append(self._delta(delta))
        return events

    def close(self) -> list[TurnEvent]:
        """No id follows: text held back goes out, then the text, part and item are done, then comes the call."""
        held = self._flush()
        events = [self._delta(held)] if held else []
        text, rest = self.text, self._tell(self._num_settled() if self.is_stopped else len(self.ids))
        events += [self._event(kind, text, logprobs=rest if kind is EventKind.TEXT_DONE else ()) for kind in _CLOSING]
        return [*events, self._event(EventKind.TOOL_CALL, call=self.call)] if self.call else events

    def end(self, kind: EventKind, result: TurnResult) -> TurnEvent:
        """The last event."""
        return self._event(kind, result=result)

    def answer_ids(self) -> list[int]:
        """The ids to keep, after ``close``: they decode to exactly the text, leading white space aside.

        Bytes of an unfinished character are dropped. So are the ids from the first one that touches a stop string;
        what that leaves of the text is encoded again and appended.
        """
        if self.is_stopped:
            return self._ids_before_stop()
        return self.ids[: len(self.ids) - self._detokenizer.pending]

    def _take(self, token_id: int) -> str:
        first = len(self.ids) - self._detokenizer.pending  # the first id whose text this one completes
        self.ids.append(token_id)
        self.crc = zlib.crc32(token_id.to_bytes(4, "little"), self.crc)
        text = self._detokenizer.push(token_id)
        if self._gate is None:
            return self._show(text, first)
        return self._show_all(self._gate.push(token_id, Piece(text, first)))

    def _flush(self) -> str:
        pieces, raw = self._gate.close() if self._gate else ((), "")
        text = self._show_all(pieces) + self._stops.flush()
        return text + (raw if self._length else raw.lstrip())

    def _show_all(self, pieces: Iterable[Piece]) -> str:
        return "".join(self._show(text, first) for text, first in pieces if not self._stops.is_matched)

    def _show(self, text: str, first: int) -> str:
        """The part of the text that may be seen now; ``first`` is the place of the first id that it comes from."""
        if not self._length:
            text = text.lstrip()
        if not text:
            return ""
        self._units.append((self._length, first))
        self._length += len(text)
        return self._stops.push(text)

    def _ids_before_stop(self) -> list[int]:
        text = self.text
        while self._units and self._units[-1][0] > len(text):
            self._units.pop()
        length, count = self._units[-1]  # of the first id that touches the stop string
        kept = self.ids[:count]
        return kept + encode_rest(self._tokenizer, kept, text, text[length:])

    def _delta(self, text: str) -> TurnEvent:
        self._deltas.append(text)
        if self._book is None:
            return self._event(EventKind.TEXT_DELTA, text)
        return self._event(EventKind.TEXT_DELTA, text, logprobs=self._tell(self._num_settled()))

    def _tell(self, end: int) -> tuple[TokenLogprob, ...]:
        return self._book.tell(end) if self._book else ()

    def _num_settled(self) -> int:
        """How many ids are certain to stay: those before the first that a stop string, or a call, may still touch."""
        if self.is_stopped:
            return self._place_of(len(self.text))
        if self._stops.held:
            return self._place_of(self._length - len(self._stops.held))
        held = self._gate.first_held if self._gate else None
        return len(self.ids) - self._detokenizer.pending if held is None else held

    def _place_of(self, length: int) -> int:
        """The place of the first id whose text goes beyond the first ``length`` visible characters."""
        end, place = self._length, len(self.ids) - self._detokenizer.pending
        for start, first in reversed(self._units):
            if end <= length:
                break
            end, place = start, first
        return place

    def _event(
        self,
        kind: EventKind,
        text: str = "",
        result: TurnResult | None = None,
        call: ToolCall | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> TurnEvent:
        event = TurnEvent(self._seq, self.crc, kind, text, result, call, self._choice, logprobs)
        self._seq += 1
        return event
