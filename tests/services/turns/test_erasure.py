"""Erasing what a tenant wants gone: the record, then its KV on every replica, however often that has to be said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from cluster.errors import ConversationBusyError, NotFoundError, StoreUnavailableError
from cluster.protocol import Label
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.base import Erased
from services.backend.scripted import ScriptedBackend
from services.conversations import ids
from services.conversations.keys import ERASURE_TTL_S
from services.conversations.timed_set import MemoryTimedSet
from services.turns.erasure import Eraser, ErasureSettings
from services.turns.events import EventKind, TurnEvent, TurnStarted
from services.turns.pin import conversation_key
from tests.fakes.fake_clock import FakeClock
from tests.fakes.unsteady_set import UnsteadySet
from tests.support.erasing import an_eraser
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


@pytest.fixture
def clock() -> FakeClock:
    """The store's."""
    return FakeClock()


@pytest.fixture
def entries(clock: FakeClock) -> UnsteadySet:
    """What replicas are to be told."""
    return UnsteadySet(clock=clock)


@asynccontextmanager
async def erasing(
    kit: TurnKit, entries: MemoryTimedSet, settings: ErasureSettings = QUICK, *, is_started: bool = True
) -> AsyncIterator[Eraser]:
    """A gateway's eraser; one that is not started tells nothing again."""
    eraser = an_eraser(kit.store, kit.backend, queue=kit.queue, due=kit.due, entries=entries, settings=settings)
    if is_started:
        await eraser.start()
    try:
        yield eraser
    finally:
        await eraser.stop()


def label_of(conversation: str) -> Label:
    """What replicas know a conversation's KV by."""
    return Label(tenant=TENANT, pin_key=conversation_key(TENANT, ids.conversation_root(conversation)))


async def cached_tokens(kit: TurnKit, conversation: str) -> int:
    """What the next turn of a conversation finds."""
    _, events = await collect(kit.service.respond(kit.stored_turn(LONG, conversation=conversation)))
    assert events[-1].result is not None
    return events[-1].result.usage.cached_tokens


async def test_record_and_pages_are_gone_and_another_conversation_keeps_its_own(
    kit: TurnKit, entries: UnsteadySet
) -> None:
    """The answer counts the pages; all replicas were reached."""
    erased, other = await kit.conversation(), await kit.conversation()
    for conversation in (erased, other):
        await cached_tokens(kit, conversation)
    async with erasing(kit, entries) as eraser:
        told = await eraser.erase_conversation(TENANT, erased)
    assert told.dropped > 0
    assert (told.held, told.reached, told.missed) == (0, {"replica-a", "replica-b"}, frozenset())
    with pytest.raises(NotFoundError):
        await kit.store.conversation(TENANT, erased)
    assert await cached_tokens(kit, other) > 0


async def test_an_erased_response_takes_its_pages_along(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet
) -> None:
    """All that share a beginning with it: they are known by one label."""
    started, _ = await collect(kit.service.respond(kit.stored_turn(LONG)))
    async with erasing(kit, entries) as eraser:
        told = await eraser.erase_turn(TENANT, started.response_id)
        assert told.dropped > 0
        assert (list(backend._kept), len(entries.times)) == ([], 1)
        with pytest.raises(NotFoundError):
            await eraser.erase_turn(TENANT, started.response_id)
    assert backend.told == [[label_of(ids.conversation_of(started.response_id))]]


async def test_an_erased_item_takes_its_pages_along(kit: TurnKit, backend: NotedBackend, entries: UnsteadySet) -> None:
    """Its text stands in them; the conversation is answered."""
    conversation = await kit.conversation()
    await cached_tokens(kit, conversation)
    first = (await kit.store.item_ids(TENANT, conversation))[0]
    async with erasing(kit, entries) as eraser:
        assert (await eraser.erase_item(TENANT, conversation, first)).id == conversation
    assert (backend.told, list(backend._kept)) == ([[label_of(conversation)]], [])
    assert first not in await kit.store.item_ids(TENANT, conversation)


async def test_what_is_not_erased_troubles_no_replica(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet
) -> None:
    """Unknown, another tenant's, malformed, or busy; and nothing is left to be told."""
    conversation, backend.frame = await kit.conversation(), 40
    await cached_tokens(kit, conversation)
    item = (await kit.store.item_ids(TENANT, conversation))[0]
    running = kit.service.respond(kit.stored_turn(conversation=conversation))
    await anext(running)
    async with erasing(kit, entries) as eraser:
        for erasing_it in (
            eraser.erase_conversation(TENANT, ids.new_conversation()),
            eraser.erase_conversation("umbrella", conversation),
            eraser.erase_turn(TENANT, ids.new_response(conversation)),
            eraser.erase_turn(TENANT, "resp_x"),
            eraser.erase_item(TENANT, conversation, "msg_x"),
        ):
            with pytest.raises(NotFoundError):
                await erasing_it
        with pytest.raises(ConversationBusyError):
            await eraser.erase_item(TENANT, conversation, item)
    await running.aclose()
    assert (backend.told, entries.times) == ([], {})


async def test_an_erasure_that_cannot_be_noted_does_not_begin(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet
) -> None:
    """Else its pages might stay for ever."""
    conversation, entries.is_away = await kit.conversation(), True
    async with erasing(kit, entries) as eraser:
        with pytest.raises(StoreUnavailableError):
            await eraser.erase_conversation(TENANT, conversation)
    assert backend.told == []
    assert (await kit.store.conversation(TENANT, conversation)).id == conversation


async def test_an_erasure_that_nobody_knows_the_end_of_is_told(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """The store may have done it and not said so; a prefill too many is the smaller harm."""
    conversation = await kit.conversation()
    kit.store.is_away = True
    async with erasing(kit, entries) as eraser:
        with pytest.raises(StoreUnavailableError):
            await eraser.erase_conversation(TENANT, conversation)
        assert backend.told == []
        clock.now += 10
        await until(lambda: backend.told)
    assert backend.told == [[label_of(conversation)]]


async def test_a_missed_replica_is_told_until_it_answers(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """And once more when no turn can be running that has not heard."""
    conversation = await kit.conversation()
    await cached_tokens(kit, conversation)
    backend.unreachable.add("replica-a")
    async with erasing(kit, entries) as eraser:
        assert (await eraser.erase_conversation(TENANT, conversation)).missed == {"replica-a"}
        clock.now += 1
        await until(lambda: len(backend.told) > 1)
        assert backend._kept, "it had something"
        backend.unreachable.clear()
        clock.now += 1
        await until(lambda: not backend._kept)
        assert len(entries.times) == 1
        told = len(backend.told)
        clock.now += 60
        await until(lambda: not entries.times)
    assert backend.told == [[label_of(conversation)]] * (told + 1)


async def test_a_replica_that_was_replaced_is_missed_no_more(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """Its memory went with it."""
    backend.unreachable.add("replica-a")
    async with erasing(kit, entries) as eraser:
        await eraser.erase_conversation(TENANT, await kit.conversation())
        backend.incarnations = ("replica-b", "replica-c")
        clock.now += 60
        await until(lambda: not entries.times)


@pytest.mark.parametrize("is_missed", [False, True])
async def test_what_a_dead_gateway_has_left_to_be_told_another_one_tells(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock, *, is_missed: bool
) -> None:
    """Whether a replica had not answered, or only the last telling was due."""
    conversation = await kit.conversation()
    if is_missed:
        backend.unreachable.add("replica-a")
    async with erasing(kit, entries, is_started=False) as dying:
        await dying.erase_conversation(TENANT, conversation)
    backend.unreachable.clear()
    async with erasing(kit, entries):
        clock.now += 60
        await until(lambda: not entries.times)
    assert backend.told == [[label_of(conversation)]] * 2


async def test_a_gateway_that_dies_before_it_tells_anybody_leaves_it_to_another(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """As does an operator's command, which reaches no replica at all."""
    conversation = await kit.conversation()
    async with erasing(kit, entries, is_started=False) as dying:
        await dying._removal.conversation(TENANT, conversation)
    async with erasing(kit, entries):
        clock.now += 5
        await until(lambda: backend.told)
        clock.now += 60
        await until(lambda: not entries.times)
    assert backend.told == [[label_of(conversation)]] * 2


async def test_of_many_gateways_one_tells(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """What one has found is hidden from the others."""
    backend.unreachable.add("replica-a")
    async with erasing(kit, entries, is_started=False) as eraser:
        await eraser.erase_conversation(TENANT, await kit.conversation())
        backend.unreachable.clear()
        clock.now += 1
        for _ in range(3):
            await eraser._tell_due()
    assert len(backend.told) == 2


async def test_many_erasures_are_told_again_in_few_calls(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """As many labels in one as the settings allow."""
    async with erasing(kit, entries, ErasureSettings(retry_s=0.001, settle_s=60.0, max_labels=4)) as eraser:
        for _ in range(6):
            await eraser.erase_conversation(TENANT, await kit.conversation())
        clock.now += 60
        await until(lambda: not entries.times)
    assert [len(labels) for labels in backend.told[6:]] == [4, 2]


async def test_what_nobody_hears_is_given_up_after_a_day(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """Whatever keeps it from being heard, saying it again does not mend."""
    backend.failures = 1
    async with erasing(kit, entries) as eraser:
        await eraser.erase_conversation(TENANT, await kit.conversation())
        clock.now += ERASURE_TTL_S
        await until(lambda: not entries.times)
    assert len(backend.told) == 1


async def test_a_failure_of_the_backend_fails_neither_the_erasure_nor_the_telling(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """Somebody was missed then, and the next round comes all the same."""
    conversation = await kit.conversation()
    backend.failures = 3
    async with erasing(kit, entries) as eraser:
        assert (await eraser.erase_conversation(TENANT, conversation)).missed
        for _ in range(2):
            told = len(backend.told)
            clock.now += 60
            await until(lambda told=told: len(backend.told) > told)
        clock.now += 60
        await until(lambda: not entries.times)
    assert backend.failures == 0


async def test_a_store_that_goes_away_behind_the_record_fails_nothing(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet, clock: FakeClock
) -> None:
    """Nor does it end the looking: once it is back, what is noted is told again."""
    conversation, entries.calls_left = await kit.conversation(), 2
    async with erasing(kit, entries) as eraser:
        assert not (await eraser.erase_conversation(TENANT, conversation)).missed
        looks = entries.refused
        await until(lambda: entries.refused > looks)
        entries.is_away = False
        clock.now += 60
        await until(lambda: not entries.times)
    assert len(backend.told) == 2


async def test_a_turn_that_runs_meanwhile_leaves_nothing(
    kit: TurnKit, backend: NotedBackend, entries: UnsteadySet
) -> None:
    """It ends with an error, and what it had computed is not found."""
    conversation = await kit.conversation()
    events = kit.service.respond(kit.stored_turn(LONG, conversation=conversation))
    assert isinstance(await anext(events), TurnStarted)
    backend.gate.clear()
    async with erasing(kit, entries) as eraser:
        erasing_it = await eraser.erase_conversation(TENANT, conversation)
        assert (erasing_it.dropped, erasing_it.held > 0) == (0, True)
        last = [event async for event in events][-1]
    assert isinstance(last, TurnEvent)
    assert last.kind is EventKind.BROKEN
    assert (list(backend._kept), backend._running) == ([], {})
