"""The prompt of a turn that has begun, for whoever goes on with it.

Its line cannot change while it is active, so the record's window and the line's items give the very messages that its
first owner had; the record's digest tells whether they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cluster.errors import TurnLostError
from services.conversations.records import Item, TurnRecord, TurnRequest
from services.conversations.store import ConversationStore, Part
from services.turns import window
from services.turns.prompt import PromptMessage, stored_messages
from services.turns.recall import first_items

_FIRST_LOOK: Final = 100  # items; then all of them


async def prompt_messages(store: ConversationStore, tenant: str, record: TurnRecord) -> list[PromptMessage]:
    """The messages of a running turn's prompt. Of a long line no more is loaded than they are.

    Raises:
        NotFoundError: the conversation is gone.
        StoreUnavailableError: the store does not answer.
        TurnLostError: the window's first item is gone.
    """
    request = record.request
    whole = Part(line=record.line)
    line = await store.load(tenant, record.conversation, replace(whole, newest=_FIRST_LOOK if request.window else 0))
    if not request.window:
        return rebuilt_messages(request, line.items)
    if not any(item.id == request.window for item in (*line.items, *request.input)):
        line = await store.load(tenant, record.conversation, whole)
    begin = await first_items(store, tenant, record.conversation, whole)
    known = {item.id for item in begin}
    return rebuilt_messages(request, [*begin, *(item for item in line.items if item.id not in known)])


def rebuilt_messages(request: TurnRequest, items: Sequence[Item]) -> list[PromptMessage]:
    """The messages of a turn's prompt, from its record and its line's items before it, oldest first.

    ``items`` may have a gap between the leading system messages and the window's first item.

    Raises:
        TurnLostError: the window's first item is neither among them nor in the turn's input.
    """
    if not request.window:
        return stored_messages(request.instructions, items, request.input)
    told = [*items, *request.input]
    leading = told[: window.lead([item.role for item in told])]
    first = next((i for i, item in enumerate(told) if item.id == request.window), None)
    if first is None:
        raise TurnLostError(f"The first item of this turn's window, {request.window}, is gone.")
    return stored_messages(request.instructions, leading, told[first:])
