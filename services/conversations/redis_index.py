"""Sampled answers of stateless callers, kept in Redis for a day.

Only a hint: what is not found within a fifth of a second is encoded from its text, which costs a prefill. So reads
never fail and writes never wait. Failures are counted, because a silent cache is a slow one nobody notices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.errors import StoreUnavailableError
from services.conversations import codec
from services.conversations.keys import IDS_TTL_S, ids_key
from services.conversations.redis_link import RedisLink, execute
from services.conversations.store import Sampled

READ_TIMEOUT_S: Final = 0.2
MAX_PENDING: Final = 1024  # writes waiting; further ones are dropped
_MAX_BATCH: Final = 64

_Entry = tuple[bytes, bytes]  # key, packed answer


class RedisIdIndex:
    """See ``IdIndex``. Entries are spread over slots, so many are read by one pipeline, not by MGET.

    Attributes:
        read_errors: reads answered as misses because the store did not answer.
        write_errors: entries lost because the store did not answer.
        dropped: entries lost because too many were waiting.
    """

    def __init__(self, source: str | Redis | RedisLink) -> None:
        self._owns_link = not isinstance(source, RedisLink)
        self._link = source if isinstance(source, RedisLink) else RedisLink(source)
        self._pending: asyncio.Queue[_Entry] = asyncio.Queue(MAX_PENDING)
        self._writer: asyncio.Task[None] | None = None
        self.read_errors = 0
        self.write_errors = 0
        self.dropped = 0

    async def get(self, keys: Sequence[bytes]) -> list[Sampled | None]:
        """One entry per key, None where nothing is known or the store does not answer in time."""
        if not keys:
            return []
        try:
            blobs = await self._link.call(lambda redis: _read(redis, keys), timeout_s=READ_TIMEOUT_S)
        except (StoreUnavailableError, RedisError):
            self.read_errors += 1
            return [None] * len(keys)
        return [None if blob is None else codec.unpack_sampled(blob) for blob in blobs]

    async def put(self, key: bytes, answer: Sampled) -> None:
        """Remember, in the background; dropped when too many writes are waiting."""
        try:
            self._pending.put_nowait((key, codec.pack_sampled(answer)))
        except asyncio.QueueFull:
            self.dropped += 1
            return
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_forever(), name="id-index-writer")

    async def flush(self) -> None:
        """Wait until everything put so far was written or counted as lost."""
        await self._pending.join()

    async def close(self) -> None:
        """Stop writing (what still waits is lost) and release connections, unless the link is shared."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        if self._owns_link:
            await self._link.close()

    async def _write_forever(self) -> None:
        while True:
            batch = [await self._pending.get()]
            while len(batch) < _MAX_BATCH and not self._pending.empty():
                batch.append(self._pending.get_nowait())
            try:
                await self._write(batch)
            finally:
                for _ in batch:
                    self._pending.task_done()

    async def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            await self._link.call(lambda redis: _write(redis, batch))
        except (StoreUnavailableError, RedisError):
            self.write_errors += len(batch)


async def _read(redis: Redis, keys: Sequence[bytes]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(ids_key(key))
        return await execute(pipe)


async def _write(redis: Redis, batch: Sequence[_Entry]) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for key, blob in batch:
            pipe.set(ids_key(key), blob, ex=IDS_TTL_S)
        await execute(pipe)
