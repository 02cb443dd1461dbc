"""Ids and headers of requests, checked and described.

The patterns of ids in paths are for readers alone: a malformed id is an unknown one, and that is what it is answered.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Header, Path
from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_PART: Final = "[a-z2-7]{16}"
CONVERSATION: Final = f"^conv_{_PART}$"
RESPONSE: Final = f"^resp_{_PART}{_PART}$"
ITEM: Final = f"^msg_{_PART}{_PART}$"

MAX_KEY: Final = 255  # characters of an idempotency key
_KEY: Final = "^[!-~]([ -~]*[!-~])?$"  # servers cut the blanks around a header
_EVENT_ID: Final = re.compile("[0-9]{1,9}\\.[0-9a-f]{8}")


def _key(text: str) -> str:
    if 0 < len(text) <= MAX_KEY and text.isascii() and text.isprintable():
        return text
    raise PydanticCustomError("idempotency_key", "Send 1 to {most} printable ASCII characters.", {"most": MAX_KEY})


def _event_id(text: str) -> str:
    if _EVENT_ID.fullmatch(text):
        return text
    message = "Send the id of the last event read, as it was written: <number>.<checksum>."
    raise PydanticCustomError("event_id", message)


ConversationId = Annotated[str, Path(json_schema_extra={"pattern": CONVERSATION})]
ResponseId = Annotated[str, Path(json_schema_extra={"pattern": RESPONSE})]
ItemId = Annotated[str, Path(json_schema_extra={"pattern": ITEM})]


def _shown(pattern: str, **bounds: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, **bounds})


_Key = Annotated[str, AfterValidator(_key), _shown(_KEY, minLength=1, maxLength=MAX_KEY)]
_EventId = Annotated[str, AfterValidator(_event_id), _shown(f"^{_EVENT_ID.pattern}$")]

IdempotencyKey = Annotated[
    _Key | None,
    Header(
        alias="Idempotency-Key",
        description="A stored turn that is sent again with the same key and body within 24 hours is answered once.",
    ),
]
LastEventId = Annotated[
    _EventId | None,
    Header(
        alias="Last-Event-ID",
        description="The `id` of the last event that was read; with `stream`, those behind it come. "
        "It counts before `starting_after`.",
    ),
]
