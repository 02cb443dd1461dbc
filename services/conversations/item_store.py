"""What callers may do with their conversations, apart from taking turns.

Items change only between turns: a turn's prompt was made of the items that it read, so while one is active every change
of items is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.conversations.records import Conversation, Item


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of items. ``has_more`` speaks of the direction asked for."""

    items: Sequence[Item]
    has_more: bool


class ItemStore(Protocol):
    """Every method raises StoreUnavailableError within two seconds when the store does not answer.

    A conversation that is unknown, hidden or another tenant's is NotFoundError for all that take one.
    """

    async def create(
        self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = (), ttl_s: int | None = None
    ) -> Conversation:
        """Make a conversation; item ids are assigned here when empty.

        ``ttl_s``: how long it lives after its last change, until a turn begins with another; None: as the store has it.
        """
        ...

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        ...

    async def set_metadata(self, tenant: str, conversation: str, metadata: Mapping[str, str]) -> Conversation:
        """Replace all metadata; allowed while a turn runs. Raises NotFoundError."""
        ...

    async def delete(self, tenant: str, conversation: str) -> None:
        """Erase the conversation and all its turns. Raises NotFoundError."""
        ...

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """A page, without items that were erased. Raises NotFoundError, for an unknown ``after`` too."""
        ...

    async def item_ids(self, tenant: str, conversation: str) -> list[str]:
        """Ids of all items, oldest first (about 40 bytes each). Raises NotFoundError."""
        ...

    async def read_items(self, tenant: str, conversation: str, names: Sequence[str]) -> list[Item]:
        """The items of these ids (1 to 1,000), without those that were erased. Raises NotFoundError."""
        ...

    async def item(self, tenant: str, conversation: str, item: str) -> Item:
        """One item. Raises NotFoundError, for a malformed item id too."""
        ...

    async def append_items(self, tenant: str, conversation: str, items: Sequence[Item]) -> list[Item]:
        """Put items (at least one) at the end, all or none; they are named and dated here where they are not.

        Raises:
            NotFoundError: no such conversation.
            ConversationBusyError: a turn is active.
            ConversationFullError: there would be more items than the store takes.
        """
        ...

    async def delete_item(self, tenant: str, conversation: str, item: str) -> Conversation:
        """Erase one item, here and for every branch. The turn that wrote it stays, without its text.

        Raises:
            NotFoundError: no such conversation, or no such item in it.
            ConversationBusyError: a turn is active.
        """
        ...
