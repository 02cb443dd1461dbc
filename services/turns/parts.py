"""What every turn of a process shares, handed down instead of looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.base import Backend
from services.conversations.queueing import DueIndex, Publishes
from services.conversations.store import ConversationStore, IdIndex
from services.turns.metrics import TurnMetrics
from services.turns.settings import ServedModel, TurnSettings


@dataclass(frozen=True, slots=True)
class TurnParts:
    """The seams and values of all turns of one process. ``clock`` gives monotonic seconds."""

    backend: Backend
    store: ConversationStore
    index: IdIndex
    due: DueIndex
    queue: Publishes
    tokenizer: ChatGLM3Tokenizer
    model: ServedModel
    settings: TurnSettings = field(default_factory=TurnSettings)
    metrics: TurnMetrics = field(default_factory=TurnMetrics)
    clock: Callable[[], float] = time.monotonic
