"""Two tenants of one gateway, of whom the operator has given one limits and times of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.tenants.share import DAY_S
from services.turns.settings import ServedModel
from tests.fakes.fake_clock import FakeClock
from tests.support.gateway import MODEL, TENANT, connected, make_deps
from tests.support.turn_kit import a_service

TOKENIZER = Path(__file__).parents[2] / "parity" / "data" / "tiny"
RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
HI = {"model": MODEL, "input": "Hi"}

Tenants = tuple[httpx.AsyncClient, httpx.AsyncClient]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def tenants(keys: MemoryKeyStore, key: str, clock: FakeClock) -> AsyncIterator[Tenants]:
    """Two tenants' clients of one gateway; the first has limits of its own, both have the cluster's share."""
    await keys.set_share(TENANT, history_ttl_days=2, max_queued=1)
    _, rival = await keys.create("rival", "test")
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TOKENIZER)
    store = MemoryConversationStore(clock=clock)
    turns = a_service(
        backend=ScriptedBackend(tokenizer.encode_text("\n Hello.")),
        store=store,
        index=MemoryIdIndex(),
        tokenizer=tokenizer,
        model=ServedModel(name=MODEL, context_length=512, fingerprint="fp_0123456789"),
    )
    await turns.start()
    app = create_app(make_deps(turns=turns, store=store, authenticator=Authenticator(keys)))
    async with AsyncExitStack() as clients:
        one, other = [await clients.enter_async_context(connected(app, text)) for text in (key, rival)]
        yield one, other
    await turns.stop()


async def _made(client: httpx.AsyncClient, path: str, **body: Any) -> str:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    name: str = reply.json()["id"]
    return f"{path}/{name}"


async def _statuses(tenants: Tenants, paths: list[str]) -> list[int]:
    return [(await client.get(path)).status_code for client, path in zip(tenants, paths, strict=True)]


async def test_idle_conversations_are_kept_for_as_long_as_their_tenant_was_given(
    tenants: Tenants, clock: FakeClock
) -> None:
    """From when they were made, whether or not a turn came."""
    paths = [await _made(client, CONVERSATIONS) for client in tenants]
    clock.now += 2 * DAY_S - 1
    assert await _statuses(tenants, paths) == [200, 200]
    clock.now += 1
    assert await _statuses(tenants, paths) == [404, 200]


@pytest.mark.parametrize("background", [False, True])
async def test_responses_are_kept_as_conversations_are(tenants: Tenants, clock: FakeClock, *, background: bool) -> None:
    """From their end; one that waits is not forgotten, and lives as long once it was cancelled."""
    paths = [await _made(client, RESPONSES, **HI, background=background) for client in tenants]
    for client, path in zip(tenants, paths, strict=True):
        if background:
            await client.post(f"{path}/cancel")
    clock.now += 2 * DAY_S - 1
    assert await _statuses(tenants, paths) == [200, 200]
    clock.now += 1
    assert await _statuses(tenants, paths) == [404, 200]


async def test_each_tenant_may_queue_as_many_turns_as_it_was_given(tenants: Tenants, keys: MemoryKeyStore) -> None:
    """The refusal says how many; a raised limit counts for the next turn."""
    body = HI | {"background": True}
    statuses = [[(await client.post(RESPONSES, json=body)).status_code for _ in range(2)] for client in tenants]
    assert statuses == [[200, 429], [200, 200]]
    refusal = await tenants[0].post(RESPONSES, json=body)
    assert refusal.json()["error"]["code"] == "queue_full"
    assert "No more than 1 background turns" in refusal.json()["error"]["message"]
    await keys.set_share(TENANT, max_queued=2)
    assert (await tenants[0].post(RESPONSES, json=body)).status_code == 200
