"""``chatglm-cluster tenant``: what each tenant gets of a busy cluster.

Changes count for new turns on every gateway within two seconds; a turn that runs keeps what it began with.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import NotFoundError
from services.cli.key_store import with_key_store
from services.cli.options import StateDir
from services.cli.redis_link import RedisUrl
from services.tenants.redis_keys import RedisKeyStore
from services.tenants.share import DEFAULT, LAST_CLASS, MAX_WEIGHT, MIN_WEIGHT, Share
from services.tenants.tenant import check_tenant_id

app = typer.Typer(help="Set and show what each tenant gets of a busy cluster.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The tenant: letters, digits, dashes.")]
Row = tuple[Share, int]  # and the number of keys that work


@app.command("set")
def set_share(
    name: Name,
    weight: Annotated[
        float | None,
        typer.Option(help=f"Share of computing and cache, {MIN_WEIGHT:g} to {MAX_WEIGHT:g}; the default is 1."),
    ] = None,
    priority: Annotated[int | None, typer.Option(help=f"Class, 0 (first, the default) to {LAST_CLASS} (last).")] = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Set a tenant's weight, its class or both; what is not given stays. The tenant needs no key yet."""

    async def change(store: RedisKeyStore) -> Row:
        share = await store.set_share(name, weight=weight, priority=priority)
        return share, (await _working_keys(store))[name]

    _show(name, with_key_store(redis_url, state_dir, change))


@app.command()
def show(name: Name, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Show what a tenant gets."""
    check_tenant_id(name)
    rows = with_key_store(redis_url, state_dir, _rows)
    if name not in rows:
        raise NotFoundError("tenant", name)
    _show(name, rows[name])


@app.command("list")
def list_tenants(redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """List all tenants that have a key or were given a share."""
    table = Table("tenant", "weight", "priority", "keys")
    for name, (share, keys) in sorted(with_key_store(redis_url, state_dir, _rows).items()):
        table.add_row(name, f"{share.weight:g}", str(share.priority), str(keys))
    Console().print(table)


async def _rows(store: RedisKeyStore) -> dict[str, Row]:
    keys, shares = await _working_keys(store), await store.shares()
    return {name: (shares.get(name, DEFAULT), keys[name]) for name in {*keys, *shares}}


async def _working_keys(store: RedisKeyStore) -> Counter[str]:
    """How many keys of each tenant work; one whose keys are all revoked is there with 0."""
    keys: Counter[str] = Counter()
    for info in await store.list():
        keys[info.tenant] += info.revoked_at is None
    return keys


def _show(name: str, row: Row) -> None:
    share, keys = row
    typer.echo(f"Tenant {name}: weight {share.weight:g}, priority {share.priority}, keys that work: {keys}.")
