"""Nobody learns whether another tenant has something: its ids are answered as ids that nobody was given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel
from tests.fakes.counted_store import CountedStore
from tests.support.gateway import MODEL, TENANT, connected, make_deps
from tests.support.turn_kit import TINY, TurnKit

SAID = {"role": "user", "content": "Hi"}
TURN = {"model": MODEL, "input": "Hi"}


@dataclass
class World:
    """A gateway with its store, and what one tenant has there."""

    rival: httpx.AsyncClient
    store: CountedStore
    ids: dict[str, str]

    async def asked(self, method: str, path: str, body: Any, ids: dict[str, str]) -> tuple[int, bytes, list[str]]:
        """The rival's request for these ids: status, body, and what the store was asked."""
        filled = _filled(body, ids)
        self.store.calls.clear()
        reply = await self.rival.request(method, path.format(**ids), json=filled, headers={"x-request-id": "r"})
        return reply.status_code, reply.content, list(self.store.calls)


def _filled(body: Any, ids: dict[str, str]) -> Any:
    return {key: ids.get(value, value) if isinstance(value, str) else value for key, value in (body or {}).items()}


@asynccontextmanager
async def _world(tokenizer: ChatGLM3Tokenizer, keys: MemoryKeyStore) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    def answer(request: GenerateRequest) -> list[int]:
        return tokenizer.encode_text("\n Hello.")

    store = CountedStore()
    kit = TurnKit(tokenizer, ScriptedBackend(answer), model=ServedModel(MODEL, 512, "fp_1"), store=store)
    await kit.service.start()
    app = create_app(make_deps(turns=kit.service, store=store, authenticator=Authenticator(keys)))
    (_, owners), (_, rivals) = await keys.create(TENANT, "t"), await keys.create("rival", "t")
    async with connected(app, owners) as owner, connected(app, rivals) as rival:
        yield World(rival, store, {}), owner
    await kit.service.stop()


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TINY)


@pytest.fixture
async def full(tokenizer: ChatGLM3Tokenizer, keys: MemoryKeyStore) -> AsyncIterator[World]:
    """A world where the other tenant has a conversation with a turn, a turn without one, and a deleted turn."""
    async with _world(tokenizer, keys) as (world, owner):
        conversation = (await owner.post("/v1/conversations", json={"items": [SAID]})).json()["id"]
        within = (await owner.post("/v1/responses", json=TURN | {"conversation": conversation})).json()
        alone = (await owner.post("/v1/responses", json=TURN)).json()["id"]
        deleted = (await owner.post("/v1/responses", json=TURN)).json()["id"]
        assert (await owner.delete(f"/v1/responses/{deleted}")).is_success
        world.ids |= {"conversation": conversation, "item": within["output"][0]["id"]}
        world.ids |= {"within": within["id"], "alone": alone, "deleted": deleted}
        yield world


@pytest.fixture
async def empty(tokenizer: ChatGLM3Tokenizer, keys: MemoryKeyStore) -> AsyncIterator[World]:
    """A world where nobody has anything."""
    async with _world(tokenizer, keys) as (world, _):
        yield world


CONVERSATION = "/v1/conversations/{conversation}"
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", CONVERSATION, None),
    ("POST", CONVERSATION, {"metadata": {}}),
    ("DELETE", CONVERSATION, None),
    ("GET", CONVERSATION + "/items", None),
    ("GET", CONVERSATION + "/items?before={item}", None),
    ("POST", CONVERSATION + "/items", {"items": [SAID]}),
    ("GET", CONVERSATION + "/items/{item}", None),
    ("DELETE", CONVERSATION + "/items/{item}", None),
    ("GET", CONVERSATION + "/export", None),
    *[
        (method, f"/v1/responses/{{{name}}}{rest}", None)
        for name in ("within", "alone", "deleted")
        for method, rest in [
            ("GET", ""),
            ("GET", "?stream=true"),
            ("GET", "?stream=true&starting_after=1"),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/input_items"),
        ]
    ],
    *[
        ("POST", "/v1/responses", TURN | place | kind)
        for place in (
            {"conversation": "conversation"},
            {"previous_response_id": "within"},
            {"previous_response_id": "alone"},
            {"previous_response_id": "deleted"},
        )
        for kind in ({}, {"stream": True}, {"background": True})
    ],
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=str)
async def test_a_foreign_id_is_an_unknown_one(full: World, empty: World, method: str, path: str, body: Any) -> None:
    """The same bytes, and the store is asked the same questions: neither words nor time tell them apart."""
    foreign = await full.asked(method, path, body, full.ids)
    unknown = await empty.asked(method, path, body, full.ids)
    assert foreign[0] == 404
    assert foreign == unknown


async def test_every_route_with_an_id_is_tried(full: World) -> None:
    """A new route fails here until it is in the list."""
    document = (await full.rival.get("/openapi.json")).json()
    with_id = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if "{conversation}" in path or "{response}" in path
    }
    tried = {(method, path.partition("?")[0].replace("{within}", "{response}")) for method, path, _ in ROUTES}
    assert with_id <= tried


async def test_a_foreign_cursor_is_an_unknown_one(full: World, empty: World) -> None:
    """In a conversation of one's own, too."""
    answers = []
    for world in (full, empty):
        made = (await world.rival.post("/v1/conversations", json={"items": [SAID]})).json()["id"]
        ids = full.ids | {"conversation": made}
        answers.append(await world.asked("GET", CONVERSATION + "/items?after={item}", None, ids))
    assert answers[0][0] == 404
    assert answers[0] == answers[1]
