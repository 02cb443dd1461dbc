"""The Ray Serve deployment of a dispatcher."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster import logs
from cluster.metrics.deployment import Reporter
from services.dispatcher import dispatcher
from services.dispatcher.families import dispatcher_families
from services.turn_process.config import ProcessConfig
from services.turn_process.process import TurnProcess


class Dispatcher:
    """One dispatcher. It takes no requests; Serve keeps it alive, and counts how many there are."""

    def __init__(self, config: ProcessConfig, replicas: DeploymentHandle[Any]) -> None:
        name = serve.get_replica_context().replica_id.unique_id
        logs.configure(f"dispatcher-{name}")
        self._process = TurnProcess(config, replicas, name=name)
        process = self._process
        self._dispatcher = dispatcher.Dispatcher(process.turns, process.store, process.queue, process.due, name=name)
        self._reporter = Reporter(f"dispatcher-{name}", self._families)
        self._stack = AsyncExitStack()
        self._begun = asyncio.get_running_loop().create_task(self._begin())

    async def _begin(self) -> None:
        await self._stack.enter_async_context(self._process.running())
        await self._dispatcher.start()
        self._stack.push_async_callback(self._dispatcher.stop)
        reporting = asyncio.get_running_loop().create_task(self._reporter.run())
        self._stack.callback(reporting.cancel)

    def _families(self) -> list[Any]:
        return dispatcher_families(self._process.turns.metrics, self._dispatcher.used_slots)

    async def check_health(self) -> None:
        """Raises what kept it from starting."""
        if self._begun.done():
            self._begun.result()

    async def __del__(self) -> None:
        """Leave the turns under way to others."""
        await self._begun
        await self._stack.aclose()
