from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from fastapi import FastAPI

from services.gateway.app import create_app
from services.gateway.deps import GatewayDeps
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import TENANT, connected, make_deps, serving


@pytest.fixture
def turns() -> FakeTurns:
    """The turns of the gateway under test."""
    return FakeTurns()


@pytest.fixture
def keys() -> MemoryKeyStore:
    return MemoryKeyStore()


@pytest.fixture
async def key(keys: MemoryKeyStore) -> str:
    """A good key."""
    _, text = await keys.create(TENANT, "test")
    return text


@pytest.fixture
def deps(turns: FakeTurns, keys: MemoryKeyStore) -> GatewayDeps:
    return make_deps(turns=turns, authenticator=Authenticator(keys))


@pytest.fixture
def app(deps: GatewayDeps) -> FastAPI:
    return create_app(deps)


@pytest.fixture
async def client(app: FastAPI, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A plain client with a good key; no sockets."""
    async with connected(app, key) as client:
        yield client


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    """A real server's URL."""
    async with serving(app) as url:
        yield url


@pytest.fixture
async def ai(url: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, on a real server."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as client:
        yield client
