"""A gateway's look at the servers it was given: warnings go to its log, and a refused server keeps it from being ready.

``up`` looks before it starts anything; where gateways are started by others, this is the only look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import structlog

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.gateway import faults

_log = structlog.get_logger(__name__)


class StoreCheck:
    """Checks in the background until the servers answer and nothing is wrong with them, then no more.

    Args:
        check: gives warnings. Raises ConfigurationError, or StoreUnavailableError while there is no telling; after
            anything else there is none either, and the log says so once.
        pause_s: between two looks.

    Attributes:
        is_refused: the last look found what the operator has to put right.
    """

    def __init__(self, check: Callable[[], Awaitable[Sequence[str]]], *, pause_s: float = 10.0) -> None:
        self._check = check
        self._pause_s = pause_s
        self._task: asyncio.Task[None] | None = None
        self._has_failed = False
        self.is_refused = False

    async def start(self) -> None:
        """Begin; the first look does not hold up the caller."""
        self._task = asyncio.create_task(self._run(), name="store-check")

    async def stop(self) -> None:
        """End, whether or not anything was found."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            if await self._is_settled():
                return
            await asyncio.sleep(self._pause_s)

    async def _is_settled(self) -> bool:
        try:
            warnings = await self._check()
        except StoreUnavailableError:
            return False
        except ConfigurationError as error:
            if not self.is_refused:
                _log.error("store.refused", reason=str(error))
            self.is_refused = True
            return False
        except Exception as error:  # noqa: BLE001 - a server's odd reply must not end the looks
            if not self._has_failed:
                faults.report("store.check_failed", error)
            self._has_failed = True
            return False
        self.is_refused = False
        for warning in warnings:
            _log.warning("store.warning", reason=warning)
        return True
