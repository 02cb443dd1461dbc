"""Which part of an answer is prose, and which a tool call that must not be seen as text.

The header line decides: a prose answer begins with a newline, a tool turn with the tool's name and a newline. So text
is held back only while it can still become the header of a tool that was offered; an answer that begins with anything
else is prose from its first character on. ChatGLM3 may also say something first and go on with a call behind an
``<|assistant|>`` that it samples itself; only that id counts, never the same characters as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from cluster.errors import ToolCallError
from cluster.tokenizer.tool_calls import ToolCall, read_call, split_answer

_MARKER: Final = "<|assistant|>"
_MAX_HEADER: Final = 256  # characters, blanks around the name included


class Piece(NamedTuple):
    """Text that one id completed, and the place of the first id whose text it is."""

    text: str
    first: int


class _State(Enum):
    HEADER = auto()  # it may become a call
    PROSE = auto()
    CALL = auto()  # the header was a tool's name; all that follows belongs to the call


class CallGate:
    """Takes the pieces of one answer in order, and lets prose through.

    Args:
        tools: names of the tools that were offered.
        assistant_id: ``<|assistant|>``.

    Attributes:
        call: the call that the answer ends in, after ``close``.
        error: why what began as a call is none, after ``close``.
    """

    def __init__(self, tools: Sequence[str], assistant_id: int) -> None:
        self.call: ToolCall | None = None
        self.error: ToolCallError | None = None
        self._tools = frozenset(tools)
        self._assistant_id = assistant_id
        self._state = _State.HEADER
        self._held: list[Piece] = []
        self._num_leading = 0  # of the held pieces, those in front of the header: a sampled ``<|assistant|>``
        self._header = ""

    @property
    def first_held(self) -> int | None:
        """The place of the first id whose text is held back; None when none is."""
        return self._held[0].first if self._held else None

    def push(self, token_id: int, piece: Piece) -> Sequence[Piece]:
        """Take what one id completed (maybe nothing); the pieces that are known to be prose now."""
        if self._state is _State.PROSE and token_id != self._assistant_id:
            return (piece,)
        if self._state is _State.CALL:
            self._held.append(piece)
            return ()
        if token_id == self._assistant_id:
            return self._begin_part(piece)
        self._held.append(piece)
        self._header += piece.text
        return self._decide()

    def close(self) -> tuple[Sequence[Piece], str]:
        """No id follows: prose that was still held back, and the raw text of what began as a call and is none."""
        pieces = self._release()
        if self._state is not _State.CALL:
            return pieces, ""
        try:
            self.call = read_call("".join(piece.text for piece in pieces[self._num_leading :]))
        except ToolCallError as error:
            self.error = error
            return (), "".join(piece.text for piece in pieces)
        return (), ""

    def _begin_part(self, piece: Piece) -> Sequence[Piece]:
        broken = piece.text.removesuffix(_MARKER)  # of a character that the marker has cut off
        pieces = [*self._release(), Piece(broken, piece.first)] if broken else self._release()
        self._state = _State.HEADER
        self._held, self._num_leading, self._header = [Piece(_MARKER, piece.first)], 1, ""
        return pieces

    def _decide(self) -> Sequence[Piece]:
        if "\n" in self._header:
            is_call = split_answer(self._header)[0] in self._tools
            self._state = _State.CALL if is_call else _State.PROSE
        elif not self._may_name_a_tool():
            self._state = _State.PROSE
        return self._release() if self._state is _State.PROSE else ()

    def _may_name_a_tool(self) -> bool:
        name = self._header.strip()
        return len(self._header) <= _MAX_HEADER and any(tool.startswith(name) for tool in self._tools)

    def _release(self) -> list[Piece]:
        pieces, self._held = self._held, []
        return pieces
