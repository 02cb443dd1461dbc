"""A conversation as JSON Lines: first its head, then one line an item, oldest first.

Promise: every item that was there when the export began, unless it was deleted before its page was read; nothing that
was added later. Only the ids are read at once (about 40 bytes an item); texts pass through page by page.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Literal

import msgspec

from services.conversations.item_store import ItemStore
from services.conversations.records import Conversation, Item
from services.json_line import one_line

PAGE_ITEMS: Final = 20  # an item may be as large as a request's body

_encode = msgspec.json.Encoder().encode


class ExportedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    object: Literal["conversation"] = "conversation"
    id: str
    created_at: int
    metadata: dict[str, str]


class ExportedItem(msgspec.Struct, frozen=True, kw_only=True):
    """A further line. ``role`` is OpenAI's; ``response_id`` names the turn that wrote the item, null where none did."""

    object: Literal["conversation.item"] = "conversation.item"
    id: str
    role: str
    text: str
    status: str
    created_at: int
    response_id: str | None


async def export(store: ItemStore, tenant: str, conversation: str) -> AsyncGenerator[bytes, None]:
    """The lines, some at a time.

    Raises:
        NotFoundError: no such conversation; behind the first line: it was erased meanwhile.
        StoreUnavailableError: the store does not answer.
    """
    head = await store.conversation(tenant, conversation)
    names = await store.item_ids(tenant, conversation)
    yield _head_line(head)
    for first in range(0, len(names), PAGE_ITEMS):
        items = await store.read_items(tenant, conversation, names[first : first + PAGE_ITEMS])
        yield b"".join(_item_line(item) for item in items)


def _head_line(head: Conversation) -> bytes:
    return _line(ExportedConversation(id=head.id, created_at=head.created_at, metadata=head.metadata))


def _item_line(item: Item) -> bytes:
    return _line(
        ExportedItem(
            id=item.id,
            role="tool" if item.role == "observation" else item.role,
            text=item.text,
            status=item.status,
            created_at=item.created_at,
            response_id=item.turn or None,
        )
    )


def _line(record: msgspec.Struct) -> bytes:
    return one_line(_encode(record)) + b"\n"
