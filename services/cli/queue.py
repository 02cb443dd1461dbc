"""``chatglm-cluster queue``: how far behind the queues are, what was given up in them, and how to try that again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import InvalidRequestError, NotFoundError
from services.cli import replaying
from services.cli.options import StateDir
from services.cli.redis_link import RedisUrl, Result, with_link
from services.cli.replaying import Replayed
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.base import DeadLetter, Queue, QueueLag, TenantJobs
from services.queue.due import RedisDueIndex
from services.queue.keys import CLASSES, MAX_DEAD
from services.queue.redis_queue import RedisQueue

app = typer.Typer(help="Show the queues of a running cluster; queue dead letters again.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="QUEUE", help=f"Which queue: {' or '.join(CLASSES)}.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only dead letters of this tenant.")]


@app.command("list")
def list_queues(redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """List the queues: jobs that wait, since when, of how many tenants; in work, delayed and dead."""
    table = Table("queue", "waiting", "tenants", "oldest", "in work", "delayed", "dead")
    for name in CLASSES:
        lag = _with_queue(name, redis_url, state_dir, lambda queue: queue.lag())
        counts = (lag.waiting, lag.tenants, f"{lag.oldest_s:.0f} s", lag.working, lag.delayed, lag.dead)
        table.add_row(name, *map(str, counts))
    Console().print(table)


@app.command()
def show(
    name: Name,
    tenant: OfTenant = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tenants and most dead letters to show.")] = 20,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Show a queue's tenants, those with the most jobs first, and its dead letters, oldest first."""

    async def read(queue: Queue) -> tuple[QueueLag, list[TenantJobs], list[DeadLetter]]:
        return await queue.lag(), await queue.largest(limit), await queue.dead(tenant=tenant, limit=limit)

    lag, largest, letters = _with_queue(name, redis_url, state_dir, read)
    typer.echo(f"Queue {name}: {lag.waiting} waiting, {lag.working} in work, {lag.delayed} delayed, {lag.dead} dead.")
    _show_tenants(largest)
    _show_letters(letters)


@app.command()
def replay(
    name: Name,
    letter: Annotated[str | None, typer.Argument(help="One dead letter, as `queue show` names it.")] = None,
    tenant: OfTenant = None,
    is_all: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,  # noqa: FBT002 - typer's way
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Queue dead letters again, as new jobs: one, all of a tenant, or all. Their failed turns are opened anew."""
    if sum([letter is not None, tenant is not None, is_all]) != 1:
        raise InvalidRequestError("Name one dead letter, or give --tenant or --all.", param="letter")

    async def run(link: RedisLink) -> Replayed:
        queue = RedisQueue(link, _known(name))
        # Read first: what is replayed now and dies again at once is not replayed again.
        letters = await queue.dead(tenant=tenant, limit=MAX_DEAD)
        refs = [each.ref for each in letters if letter in (None, str(each.ref))]
        if letter is not None and not refs:
            raise NotFoundError("dead letter", letter)
        return await replaying.replay(RedisConversationStore(link), RedisDueIndex(link), queue, refs)

    done = with_link(redis_url, state_dir, run)
    if letter is not None and done.refused:
        raise InvalidRequestError(f"{letter} cannot be queued again: {next(iter(done.refused))}.", param="letter")
    typer.echo(f"{done.queued} dead {'letter is' if done.queued == 1 else 'letters are'} queued again.")
    for reason, count in done.refused.items():
        typer.echo(f"{count} cannot be: {reason}.")


def _show_tenants(largest: Sequence[TenantJobs]) -> None:
    if largest:
        table = Table("tenant", "jobs")
        for each in largest:
            table.add_row(each.tenant, str(each.jobs))
        Console().print(table)


def _show_letters(letters: Sequence[DeadLetter]) -> None:
    if letters:
        table = Table("died", "attempts", "dead letter", "reason")
        table.columns[2].no_wrap = True  # to be copied whole
        for letter in letters:
            died = datetime.fromtimestamp(letter.died_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            table.add_row(died, str(letter.attempts), str(letter.ref), letter.reason)
        Console().print(table)


def _with_queue(
    name: str, redis_url: str | None, state_dir: StateDir, use: Callable[[Queue], Awaitable[Result]]
) -> Result:
    return with_link(redis_url, state_dir, lambda link: use(RedisQueue(link, _known(name))))


def _known(name: str) -> str:
    if name not in CLASSES:
        raise InvalidRequestError(f"There is no queue {name!r}; there are {' and '.join(CLASSES)}.", param="queue")
    return name
