"""The official client against ``/v1/responses``."""

from __future__ import annotations

import re
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from cluster.protocol import FinishReason
from services.turns.events import ChatTurn, GenerationOptions, Message, Role, StoredTurn
from tests.fakes.fake_turns import ITEM_ID, RESPONSE_ID, FakeTurns
from tests.support.gateway import MODEL, TENANT

STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
NAMES = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_plain_response(ai: openai.AsyncOpenAI) -> None:
    """A response carries the stored turn's id, its text, its conversation and its usage."""
    response = await ai.responses.create(model=MODEL, input="hi", conversation="conv_x", metadata={"a": "b"})
    assert (response.id, response.status, response.output_text) == (RESPONSE_ID, "completed", "Hello 你好")
    assert response.output[0].id == ITEM_ID
    assert response.conversation is not None
    assert response.usage is not None
    assert (response.conversation.id, response.metadata) == ("conv_x", {"a": "b"})
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert (response.temperature, response.top_p) == (0.8, 0.8)


@pytest.mark.parametrize("scope", [{}, {"store": False}])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "disabled"),
        ({"truncation": None}, "disabled"),
        ({"truncation": "disabled"}, "disabled"),
        ({"truncation": "auto"}, "auto"),
    ],
)
async def test_truncation_is_asked_for_and_told(
    client: httpx.AsyncClient, turns: FakeTurns, scope: dict[str, Any], asked: dict[str, Any], expected: str
) -> None:
    """Stored and stateless turns take it alike, and the response says what was used."""
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi"} | scope | asked)
    assert reply.status_code == 200
    assert reply.json()["truncation"] == turns.asked[0].truncation == expected


async def test_responses_fit_the_official_types(client: httpx.AsyncClient) -> None:
    """The body validates against the client's own model."""
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi", "instructions": "be brief"})
    assert Response.model_validate(reply.json()).instructions == "be brief"
    assert reply.headers["x-replica-rank"] == "1"


async def test_streamed_response(ai: openai.AsyncOpenAI) -> None:
    """The typed events come in order, numbered as the turn numbers them."""
    stream = await ai.responses.create(model=MODEL, input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == NAMES
    assert [event.sequence_number for event in events] == list(range(len(NAMES)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello 你好"


async def test_the_helper_accumulates_a_stream(ai: openai.AsyncOpenAI) -> None:
    """The client's own stream helper, which rebuilds the response from its events, ends with the whole one."""
    async with ai.responses.stream(model=MODEL, input="hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello 你好"


async def test_every_event_fits_its_official_type(client: httpx.AsyncClient) -> None:
    """Each event validates, has its name on the event line, and its number and checksum as its id."""
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi", "stream": True})
    frames = [frame.split("\n") for frame in reply.text.strip().split("\n\n")]
    events = [STREAM_EVENT.validate_json(lines[2].removeprefix("data: ")) for lines in frames]
    assert [lines[0] for lines in frames] == [f"event: {event.type}" for event in events]
    assert frames[0][1] == "id: 0.00000000"
    assert frames[5][1] == "id: 5.000000ab"


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        (FinishReason.LENGTH, ("response.incomplete", "incomplete", "incomplete")),
        (FinishReason.ABORTED, ("response.incomplete", "cancelled", "incomplete")),
        (FinishReason.STOP, ("response.completed", "completed", "completed")),
    ],
)
async def test_how_a_stream_ends(
    ai: openai.AsyncOpenAI, turns: FakeTurns, reason: FinishReason, ends: tuple[str, str, str]
) -> None:
    """The last event, the response's status and the item's status agree on how the turn ended."""
    turns.reason = reason
    stream = await ai.responses.create(model=MODEL, input="hi", stream=True)
    *_, item_done, last = [event async for event in stream]
    assert (last.type, last.response.status, item_done.item.status) == ends


async def test_max_output_tokens_is_the_reason(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """A turn cut by its limit is incomplete, and says why."""
    turns.reason = FinishReason.LENGTH
    response = await ai.responses.create(model=MODEL, input="hi", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_stored_is_the_default(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """Without store: false the turn is a stored one, with what was asked for."""
    items: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "yo", "annotations": [], "logprobs": []}],
        },
        {"role": "user", "content": "go on"},
    ]
    await ai.responses.create(
        model=MODEL,
        input=items,
        instructions="rhyme",
        conversation={"id": "conv_x"},
        temperature=1.5,
        max_output_tokens=5,
        metadata={"a": "b"},
        extra_body={"seed": 3, "top_k": 0, "stop": ["x", "y"]},
        extra_headers={"x-request-id": "trace-3"},
    )
    assert turns.asked == [
        StoredTurn(
            tenant=TENANT,
            request_id="trace-3",
            input=(
                Message(Role.SYSTEM, "be brief"),
                Message(Role.USER, "hi"),
                Message(Role.ASSISTANT, "yo"),
                Message(Role.USER, "go on"),
            ),
            conversation="conv_x",
            instructions="rhyme",
            options=GenerationOptions(temperature=1.5, top_k=0, seed=3, max_tokens=5, stop=("x", "y")),
            metadata={"a": "b"},
            view=turns.asked[0].view,
        )
    ]
    assert b"conv_x" in turns.asked[0].view


async def test_store_false_is_stateless(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """With store: false the turn is stateless, led by its instructions, and its id is random."""
    response = await ai.responses.create(
        model=MODEL, input="hi", instructions="rhyme", store=False, prompt_cache_key="k"
    )
    turn = turns.asked[0]
    assert isinstance(turn, ChatTurn)
    assert turn.messages == (Message(Role.SYSTEM, "rhyme"), Message(Role.USER, "hi"))
    assert turn.cache_key == "k"
    assert re.fullmatch(r"resp_[0-9a-f]{32}", response.id)
    assert response.to_dict()["store"] is False


async def test_failed_stream(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """A turn that fails after it began ends its stream with the error."""
    turns.reason, turns.error = FinishReason.FAILED, ("generation_failed", "The logits hold NaN.")
    stream = await ai.responses.create(model=MODEL, input="hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.error.message == "The logits hold NaN."
    assert last.response.error.type == "generation_failed"
    assert last.response.output == []


async def test_broken_stream(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """An error that is no part of the turn becomes the stream's last event, without internals."""
    turns.explosion = KeyError("secret prompt")
    stream = await ai.responses.create(model=MODEL, input="hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "error"
    assert last.code == "internal_error"
    assert "secret" not in last.message
    assert last.sequence_number == 6
