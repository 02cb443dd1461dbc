"""``GET /v1/conversations/{id}/export``: whole lines, page by page, no faster than the client reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from cluster.errors import StoreUnavailableError
from services.conversations.export import PAGE_ITEMS
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Item
from services.gateway.app import create_app
from services.gateway.deps import GatewayLimits
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.support.gateway import TENANT, make_deps, serving

NUM_ITEMS = 2 * PAGE_ITEMS + 3
TEXT = '天气\n\u2028\x00"<|user|>'


class PagedStore(MemoryConversationStore):
    """Memory that counts the pages read of an export, waits in front of each if told so, and breaks at one."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0
        self.breaks_at = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read_items(self, tenant: str, conversation: str, names: Any) -> list[Item]:
        await self.gate.wait()
        self.pages += 1
        if self.pages == self.breaks_at:
            raise StoreUnavailableError("The history store does not answer.", retry_after_s=1)
        return await super().read_items(tenant, conversation, names)


@pytest.fixture
def store() -> PagedStore:
    return PagedStore()


@pytest.fixture
async def name(store: PagedStore) -> str:
    """A conversation of three pages."""
    items = [Item(id="", role="observation" if i == 1 else "user", text=f"{i} {TEXT}") for i in range(NUM_ITEMS)]
    return (await store.create(TENANT, metadata={"k": "\x85"}, items=items)).id


@pytest.fixture
def app(store: PagedStore, keys: MemoryKeyStore) -> Any:
    deps = make_deps(store=store, authenticator=Authenticator(keys), limits=GatewayLimits(write_timeout_s=0.2))
    return create_app(deps)


async def test_the_head_comes_first_then_all_items(client: httpx.AsyncClient, store: PagedStore, name: str) -> None:
    """One JSON object a line, for line readers that know more ends of lines too."""
    reply = await client.get(f"/v1/conversations/{name}/export")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
    head, *items = [json.loads(line) for line in reply.content.decode().splitlines()]
    made = await store.conversation(TENANT, name)
    assert head == {"object": "conversation", "id": name, "created_at": made.created_at, "metadata": {"k": "\x85"}}
    assert [item["id"] for item in items] == await store.item_ids(TENANT, name)
    assert [item["text"] for item in items] == [f"{i} {TEXT}" for i in range(NUM_ITEMS)]
    stored = await store.item(TENANT, name, items[1]["id"])
    assert items[1] == {
        "object": "conversation.item",
        "id": stored.id,
        "role": "tool",
        "text": f"1 {TEXT}",
        "status": "completed",
        "created_at": stored.created_at,
        "response_id": None,
    }


async def test_the_document_knows_the_lines(client: httpx.AsyncClient) -> None:
    """Text of their own media type on success, and the errors."""
    document = (await client.get("/openapi.json")).json()
    responses = document["paths"]["/v1/conversations/{conversation}/export"]["get"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "500", "503"}
    assert responses["200"]["content"] == {"application/x-ndjson": {"schema": {"type": "string"}}}


async def test_an_empty_conversation_is_one_line(client: httpx.AsyncClient, store: PagedStore) -> None:
    """Its head."""
    made = await store.create(TENANT, metadata={})
    reply = await client.get(f"/v1/conversations/{made.id}/export")
    assert [json.loads(line)["id"] for line in reply.text.splitlines()] == [made.id]


async def test_changes_meanwhile_add_nothing_and_take_only_what_they_delete(
    url: str, key: str, store: PagedStore, name: str
) -> None:
    """The items are those of the beginning, without those that were deleted before their page was read."""
    names = await store.item_ids(TENANT, name)
    store.gate.clear()
    async with _exporting(url, key, name) as reply:
        lines = reply.aiter_lines()
        assert json.loads(await anext(lines))["id"] == name
        await store.append_items(TENANT, name, [Item(id="", role="user", text="late")])
        await store.delete_item(TENANT, name, names[0])
        store.gate.set()
        assert [json.loads(line)["id"] async for line in lines] == names[1:]


@pytest.mark.parametrize("breaks_at", [1, 2])
async def test_an_error_behind_the_first_line_is_the_last_line(
    client: httpx.AsyncClient, store: PagedStore, name: str, breaks_at: int
) -> None:
    """Nobody takes a part for the whole."""
    store.breaks_at = breaks_at
    reply = await client.get(f"/v1/conversations/{name}/export")
    *_, last = lines = [json.loads(line) for line in reply.text.splitlines()]
    assert len(lines) == 1 + (breaks_at - 1) * PAGE_ITEMS + 1
    assert last["error"]["code"] == "history_unavailable"


async def test_an_erasure_meanwhile_is_the_last_line(url: str, key: str, store: PagedStore, name: str) -> None:
    """What was erased is not told as an empty rest."""
    store.gate.clear()
    async with _exporting(url, key, name) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        await store.delete(TENANT, name)
        store.gate.set()
        assert [json.loads(line)["error"]["code"] async for line in lines] == ["not_found"]


async def test_a_client_that_does_not_read_is_dropped(app: Any, key: str, store: PagedStore) -> None:
    """Pages are read as the client takes them, and not for ever."""
    item = Item(id="", role="user", text="x" * 2**20)
    made = await store.create(TENANT, metadata={}, items=[item] * 200)
    async with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        path = f"/v1/conversations/{made.id}/export"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            while not app.state.deps.counters.slow_clients:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0.01)
        writer.close()
    assert store.pages < 10


@asynccontextmanager
async def _exporting(url: str, key: str, name: str) -> AsyncIterator[httpx.Response]:
    """The reply, while it comes."""
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers) as client,
        client.stream("GET", f"/v1/conversations/{name}/export") as reply,
    ):
        yield reply
