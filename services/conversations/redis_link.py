"""One process's connection to Redis or Valkey: a bounded pool, short timeouts, and one error when it is away.

redis-py's own defaults (ten retries of five seconds) would hold a request for most of a minute. Here a command has
one second, one retry, and the whole operation less than two. A command that timed out may still be executed later,
which is why every write is a script that can be sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from cluster.errors import ConfigurationError, StoreUnavailableError

SOCKET_TIMEOUT_S: Final = 1.0
OPERATION_TIMEOUT_S: Final = 1.8  # leaves the caller time to answer within two seconds
RETRY_AFTER_S: Final = 1.0
MAX_CONNECTIONS: Final = 64

_RETRY_PAUSE_S: Final = 0.05
_SCHEMES: Final = ("redis://", "rediss://", "unix://")

# A reachable server that cannot serve now: out of memory, loading its data, a replica after a failover, a full disk.
_AWAY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.MasterDownError,
    OSError,
    TimeoutError,
)
_AWAY_REPLIES: Final = ("MISCONF", "NOREPLICAS", "BUSY")

T = TypeVar("T")


class RedisLink:
    """A pool of connections to one server, shared by all stores of a process.

    Args:
        source: ``redis://``, ``rediss://`` or ``unix://`` URL, or a client made elsewhere (it must answer bytes).

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(self, source: str | Redis) -> None:
        self._client = _connect(source) if isinstance(source, str) else source

    async def call(self, operation: Callable[[Redis], Awaitable[T]], *, timeout_s: float = OPERATION_TIMEOUT_S) -> T:
        """Run one operation (one or more commands) within ``timeout_s``.

        Raises:
            StoreUnavailableError: no answer in time, or the server cannot serve now.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await operation(self._client)
        except _AWAY as error:
            raise _unavailable(error) from error
        except exceptions.ResponseError as error:
            if not str(error).startswith(_AWAY_REPLIES):
                raise
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def execute(pipe: Pipeline) -> list[Any]:
    """Run a pipeline and raise its first error as the server said it.

    redis-py would put the command with its arguments, a user's data, into the message.
    """
    replies = await pipe.execute(raise_on_error=False)
    error = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if error is not None:
        raise error
    return replies


def _connect(url: str) -> Redis:
    if not url.startswith(_SCHEMES):
        raise ConfigurationError(f"The Redis URL must begin with {', '.join(_SCHEMES)}.")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), 1),
        )
    except ValueError as error:
        # The URL may hold a password, so it is not repeated.
        raise ConfigurationError(f"The Redis URL cannot be read: {error}.") from error
    return Redis.from_pool(pool)


def _unavailable(error: Exception) -> StoreUnavailableError:
    reason = type(error).__name__
    return StoreUnavailableError(f"The history store does not answer ({reason}).", retry_after_s=RETRY_AFTER_S)
