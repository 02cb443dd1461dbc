"""Conversations and their items, as asked for and as answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from services.backend.base import Erased
from services.conversations import records
from services.gateway.schemas.base import Metadata, RequestBody, Shape
from services.gateway.schemas.messages import InputItem
from services.gateway.schemas.response import ItemStatus, OutputText

RoleOut = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, RoleOut] = {"system": "system", "user": "user", "assistant": "assistant", "observation": "tool"}


class ConversationRequest(RequestBody):
    """The body of ``POST /v1/conversations``."""

    metadata: Metadata | None = None
    items: Annotated[list[InputItem], Field(max_length=20)] | None = None

    def records(self) -> list[records.Item]:
        """The items to begin with; the store gives them ids."""
        return [_record(item) for item in self.items or ()]


def _record(item: InputItem) -> records.Item:
    message = item.message()
    return records.Item(id="", role=message.role, text=message.text)


class PageQuery(BaseModel):
    """Which items are asked for: those beyond ``after`` in the given order."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class Conversation(Shape):
    """A conversation without its items."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]

    @classmethod
    def of(cls, conversation: records.Conversation) -> Conversation:
        """From the store's record."""
        return cls(id=conversation.id, created_at=conversation.created_at, metadata=conversation.metadata)


class ErasedPages(Shape):
    """What became of the KV of something erased. Missed replicas are told again until they answer or are replaced."""

    kv_pages: int  # dropped by the replicas that answered
    kv_pages_in_use: int  # held by running turns; dropped when these end
    replicas: int  # that answered
    replicas_missed: int

    @classmethod
    def of(cls, erased: Erased) -> ErasedPages:
        """From what the replicas said."""
        return cls(
            kv_pages=erased.dropped,
            kv_pages_in_use=erased.held,
            replicas=len(erased.reached),
            replicas_missed=len(erased.missed),
        )


class ConversationDeleted(Shape):
    """A conversation that is gone, with all its turns."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True
    erased: ErasedPages


class InputText(Shape):
    """Text that was sent."""

    type: Literal["input_text"] = "input_text"
    text: str


class ConversationMessage(Shape):
    """One item of a conversation."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: RoleOut
    content: list[OutputText | InputText]

    @classmethod
    def of(cls, item: records.Item) -> ConversationMessage:
        """From the store's record."""
        part = OutputText(text=item.text) if item.role == "assistant" else InputText(text=item.text)
        status: ItemStatus = "incomplete" if item.status == "incomplete" else "completed"
        return cls(id=item.id, status=status, role=_ROLES[item.role], content=[part])


class ConversationItems(Shape):
    """A page of items. An empty page has empty ids."""

    object: Literal["list"] = "list"
    data: list[ConversationMessage]
    first_id: str
    last_id: str
    has_more: bool
