"""The gateway keeps to its own document, whatever is sent: schemathesis makes the requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.dispatcher.dispatcher import Dispatcher
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel
from tests.support.gateway import MODEL, make_deps, serving
from tests.support.http_contract import Run
from tests.support.turn_kit import TINY, TurnKit


@pytest.fixture
async def run(keys: MemoryKeyStore, key: str, tmp_path: Path) -> AsyncIterator[Run]:
    """A real server over real turns and a dispatcher, memory and scripted tokens."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)

    def answer(request: GenerateRequest) -> list[int]:
        return tokenizer.encode_text(f"\n After {len(request.prompt_ids)} tokens, hello.")

    kit = TurnKit(tokenizer, ScriptedBackend(answer), model=ServedModel(MODEL, 512, "fp_0123456789"))
    dispatcher = Dispatcher(kit.service, kit.store, kit.queue, kit.due, name="dispatcher")
    await kit.service.start()
    await dispatcher.start()
    app = create_app(make_deps(turns=kit.service, store=kit.store, authenticator=Authenticator(keys)))
    async with serving(app) as url:
        yield Run(url, tmp_path, key=key)
    await dispatcher.stop()
    await kit.service.stop()


async def test_requests_at_every_bound(run: Run) -> None:
    """Each field at and beyond its bounds, each method, no key and a wrong one: no 5xx, nothing undocumented."""
    await run.check("examples", "coverage", seconds=20)


@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_five_minutes_of_any_requests(run: Run) -> None:
    """Random requests too, and random walks along the document's links."""
    await run.check("examples", "coverage", "fuzzing", "stateful", seconds=300)
