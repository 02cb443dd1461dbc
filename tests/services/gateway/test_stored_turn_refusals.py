"""Wrong ways to go on with a stored turn, over HTTP: each has a code of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.tenants.memory_keys import MemoryKeyStore
from tests.support.gateway import MODEL
from tests.support.whole_gateway import whole_gateway

TURN = {"model": MODEL, "input": "Hi"}
KEY = {"idempotency-key": "order-17"}


@pytest.fixture
async def http(keys: MemoryKeyStore, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with real turns."""
    async with (
        whole_gateway(keys) as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20) as client,
    ):
        yield client


async def said(http: httpx.AsyncClient, **more: Any) -> str:
    """The id of a response that has ended."""
    reply = await http.post("/v1/responses", json=TURN | more)
    assert reply.json()["status"] == "completed", reply.text
    return str(reply.json()["id"])


def told(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal."""
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}], ids=str)
@pytest.mark.parametrize("is_deleted", [False, True], ids=["unknown", "deleted"])
async def test_a_fork_of_what_is_not_there(
    http: httpx.AsyncClient,
    more: dict[str, Any],
    is_deleted: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """A deleted answer is told apart from one that never was."""
    previous = await said(http)
    if is_deleted:
        await http.delete(f"/v1/responses/{previous}")
    else:
        previous = previous[:-4] + "aaaa"
    reply = await http.post("/v1/responses", json=TURN | more | {"previous_response_id": previous})
    code = "previous_response_deleted" if is_deleted else "previous_response_not_found"
    assert told(reply) == (404, code, "previous_response_id")


async def test_a_cursor_behind_the_end(http: httpx.AsyncClient) -> None:
    """The last event itself has nothing behind it; one with a checksum that never was is of another answer."""
    path = f"/v1/responses/{await said(http)}?stream=true"
    events = (await http.get(path)).text
    last = [line.removeprefix("id: ") for line in events.splitlines() if line.startswith("id: ")][-1]
    refused = [
        await http.get(f"{path}&starting_after=999"),
        await http.get(path, headers={"last-event-id": "999.0000000a"}),
        await http.get(path, headers={"last-event-id": last}),
    ]
    past = (400, "cursor_past_end", "starting_after")
    assert [told(reply) for reply in refused] == [past, (409, "stream_diverged", None), past]


async def test_a_cursor_of_another_answer(http: httpx.AsyncClient) -> None:
    """A wrong checksum is a conflict that a client does not solve by asking again, so it is no 5xx."""
    reply = await http.get(f"/v1/responses/{await said(http)}?stream=true", headers={"last-event-id": "1.deadbeef"})
    assert told(reply) == (409, "stream_diverged", None)


@pytest.mark.parametrize("more", [{"input": "Hi!"}, {"background": True}, {"stream": True}], ids=str)
async def test_another_body_under_one_key(http: httpx.AsyncClient, more: dict[str, Any]) -> None:
    """Whatever differs; the first turn is still its key's."""
    first = await http.post("/v1/responses", json=TURN, headers=KEY)
    other = await http.post("/v1/responses", json=TURN | more, headers=KEY)
    again = await http.post("/v1/responses", json=TURN, headers=KEY)
    assert told(other) == (409, "idempotency_mismatch", "Idempotency-Key")
    assert again.content == first.content


async def test_the_key_of_a_deleted_response(http: httpx.AsyncClient) -> None:
    """It is spent: the response is what was not found, not the conversation, which is there."""
    conversation = (await http.post("/v1/conversations", json={})).json()["id"]
    body = TURN | {"conversation": conversation}
    response = (await http.post("/v1/responses", json=body, headers=KEY)).json()["id"]
    await http.delete(f"/v1/responses/{response}")
    reply = await http.post("/v1/responses", json=body, headers=KEY)
    assert told(reply) == (404, "not_found", None)
    assert response in reply.json()["error"]["message"]


async def test_keys_are_a_tenants_own(http: httpx.AsyncClient, keys: MemoryKeyStore) -> None:
    """Another tenant's request under the same key is its own turn."""
    _, other = await keys.create("rival", "test")
    replies = [
        await http.post("/v1/responses", json=TURN, headers=KEY | headers)
        for headers in ({}, {"authorization": f"Bearer {other}"})
    ]
    assert len({reply.json()["id"] for reply in replies}) == 2


async def test_a_key_is_nothing_to_a_turn_that_is_not_kept(http: httpx.AsyncClient) -> None:
    """There is no record to find again."""
    body = TURN | {"store": False}
    ids = {(await http.post("/v1/responses", json=body, headers=KEY)).json()["id"] for _ in range(2)}
    assert len(ids) == 2
