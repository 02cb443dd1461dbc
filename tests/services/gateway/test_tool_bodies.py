"""Tools and tool messages of strangers: the first wrong field is named; what is right arrives in the turn's words."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cluster.tokenizer.tool_calls import ToolCall
from services.gateway.schemas.tools import MAX_SCHEMA_DEPTH, MAX_TOOLS, MAX_TOOLS_CHARS, NO_PARAMETERS
from services.turns.events import ChatTurn, Message, Role, Tool
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL

ASK: dict[str, Any] = {"role": "user", "content": "hi"}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather"} | function}


def call(call_id: str = "c1", name: str = "get_weather", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(*calls: dict[str, Any], content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(call_id: str = "c1", content: Any = "12 °C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def nested(depth: int) -> dict[str, Any]:
    return {"type": "object"} if depth == 1 else {"type": "object", "x": nested(depth - 1)}


async def _post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"model": MODEL, "messages": [ASK]} | fields)


async def _refusal(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await _post(client, **fields)
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert error["message"].startswith(f"{error['param']}: ")
    return error


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("get_weather", "tools"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ([tool(), tool(name="")], "tools[1].function.name"),
        ([tool(name="a b")], "tools[0].function.name"),
        ([tool(name="get_weather\n")], "tools[0].function.name"),
        ([tool(name="天气")], "tools[0].function.name"),
        ([tool(name="<|user|>")], "tools[0].function.name"),
        ([tool(name="x" * 65)], "tools[0].function.name"),
        ([tool(), tool(name="b"), tool()], "tools[2].function.name"),
        ([tool(description=5)], "tools[0].function.description"),
        ([tool(strict=True)], "tools[0].function.strict"),
        ([tool(parameters=[])], "tools[0].function.parameters"),
        ([tool(parameters={"type": "string"})], "tools[0].function.parameters"),
        ([tool(parameters=nested(MAX_SCHEMA_DEPTH + 2))], "tools[0].function.parameters"),
        ([tool(name=f"f{i}") for i in range(MAX_TOOLS + 1)], "tools"),
        ([tool(description="x" * MAX_TOOLS_CHARS)], "tools"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
async def test_wrong_tools(client: httpx.AsyncClient, tools: Any, param: str) -> None:
    """What is no function, has no good name, a name twice, no object's schema, or is over a bound."""
    assert (await _refusal(client, tools=tools))["param"] == param


@pytest.mark.parametrize(
    "choice",
    ["required", "always", {"type": "function", "function": {"name": "get_weather"}}, {"type": "allowed_tools"}],
)
async def test_choices_that_are_not_offered(client: httpx.AsyncClient, choice: Any) -> None:
    """The model cannot be made to call, so nobody is promised that it will."""
    assert (await _refusal(client, tools=[tool()], tool_choice=choice))["param"] == "tool_choice"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([result()], "messages[0].tool_call_id"),
        ([ASK, result()], "messages[1].tool_call_id"),
        ([ASK, called(call()), result("c2")], "messages[2].tool_call_id"),
        ([ASK, called(call()), result(), result()], "messages[3].tool_call_id"),
        ([ASK, called(call()), result(), ASK, result()], "messages[4].tool_call_id"),
        ([ASK, called(call()), ASK, result()], "messages[1].tool_calls[0].id"),
        ([ASK, called(call())], "messages[1].tool_calls[0].id"),
        ([ASK, called(call("c1"), call("c2")), result("c2")], "messages[1].tool_calls[0].id"),
        ([ASK, called(call("c1"), call("c1")), result("c1")], "messages[1].tool_calls[1].id"),
        ([ASK, called(call("")), result("")], "messages[1].tool_calls[0].id"),
        ([ASK, called({})], "messages[1].tool_calls[0].id"),
        ([ASK, called(call() | {"type": "custom"})], "messages[1].tool_calls[0].type"),
        ([ASK, called(call(name="a b")), result()], "messages[1].tool_calls[0].function.name"),
        ([ASK, called(call(arguments={})), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(arguments="[]")), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(arguments="")), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(arguments='{"a b": 1}')), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(arguments='{"a": NaN}')), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(arguments="[" * 9999)), result()], "messages[1].tool_calls[0].function.arguments"),
        ([ASK, called(call(), content=5), result()], "messages[1].content"),
        ([ASK, called()], "messages[1].content"),
        ([ASK, {"role": "assistant"}], "messages[1].content"),
        ([ASK, called(call()), {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([ASK, called(call()), {"role": "tool", "tool_call_id": "c1"}], "messages[2].content"),
        ([ASK, called(call()), result(content=None)], "messages[2].content"),
    ],
    ids=lambda value: json.dumps(value)[-60:],
)
async def test_wrong_histories(client: httpx.AsyncClient, messages: Any, param: str) -> None:
    """Every call needs its result right behind it, every result its call, and every answer something said."""
    assert (await _refusal(client, messages=messages))["param"] == param


async def test_refusals_quote_nothing(client: httpx.AsyncClient) -> None:
    """What somebody's tool was called with is not repeated in an error."""
    secret = "hunter2"
    error = await _refusal(client, messages=[ASK, called(call(arguments=f'{{"a b": "{secret}"}}')), result()])
    assert secret not in json.dumps(error)


async def test_tools_arrive_in_the_turns_words(client: httpx.AsyncClient, turns: FakeTurns) -> None:
    """Order and texts are kept; what is left out is what OpenAI takes it for."""
    schema = {"type": "object", "properties": {"city": {"type": "string", "description": "<|user|>"}}}
    tools = [tool(description="天气", parameters=schema, strict=False), tool(name="a-b_C9", description=None)]
    reply = await _post(client, tools=tools, tool_choice="auto", parallel_tool_calls=False)
    assert reply.status_code == 200, reply.text
    turn = turns.asked[0]
    assert isinstance(turn, ChatTurn)
    assert turn.tools == (Tool("get_weather", "天气", schema), Tool("a-b_C9", "", NO_PARAMETERS))


@pytest.mark.parametrize("fields", [{"tools": []}, {"tools": None}, {"tools": [tool()], "tool_choice": "none"}])
async def test_tools_that_are_not_to_be_used(client: httpx.AsyncClient, turns: FakeTurns, fields: Any) -> None:
    """None are the same as no tools; they are not shown."""
    assert (await _post(client, **fields)).status_code == 200
    turn = turns.asked[0]
    assert isinstance(turn, ChatTurn)
    assert turn.tools == ()


async def test_bounds_of_tools_are_allowed(client: httpx.AsyncClient) -> None:
    """The largest that is not too large."""
    reply = await _post(client, tools=[tool(name=f"f{i}", parameters=nested(MAX_SCHEMA_DEPTH)) for i in range(10)])
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("content", [None, "", "I will look."])
async def test_calls_and_results_arrive_in_the_turns_words(
    client: httpx.AsyncClient, turns: FakeTurns, content: str | None
) -> None:
    """Content may be missing beside a call; a result may be empty or in parts."""
    parts = [{"type": "text", "text": "12"}, {"type": "text", "text": " °C"}]
    first = called(call(arguments='{"city": "北京", "days": [1, null]}'), content=content)
    messages = [ASK, first, result(content=parts), called(call("c2")), result("c2", "")]
    assert (await _post(client, messages=messages)).status_code == 200
    assert turns.asked[0].messages == (  # type: ignore[union-attr]  # a chat turn
        Message(Role.USER, "hi"),
        Message(Role.ASSISTANT, content or "", ToolCall("get_weather", {"city": "北京", "days": [1, None]})),
        Message(Role.OBSERVATION, "12 °C"),
        Message(Role.ASSISTANT, "", ToolCall("get_weather", {})),
        Message(Role.OBSERVATION, ""),
    )


async def test_several_calls_are_told_one_after_the_other(client: httpx.AsyncClient, turns: FakeTurns) -> None:
    """Each call has its result behind it, in the order of the calls, however the results came."""
    calls = [call("a", "one"), call("b", "two"), call("c", "three")]
    messages = [ASK, called(*calls, content="So."), *(result(name, name) for name in "cab")]
    assert (await _post(client, messages=messages)).status_code == 200
    told = [(m.text, m.call.name if m.call else None) for m in turns.asked[0].messages[1:]]  # type: ignore[union-attr]
    assert told == [("So.", "one"), ("a", None), ("", "two"), ("b", None), ("", "three"), ("c", None)]
