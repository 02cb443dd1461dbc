"""Loading that tells why it failed: to the log, to the board, and to Serve, in one sentence.

Serve starts a replica that could not load again at once and for ever, each time in a new process that costs seconds of
CPU. So an attempt that failed lingers before it ends, and the replicas that do serve keep their cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from cluster.errors import ClusterError, ConfigurationError

MAX_PAUSE_S: Final = 15.0  # a mended cause is noticed within this and the time of a start

log = structlog.get_logger(__name__)


class Desk(Protocol):
    """Where one replica's loading is signed in and out."""

    rank: int
    incarnation: str
    node: str

    def begin(self) -> None:
        """Loading begins."""
        ...

    async def fail(self, reason: str) -> int:
        """Loading has failed; returns how many attempts of this rank have, in a row."""
        ...

    def done(self) -> None:
        """The replica serves."""
        ...


@asynccontextmanager
async def signed_in(desk: Desk, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncIterator[None]:
    """Load inside this block.

    Raises:
        ConfigurationError: there was too little memory.
        Exception: whatever else the block raised.
    """
    desk.begin()
    try:
        yield
    except Exception as error:
        typed = _typed(error)
        await sleep(await _tell(desk, reason_of(typed)))
        if typed is error:
            raise
        raise typed from error
    desk.done()


async def _tell(desk: Desk, reason: str) -> float:
    """Tell board and log; returns the seconds to linger."""
    failures = await desk.fail(reason)
    pause_s = min(MAX_PAUSE_S, 2.0 ** min(failures, 10) - 1)
    log.error(
        "replica.cannot_load",
        rank=desk.rank,
        incarnation=desk.incarnation,
        node=desk.node,
        reason=reason,
        failures=failures,
        pause_s=pause_s,
    )
    return pause_s


def reason_of(error: BaseException) -> str:
    """One sentence for whoever runs the cluster: our own errors have it, of others the type and the first line."""
    if isinstance(error, ClusterError):
        return str(error)
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _typed(error: Exception) -> Exception:
    """Allocators have no class in common: Python's, torch's on CPU and on CUDA are known by what they say."""
    says_memory = isinstance(error, RuntimeError) and "memory" in str(error).lower()
    if isinstance(error, ClusterError) or not (says_memory or isinstance(error, MemoryError)):
        return error
    return ConfigurationError(f"There is too little memory to load the model here ({reason_of(error)}).")
