"""ChatGLM3's chat template, straight to ids.

It is never rendered as text: role ids and separately encoded parts stand side by side, so what a user writes cannot
become a role. There is no newline, no ``</s>`` and no other separator after a message, and behind the last
``<|assistant|>`` comes nothing; the model itself writes the newline that opens its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import InvalidRequestError
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer


def prefix_ids(tokenizer: ChatGLM3Tokenizer) -> list[int]:
    """``[gMASK] sop``, which opens a conversation (once, not once a turn)."""
    return [tokenizer.gmask_id, tokenizer.sop_id]


def message_ids(tokenizer: ChatGLM3Tokenizer, role: str, content: str, metadata: str = "") -> list[int]:
    """The ids of one message: the role, ``metadata`` and a newline, the content. Empty content adds no ids.

    Raises:
        InvalidRequestError: the role is unknown, or a text is not valid Unicode.
    """
    return [tokenizer.role_id(role), *tokenizer.encode_text(f"{metadata}\n"), *tokenizer.encode_text(content)]


def assistant_ids(tokenizer: ChatGLM3Tokenizer) -> list[int]:
    """``<|assistant|>``, behind which the model goes on."""
    return [tokenizer.role_id("assistant")]


def content_with_tools(content: str, tools: object) -> str:
    """The content of a system message that offers ``tools`` (JSON values, usually a list of function schemas).

    Raises:
        InvalidRequestError: the tools cannot be written as JSON.
    """
    try:
        return f"{content}\n{json.dumps(tools, indent=4, ensure_ascii=False)}"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The tools cannot be written as JSON: {error}.", param="tools") from error


def chat_input_ids(
    tokenizer: ChatGLM3Tokenizer,
    query: str,
    history: Iterable[Mapping[str, Any]],
    role: str = "user",
) -> list[int]:
    """The prompt of ``chat(query, history, role)`` as the published model builds it.

    ``history`` holds items ``{role, content[, metadata][, tools]}``. ``tools`` counts in system items only, and there
    whenever the key is present, an empty list included. Other keys are ignored.

    Raises:
        InvalidRequestError: a role is unknown, or a text is missing, no string, or not valid Unicode.
    """
    ids = prefix_ids(tokenizer)
    for item in history:
        ids += _item_ids(tokenizer, item)
    return ids + message_ids(tokenizer, role, query) + assistant_ids(tokenizer)


def _item_ids(tokenizer: ChatGLM3Tokenizer, item: Mapping[str, Any]) -> list[int]:
    role, content = _text(item, "role"), _text(item, "content")
    if role == "system" and "tools" in item:
        content = content_with_tools(content, item["tools"])
    return message_ids(tokenizer, role, content, _text(item, "metadata") if "metadata" in item else "")


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"A message's {key} must be a string, not {type(value).__name__}.", param=key)
    return value
