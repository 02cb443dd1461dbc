"""A store that is away, waited for by those who have something to gain from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cluster.errors import StoreUnavailableError
from services.turns.parts import TurnParts

T = TypeVar("T")


async def patiently(parts: TurnParts, call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """What a call to the store answers; made at least once, and again for ``patience_s`` while the store is away.

    Raises:
        StoreUnavailableError: it did not answer for so long.
    """
    until = parts.clock() + patience_s
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            if parts.clock() >= until:
                raise
            await asyncio.sleep(parts.settings.journal.retry_s)
