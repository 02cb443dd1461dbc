"""Dispatchers over one set of stores, with short names for what tests ask of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.records import TurnRecord
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.settings import DispatcherSettings
from services.queue.keys import BACKGROUND
from services.queue.memory_queue import MemoryDueIndex, MemoryQueue
from services.turns.events import StoredTurn
from services.turns.service import TurnService
from services.turns.settings import JournalSettings, TurnSettings
from tests.fakes.unsteady_store import UnsteadyStore
from tests.support.turn_kit import MODEL, TENANT, TurnKit, a_service, user

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
# Looks all the time, so that tests wait for conditions only; what takes long in earnest is moved by the clock.
EAGER = DispatcherSettings(
    poll_s=0.001,
    care_s=0.002,
    extend_s=0.005,
    first_pause_s=0.001,
    longest_pause_s=0.002,
    refused_s=0.001,
    again_s=0.0,
    absent_s=0.0,
)
JOURNAL = JournalSettings(flush_s=0.002, renew_s=0.01, retry_s=0.001)


class Skewed:
    """Unix seconds of a store's server, ahead of the true ones by ``by``."""

    def __init__(self) -> None:
        self.by = 0.0

    def __call__(self) -> float:
        return time.time() + self.by


def drawn_answer(tokenizer: ChatGLM3Tokenizer, *, words: int = 8) -> Callable[[GenerateRequest], Sequence[int]]:
    """Answers that follow from the seed and the prompt, as sampled ones do: another draw is another answer."""

    def answer(request: GenerateRequest) -> Sequence[int]:
        drawn = (request.sampling.seed >> 3) + sum(request.prompt_ids)
        text = " ".join(WORDS[drawn // 8**i % 8] for i in range(words))
        return tokenizer.encode_text(f"\n {text}")

    return answer


@dataclass
class DispatchKit:
    """Everything that several processes share; ``turns`` accepts turns as a gateway does."""

    tokenizer: ChatGLM3Tokenizer
    backend: ScriptedBackend
    settings: TurnSettings = field(default_factory=lambda: TurnSettings(max_retry_s=0.0, journal=JOURNAL))
    clock: Skewed = field(default_factory=Skewed)
    store: Any = None
    due: Any = None
    queue: Any = None

    def __post_init__(self) -> None:
        self.store = self.store or UnsteadyStore(clock=self.clock)
        self.due = self.due or MemoryDueIndex(clock=self.clock)
        self.queue = self.queue or MemoryQueue(BACKGROUND, clock=self.clock)
        self.turns = self.service()

    def service(self, seen: Callable[[Any], Any] = lambda store: store, **seams: Any) -> TurnService:
        """The turns of one process, which sees the stores as ``seen`` says."""
        kit = TurnKit(self.tokenizer, self.backend, settings=self.settings)
        own = {
            "backend": self.backend,
            "store": seen(self.store),
            "due": seen(self.due),
            "queue": seen(self.queue),
            "index": kit.index,
            "tokenizer": self.tokenizer,
            "model": MODEL,
            "settings": self.settings,
        }
        return a_service(**(own | seams))

    @asynccontextmanager
    async def dispatcher(
        self,
        name: str = "d",
        seen: Callable[[Any], Any] = lambda store: store,
        *,
        seams: dict[str, Any] | None = None,
        is_killed: bool = False,
        **settings: Any,
    ) -> AsyncIterator[Dispatcher]:
        """One at work; ``is_killed``: it ends as by kill -9."""
        turns = self.service(seen, **(seams or {}))
        await turns.start()
        made = Dispatcher(
            turns,
            seen(self.store),
            seen(self.queue),
            seen(self.due),
            name=name,
            settings=replace(EAGER, **settings),
            clock=self.clock,
        )
        await made.start()
        try:
            yield made
        finally:
            if is_killed:
                await kill(made, turns)
            else:
                await made.stop()
                await turns.stop()

    def background(self, text: str = "Hi", **changes: Any) -> StoredTurn:
        """A turn that nobody waits for."""
        options = changes.pop("options", {})
        turn = TurnKit(self.tokenizer, self.backend).stored_turn(user(text), **options)
        return replace(turn, is_background=True, **changes)

    async def enqueue(self, text: str = "Hi", **changes: Any) -> str:
        """Have one accepted; its id."""
        return await self.turns.enqueue(self.background(text, **changes))

    async def record(self, turn: str, tenant: str = TENANT) -> TurnRecord:
        """A turn's record."""
        return await self.store.turn(tenant, turn)

    async def ended(self, turn: str, tenant: str = TENANT, *, timeout_s: float = 20.0) -> TurnRecord:
        """Its record, once it has ended."""

        async def has_ended() -> bool:
            return not (await self.record(turn, tenant)).state.is_open

        await eventually(has_ended, timeout_s)
        return await self.record(turn, tenant)

    async def holds(self, turn: str, ids: int) -> None:
        """Wait until its journal does."""

        async def are_held() -> bool:
            return (await self.record(turn)).total >= ids

        await eventually(are_held)

    async def delays_one(self) -> None:
        """Wait until a job is to be tried again later."""

        async def is_delayed() -> bool:
            return (await self.queue.lag()).delayed > 0

        await eventually(is_delayed)

    async def num_due(self) -> int:
        """Turns that somebody will look at, now or later."""
        return len(self.due.times)

    async def is_settled(self) -> bool:
        """Whether nothing waits, is in work or delayed, and nothing is to be looked at."""
        lag = await self.queue.lag()
        return lag.waiting == lag.working == lag.delayed == await self.num_due() == 0

    async def settled(self) -> None:
        """Wait until that is so."""
        await eventually(self.is_settled)


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Wait for a condition that a store is asked for."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - what is waited for is in a store
            await asyncio.sleep(0.002)


async def kill(dispatcher: Dispatcher, turns: TurnService) -> None:
    """End both without a word to anybody, as kill -9 does."""
    tasks = [*dispatcher._loops, *dispatcher._slots._tasks, *turns._owners]
    for task in tasks:
        task.cancel()
    for writer in (turns._journal, turns._tails):
        await writer.stop()
    await asyncio.wait(tasks)
