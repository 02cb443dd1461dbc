"""A page of items that are all at hand."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import NotFoundError
from services.conversations.records import Item
from services.gateway.schemas.conversations import ConversationItems, PageQuery


def page_of(items: Sequence[Item], asked: PageQuery) -> ConversationItems:
    """The page asked for, of items oldest first. Raises NotFoundError for an unknown ``after`` or ``before``."""
    walked = list(items)[::-1] if asked.is_descending else list(items)
    page = walked[_start(walked, asked.before or asked.after) :]
    shown = page[: asked.limit]
    return ConversationItems.of(shown[::-1] if asked.before else shown, has_more=asked.limit < len(page))


def _start(walked: Sequence[Item], cursor: str | None) -> int:
    if not cursor:
        return 0
    names = [item.id for item in walked]
    if cursor not in names:
        raise NotFoundError("item", cursor)
    return names.index(cursor) + 1
