"""What the Redis store sends to open a failed turn again."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from services.conversations import codec
from services.conversations.keys import MAIN_LINE, TURN_SPARE_S, Keys
from services.conversations.redis_args import TURN_MEMBER
from services.conversations.scripts import Arg
from services.conversations.scripts.revive import REVIVE
from services.conversations.store import Reply


async def revive(redis: Redis, keys: Keys, part: str, turn: str, *, owner: str, deadline_s: float) -> Reply:
    """Run REVIVE. The line that the turn stands on and its request never change, so they may be read before."""
    line, request = await _known(redis, keys, part)
    names = [keys.turn(part), keys.line(line), keys.journal(part), keys.gone, keys.index, keys.items(line), keys.item]
    is_background = request is not None and codec.decode_request(request).is_background
    deadline_ms, spare_ms = round(deadline_s * 1000), TURN_SPARE_S * 1000
    args: list[Arg] = [turn, owner, deadline_ms, spare_ms, TURN_MEMBER + part, int(is_background)]
    return codec.decode_reply(await REVIVE.run(redis, names, args))


async def _known(redis: Redis, keys: Keys, part: str) -> tuple[str, bytes | None]:
    """Line and request of a turn; without such a turn, of any line, for there is nothing to do on it."""
    found: Any = await redis.hmget(keys.turn(part), ["line", "req"])  # bytes
    line, request = found
    return line.decode() if line else MAIN_LINE, request
