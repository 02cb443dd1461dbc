"""A set of stores in memory, and what is needed to run dispatchers over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import repeat

import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from tests.support.dispatch_kit import DispatchKit, drawn_answer
from tests.support.turn_kit import TINY


@pytest.fixture(scope="session")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TINY)


@pytest.fixture
async def kit(tokenizer: ChatGLM3Tokenizer) -> AsyncIterator[DispatchKit]:
    made = DispatchKit(tokenizer, ScriptedBackend(drawn_answer(tokenizer)))
    await made.turns.start()
    yield made
    await made.turns.stop()


@pytest.fixture
def refused(tokenizer: ChatGLM3Tokenizer) -> ScriptedBackend:
    """A replica without room."""
    return ScriptedBackend(drawn_answer(tokenizer), faults=repeat(Fault(FaultKind.OVERLOADED)))


@pytest.fixture
def failing(tokenizer: ChatGLM3Tokenizer) -> ScriptedBackend:
    """A replica that gives every sequence up after two ids."""
    return ScriptedBackend(drawn_answer(tokenizer), faults=repeat(Fault(FaultKind.FAILED, after=2)))
