"""Messages to the prompt's ids: the canonical tokens of a conversation.

One ``[gMASK] sop`` opens it, every message follows by the template, and ``<|assistant|>`` ends it. An answer that the
model gave stands there as the ids it sampled, not as its text encoded again: only then does the prompt begin with the
ids whose keys and values are still in a replica's cache.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.tokenizer.template import assistant_ids, message_ids, prefix_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.tool_calls import call_content
from services.conversations.records import Item
from services.turns.events import Message, Role

_DIGEST_SIZE = 16


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A message and, where the model wrote it, the ids it sampled (no role id, no stop id).

    Sampled ids hold the whole answer; without them ``metadata`` is the name of the tool that ``text`` calls.
    ``item`` is the id of a stored message.
    """

    role: str
    text: str
    ids: Sequence[int] | None = None
    metadata: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A message as it stands in a prompt: its ids, role and all. ``item`` is the id of a stored message."""

    role: str
    ids: Sequence[int]
    item: str = ""


def stored_messages(instructions: str | None, history: Iterable[Item], new: Iterable[Item]) -> list[PromptMessage]:
    """A stored turn's messages: this turn's instructions, what it is shown of the conversation, the new input."""
    system = [PromptMessage(Role.SYSTEM, instructions)] if instructions is not None else []
    return system + [item_message(item) for item in (*history, *new)]


def item_message(item: Item) -> PromptMessage:
    """A message of a conversation."""
    return PromptMessage(item.role, item.text, item.ids, item=item.id)


def stateless_messages(messages: Sequence[Message], known: dict[int, list[int]]) -> list[PromptMessage]:
    """A stateless turn's messages; ``known`` maps a message's index to the ids that were sampled for it.

    An answer with a call whose ids are not known is one message or two: its text, where it has one, and the call.

    Raises:
        InvalidRequestError: a call's arguments cannot be written.
    """
    return [part for i, message in enumerate(messages) for part in _parts(message, known.get(i))]


def _parts(message: Message, ids: Sequence[int] | None) -> list[PromptMessage]:
    text = PromptMessage(message.role, message.text, ids)
    if message.call is None or ids:
        return [text]
    call = PromptMessage(message.role, call_content(message.call.arguments), metadata=message.call.name)
    return [text, call] if message.text else [call]


def prompt_ids(tokenizer: ChatGLM3Tokenizer, messages: Iterable[PromptMessage]) -> list[int]:
    """The whole prompt.

    Raises:
        InvalidRequestError: a text is not valid Unicode, or a role is unknown.
    """
    return joined(tokenizer, pieces(tokenizer, messages))


def joined(tokenizer: ChatGLM3Tokenizer, encoded: Iterable[Piece]) -> list[int]:
    """The whole prompt, from its encoded messages."""
    ids = prefix_ids(tokenizer)
    for piece in encoded:
        ids += piece.ids
    return ids + assistant_ids(tokenizer)


def pieces(tokenizer: ChatGLM3Tokenizer, messages: Iterable[PromptMessage]) -> list[Piece]:
    """Each message by itself: none changes the ids of another.

    Raises:
        InvalidRequestError: a text is not valid Unicode, or a role is unknown.
    """
    return [Piece(message.role, _message_ids(tokenizer, message), message.item) for message in messages]


def _message_ids(tokenizer: ChatGLM3Tokenizer, message: PromptMessage) -> list[int]:
    if message.ids and message.role == Role.ASSISTANT:
        return [*assistant_ids(tokenizer), *message.ids]  # the model wrote the header itself
    return message_ids(tokenizer, message.role, message.text, message.metadata)


def output_limit(prompt_tokens: int, max_tokens: int | None, context_length: int, *, can_truncate: bool = False) -> int:
    """How many tokens the answer may have; without ``max_tokens``, what is left of the context.

    ``can_truncate``: a refusal says that the oldest turns could be left out.

    Raises:
        InvalidRequestError: ``max_tokens`` is less than one.
        ContextLengthExceededError: prompt and answer do not fit, or nothing is left for an answer.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InvalidRequestError(f"max_tokens must be at least 1, not {max_tokens}.", param="max_tokens")
    left = context_length - prompt_tokens
    wanted = max(left, 1) if max_tokens is None else max_tokens
    if wanted > left:
        raise ContextLengthExceededError(
            prompt_tokens=prompt_tokens,
            max_tokens=wanted if prompt_tokens <= context_length else 0,
            context_length=context_length,
            can_truncate=can_truncate,
        )
    return wanted


def digest(ids: Sequence[int]) -> str:
    """Hex BLAKE2b-128 of the ids, u32 little endian: an adopter of the turn must arrive at the same prompt."""
    packed = struct.pack(f"<{len(ids)}I", *ids)
    return hashlib.blake2b(packed, digest_size=_DIGEST_SIZE).hexdigest()
