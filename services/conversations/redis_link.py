"""One process's connection to Redis or Valkey, whatever the topology: bounded waits, and one error when it is away.

A command has one second, one repetition, and the whole operation less than two. A command that timed out may still be
executed later, which is why every write is a script that can be sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.cancellable import cancellable
from services.conversations.redis_client import connect
from services.conversations.redis_url import parse_url

OPERATION_TIMEOUT_S: Final = 1.8  # leaves the caller time to answer within two seconds
RETRY_AFTER_S: Final = 1.0
MAX_OPERATIONS: Final = 64  # at once; further ones wait, within their own time

# A reachable server that cannot serve now: out of memory, loading its data, a replica after a failover, a full disk;
# a Cluster that is moving slots or has lost the majority.
_AWAY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.SlotNotCoveredError,
    exceptions.AskError,
    exceptions.TryAgainError,
    OSError,
    TimeoutError,
)
_AWAY_REPLIES: Final = ("MISCONF", "NOREPLICAS", "BUSY")

T = TypeVar("T")


class RedisLink:
    """Connections to one store, shared by all that a process keeps there.

    Args:
        source: a URL (see ``redis_url``), or a client made elsewhere (it must answer bytes).

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(self, source: str | Redis) -> None:
        self._url = source if isinstance(source, str) else ""
        self._client = connect(parse_url(source)) if isinstance(source, str) else source
        self._slots = asyncio.Semaphore(MAX_OPERATIONS)

    async def call(self, operation: Callable[[Redis], Awaitable[T]], *, timeout_s: float = OPERATION_TIMEOUT_S) -> T:
        """Run one operation (one or more commands) within ``timeout_s``. On a Cluster it gets a ``RedisCluster``.

        Raises:
            StoreUnavailableError: no answer in time, or the server cannot serve now.
        """
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                client = self._client
                return await cancellable(operation(client))
        except _AWAY as error:
            raise _unavailable(error) from error
        except exceptions.RedisClusterException as error:
            if error.__cause__ is None:  # a command that no node can execute; else no node could be asked
                raise
            await self._replace(client)
            raise _unavailable(error) from error
        except exceptions.ResponseError as error:
            if not is_away(error):
                raise
            raise _unavailable(error) from error

    async def _replace(self, client: Redis) -> None:
        """Forget the addresses a Cluster has told: when all its nodes come back elsewhere, only the URL leads there."""
        if self._url and client is self._client:
            with contextlib.suppress(ConfigurationError):  # a file is gone for now; the old client can go on
                self._client = connect(parse_url(self._url))
                await client.aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def is_away(error: Exception) -> bool:
    """Whether an error means that the server cannot serve now, but may later."""
    return isinstance(error, _AWAY) or str(error).startswith(_AWAY_REPLIES)


async def execute(pipe: Pipeline) -> list[Any]:
    """Run a pipeline and raise its first error as the server said it."""
    return checked(await send(pipe))


async def send(pipe: Pipeline) -> list[Any]:
    """Run a pipeline; an error is a reply like the others.

    If it raised one, redis-py would put the command with its arguments, a user's data, into the message.
    """
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies


def checked(replies: list[Any]) -> list[Any]:
    """The replies; raises the first that is an error."""
    error = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if error is not None:
        raise error
    return replies


def _unavailable(error: Exception) -> StoreUnavailableError:
    reason = type(error).__name__
    return StoreUnavailableError(f"The history store does not answer ({reason}).", retry_after_s=RETRY_AFTER_S)
