"""Asks the Serve controller what it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayError
from ray.serve.context import _get_global_client  # nodes and states of single replicas are in no public call
from ray.serve.exceptions import RayServeException

ANSWER_TIMEOUT_S = 2.0


async def ask_controller() -> Mapping[str, Any] | None:
    """Serve's instance details; None when the controller does not answer in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await _details()
    except (RayError, RayServeException, TimeoutError):
        return None


async def _details() -> Mapping[str, Any]:
    client = await asyncio.to_thread(_get_global_client)
    assert client is not None
    controller = client._controller  # noqa: SLF001 - the client's own call blocks a thread while the controller is silent
    details: Mapping[str, Any] = await controller.get_serve_instance_details.remote()
    return details
