"""Probes, metrics, the document, the lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from cluster.errors import RetryLaterError
from services.changes import Change
from services.gateway.app import create_app
from services.gateway.deps import Readiness
from services.gateway.schemas.status import ClusterStatus
from tests.support.gateway import OPERATOR_TOKEN, connected, make_deps, serving


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with connected(app) as client:
        yield client


async def test_health(stranger: httpx.AsyncClient) -> None:
    """A living process says so without a key."""
    reply = await stranger.get("/healthz")
    assert (reply.status_code, reply.json()["status"]) == (200, "ok")


async def test_ready(stranger: httpx.AsyncClient) -> None:
    """A gateway that would serve is ready, and tells its parts."""
    reply = await stranger.get("/readyz")
    assert (reply.status_code, reply.json()) == (200, {"status": "ready", "checks": {"replicas": "2 of 2"}})


async def test_not_ready() -> None:
    """A gateway that would not serve answers 503, and says what is missing."""

    async def not_ready() -> Readiness:
        return Readiness(ready=False, checks={"store": "away"})

    async with connected(create_app(make_deps(readiness=not_ready))) as client:
        reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"status": "not_ready", "checks": {"store": "away"}})
    assert reply.headers["retry-after"] == "1"


async def test_metrics(stranger: httpx.AsyncClient) -> None:
    """The snapshot is passed on with its own content type."""
    reply = await stranger.get("/metrics")
    assert reply.text.endswith("up 1\n")
    assert reply.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


async def test_the_operator_sees_the_status(app: FastAPI) -> None:
    """With the operator's token, the whole cluster is told."""
    async with connected(app, OPERATOR_TOKEN) as operator:
        reply = await operator.get("/status")
    assert reply.status_code == 200
    assert (reply.json()["object"], reply.json()["serving"], reply.json()["replicas"][0]["node"]) == (
        "status", 1, "10.0.0.1",
    )  # fmt: skip


@pytest.mark.parametrize("token", ["", "wrong", OPERATOR_TOKEN[:-1], "тайна"], ids=["none", "wrong", "cut", "cyrillic"])
async def test_nobody_else_sees_the_status(app: FastAPI, token: str) -> None:
    """No token, or another one, is a 401 in OpenAI's shape."""
    async with connected(app) as client:
        headers = {b"authorization": f"Bearer {token}".encode()} if token else {}
        reply = await client.get("/status", headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert "operator's token" in reply.json()["error"]["message"]
    assert OPERATOR_TOKEN not in reply.text


async def test_a_tenants_key_does_not_open_the_status(client: httpx.AsyncClient) -> None:
    """Tenants see nothing of the cluster."""
    assert (await client.get("/status")).status_code == 401
    assert (await client.get("/v1/models")).status_code == 200


async def test_the_operators_token_is_no_tenants_key(app: FastAPI) -> None:
    """Who looks after the cluster does not thereby speak for anybody."""
    async with connected(app, OPERATOR_TOKEN) as operator:
        assert (await operator.get("/v1/models")).status_code == 401


async def test_a_status_nobody_knows_is_a_503() -> None:
    """While the controller has never answered, the operator is told to ask again."""

    async def unknown() -> ClusterStatus:
        raise RetryLaterError("Nothing is known yet.", retry_after_s=2)

    async with connected(create_app(make_deps(status=unknown)), OPERATOR_TOKEN) as operator:
        reply = await operator.get("/status")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.json()["error"]["message"] == "Nothing is known yet."


async def test_the_document_needs_no_key(stranger: httpx.AsyncClient) -> None:
    """What may be asked is no secret; see ``test_openapi_document`` for what it says."""
    document = (await stranger.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletionRequest")
    assert chat["security"]


async def test_the_lifespan_surrounds_the_service() -> None:
    """What the dependencies bring is entered before the first request and left after the last."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("start")
        yield
        seen.append("stop")

    async with serving(create_app(make_deps(lifespan=lifespan))) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/healthz")
        assert seen == ["start"]
    assert seen == ["start", "stop"]


async def test_the_operator_changes_numbers_and_replaces_replicas() -> None:
    """A scale changes only what it names; a restart counts a generation."""
    config = {
        "args": {},
        "deployments": [{"name": "Replica", "num_replicas": 2}, {"name": "Gateway", "num_replicas": 1}],
    }
    seen: list[dict[str, Any]] = []

    async def change(change: Change) -> None:
        seen.append(change(config))

    async with connected(create_app(make_deps(change=change)), OPERATOR_TOKEN) as operator:
        assert (await operator.post("/scale", json={"replicas": 3})).json() == {"object": "accepted"}
        assert (await operator.post("/restart")).is_success
        refused = await operator.post("/scale", json={"replicas": 0})
    assert refused.json()["error"]["param"] == "replicas"
    assert [d["num_replicas"] for d in seen[0]["deployments"]] == [3, 1]
    assert (seen[0]["args"], seen[1]["args"]) == ({}, {"generation": 1})


async def test_nobody_else_changes_anything(app: FastAPI, key: str) -> None:
    """Neither a stranger nor a tenant."""
    for token in ("", key):
        async with connected(app, token) as other:
            replies = [await other.post(path, json={}) for path in ("/scale", "/restart")]
        assert [reply.status_code for reply in replies] == [401, 401]
