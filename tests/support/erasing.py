"""An eraser over memory."""

from __future__ import annotations

from services.backend.base import Backend
from services.conversations.erasures import Erasures
from services.conversations.queueing import DueIndex, Publishes
from services.conversations.store import ConversationStore
from services.conversations.timed_set import MemoryTimedSet, TimedSet
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryDueIndex, MemoryQueue
from services.turns.erasure import Eraser, ErasureSettings
from services.turns.removal import Removal


def an_eraser(
    store: ConversationStore,
    backend: Backend,
    *,
    queue: Publishes | None = None,
    due: DueIndex | None = None,
    entries: TimedSet | None = None,
    settings: ErasureSettings | None = None,
) -> Eraser:
    """One gateway's, with whatever is not given in memory and of its own."""
    erasures = Erasures(entries or MemoryTimedSet())
    removal = Removal(store, queue or MemoryQueue(BACKGROUND), due or MemoryDueIndex(), erasures)
    return Eraser(removal, erasures, backend, settings)
