"""``chatglm-cluster tenant``: what each tenant gets of a busy cluster, and the limits and times of its own.

Changes count for new turns on every gateway within two seconds; a turn that runs keeps what it began with.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import NotFoundError
from services.cli.key_store import with_key_store
from services.cli.options import StateDir
from services.cli.redis_link import RedisUrl
from services.tenants.redis_keys import RedisKeyStore
from services.tenants.share import BOUNDS, DEFAULT, PARTS, UNSET, Share, ShareChange, parse_part
from services.tenants.tenant import check_tenant_id

app = typer.Typer(help="Set and show what each tenant gets, and its limits and times.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The tenant: letters, digits, dashes.")]
Row = tuple[Share, int]  # and the number of keys that work


def _option(part: str, what: str) -> Any:
    least, most = BOUNDS[part]
    return typer.Option(help=f"{what}: {least:.10g} to {most:.10g}.", metavar=f"NUMBER|{UNSET}", show_default=False)


@app.command("set")
def set_share(
    name: Name,
    weight: Annotated[str | None, _option("weight", "Its share of computing and cache (default 1)")] = None,
    priority: Annotated[str | None, _option("priority", "Its class, smaller ones first (default 0)")] = None,
    history_ttl_days: Annotated[
        str | None, _option("history_ttl_days", "Days for which its idle conversations are kept")
    ] = None,
    resume_s: Annotated[
        str | None, _option("resume_s", "Seconds that a stored turn goes on without its client (0: it ends at once)")
    ] = None,
    max_queued: Annotated[str | None, _option("max_queued", "Turns that it may have in the queue")] = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Set what is given; the rest stays, and `default` takes a part back. The tenant needs no key yet.

    Days, seconds and turns that a tenant was not given are those of the cluster.
    """
    given = {
        "weight": weight,
        "priority": priority,
        "history_ttl_days": history_ttl_days,
        "resume_s": resume_s,
        "max_queued": max_queued,
    }
    parts = {part: _value(part, text) for part, text in given.items() if text is not None}

    async def change(store: RedisKeyStore) -> Row:
        share = await store.set_share(name, **cast("ShareChange", parts))
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
    """List all tenants that have a key or were given something."""
    table = Table("tenant", *PARTS, "keys")
    for name, (share, keys) in sorted(with_key_store(redis_url, state_dir, _rows).items()):
        table.add_row(name, *(_shown(share, part) for part in PARTS), str(keys))
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


def _value(part: str, text: str) -> float | None:
    """What a part is set to. Raises InvalidRequestError."""
    return None if text == UNSET else parse_part(part, text)


def _shown(share: Share, part: str) -> str:
    value = getattr(share, part)
    return UNSET if value is None else f"{value:.10g}"


def _show(name: str, row: Row) -> None:
    share, keys = row
    parts = ", ".join(f"{part} {_shown(share, part)}" for part in PARTS)
    typer.echo(f"Tenant {name}: {parts}, keys that work: {keys}.")
