"""Over HTTP, with the engine in this process: of a conversation's past every full page comes from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response

from cluster.engine.client import EngineClient
from cluster.replica.config import PAGE_SIZE, ReplicaConfig
from cluster.replica.engine import build_engine
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.local import LocalBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel
from tests.support.erasing import an_eraser
from tests.support.gateway import MODEL, TENANT, make_deps, serving
from tests.support.pasts import fed_tokens
from tests.support.turn_kit import a_service, until

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
CONFIG = ReplicaConfig(str(TINY), device="cpu", dtype="float32", threads=1, kv_cache_bytes=2**24)
CONTEXT = 512
LENGTHS = (13, 40, 1, 16, 27, 5)  # of the answers, in tokens at most; odd ones may not end by themselves
QUESTIONS = ("Who are you?", "你好，今天天气怎么样？", "And then?", "Hm.", "Go on, and say it in more words.", "Why?")


@pytest.fixture(params=[CONFIG.max_batched_tokens, 24], ids=["whole prompts", "chunks"])
async def engine(request: pytest.FixtureRequest) -> EngineClient:
    """An engine that the backend starts and stops; its steps hold many prompts, or part of one."""
    return build_engine(replace(CONFIG, max_num_seqs=16, max_batched_tokens=request.param))


@pytest.fixture
async def url(engine: EngineClient, keys: MemoryKeyStore) -> AsyncIterator[str]:
    """A real server over real turns and a real model."""
    backend, store = LocalBackend(engine), MemoryConversationStore()
    turns = a_service(
        backend=backend,
        store=store,
        index=MemoryIdIndex(),
        tokenizer=ChatGLM3Tokenizer.from_pretrained(TINY),
        model=ServedModel(name=MODEL, context_length=CONTEXT, fingerprint="fp_0123456789"),
    )
    await backend.start()
    await turns.start()
    deps = make_deps(turns=turns, store=store, eraser=an_eraser(store, backend), authenticator=Authenticator(keys))
    async with serving(create_app(deps)) as url:
        yield url
    await turns.stop()
    await backend.stop()


async def talk(ai: openai.AsyncOpenAI, name: str, *, seed: int) -> list[Response]:
    """A conversation whose first words nobody else says."""
    conversation = (await ai.conversations.create()).id
    return [
        await ai.responses.create(
            model=MODEL,
            conversation=conversation,
            input=f"{name}: {question}",
            max_output_tokens=length,
            extra_body={"seed": seed, "ignore_eos": length % 2 == 1},
        )
        for question, length in zip(QUESTIONS, LENGTHS, strict=True)
    ]


def conversation_of(turns: list[Response]) -> str:
    """Its id."""
    conversation = turns[0].conversation
    assert conversation is not None
    return conversation.id


def assert_pasts_were_cached(turns: list[Response]) -> None:
    """Of each turn exactly what the turn before had fed to the model, in full pages, was found."""
    for before, turn in pairwise(turns):
        assert turn.usage is not None
        assert turn.usage.input_tokens_details.cached_tokens == fed_tokens(before) // PAGE_SIZE * PAGE_SIZE


async def test_every_full_page_of_the_past_is_found(ai: openai.AsyncOpenAI, engine: EngineClient) -> None:
    """Turn after turn, answers included, whatever their length."""
    turns = await talk(ai, "Anna", seed=1)
    assert_pasts_were_cached(turns)
    assert {turn.status for turn in turns} == {"completed", "incomplete"}
    assert engine.stats().cached_tokens == sum(
        turn.usage.input_tokens_details.cached_tokens for turn in turns if turn.usage
    )
    assert engine.stats().tenants[TENANT].evicted_pages == 0


async def test_so_it_is_with_several_conversations_at_once(ai: openai.AsyncOpenAI) -> None:
    """Whoever shares the steps."""
    talks = await asyncio.gather(*[talk(ai, f"Person {i}", seed=i) for i in range(6)])
    for turns in talks:
        assert_pasts_were_cached(turns)


async def test_a_streamed_past_is_found_too(ai: openai.AsyncOpenAI) -> None:
    """Whether an answer was streamed leaves no trace."""
    conversation, turns = (await ai.conversations.create()).id, []
    for question, length in zip(QUESTIONS, LENGTHS, strict=True):
        stream = await ai.responses.create(
            model=MODEL, conversation=conversation, input=question, max_output_tokens=length, stream=True
        )
        last = [event async for event in stream][-1]
        assert last.type in ("response.completed", "response.incomplete")
        turns.append(last.response)
    assert_pasts_were_cached(turns)


async def test_a_deleted_past_is_not_found_again(ai: openai.AsyncOpenAI, engine: EngineClient) -> None:
    """All of its pages are gone, and the answer says how many; another conversation keeps its own."""
    await talk(ai, "Boris", seed=2)
    pages = engine.stats().pages_cached
    turns = await talk(ai, "Anna", seed=1)
    deleted = await ai.conversations.delete(conversation_of(turns))
    assert deleted.model_extra == {
        "erased": {
            "kv_pages": fed_tokens(turns[-1]) // PAGE_SIZE,
            "kv_pages_in_use": 0,
            "replicas": 1,
            "replicas_missed": 0,
        }
    }
    assert engine.stats().pages_cached == pages
    again = await talk(ai, "Anna", seed=1)
    assert again[0].usage is not None
    assert again[0].usage.input_tokens_details.cached_tokens == 0
    assert again[0].output_text == turns[0].output_text


async def test_a_turn_that_runs_when_its_conversation_is_deleted_leaves_no_page(
    ai: openai.AsyncOpenAI, engine: EngineClient
) -> None:
    """It ends with an error, for its record is gone, and its pages go with it."""
    conversation = (await ai.conversations.create()).id
    stream = await ai.responses.create(
        model=MODEL,
        conversation=conversation,
        input="Anna: Tell me everything.",
        max_output_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    kinds = []
    async for event in stream:
        kinds.append(event.type)
        if kinds.count("response.output_text.delta") == 3:
            break
    deleted = await ai.conversations.delete(conversation)
    assert deleted.model_extra is not None
    assert deleted.model_extra["erased"]["kv_pages_in_use"] > 0
    kinds += [event.type async for event in stream]
    assert kinds[-1] in ("response.failed", "error")
    await until(lambda: engine.stats().pages_active == 0)
    assert engine.stats().pages_cached == 0
