"""An ended answer as an item of its conversation."""

from __future__ import annotations

import time

from services.conversations import ids
from services.conversations.records import Item
from services.turns.events import Role
from services.turns.projection import Projection


def answer_item_id(response_id: str) -> str:
    """The id of a turn's answer. It follows from the turn's own, so whoever ends the turn gives it the same one."""
    return "msg_" + "".join(ids.response_parts(response_id))


def answer_items(
    response_id: str, projection: Projection, answer: list[int], *, is_whole: bool, window: str
) -> list[Item]:
    """The answer as an item, after ``projection.close``; none where no text came."""
    text = projection.text
    if not text:
        return []
    item = Item(
        id=answer_item_id(response_id),
        role=Role.ASSISTANT.value,
        text=text,
        ids=answer,
        turn=response_id,
        status="completed" if is_whole else "incomplete",
        created_at=int(time.time()),
        window=window,
    )
    return [item]
