"""``chatglm-cluster key``: API keys of a running cluster. Changes take effect on every gateway within two seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.cli.key_store import with_key_store
from services.cli.options import StateDir
from services.cli.redis_link import RedisUrl
from services.tenants.keys import KeyInfo

app = typer.Typer(help="Create, list, revoke and rotate API keys of a running cluster.", no_args_is_help=True)


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
    _show_new(*with_key_store(redis_url, state_dir, lambda store: store.create(tenant, name)))


@app.command("list")
def list_keys(redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """List all keys; secrets are stored hashed and cannot be shown."""
    table = Table("key", "tenant", "name", "created", "state")
    for info in with_key_store(redis_url, state_dir, lambda store: store.list()):
        created = datetime.fromtimestamp(info.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(info.id, info.tenant, info.name, created, "valid" if info.revoked_at is None else "revoked")
    Console().print(table)


@app.command()
def revoke(key_id: str, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Revoke a key."""
    with_key_store(redis_url, state_dir, lambda store: store.revoke(key_id))
    typer.echo(f"Key {key_id} is revoked.")


@app.command()
def rotate(key_id: str, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Make a new key for the same tenant and revoke the old one."""
    _show_new(*with_key_store(redis_url, state_dir, lambda store: store.rotate(key_id)))
