"""A gate for the scripted backend that lets some frames pass and then closes behind them."""

from __future__ import annotations

import asyncio


class Turnstile(asyncio.Event):
    """Open for so many waits, then shut until ``set``."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self._passes = passes

    @property
    def is_shut(self) -> bool:
        """Whether all that may pass have."""
        return self._passes == 0

    async def wait(self) -> bool:  # type: ignore[override] # asyncio annotates it as always True
        """Pass, or wait for ``set``."""
        if self._passes:
            self._passes -= 1
            return True
        return await super().wait()
