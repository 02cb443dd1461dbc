"""``chatglm-cluster conversation``: what the operator does when somebody asks for their data, or for its erasure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ConfigurationError
from services.cli.options import StateDir
from services.cli.redis_link import RedisUrl, with_link
from services.conversations.erasures import redis_erasures
from services.conversations.export import export as lines_of
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.tenants.tenant import check_tenant_id
from services.turns.removal import Removal

app = typer.Typer(help="Export and erase conversations of a running cluster.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The conversation: conv_….", show_default=False)]
TenantName = Annotated[str, typer.Option("--tenant", help="The tenant that it belongs to.", show_default=False)]
Write = Callable[[bytes], object]


@app.command()
def export(
    conversation: Id,
    tenant: TenantName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, replaced once all is there; default: print.")
    ] = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Write a conversation as JSON Lines: its head, then its items, oldest first."""
    check_tenant_id(tenant)

    async def copy(link: RedisLink, write: Write) -> None:
        async for lines in lines_of(RedisConversationStore(link), tenant, conversation):
            write(lines)

    with _replacing(output) if output else _printing() as write:
        with_link(redis_url, state_dir, lambda link: copy(link, write))


@app.command()
def delete(conversation: Id, tenant: TenantName, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Erase a conversation with all its items, turns and branches. A turn that runs ends within seconds."""
    check_tenant_id(tenant)
    with_link(redis_url, state_dir, lambda link: _removal(link).conversation(tenant, conversation))
    typer.echo(f"Conversation {conversation} of tenant {tenant} is erased.")
    typer.echo("Running replicas drop its KV pages within seconds.")


def _removal(link: RedisLink) -> Removal:
    store = RedisConversationStore(link)
    return Removal(store, RedisQueue(link, BACKGROUND), RedisDueIndex(link), redis_erasures(link))


@contextmanager
def _printing() -> Iterator[Write]:
    yield lambda data: typer.echo(data, nl=False)


@contextmanager
def _replacing(path: Path) -> Iterator[Write]:
    """Write a file that only its owner reads, beside the old one until it is whole."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file.write
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"--output {path} cannot be written: {error.strerror}.")
