"""The due index in Redis or Valkey: a timed set per shard, each in a slot of its own, so no node carries them all.

A turn always lies in the same shard, so adding, moving and removing it are one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

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

        One call per shard: what one of them replied is handed out even if a later one would not answer in time.
        """
        share = -(-limit // DUE_SHARDS)
        found: list[str] = []
        for shard in self._shards:
            found += await shard.look(limit=share, hide_s=hide_s)
        return [Ref.parse(ref) for ref in found]

    def _shard(self, ref: str) -> RedisTimedSet:
        return self._shards[crc32(ref.encode()) % DUE_SHARDS]
