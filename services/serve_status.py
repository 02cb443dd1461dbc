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
            _, details = await controller_and_details()
            return details
    except (RayError, RayServeException, TimeoutError):
        return None


async def controller_and_details() -> tuple[Any, Mapping[str, Any]]:
    """The controller's handle and its instance details; waits for as long as it is silent. Raises Ray's errors."""
    client = await asyncio.to_thread(_get_global_client)
    assert client is not None
    controller = client._controller  # noqa: SLF001 - the client's own call blocks a thread while the controller is silent
    return controller, await controller.get_serve_instance_details.remote()
