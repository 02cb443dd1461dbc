"""How much of a conversation is read and encoded for a turn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.conversations.records import Item
from services.turns.prompt import PromptMessage
from tests.support.long_talks import RULE, in_prompt, long_past, ruled, talk
from tests.support.turn_kit import QUICK, TENANT


class Reads:
    """Counts the items that a store gives."""

    def __init__(self, monkeypatch, store):
        self.num_items, self.num_calls = 0, 0
        load, page = store.load, store.items

        async def counted_load(*args, **fields):
            return self._count(await load(*args, **fields))

        async def counted_page(*args, **fields):
            return self._count(await page(*args, **fields))

        monkeypatch.setattr(store, "load", counted_load)
        monkeypatch.setattr(store, "items", counted_page)

    def _count(self, reply):
        self.num_calls += 1
        self.num_items += len(reply.items)
        return reply


async def test_of_a_very_long_conversation_only_the_end_is_read_and_encoded(kit, monkeypatch):
    """Two thousand turns cost what a hundred do: texts that have no ids are never looked at."""
    conversation = await ruled(kit, *long_past(2000))
    reads = Reads(monkeypatch, kit.store)
    told = await talk(kit, conversation, 5)
    assert reads.num_items <= 5 * (QUICK.load_items + 20)
    assert reads.num_calls == 10
    assert all(window for _, window in told)
    assert in_prompt(kit, [PromptMessage("system", RULE.text)], kit.backend.requests[-1].prompt_ids)


async def test_a_short_conversation_is_read_in_one_call(kit, monkeypatch):
    """There is no look at the beginning of a line that was loaded whole."""
    conversation = await ruled(kit)
    reads = Reads(monkeypatch, kit.store)
    await talk(kit, conversation, 3)
    assert reads.num_calls == 3


@pytest.mark.parametrize("load_items", [1, 2, 5, 1000])
async def test_how_much_is_read_at_once_changes_nothing(kit, tokenizer, load_items):
    """The prompts are the same, however many looks they take."""
    past = long_past(120)
    await talk(kit, await ruled(kit, *past), 12)
    expected = [request.prompt_ids for request in kit.backend.requests]
    kit.backend.requests.clear()
    kit.settings = replace(QUICK, load_items=load_items)
    kit.service = kit.another()
    await kit.service.start()
    await talk(kit, await ruled(kit, *past), 12)
    await kit.service.stop()
    assert [request.prompt_ids for request in kit.backend.requests] == expected


async def test_long_rules_are_told_once(kit):
    """Leading messages that are read among the newest are not repeated behind the others."""
    rule = Item(id="", role="system", text="Be kind. " * 45)
    conversation = (await kit.store.create(TENANT, metadata={}, items=[rule])).id
    await talk(kit, conversation, 30)
    role = kit.tokenizer.role_id("system")
    assert {request.prompt_ids.count(role) for request in kit.backend.requests} == {1}
    assert all(request.prompt_ids[2] == role for request in kit.backend.requests)


async def test_a_window_whose_first_item_is_gone_is_cut_anew(kit):
    """Reading ends where no more can fit, whatever an answer remembers."""
    sampled = Item(id="", role="assistant", text="So.", ids=[300], window="msg_gone")
    conversation = await ruled(kit, *long_past(400), Item(id="", role="user", text="And?"), sampled)
    ((_, window),) = await talk(kit, conversation, 1)
    line = await kit.store.load(TENANT, conversation)
    assert window in {item.id for item in line.items[-60:]}
