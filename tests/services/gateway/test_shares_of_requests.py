"""From a tenant's key to what its requests tell a replica: weight, class, and how long to keep."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from services.turns.settings import ServedModel
from tests.support.gateway import MODEL, TENANT, connected, make_deps
from tests.support.turn_kit import a_service

TOKENIZER = Path(__file__).parents[2] / "parity" / "data" / "tiny"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]},
    RESPONSES: {"model": MODEL, "input": "Hi"},
}
KINDS = [(CHAT, {}), (RESPONSES, {}), (RESPONSES, {"store": False})]


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def backend(tokenizer: ChatGLM3Tokenizer) -> ScriptedBackend:
    return ScriptedBackend(tokenizer.encode_text("\n Hello."))


@pytest.fixture
async def client(
    tokenizer: ChatGLM3Tokenizer, backend: ScriptedBackend, keys: MemoryKeyStore, key: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway over the real turn service and authenticator, and scripted tokens."""
    store = MemoryConversationStore()
    turns = a_service(
        backend=backend,
        store=store,
        index=MemoryIdIndex(),
        tokenizer=tokenizer,
        model=ServedModel(name=MODEL, context_length=512, fingerprint="fp_0123456789"),
    )
    await turns.start()
    app = create_app(make_deps(turns=turns, store=store, authenticator=Authenticator(keys)))
    async with connected(app, key) as client:
        yield client
    await turns.stop()


async def _ask(client: httpx.AsyncClient, path: str, **change: Any) -> dict[str, Any]:
    reply = await client.post(path, json=BODIES[path] | change)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@pytest.mark.parametrize(("path", "change"), KINDS)
async def test_every_kind_of_turn_carries_its_tenants_share(
    client: httpx.AsyncClient, backend: ScriptedBackend, keys: MemoryKeyStore, path: str, change: dict[str, Any]
) -> None:
    """What the operator set is what the replica is told."""
    await keys.set_share(TENANT, weight=2.5, priority=3)
    await _ask(client, path, **change)
    assert [(r.tenant, r.weight, r.priority) for r in backend.requests] == [(TENANT, 2.5, 3)]


async def test_tenants_do_not_share_a_share(
    client: httpx.AsyncClient, backend: ScriptedBackend, keys: MemoryKeyStore
) -> None:
    """Another tenant's key carries its own."""
    await keys.set_share(TENANT, weight=2.5, priority=3)
    _, rival = await keys.create("rival", "test")
    client.headers["authorization"] = f"Bearer {rival}"
    await _ask(client, CHAT)
    assert [(r.tenant, r.weight, r.priority) for r in backend.requests] == [("rival", 1.0, 0)]


@pytest.mark.parametrize(("path", "change"), KINDS)
async def test_a_caller_may_step_down_and_no_other_way(
    client: httpx.AsyncClient, backend: ScriptedBackend, keys: MemoryKeyStore, path: str, change: dict[str, Any]
) -> None:
    """``flex`` is one class later; the weight stays."""
    await keys.set_share(TENANT, weight=2.5, priority=3)
    for tier in ("flex", "default", "auto", None):
        await _ask(client, path, service_tier=tier, **change)
    assert [(r.weight, r.priority) for r in backend.requests] == [(2.5, 4), (2.5, 3), (2.5, 3), (2.5, 3)]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("tier", ["priority", "fast", "scale", "", 5, True])
async def test_nobody_steps_up(client: httpx.AsyncClient, backend: ScriptedBackend, path: str, tier: object) -> None:
    """OpenAI's faster tiers are refused by name, and nothing was generated."""
    reply = await client.post(path, json=BODIES[path] | {"service_tier": tier})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "service_tier")
    assert backend.requests == []


@pytest.mark.parametrize(("path", "change"), KINDS)
async def test_no_field_of_a_body_changes_a_share(
    client: httpx.AsyncClient, backend: ScriptedBackend, path: str, change: dict[str, Any]
) -> None:
    """Names that schedulers elsewhere listen to are fields we do not know."""
    wish = {"priority": -1, "weight": 1000, "share": {"weight": 1000}, "keep_s": 9e9, "tenant": "rival"}
    await _ask(client, path, **wish, **change)
    assert [(r.tenant, r.weight, r.priority, r.keep_s) for r in backend.requests] == [(TENANT, 1.0, 0, 0.0)]


@pytest.mark.parametrize(("tier", "expected"), [("flex", "flex"), ("auto", "default"), (None, "default")])
async def test_a_response_names_its_tier(client: httpx.AsyncClient, tier: str | None, expected: str) -> None:
    """The one it was served in, never ``auto``."""
    assert (await _ask(client, RESPONSES, service_tier=tier))["service_tier"] == expected


async def test_a_conversation_asks_to_be_kept(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    """Longer than a question that stands alone."""
    conversation = (await client.post("/v1/conversations", json={})).json()["id"]
    await _ask(client, RESPONSES, conversation=conversation)
    await _ask(client, CHAT)
    assert [r.keep_s for r in backend.requests] == [600.0, 0.0]
