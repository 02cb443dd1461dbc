"""Whoever takes a turn over arrives at the prompt that its record names."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import msgspec
import pytest

from cluster.errors import TurnLostError
from services.conversations.records import Item
from services.turns.events import Truncation
from services.turns.prompt import digest, prompt_ids
from services.turns.rebuild import prompt_messages, rebuilt_messages
from tests.support.turn_kit import MODEL, TENANT, user

SYSTEM = [Item(id="", role="system", text=text) for text in ("Be kind.", "Be brief.")]


async def rebuilt_digest(kit, record):
    """Of a running turn, as an adopter computes it."""
    return digest(prompt_ids(kit.tokenizer, await prompt_messages(kit.store, TENANT, record)))


async def take_turn(kit, conversation, text, truncation, **fields):
    """The record while its turn runs, and the digest that another process finds."""
    turn = replace(kit.stored_turn(user(text), conversation=conversation, **fields), truncation=truncation)
    async with aclosing(kit.service.respond(turn)) as events:
        started = await anext(events)
        record = await kit.store.turn(TENANT, started.response_id)
        found = await rebuilt_digest(kit, record)
        async for _ in events:
            pass
    return record, found


@pytest.mark.parametrize("instructions", [None, "Answer in one word."])
@pytest.mark.parametrize("items", [[], SYSTEM])
async def test_every_turn_of_a_long_conversation_can_be_rebuilt(kit, items, instructions):
    """With and without a window, system messages and instructions."""
    conversation = (await kit.store.create(TENANT, metadata={}, items=items)).id
    windows = set()
    for turn in range(40):
        record, found = await take_turn(
            kit, conversation, f"Question {turn}", Truncation.AUTO, instructions=instructions
        )
        assert found == record.request.prompt_digest
        windows.add(record.request.window)
    assert len(windows) > 2


@pytest.mark.parametrize("truncation", Truncation)
async def test_a_turn_without_a_conversation_can_be_rebuilt(kit, truncation):
    """Its line is empty, its input is all there is."""
    record, found = await take_turn(kit, None, "Hi", truncation)
    assert found == record.request.prompt_digest
    assert (record.request.truncation, record.request.window) == (truncation, "")


@pytest.mark.parametrize("num_turns", [30, 60, 400])
async def test_a_window_of_many_items_is_found_in_a_line_of_more(kit, num_turns):
    """Near the end of the line or far from it."""
    items = [Item(id="", role=role, text="a") for _ in range(num_turns) for role in ("user", "assistant")]
    conversation = (await kit.store.create(TENANT, metadata={}, items=[*SYSTEM, *items])).id
    kit.model = replace(MODEL, context_length=2048)
    kit.service = kit.another()
    await kit.service.start()
    record, found = await take_turn(kit, conversation, "Hi", Truncation.AUTO)
    await kit.service.stop()
    assert found == record.request.prompt_digest
    assert bool(record.request.window) is (num_turns == 400)


async def test_a_window_of_new_input_alone_can_be_rebuilt(kit):
    """Nothing of the history fitted beside it."""
    conversation = (await kit.store.create(TENANT, metadata={}, items=SYSTEM)).id
    await take_turn(kit, conversation, "word " * 40, Truncation.AUTO)
    record, found = await take_turn(kit, conversation, "word " * 115, Truncation.AUTO)
    assert found == record.request.prompt_digest
    assert record.request.window == record.request.input[0].id


async def test_without_its_first_item_a_window_is_not_guessed(kit):
    """What cannot be told is no prompt."""
    record, _ = await take_turn(kit, None, "Hi", Truncation.AUTO)
    request = msgspec.structs.replace(record.request, window="msg_gone")
    with pytest.raises(TurnLostError, match="msg_gone"):
        rebuilt_messages(request, [])
