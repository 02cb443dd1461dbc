"""Answers with a structure: it rules what is sampled, so the newline that opens an answer stands in the prompt."""

from __future__ import annotations

import pytest

from cluster.protocol import Structure, StructureKind
from services.turns.events import Message, Role
from tests.support.turn_kit import collect, deltas, user

STRUCTURE = Structure(kind=StructureKind.REGEX, text=" *yes")


@pytest.fixture
def header(tokenizer):
    return tokenizer.encode_text("\n")


async def test_the_header_stands_in_the_prompt(kit, tokenizer, header):
    """Behind ``<|assistant|>``; without a structure it is the model's to write."""
    await collect(kit.service.chat(kit.chat_turn()))
    await collect(kit.service.chat(kit.chat_turn(structure=STRUCTURE)))
    free, ruled = kit.backend.requests
    assert ruled.prompt_ids == [*free.prompt_ids, *header]
    assert ruled.sampling.structure == STRUCTURE
    assert ruled.sampling.max_new_tokens == free.sampling.max_new_tokens - len(header)


async def test_the_text_is_what_the_structure_saw(kit, tokenizer):
    """To its first blank, which would be dropped from an answer that begins with a header."""
    kit.backend.answer = tokenizer.encode_text(" yes")
    _, events = await collect(kit.service.chat(kit.chat_turn(structure=STRUCTURE)))
    assert deltas(events) == events[-1].result.text == tokenizer.decode([3 + ord("\n"), *kit.backend.answer])[1:]
    assert events[-1].result.text.startswith("  ")


@pytest.mark.parametrize("stop", [(), (" are",)])
async def test_the_next_prompt_goes_on_behind_the_same_ids(kit, tokenizer, header, stop):
    """What the first turn left in the cache, header and answer, is the next prompt's beginning."""
    kit.backend.answer = tokenizer.encode_text("How are you?")
    _, events = await collect(kit.service.chat(kit.chat_turn(structure=STRUCTURE, stop=stop)))
    answer = events[-1].result
    assert list(answer.ids[: len(header)]) == header
    history = (user("Hi"), Message(Role.ASSISTANT, answer.text), user("And?"))
    await collect(kit.service.chat(kit.chat_turn(*history)))
    first, second = kit.backend.requests
    sampled = list(answer.ids[len(header) :])
    assert second.prompt_ids[: len(first.prompt_ids) + len(sampled)] == [*first.prompt_ids, *sampled]


async def test_a_stored_turn_keeps_the_header_with_its_answer(kit, tokenizer, header):
    """So does the next turn's prompt."""
    conversation = await kit.conversation()
    await collect(kit.service.respond(kit.stored_turn(conversation=conversation, structure=STRUCTURE)))
    await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    first, second = kit.backend.requests
    whole = [*first.prompt_ids, *kit.backend.answer]
    assert second.prompt_ids[: len(whole)] == whole
