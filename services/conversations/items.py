"""Items on their way into a store."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from services.conversations import ids
from services.conversations.records import Item


def name_items(items: Sequence[Item], conversation: str) -> list[Item]:
    """The items with an id and a time where they had none."""
    now = int(time.time())
    return [
        msgspec.structs.replace(item, id=item.id or ids.new_item(conversation), created_at=item.created_at or now)
        for item in items
    ]


def answer_of(items: Sequence[Item]) -> Item | None:
    """The answer among a turn's items: the last one, where the model sampled it (a caller may send answers too)."""
    return items[-1] if items and items[-1].ids is not None else None


def spoken_ids(answer: Item | None) -> list[int]:
    """The ids that an answer keeps; none where there is no answer."""
    return list(answer.ids or ()) if answer else []
