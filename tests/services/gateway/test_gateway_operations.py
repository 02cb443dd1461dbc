"""Probes, metrics, the document, the lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.gateway.app import create_app
from services.gateway.deps import Readiness
from tests.support.gateway import connected, make_deps, serving


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


async def test_the_document_knows_bodies_and_errors(stranger: httpx.AsyncClient) -> None:
    """The OpenAPI document describes bodies, answers and errors, resolves all references, and needs no key."""
    document = (await stranger.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletionRequest")
    assert set(chat["responses"]) == {"200", "400", "401", "404", "413", "429", "503"}
    assert chat["security"]
    assert _refs(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert not any(
        "422" in operation["responses"] for path in document["paths"].values() for operation in path.values()
    )


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


def _refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_refs(child) for child in node.values()))
    return set().union(*(_refs(child) for child in node)) if isinstance(node, list) else set()
