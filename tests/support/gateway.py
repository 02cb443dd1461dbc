"""A gateway over fakes and memory, in process or behind a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from cluster.metrics.board import Snapshot
from services.backend.scripted import ScriptedBackend
from services.changes import Change
from services.conversations.memory_store import MemoryConversationStore
from services.gateway.deps import GatewayDeps, ModelInfo, Readiness
from services.gateway.schemas.status import ClusterStatus
from services.gateway.status import assemble
from services.operator_token import operator_token
from services.serve_facts import DeploymentFacts, ServedProcess, ServeFacts
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.fakes.fake_turns import FakeTurns
from tests.support.erasing import an_eraser

MODEL = "chatglm3-6b"
TENANT = "acme"
OPERATOR_TOKEN = operator_token(b"a secret")
STOP_S = 10


async def ready() -> Readiness:
    """A gateway whose parts are all there."""
    return Readiness(ready=True, checks={"replicas": "2 of 2"})


async def no_metrics() -> tuple[bytes, str]:
    """A snapshot with one value."""
    return b"# TYPE up gauge\nup 1\n", "text/plain; version=1.0.0; charset=utf-8"


async def no_change(change: Change) -> None:
    """A cluster that takes every change and stays as it is."""
    change({"args": {}, "deployments": []})


async def cluster_status() -> ClusterStatus:
    """A cluster with one replica that serves."""
    replicas = DeploymentFacts("HEALTHY", target=1, processes=(ServedProcess("r1", "RUNNING", "10.0.0.1", 7),))
    return assemble(ServeFacts("RUNNING", replicas=replicas), Snapshot())


def make_deps(**changes: Any) -> GatewayDeps:
    """Dependencies made of fakes and memory."""
    fields: dict[str, Any] = {
        "turns": FakeTurns(),
        "store": MemoryConversationStore(),
        "authenticator": Authenticator(MemoryKeyStore()),
        "models": (ModelInfo(MODEL, 1_690_000_000, 8192, "fp_0123456789"),),
        "readiness": ready,
        "metrics": no_metrics,
        "status": cluster_status,
        "change": no_change,
        "operator_token": OPERATOR_TOKEN,
    }
    fields |= changes
    return GatewayDeps(**({"eraser": an_eraser(fields["store"], ScriptedBackend([]))} | fields))


@asynccontextmanager
async def connected(app: FastAPI, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of an application in this process."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        yield client


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The URL of a real server in this event loop; clients must be closed before it ends."""
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # only of such asyncio sends small packets at once
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await _stop(server)


async def _stop(server: uvicorn.Server) -> None:
    """Like the server's own shutdown, without its pauses; a request that never ends is cut."""
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()
    requests = set(server.server_state.tasks)
    if requests:
        _, stuck = await asyncio.wait(requests, timeout=STOP_S)
        for request in stuck:
            request.cancel()
    await server.lifespan.shutdown()
