"""Messages as strangers write them, for chat completions, responses and conversations.

Texts are only ever text: ``<|user|>`` or ``[gMASK]`` in a message means those characters. Parts are joined with
nothing in between.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from services.gateway.schemas.base import RequestBody, one_or_many, only
from services.gateway.schemas.tools import MAX_TOOLS, CallId, CallOfTool
from services.turns.events import Message, Role

ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


def _known_role(role: str) -> str:
    if role in ROLES:
        return role
    if role in ("tool", "function"):
        raise PydanticCustomError("unsupported", "Tool messages are not supported yet.")
    raise PydanticCustomError("unknown_role", "Input should be 'system', 'developer', 'user' or 'assistant'")


def _text_role(role: str) -> str:
    if role in ("system", "developer", "user"):
        return role
    if role == "function":
        raise PydanticCustomError("unsupported", "Function messages are not supported; use tool messages.")
    known = "'system', 'developer', 'user', 'assistant' or 'tool'"
    raise PydanticCustomError("unknown_role", "Input should be {known}", {"known": known})


def _message_only(kind: str) -> str:
    if kind == "message":
        return kind
    raise PydanticCustomError("unsupported", "Only items of type 'message' are supported yet.")


def _one_of(*names: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(names)})


RoleName = Annotated[str, AfterValidator(_known_role), _one_of(*ROLES)]


class ChatPart(RequestBody):
    """A part of a chat message's content. Only text is understood."""

    type: Literal["text"]
    text: str


class ItemPart(RequestBody):
    """A part of an item's content. Only text is understood."""

    type: Literal["input_text", "output_text", "text"]
    text: str


ChatContent = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[ChatPart], Field(min_length=1), Tag("<many>")],
    one_or_many("text parts"),
]
ItemContent = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[ItemPart], Field(min_length=1), Tag("<many>")],
    one_or_many("text parts"),
]


def joined(content: str | list[ChatPart] | list[ItemPart]) -> str:
    """The content's text."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class TextMessage(RequestBody):
    """A message of a chat completion that is text and nothing else."""

    role: Annotated[str, AfterValidator(_text_role), _one_of("system", "developer", "user")]
    content: ChatContent
    name: str | None = None


class AssistantMessage(RequestBody):
    """An answer that is sent back. What the official client dumps of one is accepted as it is."""

    role: Literal["assistant"]
    content: ChatContent | None = None
    name: str | None = None
    tool_calls: Annotated[list[CallOfTool], Field(max_length=MAX_TOOLS)] | None = None
    function_call: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None


class ToolMessage(RequestBody):
    """What a tool returned."""

    role: Literal["tool"]
    content: ChatContent
    tool_call_id: CallId


def _message_kind(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else None
    return f"<{role}>" if role in ("assistant", "tool") else "<text>"


ChatMessage = Annotated[
    Annotated[TextMessage, Tag("<text>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    Discriminator(_message_kind),
]


class InputItem(RequestBody):
    """A message item, in the full form (``type: message``) or the easy one (role and content alone)."""

    type: Annotated[str, AfterValidator(_message_only), _one_of("message")] = "message"
    role: RoleName
    content: ItemContent

    def message(self) -> Message:
        """The same, with the model's own role."""
        return Message(ROLES[self.role], joined(self.content))
