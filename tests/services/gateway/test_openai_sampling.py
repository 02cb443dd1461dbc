"""The official client asks for several answers, log probabilities and formats, over real turns and scripted tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice

from cluster.protocol import GenerateRequest, Structure, StructureKind
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.sampling import choice_seed
from tests.support.gateway import MODEL, connected, make_deps, serving
from tests.support.turn_kit import TINY, TurnKit

ASK: list[Any] = [{"role": "user", "content": "Hi"}]
SEED = 11
ANSWERS = ["Hello 😀 there.", "好的, well.", "Third"]
BY_SEED = {choice_seed(SEED, i): answer for i, answer in enumerate(ANSWERS)}
TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)


@pytest.fixture
async def kit() -> AsyncIterator[TurnKit]:
    """Real turns; each seed has an answer of its own."""

    def answer(request: GenerateRequest) -> list[int]:
        return TOKENIZER.encode_text(f"\n{BY_SEED.get(request.sampling.seed, 'Else')}")

    kit = TurnKit(TOKENIZER, ScriptedBackend(answer))
    await kit.service.start()
    yield kit
    await kit.service.stop()


@pytest.fixture
async def url(kit: TurnKit, keys: MemoryKeyStore) -> AsyncIterator[str]:
    deps = make_deps(turns=kit.service, store=kit.store, authenticator=Authenticator(keys))
    async with serving(create_app(deps)) as url:
        yield url


@pytest.fixture
async def client(kit: TurnKit, keys: MemoryKeyStore, key: str) -> AsyncIterator[httpx.AsyncClient]:
    deps = make_deps(turns=kit.service, store=kit.store, authenticator=Authenticator(keys))
    async with connected(create_app(deps), key) as client:
        yield client


async def test_every_field_reaches_the_replica(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """What the client names is what the engine is told."""
    schema: dict[str, object] = {"type": "object"}
    await ai.chat.completions.create(
        model=MODEL,
        messages=ASK,
        temperature=0.5,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"300": -100},
        logprobs=True,
        top_logprobs=3,
        seed=SEED,
        response_format={"type": "json_schema", "json_schema": {"name": "any", "schema": schema, "strict": True}},
        extra_body={"min_p": 0.1, "repetition_penalty": 1.2, "bad_words": ["no"], "stop_token_ids": [300], "top_k": 3},
    )
    sampling = kit.backend.requests[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -0.5, 1.2)
    assert (sampling.min_p, sampling.top_k, sampling.logprobs, sampling.seed) == (0.1, 3, 3, SEED)
    assert (sampling.logit_bias, sampling.stop_ids[-1]) == ({300: -100.0}, 300)
    assert sampling.structure == Structure(kind=StructureKind.JSON_SCHEMA, text='{"type":"object"}')
    assert sampling.bad_words


async def test_what_only_the_tokenizer_knows_is_a_400_too(client: httpx.AsyncClient, kit: TurnKit) -> None:
    """An id that is none of the model's, and more tokens than there is room for."""
    for change, param in (
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"stop_token_ids": [999_999]}, "stop_token_ids"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
    ):
        reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK} | change)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert kit.backend.requests == []


async def test_several_answers(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Each choice has its index and its own text; usage counts the prompt once."""
    answer = await ai.chat.completions.create(model=MODEL, messages=ASK, n=3, seed=SEED)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == list(enumerate(ANSWERS))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(kit.backend.requests[0].prompt_ids)
    assert answer.usage.completion_tokens == sum(len(TOKENIZER.encode_text(f"\n{text}")) for text in ANSWERS)


async def test_several_answers_in_one_stream(client: httpx.AsyncClient) -> None:
    """Every choice begins with its role, has its text in order and ends with one finish reason; usage comes once."""
    body = {"model": MODEL, "messages": ASK, "n": 3, "seed": SEED, "stream": True}
    chunks = await _chunks(client, body | {"stream_options": {"include_usage": True}})
    for index, text in enumerate(ANSWERS):
        own = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert _text(own) == text
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + ["stop"]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_one_failure_is_the_requests(client: httpx.AsyncClient, kit: TurnKit, is_stream: bool) -> None:  # noqa: FBT001 - pytest passes by name
    """A typed error: the status, or the stream's last event, without [DONE]."""
    kit.backend.faults = iter([Fault(), Fault(FaultKind.FAILED, after=2)])
    body = {"model": MODEL, "messages": ASK, "n": 2, "stream": is_stream}
    reply = await client.post("/v1/chat/completions", json=body)
    if is_stream:
        assert "generation_failed" in reply.text.split("\n\n")[-2]
        assert "[DONE]" not in reply.text
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "generation_failed")


async def test_log_probabilities(client: httpx.AsyncClient) -> None:
    """One entry per id with the best ones beside it; their bytes are the text, and no refusal is told."""
    body = {"model": MODEL, "messages": ASK, "seed": SEED, "logprobs": True, "top_logprobs": 2}
    answer = ChatCompletion.model_validate((await client.post("/v1/chat/completions", json=body)).json())
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    assert {len(entry.top_logprobs) for entry in logprobs.content} == {2}
    assert b"".join(bytes(entry.bytes or ()) for entry in logprobs.content).decode().lstrip() == ANSWERS[0]
    assert logprobs.refusal is None


async def test_streamed_log_probabilities_are_the_same(client: httpx.AsyncClient) -> None:
    """Joined over the chunks of a choice they are those of the whole answer, whichever choice it is."""
    body = {"model": MODEL, "messages": ASK, "seed": SEED, "n": 2, "logprobs": True, "top_logprobs": 1}
    body |= {"max_tokens": 4}  # the first answer ends within a character
    whole = (await client.post("/v1/chat/completions", json=body)).json()
    chunks = await _chunks(client, body | {"stream": True})
    for choice in whole["choices"]:
        own = [one for chunk in chunks for one in chunk.choices if one.index == choice["index"]]
        entries = [entry.to_dict() for one in own if one.logprobs for entry in one.logprobs.content or ()]
        assert entries == choice["logprobs"]["content"]
        assert len(entries) == 4


async def test_no_log_probabilities_unless_asked(client: httpx.AsyncClient) -> None:
    """The field is null in answers and in chunks."""
    body = {"model": MODEL, "messages": ASK}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    chunks = await _chunks(client, body | {"stream": True})
    assert answer["choices"][0]["logprobs"] is None
    assert not [choice for chunk in chunks for choice in chunk.choices if choice.logprobs]


async def test_a_stop_string_cuts_the_log_probabilities(client: httpx.AsyncClient) -> None:
    """What is not said has none."""
    body = {"model": MODEL, "messages": ASK, "seed": SEED, "logprobs": True, "stop": ["there"]}
    answer = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
    said = b"".join(bytes(entry["bytes"]) for entry in answer["logprobs"]["content"])
    assert answer["message"]["content"] == "Hello 😀 "
    assert "Hello 😀 ".startswith(said.decode().lstrip())


async def test_log_probabilities_of_a_response(ai: openai.AsyncOpenAI) -> None:
    """Deltas carry their own, what follows the deltas the whole text's."""
    stream = await ai.responses.create(
        model=MODEL,
        input="Hi",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        stream=True,
        extra_body={"seed": SEED},
    )
    events = [event async for event in stream]
    new = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    done = next(event for event in events if event.type == "response.output_text.done")
    last = events[-1]
    assert last.type == "response.completed"
    whole = last.response.output[0].content[0].logprobs  # type: ignore[index, union-attr]
    assert [entry.token for entry in new] == [entry.token for entry in done.logprobs]
    assert whole is not None
    assert [entry.token for entry in whole] == [entry.token for entry in done.logprobs]
    assert b"".join(bytes(entry.bytes) for entry in whole).decode().lstrip() == ANSWERS[0]
    assert last.response.top_logprobs == 2


async def test_a_whole_response_has_them_too(ai: openai.AsyncOpenAI) -> None:
    """Stored or not; only where they are included."""
    for store in (True, False):
        asked = await ai.responses.create(
            model=MODEL, input="Hi", include=["message.output_text.logprobs"], store=store
        )
        plain = await ai.responses.create(model=MODEL, input="Hi", store=store)
        assert asked.output[0].content[0].logprobs  # type: ignore[index, union-attr]
        assert plain.output[0].content[0].logprobs == []  # type: ignore[index, union-attr]


async def _chunks(client: httpx.AsyncClient, body: dict[str, Any]) -> list[ChatCompletionChunk]:
    reply = await client.post("/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(event) for event in events]


def _text(choices: list[ChunkChoice]) -> str:
    return "".join(choice.delta.content or "" for choice in choices)
