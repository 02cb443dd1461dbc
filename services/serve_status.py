"""Asks the Serve controller what it knows, at most once a second however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.exceptions import RayError
from ray.serve.context import _get_global_client  # replicas' nodes and states are in no public call
from ray.serve.exceptions import RayServeException

from cluster.errors import RetryLaterError
from services.serve_facts import ServeFacts, facts_of

CACHE_S = 1.0
ANSWER_TIMEOUT_S = 2.0


def running_of(states: Mapping[Any, int]) -> int:
    """Replicas that take turns, among a deployment's replicas by state (Serve's own enumeration of strings)."""
    return states.get("RUNNING", 0)


async def _ask_controller() -> Mapping[str, Any]:
    client = await asyncio.to_thread(_get_global_client)
    assert client is not None
    details: Mapping[str, Any] = await client._controller.get_serve_instance_details.remote()  # noqa: SLF001 - its own method would block a thread for as long as the controller is silent
    return details


class ServeWatch:
    """What the Serve controller knows of one application. Callers at the same time share one question."""

    def __init__(
        self,
        app_name: str,
        ask: Callable[[], Awaitable[Mapping[str, Any]]] = _ask_controller,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app_name = app_name
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked_at = -CACHE_S
        self._heard_at = 0.0
        self._facts: ServeFacts | None = None

    async def facts(self) -> tuple[ServeFacts, float]:
        """The last known facts, and for how many seconds the controller has been silent when asked (0: it answers).

        Raises:
            RetryLaterError: it has never answered.
        """
        await self._refresh()
        if self._facts is None:
            raise RetryLaterError(
                "Ray Serve's controller does not answer; is the cluster still starting?", retry_after_s=2
            )
        return self._facts, max(0.0, self._asked_at - self._heard_at)

    async def running(self) -> int:
        """Replicas that take turns; the last known number when the controller does not answer."""
        await self._refresh()
        return self._facts.replicas.running if self._facts else 0

    async def _refresh(self) -> None:
        async with self._lock:
            if self._clock() - self._asked_at < CACHE_S:
                return
            self._asked_at = self._clock()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    details = await self._ask()
            except (RayError, RayServeException, TimeoutError):
                return
            self._facts, self._heard_at = facts_of(details, self._app_name), self._asked_at
