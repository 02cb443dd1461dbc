"""Erasing a conversation: the record, then its KV on every replica, however often that has to be said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from cluster.errors import NotFoundError, StoreUnavailableError
from cluster.protocol import Label
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.base import Erased
from services.backend.scripted import ScriptedBackend
from services.conversations import ids
from services.turns.erasure import Eraser, ErasureSettings
from services.turns.events import EventKind, TurnEvent, TurnStarted
from services.turns.pin import conversation_key
from tests.fakes.fake_clock import FakeClock
from tests.support.turn_kit import TENANT, TurnKit, collect, until, user

QUICK = ErasureSettings(retry_s=0.001, settle_s=60.0)
LONG = user("A question of more than a page, which is why it goes on and on, and then on for a little more.")


class NotedBackend(ScriptedBackend):
    """Keeps what it was told to forget, call by call.

    Attributes:
        failures: the next calls that raise what nobody foresaw.
    """

    def __init__(self, answer: Sequence[int]) -> None:
        super().__init__(answer)
        self.told: list[list[Label]] = []
        self.failures = 0

    async def forget(self, labels: Sequence[Label]) -> Erased:
        self.told.append(list(labels))
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        return await super().forget(labels)


@pytest.fixture
def backend() -> NotedBackend:
    """Two replicas."""
    return NotedBackend([5] * 40)


@pytest.fixture
async def kit(tokenizer: ChatGLM3Tokenizer, backend: NotedBackend) -> AsyncIterator[TurnKit]:
    """Turns over those replicas."""
    kit = TurnKit(tokenizer, backend)
    await kit.service.start()
    yield kit
    await kit.service.stop()


@asynccontextmanager
async def erasing(kit: TurnKit, clock: FakeClock, settings: ErasureSettings = QUICK) -> AsyncIterator[Eraser]:
    """An eraser that tells again as the clock says."""
    eraser = Eraser(kit.store, kit.backend, settings, clock)
    await eraser.start()
    try:
        yield eraser
    finally:
        await eraser.stop()


async def cached_tokens(kit: TurnKit, conversation: str) -> int:
    """What the next turn of a conversation finds."""
    _, events = await collect(kit.service.respond(kit.stored_turn(LONG, conversation=conversation)))
    assert events[-1].result is not None
    return events[-1].result.usage.cached_tokens


async def test_record_and_pages_are_gone_and_another_conversation_keeps_its_own(kit: TurnKit) -> None:
    """The answer counts the pages; all replicas were reached."""
    erased, other = await kit.conversation(), await kit.conversation()
    for conversation in (erased, other):
        await cached_tokens(kit, conversation)
    async with erasing(kit, FakeClock()) as eraser:
        told = await eraser.erase_conversation(TENANT, erased)
    assert told.dropped > 0
    assert (told.held, told.reached, told.missed) == (0, {"replica-a", "replica-b"}, frozenset())
    with pytest.raises(NotFoundError):
        await kit.store.conversation(TENANT, erased)
    assert await cached_tokens(kit, other) > 0


async def test_an_unknown_conversation_troubles_no_replica(kit: TurnKit, backend: NotedBackend) -> None:
    """Nor does one of another tenant."""
    conversation = await kit.conversation()
    async with erasing(kit, FakeClock()) as eraser:
        for tenant, name in ((TENANT, ids.new_conversation()), ("umbrella", conversation)):
            with pytest.raises(NotFoundError):
                await eraser.erase_conversation(tenant, name)
    assert backend.told == []


async def test_a_store_that_is_away_comes_first(kit: TurnKit, backend: NotedBackend) -> None:
    """While the record is there nothing is forgotten."""
    conversation = await kit.conversation()
    kit.store.is_away = True
    async with erasing(kit, FakeClock()) as eraser:
        with pytest.raises(StoreUnavailableError):
            await eraser.erase_conversation(TENANT, conversation)
        assert (backend.told, eraser.num_pending) == ([], 0)


async def test_a_missed_replica_is_told_until_it_answers(kit: TurnKit, backend: NotedBackend) -> None:
    """And once more when no turn can be running that has not heard."""
    clock, conversation = FakeClock(), await kit.conversation()
    await cached_tokens(kit, conversation)
    label = Label(tenant=TENANT, pin_key=conversation_key(TENANT, ids.conversation_root(conversation)))
    backend.unreachable.add("replica-a")
    async with erasing(kit, clock) as eraser:
        assert (await eraser.erase_conversation(TENANT, conversation)).missed == {"replica-a"}
        clock.now += 1
        await until(lambda: len(backend.told) > 1)
        assert backend._kept, "it had something"
        backend.unreachable.clear()
        clock.now += 1
        await until(lambda: not backend._kept)
        assert eraser.num_pending == 1
        told = len(backend.told)
        clock.now += 60
        await until(lambda: not eraser.num_pending)
    assert backend.told == [[label]] * (told + 1)


async def test_a_replica_that_was_replaced_is_missed_no_more(kit: TurnKit, backend: NotedBackend) -> None:
    """Its memory went with it."""
    clock, conversation = FakeClock(), await kit.conversation()
    backend.unreachable.add("replica-a")
    async with erasing(kit, clock) as eraser:
        await eraser.erase_conversation(TENANT, conversation)
        backend.incarnations = ("replica-b", "replica-c")
        clock.now += 60
        await until(lambda: not eraser.num_pending)


async def test_many_erasures_are_told_again_in_few_calls(kit: TurnKit, backend: NotedBackend) -> None:
    """As many labels in one as the settings allow."""
    clock = FakeClock()
    async with erasing(kit, clock, ErasureSettings(retry_s=0.001, settle_s=60.0, max_labels=4)) as eraser:
        for _ in range(6):
            await eraser.erase_conversation(TENANT, await kit.conversation())
        clock.now += 60
        await until(lambda: not eraser.num_pending)
    assert [len(labels) for labels in backend.told[6:]] == [4, 2]


async def test_what_waits_to_be_told_is_bounded(kit: TurnKit, backend: NotedBackend) -> None:
    """The oldest is given up."""
    backend.unreachable.add("replica-a")
    async with erasing(kit, FakeClock(), ErasureSettings(retry_s=60.0, max_pending=2)) as eraser:
        for _ in range(3):
            await eraser.erase_conversation(TENANT, await kit.conversation())
        assert eraser.num_pending == 2


async def test_a_failure_of_the_backend_fails_neither_the_erasure_nor_the_telling(
    kit: TurnKit, backend: NotedBackend
) -> None:
    """Somebody was missed then, and the next round comes all the same."""
    clock, conversation = FakeClock(), await kit.conversation()
    backend.failures = 3
    async with erasing(kit, clock) as eraser:
        assert (await eraser.erase_conversation(TENANT, conversation)).missed
        for _ in range(2):
            told = len(backend.told)
            clock.now += 60
            await until(lambda told=told: len(backend.told) > told)
        clock.now += 60
        await until(lambda: not eraser.num_pending)
    assert backend.failures == 0


async def test_a_turn_that_runs_meanwhile_leaves_nothing(kit: TurnKit, backend: NotedBackend) -> None:
    """It ends with an error, and what it had computed is not found."""
    conversation = await kit.conversation()
    events = kit.service.respond(kit.stored_turn(LONG, conversation=conversation))
    assert isinstance(await anext(events), TurnStarted)
    backend.gate.clear()
    async with erasing(kit, FakeClock()) as eraser:
        erasing_it = await eraser.erase_conversation(TENANT, conversation)
        assert (erasing_it.dropped, erasing_it.held > 0) == (0, True)
        last = [event async for event in events][-1]
    assert isinstance(last, TurnEvent)
    assert last.kind is EventKind.BROKEN
    assert (list(backend._kept), backend._running) == ([], {})
