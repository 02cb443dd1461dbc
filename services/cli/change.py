"""``chatglm-cluster scale`` and ``restart``: change a running cluster without cutting an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
import typer

from cluster.errors import ConfigurationError
from services.cli.options import StateDir, state_folder
from services.cli.replies import message_of

TIMEOUT_S = 15.0
_SEE = "`chatglm-cluster status --watch` shows how far it is."

Count = Annotated[int | None, typer.Option(min=1, max=1024, show_default=False)]


def scale(
    replicas: Count = None, gateways: Count = None, dispatchers: Count = None, state_dir: StateDir = None
) -> None:
    """Change the number of replicas, gateways or dispatchers of the running cluster.

    New ones load beside the others, which are left alone. Turns of one that is stopped end there, or go on elsewhere.
    """
    numbers = {"replicas": replicas, "gateways": gateways, "dispatchers": dispatchers}
    if not any(numbers.values()):
        raise ConfigurationError("Say --replicas, --gateways or --dispatchers, and how many.")
    _ask(state_dir, "/scale", numbers)
    parts = [f"{number} {name}" for name, number in numbers.items() if number]
    typer.echo(f"Asked for {' and '.join(parts)}; {_SEE}")


def restart(state_dir: StateDir = None) -> None:
    """Replace every replica, gateway and dispatcher of the running cluster, a few at a time: a rolling update.

    Conversations and answers go on; the KV caches are lost.
    """
    _ask(state_dir, "/restart", {})
    typer.echo(f"Asked for new replicas, gateways and dispatchers, a few at a time; {_SEE}")


def _ask(state_dir: Path | None, path: str, body: dict[str, int | None]) -> None:
    endpoint = state_folder(state_dir).read_endpoint()
    headers = {"Authorization": f"Bearer {endpoint.operator_token}"}
    try:
        response = httpx.post(f"{endpoint.url}{path}", json=body, headers=headers, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise ConfigurationError(f"No gateway answers at {endpoint.url} ({error}).") from error
    if response.is_error:
        raise ConfigurationError(f"{endpoint.url} refused: {message_of(response)}")
