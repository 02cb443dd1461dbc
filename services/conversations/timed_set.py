"""Members and when each is to be looked at next; any number of lookers share the work, and a dead one loses nothing.

Times are the server's. In Redis or Valkey such a set is one key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from services.conversations.redis_link import RedisLink
from services.conversations.scripts import NOW_MS, Arg, Script

# KEYS 1 the set, for all. A server out of memory refuses ZADD unless the script has already written: so room is made
# first, and a look takes out what is no member.
_SET: Final = Script(
    NOW_MS
    + """
-- ARGV 1 member, 2 in (ms), 3 'LT' to add it or keep an earlier time, 'CH' to set the time, 'XX' if it is there,
--      4 most members (0: any number), 5 ttl of the set from now on (ms; 0: none)
-- Replies how many of those to be looked at last were given up
local given_up = ARGV[4] == '0' and 0 or redis.call('ZREMRANGEBYRANK', KEYS[1], ARGV[4] - 1, -1)
redis.call('ZADD', KEYS[1], ARGV[3], now_ms() + ARGV[2], ARGV[1])
if ARGV[5] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
return given_up
"""
)
_REMOVE: Final = Script("""
-- ARGV 1 member
return redis.call('ZREM', KEYS[1], ARGV[1])
""")
_LOOK: Final = Script(
    NOW_MS
    + """
-- ARGV 1 most members, 2 time to hide them for (ms)
-- Replies members that are due, the longest due first
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
if #due > 0 then redis.call('ZREM', KEYS[1], '') end
for _, member in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], member) end
return due
"""
)
_NOW: Final = Script(NOW_MS + "return now_ms()")


class TimedSet(Protocol):
    """Every method raises StoreUnavailableError within two seconds when the store does not answer."""

    async def add(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, or earlier if that was asked before.

        Returns how many were given up to keep the set within its bound: those to be looked at last.
        """
        ...

    async def move(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, whatever was asked before. Returns as ``add``."""
        ...

    async def postpone(self, member: str, *, in_s: float) -> None:
        """The same, but nothing if it was removed."""
        ...

    async def remove(self, member: str) -> None:
        """Look no more; again changes nothing."""
        ...

    async def look(self, *, limit: int, hide_s: float) -> Sequence[str]:
        """At most ``limit`` members that are due, the longest due first.

        They are hidden from other lookers for ``hide_s`` and due again afterwards, unless moved or removed by then.
        """
        ...

    async def now_ms(self) -> int:
        """Unix time by the clock that decides what is due."""
        ...


class RedisTimedSet:
    """See ``TimedSet``.

    Args:
        link: the process's connection; it stays open.
        key: of the set; it is there while it has members.
        most: members it may have; 0: any number.
        ttl_s: the whole set is forgotten when nothing was added or moved for so long; 0: never.
    """

    def __init__(self, link: RedisLink, key: str, *, most: int = 0, ttl_s: float = 0.0) -> None:
        self._link = link
        self._key = key
        self._limits = (most, _ms(ttl_s))

    async def add(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, or earlier if that was asked before; how many were given up for it."""
        return int(await self._run(_SET, member, _ms(in_s), "LT", *self._limits))

    async def move(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, whatever was asked before; how many were given up for it."""
        return int(await self._run(_SET, member, _ms(in_s), "CH", *self._limits))

    async def postpone(self, member: str, *, in_s: float) -> None:
        """Look at it in ``in_s`` seconds, if it is still there."""
        await self._run(_SET, member, _ms(in_s), "XX", 0, 0)

    async def remove(self, member: str) -> None:
        """Look no more; again changes nothing."""
        await self._run(_REMOVE, member)

    async def look(self, *, limit: int, hide_s: float) -> Sequence[str]:
        """At most ``limit`` members that are due, hidden for ``hide_s``."""
        return [member.decode() for member in await self._run(_LOOK, limit, _ms(hide_s))]

    async def now_ms(self) -> int:
        """Unix time of the server."""
        return int(await self._run(_NOW))

    async def _run(self, script: Script, *args: Arg) -> Any:
        return await self._link.call(lambda redis: script.run(redis, [self._key], args))


class MemoryTimedSet:
    """See ``TimedSet``; for tests, and for a process without Redis.

    Args:
        most: members it may have; 0: any number.
        clock: unix seconds; tests hand in their own.

    Attributes:
        times: members, and when each is due.
    """

    def __init__(self, *, most: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.times: dict[str, float] = {}
        self._most = most
        self._clock = clock

    async def add(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, or earlier if that was asked before; how many were given up for it."""
        at = self._clock() + in_s
        return self._set(member, min(at, self.times.get(member, at)))

    async def move(self, member: str, *, in_s: float) -> int:
        """Look at it in ``in_s`` seconds, whatever was asked before; how many were given up for it."""
        return self._set(member, self._clock() + in_s)

    async def postpone(self, member: str, *, in_s: float) -> None:
        """Look at it in ``in_s`` seconds, if it is still there."""
        if member in self.times:
            self.times[member] = self._clock() + in_s

    async def remove(self, member: str) -> None:
        """Look no more; again changes nothing."""
        self.times.pop(member, None)

    async def look(self, *, limit: int, hide_s: float) -> Sequence[str]:
        """At most ``limit`` members that are due, hidden for ``hide_s``."""
        now = self._clock()
        due = sorted((at, member) for member, at in self.times.items() if at <= now)[:limit]
        self.times |= {member: now + hide_s for _, member in due}
        return [member for _, member in due]

    async def now_ms(self) -> int:
        """Unix time of the process."""
        return round(self._clock() * 1000)

    def _set(self, member: str, at: float) -> int:
        over = sorted(self.times, key=lambda one: (self.times[one], one))[self._most - 1 :] if self._most else []
        for one in over:
            del self.times[one]
        self.times[member] = at
        return len(over)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
