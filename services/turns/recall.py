"""What a stored turn remembers: its conversation, read from the newest item backwards, and no further than needed.

A conversation of thousands of turns is neither loaded nor encoded whole. Reading ends where the window of the last
answer began, or where no more can fit the model. Loads are snapshots; that the line has moved on since is found out by
``begin``, so nothing here guards against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.conversations.records import Item, Line
from services.conversations.store import ConversationStore, Part
from services.turns import prompt, window
from services.turns.events import StoredTurn, Truncation
from services.turns.parts import TurnParts
from services.turns.place import Place
from services.turns.prompt import Piece

_MORE: Final = 4  # a second look is at so many times as many items


@dataclass(frozen=True, slots=True)
class Past:
    """What a conversation said before this turn.

    Attributes:
        line: as loaded; None where there is none yet.
        lead: its leading system messages.
        pieces: the messages behind them that may be in the prompt. They begin where the last answer's window did, or
            with the line; or they are more than the context holds, and their first one may be a rest of a turn.
        is_whole: they begin with the line.
    """

    line: Line | None = None
    lead: Sequence[Piece] = ()
    pieces: Sequence[Piece] = ()
    is_whole: bool = True


async def recall(parts: TurnParts, turn: StoredTurn, place: Place) -> Past:
    """Read what the turn needs of its conversation.

    Raises:
        InvalidRequestError: a text has no ids.
        NotFoundError: no such conversation.
        StoreUnavailableError: the store does not answer.
    """
    if place.past is None:
        return Past()
    reader = _Reader(parts.tokenizer, parts.model.context_length, is_cut=turn.truncation is Truncation.AUTO)
    newest = parts.settings.load_items
    while True:
        line = await parts.store.load(turn.tenant, place.conversation, replace(place.past, newest=newest))
        pieces, is_enough = await _read(parts, reader, line.items)
        has_begin = len(line.items) < newest
        if is_enough or has_begin:
            break
        newest *= _MORE
    begin = line.items if has_begin else await first_items(parts.store, turn.tenant, place.conversation, place.past)
    leading = [reader.piece(item) for item in begin[: window.lead([item.role for item in begin])]]
    names = {piece.item for piece in leading}
    return Past(line, leading, [piece for piece in pieces if piece.item not in names], is_whole=not is_enough)


async def first_items(store: ConversationStore, tenant: str, conversation: str, past: Part) -> Sequence[Item]:
    """As many of a line's first items as its leading system messages can be."""
    line = await store.load(tenant, conversation, replace(past, newest=1, oldest=window.MAX_LEAD))
    return line.oldest


async def _read(parts: TurnParts, reader: _Reader, items: Sequence[Item]) -> tuple[list[Piece], bool]:
    if sum(len(item.text) for item in items if not item.ids) <= parts.settings.inline_chars:
        return reader.read(items)
    return await asyncio.to_thread(reader.read, items)


class _Reader:
    """Encodes the newest items, each of them once."""

    def __init__(self, tokenizer: ChatGLM3Tokenizer, limit: int, *, is_cut: bool) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._is_cut = is_cut  # else the whole line is needed, or more of it than fits
        self._known: dict[str, Piece] = {}

    def piece(self, item: Item) -> Piece:
        if item.id not in self._known:
            (self._known[item.id],) = prompt.pieces(self._tokenizer, [prompt.item_message(item)])
        return self._known[item.id]

    def read(self, items: Sequence[Item]) -> tuple[list[Piece], bool]:
        """The newest messages, oldest first, and whether nothing in front of them is needed."""
        pieces: list[Piece] = []
        num_tokens, begin = 0, None
        for item in reversed(items):
            piece = self.piece(item)
            pieces.append(piece)
            num_tokens += len(piece.ids)
            if self._is_cut and begin is None and item.ids is not None:
                begin = item.window
            if item.id == begin or num_tokens > self._limit:
                return pieces[::-1], True
        return pieces[::-1], False
