"""A gateway with all that stands behind it but the model: real turns, a dispatcher, memory and scripted tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.dispatcher.dispatcher import Dispatcher
from services.gateway.app import create_app
from services.gateway.deps import ModelInfo
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel, TurnSettings
from tests.support.gateway import MODEL, make_deps, serving
from tests.support.turn_kit import QUICK, TINY, TurnKit

CONTEXT = 512  # tokens
FINGERPRINT = "fp_0123456789"


@asynccontextmanager
async def whole_gateway(keys: MemoryKeyStore, *, model: str = MODEL) -> AsyncIterator[str]:
    """Its URL. Each answer tells how long its prompt is."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)

    def answer(request: GenerateRequest) -> list[int]:
        return tokenizer.encode_text(f"\n After {len(request.prompt_ids)} tokens, hello.")

    served = ServedModel(model, CONTEXT, FINGERPRINT)
    kit = TurnKit(tokenizer, ScriptedBackend(answer), replace(QUICK, resume_s=TurnSettings().resume_s), served)
    dispatcher = Dispatcher(kit.service, kit.store, kit.queue, kit.due, name="dispatcher")
    models = (ModelInfo(model, 1_690_000_000, CONTEXT, FINGERPRINT),)
    deps = make_deps(turns=kit.service, store=kit.store, authenticator=Authenticator(keys), models=models)
    await kit.service.start()
    await dispatcher.start()
    try:
        async with serving(create_app(deps)) as url:
            yield url
    finally:
        await dispatcher.stop()
        await kit.service.stop()
