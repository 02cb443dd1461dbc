"""Carries an operator's change out, from any process that is attached to the Ray cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError
from ray.serve.context import _get_global_client  # the only way to a declarative deploy without the dashboard
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from cluster.errors import RetryLaterError
from services.changes import Change

ANSWER_TIMEOUT_S = 10.0


async def apply(app_name: str, change: Change) -> None:
    """Change one application's config and leave the others as they are; returns once Serve has taken it.

    Raises:
        InvalidRequestError: as ``change``.
        RetryLaterError: the controller does not answer.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await _apply(app_name, change)
    except (RayError, RayServeException, TimeoutError) as error:
        raise RetryLaterError("Ray Serve's controller does not answer; try again shortly.", retry_after_s=5) from error


async def _apply(app_name: str, change: Change) -> None:
    client = await asyncio.to_thread(_get_global_client)
    assert client is not None
    controller = client._controller  # noqa: SLF001 - the client's own calls block
    details: dict[str, Any] = await controller.get_serve_instance_details.remote()
    configs = {name: app["deployed_app_config"] for name, app in details["applications"].items()}
    configs[app_name] = change(configs[app_name])
    applications = [ServeApplicationSchema.model_validate(config) for config in configs.values() if config]
    await controller.apply_config.remote(ServeDeploySchema(applications=applications))
