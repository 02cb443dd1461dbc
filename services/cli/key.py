"""``chatglm-cluster key``: API keys of a running cluster. Changes take effect on every gateway within two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from services.cli.options import StateDir, state_folder
from services.conversations.redis_link import RedisLink
from services.tenants.keys import KeyInfo
from services.tenants.redis_keys import RedisKeyStore

app = typer.Typer(help="Create, list, revoke and rotate API keys of a running cluster.", no_args_is_help=True)

Result = TypeVar("Result")
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="Where the keys are; default: the cluster of the state folder.")
]


def _with_store(
    redis_url: str | None, state_dir: StateDir, use: Callable[[RedisKeyStore], Awaitable[Result]]
) -> Result:
    url = redis_url or state_folder(state_dir).read_endpoint().redis_url

    async def run() -> Result:
        link = RedisLink(url)
        try:
            return await use(RedisKeyStore(link))
        finally:
            await link.close()

    return asyncio.run(run())


def _show_new(info: KeyInfo, text: str) -> None:
    typer.echo(text)
    typer.secho(f"Key {info.id} of tenant {info.tenant}. It is shown only this once.", err=True)


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="The tenant the key belongs to: letters, digits, dashes.")] = "default",
    name: Annotated[str, typer.Option(help="A note to recognise the key by.")] = "made by hand",
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Make a key and print it."""
    _show_new(*_with_store(redis_url, state_dir, lambda store: store.create(tenant, name)))


@app.command("list")
def list_keys(redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """List all keys; secrets are stored hashed and cannot be shown."""
    table = Table("key", "tenant", "name", "created", "state")
    for info in _with_store(redis_url, state_dir, lambda store: store.list()):
        created = datetime.fromtimestamp(info.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(info.id, info.tenant, info.name, created, "valid" if info.revoked_at is None else "revoked")
    Console().print(table)


@app.command()
def revoke(key_id: str, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Revoke a key."""
    _with_store(redis_url, state_dir, lambda store: store.revoke(key_id))
    typer.echo(f"Key {key_id} is revoked.")


@app.command()
def rotate(key_id: str, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Make a new key for the same tenant and revoke the old one."""
    _show_new(*_with_store(redis_url, state_dir, lambda store: store.rotate(key_id)))
