"""One turn of ``chat`` or ``stream_chat``: the prompt, what it continues, and the text as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.errors import InvalidRequestError
from cluster.model.generation.chat_cache import chat_cache
from cluster.model.generation.fitting import check_cache
from cluster.tokenizer.detokenizer import IncrementalDetokenizer
from cluster.tokenizer.responses import Content, Item, copy_history, response_content, response_items
from cluster.tokenizer.template import chat_input_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

_BROKEN: Final = "\ufffd"
_ASSISTANT: Final = "<|assistant|>"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn computes and continues.

    Attributes:
        history: the messages before the answer, the query included; nobody else's list.
        held: ids whose keys and values ``past`` holds already, as far as they are known.
        fed: ids to compute.
        past: a transformers cache, or None.
    """

    history: list[Item]
    held: list[int]
    fed: list[int]
    past: Any

    @property
    def ids(self) -> list[int]:
        """All ids of the conversation before the answer."""
        return self.held + self.fed


def open_turn(
    tokenizer: ChatGLM3Tokenizer, query: str, history: Sequence[Item] | None, role: str, past: Any = None
) -> Turn:
    """A turn on the canonical sequence: what the cache holds, then the messages that it does not, by the template.

    Raises:
        InvalidRequestError: a role, an item of the history or the query is malformed, or the cache is not the
            history's.
    """
    own = [*copy_history(history), {"role": role, "content": query}]
    cache = chat_cache(past)
    if cache is None:
        return Turn(own, [], chat_input_ids(tokenizer, query, own[:-1], role), None)
    fresh = cache.messages_after(own[:-1])
    later = chat_input_ids(tokenizer, query, fresh, role)[2:]  # without [gMASK] sop, which the cache begins with
    return Turn(own, cache.token_ids, later, cache)


def open_published_turn(
    tokenizer: ChatGLM3Tokenizer, query: str, history: list[Item] | None, role: str, past: Any = None
) -> Turn:
    """A turn as the published code has it: with a cache the history is not encoded, and ``[gMASK] sop`` comes again.

    Raises:
        InvalidRequestError: see ``open_turn``; also when the history cannot grow, or ``past`` is no cache.
    """
    if not isinstance(history, list | None):
        raise InvalidRequestError("history is a list, which legacy=True adds the query to.", param="history")
    check_cache(past)
    own = [*copy_history(history), {"role": role, "content": query}]
    has_past = past is not None and past.get_seq_length() > 0
    fed = chat_input_ids(tokenizer, query, [] if has_past else own[:-1], role)
    return Turn(own, [], fed, past if has_past else None)


def tell_caller(history: list[Item] | None, turn: Turn) -> None:
    """Add the query to the caller's own list, as the published code does."""
    if history is not None:
        history.append(dict(turn.history[-1]))


class Answer:
    """The text of one answer as its ids come, and the messages that it is.

    Args:
        tokenizer: whose ids they are.
        history: the messages before it, the query included.
        is_published: split at the literal ``<|assistant|>`` and evaluate unfinished calls, as the published code does.
    """

    def __init__(self, tokenizer: ChatGLM3Tokenizer, history: list[Item], *, is_published: bool) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._assistant = tokenizer.get_command(_ASSISTANT)
        self._history = history
        self._is_published = is_published
        self._parts = [""]

    def push(self, token_id: int) -> None:
        """Take the next id; never a stop id."""
        text = self._detokenizer.push(token_id)
        if token_id == self._assistant and not self._is_published:
            self._parts[-1] += text.removesuffix(_ASSISTANT)
            self._parts.append("")
        else:
            self._parts[-1] += text

    def flush(self) -> None:
        """Show the bytes of an unfinished character, one U+FFFD each."""
        self._parts[-1] += self._detokenizer.flush()

    @property
    def can_be_shown(self) -> bool:
        """Whether there is text and none of it is broken yet: what ``stream_chat`` yields."""
        last = self._parts[-1]
        if self._detokenizer.pending or last.endswith(_BROKEN):
            return False
        return bool(last) or len(self._parts) > 1

    def read(self, *, is_partial: bool = False) -> tuple[Content, list[Item]]:
        """What ``chat`` returns, and the answer's messages.

        Raises:
            ToolCallError: tools are on offer, and the whole answer names one without calling it as it must.
        """
        parts = self._parts[0].split(_ASSISTANT) if self._is_published else self._parts
        items = response_items(parts)
        return response_content(items, self._history, is_partial=is_partial and not self._is_published), items


def check_query(query: object) -> None:
    """Raises InvalidRequestError when the query is no text."""
    if not isinstance(query, str):
        raise InvalidRequestError(f"query is a text, not {type(query).__name__}.", param="query")
