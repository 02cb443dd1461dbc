"""The due index in Redis or Valkey: a timed set per shard, each in a slot of its own, so no node carries them all.

A turn always lies in the same shard, so adding, moving and removing it are one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from zlib import crc32

from cluster.errors import StoreUnavailableError
from services.conversations.queueing import HIDE_S, LOOK_LIMIT, Ref
from services.conversations.redis_link import RedisLink
from services.conversations.timed_set import RedisTimedSet
from services.queue.keys import DUE_SHARDS, due_key


class RedisDueIndex:
    """See ``DueIndex``.

    Args:
        link: the process's connection; it stays open.
    """

    def __init__(self, link: RedisLink) -> None:
        self._shards = [RedisTimedSet(link, due_key(shard)) for shard in range(DUE_SHARDS)]

    async def add(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, or earlier if that was asked before."""
        ref = str(Ref(tenant, turn))
        await self._shard(ref).add(ref, in_s=in_s)

    async def move(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, whatever was asked before; nothing, if it was removed."""
        ref = str(Ref(tenant, turn))
        await self._shard(ref).postpone(ref, in_s=in_s)

    async def remove(self, tenant: str, turn: str) -> None:
        """Look no more; again changes nothing."""
        ref = str(Ref(tenant, turn))
        await self._shard(ref).remove(ref)

    async def look(self, *, limit: int = LOOK_LIMIT, hide_s: float = HIDE_S) -> Sequence[Ref]:
        """Turns that are due, at most about ``limit``, evenly from all shards; hidden from others for ``hide_s``.

        Shards that do not answer are left out, for others may be on servers that do. Raises StoreUnavailableError when
        none answers.
        """
        share = -(-limit // DUE_SHARDS)
        looks = [_answer(shard.look(limit=share, hide_s=hide_s)) for shard in self._shards]
        answers = await asyncio.gather(*looks)
        errors = [answer for answer in answers if isinstance(answer, StoreUnavailableError)]
        if len(errors) == DUE_SHARDS:
            raise errors[0]
        return [Ref.parse(ref) for found in answers if not isinstance(found, StoreUnavailableError) for ref in found]

    def _shard(self, ref: str) -> RedisTimedSet:
        return self._shards[crc32(ref.encode()) % DUE_SHARDS]


async def _answer(look: Awaitable[Sequence[str]]) -> Sequence[str] | StoreUnavailableError:
    try:
        return await look
    except StoreUnavailableError as error:
        return error
