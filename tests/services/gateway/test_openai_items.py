"""The official client against the items of ``/v1/conversations``, and what it never sends."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types.conversations import Conversation, ConversationItemList, Message

from services.conversations import ids
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.app import create_app
from services.gateway.deps import GatewayDeps
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.support.gateway import TENANT, connected, make_deps
from tests.support.turns import a_begin

ITEMS: list[Any] = [
    {"type": "message", "role": "developer", "content": "be brief"},
    {"role": "user", "content": [{"type": "input_text", "text": "hi "}, {"type": "input_text", "text": "you"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]},
]


def said(items: list[Any]) -> list[tuple[str, str]]:
    """Roles and texts."""
    return [(item.role, item.content[0].text) for item in items]


async def test_items_are_appended_in_order(ai: openai.AsyncOpenAI) -> None:
    """What is answered is what is listed, behind what was there."""
    made = await ai.conversations.create(items=ITEMS[1:2])
    added = await ai.conversations.items.create(made.id, items=ITEMS, include=["message.output_text.logprobs"])
    assert said(added.data) == [("system", "be brief"), ("user", "hi you"), ("assistant", "yo")]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    listed = await ai.conversations.items.list(made.id, order="asc", include=["message.output_text.logprobs"])
    assert listed.data[1:] == added.data


async def test_one_item_is_retrieved(ai: openai.AsyncOpenAI) -> None:
    """By its id and its conversation's."""
    made = await ai.conversations.create(items=ITEMS)
    listed = await ai.conversations.items.list(made.id)
    for item in listed.data:
        assert item.id is not None
        found = await ai.conversations.items.retrieve(
            item.id, conversation_id=made.id, include=["message.output_text.logprobs"]
        )
        assert found == item


async def test_a_deleted_item_is_gone(ai: openai.AsyncOpenAI) -> None:
    """The conversation is answered; the item is neither listed nor found, nor deleted twice."""
    made = await ai.conversations.create(items=ITEMS, metadata={"a": "b"})
    first, second, third = [item async for item in ai.conversations.items.list(made.id, order="asc")]
    assert second.id is not None
    assert await ai.conversations.items.delete(second.id, conversation_id=made.id) == made
    assert [item async for item in ai.conversations.items.list(made.id, order="asc")] == [first, third]
    for call in (ai.conversations.items.retrieve, ai.conversations.items.delete):
        with pytest.raises(openai.NotFoundError, match=second.id):
            await call(second.id, conversation_id=made.id)


async def test_metadata_is_replaced(ai: openai.AsyncOpenAI) -> None:
    """As a whole; null leaves none."""
    made = await ai.conversations.create(metadata={"a": "1", "b": "2"})
    changed = await ai.conversations.update(made.id, metadata={"c": "3"})
    assert (changed.id, changed.created_at, changed.metadata) == (made.id, made.created_at, {"c": "3"})
    assert await ai.conversations.retrieve(made.id) == changed
    assert (await ai.conversations.update(made.id, metadata=None)).metadata == {}


@pytest.fixture
async def five(client: httpx.AsyncClient) -> tuple[str, list[str]]:
    """The path of a conversation's items and their ids, oldest first."""
    items = [{"role": "user", "content": str(i)} for i in range(5)]
    made = (await client.post("/v1/conversations", json={"items": items})).json()
    path = f"/v1/conversations/{made['id']}/items"
    listed = (await client.get(path, params={"order": "asc"})).json()
    return path, [item["id"] for item in listed["data"]]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 4, 5])
async def test_pages_lead_back_as_they_lead_on(
    client: httpx.AsyncClient, five: tuple[str, list[str]], order: str, limit: int
) -> None:
    """``before`` a page's first item is the page in front of it, in the same order."""
    path, names = five
    names = names if order == "asc" else names[::-1]
    before, seen = names[4], []
    while before:
        params: dict[str, str | int] = {"order": order, "limit": limit, "before": before}
        page = (await client.get(path, params=params)).json()
        seen = [item["id"] for item in page["data"]] + seen
        before = page["first_id"] if page["has_more"] else ""
    assert seen == names[:4]


async def test_the_client_pages_on_where_an_item_was_deleted(
    ai: openai.AsyncOpenAI, five: tuple[str, list[str]]
) -> None:
    """A hole in the middle is nothing to it."""
    conversation, names = five[0].split("/")[3], five[1]
    await ai.conversations.items.delete(names[2], conversation_id=conversation)
    listed = [item.id async for item in ai.conversations.items.list(conversation, limit=1, order="asc")]
    assert listed == [*names[:2], *names[3:]]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("after={0}&before={1}", "before"),
        ("limit=0", "limit"),
        ("include=everything", "include[0]"),
        ("include[]=message.output_text.logprobs&include[]=all", "include[][1]"),
    ],
)
async def test_a_wrong_query_is_named(
    client: httpx.AsyncClient, five: tuple[str, list[str]], query: str, param: str
) -> None:
    """A 400 with the parameter's name."""
    reply = await client.get(f"{five[0]}?{query.format(*five[1])}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": ITEMS * 7}, "items"),
        ({"items": "hi"}, "items"),
        ({"items": [{"role": "user"}]}, "items[0].content"),
        ({"items": [*ITEMS, {"role": "robot", "content": "x"}]}, "items[3].role"),
        ({"items": [{"type": "reasoning", "role": "user", "content": "x"}]}, "items[0].type"),
        ({"items": [{"role": "user", "content": [{"type": "input_image", "text": "x"}]}]}, "items[0].content[0].type"),
        ({"items": [{"role": "user", "content": []}]}, "items[0].content"),
    ],
    ids=str,
)
async def test_wrong_items_are_named_and_none_is_appended(
    client: httpx.AsyncClient, five: tuple[str, list[str]], body: dict[str, Any], param: str
) -> None:
    """All or none, and the first wrong field is told."""
    reply = await client.post(five[0], json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert len((await client.get(five[0])).json()["data"]) == 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ],
    ids=lambda body: str(body)[:30],
)
async def test_wrong_metadata_is_named(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    """Sixteen pairs, with OpenAI's lengths."""
    made = (await client.post("/v1/conversations", json={"metadata": {"a": "b"}})).json()
    reply = await client.post(f"/v1/conversations/{made['id']}", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert (await client.get(f"/v1/conversations/{made['id']}")).json()["metadata"] == {"a": "b"}


async def test_items_stay_as_they_are_under_a_turn(
    client: httpx.AsyncClient, deps: GatewayDeps, five: tuple[str, list[str]]
) -> None:
    """A 409 that names the turn; metadata and reading go on."""
    path, names = five
    turn = ids.new_response(path.split("/")[3])
    await deps.store.begin(a_begin(turn))
    for reply in (await client.post(path, json={"items": ITEMS}), await client.delete(f"{path}/{names[0]}")):
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conversation_busy")
        assert turn in reply.json()["error"]["message"]
    assert (await client.get(f"{path}/{names[0]}")).status_code == 200
    assert (await client.post(path.removesuffix("/items"), json={"metadata": None})).status_code == 200


async def test_a_full_conversation_is_an_error_of_its_own(keys: MemoryKeyStore, key: str) -> None:
    """A 400, which clients do not send again by themselves, with both numbers."""
    deps = make_deps(store=MemoryConversationStore(max_items=4), authenticator=Authenticator(keys))
    async with connected(create_app(deps), key) as client:
        made = (await client.post("/v1/conversations", json={"items": ITEMS})).json()
        reply = await client.post(f"/v1/conversations/{made['id']}/items", json={"items": ITEMS})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "conversation_full", "items")
    assert "holds 3 of at most 4 items" in error["message"]


async def test_every_unknown_id_is_the_same_404(
    client: httpx.AsyncClient, keys: MemoryKeyStore, five: tuple[str, list[str]]
) -> None:
    """Another tenant's, one that nobody made, one that cannot be: on every route, told in the same words."""
    _, other = await keys.create("rival", "test")
    path, names = five
    conversation = path.split("/")[3]
    unknown = ids.new_conversation()
    for route in ("", "/items", "/export", f"/items/{names[0]}"):
        for method, body in (("GET", None), ("POST", {"items": ITEMS, "metadata": {}}), ("DELETE", None)):
            foreign, nobodys = [
                await client.request(
                    method, f"/v1/conversations/{name}{route}", json=body, headers={"authorization": f"Bearer {other}"}
                )
                for name in (conversation, unknown)
            ]
            if foreign.status_code != 405:
                assert (foreign.status_code, nobodys.status_code) == (404, 404)
                assert foreign.text.replace(conversation, unknown) == nobodys.text
    for method in ("GET", "DELETE"):
        replies = [
            await client.request(method, f"{path}/{name}") for name in (ids.new_item(conversation), "msg_x", "%ff")
        ]
        assert [(reply.status_code, reply.json()["error"]["code"]) for reply in replies] == [(404, "not_found")] * 3
    assert len((await client.get(path)).json()["data"]) == 5


async def test_shapes_fit_the_official_types(client: httpx.AsyncClient, five: tuple[str, list[str]]) -> None:
    """All bodies validate against the client's own models."""
    path, names = five
    added = (await client.post(path, json={"items": ITEMS})).json()
    assert len(ConversationItemList.model_validate(added).data) == 3
    item = (await client.get(f"{path}/{names[0]}")).json()
    assert Message.model_validate(item).content[0].type == "input_text"
    assert Conversation.model_validate((await client.delete(f"{path}/{names[0]}")).json()).object == "conversation"
    updated = (await client.post(path.removesuffix("/items"), json={"metadata": {}})).json()
    assert Conversation.model_validate(updated).metadata == {}


async def test_items_belong_to_the_keys_tenant(deps: GatewayDeps, five: tuple[str, list[str]]) -> None:
    """What came over HTTP is in the store under the tenant of the key."""
    assert await deps.store.item_ids(TENANT, five[0].split("/")[3]) == five[1]
