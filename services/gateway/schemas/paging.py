"""A page of items that are all at hand."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import NotFoundError
from services.conversations.records import Item
from services.gateway.schemas.conversations import ConversationItems, ConversationMessage, PageQuery


def page_of(items: Sequence[Item], asked: PageQuery) -> ConversationItems:
    """The page asked for, of items oldest first. Raises NotFoundError for an unknown ``after``."""
    ordered = list(items) if asked.order == "asc" else list(items)[::-1]
    names = [item.id for item in ordered]
    if asked.after and asked.after not in names:
        raise NotFoundError("item", asked.after)
    start = names.index(asked.after) + 1 if asked.after else 0
    data = [ConversationMessage.of(item) for item in ordered[start : start + asked.limit]]
    return ConversationItems(
        data=data,
        first_id=data[0].id if data else "",
        last_id=data[-1].id if data else "",
        has_more=start + asked.limit < len(ordered),
    )
