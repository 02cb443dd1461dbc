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


def answer_id(items: Sequence[Item]) -> str:
    """Id of the answer among a turn's items: the last one, where the assistant wrote it; else ``""``."""
    return items[-1].id if items and items[-1].role == "assistant" else ""
