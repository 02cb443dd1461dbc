"""``chatglm-cluster status``: what a running cluster does, once or over and over. Reads; changes nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Final

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live

from cluster.errors import ConfigurationError
from services.cli.options import StateDir, state_folder
from services.cli.replies import message_of
from services.cli.status_view import view
from services.gateway.schemas.status import ClusterStatus
from services.settings import ENV_PREFIX

PERIOD_S: Final = 1.0
TIMEOUT_S: Final = 10.0
PLAIN_WIDTH: Final = 160  # columns where the output is no terminal

Read = Callable[[], ClusterStatus]
Sleep = Callable[[float], None]
Token = Annotated[
    str | None,
    typer.Option(
        help="The operator's token; default: that of the state folder.",
        envvar=f"{ENV_PREFIX}OPERATOR_TOKEN",
        show_default=False,
    ),
]


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second, until Ctrl-C.")] = False,  # noqa: FBT002 - a flag
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")] = False,  # noqa: FBT002 - a flag
    url: Annotated[
        str | None, typer.Option(help="A gateway's address; default: the cluster of the state folder.")
    ] = None,
    token: Token = None,
    state_dir: StateDir = None,
) -> None:
    """Show replicas, ranks, load, cache share, pins and moves, and why a replica does not serve.

    Ends with 0 when the cluster has answered, with 2 and one sentence when none runs or answers.
    """
    if url is None or token is None:
        endpoint = state_folder(state_dir).read_endpoint()
        url, token = url or endpoint.url, token or endpoint.operator_token
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S) as client:
        _show(lambda: read_status(client), watch=watch, as_json=as_json)


def _show(read: Read, *, watch: bool, as_json: bool) -> None:
    if not watch:
        print_once(read(), as_json=as_json)
        return
    try:
        (watch_json if as_json else watch_table)(read)
    except KeyboardInterrupt:
        return


def read_status(client: httpx.Client) -> ClusterStatus:
    """The status, from the gateway that ``client`` speaks to.

    Raises:
        ConfigurationError: no gateway answers there, it refuses, or it is of another version.
    """
    try:
        response = client.get("/status")
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"No gateway answers at {client.base_url} ({error}); see what `chatglm-cluster up` says, or start it."
        ) from error
    if response.is_error:
        raise ConfigurationError(f"{client.base_url} refused: {message_of(response)}")
    try:
        return ClusterStatus.model_validate_json(response.content)
    except ValidationError as error:
        raise ConfigurationError(f"{client.base_url} is no gateway of this version; use its own command.") from error


def print_once(status: ClusterStatus, *, as_json: bool) -> None:
    """To standard output."""
    if as_json:
        typer.echo(status.model_dump_json())
        return
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else PLAIN_WIDTH)
    console.print(view(status), soft_wrap=not is_terminal)  # a sentence is one line for grep


def watch_json(read: Read, sleep: Sleep = time.sleep) -> None:
    """One line a second. Raises ConfigurationError as soon as nobody answers; KeyboardInterrupt is how it ends."""
    while True:
        print_once(read(), as_json=True)
        sleep(PERIOD_S)


def watch_table(read: Read, console: Console | None = None, sleep: Sleep = time.sleep) -> None:
    """Show the status over and over; during an outage the last one stays, with what is wrong.

    Raises:
        ConfigurationError: already the first reading fails.
        KeyboardInterrupt: that is how it ends.
    """
    latest, outage = read(), ""
    with Live(view(latest), console=console, auto_refresh=False) as live:
        while True:
            sleep(PERIOD_S)
            latest, outage = _again(read, latest)
            live.update(view(latest, outage), refresh=True)


def _again(read: Read, latest: ClusterStatus) -> tuple[ClusterStatus, str]:
    try:
        return read(), ""
    except ConfigurationError as error:
        return latest, f"{error} Shown is the last answer."
