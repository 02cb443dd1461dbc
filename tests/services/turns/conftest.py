"""A tokenizer and turn services over scripted tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from tests.support.kills import TEXT, World
from tests.support.turn_kit import TINY, TurnKit
from tests.support.valkey import running_valkey

ANSWER = "\n Hello there. How are you?"


@pytest.fixture(scope="session")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TINY)


@pytest.fixture
async def kit(tokenizer) -> AsyncIterator[TurnKit]:
    kit = TurnKit(tokenizer, ScriptedBackend(tokenizer.encode_text(ANSWER)))
    await kit.service.start()
    yield kit
    await kit.service.stop()


@pytest.fixture(scope="module")
def server():
    with running_valkey() as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("valkey", marks=[pytest.mark.valkey, pytest.mark.heavy])])
async def world(request, tokenizer):
    backend = ScriptedBackend(tokenizer.encode_text("\n " + TEXT), frame=2)
    if request.param == "memory":
        yield World(TurnKit(tokenizer, backend))
        return
    server = request.getfixturevalue("server")
    link = RedisLink(server.url)
    seams = {"store": RedisConversationStore(link), "due": RedisDueIndex(link), "queue": RedisQueue(link, BACKGROUND)}
    yield World(TurnKit(tokenizer, backend, **seams))
    await link.close()
    assert server.keys_without_ttl(allowed=["c1:q:", "c1:due:"]) == []
    server.flush()
