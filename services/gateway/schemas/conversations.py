"""Conversations and their items, as asked for and as answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.conversations import records
from services.gateway.schemas.base import Metadata, RequestBody, Shape
from services.gateway.schemas.erased import ErasedPages
from services.gateway.schemas.messages import InputItem
from services.gateway.schemas.query import WHOLE
from services.gateway.schemas.response import ItemStatus, OutputText

MAX_NEW_ITEMS: Final = 20  # of one call, as at OpenAI

Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
RoleOut = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, RoleOut] = {"system": "system", "user": "user", "assistant": "assistant", "observation": "tool"}


class ConversationRequest(RequestBody):
    """The body of ``POST /v1/conversations``."""

    metadata: Metadata | None = None
    items: Annotated[list[InputItem], Field(max_length=MAX_NEW_ITEMS)] | None = None

    def records(self) -> list[records.Item]:
        """The items to begin with; the store gives them ids."""
        return [_record(item) for item in self.items or ()]


class ConversationUpdate(RequestBody):
    """The body of ``POST /v1/conversations/{id}``: all metadata that there is to be; null is none."""

    metadata: Metadata | None


class ItemsRequest(RequestBody):
    """The body of ``POST /v1/conversations/{id}/items``."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=MAX_NEW_ITEMS)]

    def records(self) -> list[records.Item]:
        """The items to append; the store gives them ids."""
        return [_record(item) for item in self.items]


def _record(item: InputItem) -> records.Item:
    message = item.message()
    return records.Item(id="", role=message.role, text=message.text)


class ItemQuery(BaseModel):
    """What OpenAI lets callers ask for beside an item: parts of kinds that are not made here, so it changes nothing."""

    include: list[Includable] = []
    include_many: Annotated[list[Includable], Field(alias="include[]")] = []  # as the official client writes it


class PageQuery(ItemQuery):
    """Which items are asked for: those behind ``after``, or the last in front of ``before``, in the given order."""

    after: str | None = None
    before: str | None = None
    limit: Annotated[int, Field(ge=1, le=100), WHOLE] = 20
    order: Literal["asc", "desc"] = "desc"

    @field_validator("before")
    @classmethod
    def _one_cursor(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("after"):
            raise PydanticCustomError("two_cursors", "Give after or before, not both.")
        return value

    @property
    def is_descending(self) -> bool:
        """Whether to walk from newer to older items: in front of an item is behind it in the opposite order."""
        return (self.order == "desc") is not bool(self.before)


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
    """A page of items. An empty page has empty ids. ``has_more`` speaks of the direction asked for."""

    object: Literal["list"] = "list"
    data: list[ConversationMessage]
    first_id: str
    last_id: str
    has_more: bool

    @classmethod
    def of(cls, items: Sequence[records.Item], *, has_more: bool) -> ConversationItems:
        """From the store's records."""
        data = [ConversationMessage.of(item) for item in items]
        ids = [item.id for item in data] or [""]
        return cls(data=data, first_id=ids[0], last_id=ids[-1], has_more=has_more)
