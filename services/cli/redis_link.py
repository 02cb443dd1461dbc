"""The Redis of a running cluster, as the operator's commands reach it.

They go to Redis, not through a gateway: no HTTP route changes a key, a share or a queue; who can reach Redis is the
operator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from services.cli.options import StateDir, state_folder
from services.conversations.redis_link import RedisLink

Result = TypeVar("Result")
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="The cluster's Redis; default: that of the state folder's cluster.")
]


def with_link(redis_url: str | None, state_dir: StateDir, use: Callable[[RedisLink], Awaitable[Result]]) -> Result:
    """What ``use`` makes of the connection.

    Raises:
        ClusterError: no cluster runs there, its store does not answer, or ``use`` said so.
    """
    url = redis_url or state_folder(state_dir).read_endpoint().redis_url

    async def run() -> Result:
        link = RedisLink(url)
        try:
            return await use(link)
        finally:
            await link.close()

    return asyncio.run(run())
