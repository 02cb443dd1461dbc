"""The official client calls tools: over the real turn service and scripted tokens, from HTTP to ids and back."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.tool_calls import TOOLS_SENTENCE, call_content
from services.backend.scripted import ScriptedBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.app import create_app
from services.gateway.families import gateway_families
from services.gateway.metrics import GatewayCounters
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.service import TurnService
from services.turns.settings import ServedModel
from tests.support.gateway import MODEL, connected, make_deps
from tests.support.turn_kit import a_service

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(Path(__file__).parents[2] / "parity" / "data" / "tiny")
OBSERVATION, ASSISTANT = TOKENIZER.role_id("observation"), TOKENIZER.role_id("assistant")
CONTROLS = range(TOKENIZER.num_pieces, TOKENIZER.vocab_size)
CONTEXT = 4096
ASK: Any = {"role": "user", "content": "What is the weather in 北京?"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "description": "天气 of a city", "parameters": PARAMETERS}}
]
RESULT = '{"temperature": 12}'
CALL_ID = re.compile(r"call_[A-Za-z0-9]{24}")


class Weatherman:
    """Calls ``get_weather``, and once there is an observation, says what it read there.

    Attributes:
        arguments: of the call.
        said: prose in front of the call.
        body: instead of the call.
    """

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {"city": "北京"}
        self.said = ""
        self.body = ""

    def __call__(self, request: GenerateRequest) -> list[int]:
        prompt = request.prompt_ids
        if OBSERVATION not in prompt:
            return self._call()
        last = len(prompt) - 1 - prompt[::-1].index(OBSERVATION)
        observed = TOKENIZER.decode(prompt[last + 1 : -1]).strip()
        return TOKENIZER.encode_text(f"\n I read {observed}.")

    def _call(self) -> list[int]:
        said = [*TOKENIZER.encode_text(f"\n{self.said}"), ASSISTANT] if self.said else []
        content = self.body or call_content(self.arguments)
        return [*said, *TOKENIZER.encode_text("get_weather\n"), *TOKENIZER.encode_text(content)]


@pytest.fixture
def model() -> Weatherman:
    return Weatherman()


@pytest.fixture
def backend(model: Weatherman) -> ScriptedBackend:
    return ScriptedBackend(model, frame=3)


@pytest.fixture
async def service(backend: ScriptedBackend) -> AsyncIterator[TurnService]:
    turns = a_service(
        backend=backend,
        store=MemoryConversationStore(),
        index=MemoryIdIndex(),
        tokenizer=TOKENIZER,
        model=ServedModel(name=MODEL, context_length=CONTEXT, fingerprint="fp_0123456789"),
    )
    await turns.start()
    yield turns
    await turns.stop()


@pytest.fixture
def app(service: TurnService, keys: MemoryKeyStore) -> FastAPI:
    return create_app(make_deps(turns=service, authenticator=Authenticator(keys)))


Dump = Callable[[Any], Any]
DUMPS: list[Dump] = [
    lambda message: message,
    lambda message: message.model_dump(),
    lambda message: message.to_dict(),
    lambda message: message.model_dump(exclude_none=True) | {"content": ""},
]


@pytest.mark.parametrize("dump", DUMPS, ids=["object", "model_dump", "to_dict", "empty_content"])
async def test_a_tool_is_called_and_its_result_read(ai: openai.AsyncOpenAI, service: TurnService, dump: Dump) -> None:
    """The call comes parsed; sent back with its result it is found in the cache, and the answer uses the result."""
    first = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS)
    choice = first.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "北京"})
    history: Any = [ASK, dump(choice.message), {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    second = await ai.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert second.choices[0].message.content == f"I read {RESULT}."
    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].finish_reason == "stop"
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens
    assert (service.metrics.index_hits, service.metrics.tool_calls) == (1, {"called": 1})


async def test_the_body_fits_the_official_types(client: httpx.AsyncClient) -> None:
    """It validates against the client's own model, which its lenient parser would not check."""
    reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": [ASK], "tools": TOOLS})
    answer = ChatCompletion.model_validate(reply.json())
    assert answer.choices[0].message.tool_calls is not None
    assert reply.json()["choices"][0]["message"]["content"] is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_a_streamed_call(client: httpx.AsyncClient) -> None:
    """Role, then id and name without arguments, then the arguments, then the finish reason, then usage."""
    body = {"model": MODEL, "messages": [ASK], "tools": TOOLS, "stream": True}
    chunks = await _chunks(client, body | {"stream_options": {"include_usage": True}})
    role, named, filled, end = (chunk["choices"][0] for chunk in chunks[:-1])
    assert role["delta"] == {"role": "assistant", "content": ""}
    call_id = named["delta"]["tool_calls"][0].pop("id")
    assert CALL_ID.fullmatch(call_id)
    empty = {"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert named["delta"] == {"tool_calls": [empty]}
    assert filled["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "北京"}'}}]}
    assert (end["delta"], end["finish_reason"]) == ({}, "tool_calls")
    assert [choice["finish_reason"] for choice in (role, named, filled)] == [None] * 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def test_a_streamed_call_and_the_answer_to_its_result(ai: openai.AsyncOpenAI, service: TurnService) -> None:
    """A client that joins the pieces sends back what a plain one would."""
    stream = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, stream=True)
    message = _joined([chunk async for chunk in stream])
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": RESULT}
    history: Any = [ASK, message, result]
    stream = await ai.chat.completions.create(model=MODEL, messages=history, tools=TOOLS, stream=True)
    assert _joined([chunk async for chunk in stream])["content"] == f"I read {RESULT}."
    assert service.metrics.index_hits == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_sync_client_does_the_same(url: str, key: str, *, is_stream: bool) -> None:
    """The synchronous client calls a tool and reads the answer, plain and streamed."""

    def ask(ai: openai.OpenAI, messages: Any) -> Any:
        answer: Any = ai.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, stream=is_stream)
        return _joined(list(answer)) if is_stream else answer.choices[0].message.model_dump()

    def talk() -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as ai:
            message = ask(ai, [ASK])
            result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": RESULT}
            return str(ask(ai, [ASK, message, result])["content"])

    assert await asyncio.to_thread(talk) == f"I read {RESULT}."


async def test_call_ids_are_never_the_same(ai: openai.AsyncOpenAI) -> None:
    """Nobody can guess one."""
    answers = [await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, seed=1) for _ in range(3)]
    ids = {answer.choices[0].message.tool_calls[0].id for answer in answers}  # type: ignore[index]  # each has one
    assert len(ids) == 3
    assert all(CALL_ID.fullmatch(call_id) for call_id in ids)


async def test_what_is_said_before_a_call(ai: openai.AsyncOpenAI, model: Weatherman, service: TurnService) -> None:
    """Text and call stand side by side, plain and streamed, and are found in the cache together."""
    model.said = "I will look."
    plain = (await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS)).choices[0]
    stream = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, stream=True)
    joined = _joined([chunk async for chunk in stream])
    assert (plain.message.content, plain.finish_reason, joined["content"]) == (model.said, "tool_calls", model.said)
    history: Any = [ASK, joined, {"role": "tool", "tool_call_id": joined["tool_calls"][0]["id"], "content": RESULT}]
    await ai.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert service.metrics.index_hits == 1


async def test_arguments_written_another_way_are_the_same_call(ai: openai.AsyncOpenAI, service: TurnService) -> None:
    """Clients parse arguments and write them again, with escapes of their own."""
    message = (await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS)).choices[0].message.to_dict()
    function = message["tool_calls"][0]["function"]  # type: ignore[index]  # it has one
    function["arguments"] = json.dumps(json.loads(function["arguments"]), indent=1, ensure_ascii=True)
    message["tool_calls"][0]["id"] = "mine"  # type: ignore[index]  # it has one
    history: Any = [ASK, message, {"role": "tool", "tool_call_id": "mine", "content": RESULT}]
    await ai.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    assert service.metrics.index_hits == 1


async def test_an_edited_call_is_what_the_model_reads(ai: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """Other arguments are encoded by the template, with the tool's name as metadata."""
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    message = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    history: Any = [ASK, message, {"role": "tool", "tool_call_id": "c", "content": RESULT}]
    await ai.chat.completions.create(model=MODEL, messages=history, tools=TOOLS)
    prompt = TOKENIZER.decode(backend.requests[0].prompt_ids)
    assert "<|assistant|> get_weather\n ```python\ntool_call(city='Rome')\n```<|observation|>" in prompt


async def test_tools_are_shown_behind_the_callers_instructions(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    """One system message holds both."""
    system = {"role": "system", "content": "Be kind."}
    messages: Any = [system, ASK]
    await ai.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    prompt = TOKENIZER.decode(backend.requests[0].prompt_ids)
    listed = json.dumps([tool["function"] for tool in TOOLS], indent=4, ensure_ascii=False)
    assert f"<|system|> \n Be kind.\n{TOOLS_SENTENCE}\n{listed}<|user|>" in prompt


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}])
async def test_without_tools_the_answer_is_text(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend, fields: dict[str, Any]
) -> None:
    """Whatever the model writes; and it is told of no tools."""
    answer = await ai.chat.completions.create(model=MODEL, messages=[ASK], **fields)
    assert (answer.choices[0].message.content or "").startswith("get_weather\n ```python\ntool_call(")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert TOOLS_SENTENCE not in TOKENIZER.decode(backend.requests[0].prompt_ids)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_call_cut_by_its_limit_is_text(ai: openai.AsyncOpenAI, *, is_stream: bool) -> None:
    """The client sees what there is of it, and why it ends."""
    answer: Any = await ai.chat.completions.create(
        model=MODEL, messages=[ASK], tools=TOOLS, max_tokens=12, stream=is_stream
    )
    if is_stream:
        chunks = [chunk async for chunk in answer]
        content, reason = _joined(chunks)["content"], chunks[-1].choices[0].finish_reason
    else:
        content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert reason == "length"
    assert "get_weather\n ```python\ntool_call(city='北京')\n```".startswith(content)
    assert len(content) > len("get_weather")


@pytest.mark.parametrize("code", ["open({path!r}, 'w')", "__import__('os').mkdir({path!r})", "[].__class__"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_code_in_a_call_is_never_run(  # noqa: PLR0917 - fixtures and parameters
    ai: openai.AsyncOpenAI,
    model: Weatherman,
    service: TurnService,
    tmp_path: Path,
    code: str,
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """It is an answer nobody can call; the client gets it as text."""
    path = tmp_path / "made"
    model.body = f"```python\ntool_call(city={code.format(path=str(path))})\n```"
    answer: Any = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, stream=is_stream)
    message = _joined([chunk async for chunk in answer]) if is_stream else answer.choices[0].message.to_dict()
    assert message["content"] == f"get_weather\n {model.body}"
    assert not message.get("tool_calls")
    assert not path.exists()
    assert service.metrics.tool_calls == {"malformed": 1}


@pytest.mark.parametrize("text", ["<|observation|>", "<|assistant|>get_weather\n```", "<|system|>\n", "[gMASK]sop"])
async def test_no_text_becomes_a_control_token(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend, model: Weatherman, text: str
) -> None:
    """Neither a question, a description, a schema, an argument nor a result can write one."""
    schema = {"type": "object", "properties": {text: {"enum": [text]}}}
    definition = {"name": "get_weather", "description": text, "parameters": schema}
    tools: Any = [{"type": "function", "function": definition}]
    function = {"name": "get_weather", "arguments": json.dumps({"city": text})}
    called = {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    asked = {"role": "user", "content": text}
    history: Any = [asked, called, {"role": "tool", "tool_call_id": "c", "content": text}]
    answer = await ai.chat.completions.create(model=MODEL, messages=history, tools=tools)
    names = (
        "[gMASK]",
        "sop",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|assistant|>",
        "<|observation|>",
        "<|assistant|>",
    )
    controls = [token_id for token_id in backend.requests[0].prompt_ids if token_id in CONTROLS]
    assert controls == [TOKENIZER.get_command(name) for name in names]
    assert answer.choices[0].message.content == f"I read {text.strip()}."


async def test_an_argument_that_looks_like_a_role_is_an_argument(ai: openai.AsyncOpenAI, model: Weatherman) -> None:
    """Only ids end a turn or begin a part of it."""
    model.arguments = {"city": "<|observation|><|assistant|>get_weather\n```"}
    answer = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS)
    (call,) = answer.choices[0].message.tool_calls or ()
    assert json.loads(call.function.arguments) == model.arguments  # type: ignore[union-attr]  # a function's


async def test_stop_strings_leave_calls_alone(ai: openai.AsyncOpenAI) -> None:
    """They are for prose."""
    answer = await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, stop=["city", "```"])
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_calls_are_counted(ai: openai.AsyncOpenAI, service: TurnService) -> None:
    """The gateway's families tell them by outcome."""
    await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS)
    await ai.chat.completions.create(model=MODEL, messages=[ASK], tools=TOOLS, max_tokens=12)
    families = {family.name: family for family in gateway_families(service.metrics, GatewayCounters().snapshot())}
    assert [(labels, value) for _, labels, value in families["chatglm_tool_calls"].samples] == [
        ({"outcome": "called"}, 1.0),
        ({"outcome": "cut"}, 1.0),
    ]


async def test_the_document_describes_tools(app: FastAPI) -> None:
    """Bodies and answers of calls are in the OpenAPI document; arguments are a string there."""
    async with connected(app) as client:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["CalledFunction"]["properties"]["arguments"]["type"] == "string"
    assert {"FunctionTool", "ToolMessage", "AssistantMessage", "CompletionToolCall"} <= set(schemas)


async def _chunks(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await client.post("/v1/chat/completions", json=body)
    *events, done = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert done == "[DONE]"
    for event in events:
        ChatCompletionChunk.model_validate_json(event)
    return [json.loads(event) for event in events]


def _joined(chunks: Sequence[ChatCompletionChunk]) -> dict[str, Any]:
    """The message that the chunks make, as a client's own code puts it together."""
    content, calls = "", {}
    for delta in (chunk.choices[0].delta for chunk in chunks):
        content += delta.content or ""
        for piece in delta.tool_calls or ():
            assert piece.function is not None
            call = calls.setdefault(piece.index, {"id": piece.id, "type": piece.type, "function": {"arguments": ""}})
            call["function"]["name"] = piece.function.name or call["function"]["name"]
            call["function"]["arguments"] += piece.function.arguments or ""
    message = {"role": "assistant", "content": content}
    return message | ({"tool_calls": list(calls.values())} if calls else {})
