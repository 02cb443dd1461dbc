"""Carries an operator's change out, from any process that is attached to the Ray cluster."""

from __future__ import annotations

import asyncio

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from cluster.errors import RetryLaterError
from services.changes import Change, deployed_configs
from services.serve_status import controller_and_details

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
    controller, details = await controller_and_details()
    configs = deployed_configs(details)
    configs[app_name] = change(configs[app_name])
    applications = [ServeApplicationSchema.model_validate(config) for config in configs.values()]
    await controller.apply_config.remote(ServeDeploySchema(applications=applications))
