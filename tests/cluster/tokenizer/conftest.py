"""The tokenizers under test: a small one that is committed, and the published one where the machine has it."""

from __future__ import annotations

import os

import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from tests.cluster.tokenizer.recorded import TINY


@pytest.fixture(scope="session")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TINY)


@pytest.fixture(scope="session")
def published() -> ChatGLM3Tokenizer:
    path = os.environ.get("CHATGLM3_TOKENIZER")
    if not path:
        pytest.skip("CHATGLM3_TOKENIZER does not point to the published tokenizer.model")
    return ChatGLM3Tokenizer.from_pretrained(path)
