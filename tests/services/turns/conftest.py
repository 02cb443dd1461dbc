"""A tokenizer and turn services over scripted tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from tests.support.turn_kit import TINY, TurnKit

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
