"""Conversations that outgrow the context: what the model is shown of them, and what stays cached."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise

import pytest

from cluster.errors import ContextLengthExceededError
from services.backend.scripted import Fault, FaultKind
from services.conversations.records import TurnState
from services.turns.events import EventKind, Message, Role, Truncation
from services.turns.prompt import PromptMessage, pieces
from tests.support.long_talks import RULE, automatic, in_prompt, long_past, respond, ruled, talk
from tests.support.turn_kit import MODEL, TENANT, collect, user

NUM_TURNS = 60
ROOM = MODEL.context_length * 3 // 4


async def chat(kit, num_turns):
    """The same talk by a client that keeps its history and sends it each time. Usage of each turn."""
    history, told = [Message(Role.SYSTEM, RULE.text)], []
    for turn in range(num_turns):
        history.append(user(f"Question {turn}"))
        asked = replace(kit.chat_turn(*history), truncation=Truncation.AUTO)
        _, events = await collect(kit.service.chat(asked))
        history.append(Message(Role.ASSISTANT, events[-1].result.text))
        told.append(events[-1].result.usage)
    return told


async def test_a_long_conversation_is_mostly_found_in_the_cache(kit):
    """Four in five tokens of all prompts were computed before, though half of the turns came after the first cut."""
    told = await talk(kit, await ruled(kit), NUM_TURNS)
    windows = [window for _, window in told]
    assert windows.index(next(filter(None, windows))) < NUM_TURNS / 2
    assert sum(usage.cached_tokens for usage, _ in told) > 0.8 * sum(usage.prompt_tokens for usage, _ in told)


async def test_between_two_cuts_every_prompt_begins_with_the_one_before(kit):
    """A window moves seldom, and as long as it does not, prompts only grow at their end."""
    told = await talk(kit, await ruled(kit), NUM_TURNS)
    prompts = [request.prompt_ids for request in kit.backend.requests]
    windows = [window for _, window in told]
    stays = [i for i in range(1, NUM_TURNS) if windows[i] == windows[i - 1]]
    assert NUM_TURNS - 8 < len(stays) < NUM_TURNS - 3
    for i in stays:
        held = prompts[i - 1] + kit.backend.answer
        assert prompts[i][: len(held)] == held


async def test_a_window_never_moves_back(kit):
    """What was forgotten stays so, and each window begins with a question."""
    conversation = await ruled(kit)
    windows = [window for _, window in await talk(kit, conversation, NUM_TURNS)]
    line = await kit.store.load(TENANT, conversation)
    places = {item.id: (place, item.role) for place, item in enumerate(line.items)}
    begins = [places[window] for window in windows if window]
    assert begins == sorted(begins)
    assert {role for _, role in begins} == {"user"}


@pytest.mark.parametrize("instructions", [None, "Answer in one word."])
async def test_system_messages_and_instructions_stay(kit, instructions):
    """They open every prompt, and every answer has a quarter of the context."""
    conversation = await ruled(kit)
    for turn in range(NUM_TURNS // 2):
        await respond(kit, conversation, f"Question {turn}", instructions=instructions)
    opening = [PromptMessage("system", text) for text in (instructions, RULE.text) if text]
    for request in kit.backend.requests:
        assert in_prompt(kit, opening, request.prompt_ids)
        assert len(request.prompt_ids) <= ROOM
        assert request.sampling.max_new_tokens >= MODEL.context_length - ROOM


async def test_a_history_that_comes_with_the_request_is_cut_at_places_that_stay(kit):
    """Nothing is kept of a stateless chat, and its cache is found all the same."""
    usages = await chat(kit, NUM_TURNS)
    prompts = [request.prompt_ids for request in kit.backend.requests]
    assert all(len(prompt) <= ROOM for prompt in prompts)
    assert all(in_prompt(kit, [PromptMessage("system", RULE.text)], prompt) for prompt in prompts)
    assert sum(later[: len(one)] != one for one, later in pairwise(prompts)) < 8
    assert sum(usage.cached_tokens for usage in usages) > 0.8 * sum(usage.prompt_tokens for usage in usages)


@pytest.mark.parametrize("asked", ["stored", "stateless"])
async def test_the_answer_may_have_what_was_asked_for(kit, asked):
    """With ``max_tokens`` the window leaves exactly that much room, or more."""
    conversation = await ruled(kit)
    history = []
    for turn in range(NUM_TURNS // 2):
        if asked == "stored":
            await respond(kit, conversation, f"Question {turn}", max_tokens=300)
        else:
            history.append(user(f"Question {turn}"))
            wanted = replace(kit.chat_turn(*history, max_tokens=300), truncation=Truncation.AUTO)
            _, events = await collect(kit.service.chat(wanted))
            history.append(Message(Role.ASSISTANT, events[-1].result.text))
    longest = max(len(request.prompt_ids) for request in kit.backend.requests)
    assert MODEL.context_length - 300 - 40 < longest <= MODEL.context_length - 300


async def test_new_input_is_never_cut(kit):
    """It may take the answer's quarter; what does not fit even so is refused, and writes nothing."""
    conversation = await ruled(kit)
    await talk(kit, conversation, 3)
    await respond(kit, conversation, "word " * 135)
    assert len(kit.backend.requests[-1].prompt_ids) > ROOM
    with pytest.raises(ContextLengthExceededError) as caught:
        await respond(kit, conversation, "word " * 200)
    assert "truncation" not in str(caught.value)
    assert (await kit.store.load(TENANT, conversation)).version == 4


async def test_new_input_of_several_turns_is_cut_last(kit):
    """What comes with a stored turn is all new, however many answers it holds: what was said before goes first."""
    conversation = await ruled(kit)
    await talk(kit, conversation, 12)
    new = [user("word " * 40), Message(Role.ASSISTANT, "word " * 40), user("And?")]
    _, events = await collect(kit.service.respond(automatic(kit, *new, conversation=conversation)))
    told = [PromptMessage(message.role, message.text) for message in new]
    ids = [token_id for piece in pieces(kit.tokenizer, told) for token_id in piece.ids]
    assert events[-1].kind is EventKind.COMPLETED
    assert kit.backend.requests[-1].prompt_ids[-1 - len(ids) : -1] == ids


async def test_a_history_that_comes_with_a_stored_turn_is_cut_where_it_is_too_long_alone(kit):
    """As with ``store: false``: its rules stay, a dispatcher finds the same prompt, and the next turn goes on behind."""
    history = [Message(Role.SYSTEM, RULE.text)]
    for turn in range(NUM_TURNS):
        history += [user(f"Question {turn}"), Message(Role.ASSISTANT, "It is so. " * 3)]
    turn = replace(automatic(kit, *history, user("And now?")), is_background=True)
    response = await kit.service.enqueue(turn)
    await kit.service.carry_out(TENANT, response)
    record = await kit.store.turn(TENANT, response)
    prompt = kit.backend.requests[0].prompt_ids
    assert record.state is TurnState.COMPLETED
    assert record.request.window
    assert in_prompt(kit, [PromptMessage("system", RULE.text)], prompt)
    assert ROOM / 3 < len(prompt) <= ROOM
    _, again = await collect(kit.service.respond(replace(automatic(kit, user("Why?")), previous=response)))
    assert again[-1].kind is EventKind.COMPLETED
    assert kit.backend.requests[-1].prompt_ids[: len(prompt)] == prompt


async def test_without_truncation_a_turn_that_does_not_fit_is_refused_with_a_hint(kit):
    """Nothing is left out unasked; with ``auto`` the same conversation goes on."""
    conversation = await ruled(kit, *long_past(40, old="Tell me more of that"))
    turn = kit.stored_turn(conversation=conversation)
    with pytest.raises(ContextLengthExceededError, match="truncation 'auto'"):
        await collect(kit.service.respond(turn))
    _, events = await collect(kit.service.respond(replace(turn, truncation=Truncation.AUTO)))
    assert events[-1].kind is EventKind.COMPLETED


async def test_without_truncation_a_conversation_that_fits_is_whole_again(kit):
    """A window is a matter of each turn: one that leaves nothing out sees all."""
    conversation = await ruled(kit)
    for turn in range(8):
        await respond(kit, conversation, f"Question {turn}", max_tokens=400)
    _, window = (await talk(kit, conversation, 1))[0]
    started, _ = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    whole = await kit.store.turn(TENANT, started.response_id)
    told = [PromptMessage("system", RULE.text), PromptMessage("user", "Question 0")]
    assert window
    assert not whole.request.window
    assert in_prompt(kit, told, kit.backend.requests[-1].prompt_ids)


async def test_a_turn_that_was_given_up_leaves_the_window_as_it_was(kit):
    """Only an answer in the history moves it."""
    conversation = await ruled(kit)
    before = (await talk(kit, conversation, 26))[-1][1]
    kit.backend.faults = iter([Fault(FaultKind.FAILED, after=1)])
    await respond(kit, conversation, "Fail")
    assert (await talk(kit, conversation, 1))[0][1] == before != ""


async def test_a_turn_that_was_stopped_keeps_its_window(kit):
    """A partial answer says where it began, too."""
    conversation = await ruled(kit)
    before = (await talk(kit, conversation, 26))[-1][1]
    async with aclosing(kit.service.respond(automatic(kit, user("Stop"), conversation=conversation))) as events:
        async for event in events:
            if getattr(event, "kind", None) is EventKind.TEXT_DELTA:
                break
    newest = (await kit.store.load(TENANT, conversation)).items[-1]
    assert (newest.status, newest.window) == ("incomplete", before)
    assert before
