"""The Lua programs that guard every write, and how to run one.

All are idempotent: the client library sends a command again when its reply was lost. Each names every key it touches
in KEYS, all of one slot, so they run on Cluster. Time is the server's (``TIME``), never the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from services.conversations.redis_link import checked, send

NOW_MS: Final = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

ERASED: Final = """
local function erased(gone, name)
  return redis.call('SISMEMBER', gone, '*') == 1 or redis.call('SISMEMBER', gone, name) == 1
end
"""

RENEW: Final = """
-- A line and its items live for so many ms from now on. What its branches share lives as long as the last of them, for
-- a line that is not used keeps the time that it was given.
local function renew(ms, line, items, item, ix)
  redis.call('PEXPIRE', line, ms)
  redis.call('PEXPIRE', items, ms)
  for _, key in ipairs({item, ix}) do
    -- GT passes over a key that has no end yet.
    if redis.call('PEXPIRE', key, ms, 'GT') == 0 then redis.call('PEXPIRE', key, ms, 'NX') end
  end
end
"""


Arg = str | int | bytes
Call = tuple[Sequence[str], Sequence[Arg]]  # KEYS and ARGV


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua program and the name under which a server keeps it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    async def run(self, client: Redis, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run by name; a server that has not seen the text yet (new, restarted, failed over) is sent it."""
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)


async def run_many(client: Redis, script: Script, calls: Sequence[Call]) -> list[Any]:
    """Run one script for many calls, each server's share in one round trip; one reply per call, in their order.

    The calls may be of different slots, so this is no transaction: when one fails, others have run. Those that a server
    did not know the script for are sent again with its text.

    Raises:
        RedisError: the first call that failed, as the server said it.
    """
    replies = await _send_calls(client, "EVALSHA", script.sha, calls)
    unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        again = await _send_calls(client, "EVAL", script.text, [calls[place] for place in unknown])
        for place, reply in zip(unknown, again, strict=True):
            replies[place] = reply
    return checked(replies)


async def _send_calls(client: Redis, command: str, script: str, calls: Sequence[Call]) -> list[Any]:
    """Replies and errors.

    By ``execute_command``: redis-py offers a Cluster's pipeline no ``evalsha``, lest a node does not know the script,
    which is answered above.
    """
    async with client.pipeline(transaction=False) as pipe:
        for keys, args in calls:
            pipe.execute_command(command, script, len(keys), *keys, *args)
        return await send(pipe)
