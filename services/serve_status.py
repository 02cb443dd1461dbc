"""What Ray Serve says about the replicas of this cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray import serve

from services.args import REPLICA

STATUS_CACHE_S = 1.0


def running_of(states: Mapping[Any, int]) -> int:
    """Replicas that take turns, among a deployment's replicas by state (Serve's own enumeration of strings)."""
    return states.get("RUNNING", 0)


class ReplicaWatch:
    """How many model replicas run, as the Serve controller knows it; asked at most once a second."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._asked_at = -STATUS_CACHE_S
        self._running = 0

    async def running(self) -> int:
        """Running replicas; the last known number when the controller does not answer."""
        if time.monotonic() - self._asked_at >= STATUS_CACHE_S:
            self._asked_at = time.monotonic()
            with suppress(ray.exceptions.RayError, TimeoutError):
                self._running = await asyncio.wait_for(asyncio.to_thread(self._ask), timeout=2)
        return self._running

    def _ask(self) -> int:
        states = serve.status().applications[self._app_name].deployments[REPLICA].replica_states
        return running_of(states)
