"""What the Redis store sends to read and change the items of a conversation, and what the replies mean."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.asyncio import Redis

from cluster.errors import ConversationBusyError, ConversationFullError, NotFoundError
from services.conversations import codec, ids
from services.conversations.keys import GONE_TTL_S, Keys
from services.conversations.records import Item
from services.conversations.redis_args import item_args
from services.conversations.redis_calls import looking
from services.conversations.scripts import Arg, Script, items


def brought(outcome: Sequence[Any], conversation: str, item: str = "", *, max_items: int = 0) -> list[Any]:
    """What an OK brought.

    Raises:
        NotFoundError, ConversationBusyError, ConversationFullError: the script refused.
    """
    verdict, *rest = outcome
    if verdict == b"absent":
        raise NotFoundError("conversation", conversation)
    if verdict == b"unknown":
        raise NotFoundError("item", item)
    if verdict == b"busy":
        raise ConversationBusyError(rest[1].decode())
    if verdict == b"full":
        raise ConversationFullError(held=rest[0], limit=max_items)
    return rest


async def append(redis: Redis, keys: Keys, new: Sequence[Item], *, history_ttl_s: int, max_items: int) -> Any:
    """Run APPEND."""
    return await _change(redis, items.APPEND, keys, [], [history_ttl_s, max_items, *item_args(new)])


async def delete(redis: Redis, keys: Keys, item: str, *, history_ttl_s: int) -> Any:
    """Run DELETE under a name of its own. Which turn wrote an item never changes."""
    blob: Any = await redis.hget(keys.item, item)
    turn = codec.decode_item(blob).turn if blob else ""
    args: list[Arg] = [history_ttl_s, GONE_TTL_S, secrets.token_hex(8), item]
    return await _change(redis, items.DELETE, keys, [_record(keys, turn)], args)


async def _change(redis: Redis, script: Script, keys: Keys, more: Sequence[str], args: Sequence[Arg]) -> Any:
    names = [keys.line(), keys.items(), keys.item, keys.index, keys.gone]

    def attempt(seen: str) -> Awaitable[Any]:
        return script.run(redis, [*names, _record(keys, seen), *more], [seen, *args])

    return await looking(attempt)


def _record(keys: Keys, turn: str) -> str:
    """The key of a turn's record; without a turn, of something else in the slot."""
    return keys.turn(ids.response_parts(turn)[1]) if turn else keys.line()
