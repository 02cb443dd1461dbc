"""A key store that counts lookups, can be away, and can be held in the middle of a lookup."""

from __future__ import annotations

import asyncio

from cluster.errors import StoreUnavailableError
from services.tenants.keys import KeyRecord
from services.tenants.memory_keys import MemoryKeyStore


class SteeredKeyStore(MemoryKeyStore):
    """``lookups`` counts finds; ``is_away`` fails reads; a find waits for ``answering`` after it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups = 0
        self.is_away = False
        self.answering = asyncio.Event()
        self.answering.set()

    async def find(self, key_id: str) -> KeyRecord | None:
        self._check()
        self.lookups += 1
        record = await super().find(key_id)
        await self.answering.wait()
        return record

    async def version(self) -> int:
        self._check()
        return await super().version()

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("The history store does not answer.", retry_after_s=1.0)
