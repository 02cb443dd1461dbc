"""The Ray Serve deployment of a gateway: puts the real parts together and gives them a beginning and an end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster import logs
from cluster.channel.connection import SECRET_VARIABLE
from cluster.errors import StoreUnavailableError
from cluster.metrics.deployment import Reporter
from cluster.metrics.families import CONTENT_TYPE
from services.conversations.erasures import redis_erasures
from services.conversations.redis_checks import check_store
from services.gateway.app import create_app
from services.gateway.deps import GatewayDeps, ModelInfo, Readiness
from services.gateway.families import gateway_families
from services.gateway.metrics import GatewayCounters
from services.gateway.schemas.status import ClusterStatus
from services.gateway.status import assemble
from services.gateway.store_check import StoreCheck
from services.operator_token import operator_token
from services.serve_changes import apply
from services.serve_status import ask_controller
from services.serve_watch import ServeWatch
from services.tenants.authenticator import Authenticator
from services.tenants.redis_keys import RedisKeyStore
from services.turn_process.config import ProcessConfig
from services.turn_process.process import TurnProcess
from services.turns.erasure import Eraser
from services.turns.removal import Removal

MISCONFIGURED = "misconfigured"  # its log says how


class Gateway:
    """One HTTP gateway. Serve calls ``__serve_build_asgi_app__`` once the constructor has returned."""

    def __init__(
        self, config: ProcessConfig, replicas: DeploymentHandle[Any], dispatchers: DeploymentHandle[Any]
    ) -> None:
        del dispatchers  # Serve deploys with an application what its first deployment is bound to; we never call them
        context = serve.get_replica_context()
        self._app_name = context.app_name
        self._name = context.replica_id.unique_id
        logs.configure(f"gateway-{self._name}")
        self._counters = GatewayCounters()
        self._reporter = Reporter(f"gateway-{self._name}", self._families)
        self._process = TurnProcess(config, replicas, name=self._name)
        self._authenticator = Authenticator(RedisKeyStore(self._process.link))
        self._store_check = StoreCheck(partial(check_store, config.redis_url))
        self._created = int(Path(config.model_path, "config.json").stat().st_mtime)  # the same on every gateway
        self._eraser = _eraser(self._process)
        self._serve = ServeWatch(self._app_name, ask_controller)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application over the parts made by the constructor."""
        model = self._process.model
        return create_app(
            GatewayDeps(
                turns=self._process.turns,
                store=self._process.store,
                eraser=self._eraser,
                authenticator=self._authenticator,
                models=(ModelInfo(model.name, self._created, model.context_length, model.fingerprint),),
                readiness=self._readiness,
                metrics=self._metrics,
                status=self._status,
                change=partial(apply, self._app_name),
                operator_token=operator_token(os.environ[SECRET_VARIABLE].encode()),
                counters=self._counters,
                lifespan=self._lifespan,
            )
        )

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._process.running())
            for part in (self._authenticator, self._store_check, self._eraser):
                await part.start()
                stack.push_async_callback(part.stop)
            reporting = asyncio.get_running_loop().create_task(self._reporter.run())
            stack.callback(reporting.cancel)
            yield

    def _families(self) -> list[Any]:
        return gateway_families(self._process.turns.metrics, self._counters.snapshot())

    async def _metrics(self) -> tuple[bytes, str]:
        return await self._reporter.text(), CONTENT_TYPE

    async def _status(self) -> ClusterStatus:
        facts, silent_s = await self._serve.facts()
        return assemble(facts, await self._reporter.snapshot(), silent_s=silent_s)

    async def _readiness(self) -> Readiness:
        """Ready while a replica is: without Redis, chat completions still work. Not with one that would lose turns."""
        running, history = await self._serve.running(), await self._history()
        ready = running > 0 and history != MISCONFIGURED
        return Readiness(ready=ready, checks={"replicas": str(running), "history": history})

    async def _history(self) -> str:
        try:
            await self._process.store.ping()
        except StoreUnavailableError:
            return "unavailable"
        return MISCONFIGURED if self._store_check.is_refused else "ok"


def _eraser(process: TurnProcess) -> Eraser:
    erasures = redis_erasures(process.link)
    return Eraser(Removal(process.store, process.queue, process.due, erasures), erasures, process.backend)
