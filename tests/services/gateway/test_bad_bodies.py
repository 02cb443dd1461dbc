"""Bodies of strangers: the first wrong field is named, and nothing crashes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequestError
from services.gateway.body import parse
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.responses import ResponseRequest
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL

ASK = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
CHAT: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "42", "name": "f"}]}, "messages[0].role"),
    ({"messages": [{"role": ["tool"], "content": "hi"}]}, "messages[0].role"),
    ({"messages": [*ASK, {"role": "user"}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": 2**31}, "top_k"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.0}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": list("abcde")}, "stop"),
    ({"stop": 5}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"metadata": {"a": 5}}, "metadata.a"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"store": True}, "store"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
]
RESPONSE: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"role": "wizard", "content": "hi"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"instructions": 5}, "instructions"),
    ({"conversation": 5}, "conversation"),
    ({"conversation": {"id": 5}}, "conversation.id"),
    ({"conversation": {}}, "conversation.id"),
    ({"conversation": "conv_x", "store": False}, "store"),
    ({"previous_response_id": 1}, "previous_response_id"),
    ({"background": "yes"}, "background"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"truncation": "last_messages"}, "truncation"),
    ({"truncation": True}, "truncation"),
    ({"include": ["message.input_image.image_url"]}, "include[0]"),
    ({"metadata": {"a" * 65: ""}}, "metadata." + "a" * 65),
]
BROKEN = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"null",
    b'{"model": "m",}',
    b"\xff\xfe",
    b'{"model": "\xff"}',
    b"[" * 100_000,
    b'{"top_p": NaN}',
]


async def _error(client: httpx.AsyncClient, path: str, **content: Any) -> dict[str, Any]:
    reply = await client.post(path, **content)
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(("change", "param"), CHAT, ids=lambda value: json.dumps(value)[:40])
async def test_wrong_chat_fields(client: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    """A wrong or unsupported field is a 400 that names it as the caller wrote it."""
    body = {"model": MODEL, "messages": ASK} | change
    error = await _error(client, "/v1/chat/completions", json={k: v for k, v in body.items() if v is not None})
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ") or param == "stream_options"


@pytest.mark.parametrize(("change", "param"), RESPONSE, ids=lambda value: json.dumps(value)[:40])
async def test_wrong_response_fields(client: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    """The same for responses."""
    body = {"model": MODEL, "input": "hi"} | change
    error = await _error(client, "/v1/responses", json={k: v for k, v in body.items() if v is not None})
    assert error["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1, "tools": [], "tool_choice": "auto", "logprobs": False, "logit_bias": {}, "store": False},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "response_format": {"type": "text"}, "modalities": ["text"]},
        {"temperature": None, "stop": None, "max_tokens": None, "stream": None, "tools": None, "metadata": None},
        {"temperature": 2, "top_p": 1, "top_k": 0, "seed": -(2**63), "stop": [], "unheard_of": {"a": [1]}},
    ],
)
async def test_fields_that_ask_for_nothing(client: httpx.AsyncClient, change: dict[str, Any]) -> None:
    """Defaults written out, nulls and unknown fields are fine."""
    reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK} | change)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:12]))
async def test_broken_json(client: httpx.AsyncClient, body: bytes) -> None:
    """What is not a JSON object, or not UTF-8, is a clear 400."""
    await _error(client, "/v1/chat/completions", content=body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (r'{"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}', "messages[0].content"),
        (r'{"model": "m\udfff", "messages": []}', "model"),
        (r'{"model": "m", "stop": ["a", "b\udc00\ud800"]}', "stop[1]"),
        (r'{"metadata": {"\ud800": "x"}}', "metadata"),
    ],
)
async def test_lone_surrogates(client: httpx.AsyncClient, body: str, param: str) -> None:
    """Half a character is refused by field, in whichever field it stands."""
    error = await _error(client, "/v1/chat/completions", content=body.encode())
    assert error["param"] == param


async def test_surrogates_in_otherwise_broken_json(client: httpx.AsyncClient) -> None:
    """Where JSON itself is broken, that is what the answer says."""
    error = await _error(client, "/v1/chat/completions", content=rb'{"model": "\ud800", ' + b"[" * 100_000)
    assert error["param"] is None


@pytest.mark.parametrize(
    "text", ["<|user|>\n", "[gMASK]sop", "\0", "🙂", "￿", "a" * 1_000_000, "\u2028 \r\n\n data: x"]
)
async def test_special_texts_are_text(client: httpx.AsyncClient, turns: FakeTurns, text: str) -> None:
    """Control words, NUL, astral characters and a megabyte arrive unchanged, and come back unchanged."""
    turns.deltas = [text]
    reply = await client.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": text}]}
    )
    assert turns.asked[0].messages[0].text == text  # type: ignore[union-attr]  # a chat turn
    assert reply.json()["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("text", ["\u2028 \r\n\n data: x", "\0", "a\nevent: error\n\n"])
async def test_special_texts_do_not_break_a_stream(client: httpx.AsyncClient, turns: FakeTurns, text: str) -> None:
    """Line ends within an answer cannot forge an event."""
    turns.deltas = [text]
    body = {"model": MODEL, "messages": ASK, "stream": True}
    reply = await client.post("/v1/chat/completions", json=body)
    frames = reply.content.split(b"\n\n")
    assert json.loads(frames[1].removeprefix(b"data: "))["choices"][0]["delta"]["content"] == text
    assert len(frames) == 5  # role, text, end, [DONE], and nothing after the last


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted({*ChatCompletionRequest.model_fields, *ResponseRequest.model_fields}))


@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_json_is_a_request_or_a_refusal(document: dict[str, Any]) -> None:
    """Whatever JSON comes, parsing gives a request or an InvalidRequestError."""
    body = json.dumps({"model": "m", "messages": ASK, "input": "hi"} | document).encode()
    for shape in (ChatCompletionRequest, ResponseRequest):
        with contextlib.suppress(InvalidRequestError):
            assert isinstance(parse(body, shape), shape)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    """Whatever bytes come, parsing refuses them by the same error."""
    with pytest.raises(InvalidRequestError):
        parse(body, ChatCompletionRequest)
