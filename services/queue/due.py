"""The due index in Redis or Valkey: a sorted set per shard, each in a slot of its own, so no node carries them all.

A turn always lies in the same shard, so adding, moving and removing it are one step. Times are the server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from services.conversations.queueing import HIDE_S, LOOK_LIMIT, Ref
from services.conversations.redis_link import RedisLink
from services.conversations.scripts import NOW_MS, Arg, Script
from services.queue.keys import DUE_SHARDS, due_key

# KEYS 1 shard, for all.
_ADD: Final = Script(
    NOW_MS
    + """
-- ARGV 1 ref, 2 in (ms), 3 'LT' to keep an earlier time or 'CH' to set the time whatever it is
redis.call('ZADD', KEYS[1], ARGV[3], now_ms() + ARGV[2], ARGV[1])
return 'ok'
"""
)
_REMOVE: Final = Script("""
-- ARGV 1 ref
redis.call('ZREM', KEYS[1], ARGV[1])
return 'ok'
""")
_LOOK: Final = Script(
    NOW_MS
    + """
-- ARGV 1 most refs, 2 time to hide them for (ms)
-- Replies refs that are due, the longest due first
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, ref in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], ref) end
return due
"""
)


class RedisDueIndex:
    """See ``DueIndex``.

    Args:
        link: the process's connection; it stays open.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def add(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, or earlier if that was asked before."""
        await self._set(Ref(tenant, turn), in_s, "LT")

    async def move(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, whatever was asked before."""
        await self._set(Ref(tenant, turn), in_s, "CH")

    async def remove(self, tenant: str, turn: str) -> None:
        """Look no more; again changes nothing."""
        ref = Ref(tenant, turn)
        await self._run(_REMOVE, _shard(ref), str(ref))

    async def look(self, *, limit: int = LOOK_LIMIT, hide_s: float = HIDE_S) -> Sequence[Ref]:
        """Turns that are due, at most about ``limit``, evenly from all shards; hidden from others for ``hide_s``.

        One call per shard: what one of them replied is handed out even if a later one would not answer in time.
        """
        share = -(-limit // DUE_SHARDS)
        found: list[Ref] = []
        for shard in range(DUE_SHARDS):
            due = await self._run(_LOOK, shard, share, round(hide_s * 1000))
            found += [Ref.parse(ref.decode()) for ref in due]
        return found

    async def _set(self, ref: Ref, in_s: float, how: str) -> None:
        await self._run(_ADD, _shard(ref), str(ref), round(in_s * 1000), how)

    async def _run(self, script: Script, shard: int, *args: Arg) -> Any:
        return await self._link.call(lambda redis: script.run(redis, [due_key(shard)], args))


def _shard(ref: Ref) -> int:
    return crc32(str(ref).encode()) % DUE_SHARDS
