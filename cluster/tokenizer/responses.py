"""What an answer's text means: messages for the history, and what ``chat`` returns.

The published model splits a text at every ``<|assistant|>``, also where the model merely spelt it; here an answer comes
in parts that were split at the *id*. Names of tools keep their leading blank in the history, as published.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cluster.errors import InvalidRequestError, ToolCallError
from cluster.tokenizer.tool_calls import read_call

Item = dict[str, Any]  # {role, content[, metadata][, tools]}
Content = str | dict[str, Any]

_MARKER: Final = "[[训练时间]]"
_MARKER_VALUE: Final = "2023年"
_ASSISTANT: Final = "<|assistant|>"
_FENCE: Final = "```"


def copy_history(history: Sequence[Item] | None) -> list[Item]:
    """A history of one's own; texts are shared, everything else is copied.

    Raises:
        InvalidRequestError: it is no list of dicts.
    """
    if history is None:
        return []
    if not isinstance(history, (list, tuple)):
        raise InvalidRequestError(f"history is a list of messages, not {type(history).__name__}.", param="history")
    return [_copy_item(item, place) for place, item in enumerate(history)]


def response_items(parts: Sequence[str]) -> list[Item]:
    """The assistant messages that an answer is, one per part: prose is stripped, a tool's turn is kept as it is."""
    return [_item(part) for part in parts]


def response_content(items: Sequence[Item], history: Sequence[Item], *, is_partial: bool = False) -> Content:
    """What ``chat`` returns for an answer: its last message.

    Prose is a text. A turn with a name is ``{"name", "parameters"}`` where the first item of ``history`` is a system
    message with the key ``tools``, otherwise ``{"name", "content"}``. While ``is_partial``, a call that cannot be read
    yet is ``{"name", "content"}`` too.

    Raises:
        ToolCallError: tools are on offer, and the whole answer names one without calling it as it must.
    """
    metadata, content = items[-1]["metadata"], items[-1]["content"]
    name = metadata.strip()
    if not name:
        text: str = content.replace(_MARKER, _MARKER_VALUE)
        return text
    if offers_tools(history) and (not is_partial or _looks_closed(content)):
        try:
            return {"name": name, "parameters": dict(read_call(f"{metadata}\n{content}").arguments)}
        except ToolCallError:
            if not is_partial:
                raise
    return {"name": name, "content": content}


def process_response(output: str, history: Sequence[Item] | None) -> tuple[Content, list[Item]]:
    """The published method: a whole answer's text, split at the literal ``<|assistant|>``, and the history with it.

    Raises:
        InvalidRequestError: the history is no list of dicts.
        ToolCallError: tools are on offer, and the answer names one without calling it as it must. Keeps the text.
    """
    items = response_items(output.split(_ASSISTANT))
    own = copy_history(history)
    return response_content(items, own), [*own, *items]


def offers_tools(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first item is a system message with the key ``tools``, an empty list included."""
    return bool(history) and history[0].get("role") == "system" and "tools" in history[0]


def _item(part: str) -> Item:
    metadata, newline, content = part.partition("\n")
    if not newline:
        metadata, content = "", part
    return {"role": "assistant", "metadata": metadata, "content": content if metadata.strip() else content.strip()}


def _looks_closed(content: str) -> bool:
    """Whether reading the call is worth a try; while it grows, most of its states are not."""
    return content.count(_FENCE) > 1 and content.rstrip().endswith(_FENCE)


def _copy_item(item: Item, place: int) -> Item:
    if not isinstance(item, dict):
        raise InvalidRequestError(
            f"history[{place}] is {type(item).__name__}; each item is a dict with role and content.", param="history"
        )
    copied: Item = _copy_value(item)
    return copied


def _copy_value(value: Any) -> Any:
    """A deep copy, quick for JSON's values: a stream makes one at each token."""
    if isinstance(value, str | int | float | None):
        return value
    if type(value) is dict:
        return {key: _copy_value(held) for key, held in value.items()}
    return [_copy_value(held) for held in value] if type(value) is list else copy.deepcopy(value)
