"""Ids of conversations, responses and items: made here, and taken apart here.

Every id carries its conversation's root (80 random bits), so an id finds its keys without a lookup, and an id nobody
was given cannot be guessed. A response begun without a conversation still has a root: that of its unlisted line.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

from cluster.errors import NotFoundError

_PART_BYTES: Final = 10  # 80 bits: 16 characters of base32 and no padding
_PART: Final = "[a-z2-7]{16}"
_CONVERSATION: Final = re.compile(rf"conv_({_PART})")
_RESPONSE: Final = re.compile(rf"resp_({_PART})({_PART})")
_ITEM: Final = re.compile(rf"msg_({_PART})({_PART})")
_MAX_ECHO: Final = 80  # characters of a malformed id that an error repeats


def new_conversation() -> str:
    """``conv_<root>`` with a fresh root."""
    return f"conv_{_draw()}"


def new_response(conversation: str) -> str:
    """``resp_<root><rand>`` on the conversation's root. Raises NotFoundError for a malformed id."""
    return response_of(conversation_root(conversation), _draw())


def new_item(conversation: str) -> str:
    """``msg_<root><rand>`` on the conversation's root. Raises NotFoundError for a malformed id."""
    return f"msg_{conversation_root(conversation)}{_draw()}"


def new_line() -> str:
    """The name of a branch of some root: random, so that two branches of one answer never meet."""
    return f"b{_draw()}"


def conversation_root(conversation: str) -> str:
    """The root of a ``conv_…`` id (16 characters). Raises NotFoundError for a malformed id."""
    return _match(_CONVERSATION, "conversation", conversation)[1]


def response_parts(response: str) -> tuple[str, str]:
    """Root and own part of a ``resp_…`` id. Raises NotFoundError for a malformed id."""
    match = _match(_RESPONSE, "response", response)
    return match[1], match[2]


def response_of(root: str, part: str) -> str:
    """The ``resp_…`` id of these parts."""
    return f"resp_{root}{part}"


def item_root(item: str) -> str:
    """The root of a ``msg_…`` id. Raises NotFoundError for a malformed id."""
    return _match(_ITEM, "item", item)[1]


def conversation_of(response: str) -> str:
    """The ``conv_…`` id of a response's line, listed or not. Raises NotFoundError for a malformed id."""
    return f"conv_{response_parts(response)[0]}"


def _draw() -> str:
    return base64.b32encode(secrets.token_bytes(_PART_BYTES)).decode("ascii").lower()


def _match(shape: re.Pattern[str], kind: str, name: str) -> re.Match[str]:
    match = shape.fullmatch(name)
    if match is None:
        raise NotFoundError(kind, name[:_MAX_ECHO])
    return match
