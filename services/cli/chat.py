"""``chatglm-cluster chat``: one conversation with a running cluster, from the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer

from cluster.errors import ConfigurationError
from services.cli.options import StateDir, state_folder
from services.cli.replies import message_of

Url = Annotated[str | None, typer.Option(help="A gateway's address; default: the cluster of the state folder.")]
Key = Annotated[str | None, typer.Option(help="An API key; default: CHATGLM_API_KEY, else the one `up` made.")]
Continue = Annotated[
    str | None, typer.Option("--conversation", help="Go on with this conversation (conv_…) instead of a new one.")
]
System = Annotated[str | None, typer.Option(help="A system message to begin with.")]


def chat(
    url: Url = None,
    key: Key = None,
    model: Annotated[str | None, typer.Option(help="Model name; default: what the cluster serves.")] = None,
    conversation: Continue = None,
    system: System = None,
    state_dir: StateDir = None,
) -> None:
    """Talk to a running cluster. An empty line or Ctrl-D ends the conversation; it can be continued later."""
    state = state_folder(state_dir)
    url = url or state.read_endpoint().url
    key = key or os.environ.get("CHATGLM_API_KEY") or state.read_key()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(300)) as client:
        model = model or str(_request(client, "GET", "/v1/models")["data"][0]["id"])
        conversation = conversation or _begin(client, system)
        typer.secho(f"{model} · {conversation} · Ctrl-D ends", dim=True, err=True)
        for line in _lines():
            _turn(client, {"model": model, "conversation": conversation, "input": line, "stream": True})


def _begin(client: httpx.Client, system: str | None) -> str:
    items = [{"type": "message", "role": "system", "content": system}] if system else []
    return str(_request(client, "POST", "/v1/conversations", {"items": items})["id"])


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not line:
            return
        yield line


def _turn(client: httpx.Client, body: dict[str, Any]) -> None:
    try:
        with client.stream("POST", "/v1/responses", json=body) as response:
            if response.is_error:
                response.read()
                typer.secho(message_of(response), fg=typer.colors.RED, err=True)
                return
            for event in _events(response):
                _show(event)
    except httpx.HTTPError as error:
        typer.secho(f"The connection broke: {error}", fg=typer.colors.RED, err=True)
    except KeyboardInterrupt:
        typer.secho(" (stopped)", dim=True, err=True)
    typer.echo()


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def _show(event: dict[str, Any]) -> None:
    if event.get("type") == "response.output_text.delta":
        typer.echo(event["delta"], nl=False)
    elif event.get("type") in ("error", "response.failed"):
        message = event.get("message") or (event.get("response") or {}).get("error", {}).get(
            "message", "the turn failed"
        )
        typer.secho(f"\n{message}", fg=typer.colors.RED, err=True)


def _request(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise ConfigurationError(f"{client.base_url} does not answer: {error}.") from error
    if response.is_error:
        raise ConfigurationError(f"{client.base_url} refused: {message_of(response)}")
    answer: dict[str, Any] = response.json()
    return answer
