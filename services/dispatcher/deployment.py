"""The Ray Serve deployment of a dispatcher."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster import logs
from cluster.metrics.deployment import Reporter
from cluster.metrics.families import Family
from services.dispatcher import dispatcher
from services.dispatcher.facts import figures
from services.dispatcher.families import dispatcher_families
from services.dispatcher.settings import DispatcherSettings
from services.turn_process.config import ProcessConfig
from services.turn_process.process import TurnProcess


class Dispatcher:
    """One dispatcher. It takes no requests; Serve keeps it alive, and scales how many there are."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, config: ProcessConfig, replicas: DeploymentHandle[Any], settings: DispatcherSettings
    ) -> None:
        """Start to work; Serve counts the dispatcher as running when this returns."""
        name = serve.get_replica_context().replica_id.unique_id
        logs.configure(f"dispatcher-{name}")
        self._drain_s = config.drain_grace_s
        self._process = TurnProcess(config, replicas, name=name)
        process = self._process
        self._dispatcher = dispatcher.Dispatcher(
            process.turns, process.store, process.queue, process.due, name=name, settings=settings
        )
        self._reporter = Reporter(f"dispatcher-{name}", self._families)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(process.running())
            await self._dispatcher.start()
            stack.push_async_callback(self._stop)
            reporting = asyncio.get_running_loop().create_task(self._reporter.run())
            stack.callback(reporting.cancel)
            self._stack = stack.pop_all()

    def _families(self) -> list[Family]:
        return dispatcher_families(self._process.turns.metrics, self._dispatcher.facts())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Figures for ``services.dispatcher.scaling``; asked for only where the number of dispatchers is not fixed."""
        return figures(self._dispatcher.facts())

    def check_health(self) -> None:
        """Raises when it has stopped working by itself; Serve replaces it after three such answers in a row."""
        self._dispatcher.check()

    async def _stop(self) -> None:
        await self._dispatcher.stop(self._drain_s)

    async def __del__(self) -> None:
        """Serve awaits this: what is under way ends within the drain limit, or goes on at another dispatcher."""
        if hasattr(self, "_stack"):  # also called after a constructor that failed, which has stopped what it started
            await self._stack.aclose()
