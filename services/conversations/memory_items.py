"""The scripts on a conversation's items, in memory: each function is one of ``scripts.items``, on one root's state."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import ConversationBusyError, ConversationFullError, NotFoundError
from services.conversations.item_store import ItemPage
from services.conversations.memory_state import LineState, RootState
from services.conversations.memory_turns import append as put
from services.conversations.records import Item


def page(root: RootState, line: LineState, *, after: str | None, limit: int, descending: bool) -> ItemPage:
    """A page of items, those that were erased left out."""
    ordered = line.items[::-1] if descending else line.items
    if after and after not in ordered:
        raise NotFoundError("item", after)
    start = ordered.index(after) + 1 if after else 0
    found = root.read(ordered[start:])
    return ItemPage(items=found[:limit], has_more=limit < len(found))


def one(root: RootState, line: LineState, item: str) -> Item:
    """One item of the line."""
    if item not in line.items or item not in root.items:
        raise NotFoundError("item", item)
    return root.items[item]


def append(root: RootState, line: LineState, items: Sequence[Item], *, max_items: int) -> None:
    """Put items at the end of a free line."""
    _check_free(root, line)
    if len(line.items) + len(items) > max_items:
        raise ConversationFullError(held=len(line.items), limit=max_items)
    put(root, line, items)
    line.version += 1


def delete(root: RootState, line: LineState, item: str) -> None:
    """Take one item out of a free line."""
    if item not in line.items:
        raise NotFoundError("item", item)
    _check_free(root, line)
    line.items.remove(item)
    root.items.pop(item, None)
    line.version += 1


def _check_free(root: RootState, line: LineState) -> None:
    """A record that is gone altogether no longer holds its line."""
    if line.active in root.turns:
        raise ConversationBusyError(line.active)
