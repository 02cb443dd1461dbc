"""For how long the KV of a turn is worth keeping, told by what the turn is.

It is a wish, not a hold: among a tenant's pages it puts those first that a next turn will ask for. A conversation is
known to be one by its id or by the answer it goes on from, a stateless chat only once it sends an answer back; its
first turn looks like any question.
"""

from __future__ import annotations

from services.turns.events import ChatTurn, Role, StoredTurn
from services.turns.settings import KeepSettings


def keep_s(settings: KeepSettings, turn: ChatTurn | StoredTurn) -> float:
    """Seconds. A turn that neither goes on from others nor has answers in its history is kept for none."""
    if isinstance(turn, StoredTurn) and (turn.conversation or turn.previous):
        return settings.conversation_s
    messages = turn.input if isinstance(turn, StoredTurn) else turn.messages
    return settings.chat_s if any(message.role is Role.ASSISTANT for message in messages) else 0.0
