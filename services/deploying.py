"""Puts the application on Serve and waits until it answers, telling what happens meanwhile.

``serve.run`` would replace every replica each time; the declarative way only changes what differs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

import httpx
from ray import serve
from ray.serve._private.client import ServeControllerClient
from ray.serve.context import _get_global_client  # the only way to a declarative deploy without the dashboard
from ray.serve.schema import ApplicationStatus, ServeApplicationSchema, ServeDeploySchema

from cluster.errors import ConfigurationError
from services.changes import deployed_configs
from services.serve_facts import facts_of

APP_NAME = "chatglm"
START_TIMEOUT_S = 1800.0
ANSWER_TIMEOUT_S = 60.0

Say = Callable[[str], None]


def deploy(config: ServeDeploySchema, say: Say) -> None:
    """Bring the one application of ``config`` to what it says; those of others on the same Serve stay.

    Raises:
        ConfigurationError: it cannot; with the reason of the first replica that failed.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # progress is told in our own words
    (ours,) = config.applications
    serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
    client = _get_global_client()
    assert client is not None
    port = client.http_config.port
    if port != config.http_options.port:
        raise ConfigurationError(f"Ray Serve listens on port {port} there already; say --port {port}.")
    others = deployed_configs(client.get_serve_details())
    others.pop(ours.name, None)
    config.applications = [ours, *(ServeApplicationSchema.model_validate(other) for other in others.values())]
    client.deploy_apps(config)
    _wait_until_running(client, ours.name, say)


def wait_until_answers(url: str) -> None:
    """Wait until a gateway that is ready answers through the proxy.

    Raises:
        ConfigurationError: it does not in time.
    """
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).is_success:
                return
        time.sleep(0.1)
    raise ConfigurationError(f"The cluster started, but {url} does not answer; is the port free?")


def _wait_until_running(client: ServeControllerClient, name: str, say: Say) -> None:
    """Wait for all replicas and gateways; once some serve, those that fail to load are no longer waited for."""
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while time.monotonic() < deadline:
        facts = facts_of(client.get_serve_details(), name)
        if facts.state == ApplicationStatus.RUNNING:
            return
        if facts.state in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise ConfigurationError(f"The cluster did not start: {facts.trouble}")
        if (progress := facts.progress) != said:
            said = progress
            say(progress)
        if facts.serves_in_part:
            say(f"going on without the rest, which is tried again by itself: {facts.trouble}")
            return
        time.sleep(0.2)
    raise ConfigurationError("The cluster did not start in time; see the logs of Ray Serve.")
