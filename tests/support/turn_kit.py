"""A turn service over scripted tokens and memory, with short names for what tests ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.memory_index import MemoryIdIndex
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryDueIndex, MemoryQueue
from services.turns.events import (
    ChatTurn,
    EventKind,
    GenerationOptions,
    Message,
    Role,
    StoredTurn,
    TurnEvent,
    TurnStarted,
)
from services.turns.parts import TurnParts
from services.turns.service import TurnService
from services.turns.settings import JournalSettings, ServedModel, TurnSettings
from tests.fakes.unsteady_store import UnsteadyStore

TINY = Path(__file__).parents[1] / "parity" / "data" / "tiny"
TENANT = "acme"
MODEL = ServedModel(name="chatglm3-tiny", context_length=512, fingerprint="fp_1")
# Short enough that tests wait for conditions only; the lease is never in question unless a test makes it so.
QUICK = TurnSettings(max_retry_s=0.0, resume_s=0.0, journal=JournalSettings(flush_s=0.002, renew_s=0.01, retry_s=0.001))


def a_service(**seams: Any) -> TurnService:
    """A turn service with a queue and a due index in memory, unless others are given."""
    own: dict[str, Any] = {"due": MemoryDueIndex(), "queue": MemoryQueue(BACKGROUND)}
    return TurnService(TurnParts(**(own | seams)))


def user(text: str) -> Message:
    """A user's message."""
    return Message(Role.USER, text)


@dataclass
class TurnKit:
    """One service and its seams."""

    tokenizer: ChatGLM3Tokenizer
    backend: ScriptedBackend
    settings: TurnSettings = QUICK
    model: ServedModel = MODEL
    store: UnsteadyStore = field(default_factory=UnsteadyStore)
    index: MemoryIdIndex = field(default_factory=MemoryIdIndex)
    due: MemoryDueIndex = field(default_factory=MemoryDueIndex)
    queue: MemoryQueue = field(default_factory=lambda: MemoryQueue(BACKGROUND))
    service: TurnService = field(init=False)

    def __post_init__(self) -> None:
        self.service = self.another()

    def parts(self, **seams: Any) -> TurnParts:
        """What the turns of one process share; ``seams`` are its own."""
        names = ("backend", "store", "index", "due", "queue", "tokenizer", "model", "settings")
        return TurnParts(**({name: getattr(self, name) for name in names} | seams))

    def another(self, **seams: Any) -> TurnService:
        """A second process over the same stores."""
        return TurnService(self.parts(**seams))

    def chat_turn(self, *messages: Message, cache_key: str | None = None, **options: object) -> ChatTurn:
        """A stateless turn."""
        made = GenerationOptions(**options)  # type: ignore[arg-type] # tests name the fields
        return ChatTurn(TENANT, "req_1", messages or (user("Hi"),), made, cache_key)

    def stored_turn(
        self, *messages: Message, conversation: str | None = None, instructions: str | None = None, **options: object
    ) -> StoredTurn:
        """A stored turn."""
        made = GenerationOptions(**options)  # type: ignore[arg-type] # tests name the fields
        return StoredTurn(TENANT, "req_1", messages or (user("Hi"),), conversation, instructions, made)

    async def conversation(self) -> str:
        """A new conversation's id."""
        return (await self.store.create(TENANT, metadata={})).id


async def collect(events: AsyncIterator[TurnStarted | TurnEvent]) -> tuple[TurnStarted, list[TurnEvent]]:
    """All of a turn."""
    started, *rest = [event async for event in events]
    assert isinstance(started, TurnStarted)
    return started, [event for event in rest if isinstance(event, TurnEvent)]


def deltas(events: Iterable[TurnEvent]) -> str:
    """The text as a client joins it."""
    return "".join(event.text for event in events if event.kind is EventKind.TEXT_DELTA)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition, giving way to the loop; a stuck test fails with a clear line."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.001)
