"""The official client against ``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from cluster.protocol import FinishReason
from services.turns.events import ChatTurn, GenerationOptions, Message, Role
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL, TENANT

ASK: list[Any] = [{"role": "user", "content": "hi"}]


async def test_plain_answer(ai: openai.AsyncOpenAI) -> None:
    """A completion carries the text, the finish reason, the fingerprint and the usage with cached tokens."""
    answer = await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert answer.choices[0].message.content == "Hello 你好"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == "fp_0123456789"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_answers_fit_the_official_types(client: httpx.AsyncClient) -> None:
    """The body validates against the client's own model, which its lenient parser would not check."""
    reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK})
    assert ChatCompletion.model_validate(reply.json()).id.startswith("chatcmpl-")


async def test_headers_name_request_and_rank(ai: openai.AsyncOpenAI) -> None:
    """The caller's own request id comes back, and the rank of the replica that served."""
    raw = await ai.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, extra_headers={"x-request-id": "trace-1"}
    )
    assert (raw.headers["x-request-id"], raw.headers["x-replica-rank"]) == ("trace-1", "1")
    assert raw.headers["x-replica-why"] == "placed"


async def test_streamed_answer(ai: openai.AsyncOpenAI) -> None:
    """A stream begins with the role, carries one chunk per delta and ends with the finish reason."""
    stream = await ai.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-1]] == ["Hello", " 你好"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


async def test_stream_headers(ai: openai.AsyncOpenAI) -> None:
    """A stream's headers are there before its text, and forbid buffering."""
    async with ai.chat.completions.with_streaming_response.create(model=MODEL, messages=ASK, stream=True) as raw:
        wanted = ("x-replica-rank", "cache-control", "x-accel-buffering", "content-type")
        assert [raw.headers[name] for name in wanted] == ["1", "no-cache", "no", "text/event-stream; charset=utf-8"]
        assert raw.headers["x-request-id"].startswith("req_")


async def test_usage_in_the_stream(client: httpx.AsyncClient) -> None:
    """With include_usage every chunk has a null usage, and one more chunk without choices has the figures."""
    body = {"model": MODEL, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    events = _data(await client.post("/v1/chat/completions", json=body))
    assert events.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(event) for event in events]
    assert all("usage" in json.loads(event) for event in events)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9


async def test_no_usage_unless_asked(client: httpx.AsyncClient) -> None:
    """Without include_usage chunks have no usage field, and the last event is [DONE]."""
    events = _data(await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK, "stream": True}))
    assert events[-1] == "[DONE]"
    assert not any("usage" in json.loads(event) for event in events[:-1])


async def test_length_is_a_finish_reason(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """A turn cut by its limit says so."""
    turns.reason = FinishReason.LENGTH
    answer = await ai.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"


async def test_the_turn_gets_what_was_asked(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """Roles, parts, options and the cache key arrive in the turn's words."""
    messages: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "<|user|>"}]},
        {"role": "assistant", "content": "b", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "nul \0 here"},
    ]
    await ai.chat.completions.create(
        model=MODEL,
        messages=messages,
        temperature=0,
        top_p=0.5,
        seed=-1,
        max_completion_tokens=9,
        stop="end",
        prompt_cache_key="k",
        n=1,
        extra_body={"top_k": 4, "ignore_eos": True, "unheard_of": 1},
        extra_headers={"x-request-id": "trace-2"},
    )
    assert turns.asked == [
        ChatTurn(
            tenant=TENANT,
            request_id="trace-2",
            messages=(
                Message(Role.SYSTEM, "be brief"),
                Message(Role.USER, "a<|user|>"),
                Message(Role.ASSISTANT, "b"),
                Message(Role.USER, "nul \0 here"),
            ),
            options=GenerationOptions(0.0, 0.5, 4, 2**63 - 1, 9, ("end",), ignore_eos=True),
            cache_key="k",
        )
    ]


async def test_defaults_are_left_to_the_model(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """What the caller leaves out stays out."""
    await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert turns.asked[0].options == GenerationOptions()


async def test_sync_client(url: str, key: str) -> None:
    """The synchronous client does plain and streamed completions."""

    def talk() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as ai:
            plain = ai.chat.completions.create(model=MODEL, messages=ASK)
            stream = ai.chat.completions.create(model=MODEL, messages=ASK, stream=True)
            return plain.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in stream)

    assert await asyncio.to_thread(talk) == ("Hello 你好", "Hello 你好")


def _data(reply: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
