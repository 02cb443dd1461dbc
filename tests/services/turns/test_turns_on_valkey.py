"""Turns over a real server: two processes, a frozen store, a dead owner."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.errors import ConversationBusyError
from services.backend.scripted import ScriptedBackend
from services.conversations.records import Item, TurnState
from services.conversations.redis_index import RedisIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.turns.events import EventKind, Message, Role, Truncation, TurnEvent
from services.turns.prompt import digest, prompt_ids
from services.turns.rebuild import prompt_messages
from services.turns.settings import JournalSettings, TurnSettings
from tests.support.turn_kit import QUICK, TENANT, TurnKit, collect, deltas, until, user
from tests.support.valkey import running_valkey

pytestmark = pytest.mark.valkey

TEXT = "Hello there. How are you?"


@pytest.fixture(scope="module")
def server():
    with running_valkey() as server:
        yield server


@pytest.fixture
async def kit(tokenizer, server):
    link = RedisLink(server.url)
    index = RedisIdIndex(link)
    backend = ScriptedBackend(tokenizer.encode_text("\n " + TEXT))
    kit = TurnKit(tokenizer, backend, store=RedisConversationStore(link), index=index)
    await kit.service.start()
    yield kit
    await kit.service.stop()
    await index.close()
    await link.close()
    assert server.keys_without_ttl() == []


async def test_a_conversation_goes_on_in_another_process(kit):
    """Nothing but the store connects the two, and the prompt continues with the sampled ids."""
    conversation = await kit.conversation()
    await collect(kit.service.respond(kit.stored_turn(user("Hi"), conversation=conversation)))
    other = kit.another()
    await other.start()
    _, events = await collect(other.respond(kit.stored_turn(user("more"), conversation=conversation)))
    await other.stop()
    first, second = kit.backend.requests
    held = first.prompt_ids + kit.backend.answer
    assert events[-1].kind is EventKind.COMPLETED
    assert second.prompt_ids[: len(held)] == held
    assert second.hint.tokens == len(held)
    assert len((await kit.store.load(TENANT, conversation)).items) == 4


async def test_a_stateless_callers_answer_gets_its_ids_back(kit):
    """Through the index on the server."""
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    await kit.index.flush()
    history = (user("Hi"), Message(Role.ASSISTANT, deltas(events)), user("more"))
    await collect(kit.service.chat(kit.chat_turn(*history)))
    assert kit.service.metrics.index_hits == 1


async def test_a_store_that_freezes_in_mid_turn_does_not_show(kit, server):
    """The answer is generated meanwhile and recorded when the store is back."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    seen = [await anext(events)]
    with server.stopped():
        kit.backend.gate.set()
        while not (isinstance(seen[-1], TurnEvent) and seen[-1].kind is EventKind.ITEM_DONE):
            seen.append(await anext(events))
    seen += [event async for event in events]
    assert seen[-1].kind is EventKind.COMPLETED
    assert (await kit.store.load(TENANT, conversation)).items[-1].text == TEXT


async def test_a_dead_owners_conversation_is_freed_with_what_it_journalled(kit):
    """Its lease runs out, and the next turn of the conversation closes it first."""
    journal = JournalSettings(lease_s=0.3, margin_s=0.1, flush_s=0.002, renew_s=0.05)
    doomed = replace(kit, settings=TurnSettings(journal=journal)).service
    conversation = await kit.conversation()
    await doomed.start()
    events = doomed.respond(kit.stored_turn(user("Hi"), conversation=conversation))
    started = await anext(events)
    async for event in events:
        if event.kind is EventKind.TEXT_DELTA:
            kit.backend.gate.clear()
            break
    await until(lambda: all(ticket.waiting == 0 for ticket in doomed._journal._tickets))
    await doomed._journal.stop()  # no more signs of life
    for task in doomed._owners:
        task.cancel()
    kit.backend.gate.set()
    await events.aclose()
    other = kit.another(settings=replace(QUICK, orphan_s=0.0))
    await other.start()
    last = None
    while last is None:
        last = await _try(other, kit.stored_turn(user("And now?"), conversation=conversation))
    await other.stop()
    record = await kit.store.turn(TENANT, started.response_id)
    texts = [item.text for item in (await kit.store.load(TENANT, conversation)).items]
    assert record.state is TurnState.INCOMPLETE
    assert texts == ["Hi", record.answer.text, "And now?", TEXT]
    assert TEXT.startswith(record.answer.text)


async def _try(service, turn) -> TurnEvent | None:
    try:
        _, events = await collect(service.respond(turn))
    except ConversationBusyError:
        return None
    return events[-1]


async def test_the_window_of_a_long_conversation_is_kept(kit):
    """Another process goes on with the prompt as it was cut, and a third one can rebuild it."""
    past = [Item(id="", role=role, text="Tell me more") for _ in range(200) for role in ("user", "assistant")]
    rule = Item(id="", role="system", text="Be kind.")
    conversation = (await kit.store.create(TENANT, metadata={}, items=[rule, *past])).id
    other = kit.another()
    await other.start()
    records = []
    for process in (kit.service, other):
        turn = replace(kit.stored_turn(conversation=conversation), truncation=Truncation.AUTO)
        kit.backend.gate.clear()  # the line stays as it is while the turn runs
        async with aclosing(process.respond(turn)) as events:
            record = await kit.store.turn(TENANT, (await anext(events)).response_id)
            rebuilt = prompt_ids(kit.tokenizer, await prompt_messages(kit.store, TENANT, record))
            assert digest(rebuilt) == record.request.prompt_digest
            records.append(record)
            kit.backend.gate.set()
            async for _ in events:
                pass
    await other.stop()
    first, second = kit.backend.requests
    assert records[0].request.window == records[1].request.window != ""
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
