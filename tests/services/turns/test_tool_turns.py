"""Stateless turns that are offered tools."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.protocol import FinishReason
from cluster.tokenizer.tool_calls import ToolCall, call_content
from services.backend.scripted import Fault, FaultKind
from services.turns.events import EventKind, Message, Role, Tool
from tests.support.turn_kit import collect, deltas, user

TOOLS = (Tool("get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}),)
CALL = ToolCall("get_weather", {"city": "北京"})


@pytest.fixture
def kit(kit, tokenizer):
    """Answers with a call."""
    kit.backend.answer = call_ids(tokenizer)
    return kit


def call_ids(tokenizer) -> list[int]:
    return [*tokenizer.encode_text("get_weather\n"), *tokenizer.encode_text(call_content(CALL.arguments))]


def tool_turn(kit, *messages, tools=TOOLS, **options):
    return dataclasses.replace(kit.chat_turn(*messages, **options), tools=tools)


async def test_a_call_is_the_result(kit):
    """It comes as an event and in the last one; usage counts its tokens."""
    _, events = await collect(kit.service.chat(tool_turn(kit)))
    result = events[-1].result
    assert [event.call for event in events if event.kind is EventKind.TOOL_CALL] == [CALL]
    assert (result.call, result.text, result.reason) == (CALL, "", FinishReason.STOP)
    assert list(result.ids) == kit.backend.answer
    assert result.usage.output_tokens == len(kit.backend.answer)
    assert kit.service.metrics.tool_calls == {"called": 1}


async def test_the_tools_are_in_the_prompt_and_their_result_after_the_call(kit, tokenizer):
    """What the model reads is what its template says."""
    await collect(kit.service.chat(tool_turn(kit)))
    prompt = tokenizer.decode(kit.backend.requests[0].prompt_ids)
    assert "You have access to the following tools:" in prompt
    assert "The weather of a city." in prompt


@pytest.mark.parametrize("said", ["", "I will look."])
async def test_a_call_that_comes_back_finds_its_ids(kit, tokenizer, said):
    """The next prompt begins with exactly what the replica holds, though the client sent values."""
    if said:
        front = [*tokenizer.encode_text(f"\n{said}"), tokenizer.role_id("assistant")]
        kit.backend.answer = [*front, *call_ids(tokenizer)]
    _, events = await collect(kit.service.chat(tool_turn(kit)))
    text = events[-1].result.text
    history = (user("Hi"), Message(Role.ASSISTANT, text, CALL), Message(Role.OBSERVATION, "12 °C"))
    _, events = await collect(kit.service.chat(tool_turn(kit, *history)))
    first, second = kit.backend.requests
    held = first.prompt_ids + kit.backend.answer
    assert text == said
    assert second.prompt_ids[: len(held)] == held
    assert kit.service.metrics.index_hits == 1
    assert events[-1].result.usage.cached_tokens == len(held)


async def test_a_call_from_under_other_tools_is_encoded_again(kit):
    """The tools are the beginning of the prompt; with others, nothing of it is in the cache."""
    await collect(kit.service.chat(tool_turn(kit)))
    history = (user("Hi"), Message(Role.ASSISTANT, "", CALL), Message(Role.OBSERVATION, "12 °C"))
    other = (*TOOLS, Tool("clock", "", {}))
    await collect(kit.service.chat(tool_turn(kit, *history, tools=other)))
    assert (kit.service.metrics.index_hits, kit.service.metrics.index_misses) == (0, 1)


async def test_chats_with_other_tools_may_go_to_other_replicas(kit):
    """What they are told of tools is the beginning of their prompt, hence of what decides the placement."""
    for tools in ((), TOOLS, (Tool("clock", "", {}),)):
        await collect(kit.service.chat(tool_turn(kit, tools=tools)))
    assert len({request.pin_key for request in kit.backend.requests}) == 3


async def test_a_call_cut_by_its_limit_is_text(kit, tokenizer):
    """The reason says why, and the count of calls too."""
    _, events = await collect(kit.service.chat(tool_turn(kit, max_tokens=8)))
    result = events[-1].result
    assert (result.call, result.reason) == (None, FinishReason.LENGTH)
    assert result.text == deltas(events) == tokenizer.decode(kit.backend.answer[:8])
    assert kit.service.metrics.tool_calls == {"cut": 1}


async def test_a_malformed_call_is_text(kit, tokenizer):
    """What the model meant nobody knows; what it wrote is the answer, and nothing of it is run."""
    body = "```python\ntool_call(city=open('/etc/passwd').read())\n```"
    kit.backend.answer = [*tokenizer.encode_text("get_weather\n"), *tokenizer.encode_text(body)]
    _, events = await collect(kit.service.chat(tool_turn(kit)))
    result = events[-1].result
    assert (result.call, result.reason) == (None, FinishReason.STOP)
    assert result.text == deltas(events) == f"get_weather\n {body}"
    assert kit.service.metrics.tool_calls == {"malformed": 1}


async def test_text_that_came_of_a_malformed_call_finds_its_ids(kit, tokenizer):
    """It is an answer like any other."""
    kit.backend.answer = tokenizer.encode_text("get_weather\nfoo")
    _, events = await collect(kit.service.chat(tool_turn(kit)))
    history = (user("Hi"), Message(Role.ASSISTANT, events[-1].result.text), user("What?"))
    await collect(kit.service.chat(tool_turn(kit, *history)))
    assert kit.service.metrics.index_hits == 1


async def test_a_call_whose_stop_id_did_not_fit_is_a_call(kit):
    """It is whole; only the end of the turn is missing."""
    _, events = await collect(kit.service.chat(tool_turn(kit, max_tokens=len(kit.backend.answer))))
    assert (events[-1].result.call, events[-1].kind) == (CALL, EventKind.INCOMPLETE)


async def test_without_tools_the_same_answer_is_text(kit, tokenizer):
    """Nothing is read as a call that nobody offered."""
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    assert events[-1].result.call is None
    assert deltas(events) == tokenizer.decode(kit.backend.answer)
    assert not kit.service.metrics.tool_calls


async def test_a_replica_lost_in_the_middle_of_a_call_does_not_show(kit):
    """The events are those of an undisturbed answer."""
    _, expected = await collect(kit.service.chat(tool_turn(kit, seed=1)))
    kit.backend._kept.clear()
    kit.backend.faults = iter([Fault(FaultKind.LOST, 6), Fault(FaultKind.MOVED, 9)])
    _, events = await collect(kit.service.chat(tool_turn(kit, seed=1)))
    assert events == expected
