"""The official client against ``/v1/conversations`` and ``/v1/models``."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList

from services.backend.scripted import ScriptedBackend
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.support.erasing import an_eraser
from tests.support.gateway import MODEL, TENANT, connected, make_deps

ITEMS: list[Any] = [
    {"type": "message", "role": "system", "content": "be brief"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]},
]


async def test_create_and_retrieve(ai: openai.AsyncOpenAI) -> None:
    """A conversation is found again, with its metadata."""
    made = await ai.conversations.create(metadata={"topic": "demo"})
    found = await ai.conversations.retrieve(made.id)
    assert found == made
    assert found.metadata == {"topic": "demo"}


async def test_items_newest_first(ai: openai.AsyncOpenAI) -> None:
    """Items are listed newest first by default, oldest first on demand."""
    made = await ai.conversations.create(items=ITEMS)
    newest = await ai.conversations.items.list(made.id)
    oldest = await ai.conversations.items.list(made.id, order="asc")
    assert [item.role for item in newest.data if item.type == "message"] == ["assistant", "user", "system"]
    assert oldest.data == newest.data[::-1]
    assert [item.content[0].text for item in oldest.data if item.type == "message"] == ["be brief", "hi", "yo"]


async def test_items_page_by_page(ai: openai.AsyncOpenAI) -> None:
    """The client's own pagination walks all items once."""
    made = await ai.conversations.create(items=ITEMS)
    first = await ai.conversations.items.list(made.id, limit=2, order="asc")
    assert (first.has_more, len(first.data)) == (True, 2)
    seen = [item.id async for item in ai.conversations.items.list(made.id, limit=2, order="asc")]
    assert (len(seen), len(set(seen))) == (3, 3)


async def test_delete(ai: openai.AsyncOpenAI) -> None:
    """A deleted conversation is gone."""
    made = await ai.conversations.create()
    deleted = await ai.conversations.delete(made.id)
    assert deleted.deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        await ai.conversations.retrieve(made.id)


async def test_a_deletion_says_what_became_of_the_cache() -> None:
    """Replicas that cannot be reached are counted and do not fail it."""
    backend, store = ScriptedBackend([], unreachable={"replica-b"}), MemoryConversationStore()
    _, key = await (keys := MemoryKeyStore()).create(TENANT, "test")
    deps = make_deps(store=store, eraser=an_eraser(store, backend), authenticator=Authenticator(keys))
    async with connected(create_app(deps), key) as client:
        made = (await client.post("/v1/conversations", json={})).json()
        deleted = await client.delete(f"/v1/conversations/{made['id']}")
        assert deleted.json() == {
            "id": made["id"],
            "object": "conversation.deleted",
            "deleted": True,
            "erased": {"kv_pages": 0, "kv_pages_in_use": 0, "replicas": 1, "replicas_missed": 1},
        }
        assert (await client.delete(f"/v1/conversations/{made['id']}")).status_code == 404


async def test_shapes_fit_the_official_types(client: httpx.AsyncClient) -> None:
    """All bodies validate against the client's own models, an empty page too."""
    made = (await client.post("/v1/conversations", json={"items": ITEMS})).json()
    path = f"/v1/conversations/{Conversation.model_validate(made).id}"
    page = ConversationItemList.model_validate((await client.get(f"{path}/items")).json())
    rest = await client.get(f"{path}/items", params={"after": page.last_id})
    assert ConversationItemList.model_validate(rest.json()).data == []
    assert ConversationDeletedResource.model_validate((await client.delete(path)).json()).deleted


async def test_another_tenants_conversation_is_unknown(
    ai: openai.AsyncOpenAI, keys: MemoryKeyStore, client: httpx.AsyncClient
) -> None:
    """Somebody else's id is a 404 on every route."""
    made = await ai.conversations.create(items=ITEMS)
    _, other = await keys.create("rival", "test")
    headers = {"authorization": f"Bearer {other}"}
    path = f"/v1/conversations/{made.id}"
    replies = [
        await client.get(path, headers=headers),
        await client.get(f"{path}/items", headers=headers),
        await client.delete(path, headers=headers),
    ]
    assert [reply.status_code for reply in replies] == [404, 404, 404]
    assert (await ai.conversations.retrieve(made.id)).id == made.id


@pytest.mark.parametrize("name", ["conv_", "nonsense", "conv_%00", "conv_{x}:*", "conv_" + "a" * 5000, "%ff"])
async def test_malformed_ids_are_unknown(client: httpx.AsyncClient, name: str) -> None:
    """Whatever stands in an id's place is a 404, not a crash."""
    reply = await client.get(f"/v1/conversations/{name}/items")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order")]
)
async def test_bad_pages(client: httpx.AsyncClient, query: str, param: str) -> None:
    """A wrong query parameter is a 400 that names it."""
    made = (await client.post("/v1/conversations", json={})).json()
    reply = await client.get(f"/v1/conversations/{made['id']}/items?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_models(ai: openai.AsyncOpenAI) -> None:
    """The served model is listed and found, with its context."""
    listed = [model async for model in ai.models.list()]
    found = await ai.models.retrieve(MODEL)
    assert listed == [found]
    assert found.to_dict()["context_length"] == 8192


async def test_unknown_model(ai: openai.AsyncOpenAI) -> None:
    """A name with a slash that is not served is a 404 that repeats it."""
    with pytest.raises(openai.NotFoundError, match="THUDM/chatglm3-6b") as caught:
        await ai.models.retrieve("THUDM/chatglm3-6b")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
