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


Arg = str | int | bytes


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
